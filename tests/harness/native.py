"""Calls the C that belongs to no format on odd sizes and addresses; run under sanitizers.

Arrays are allocated to the byte, so that what is read or written past their ends is found.
"""

from __future__ import annotations

import sys

import numpy as np
from fmtc.compiler.blockwork import NUMPY, WordTable
from fmtc.compiler.format import Stream
from fmtc.compiler.records import stream_widths
from fmtc.formats import load
from fmtc.runtime.native.blocks import NativeBlockWork
from fmtc.runtime.native.scan import NARROW, scan, scan_numpy, widen, widen_numpy

RNG = np.random.default_rng(20260106)
NATIVE = NativeBlockWork(threads=1)
LENGTHS = (0, 1, 7, 8, 15, 16, 17, 31, 33, 129, 257, 4097)
UNITS = (1, 7, 16, 32, 48, 64, 300)
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, 3e38], np.float32)
RECORDS = ("q4_0", "q4_k", "q5_0", "iq4_nl")


def moved(array: np.ndarray) -> np.ndarray:
    """The array an element past an aligned address, where its allocation ends."""
    room = np.empty(array.nbytes + array.itemsize, np.uint8)
    result = room[array.itemsize :].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def floats(*shape: int) -> np.ndarray:
    x = RNG.standard_normal(shape).astype(np.float32)
    return np.where(RNG.random(shape) < 0.02, RNG.choice(SPECIAL, shape), x)


def check(found: object, wanted: object, what: str) -> None:
    if not np.array_equal(np.asarray(found), np.asarray(wanted), equal_nan=True):
        sys.exit(f"{what}: other results than NumPy's")


def check_pieces(rows: int, length: int, unit: int) -> None:
    x, decoded, weights = floats(rows, length), floats(rows, length), floats(length)
    for array in (x, moved(x)):
        found, wanted = NATIVE.peaks(array, unit), NUMPY.peaks(x, unit)
        for part in ("low", "high", "first_negative", "broken"):
            check(getattr(found, part), getattr(wanted, part), f"peaks {rows} {length} {unit}")
        check(NATIVE.absmax(array, unit), NUMPY.absmax(x, unit), f"absmax {length} {unit}")
        for factors in (None, weights, moved(weights)):
            with np.errstate(invalid="ignore", over="ignore"):
                wanted = NUMPY.errors(x, decoded, factors, unit)
            check(
                NATIVE.errors(array, moved(decoded), factors, unit),
                wanted,
                f"errors {length} {unit}",
            )


def check_few(rows: int, length: int, unit: int) -> None:
    x, decoded, weights = floats(rows, length), floats(rows, length), np.abs(floats(length))
    with np.errstate(invalid="ignore", over="ignore"):
        sums = NUMPY.errors(x, None, None, unit)
        check(NATIVE.errors(moved(x), None, None, unit), sums, f"squares {length} {unit}")
        bounds = 0.1 * sums
        wanted = NUMPY.above(x, bounds, unit)
        check(NATIVE.above(moved(x), moved(bounds), unit), wanted, f"above {length} {unit}")
        for factors in (None, weights):
            for floor in (-1.0, 1.0, 1e30):
                wanted = NUMPY.errors_above(x, decoded, factors, floor)
                found = NATIVE.errors_above(moved(x), moved(decoded), factors, floor)
                check(found, wanted, f"errors above {floor} {length}")


def check_words(count: int) -> None:
    for steps in (0, 1, 3, 127, 2000):
        thresholds = np.sort(RNG.standard_normal(steps).astype(np.float32))
        thresholds[steps // 2 :] = np.maximum(thresholds[steps // 2 :], np.float32(0.25))
        values = floats(count)
        wanted = NUMPY.ranks(values, thresholds)
        check(NATIVE.ranks(moved(values), moved(thresholds)), wanted, f"ranks {count} {steps}")
        thresholds.flags.writeable = False
        check(NATIVE.ranks(values, thresholds), wanted, f"ranks {count} {steps}")
    words = RNG.integers(0, 1 << 32, count).astype(np.uint32)
    tables = [
        WordTable(floats(128), 1, 7, 8),
        WordTable(None, 0, 31, 31),
        WordTable(floats(1), 3, 0, None),
    ]
    for table in tables:
        with np.errstate(invalid="ignore", over="ignore"):
            wanted = NUMPY.word_values(words, table, 0.37)
        check(NATIVE.word_values(moved(words), table, 0.37), wanted, f"words {count}")


def check_fields(rows: int, count: int) -> None:
    for bits in (*range(1, 9), 10, 12, 16, 17, 32):
        for order in ("low_first", "high_first"):
            stream = Stream("codes", bits, "element", order)
            fields = RNG.integers(0, 1 << bits, (rows, count), np.uint64).astype(np.uint32)
            octets = NUMPY.pack(fields, stream)
            check(NATIVE.pack(moved(fields), stream), octets, f"pack {count} {bits} {order}")
            check(NATIVE.unpack(moved(octets), count, stream), fields, f"unpack {count} {bits}")


def check_records(rows: int, count: int) -> None:
    for name in RECORDS:
        fmt = load(name)
        assert fmt.record is not None
        length = count * fmt.record.elements
        streams = {
            stream: RNG.integers(0, 256, (rows, count * width)).astype(np.uint8)
            for stream, width in stream_widths(fmt).items()
        }
        records = NUMPY.to_records(fmt, streams, rows, length)
        placed = {stream: moved(octets) for stream, octets in streams.items()}
        check(NATIVE.to_records(fmt, placed, rows, length), records, f"records of {name}")
        back = NATIVE.from_records(fmt, moved(records), length)
        for stream, octets in NUMPY.from_records(fmt, records, length).items():
            check(back[stream], octets, f"{stream} of records of {name}")


def check_scans(count: int) -> None:
    x = floats(count)
    if scan(moved(x)) != scan_numpy(x):
        sys.exit(f"scan {count}")
    for dtype in NARROW:
        narrow = RNG.integers(0, 1 << 16, count).astype(np.uint16)
        found, said = widen(moved(narrow), dtype)
        check(found, widen_numpy(narrow, dtype), f"widen {dtype} {count}")
        if said != scan_numpy(found):
            sys.exit(f"the scan of widened {dtype} {count}")


def main() -> None:
    for length in LENGTHS:
        for rows in (0, 1, 3):
            for unit in UNITS:
                check_pieces(rows, length, unit)
                check_few(rows, length, unit)
        check_fields(2, length)
        check_records(2, length // 8)
        check_words(length)
        if length:
            check_scans(length)
    sys.stdout.write("all alike\n")


if __name__ == "__main__":
    main()
