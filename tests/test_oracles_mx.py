"""MX blocks against torchao, gfloat, pychop, compressed-tensors and ModelOpt.

Every scale rule in use, byte for byte where the peer stores bytes: random blocks, blocks whose
absmax lies at and beside every threshold of every rule, and every tie of the elements with its
neighbours. A block may differ only for a cause that is named in ``CAUSES`` and recognised here
from the input and the two answers; how many do is asserted and stands in docs/compatibility.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from compatibility import Outcome, comparison, peer_module, run_comparisons
from fmtc import compile_text, load
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import TensorLevel, decode, encode
from fmtc.compiler.view import view_of
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]

ELEMENTS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")
NAMES = dict(
    zip(
        ELEMENTS,
        ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"),
        strict=True,
    )
)
BLOCK = 32
FP32_MAX = float(np.finfo(np.float32).max)

#: torchao's ScaleCalculationMode -> the scale clause that says it.
RULES = {
    "FLOOR": "rule floor_log2",
    "CEIL": "rule ceil_log2",
    "RCEIL": "rule absmax  round up",
    "EVEN": "rule even_log2",
}


@dataclass(frozen=True)
class Stored:
    """Scale bytes [blocks] and codes [blocks, 32], one a byte."""

    scales: U8
    codes: U8


# -- inputs ----------------------------------------------------------------------------


def numbers_of(element: str) -> NDArray[np.float64]:
    return np.array([float(v) for v in load(NAMES[element]).grids[0].numbers])


def edge_blocks(element: str, seed: int = 7) -> F32:
    """Blocks whose absmax lies at and beside every power of two and element maximum.

    Nine mantissas x fifteen exponents x {-1, 0, +1} ulp; the other elements are ties of the
    element format at that block's scale, their neighbours, and zeros of both signs.
    """
    rng = np.random.default_rng(seed)
    numbers = numbers_of(element)
    ties = (numbers[1:] + numbers[:-1]) / 2
    top = np.floor(np.log2(numbers[-1]))
    rows = []
    for exponent in (-125, -118, -100, -60, -30, -8, -2, -1, 0, 1, 2, 9, 40, 100, 127):
        for mantissa in (1, 1.125, 1.25, 1.5, 1.625, 1.75, 1.875, 1.9375, np.sqrt(2)):
            middle = np.float32(mantissa * 2.0**exponent)
            for peak in (np.nextafter(middle, np.float32(0)), middle, above(middle)):
                scale = np.exp2(np.floor(np.log2(float(peak))) - top)
                near = (rng.choice(ties, BLOCK) * scale).astype(np.float32)
                step = rng.integers(-1, 2, BLOCK)
                row = np.where(step < 0, np.nextafter(near, np.float32(-np.inf)), near)
                row = np.where(step > 0, np.nextafter(near, np.float32(np.inf)), row)
                row = np.where(np.abs(row) > peak, np.float32(0.0), row)
                row[rng.integers(BLOCK)] = peak * rng.choice([-1, 1])
                rows.append(row)
    return np.array(rows, np.float32)


def above(x: np.float32) -> np.float32:
    return np.nextafter(x, np.float32(3.4e38))


def all_tie_blocks(element: str) -> F32:
    """Every tie of the element format and its two neighbours, at many scales."""
    numbers = numbers_of(element)
    ties = np.concatenate([(numbers[1:] + numbers[:-1]) / 2, numbers])
    rows = []
    for exponent in (-110, -20, -1, 0, 1, 20, 110):
        near = (ties * 2.0**exponent).astype(np.float32)
        wanted = [np.nextafter(near, np.float32(-np.inf)), near]
        wanted.append(np.nextafter(near, np.float32(np.inf)))
        values = np.concatenate(wanted)
        peak = np.float32(numbers[-1] * 2.0**exponent)
        values = values[np.abs(values) <= peak]
        values = np.resize(values, (-(-values.size // (BLOCK - 1)), BLOCK - 1))
        rows.append(np.insert(values, 0, peak, axis=1))
    return np.concatenate(rows)


def blocks(element: str) -> F32:
    rng = np.random.default_rng(3)
    normal = rng.standard_normal((2500, BLOCK))
    usual = normal[:1000]
    spread = normal * np.exp2(rng.uniform(-60, 60, (2500, 1)))
    tiny = normal[:300] * np.exp2(rng.uniform(-149, -118, (300, 1)))
    special = np.zeros((4, BLOCK))
    special[1] = -0.0
    special[2, 5] = 2.0**-149
    special[3] = FP32_MAX
    random = [part.astype(np.float32) for part in (usual, spread, tiny, special)]
    return np.concatenate([*random, edge_blocks(element), all_tie_blocks(element)])


# -- what differs, and why -------------------------------------------------------------

Causes = dict[str, Callable[[F32, Stored, Stored], Mask]]


def ours(fmt: Format, x: F32) -> Stored:
    streams = encode(fmt, x, TensorLevel())
    codes = unpack(streams["codes"], BLOCK, fmt.streams[0]).astype(np.uint8)
    return Stored(streams["scales"][:, 0], codes)


def explained(x: F32, mine: Stored, theirs: Stored, causes: Causes, say: str = "") -> Outcome:
    """Counts the blocks that differ; each must have one of the causes, tried in order."""
    left = (mine.scales != theirs.scales) | (mine.codes != theirs.codes).any(axis=1)
    differing = int(left.sum())
    notes = [say] if say else []
    for cause, recognise in causes.items():
        found = left & recognise(x, mine, theirs)
        if found.any():
            notes.append(f"{int(found.sum())} {cause} ({shown(x, mine, theirs, found)})")
        left &= ~found
    rest = np.flatnonzero(left)
    assert not rest.size, f"{rest.size} blocks differ without a cause: {x[rest[0]].tolist()}"
    return len(x), differing, "; ".join(notes) or "scale bytes and codes"


def shown(x: F32, mine: Stored, theirs: Stored, found: Mask) -> str:
    """The first block of a cause: its input and both answers."""
    row = int(np.flatnonzero(found)[0])
    peak = float(np.abs(x[row]).max()).hex()
    if mine.scales[row] != theirs.scales[row]:
        return f"absmax {peak}: scale {mine.scales[row]}, theirs {theirs.scales[row]}"
    place = int(np.flatnonzero(mine.codes[row] != theirs.codes[row])[0])
    value = float(x[row, place]).hex()
    pair = f"code {mine.codes[row, place]}, theirs {theirs.codes[row, place]}"
    return f"{value} under scale {mine.scales[row]}: {pair}"


def scale_byte_zero(x: F32, mine: Stored, theirs: Stored) -> Mask:
    return (theirs.scales == 0) | (mine.scales == 0)


def past_fp32(x: F32, mine: Stored, theirs: Stored) -> Mask:
    return (np.abs(x).max(axis=1) >= 2.0**127) & (theirs.scales > mine.scales)


def one_step_small(x: F32, mine: Stored, theirs: Stored) -> Mask:
    return theirs.scales.astype(int) + 1 == mine.scales


def only_zeros(x: F32, mine: Stored, theirs: Stored) -> Mask:
    """Nothing differs but the sign of what is a zero once it is divided in fp32."""
    with np.errstate(over="ignore", under="ignore"):
        quotients = (x / np.exp2(theirs.scales - 127.0)[:, None]).astype(np.float32)
    more = (mine.codes != theirs.codes) & (quotients != 0)
    return (mine.scales == theirs.scales) & ~more.any(axis=1)


def near_the_end(x: F32, mine: Stored, theirs: Stored) -> Mask:
    return (np.abs(x).max(axis=1) >= 1.5 * 2.0**127) & (theirs.scales == 255)


CAPPED = "whose end would decode past fp32: ours is one step less"
ONE_SMALL = "one step small: it takes log2 of absmax/max in fp32"


# -- torchao ---------------------------------------------------------------------------


def torchao() -> tuple[Any, Any]:
    return peer_module("torch"), peer_module("torchao.prototype.mx_formats.mx_tensor", "torchao")


def to_mx(x: F32, element: str, mode: str = "FLOOR") -> tuple[U8, U8]:
    """torchao's scale bytes [blocks] and codes [blocks, 32], or packed bytes for E2M1."""
    torch, mx = torchao()
    kinds = {
        "e2m1": torch.float4_e2m1fn_x2,
        "e2m3": "fp6_e2m3",
        "e3m2": "fp6_e3m2",
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
    }
    rule = getattr(mx.ScaleCalculationMode, mode)
    scales, codes = mx.to_mx(torch.from_numpy(x), kinds[element], BLOCK, rule)
    return scales.view(torch.uint8).numpy().reshape(-1), codes.view(torch.uint8).numpy()


def nibbles(packed: U8) -> U8:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def by_torchao(element: str, mode: str) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        x = blocks(element)
        scales, codes = to_mx(x, element, mode)
        theirs = Stored(scales, nibbles(codes) if element == "e2m1" else codes)
        taken = "1" if mode == "RCEIL" else "2^-126"
        causes: Causes = {CAPPED: past_fp32}
        causes[f"at scale byte 0, by which torchao divides as if it were {taken}"] = scale_byte_zero
        if mode == "RCEIL":
            causes[ONE_SMALL] = one_step_small
        return explained(x, ours(torchao_format(element, mode), x), theirs, causes)

    return compare


def torchao_format(element: str, mode: str) -> Format:
    return compile_text(
        f'format mx extends "{NAMES[element]}" {{ scale e8m0 {{ {RULES[mode]} }} }}'
    )


def recipe_name(element: str, mode: str) -> str:
    """The shipped variant where there is one, else its base and what it changes."""
    if mode == "FLOOR":
        return NAMES[element]
    name = f"{NAMES[element]}_{mode.lower()}"
    shipped = {"mxfp4_ceil", "mxfp4_even", "mxfp6_e2m3_even"}
    is_shipped = mode == "RCEIL" or name in shipped
    return name if is_shipped else f"{NAMES[element]} {{ {RULES[mode]} }}"


#: How many blocks differ, in the order of ELEMENTS.
TORCHAO = {
    "FLOOR": (80, 102, 127, 202, 317),
    "CEIL": (72, 94, 144, 218, 343),
    "RCEIL": (84, 111, 143, 218, 336),
    "EVEN": (79, 103, 132, 204, 323),
}

for _mode, _counts in TORCHAO.items():
    for _element, _count in zip(ELEMENTS, _counts, strict=True):
        comparison("torchao", f"to_mx({_mode})", recipe_name(_element, _mode), _count)(
            by_torchao(_element, _mode)
        )


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize("element", ELEMENTS)
def test_a_shipped_variant_says_the_rule_that_it_is_compared_by(element: str, mode: str) -> None:
    name = recipe_name(element, mode)
    if " " not in name:
        x = edge_blocks(element)
        found, wanted = ours(load(name), x), ours(torchao_format(element, mode), x)
        assert np.array_equal(found.scales, wanted.scales)
        assert np.array_equal(found.codes, wanted.codes)


@pytest.mark.parametrize("element", ELEMENTS)
def test_the_clamp_of_torchao_can_be_said(element: str) -> None:
    # A block whose scale byte is 0 (2^-127) torchao divides by 2^-126, the least normal number:
    # `min 2^-126` says that very rule, so that codes are equal for every block of FLOOR.
    x = blocks(element)
    assert len(x) > 4000
    scales, codes = to_mx(x, element)
    clamped = compile_text(
        f'format mx extends "{NAMES[element]}" {{ scale e8m0 {{ min 2^-126  zero_block 2^-126 }} }}'
    )
    found = ours(clamped, x)
    assert np.array_equal(found.scales, np.maximum(scales, 1))
    assert np.array_equal(found.codes, nibbles(codes) if element == "e2m1" else codes)


def test_the_shipped_mxfp4_decodes_every_code_and_scale_like_torchao() -> None:
    torch, mx = torchao()
    fmt = load("mxfp4")
    scales = np.arange(1, 255, dtype=np.uint8)  # 0: torchao halves it; 255 is NaN
    packed = np.broadcast_to(np.arange(16, dtype=np.uint8) * 17, (scales.size, 16)).copy()
    theirs = mx.to_dtype(
        torch.from_numpy(packed),
        torch.from_numpy(scales[:, None].copy()).view(torch.float8_e8m0fnu),
        torch.float4_e2m1fn_x2,
        BLOCK,
        torch.float32,
    ).numpy()
    found = decode(fmt, {"codes": packed, "scales": scales[:, None]}, BLOCK, TensorLevel())
    assert np.array_equal(found.view(np.uint32), theirs.view(np.uint32))


def test_a_block_with_a_nan_takes_the_nan_scale_of_torchao() -> None:
    x = np.ones((3, BLOCK), np.float32)
    x[1, 7] = np.nan
    theirs_scales, _ = to_mx(x, "e2m1")
    found = encode(load("mxfp4"), x, TensorLevel())
    assert theirs_scales[1] == 255
    assert np.array_equal(found["scales"][:, 0], theirs_scales)


# -- gfloat and pychop return values ---------------------------------------------------


def values_of(fmt: Format, x: F32) -> F32:
    return decode(fmt, encode(fmt, x, TensorLevel()), BLOCK, TensorLevel())


def by_gfloat(element: str) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        gfloat, formats = peer_module("gfloat"), peer_module("gfloat.formats", "gfloat")
        kind = getattr(formats, f"format_info_ocp_{element}")
        info = gfloat.BlockFormatInfo("mx", kind, BLOCK, formats.format_info_ocp_e8m0)
        # gfloat takes 40 microseconds an element: all edges for E2M1, a share for the others.
        few = element == "e2m1"
        edges = edge_blocks(element)[:: 1 if few else 4]
        x = np.concatenate([blocks(element)[:: 7 if few else 31], edges])
        # It returns binary64, which can hold what binary32 cannot: one rounding more.
        with np.errstate(over="ignore", under="ignore"):
            rows = [
                gfloat.quantize_block(info, row.astype(np.float64), gfloat.compute_scale_amax)
                for row in x
            ]
            theirs = np.array(rows).astype(np.float32)
        found = values_of(load(NAMES[element]), x)
        differ = (found.view(np.uint32) != theirs.view(np.uint32)).any(axis=1)
        return len(x), int(differ.sum()), "decoded values"

    return compare


def by_pychop(element: str, name: str) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        pychop = peer_module("pychop.np.mx_formats", "pychop")
        x = np.concatenate([blocks(element)[::7], edge_blocks(element)[::2]])
        kind = "mxint8" if name == "mxint8_full" else f"{name.split('_', maxsplit=1)[0]}_{element}"
        with np.errstate(over="ignore", under="ignore"):
            theirs = pychop.mx_quantize(x.astype(np.float64), kind, BLOCK).astype(np.float32)
        found = values_of(load(name), x)
        # It has no -0: values are compared as numbers.
        differ = (found != theirs).any(axis=1)
        note = "decoded values; it gives -0 no sign"
        if name == "mxint8_full":
            assert not (differ & (np.abs(x).max(axis=1) < 2.0**127)).any()
            note += "; from absmax 2^127 on, -2 would decode past fp32: ours is one step less"
        return len(x), int(differ.sum()), note

    return compare


for _element in ELEMENTS:
    _name = NAMES[_element]
    comparison("gfloat", "quantize_block(compute_scale_amax)", _name)(by_gfloat(_element))
    comparison("pychop", "mx_quantize", _name)(by_pychop(_element, _name))
comparison("pychop", "mx_quantize", "mxint8_full", 17)(by_pychop("e4m3", "mxint8_full"))


# -- compressed-tensors and ModelOpt ---------------------------------------------------


def codes_of(fmt: Format, values: F32) -> U8:
    """The codes of numbers that are grid values, the sign of a zero included."""
    bits = np.array(view_of(fmt).grids[0].lut_bits, np.uint32)
    order = np.argsort(bits)
    place = np.searchsorted(bits[order], np.ascontiguousarray(values).view(np.uint32))
    assert np.array_equal(bits[order][place], values.view(np.uint32))
    return order[place].astype(np.uint8)


def by_compressed_tensors(element: str, name: str, bits: int) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        torch = peer_module("torch")
        kind = peer_module("compressed_tensors.quantization", "compressed-tensors")
        helpers = peer_module("compressed_tensors.quantization.utils", "compressed-tensors")
        args = kind.QuantizationArgs(
            num_bits=bits,
            type="float",
            strategy="group",
            group_size=BLOCK,
            scale_dtype=torch.uint8,
            zp_dtype=torch.uint8,
        )
        x = blocks(element)
        given = torch.from_numpy(x)
        low, high = given.amin(1, keepdim=True), given.amax(1, keepdim=True)
        scale, zero = helpers.calculate_qparams(low, high, args)
        quantized = kind.quantize(given, scale, zero, args).numpy()
        fmt = load(name)
        # Its scales are decoded already: 2^128 is infinite, byte 255.
        stored = np.minimum(np.log2(scale.numpy()[:, 0].astype(np.float64)) + 127, 255)
        theirs = Stored(stored.astype(np.uint8), codes_of(fmt, quantized))
        causes: Causes = {
            "at fp32's end, where it rounds absmax up to infinity": near_the_end,
            "with a quotient -0, which it stores as +0": only_zeros,
        }
        return explained(x, ours(fmt, x), theirs, causes)

    return compare


def by_modelopt(name: str) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        torch = peer_module("torch")
        tensors = peer_module("modelopt.torch.quantization.qtensor", "modelopt")
        four = name == "mxfp4_modelopt"
        x = blocks("e2m1" if four else "e4m3")
        kind = tensors.MXFP4QTensor if four else tensors.MXFP8QTensor
        more = (BLOCK,) if four else ()
        quantized, scales = kind.quantize(torch.from_numpy(x.copy()), *more)
        codes = quantized._quantized_data.view(torch.uint8).numpy()
        theirs = Stored(scales.numpy()[:, 0], nibbles(codes) if four else codes)
        causes: Causes = {
            CAPPED: past_fp32,
            ONE_SMALL: one_step_small,
            "with a quotient 0, which it stores as -0": only_zeros,
        }
        return explained(x, ours(load(name), x), theirs, causes)

    return compare


_CT = "calculate_qparams, quantize"
for _element, _name, _bits, _count in (
    ("e2m1", "mxfp4_even", 4, 50),
    ("e2m3", "mxfp6_e2m3_even", 6, 44),
    ("e4m3", "mxfp8_e4m3_compressed_tensors", 8, 51),
):
    comparison("compressed-tensors", _CT, _name, _count)(
        by_compressed_tensors(_element, _name, _bits)
    )
comparison("modelopt", "MXFP4QTensor.quantize", "mxfp4_modelopt", 177)(
    by_modelopt("mxfp4_modelopt")
)
comparison("modelopt", "MXFP8QTensor.quantize", "mxfp8_e4m3_rceil", 19)(
    by_modelopt("mxfp8_e4m3_rceil")
)


test_the_peer_stores_and_reads_the_same_bytes = run_comparisons(__name__)
