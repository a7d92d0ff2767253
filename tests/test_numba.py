"""The numba back end against the reference, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import add

import numpy as np
import pytest
from c_formats import ADHOC, GIVEN_ONLY
from fmtc.compiler.blockwork import NUMPY
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.narrow import NUMBERS
from fmtc.compiler.pipeline import decode, encode
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load, names
from fmtc.runtime.numba_backend import NumbaEngine
from fmtc.runtime.verify import generate, inputs
from fmtc.runtime.verify.checks import second_level
from fmtc.runtime.verify.tensors import tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba_engines import (
    RNG,
    assert_same_streams,
    assert_same_values,
    engine_of,
    format_of,
    random_given,
    skip_without_numba,
)
from representatives import GENERAL

GENERATED = settings(
    deadline=None,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    max_examples=25,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def numba() -> None:
    skip_without_numba()


EVERY = (*names(), *ADHOC, *GIVEN_ONLY)
PLAIN = [name for name in EVERY if format_of(name).is_plain]
GIVEN = [name for name in EVERY if not format_of(name).is_plain]


def assert_plain_agrees(fmt: Format, x: np.ndarray, level: TensorLevel) -> None:
    reference = ReferenceEngine(fmt)
    streams = reference.encode(x, level)
    assert_same_streams(engine_of(fmt).encode(x, level), streams)
    values = reference.decode(streams, x.shape[1], level)
    assert_same_values(engine_of(fmt).decode(streams, x.shape[1], level), values)


# -- every format ---------------------------------------------------------------------------


def levels_of(fmt: Format) -> Iterator[TensorLevel]:
    yield second_level(fmt)
    if fmt.scale.tensor == "fp32":
        yield TensorLevel(tensor_scale=3e-40)
    if fmt.scale.shift != 0:
        yield TensorLevel(shift=-100)


@pytest.mark.parametrize("name", PLAIN)
def test_random_rows_of_every_kind_are_stored_and_read_as_the_reference_does(name: str) -> None:
    fmt = format_of(name)
    for x in inputs.random_rows(fmt, 4000, seed=5):
        assert_plain_agrees(fmt, np.ascontiguousarray(x), calibrate(fmt, x))


@pytest.mark.parametrize("name", PLAIN)
def test_every_tie_and_its_neighbours_are_stored_as_the_reference_stores_them(name: str) -> None:
    fmt = format_of(name)
    for level in levels_of(fmt):
        blocks = inputs.tie_blocks(fmt, level)
        if blocks.size > 40_000:
            blocks = RNG.permutation(blocks)[: max(1, 40_000 // fmt.block)]
        assert_plain_agrees(fmt, blocks, level)


@pytest.mark.parametrize("name", PLAIN)
def test_every_code_under_scale_words_of_all_kinds_is_read_as_the_reference_reads_it(
    name: str,
) -> None:
    fmt = format_of(name)
    words = inputs.every_word(fmt, 1 << 12)
    words = words if len(words) <= 512 else RNG.choice(words, 512, replace=False)
    for select in range(1 << fmt.select.bits) if fmt.select.place == "field" else (0,):
        streams = inputs.every_code(fmt, words, select)
        length = 1 << fmt.code_bits
        for level in levels_of(fmt):
            wanted = ReferenceEngine(fmt).decode(streams, length, level)
            assert_same_values(engine_of(fmt).decode(streams, length, level), wanted)


@pytest.mark.parametrize("name", EVERY)
def test_ties_under_given_scales_and_zeros_are_the_references(name: str) -> None:
    kernel = kernel_format(format_of(name))
    engine, reference = engine_of(kernel), ReferenceEngine(kernel)
    for case in inputs.given_ties(kernel, 3000):
        rest = case.scales, case.selects, case.zeros
        codes = reference.encode_given(case.x, *rest)
        assert np.array_equal(engine.encode_given(case.x, *rest), codes)
        values = reference.decode_given(codes, *rest, case.x.shape[1])
        assert_same_values(engine.decode_given(codes, *rest, case.x.shape[1]), values)


@pytest.mark.parametrize("name", GIVEN)
def test_random_rows_under_given_scales_and_zeros_are_the_references(name: str) -> None:
    kernel = kernel_format(format_of(name))
    for rows, length in ((40, 300), (1, 1), (3, 8), (2, 1031)):
        x, *rest = random_given(kernel, rows, length)
        codes = ReferenceEngine(kernel).encode_given(x, *rest)
        assert np.array_equal(engine_of(kernel).encode_given(x, *rest), codes)
        values = ReferenceEngine(kernel).decode_given(codes, *rest, length)
        assert_same_values(engine_of(kernel).decode_given(codes, *rest, length), values)


@pytest.mark.parametrize("name", GENERAL)
def test_the_pipeline_gives_the_same_streams_and_values_around_either_engine(name: str) -> None:
    fmt = format_of(name)
    for x in inputs.random_rows(fmt, 4000, seed=6):
        level, engine = calibrate(fmt, x), engine_of(kernel_format(fmt))
        streams = encode(fmt, x, level)
        assert_same_streams(encode(fmt, x, level, engine), streams)
        for dtype in NUMBERS:
            values = decode(fmt, streams, x.shape[1], level, dtype=dtype)
            found = decode(fmt, streams, x.shape[1], level, engine, dtype)
            assert_same_values(found, values)


def try_a_generated_format(data: st.DataObject) -> None:
    fmt = compile_text(data.draw(generate.formats()))
    kernel = kernel_format(fmt)
    engine = NumbaEngine(kernel)
    for case in inputs.given_ties(kernel, 300):
        rest = case.scales, case.selects, case.zeros
        codes = ReferenceEngine(kernel).encode_given(case.x, *rest)
        assert np.array_equal(engine.encode_given(case.x, *rest), codes), fmt.source
    x = data.draw(tensors(fmt))
    level = calibrate(fmt, x)
    streams = encode(fmt, x, level)
    assert_same_streams(encode(fmt, x, level, engine), streams)
    values = decode(fmt, streams, x.shape[1], level)
    assert_same_values(decode(fmt, streams, x.shape[1], level, engine), values)


@GENERATED
@given(data=st.data())
def test_a_generated_format_is_coded_as_the_reference_codes_it(data: st.DataObject) -> None:
    try_a_generated_format(data)


@pytest.mark.slow
@settings(GENERATED, max_examples=1500, derandomize=False)
@given(data=st.data())
def test_many_generated_formats_are_coded_as_the_reference_codes_them(data: st.DataObject) -> None:
    try_a_generated_format(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_a_million_elements_are_stored_and_read_as_the_reference_does(name: str) -> None:
    fmt = format_of(name)
    for x in inputs.random_rows(fmt, 1_000_000, seed=7):
        assert_plain_agrees(fmt, np.ascontiguousarray(x), calibrate(fmt, x))


# -- arithmetic -----------------------------------------------------------------------------


def test_a_product_and_a_sum_are_rounded_each_and_never_contracted() -> None:
    fmt = format_of("minimum")
    codes = ReferenceEngine(fmt).encode_given(*random_given(fmt, 64, 1024))
    _, scales, _, zeros = random_given(fmt, 64, 1024)
    wanted = ReferenceEngine(fmt).decode_given(codes, scales, None, zeros, 1024)
    # In binary64 the product is exact: this is what a fused step would give.
    one = np.ones_like(scales)
    grid = ReferenceEngine(fmt).decode_given(codes, one, None, 0 * one, 1024).astype(np.float64)
    wide = [np.repeat(array, fmt.block, axis=1) for array in (scales, zeros)]
    fused = (grid * wide[0] + wide[1]).astype(np.float32)
    assert np.mean(fused != wanted) > 0.05, "the case must tell the two apart"
    found = engine_of(fmt).decode_given(codes, scales, None, zeros, 1024)
    assert np.array_equal(found, wanted)


def test_squared_errors_are_summed_in_order_one_rounding_a_step() -> None:
    work = engine_of(load("po2_nf4")).blocks
    for unit, count in ((16, 1024), (16, 1015), (7, 700), (3, 2), (64, 500), (600, 500)):
        x, y = (RNG.standard_normal((2, count)).astype(np.float32) for _ in range(2))
        weights = RNG.random(count).astype(np.float32)
        for decoded, factors in ((y, None), (y, weights), (None, weights), (None, None)):
            each = (x.astype(np.float64) - (0 if decoded is None else decoded)) ** 2
            each = each if factors is None else each * factors.astype(np.float64)
            wanted = [
                [reduce(add, row[i : i + unit], 0.0) for i in range(0, count, unit)]
                for row in each.tolist()
            ]
            assert work.errors(x, decoded, factors, unit).tolist() == wanted
            assert NUMPY.errors(x, decoded, factors, unit).tolist() == wanted


@pytest.mark.parametrize("unit", [1, 5, 16, 32, 1000])
def test_block_work_is_numpys_bit_for_bit(unit: int) -> None:
    work = engine_of(load("po2_nf4")).blocks
    for rows, length in ((9, 320), (4, 333), (1, 1), (0, 64), (3, 0)):
        x = (RNG.integers(-3, 4, (rows, length)) * RNG.choice([1.0, -1.0], (rows, length))).astype(
            np.float32
        )
        for y in (x, RNG.standard_normal(x.shape).astype(np.float32), with_specials(x)):
            found, wanted = work.peaks(y, unit), NUMPY.peaks(y, unit)
            assert_same_values(found.low, wanted.low)
            assert_same_values(found.high, wanted.high)
            assert np.array_equal(found.first_negative, wanted.first_negative)
            assert np.array_equal(found.broken, wanted.broken)
            assert np.array_equal(work.absmax(y, unit), NUMPY.absmax(y, unit))


def with_specials(x: np.ndarray) -> np.ndarray:
    """With NaN of both signs, infinities, zeros of both signs and subnormal numbers."""
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45], np.float32)
    return np.where(RNG.random(x.shape) < 0.1, RNG.choice(special, x.shape), x)


@pytest.mark.parametrize("name", [n for n in PLAIN if format_of(n).policies.nan == "propagate"])
def test_a_block_with_a_nan_is_stored_as_the_reference_stores_it(name: str) -> None:
    x = RNG.standard_normal((20, 700)).astype(np.float32)
    x[RNG.random(x.shape) < 0.01] = np.nan
    x.view(np.uint32)[3, 5] = 0xFFC00001  # a negative one with a payload
    assert_plain_agrees(format_of(name), x, calibrate(format_of(name), x))


def test_a_nan_that_the_format_cannot_store_is_refused() -> None:
    x = np.zeros((2, 32), np.float32)
    x[1, 31] = np.nan
    with pytest.raises(ValueError, match="no NaN to propagate"):
        engine_of(load("sop_pair")).encode(x, TensorLevel())


# -- shapes, threads, what does not fit -----------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9, 15, 17, 31, 33, 257, 1023, 1025, 4097])
def test_rows_of_any_length_are_coded(length: int) -> None:
    for name in ("mxfp4", "po2_nf4", "sop_pair", "five_bits", "seven", "sixteen", "huge", "bytes"):
        x = RNG.standard_normal((3, length)).astype(np.float32)
        assert_plain_agrees(format_of(name), x, calibrate(format_of(name), x))
        rest = random_given(format_of(name), 3, length)
        codes = ReferenceEngine(format_of(name)).encode_given(*rest)
        assert np.array_equal(engine_of(format_of(name)).encode_given(*rest), codes)


def test_no_rows_give_no_bytes() -> None:
    engine = engine_of(load("nvfp4"))
    streams = engine.encode(np.zeros((0, 16), np.float32), TensorLevel())
    assert streams["codes"].shape == (0, 8)
    assert engine.decode(streams, 16, TensorLevel()).shape == (0, 16)


def test_several_threads_give_the_bytes_of_one() -> None:
    fmt = load("po2_nf4")
    x = RNG.standard_normal((1031, 1024)).astype(np.float32)
    level = calibrate(fmt, x)
    one, four = engine_of(fmt, 1), engine_of(fmt, 4)
    streams = one.encode(x, level)
    assert_same_streams(four.encode(x, level), streams)
    values = one.decode(streams, 1024, level)
    assert np.array_equal(four.decode(streams, 1024, level), values)
    x, *rest = random_given(fmt, 1031, 1024)
    codes = one.encode_given(x, *rest)
    assert np.array_equal(four.encode_given(x, *rest), codes)
    values = one.decode_given(codes, *rest, 1024)
    assert np.array_equal(four.decode_given(codes, *rest, 1024), values)


def test_strided_unaligned_and_read_only_input_is_taken() -> None:
    engine, level = engine_of(load("mxfp4")), TensorLevel()
    x = RNG.standard_normal((64, 200))
    part = x[::2, ::2].astype(np.float32)
    streams = engine.encode(part, level)
    assert_same_streams(engine.encode(x[::2, ::2], level), streams)
    odd = np.zeros(part.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(part.shape)
    odd[...] = part
    odd.flags.writeable = False
    assert not odd.flags.aligned
    assert_same_streams(engine.encode(odd, level), streams)
    wider = {name: np.pad(octets, ((0, 0), (0, 3))) for name, octets in streams.items()}
    assert np.array_equal(engine.decode(wider, 100, level), engine.decode(streams, 100, level))


def test_what_does_not_fit_is_refused_before_a_loop_reads_it() -> None:
    engine, level = engine_of(load("mxfp4")), TensorLevel()
    good = engine.encode(np.ones((3, 64), np.float32), level)
    faults = {
        "missing": {"codes": good["codes"]},
        "of the 32 bytes": {**good, "codes": good["codes"][:, :31]},
        "numbers of rows": {**good, "scales": good["scales"][:2]},
        r"is int16\[3, 2\], not uint8": {**good, "scales": good["scales"].astype(np.int16)},
        r"is uint8\[96\], not uint8": {**good, "codes": good["codes"].ravel()},
    }
    for message, streams in faults.items():
        with pytest.raises(ValueError, match=message):
            engine.decode(streams, 64, level)
    with pytest.raises(ValueError, match="two-dimensional"):
        engine.encode(np.ones(4, np.float32), level)


def test_given_arrays_that_do_not_fit_are_refused() -> None:
    x, one = np.ones((2, 40), np.float32), np.ones((2, 3), np.float32)
    plain, point = engine_of(load("nvfp4")), engine_of(format_of("point"))
    several = engine_of(format_of("five_bits"))
    faults = {
        r"scales are not \[2, 3\].* but \[2, 2\]": (plain, one[:, :2], None, None),
        "scales are not": (plain, one.astype(np.float64), None, None),
        r"selects are not \[2, 3\]": (several, one, 0 * one, None),
        "has no zeros": (plain, one, None, one),
        "has a zero for each block": (point, one, None, None),
        "zeros are not": (point, one, None, one.astype(np.uint8)),
        "no grid of 'five_bits' has the index 3": (
            several,
            one,
            np.full((2, 3), 3, np.uint8),
            None,
        ),
    }
    for message, (engine, *rest) in faults.items():
        with pytest.raises(ValueError, match=message):
            engine.encode_given(x, *rest)
    wide = np.full((2, 3), 4, np.uint8)
    with pytest.raises(ValueError, match="has the index 4"):
        several.decode_given(np.zeros((2, 25), np.uint8), one, wide, None, 40)
    unused = several.decode_given(np.zeros((2, 25), np.uint8), one, wide - 1, None, 40)
    assert np.isnan(unused).all()


@pytest.mark.parametrize("name", ["point", "minimum", "wide_word"])
def test_a_format_that_goes_through_the_pipeline_has_its_scales_given(name: str) -> None:
    engine = engine_of(format_of(name))
    for call in (
        lambda: engine.encode(np.ones((1, 16), np.float32), TensorLevel()),
        lambda: engine.decode({}, 16, TensorLevel()),
    ):
        with pytest.raises(ValueError, match=f"'{name}' .* goes through the pipeline"):
            call()
