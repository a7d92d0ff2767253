"""What memory can do, measured: filling past the cache, copying, reading, and both at once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from fmtc.runtime.compile_cache import compile_library
from numpy.typing import NDArray

from .measure import ROOF, Contender, Rows, take_turns

#: Bytes of a cache line, to which outputs are aligned.
LINE = 64

#: Writing as many bytes as a decoder gives, past the cache.
FILL = f"{ROOF}non-temporal fill"
#: That, and reading as many as the decoder reads.
PASS = f"{ROOF}same traffic"
#: Reading what an encoder is given, or the packed matrix of a product.
READ = f"{ROOF}read"
#: Copying what a decoder gives.
COPY = "memcpy"

_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p

U8 = NDArray[np.uint8]


@cache
def _library() -> ctypes.CDLL:
    text = Path(__file__).with_name("roofs.c").read_text(encoding="utf-8")
    library = ctypes.CDLL(str(compile_library({"roofs.c": text})))
    library.roof_fill.argtypes, library.roof_fill.restype = [_POINTER, _SIZE], None
    library.roof_read.argtypes, library.roof_read.restype = [_POINTER, _SIZE], ctypes.c_uint64
    library.roof_pass.argtypes = [_POINTER, _SIZE, _POINTER, _SIZE]
    library.roof_pass.restype = ctypes.c_uint64
    return library


def aligned(count: int) -> U8:
    """``count`` bytes that begin at a cache line, each page in memory of its own."""
    room = np.ones(count + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + count]


def fill(out: U8, rows: Rows) -> None:
    """Write every line of ``out`` past the cache."""
    library, base = _library(), out.ctypes.data
    rows(lambda a, b: library.roof_fill(base + a, b - a), out.nbytes, LINE)


def read(data: U8, rows: Rows) -> None:
    """Read every byte of ``data``, but for the last few that make no word."""
    library, base = _library(), data.ctypes.data
    rows(lambda a, b: library.roof_read(base + a, b - a), data.nbytes, LINE)


def read_and_fill(data: U8, out: U8, rows: Rows) -> None:
    """Read all of ``data`` while ``out`` is filled."""
    library, source, target = _library(), data.ctypes.data, out.ctypes.data

    def work(first: int, end: int) -> None:
        top = first * data.nbytes // out.nbytes // LINE * LINE
        bottom = data.nbytes if end == out.nbytes else end * data.nbytes // out.nbytes
        library.roof_pass(source + top, bottom // LINE * LINE - top, target + first, end - first)

    rows(work, out.nbytes, LINE)


def copy(data: U8, out: U8, rows: Rows) -> None:
    """The C library's memcpy, by rows of a line."""

    def work(first: int, end: int) -> None:
        ctypes.memmove(out.ctypes.data + first, data.ctypes.data + first, end - first)

    rows(work, out.nbytes, LINE)


def decode_roofs(packed: int, out: U8, elements: int, rows: Rows) -> Iterator[Contender]:
    """What bounds a decoder that reads ``packed`` bytes and writes all of ``out``."""
    data = aligned(packed)
    same = aligned(out.nbytes)
    yield Contender(FILL, elements, lambda: fill(out, rows))
    yield Contender(PASS, elements, lambda: read_and_fill(data, out, rows))
    yield Contender(COPY, elements, lambda: copy(same, out, rows))


def read_roof(data: U8, elements: int, rows: Rows) -> Iterator[Contender]:
    """What bounds an encoder and a product: the input, or the packed matrix, must be read."""
    yield Contender(READ, elements, lambda: read(data, rows))


def gigabytes_per_second(count: int, rows: Rows, seconds: float) -> dict[str, float]:
    """GB/s of each roof over ``count`` bytes; a copied byte is read and written, and counts once.

    Raises:
        BackendUnavailable: there is no C compiler.
    """
    data, out = aligned(count), aligned(count)
    _library()
    speeds = take_turns(
        [
            Contender("fill", count, lambda: fill(out, rows)),
            Contender("read", count, lambda: read(data, rows)),
            Contender("memcpy", count, lambda: copy(data, out, rows)),
        ],
        seconds,
        rows.threads,
    )
    return {name: round(float(speed) / 1e3, 2) for name, speed in speeds.items()}
