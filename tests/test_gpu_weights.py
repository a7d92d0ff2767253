"""Weights as a GPU has them, on the CPU: nothing is lost, and blocks are under what they were."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from fmtc.compiler import pipeline
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format, Stream
from fmtc.compiler.kernel import dense_format, kernel_format
from fmtc.compiler.packing import pack
from fmtc.compiler.physical import (
    BYTES,
    NATURAL,
    PAIRS,
    PhysicalLayout,
    from_physical,
    to_physical,
)
from fmtc.compiler.product import given_of
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load, names
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from representatives import EACH_KIND

torch = pytest.importorskip("torch", reason="torch is not installed")

from fmtc.runtime.gpu import permute  # noqa: E402
from fmtc.runtime.gpu.weights import (  # noqa: E402
    GpuWeights,
    code_stream,
    pad_code,
    to_device_weights,
)

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

ADHOC = {
    # A record of a plain format with sides, and codes of five bits.
    "record_sides": """block 16  grid i = int 5  scale e4m3
        record 32 { scales, codes }  side wr { fraction 0.01 }""",
    "point_sides": """block 32  grid u = int 3 { range unsigned }  scale fp16 { rule range }
        zero point  side opq { quantile 0.5 }""",
    "stored_select": """block 16  grid e2m1  grid i = int 4  scale fp16
        select 1 bit at field { 0: e2m1, 1: i }  error weighted""",
    "broken": "block 16  grid e4m3  scale e8m0  nan propagate",
}


@cache
def encoded(name: str, rows: int, length: int) -> tuple[Format, dict[str, U8], TensorLevel]:
    fmt = format_of(name)
    x = np.random.default_rng(rows).standard_normal((rows, length)).astype(np.float32)
    level = calibrate(fmt, x)
    return fmt, pipeline.encode(fmt, x, level), level


@cache
def format_of(name: str) -> Format:
    return compile_text(f'format {name} "" {{ {ADHOC[name]} }}') if name in ADHOC else load(name)


def admitted(fmt: Format, length: int) -> int:
    """A length near this that the format's records divide."""
    return length if fmt.record is None else -(-length // fmt.record.elements) * fmt.record.elements


def weights(
    name: str, rows: int, length: int, order: tuple[int, ...] = NATURAL
) -> tuple[GpuWeights, dict[str, U8]]:
    fmt, streams, level = encoded(name, rows, admitted(format_of(name), length))
    shape = (rows, admitted(fmt, length))
    return to_device_weights(fmt, streams, shape, level, order, "cpu"), streams


def assert_same(found: dict[str, torch.Tensor], streams: dict[str, U8]) -> None:
    assert found.keys() == streams.keys()
    for name, octets in streams.items():
        assert found[name].dtype == torch.uint8
        assert np.array_equal(found[name].numpy(), octets), name


# -- codes ---------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 8),
    st.sampled_from(["low_first", "high_first"]),
    st.sampled_from([NATURAL, PAIRS, BYTES]),
    st.integers(0, 4),
    st.integers(0, 400),
    st.integers(0, 2**32 - 1),
)
def test_torch_permutes_packed_codes_as_numpy_does(
    bits: int, packing: str, order: tuple[int, ...], rows: int, length: int, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, length)).astype(np.uint8)
    layout, stream = PhysicalLayout(bits, order), Stream("codes", bits, "element", packing)
    packed, pad = torch.from_numpy(pack(codes, stream)), seed % (1 << bits)
    planes = permute.to_planes(packed, stream, length, layout, pad)
    for plane, expected in zip(planes, to_physical(codes, layout, pad), strict=True):
        assert plane.is_contiguous()
        assert np.array_equal(plane.numpy(), expected)
    assert torch.equal(permute.from_planes(planes, stream, length, layout), packed)


def test_strips_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, layout = Stream("codes", 6, "element", "high_first"), PhysicalLayout(6, PAIRS)
    packed = torch.randint(0, 256, (9, 150), dtype=torch.uint8)
    whole = permute.to_planes(packed, stream, 200, layout, 5)
    monkeypatch.setattr(permute, "STRIP", 512)
    for plane, expected in zip(
        permute.to_planes(packed, stream, 200, layout, 5), whole, strict=True
    ):
        assert torch.equal(plane, expected)
    assert torch.equal(permute.from_planes(whole, stream, 200, layout), packed)


def test_codes_of_another_shape_are_refused() -> None:
    stream, layout = Stream("codes", 4, "element", "low_first"), PhysicalLayout(4)
    with pytest.raises(ValueError, match=r"expected torch\.uint8"):
        permute.to_planes(torch.zeros((2, 9), dtype=torch.uint8), stream, 20, layout, 0)
    with pytest.raises(ValueError, match=r"expected torch\.uint8"):
        permute.to_planes(torch.zeros((2, 10)), stream, 20, layout, 0)
    with pytest.raises(ValueError, match="no code of 4 bits"):
        permute.to_planes(torch.zeros((2, 10), dtype=torch.uint8), stream, 20, layout, 16)
    with pytest.raises(ValueError, match="no layout of 3 bits"):
        permute.to_planes(torch.zeros((2, 10), dtype=torch.uint8), stream, 20, PhysicalLayout(3), 0)


# -- streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*names(), *ADHOC])
def test_every_format_gives_its_streams_back(name: str) -> None:
    for rows, length, order in ((24, 384, PAIRS), (5, 200, BYTES)):
        made, streams = weights(name, rows, length, order)
        assert made.given == (made.kernel != dense_format(made.format))
        assert_same(made.to_canonical(), streams)


@pytest.mark.parametrize("name", [*EACH_KIND, *ADHOC])
def test_the_planes_hold_the_codes_and_the_blocks_what_these_are_under(name: str) -> None:
    made, streams = weights(name, 5, 200, PAIRS)
    fmt, kernel = made.format, made.kernel
    level, length = made.level, made.length
    planes = [plane.numpy() for plane in made.planes]
    codes = pack(from_physical(planes, made.layout, length), code_stream(kernel))
    blocks = {name: tensor.numpy() for name, tensor in made.blocks.items()}
    engine = ReferenceEngine(kernel)
    if made.given:
        shape = (5, -(-length // kernel.block))
        assert all(block.shape == shape for block in blocks.values())
        assert blocks["scales"].dtype == np.float32
        decoded = engine.decode_given(
            codes, blocks["scales"], blocks.get("selects"), blocks.get("zeros"), length
        )
    else:
        decoded = engine.decode({"codes": codes, **blocks}, length, level)
    whole = pipeline.decode(fmt, streams, length, level)
    if not fmt.sides:
        assert np.array_equal(decoded.view(np.uint32), whole.view(np.uint32))
    else:
        assert made.sparse is not None
        assert np.mean(decoded != whole) <= len(made.sparse.deltas) / decoded.size


@pytest.mark.parametrize("name", names())
def test_the_exponent_brings_the_largest_product_below_256(name: str) -> None:
    made, streams = weights(name, 5, 200)
    planar = dict(streams)
    level = made.level if made.given else TensorLevel()
    scales = given_of(made.format, planar, made.length, level).scales
    largest = max(Fraction(float(abs(scale))) for scale in scales.reshape(-1))
    end = max(abs(value) for grid in made.kernel.grids for value in grid.values if value)
    assert 2**7 <= largest * end * Fraction(2) ** made.exponent < 2**8


def test_a_weight_of_zeros_has_the_exponent_zero_and_of_nans_that_of_the_rest() -> None:
    x = np.zeros((2, 64), np.float32)
    for name in ("nf4_dq", "int8_asym_row"):
        fmt = load(name)
        level = calibrate(fmt, x)
        streams = pipeline.encode(fmt, x, level)
        scales = given_of(fmt, streams, 64, level).scales
        made = to_device_weights(fmt, streams, (2, 64), level, NATURAL, "cpu")
        assert (made.exponent == 0) == (not scales.any())
    fmt = format_of("broken")
    x[:, :16] = 3.0
    alone = to_device_weights(
        fmt, pipeline.encode(fmt, x, TensorLevel()), (2, 64), TensorLevel(), NATURAL, "cpu"
    )
    x[0, 40] = np.nan
    streams = pipeline.encode(fmt, x, TensorLevel())
    made = to_device_weights(fmt, streams, (2, 64), TensorLevel(), NATURAL, "cpu")
    assert np.isnan(pipeline.decode(fmt, streams, 64, TensorLevel())).any()
    assert made.exponent == alone.exponent
    assert_same(made.to_canonical(), streams)


@pytest.mark.parametrize("name", names())
def test_a_row_is_padded_with_a_number_close_to_zero(name: str) -> None:
    kernel = kernel_format(load(name))
    code = pad_code(kernel)
    sizes = [abs(grid.values[code] or Fraction(0)) for grid in kernel.grids]
    assert all(grid.values[code] is not None for grid in kernel.grids)
    if all(0 in grid.values for grid in kernel.grids) and len(kernel.grids) == 1:
        assert max(sizes) == 0


@pytest.mark.parametrize(
    "name", ["nvfp4", "q4_k", "nf4_dd4_opq_wr", "e4m3_tensor", "int4_asym_g128"]
)
@pytest.mark.parametrize("shape", [(0, 256), (3, 0), (0, 0)])
def test_weights_without_elements_have_streams_too(name: str, shape: tuple[int, int]) -> None:
    fmt = load(name)
    level = TensorLevel()
    streams = pipeline.encode(fmt, np.zeros(shape, np.float32), level)
    made = to_device_weights(fmt, streams, shape, level, NATURAL, "cpu")
    assert made.exponent == 0
    assert_same(made.to_canonical(), streams)


@pytest.mark.parametrize("shape", [(2, 3, 40), (40,), ()])
def test_any_shape_is_rows_of_its_last_axis(shape: tuple[int, ...]) -> None:
    fmt, length = load("nf4"), (shape or (1,))[-1]
    rows = math.prod(shape) // length
    streams = pipeline.encode(fmt, np.ones((rows, length), np.float32), TensorLevel())
    made = to_device_weights(fmt, streams, shape, TensorLevel(), NATURAL, "cpu")
    assert (made.rows, made.length) == (rows, length)
    assert_same(made.to_canonical(), streams)


@pytest.mark.parametrize("name", ["nvfp4", "q4_0", "nf4_dq", "nf4_dd4_opq_wr", "e4m3_block128"])
def test_streams_may_be_tensors_and_are_copied(name: str) -> None:
    fmt, streams, level = encoded(name, 5, admitted(load(name), 200))
    shape = (5, admitted(fmt, 200))
    tensors = {key: torch.from_numpy(octets.copy()) for key, octets in streams.items()}
    made = to_device_weights(fmt, tensors, shape, level, NATURAL, "cpu")
    for tensor in tensors.values():
        tensor.fill_(255)
    assert_same(made.to_canonical(), streams)
    arrays = {key: octets.copy() for key, octets in streams.items()}
    made = to_device_weights(fmt, arrays, shape, level, NATURAL, "cpu")
    for array in arrays.values():
        array.fill(255)
    assert_same(made.to_canonical(), streams)


def test_what_is_no_weight_of_the_format_is_refused() -> None:
    fmt, streams, level = encoded("nvfp4", 5, 200)
    with pytest.raises(ValueError, match="has the streams"):
        to_device_weights(fmt, {"codes": streams["codes"]}, (5, 200), level, NATURAL, "cpu")
    more = {**streams, "zeros": streams["scales"]}
    with pytest.raises(ValueError, match="has the streams"):
        to_device_weights(fmt, more, (5, 200), level, NATURAL, "cpu")
    with pytest.raises(ValueError, match=r"'codes' is .*, expected"):
        to_device_weights(fmt, streams, (5, 216), level, NATURAL, "cpu")
    wide = {name: octets.astype(np.int32) for name, octets in streams.items()}
    with pytest.raises(ValueError, match="expected uint8"):
        to_device_weights(fmt, wide, (5, 200), level, NATURAL, "cpu")
    records = load("q4_0")
    with pytest.raises(ValueError, match="do not divide into records of 32"):
        to_device_weights(records, {}, (5, 200), level, NATURAL, "cpu")
