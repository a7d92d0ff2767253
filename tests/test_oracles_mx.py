"""MX blocks against torchao and gfloat: scale bytes, codes and packed bytes.

torchao's one known slip here: a block whose scale byte is 0 (2^-127) is divided by 2^-126,
because its fp32 scale is clamped to the smallest normal number; its decoder multiplies by
2^-126 too. A format with ``min 2^-126`` says that very rule, so nothing is left out below.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from fmtc import compile_text, load
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import TensorLevel, decode, encode
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

ELEMENTS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")
BLOCK = 32


def torchao() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason="torchao needs torch")
        mx = pytest.importorskip(
            "torchao.prototype.mx_formats.mx_tensor", reason="the peer torchao is not installed"
        )
    return torch, mx


def mx_format(element: str, scale_settings: str = "") -> Format:
    return compile_text(
        f"format mx {{ block 32  grid {element}  scale e8m0 {{ rule floor_log2 {scale_settings} }}"
        "  nan propagate }"
    )


def edge_blocks(element: str, seed: int = 7) -> F32:
    """Blocks whose absmax lies at and beside every power of two and element maximum.

    Eight mantissas x fifteen exponents x {-1, 0, +1} ulp; the other elements are ties of the
    element format at that block's scale, their neighbours, and zeros of both signs.
    """
    rng = np.random.default_rng(seed)
    numbers = np.array([float(v) for v in mx_format(element).grids[0].numbers])
    ties = (numbers[1:] + numbers[:-1]) / 2
    top = np.floor(np.log2(numbers[-1]))
    rows = []
    for exponent in (-125, -118, -100, -60, -30, -8, -2, -1, 0, 1, 2, 9, 40, 100, 127):
        for mantissa in (1, 1.125, 1.25, 1.5, 1.625, 1.75, 1.875, 1.9375):
            middle = np.float32(mantissa * 2.0**exponent)
            for peak in (np.nextafter(middle, np.float32(0)), middle, above(middle)):
                scale = np.exp2(np.floor(np.log2(float(peak))) - top)
                near = (rng.choice(ties, BLOCK) * scale).astype(np.float32)
                step = rng.integers(-1, 2, BLOCK)
                row = np.where(step < 0, np.nextafter(near, np.float32(-np.inf)), near)
                row = np.where(step > 0, np.nextafter(near, np.float32(np.inf)), row)
                row = np.where(np.abs(row) > peak, np.float32(-0.0), row)
                row[rng.integers(BLOCK)] = peak * rng.choice([-1, 1])
                rows.append(row)
    return np.array(rows, np.float32)


def above(x: np.float32) -> np.float32:
    return np.nextafter(x, np.float32(3.4e38))


def all_tie_blocks(element: str) -> F32:
    """Every tie of the element format and its two neighbours, at many scales."""
    numbers = np.array([float(v) for v in mx_format(element).grids[0].numbers])
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
    special[3] = np.finfo(np.float32).max
    random = [part.astype(np.float32) for part in (usual, spread, tiny, special)]
    return np.concatenate([*random, edge_blocks(element), all_tie_blocks(element)])


def to_mx(x: F32, element: str) -> tuple[U8, U8]:
    """torchao's scale bytes [blocks] and codes [blocks, 32], or packed bytes for E2M1."""
    torch, mx = torchao()
    kinds = {
        "e2m1": torch.float4_e2m1fn_x2,
        "e2m3": "fp6_e2m3",
        "e3m2": "fp6_e3m2",
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
    }
    scales, codes = mx.to_mx(
        torch.from_numpy(x), kinds[element], BLOCK, mx.ScaleCalculationMode.FLOOR
    )
    return scales.view(torch.uint8).numpy().reshape(-1), codes.view(torch.uint8).numpy()


@pytest.mark.parametrize("element", ELEMENTS)
def test_scales_and_codes_equal_torchao_floor_on_thousands_of_blocks(element: str) -> None:
    x = blocks(element)
    assert len(x) > 4000
    theirs_scales, theirs_codes = to_mx(x, element)
    ours = encode(mx_format(element), x, TensorLevel())
    assert np.array_equal(ours["scales"][:, 0], theirs_scales)
    # See the head of this file: scale byte 0 means 2^-126 to torchao.
    clamped = mx_format(element, "min 2^-126  zero_block 2^-126")
    streams = encode(clamped, x, TensorLevel())
    assert np.array_equal(streams["scales"][:, 0], np.maximum(theirs_scales, 1))
    codes = unpacked(clamped, streams) if element != "e2m1" else streams["codes"]
    assert np.array_equal(codes, theirs_codes)
    plain = unpacked(mx_format(element), ours) if element != "e2m1" else ours["codes"]
    assert np.array_equal(plain[theirs_scales > 0], theirs_codes[theirs_scales > 0])


def unpacked(fmt: Format, streams: dict[str, U8]) -> U8:
    return unpack(streams["codes"], BLOCK, fmt.streams[0]).astype(np.uint8)


def test_the_shipped_mxfp4_stores_torchao_bytes_in_the_same_nibble_order() -> None:
    x = blocks("e2m1")
    theirs_scales, theirs_packed = to_mx(x, "e2m1")
    keep = theirs_scales > 0  # see the head of this file
    assert keep.sum() > 3500
    q = load("mxfp4").quantize(x, backend="reference")
    assert np.array_equal(q.streams["scales"][:, 0], theirs_scales)
    assert np.array_equal(q.streams["codes"][keep], theirs_packed[keep])


def test_the_shipped_mxfp4_decodes_every_code_and_scale_like_torchao() -> None:
    torch, mx = torchao()
    fmt = load("mxfp4")
    scales = np.arange(1, 255, dtype=np.uint8)  # 0: see the head of this file; 255 is NaN
    packed = np.broadcast_to(np.arange(16, dtype=np.uint8) * 17, (scales.size, 16)).copy()
    theirs = mx.to_dtype(
        torch.from_numpy(packed),
        torch.from_numpy(scales[:, None].copy()).view(torch.float8_e8m0fnu),
        torch.float4_e2m1fn_x2,
        BLOCK,
        torch.float32,
    ).numpy()
    ours = decode(fmt, {"codes": packed, "scales": scales[:, None]}, BLOCK, TensorLevel())
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_a_block_with_a_nan_takes_the_nan_scale_of_torchao() -> None:
    x = np.ones((3, BLOCK), np.float32)
    x[1, 7] = np.nan
    theirs_scales, _ = to_mx(x, "e2m1")
    ours = encode(load("mxfp4"), x, TensorLevel())
    assert theirs_scales[1] == 255
    assert np.array_equal(ours["scales"][:, 0], theirs_scales)


@pytest.mark.parametrize("element", ELEMENTS)
def test_blocks_decode_to_what_gfloat_quantize_block_returns(element: str) -> None:
    gfloat = pytest.importorskip("gfloat", reason="the peer gfloat is not installed")
    formats = pytest.importorskip("gfloat.formats")
    fmt = mx_format(element)
    info = gfloat.BlockFormatInfo(
        "mx", getattr(formats, f"format_info_ocp_{element}"), BLOCK, formats.format_info_ocp_e8m0
    )
    everything = blocks(element)
    # gfloat takes 40 microseconds an element: all edges for E2M1, a share for the others.
    step = 7 if element == "e2m1" else 31
    x = np.concatenate([everything[::step], edge_blocks(element)[:: 1 if step == 7 else 4]])
    ours = decode(fmt, encode(fmt, x, TensorLevel()), BLOCK, TensorLevel())
    for row, found in zip(x, ours, strict=True):
        # gfloat returns binary64, which can hold what binary32 cannot: one rounding more.
        with np.errstate(over="ignore", under="ignore"):
            theirs = gfloat.quantize_block(
                info, row.astype(np.float64), gfloat.compute_scale_amax
            ).astype(np.float32)
        assert np.array_equal(found.view(np.uint32), theirs.view(np.uint32)), row.tolist()
