"""Element floats against ml_dtypes, gfloat, torch, torchao and compressed-tensors.

Every code, and 10^5 inputs a format: all finite bfloat16 numbers, every value and every tie with
its fp32 neighbours, random bit patterns. In the rows of docs/compatibility.md a block is one
element under scale 1.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from compatibility import Outcome, comparison, peer_module, run_comparisons
from fmtc import compile_text
from fmtc.compiler.floats import named_float
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import TensorLevel, encode
from fmtc.compiler.view import view_of
from numpy.typing import NDArray

F32 = NDArray[np.float32]

#: Our atom -> ml_dtypes' type of the same values.
ML_DTYPES = {
    "e2m1": "float4_e2m1fn",
    "e2m3": "float6_e2m3fn",
    "e3m2": "float6_e3m2fn",
    "e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
    "e8m0": "float8_e8m0fnu",
    "e3m4 { top ieee }": "float8_e3m4",
    "e4m3 { top ieee }": "float8_e4m3",
    "int 4 { range full }": "int4",
    "int 2 { range full }": "int2",
    "int 4 { range unsigned }": "uint4",
}
FLOATS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")

#: Our atom -> the format of gfloat.formats.
GFLOAT = {
    "e2m1": "format_info_ocp_e2m1",
    "e2m3": "format_info_ocp_e2m3",
    "e3m2": "format_info_ocp_e3m2",
    "e4m3": "format_info_ocp_e4m3",
    "e5m2": "format_info_ocp_e5m2",
    "e8m0": "format_info_ocp_e8m0",
}


def element_codec(atom: str, policies: str = "") -> Format:
    # Blocks of one element under a scale that is 0 or 1: what is left is the element's code.
    return compile_text(
        f"format codec {{ block 1  grid g = {atom}  scale ue1m0 {{ bias 1 }} {policies} }}"
    )


def codes_of(fmt: Format, x: F32) -> NDArray[np.uint8]:
    streams = encode(fmt, x[None, :], TensorLevel())
    return unpack(streams["codes"], x.size, fmt.streams[0])[0].astype(np.uint8)


def table(fmt: Format) -> F32:
    return np.array(view_of(fmt).decode_bits, np.uint32).view(np.float32)


def hard_inputs(fmt: Format, seed: int = 0) -> F32:
    """Every finite bfloat16, every midpoint and value with two neighbours, -0, random bits."""
    rng = np.random.default_rng(seed)
    bfloat16 = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    grid = view_of(fmt).grids[0]
    middles = np.array([float(m) for m in grid.midpoints], np.float32)
    exact = table(fmt)
    points = np.concatenate([middles, exact[np.isfinite(exact)]])
    near = [np.nextafter(points, np.float32(-np.inf)), points]
    near.append(np.nextafter(points, np.float32(np.inf)))
    bits = rng.integers(0, 1 << 32, 1 << 15, dtype=np.uint32).view(np.float32)
    usual = (rng.standard_normal(1 << 14) * 4).astype(np.float32)
    x = np.concatenate([bfloat16, *near, bits, usual, np.array([0.0, -0.0], np.float32)])
    return x[np.isfinite(x)]


def saturated(fmt: Format, x: F32) -> F32:
    grid = fmt.grids[0]
    return np.clip(x, np.float32(float(grid.low)), np.float32(float(grid.high)))


@pytest.mark.parametrize("atom", ML_DTYPES)
def test_every_code_means_what_ml_dtypes_says(atom: str) -> None:
    ml_dtypes = peer_module("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, ML_DTYPES[atom]))
    ours = table(element_codec(atom))
    theirs = np.arange(ours.size, dtype=np.uint8).view(kind).astype(np.float32)
    # A code that is no finite number is None in a grid: Inf and NaN alike.
    finite = np.isfinite(theirs)
    assert np.array_equal(np.isfinite(ours), finite)
    assert np.array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


@pytest.mark.parametrize("atom", GFLOAT)
def test_every_code_means_what_gfloat_says(atom: str) -> None:
    formats = peer_module("gfloat.formats", "gfloat")
    gfloat = peer_module("gfloat")
    info = getattr(formats, GFLOAT[atom])
    ours = table(element_codec(atom))
    theirs = np.array([gfloat.decode_float(info, code).fval for code in range(ours.size)])
    finite = np.isfinite(theirs)
    assert np.array_equal(np.isfinite(ours), finite)
    assert np.array_equal(ours[finite].astype(np.float64), theirs[finite])
    assert np.array_equal(np.signbit(ours[finite]), np.signbit(theirs[finite]))


def apart(atom: str, theirs: Callable[[F32], NDArray[np.uint8]], note: str) -> Outcome:
    """How many of the hard inputs get another code from a peer."""
    fmt = element_codec(atom)
    x = hard_inputs(fmt)
    assert x.size > 100_000
    return x.size, int((codes_of(fmt, x) != theirs(x)).sum()), note


def by_ml_dtypes(atom: str) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        kind = np.dtype(getattr(peer_module("ml_dtypes"), ML_DTYPES[atom]))
        if atom in ("e2m1", "e2m3", "e3m2"):
            return apart(atom, lambda x: x.astype(kind).view(np.uint8), "codes")
        # E4M3 overflows to NaN and E5M2 to infinity, which is another policy than ours.
        fmt = element_codec(atom)
        note = "codes of inputs clamped to the largest number (it does not saturate)"
        return apart(atom, lambda x: saturated(fmt, x).astype(kind).view(np.uint8), note)

    return compare


def by_gfloat(atom: str) -> Callable[[], Outcome]:
    def theirs(x: F32) -> NDArray[np.uint8]:
        gfloat = peer_module("gfloat")
        info = getattr(peer_module("gfloat.formats", "gfloat"), GFLOAT[atom])
        even = gfloat.RoundMode.TiesToEven
        rounded = gfloat.round_ndarray(info, x.astype(np.float64), even, sat=True)
        return gfloat.encode_ndarray(info, rounded).astype(np.uint8)

    return lambda: apart(atom, theirs, "codes, saturating")


def by_torch(atom: str) -> Callable[[], Outcome]:
    fmt = element_codec(atom)

    def theirs(x: F32) -> NDArray[np.uint8]:
        torch = peer_module("torch")
        kind = torch.float8_e4m3fn if atom == "e4m3" else torch.float8_e5m2
        given = torch.from_numpy(saturated(fmt, x))
        return given.to(kind).view(torch.uint8).numpy()

    return lambda: apart(atom, theirs, "codes of inputs clamped to the largest number")


def by_torchao(atom: str) -> Callable[[], Outcome]:
    def theirs(x: F32) -> NDArray[np.uint8]:
        torch = peer_module("torch")
        cast = peer_module("torchao.prototype.custom_fp_utils", "torchao")
        bits = (int(atom[1]), int(atom[3]))
        return cast._f32_to_floatx_unpacked(torch.from_numpy(x), *bits).numpy()

    return lambda: apart(atom, theirs, "codes, saturating")


def by_compressed_tensors(atom: str, function: str) -> Callable[[], Outcome]:
    fmt = element_codec(atom)

    def values(x: F32) -> F32:
        torch = peer_module("torch")
        home = f"compressed_tensors.quantization.utils.{'fp4' if atom == 'e2m1' else 'fp6'}_utils"
        cast = getattr(peer_module(home, "compressed-tensors"), function)
        return cast(torch.from_numpy(x.copy())).numpy()

    def compare() -> Outcome:
        x = hard_inputs(fmt)
        found = table(fmt)[codes_of(fmt, x)]
        # Values are compared as numbers: of -0.0 cast_to_fp4 drops the sign.
        return x.size, int((found != values(x)).sum()), "values, saturating"

    return compare


for _atom in FLOATS:
    _grid = f"grid {_atom}"
    comparison("ml_dtypes", f"astype({ML_DTYPES[_atom]})", _grid)(by_ml_dtypes(_atom))
    comparison("gfloat", "round_ndarray, encode_ndarray", _grid)(by_gfloat(_atom))
    if _atom in ("e4m3", "e5m2"):
        comparison("torch", f".to({ML_DTYPES[_atom]})", _grid)(by_torch(_atom))
    else:
        comparison("torchao", "_f32_to_floatx_unpacked", _grid)(by_torchao(_atom))
for _atom, _function in (("e2m1", "cast_to_fp4"), ("e2m3", "cast_to_fp6")):
    comparison("compressed-tensors", _function, f"grid {_atom}")(
        by_compressed_tensors(_atom, _function)
    )


def test_powers_of_two_round_like_ml_dtypes_e8m0_where_ties_go_up() -> None:
    ml_dtypes = peer_module("ml_dtypes")
    # ml_dtypes sends a tie up, not to the even code, and has no code for what is not positive.
    # Its known slip: everything above 2^-127 and below 1.5 * 2^-127 takes 2^-126 instead.
    fmt = element_codec("e8m0", "tie up")
    x = hard_inputs(fmt)
    x = x[(x > 0) & (x < np.float32(1.5 * 2.0**127))]
    x = x[(x <= np.float32(2.0**-127)) | (x >= np.float32(1.5 * 2.0**-127))]
    assert x.size > 40_000
    theirs = x.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    assert np.array_equal(codes_of(fmt, x), theirs)


def test_dropping_negative_zero_changes_its_code_and_nothing_else() -> None:
    keep, drop = element_codec("e2m1"), element_codec("e2m1", "negative_zero drop")
    x = hard_inputs(keep)
    kept, dropped = codes_of(keep, x), codes_of(drop, x)
    assert np.array_equal(np.flatnonzero(kept != dropped), np.flatnonzero(kept == 8))
    assert set(dropped[kept == 8].tolist()) == {0}


def scale_words(fmt: Format, x: F32) -> NDArray[np.uint32]:
    return unpack(encode(fmt, x[:, None], TensorLevel())["scales"], 1, fmt.streams[1])[:, 0]


@pytest.mark.parametrize(
    ("word", "kind"),
    [("e4m3", "float8_e4m3fn"), ("e5m2", "float8_e5m2"), ("ue4m3", "float8_e4m3fn")],
)
def test_a_scale_word_holds_the_nearest_small_float_of_absmax_over_six(
    word: str, kind: str
) -> None:
    ml_dtypes = peer_module("ml_dtypes")
    fmt = compile_text(f"format s {{ block 1  grid e2m1  scale {word} {{ rule absmax }} }}")
    number = fmt.scale.word.number
    smallest, largest = float(number.magnitude(1) or 0), float(number.largest)
    points = np.array([float(m) for m in number.magnitudes() if m], np.float64)
    middles = 6 * (points[1:] + points[:-1]) / 2
    rng = np.random.default_rng(2)
    spread = np.exp2(rng.uniform(-20, 16, 50_000)) * 6
    exact = np.concatenate([middles, 6 * points, spread]).astype(np.float32)
    near = [np.nextafter(exact, np.float32(0)), exact, np.nextafter(exact, np.float32(np.inf))]
    x = np.concatenate(near)
    # x / 6 is no binary64 number: its nearest one rounds the same way, because no x * 1/6
    # lies closer than 2^-50 to a tie without being on it.
    wanted = np.clip(x.astype(np.float64) / 6, smallest, largest)
    assert np.array_equal(
        scale_words(fmt, x), wanted.astype(kind_of(ml_dtypes, kind)).view(np.uint8)
    )


def kind_of(ml_dtypes: Any, name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name))


def test_the_e8m0_table_is_ml_dtypes_own() -> None:
    ml_dtypes = peer_module("ml_dtypes")
    fmt = compile_text("format s { block 1  grid e2m1  scale e8m0 { rule floor_log2 } }")
    ours = np.array(view_of(fmt).scale.values_bits, np.uint32).view(np.float32)
    theirs = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_bfloat16_and_half_as_scale_words_have_the_values_of_the_machine() -> None:
    halves = np.arange(1 << 15, dtype=np.uint16).view(np.float16)
    half = named_float("fp16")
    assert half is not None
    exact = [half.magnitude(code) for code in range(1 << 15)]
    assert all(
        (value is None and not np.isfinite(found)) or value == Fraction(float(found))
        for value, found in zip(exact, halves, strict=True)
    )
    brains = (np.arange(1 << 15, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    brain = named_float("bf16")
    assert brain is not None
    assert all(
        (value is None and not np.isfinite(found)) or value == Fraction(float(found))
        for value, found in zip(map(brain.magnitude, range(1 << 15)), brains, strict=True)
    )


test_the_peer_stores_and_reads_the_same_bytes = run_comparisons(__name__)
