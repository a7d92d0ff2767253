"""Block work in C: ``compiler.blockwork`` with the same bits, many times as fast."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...compiler.blockwork import F32, F64, I32, I64, NUMPY, BlockWork, PiecePeaks, WordTable
from ...compiler.format import Format, Stream
from ...compiler.items import record_bytes
from ...compiler.packing import U8, U32, WHOLE
from ...compiler.record_plan import Plan, from_record_plan, to_record_plan
from ...compiler.records import by_record, records_of, stream_widths
from ..backend import BackendUnavailable
from ..threads import over_rows
from . import function

U64 = NDArray[np.uint64]
_Search = tuple[NDArray[np.uintp], I32, U32]

_SIZE, _POINTER, _FLOAT = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_float
_WORD, _UNSIGNED, _INT = ctypes.c_uint32, ctypes.c_uint, ctypes.c_int

#: Combinations of leading bits that a search tells apart, for each threshold.
_STARTS_PER_THRESHOLD = 2

#: One of so many elements is found, or less, where a search need not be made twice.
_SPARSE = 64

#: CLOSE of words.c.
_CLOSE = 4

#: Below this many values for each threshold a binary search each is faster.
_FEW = 1 / 16


def block_work(threads: int = 1) -> BlockWork:
    """Block work in C where there is a compiler, else in NumPy."""
    try:
        return NativeBlockWork(threads)
    except BackendUnavailable:
        return NUMPY


class NativeBlockWork:
    """Does what ``NumpyBlockWork`` does.

    Args:
        threads: at most so many.

    Raises:
        BackendUnavailable: there is no C compiler.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        shape = [_SIZE, _SIZE, _SIZE, _POINTER]
        self._peaks = function("fmtc_peaks", [*shape, *[_POINTER] * 4], None)
        self._absmax = function("fmtc_absmax", [*shape, _POINTER], None)
        self._errors = function("fmtc_errors", [*shape, *[_POINTER] * 3], None)
        search = [_SIZE, _SIZE, _POINTER]
        self._above = function("fmtc_above", [*shape, _POINTER, *search], _SIZE)
        self._errors_above = function(
            "fmtc_errors_above",
            [_SIZE, _SIZE, *[_POINTER] * 3, ctypes.c_double, *search],
            _SIZE,
        )
        self._ranks = function("fmtc_ranks", [_SIZE, *[_POINTER] * 5], None)
        self._word_values = function(
            "fmtc_word_values",
            [_SIZE, _POINTER, _POINTER, _UNSIGNED, _WORD, _UNSIGNED, _FLOAT, _POINTER],
            None,
        )
        fields = [_SIZE, _SIZE, _UNSIGNED, _INT, _POINTER]
        self._pack = function("fmtc_pack", [*fields, _POINTER], None)
        self._unpack = function("fmtc_unpack", [*fields, _SIZE, _POINTER], None)
        self._move = function("fmtc_move_bits", [_SIZE, *[_POINTER] * 4, _SIZE, _POINTER], None)

    def peaks(self, x: F32, unit: int) -> PiecePeaks:
        """See ``BlockWork.peaks``."""
        rows, length = x.shape
        shape = rows, -(-length // unit)
        low, high = np.empty(shape, np.float32), np.empty(shape, np.float32)
        negative, broken = np.empty(shape, np.bool_), np.empty(shape, np.bool_)
        found = low, high, negative, broken

        def work(top: int, bottom: int) -> None:
            self._peaks(
                bottom - top, length, unit, _row(x, top), *(_row(part, top) for part in found)
            )

        over_rows(work, rows, length, self._threads)
        return PiecePeaks(*found)

    def absmax(self, x: F32, unit: int) -> F32:
        """See ``BlockWork.absmax``."""
        rows, length = x.shape
        found = np.empty((rows, -(-length // unit)), np.float32)

        def work(top: int, bottom: int) -> None:
            self._absmax(bottom - top, length, unit, _row(x, top), _row(found, top))

        over_rows(work, rows, length, self._threads)
        return found

    def errors(self, x: F32, decoded: F32 | None, weights: F32 | None, unit: int) -> F64:
        """See ``BlockWork.errors``."""
        rows, length = x.shape
        found = np.empty((rows, -(-length // unit)), np.float64)
        factors = None if weights is None else np.ascontiguousarray(weights, np.float32)

        def work(top: int, bottom: int) -> None:
            self._errors(
                bottom - top,
                length,
                unit,
                _row(x, top),
                None if decoded is None else _row(decoded, top),
                None if factors is None else _row(factors, 0),
                _row(found, top),
            )

        over_rows(work, rows, length, self._threads)
        return found

    def above(self, x: F32, bounds: F64, unit: int) -> I64:
        """See ``BlockWork.above``."""
        length = x.shape[1]
        bounds = np.ascontiguousarray(bounds)

        def search(top: int, bottom: int, room: int, found: int) -> int:
            arrays = _row(x, top), _row(bounds, top)
            return self._above(bottom - top, length, unit, *arrays, top * length, room, found)

        return self._found(search, *x.shape)

    def errors_above(self, x: F32, decoded: F32, weights: F32 | None, floor: float) -> I64:
        """See ``BlockWork.errors_above``."""
        length = x.shape[1]
        factors = None if weights is None else np.ascontiguousarray(weights, np.float32)

        def search(top: int, bottom: int, room: int, found: int) -> int:
            arrays = _row(x, top), _row(decoded, top), None if factors is None else _row(factors, 0)
            return self._errors_above(
                bottom - top, length, *arrays, floor, top * length, room, found
            )

        return self._found(search, *x.shape)

    def _found(self, search: Callable[[int, int, int, int], int], rows: int, length: int) -> I64:
        """What a search finds in all rows.

        ``search`` is given the first and the end row, room for how many indices there is, and
        where; it says how many it would have written, and is asked again where they were more.
        """
        parts: dict[int, I64] = {}

        def work(top: int, bottom: int) -> None:
            room = (bottom - top) * length // _SPARSE + 1
            while True:
                found = np.empty(room, np.int64)
                count = search(top, bottom, room, found.ctypes.data)
                if count <= room:
                    parts[top] = found[:count]
                    return
                room = count

        over_rows(work, rows, length, self._threads)
        return np.concatenate([parts[top] for top in sorted(parts)])

    def ranks(self, values: F32, thresholds: F32) -> U32:
        """See ``BlockWork.ranks``.

        What is made ready for the search of read-only thresholds is kept.
        """
        fixed = not thresholds.flags.writeable and thresholds.flags.c_contiguous
        if not fixed and values.size < len(thresholds) * _FEW:
            return NUMPY.ranks(values, thresholds)
        search = _kept_search(_Fixed(thresholds)) if fixed else _search(thresholds)
        values = np.ascontiguousarray(values)
        found = np.empty(values.shape, np.uint32)
        self._ranks(
            values.size,
            values.ctypes.data,
            *(part.ctypes.data for part in search),
            found.ctypes.data,
        )
        return found

    def word_values(self, words: U32, table: WordTable, multiplier: float) -> F32:
        """See ``BlockWork.word_values``."""
        words = np.ascontiguousarray(words)
        values = np.empty(words.shape, np.float32)
        self._word_values(
            words.size,
            words.ctypes.data,
            None if table.values is None else table.values.ctypes.data,
            table.shift,
            (1 << table.bits) - 1,
            32 if table.sign_bit is None else table.sign_bit,
            multiplier,
            values.ctypes.data,
        )
        return values

    def pack(self, fields: NDArray[np.unsignedinteger], stream: Stream) -> U8:
        """See ``BlockWork.pack``."""
        if stream.bits in WHOLE:
            return NUMPY.pack(fields, stream)
        rows, count = fields.shape
        words = np.ascontiguousarray(fields, np.uint32)
        octets = np.empty((rows, -(-count * stream.bits // 8)), np.uint8)
        self._pack(rows, count, *_packing(stream), words.ctypes.data, octets.ctypes.data)
        return octets

    def unpack(self, octets: U8, count: int, stream: Stream) -> U32:
        """See ``BlockWork.unpack``."""
        if stream.bits in WHOLE:
            return NUMPY.unpack(octets, count, stream)
        octets = np.ascontiguousarray(octets)
        rows = len(octets)
        fields = np.empty((rows, count), np.uint32)
        self._unpack(
            rows,
            count,
            *_packing(stream),
            octets.ctypes.data,
            octets.shape[1],
            fields.ctypes.data,
        )
        return fields

    def to_records(self, fmt: Format, streams: Mapping[str, U8], rows: int, length: int) -> U8:
        """See ``BlockWork.to_records``."""
        count = records_of(fmt, length)
        parts = [
            by_record(streams[name], name, rows, count, width)
            for name, width in stream_widths(fmt).items()
        ]
        records = np.empty((rows * count, record_bytes(fmt)), np.uint8)
        elements = length // max(1, count)
        self._move_bits(to_record_plan(fmt), parts, [records], elements)
        return records.reshape(rows, count * records.shape[1])

    def from_records(self, fmt: Format, records: U8, length: int) -> dict[str, U8]:
        """See ``BlockWork.from_records``."""
        count = records_of(fmt, length)
        rows, widths = len(records), stream_widths(fmt)
        source = by_record(records, "records", rows, count, record_bytes(fmt))
        parts = [np.empty((rows * count, width), np.uint8) for width in widths.values()]
        elements = length // max(1, count)
        self._move_bits(from_record_plan(fmt), [source], parts, elements)
        return {
            name: part.reshape(rows, count * part.shape[1])
            for name, part in zip(widths, parts, strict=True)
        }

    def _move_bits(self, plan: Plan, sources: list[U8], targets: list[U8], elements: int) -> None:
        """Move the bits of all records (of so many elements each) from rows to rows of bytes."""
        entries = _entries(plan)
        sources = [np.ascontiguousarray(source) for source in sources]
        steps = [(_SIZE * len(widths))(*widths) for widths in (plan.sources, plan.targets)]

        def work(top: int, bottom: int) -> None:
            starts = [
                (_POINTER * len(arrays))(*(_row(array, top) for array in arrays))
                for arrays in (sources, targets)
            ]
            self._move(
                bottom - top,
                starts[0],
                steps[0],
                starts[1],
                steps[1],
                len(entries),
                entries.ctypes.data,
            )

        over_rows(work, len(targets[0]), elements, self._threads)


class _Fixed:
    """A read-only array as a key: the memory that it keeps alive is always the same."""

    __slots__ = ("_place", "array")

    def __init__(self, array: F32) -> None:
        self.array = array
        self._place = array.ctypes.data, array.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fixed) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)


@lru_cache(maxsize=32)
def _kept_search(thresholds: _Fixed) -> _Search:
    return _search(thresholds.array)


def _search(thresholds: F32) -> _Search:
    """fmtc_search of words.c, and the orders and starts that go with it."""
    thresholds = np.ascontiguousarray(thresholds)
    count = len(thresholds)
    state = np.empty(3, np.uintp)
    orders = np.empty(count + _CLOSE, np.int32)
    starts = np.empty(_STARTS_PER_THRESHOLD * count + 2, np.uint32)
    prepare = function("fmtc_prepare_ranks", [_SIZE, _POINTER, _SIZE, *[_POINTER] * 3], None)
    prepare(
        count,
        thresholds.ctypes.data,
        _STARTS_PER_THRESHOLD * count,
        orders.ctypes.data,
        starts.ctypes.data,
        state.ctypes.data,
    )
    return state, orders, starts


@lru_cache(maxsize=128)
def _entries(plan: Plan) -> U64:
    """The plan as fmtc_entry of records.c: uint64 [entries, 5]."""
    entries = []
    for word in plan.words:
        entries.append((word.target, word.offset, word.octets, len(word.parts), 0))
        entries += [(p.source, p.offset, p.octets, p.extract, p.deposit) for p in word.parts]
    return np.array(entries, np.uint64).reshape(-1, 5)


def _packing(stream: Stream) -> tuple[int, int]:
    return stream.bits, int(stream.order == "high_first")


def _row(array: NDArray[np.generic], row: int) -> int:
    """The address of a row of a C-contiguous array."""
    return int(array.ctypes.data) + row * array.strides[0]
