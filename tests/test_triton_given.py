"""Triton's elements under given scales, interpreted: against the definition in rationals, and
against the NumPy engine on more than rationals can reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.packing import pack, unpack
from fmtc.compiler.reference import TensorLevel, block_scales, calibrate, encode, select_of
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.view import view_of
from fmtc.formats import load, names
from fmtc.runtime import triton_backend
from fmtc.runtime.interpreting import interpreting
from fmtc.runtime.triton_backend import TritonBackend
from given_oracle import code_of, ties_under_every_point, value_of
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

FLT_MAX = np.finfo(np.float32).max
POINT = "scale fp32 { rule range }  zero point"
MINIMUM = "scale fp32 { rule range }  zero minimum"

#: Every compare mode, tie, width, order, zero and ladder of the kernels, and odd blocks.
ADHOC = {
    "exact": "block 16  grid e2m1  scale fp32",
    "up": "block 16  grid e2m1  scale fp32  tie up  pack high_first",
    "toward_zero": "block 8  grid e2m1  scale fp32  tie toward_zero",
    "away": "block 24  grid i = int 7  scale fp32  tie away  pack high_first",
    "dropped": "block 8  grid e2m1  scale fp32  negative_zero drop  tie down",
    "quotient": "block 16  grid e2m1  scale fp32  compare fp32_quotient",
    "reciprocal": "block 12  grid e2m1  scale fp32  compare fp32_reciprocal  tie up",
    "one": "block 5  grid c = codebook 1 { -1, 1 }  scale fp32  tie up",
    "two": """block 12  grid c = codebook 2 { 1, -1/3, 1/3, -1 }  scale fp32
        compare fp32_quotient  pack high_first""",
    "three": "block 7  grid i = int 3 { range full }  scale fp32  pack high_first",
    "five": """block 16  grid e2m2  grid i = int 5  grid u = int 5 { range full }  scale fp32
        select 2 bits at field { 0: e2m2, 1: i, 2: u }""",
    "pair": """block 20  grid e2m1  grid i = int 4  scale fp32  compare fp32_quotient
        select 1 bit at scale.sign { 0: e2m1, 1: i }""",
    "six": "block 9  grid e2m3  scale fp32  compare fp32_reciprocal",
    "eight": "block 16  grid e4m3  scale fp32",
    "eight_quotient": "block 16  grid e4m3  scale fp32  compare fp32_quotient  tie up",
    "zero_midpoint": "block 16  grid c = codebook 2 { -3, -1, 1, 3 }  scale fp32  tie up",
    "single": "block 1  grid i = int 8 { range full }  scale fp32",
    "offset": """block 32  grid i = int 4 { range offset }  scale fp32 { rule argmax }
        compare fp32_reciprocal  offset 8.5""",
    "point": f"block 16  grid u = int 4 {{ range unsigned }}  {POINT}",
    "point_up": f"block 11  grid i = int 3 {{ range full }}  {POINT}  tie up",
    "point_eight": f"block 16  grid i = int 8 {{ range full }}  {POINT}  tie toward_zero",
    "point_quotient": f"""block 10  grid u = int 4 {{ range unsigned }}  {POINT}
        compare fp32_quotient  pack high_first""",
    "point_reciprocal": f"""block 10  grid u = int 8 {{ range unsigned }}  {POINT}
        compare fp32_reciprocal""",
    "point_after": """block 24  grid i = int 3 { range offset }  scale fp32 { rule range }
        zero point { add after }  compare fp32_quotient  pack high_first""",
    "point_after_reciprocal": """block 10  grid u = int 8 { range unsigned }
        scale fp32 { rule range }  zero point { add after }  compare fp32_reciprocal""",
    "minimum": f"block 16  grid u = int 4 {{ range unsigned }}  {MINIMUM}",
    "minimum_offset": f"""block 16  grid u = int 2 {{ range unsigned }}  {MINIMUM}
        compare fp32_reciprocal  offset 0.5""",
    "minimum_quotient": f"""block 33  grid u = int 5 {{ range unsigned }}  {MINIMUM}
        {{ sign negated }}  compare fp32_quotient""",
}


@dataclass(frozen=True)
class Given:
    """What is given for every block of a tensor [rows, length]."""

    scales: F32
    selects: U8 | None
    zeros: F32 | None

    def of(self, fmt: Format, row: int, element: int) -> tuple[int, float, float]:
        """Select, scale and zero of an element's block."""
        at = row, element // fmt.block
        select = 0 if self.selects is None else int(self.selects[at])
        return select, float(self.scales[at]), 0.0 if self.zeros is None else float(self.zeros[at])


@cache
def format_of(name: str) -> Format:
    return compile_text(f'format {name} "" {{ {ADHOC[name]} }}')


@cache
def backend_of(name: str) -> TritonBackend:
    return TritonBackend(format_of(name), device="cpu")


def draw_given(fmt: Format, rows: int, length: int, rng: np.random.Generator) -> Given:
    """Scales of both signs and of every size down to zero; every grid; every zero point."""
    shape = (rows, -(-length // fmt.block))
    scales = np.exp2(rng.integers(-6, 6, shape)) * rng.choice([1, -1, 1.1, 1.3, -1.7], shape)
    scales[1::4] *= 2.0**-143
    scales[2::4] *= 2.0**100
    scales[rng.random(shape) < 0.05] = 0.0
    scales[rng.random(shape) < 0.05] = -0.0
    selects = rng.integers(0, len(fmt.grids), shape).astype(np.uint8)
    zeros: F32 | None = None
    if fmt.zero is not None and fmt.zero.kind == "point":
        low, high = int(fmt.grids[0].low), int(fmt.grids[0].high)
        zeros = rng.integers(low, high + 1, shape).astype(np.float32)
    elif fmt.zero is not None:
        zeros = (rng.standard_normal(shape) * np.abs(scales) * 3).astype(np.float32)
    given = scales.astype(np.float32)
    return Given(given, selects if len(fmt.grids) > 1 or rng.random() < 0.5 else None, zeros)


def spread(fmt: Format, per_block: F32 | None, length: int) -> NDArray[np.float64]:
    """What is given for a block, for each of its elements, in binary64."""
    if per_block is None:
        return np.zeros(1)
    return np.repeat(per_block.astype(np.float64), fmt.block, axis=1)[:, :length]


def draw_x(fmt: Format, given: Given, rows: int, length: int, rng: np.random.Generator) -> F32:
    """Values and midpoints of the grids under the given scales, their neighbours, and others."""
    values = np.array([float(v) for grid in fmt.grids for v in grid.numbers])
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2, [0.0, -0.0]])
    unit = rng.choice(points, (rows, length))
    noisy = rng.random(unit.shape) < 0.2
    unit[noisy] = rng.standard_normal(noisy.sum()) * np.abs(values).max()
    scales = spread(fmt, given.scales, length)
    scales = np.where(scales == 0, 1.0, scales)
    zeros = spread(fmt, given.zeros, length)
    moved = fmt.zero is not None and fmt.zero.kind == "point"
    exact = (unit - zeros) * scales if moved else unit * scales + zeros
    x = np.clip(exact, -float(FLT_MAX), float(FLT_MAX)).astype(np.float32)
    nudge = rng.integers(0, 4, x.shape)
    x = np.where(nudge == 0, np.nextafter(x, FLT_MAX), x)
    x = np.where(nudge == 1, np.nextafter(x, -FLT_MAX), x)
    x[rng.random(x.shape) < 0.02] = 0.0
    x[rng.random(x.shape) < 0.02] = -0.0
    x[-1, ::7] = FLT_MAX
    x[-1, 3::7] = -FLT_MAX
    return x.astype(np.float32)


def assert_same_bits(got: F32, want: F32) -> None:
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    assert same.all(), f"{(~same).sum()} numbers differ, first at {np.argwhere(~same)[0]}"


def assert_like_the_engine(
    backend: TritonBackend, fmt: Format, x: F32, given: Given, codes: U8
) -> None:
    """Both directions, bit for bit: x is encoded, and any codes are decoded."""
    engine = ReferenceEngine(fmt)
    of_blocks = given.scales, given.selects, given.zeros
    got, want = backend.encode_given(x, *of_blocks), engine.encode_given(x, *of_blocks)
    assert got.dtype == np.uint8
    assert got.shape == want.shape
    assert (got == want).all(), f"first at {np.argwhere(got != want)[0]}"
    packed = pack(codes, fmt.streams[0])
    assert_same_bits(
        backend.decode_given(packed, *of_blocks, x.shape[1]),
        engine.decode_given(packed, *of_blocks, x.shape[1]),
    )


@pytest.mark.parametrize("name", ADHOC)
def test_every_element_takes_the_code_of_the_definition(name: str) -> None:
    fmt = format_of(name)
    rng = np.random.default_rng(1)
    rows, length = 8, 2 * fmt.block + max(1, fmt.block // 2)
    given = draw_given(fmt, rows, length, rng)
    x = draw_x(fmt, given, rows, length, rng)
    packed = backend_of(name).encode_given(x, given.scales, given.selects, given.zeros)
    codes = unpack(packed, length, fmt.streams[0])
    checked = rng.permutation(rows * length)[:300]
    for row, element in zip(*np.unravel_index(checked, x.shape), strict=True):
        select, scale, zero = given.of(fmt, row, element)
        want = code_of(fmt, select, float(x[row, element]), scale, zero)
        assert codes[row, element] == want, (float(x[row, element]).hex(), scale, zero, select)


@pytest.mark.parametrize("name", ["point_after", "point_after_reciprocal"])
def test_a_zero_point_added_after_rounding_counts_on_from_the_even_integer(name: str) -> None:
    fmt = format_of(name)
    x, zeros, wanted = ties_under_every_point(fmt)
    shape = (len(x), -(-x.shape[1] // fmt.block))
    scales, points = np.ones(shape, np.float32), np.broadcast_to(zeros, shape).astype(np.float32)
    packed = backend_of(name).encode_given(x, scales, None, points)
    assert (unpack(packed, x.shape[1], fmt.streams[0]) == wanted).all()


@pytest.mark.parametrize("name", ADHOC)
def test_every_code_means_the_number_of_the_definition(name: str) -> None:
    fmt = format_of(name)
    rng = np.random.default_rng(2)
    size = 1 << fmt.code_bits
    length = -(-size // fmt.block) * fmt.block  # a row has every code
    given = draw_given(fmt, 8, length, rng)
    codes = np.tile(rng.permutation(length) % size, (8, 1)).astype(np.uint8)
    got = backend_of(name).decode_given(
        pack(codes, fmt.streams[0]), given.scales, given.selects, given.zeros, length
    )
    want = [
        [
            value_of(fmt, select, int(codes[row, i]), scale, zero)
            for i in range(length)
            for select, scale, zero in [given.of(fmt, row, i)]
        ]
        for row in range(8)
    ]
    assert_same_bits(got, np.array(want, np.float32))


@pytest.mark.parametrize("name", ADHOC)
def test_tensors_of_any_length_are_as_the_numpy_engine_has_them(name: str) -> None:
    fmt, backend = format_of(name), backend_of(name)
    rng = np.random.default_rng(3)
    for length in (1, fmt.block + 1, 9 * fmt.block - fmt.block // 3):
        given = draw_given(fmt, 9, length, rng)
        x = draw_x(fmt, given, 9, length, rng)
        codes = rng.integers(0, 1 << fmt.code_bits, x.shape).astype(np.uint8)
        assert_like_the_engine(backend, fmt, x, given, codes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ADHOC)
def test_a_million_elements_are_as_the_numpy_engine_has_them(name: str) -> None:
    fmt, backend = format_of(name), backend_of(name)
    rng = np.random.default_rng(4)
    given = draw_given(fmt, 200, 5003, rng)
    x = draw_x(fmt, given, 200, 5003, rng)
    codes = rng.integers(0, 1 << fmt.code_bits, x.shape).astype(np.uint8)
    assert_like_the_engine(backend, fmt, x, given, codes)


@pytest.mark.parametrize("name", names())
def test_the_kernels_of_every_shipped_format_do_its_elements(name: str) -> None:
    fmt = kernel_format(load(name))
    rng = np.random.default_rng(5)
    length = 2 * fmt.block + 3
    given = draw_given(fmt, 5, length, rng)
    x = draw_x(fmt, given, 5, length, rng)
    codes = rng.integers(0, 1 << fmt.code_bits, x.shape).astype(np.uint8)
    assert_like_the_engine(TritonBackend(fmt, device="cpu"), fmt, x, given, codes)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "nf4", "sop_pair", "e2m3_ue4m4", "mixfp4"])
def test_given_the_scales_that_it_chose_a_kernel_chooses_the_same_codes(name: str) -> None:
    fmt = load(name)
    view, length = view_of(fmt), 7 * fmt.block - 5
    x = np.random.default_rng(6).standard_normal((40, length)).astype(np.float32)
    x[::3] *= np.float32(2.0**-20)
    level = calibrate(fmt, x)
    streams = encode(fmt, x, level)
    stream = next(s for s in fmt.streams if s.name == "scales")
    words = unpack(streams["scales"], -(-length // fmt.block), stream).astype(np.uint32)
    scales = block_scales(view, words, level.multiplier)
    selects = select_of(view, words).astype(np.uint8)
    backend = TritonBackend(fmt, device="cpu")
    assert (backend.encode_given(x, scales, selects, None) == streams["codes"]).all()
    assert_same_bits(
        backend.decode_given(streams["codes"], scales, selects, None, length),
        backend.decode(streams, length, level),
    )


@pytest.mark.parametrize("name", ["exact", "three", "five", "point", "minimum"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_an_empty_tensor_stays_empty(name: str, shape: tuple[int, int]) -> None:
    fmt, backend = format_of(name), backend_of(name)
    given = draw_given(fmt, *shape, np.random.default_rng(7))
    of_blocks = given.scales, given.selects, given.zeros
    codes = backend.encode_given(np.zeros(shape, np.float32), *of_blocks)
    assert codes.shape == (shape[0], fmt.streams[0].row_bytes(shape[1], fmt.block))
    assert backend.decode_given(codes, *of_blocks, shape[1]).shape == shape


@pytest.mark.parametrize("name", ["exact", "three", "five", "point_quotient"])
def test_a_program_of_any_size_gives_the_same_codes(name: str) -> None:
    fmt = format_of(name)
    rng = np.random.default_rng(8)
    given = draw_given(fmt, 2, 40, rng)
    x = draw_x(fmt, given, 2, 40, rng)
    encoder, decoder = (
        triton_backend.load_module(fmt, operation, interpreted=True)
        for operation in ("encode", "decode")
    )
    tensors = {"scales": torch.from_numpy(given.scales)}
    if given.selects is not None:
        tensors["selects"] = torch.from_numpy(given.selects)
    if given.zeros is not None:
        tensors["zeros"] = torch.from_numpy(given.zeros)
    with interpreting():
        small = encoder.encode_given(torch.from_numpy(x), **tensors, blocks=2)
        decoded = decoder.decode_given(small, **tensors, length=40, blocks=2).numpy()
    of_blocks = given.scales, given.selects, given.zeros
    assert (small.numpy() == backend_of(name).encode_given(x, *of_blocks)).all()
    assert_same_bits(decoded, ReferenceEngine(fmt).decode_given(small.numpy(), *of_blocks, 40))


def test_tensors_need_no_numpy_and_need_not_be_contiguous() -> None:
    fmt, backend = format_of("point"), backend_of("point")
    rng = np.random.default_rng(9)
    given = draw_given(fmt, 6, 40, rng)
    x = draw_x(fmt, given, 6, 40, rng)
    assert given.zeros is not None
    across = torch.from_numpy(np.ascontiguousarray(x.T)).T
    scales = torch.from_numpy(np.ascontiguousarray(given.scales.T)).T
    zeros = torch.from_numpy(np.ascontiguousarray(given.zeros.T)).T
    codes = backend.encode_given_tensor(across, scales, None, zeros)
    engine = ReferenceEngine(fmt)
    want = engine.encode_given(x, given.scales, None, given.zeros)
    assert (codes.numpy() == want).all()
    out = torch.full((6, 40), -1.0)
    assert backend.decode_given_tensor(codes, scales, None, zeros, 40, out=out) is out
    assert_same_bits(out.numpy(), engine.decode_given(want, given.scales, None, given.zeros, 40))


def test_decoding_fills_the_array_that_it_is_given() -> None:
    fmt, backend = format_of("exact"), backend_of("exact")
    codes = np.full((2, 16), 0x21, np.uint8)
    scales = np.array([[1, 2], [-1, 0.5]], np.float32)
    wide = np.zeros((2, 40), np.float32)
    out = wide[:, 4:36]
    assert backend.decode_given(codes, scales, None, None, 32, out=out) is out
    assert_same_bits(
        np.ascontiguousarray(out), ReferenceEngine(fmt).decode_given(codes, scales, None, None, 32)
    )
    assert not wide[:, :4].any()
    assert not wide[:, 36:].any()


@pytest.mark.parametrize("name", ["point", "minimum"])
def test_a_format_with_a_zero_has_only_kernels_that_are_given_one(name: str) -> None:
    backend = backend_of(name)
    for operation in ("encode", "decode"):
        module = triton_backend.load_module(format_of(name), operation, interpreted=True)
        assert module.__all__ == [f"{operation}_given"]
    x, scales = np.ones((1, 16), np.float32), np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match=f"'{name}' needs its scales given: no encode"):
        backend.encode(x, TensorLevel())
    with pytest.raises(ValueError, match=f"'{name}' takes a {name} for every block"):
        backend.encode_given(x, scales, None, None)


def test_what_is_given_must_fit_the_format_and_the_tensor() -> None:
    backend = backend_of("exact")
    x, scales = np.ones((1, 16), np.float32), np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match="'exact' takes no zeros"):
        backend.encode_given(x, scales, None, scales)
    with pytest.raises(ValueError, match=r"out is a contiguous torch.float32 \[1, 16\]"):
        backend.decode_given_tensor(
            torch.zeros((1, 8), dtype=torch.uint8),
            torch.ones((1, 1)),
            None,
            None,
            16,
            out=torch.ones(1),
        )
    with pytest.raises(ValueError, match=r"for every block is \(1, 1\), not \(1, 2\)"):
        backend.encode_given(x, np.ones((1, 2), np.float32), None, None)
