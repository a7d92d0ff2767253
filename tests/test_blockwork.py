"""Block work in C against NumPy, bit for bit, built for this processor and for any."""

from __future__ import annotations

from functools import cache

import fmtc
import numpy as np
import pytest
from fmtc.compiler.arrange import Arrangement, peaks_of
from fmtc.compiler.blockwork import NUMPY, WordTable, in_order, order_of
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format, ScaleWord, Stream
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.narrow import NUMBERS, narrow
from fmtc.compiler.pipeline import decode, encode
from fmtc.compiler.record_plan import from_record_plan, to_record_plan
from fmtc.compiler.records import stream_widths
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.stored import from_word, to_word
from fmtc.runtime import native
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.compile_cache import load_library
from fmtc.runtime.native.blocks import NativeBlockWork, block_work
from hypothesis import given, settings
from hypothesis import strategies as st

UNITS = (1, 2, 3, 7, 8, 16, 24, 32, 33, 64, 128, 256)
WITH_RECORDS = sorted(name for name in fmtc.names() if fmtc.load(name).record is not None)
THROUGH_THE_PIPELINE = sorted(name for name in fmtc.names() if not fmtc.load(name).is_plain)
STREAMS = [
    Stream("s", bits, "block", o) for bits in range(1, 33) for o in ("low_first", "high_first")
]


@cache
def library(build: str) -> object:
    try:
        return load_library(native.sources(), native=build == "native")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@cache
def work_of(build: str, threads: int) -> NativeBlockWork:
    """Block work of the C as built for this processor, or for every one of its kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_loaded", library(build))
        return NativeBlockWork(threads)


@pytest.fixture(params=["native", "portable"])
def work(request: pytest.FixtureRequest) -> NativeBlockWork:
    return work_of(request.param, 1)


def hostile(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Rows of every kind of number: of any bits, of few values, of zeros, with NaN, infinite."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, length)).astype(np.float32)
    bits = rng.integers(0, 1 << 32, x.shape, np.uint32).view(np.float32)
    kinds = [
        x,
        bits,
        rng.choice(np.array([-0.0, 0.0], np.float32), x.shape),
        rng.choice(np.array([-1, 1, 0.5], np.float32), x.shape),
        np.where(rng.random(x.shape) < 0.02, np.float32(np.nan), x),
        np.where(rng.random(x.shape) < 0.02, -np.float32(np.nan), -np.abs(x)),
        np.where(rng.random(x.shape) < 0.1, np.float32(np.inf), x),
        np.where(rng.random(x.shape) < 0.1, np.float32(-np.inf), np.abs(x)),
        x * np.float32(1e-42),
    ]
    for row in range(rows):
        x[row] = kinds[row % len(kinds)][row]
    return x


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal in shape and bits; all NaN count as one."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if found.dtype.kind != "f":
        return np.array_equal(found, wanted)
    nan = np.isnan(wanted)
    return np.array_equal(np.isnan(found), nan) and np.array_equal(
        np.where(nan, 0, found).view(np.uint8), np.where(nan, 0, wanted).view(np.uint8)
    )


def assert_same_peaks(found: object, wanted: object) -> None:
    for name in ("low", "high", "first_negative", "broken"):
        assert same(getattr(found, name), getattr(wanted, name)), name


# -- pieces --------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [0, 1, 5, 16, 130, 515])
def test_peaks(work: NativeBlockWork, unit: int, length: int) -> None:
    x = hostile(27, length)
    assert_same_peaks(work.peaks(x, unit), NUMPY.peaks(x, unit))
    assert_same_peaks(work.peaks(x[:0], unit), NUMPY.peaks(x[:0], unit))


def test_what_peaks_are() -> None:
    nan = np.float32(np.nan)
    x = np.array(
        [[-0.0, 0.0, 0.0, -0.0], [2, -2, 1, 0], [-2, 2, 0, 0], [1, nan, -9, 0]], np.float32
    )
    found = NUMPY.peaks(x, 4)
    assert np.signbit(found.low[0, 0])
    assert not np.signbit(found.high[0, 0])
    assert found.first_negative[:, 0].tolist() == [True, False, True, False]
    assert found.broken[:, 0].tolist() == [False, False, False, True]
    assert np.isnan([found.low[3, 0], found.high[3, 0]]).all()
    assert found.low[1:3, 0].tolist() == [-2, -2]
    assert found.high[1:3, 0].tolist() == [2, 2]


def test_integers_that_order_like_numbers() -> None:
    ladder = np.array([-np.inf, -1, -1e-45, -0.0, 0.0, 1e-45, 1, np.inf], np.float32)
    order = order_of(ladder)
    assert (np.diff(order.astype(np.int64)) > 0).all()
    assert same(in_order(order), ladder)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=40),
    st.integers(1, 20),
    st.sampled_from(["native", "portable"]),
)
def test_peaks_of_any_row(row: list[float], unit: int, build: str) -> None:
    x = np.array([row], np.float32)
    assert_same_peaks(work_of(build, 1).peaks(x, unit), NUMPY.peaks(x, unit))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [0, 1, 130, 515])
def test_largest_finite_magnitudes(work: NativeBlockWork, unit: int, length: int) -> None:
    x = hostile(27, length)
    assert same(work.absmax(x, unit), NUMPY.absmax(x, unit))
    assert np.isfinite(NUMPY.absmax(x, unit)).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [0, 1, 130, 1029])
def test_squared_errors(work: NativeBlockWork, unit: int, length: int, weighted: bool) -> None:
    x, decoded = hostile(27, length), hostile(27, length, 1)[::-1].copy()
    weights = np.abs(hostile(1, length, 2)[0]) if weighted else None
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = NUMPY.errors(x, decoded, weights, unit)
    assert same(work.errors(x, decoded, weights, unit), wanted)


def test_an_error_is_summed_in_element_order() -> None:
    x = np.zeros((1, 40), np.float32)
    x[0, :3] = 1, 2**-27, 2**-27  # in another order, the small squares would count
    assert NUMPY.errors(x, np.zeros_like(x), None, 40)[0, 0] == 1.0


def test_nothing_decoded_is_zeros(work: NativeBlockWork) -> None:
    x = hostile(27, 515)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = NUMPY.errors(x, np.zeros_like(x), None, 16)
        assert same(NUMPY.errors(x, None, None, 16), wanted)
        assert same(work.errors(x, None, None, 16), wanted)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [0, 1, 130, 515])
def test_elements_above_a_bound(work: NativeBlockWork, unit: int, length: int) -> None:
    x = hostile(27, length)
    pieces = -(-length // unit)
    bounds = np.abs(np.random.default_rng(unit).standard_normal((27, pieces)))
    bounds[:, ::3], bounds[:, 1::5] = np.nan, 0
    bounds[::2] = np.abs(x[::2, : pieces * unit : unit])  # equal is not above
    assert same(work.above(x, bounds, unit), NUMPY.above(x, bounds, unit))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("floor", [-1.0, 0.0, 0.5, 1e30])
@pytest.mark.parametrize("length", [0, 1, 130, 515])
def test_errors_above_a_floor(
    work: NativeBlockWork, length: int, floor: float, weighted: bool
) -> None:
    x, decoded = hostile(27, length), np.roll(hostile(27, length), 1, axis=1)
    decoded[::4] = x[::4]
    weights = np.where(np.arange(length) % 3, np.float32(0.25), np.float32(0)) if weighted else None
    wanted = NUMPY.errors_above(x, decoded, weights, floor)
    assert same(work.errors_above(x, decoded, weights, floor), wanted)


def test_threads_change_nothing() -> None:
    x = hostile(64, 1 << 13)
    many, one = work_of("native", 4), work_of("native", 1)
    assert_same_peaks(many.peaks(x, 32), one.peaks(x, 32))
    decoded = np.where(np.isnan(x), 0, x)
    assert same(many.errors(x, decoded, None, 32), one.errors(x, decoded, None, 32))
    assert same(many.absmax(x, 32), one.absmax(x, 32))
    bounds = np.full((64, 256), 2.0)
    assert same(many.above(x, bounds, 32), one.above(x, bounds, 32))
    assert same(many.errors_above(x, decoded, None, 1.0), one.errors_above(x, decoded, None, 1.0))


# -- words ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 5, 126, 3000])
@pytest.mark.parametrize("spread", ["even", "close", "equal", "halves", "infinite"])
def test_ranks(work: NativeBlockWork, count: int, spread: str) -> None:
    rng = np.random.default_rng(count)
    thresholds = np.sort(rng.standard_normal(count).astype(np.float32))
    if spread == "close":
        thresholds = np.sort((1 + rng.integers(0, 40, count) * 2.0**-23).astype(np.float32))
        thresholds[: count // 2] = -1e-45
    elif spread == "equal":
        thresholds[:] = 0.5
    elif spread == "halves":
        thresholds = np.arange(count, dtype=np.uint16).view(np.float16).astype(np.float32)
    elif spread == "infinite":
        thresholds[count // 2 :] = np.inf
    values = np.concatenate([hostile(9, 500).reshape(-1), thresholds, -thresholds])
    values = np.concatenate([values, np.nextafter(thresholds, np.float32(np.inf))])
    values = np.where(np.isnan(values), np.float32(np.nan), values)
    assert same(work.ranks(values, thresholds), NUMPY.ranks(values, thresholds))
    fixed = thresholds.copy()
    fixed.flags.writeable = False
    for _ in range(2):  # what is kept serves the second time
        assert same(work.ranks(values, fixed), NUMPY.ranks(values, thresholds))


def test_ranks_keep_nothing_of_thresholds_that_may_change() -> None:
    work, values = work_of("native", 1), np.linspace(-3, 3, 999, dtype=np.float32)
    thresholds = np.array([0, 1, 2], np.float32)
    work.ranks(values, thresholds)
    thresholds[:] = -2, -1, 0
    assert same(work.ranks(values, thresholds), NUMPY.ranks(values, thresholds))


@pytest.mark.parametrize("multiplier", [1.0, 0.3, 3e38, 1e-45])
@pytest.mark.parametrize("sign_bit", [None, 0, 15, 31])
def test_word_values(work: NativeBlockWork, sign_bit: int | None, multiplier: float) -> None:
    rng = np.random.default_rng(0)
    values = hostile(1, 1 << 10)[0]
    values[:3] = np.nan, np.inf, -0.0
    words = rng.integers(0, 1 << 32, (7, 300), np.uint32)
    with np.errstate(all="ignore"):
        for table in (WordTable(values, 3, 10, sign_bit), WordTable(None, 0, 31, sign_bit)):
            wanted = NUMPY.word_values(words, table, multiplier)
            assert same(work.word_values(words, table, multiplier), wanted)
            assert work.word_values(words[:0], table, multiplier).shape == (0, 300)


def words_of_the_library() -> list[ScaleWord]:
    formats = [fmtc.load(name) for name in fmtc.names()]
    words = {f.scale.word for f in formats}
    words |= {f.zero.word for f in formats if f.zero is not None and f.zero.word is not None}
    return sorted((w for w in words if w.number.magnitude_bits < 17), key=lambda w: w.name)


@pytest.mark.parametrize("word", words_of_the_library(), ids=lambda word: word.name)
def test_words_and_their_values(work: NativeBlockWork, word: ScaleWord) -> None:
    every = np.arange(1 << min(word.container, 16), dtype=np.uint32)
    values = from_word(word, every)
    assert same(from_word(word, every, work), values)
    between = np.nextafter(values, np.float32(0))
    halves = values[1:] / 2 + values[:-1] / 2
    x = np.concatenate([values, between, halves, hostile(9, 64).reshape(-1)])
    assert same(to_word(word, x, blocks=work), to_word(word, x))


# -- bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", STREAMS, ids=lambda s: f"{s.bits}_{s.order}")
def test_fields(work: NativeBlockWork, stream: Stream) -> None:
    rng = np.random.default_rng(stream.bits)
    for rows, count in ((3, 37), (1, 1), (4, 8), (0, 5), (5, 0)):
        fields = rng.integers(0, 1 << stream.bits, (rows, count), np.uint64).astype(np.uint32)
        packed = NUMPY.pack(fields, stream)
        assert same(work.pack(fields, stream), packed)
        assert same(work.unpack(packed, count, stream), fields)
        assert same(NUMPY.unpack(packed, count, stream), fields)
        wider = np.pad(packed, ((0, 0), (0, 3)), constant_values=255)
        assert same(work.unpack(wider, count, stream), fields)


def test_packed_fields_are_bytes_of_their_own() -> None:
    fields = np.zeros((2, 4), np.uint8)
    packed = NUMPY.pack(fields, Stream("s", 8, "block", "low_first"))
    fields[:] = 1
    assert not packed.any()


def random_streams(fmt: Format, rows: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    count = length // fmt.record.elements
    return {
        name: rng.integers(0, 256, (rows, count * width), np.uint8)
        for name, width in stream_widths(fmt).items()
    }


@pytest.mark.parametrize("name", WITH_RECORDS)
def test_records(work: NativeBlockWork, name: str) -> None:
    fmt = fmtc.load(name)
    for rows, count in ((1, 1), (3, 5), (2, 131), (0, 2), (2, 0)):
        length = count * fmt.record.elements
        streams = random_streams(fmt, rows, length)
        records = NUMPY.to_records(fmt, streams, rows, length)
        assert same(work.to_records(fmt, streams, rows, length), records)
        for found in (work, NUMPY):
            again = found.from_records(fmt, records, length)
            assert again.keys() == streams.keys()
            assert all(same(again[stream], streams[stream]) for stream in streams)


HOSTILE_RECORDS = {
    "high_first": "block 16  grid e2m1  scale ue4m3  pack high_first  record 64 { codes, scales }",
    "bits": "block 8  grid u3 = int 3 { range unsigned }  scale fp16 "
    "record 64 { codes { bits 1  from 2  order high_first }, scales, codes { bits 2 } }",
    "wide": "block 32  grid q8 = int 8 { range full }  scale fp32  record 32 { scales, codes }",
}


@pytest.mark.parametrize("clauses", HOSTILE_RECORDS.values(), ids=HOSTILE_RECORDS)
def test_records_of_any_layout(work: NativeBlockWork, clauses: str) -> None:
    fmt = fmtc.compile_text(f"format mine {{ {clauses} }}")
    streams = random_streams(fmt, 3, 5 * fmt.record.elements)
    records = NUMPY.to_records(fmt, streams, 3, 5 * fmt.record.elements)
    assert same(work.to_records(fmt, streams, 3, 5 * fmt.record.elements), records)
    again = work.from_records(fmt, records, 5 * fmt.record.elements)
    assert all(same(again[stream], streams[stream]) for stream in streams)


@pytest.mark.parametrize("name", WITH_RECORDS)
def test_a_plan_makes_every_bit_of_its_words(name: str) -> None:
    for plan in (to_record_plan(fmtc.load(name)), from_record_plan(fmtc.load(name))):
        made = {(w.target, w.offset + i) for w in plan.words for i in range(w.octets)}
        assert made == {(t, i) for t, width in enumerate(plan.targets) for i in range(width)}
        for word in plan.words:
            bits = [part.deposit for part in word.parts]
            assert sum(bits) == (1 << 8 * word.octets) - 1
            assert all(p.extract.bit_count() == p.deposit.bit_count() for p in word.parts)
            assert all(p.offset + p.octets <= plan.sources[p.source] for p in word.parts)


def test_records_refuse_what_does_not_fit(work: NativeBlockWork) -> None:
    fmt = fmtc.load("q4_0")
    with pytest.raises(ValueError, match="do not divide into records of 32"):
        work.to_records(fmt, random_streams(fmt, 1, 32), 1, 33)
    with pytest.raises(ValueError, match="'records' has shape"):
        work.from_records(fmt, np.zeros((1, 17), np.uint8), 32)
    with pytest.raises(ValueError, match="has no record"):
        work.from_records(fmtc.load("nvfp4"), np.zeros((1, 18), np.uint8), 32)


# -- through the pipeline ------------------------------------------------------------------


class NativeReference(ReferenceEngine):
    """The reference's elements, and the C's block work."""

    def __init__(self, fmt: Format, build: str) -> None:
        super().__init__(fmt)
        self.blocks = work_of(build, 2)
        self._build = build

    def inner(self, fmt: Format) -> NativeReference:
        return NativeReference(kernel_format(fmt), self._build)


@pytest.mark.parametrize("build", ["native", "portable"])
@pytest.mark.parametrize("name", THROUGH_THE_PIPELINE)
def test_formats_come_out_alike(name: str, build: str) -> None:
    fmt = fmtc.load(name)
    length = fmt.record.elements if fmt.record else 2 * min(fmt.block, 128) + 3
    x = np.nan_to_num(hostile(18, length), nan=0, posinf=1, neginf=-2)
    weights = np.linspace(0, 3, length, dtype=np.float32)
    level = calibrate(fmt, x)
    engine = NativeReference(kernel_format(fmt), build)
    for rows in (x, x[:1], x[:0]):
        wanted = encode(fmt, rows, level, None, weights)
        found = encode(fmt, rows, level, engine, weights)
        assert found.keys() == wanted.keys()
        assert all(same(found[stream], wanted[stream]) for stream in wanted)
        for dtype in NUMBERS:
            values = decode(fmt, wanted, length, level, None, dtype)
            assert same(decode(fmt, found, length, level, engine, dtype), values)


@pytest.mark.parametrize("shape", ["block row", "block tensor", "block 8  tile 3"])
def test_peaks_of_blocks_of_several_pieces(shape: str) -> None:
    fmt = fmtc.compile_text(f"format mine {{ {shape}  grid e2m1  scale fp32 }}")
    x = hostile(27, 543)
    arrangement = Arrangement.of(fmt, *x.shape)
    found, wanted = peaks_of(arrangement, x, work_of("native", 2)), peaks_of(arrangement, x)
    for name in ("positive", "negative", "low", "high", "first_negative", "broken"):
        assert same(getattr(found, name), getattr(wanted, name)), name


def test_without_a_compiler_it_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise BackendUnavailable("there is no C compiler")

    monkeypatch.setattr(native, "library", none)
    assert block_work() is NUMPY
    with pytest.raises(BackendUnavailable):
        NativeBlockWork()


# -- narrower values -----------------------------------------------------------------------


def test_values_are_rounded_once_more() -> None:
    x = hostile(9, 4000).reshape(-1)
    assert narrow(x, "float32") is x
    ml_dtypes = pytest.importorskip("ml_dtypes")
    halves = narrow(x, "float16")
    with np.errstate(all="ignore"):
        assert same(halves, x.astype(np.float16))
        wanted = x.astype(ml_dtypes.bfloat16)
    found = narrow(x, "bfloat16").view(ml_dtypes.bfloat16)
    nan = np.isnan(x)
    assert np.array_equal(found[~nan].view(np.uint16), wanted[~nan].view(np.uint16))
    assert np.isnan(found[nan].astype(np.float32)).all()
    assert (narrow(x, "bfloat16")[nan] & 0x40).all()


def test_every_bfloat16_and_its_neighbours() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (high | low).view(np.float32)
        x = x[~np.isnan(x)]
        wanted = x.astype(ml_dtypes.bfloat16).view(np.uint16)
        assert np.array_equal(narrow(x, "bfloat16"), wanted)


def test_there_is_no_other_type() -> None:
    with pytest.raises(ValueError, match="no numbers 'float64'"):
        narrow(np.zeros(3, np.float32), "float64")


def test_a_known_largest_magnitude_is_not_looked_for() -> None:
    fmt = fmtc.load("nvfp4")
    x = hostile(4, 64)
    assert calibrate(fmt, x, 3.0) == calibrate(fmt, np.full((1, 16), 3, np.float32))
    assert calibrate(fmtc.load("mxfp4"), x, 3.0) == TensorLevel()
