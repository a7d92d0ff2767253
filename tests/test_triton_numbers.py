"""Triton's kernels in narrow numbers, interpreted: what they decode to, and what they encode."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.narrow import Decoded, narrow
from fmtc.compiler.packing import pack
from fmtc.compiler.reference import TensorLevel, calibrate, decode, encode
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load
from fmtc.runtime.quantized import quantize
from fmtc.runtime.triton_backend import TritonBackend
from numpy.typing import NDArray
from representatives import EACH_KIND, PLAIN

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

F32 = NDArray[np.float32]
NARROW = ("float16", "bfloat16")

#: Widths, orders and policies that no representative has.
ADHOC = {
    "three_bits": "block 12  grid i = int 3 { range full }  scale e8m0  pack high_first",
    "eight_bits": "block 32  grid e4m3  scale e8m0 { rule floor_log2 }  nan propagate",
    "wide": """block 20  grid e5m2  grid e4m3  scale fp32
        select 1 bit at field { 0: e5m2, 1: e4m3 }""",
    "quotient": "block 16  grid e2m1  scale e4m3 { tensor fp32 }  compare fp32_quotient",
}


@cache
def format_of(name: str) -> Format:
    return compile_text(f'format {name} "" {{ {ADHOC[name]} }}') if name in ADHOC else load(name)


@cache
def backend_of(name: str) -> TritonBackend:
    return TritonBackend(kernel_format(format_of(name)), device="cpu")


def assert_same(got: Decoded, want: Decoded) -> None:
    """The same bits; a NaN equals a NaN."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if got.dtype == np.uint16:
        both = ((got & 0x7FFF) > 0x7F80) & ((want & 0x7FFF) > 0x7F80)
    else:
        both = np.isnan(got) & np.isnan(want)
        unsigned = np.uint32 if got.dtype == np.float32 else np.uint16
        got, want = got.view(unsigned), want.view(unsigned)
    different = (got != want) & ~both
    assert not different.any(), f"first at {np.argwhere(different)[0]}"


def hostile_streams(fmt: Format, rng: np.random.Generator) -> tuple[dict[str, Decoded], int]:
    """Every code under scale words of every kind, with infinities and NaN among the products."""
    length = -(-(1 << fmt.code_bits) // fmt.block) * fmt.block
    bits = fmt.scale.word.container
    words = np.arange(1 << bits) if bits <= 12 else rng.integers(0, 1 << bits, 1 << 11)
    shape = (len(words), length // fmt.block)
    fields = {
        "codes": np.tile(rng.permutation(length) % (1 << fmt.code_bits), (len(words), 1)),
        "scales": np.tile(words[:, None], (1, shape[1])),
        "select": rng.integers(0, max(1, len(fmt.grids)), shape),
    }
    return {s.name: pack(fields[s.name].astype(np.uint32), s) for s in fmt.streams}, length


@pytest.mark.parametrize("name", [*PLAIN, *ADHOC])
def test_a_kernel_decodes_to_narrow_numbers_as_the_reference_rounds_them(name: str) -> None:
    fmt = format_of(name)
    streams, length = hostile_streams(fmt, np.random.default_rng(1))
    for multiplier in (1.0, 3.7e-3, 2.0**-30, 1e30):
        level = TensorLevel(tensor_scale=float(np.float32(multiplier)))
        exact = decode(fmt, streams, length, level)
        for dtype in NARROW:
            got = backend_of(name).decode(streams, length, level, dtype)
            assert_same(got, narrow(exact, dtype))


@pytest.mark.parametrize("name", [*EACH_KIND, *ADHOC])
def test_elements_under_given_scales_decode_to_narrow_numbers_too(name: str) -> None:
    fmt = kernel_format(format_of(name))
    rng = np.random.default_rng(2)
    length = 2 * fmt.block + 3
    shape = (12, -(-length // fmt.block))
    scales = np.exp2(rng.uniform(-30, 20, shape)).astype(np.float32)
    scales[::3] = rng.choice(np.array([1.1e-8, 5.9e-8, 65520, 1e38, 1e-44], np.float32), shape[1])
    scales[1::4] *= -1
    selects = rng.integers(0, len(fmt.grids), shape).astype(np.uint8)
    zeros = None
    if fmt.zero is not None:
        point = rng.integers(int(fmt.grids[0].low), int(fmt.grids[0].high) + 1, shape)
        unit = np.minimum(np.abs(scales), 1e30) if fmt.zero.kind == "minimum" else 1
        zeros = (point * unit).astype(np.float32)
    fields = rng.integers(0, 1 << fmt.code_bits, (12, length)).astype(np.uint32)
    given = pack(fields, fmt.streams[0]), scales, selects, zeros, length
    for dtype in NARROW:
        got = backend_of(name).decode_given(*given, dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            assert_same(got, ReferenceEngine(fmt).decode_given(*given, dtype))


def every_half(length: int, dtype: str) -> F32:
    """Rows of every finite number of the type, in binary32, in an order of no meaning."""
    bits = np.random.default_rng(3).permutation(1 << 16).astype(np.uint16)
    if dtype == "float16":
        values = bits.view(np.float16).astype(np.float32)
    else:
        values = (bits.astype(np.uint32) << 16).view(np.float32)
    finite = values[np.isfinite(values)]
    return finite[: len(finite) // length * length].reshape(-1, length)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ["nvfp4", "po2_nf4", "three_bits", "quotient"])
def test_narrow_numbers_are_encoded_as_the_binary32_numbers_that_they_are(
    name: str, dtype: str
) -> None:
    fmt, backend = format_of(name), backend_of(name)
    x = every_half(3 * fmt.block + 1, dtype)
    level = calibrate(fmt, x)
    tensor = torch.from_numpy(x).to(getattr(torch, dtype))
    assert (tensor.float().numpy().view(np.uint32) == x.view(np.uint32)).all()
    got_streams = backend.encode_tensor(tensor, level)
    for key, want in encode(fmt, x, level).items():
        assert (got_streams[key].numpy() == want).all(), key
    scales = np.full((len(x), 4), 0.37, np.float32)
    got = backend.encode_given_tensor(tensor, torch.from_numpy(scales))
    assert (got.numpy() == ReferenceEngine(fmt).encode_given(x, scales, None, None)).all()


def test_a_tensor_is_decoded_to_its_own_type_by_the_kernel() -> None:
    x = torch.randn(6, 80).to(torch.bfloat16)
    q = quantize(load("nvfp4"), x)
    decoded = q.dequantize(backend="triton")
    assert decoded.dtype == torch.bfloat16
    assert torch.equal(decoded, q.dequantize(backend="reference"))
    streams = {key: torch.from_numpy(stream.copy()) for key, stream in q.streams.items()}
    made = backend_of("nvfp4").decode_tensor(streams, 80, q.level, "bfloat16")
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, decoded)


def test_narrow_numbers_are_written_to_the_tensor_that_is_given() -> None:
    codes, scales = torch.full((2, 8), 0x21, dtype=torch.uint8), torch.ones((2, 1))
    backend = backend_of("nvfp4")
    for dtype in NARROW:
        out = torch.zeros((2, 16), dtype=getattr(torch, dtype))
        assert backend.decode_given_tensor(codes, scales, None, None, 16, dtype, out) is out
        assert out[0, :2].tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"out is a contiguous torch.bfloat16 \[2, 16\]"):
        backend.decode_given_tensor(
            codes, scales, None, None, 16, "bfloat16", torch.zeros((2, 16), dtype=torch.float16)
        )


def test_other_types_are_refused() -> None:
    backend = backend_of("nvfp4")
    with pytest.raises(TypeError, match=r"float32, float16 or bfloat16, not torch.float64"):
        backend.encode_tensor(torch.ones((1, 16), dtype=torch.float64), TensorLevel())
    streams = backend.encode(np.ones((1, 16), np.float32), TensorLevel())
    with pytest.raises(ValueError, match="no numbers 'float64' to decode to"):
        backend.decode(streams, 16, TensorLevel(), "float64")
