"""The C back end: generated C, built with the system's compiler at first use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from ..codegen.c import emit, symbol
from ..compiler.format import Format
from ..compiler.reference import TensorLevel
from ..compiler.thresholds import scale_thresholds
from ..compiler.view import view_of
from .backend import F32, U8, BackendUnavailable
from .compile_cache import compile_library

#: Below this many elements another thread costs more than it saves.
THREAD_GRAIN = 1 << 18

_SIZE, _FLOAT, _POINTER = ctypes.c_size_t, ctypes.c_float, ctypes.c_void_p


class CBackend:
    """Encodes, decodes and multiplies packed rows with compiled C.

    Encode and decode give the reference's bits (a NaN stays a NaN, with any payload);
    calls release the GIL and large tensors are cut into rows for several threads, which
    does not change a bit.

    Args:
        fmt: the format.
        native: use every instruction of this processor; False gives portable code.
        threads: at most so many threads; None means one for each processor.

    Raises:
        BackendUnavailable: no compiler, or it cannot build the library; says why.
    """

    name = "c"

    def __init__(self, fmt: Format, *, native: bool = True, threads: int | None = None) -> None:
        self._format = fmt
        self._view = view_of(fmt)
        self._threads = threads or _processors()
        library = _load(fmt, native)
        prefix = symbol(fmt)
        stream = [_POINTER, _SIZE]
        self._encode = _function(
            library,
            f"{prefix}_encode",
            [_SIZE, _SIZE, _POINTER, _SIZE, _FLOAT, _POINTER, *stream * 3],
            _SIZE,
        )
        packed = [_SIZE, _SIZE, *stream * 3, _FLOAT]
        self._decode = _function(library, f"{prefix}_decode", [*packed, _POINTER, _SIZE], None)
        self._dot = _function(library, f"{prefix}_dot", [*packed, _POINTER, _POINTER], None)

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """See ``Backend.encode``.

        Raises:
            ValueError: x is not two-dimensional, or holds a NaN that the format cannot store.
        """
        if x.ndim != 2:
            raise ValueError(f"rows of elements are two-dimensional, not {x.ndim}-dimensional")
        with np.errstate(over="ignore", under="ignore"):
            source = np.ascontiguousarray(x, np.float32)
        rows, length = source.shape
        thresholds = _thresholds(self._format, level.multiplier)
        streams = {
            s.name: np.empty((rows, s.row_bytes(length, self._format.block)), np.uint8)
            for s in self._format.streams
        }
        broken = [0]

        def work(top: int, bottom: int) -> None:
            found = self._encode(
                bottom - top,
                length,
                _address(source, top),
                length,
                level.multiplier,
                _address(thresholds, 0),
                *_stream_arguments(streams, top),
            )
            broken.append(found)

        self._over_rows(work, rows, length)
        if sum(broken) and self._view.scale.nan_magnitude is None:
            raise ValueError("the format has no NaN to propagate")
        return streams

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, out: F32 | None = None
    ) -> F32:
        """See ``Backend.decode``; writes to ``out``, C-contiguous [rows, length], where given.

        Raises:
            ValueError: a stream is missing, too short, or not uint8 rows, or ``out`` does
                not fit.
        """
        checked, rows = self._check(streams, length)
        result = np.empty((rows, length), np.float32) if out is None else out
        fits = result.shape == (rows, length) and result.dtype == np.float32
        if not (fits and result.flags.c_contiguous and result.flags.writeable):
            raise ValueError(f"the output is not writeable contiguous float32 [{rows}, {length}]")

        def work(top: int, bottom: int) -> None:
            self._decode(
                bottom - top,
                length,
                *_stream_arguments(checked, top),
                level.multiplier,
                _address(result, top),
                length,
            )

        self._over_rows(work, rows, length)
        return result

    def dot(self, streams: dict[str, U8], length: int, level: TensorLevel, vector: F32) -> F32:
        """Packed matrix times vector: float32 [rows].

        Every product of grid value and vector element is exact, sums are binary64 in an
        order that the generated C states (so the bits are the same on every machine), and
        each row is rounded once to binary32. It differs from sum(decoded * vector), whose
        elements are rounded one by one, by at most
        2^-22 * sum(|decoded * vector|) + 2^-149 * (sum(|vector|) + 1).

        Args:
            streams: as ``encode`` returns them.
            length: elements per row.
            level: the tensor's second level.
            vector: float32 [length].

        Raises:
            ValueError: a stream is missing, too short, or not uint8 rows, or the vector is
                not of this length.
        """
        if vector.shape != (length,):
            raise ValueError(f"the vector has shape {vector.shape}, the rows need ({length},)")
        checked, rows = self._check(streams, length)
        factor = np.ascontiguousarray(vector, np.float32)
        out = np.empty(rows, np.float32)

        def work(top: int, bottom: int) -> None:
            self._dot(
                bottom - top,
                length,
                *_stream_arguments(checked, top),
                level.multiplier,
                _address(factor, 0),
                _address(out, top),
            )

        self._over_rows(work, rows, length)
        return out

    def _check(self, streams: dict[str, U8], length: int) -> tuple[dict[str, U8], int]:
        """The streams as contiguous rows that are long enough, and how many rows."""
        if length < 0:
            raise ValueError(f"a row cannot have {length} elements")
        checked = {}
        for stream in self._format.streams:
            if stream.name not in streams:
                raise ValueError(f"the stream '{stream.name}' is missing")
            octets = streams[stream.name]
            needed = stream.row_bytes(length, self._format.block)
            if octets.ndim != 2 or octets.dtype != np.uint8:
                raise ValueError(
                    f"the stream '{stream.name}' is {octets.dtype}{list(octets.shape)}, "
                    "not uint8 [rows, bytes]"
                )
            if octets.shape[1] < needed:
                raise ValueError(
                    f"the stream '{stream.name}' has {octets.shape[1]} bytes a row, "
                    f"{length} elements need {needed}"
                )
            checked[stream.name] = np.ascontiguousarray(octets)
        counts = {len(octets) for octets in checked.values()}
        if len(counts) != 1:
            raise ValueError(f"the streams have different numbers of rows: {sorted(counts)}")
        return checked, counts.pop()

    def _over_rows(self, work: Callable[[int, int], None], rows: int, length: int) -> None:
        """Do ``work(first row, end row)`` for all rows, in several threads when it pays."""
        parts = max(1, min(self._threads, rows, rows * length // THREAD_GRAIN))
        edges = [rows * i // parts for i in range(parts + 1)]
        if parts == 1:
            work(0, rows)
            return
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(work, edges[:-1], edges[1:]))


@lru_cache(maxsize=64)
def _thresholds(fmt: Format, multiplier: float) -> F32:
    """The tensor's scale thresholds, kept: their exact arithmetic takes milliseconds."""
    table = np.ascontiguousarray(scale_thresholds(view_of(fmt), multiplier))
    table.flags.writeable = False
    return table


def _stream_arguments(streams: dict[str, U8], top: int) -> list[int | None]:
    """Pointer and row stride of codes, scales and select; NULL and 0 where there is none."""
    arguments: list[int | None] = []
    for name in ("codes", "scales", "select"):
        octets = streams.get(name)
        arguments += (None, 0) if octets is None else (_address(octets, top), octets.shape[1])
    return arguments


def _address(array: U8 | F32, row: int) -> int:
    """The address of a row of a C-contiguous array."""
    return int(array.ctypes.data) + row * array.strides[0]


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load(fmt: Format, native: bool) -> ctypes.CDLL:
    """The format's library. One that cannot be loaded (cut short on disk) is built again."""
    files = emit(fmt)
    path = compile_library(files, native=native)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    path = compile_library(files, native=native)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendUnavailable(f"the built library cannot be loaded: {error}") from error


def _function(
    library: ctypes.CDLL,
    name: str,
    arguments: list[type],
    result: type | None,
) -> Callable[..., int]:
    function: Callable[..., int] = library[name]
    function.argtypes = arguments  # type: ignore[attr-defined]
    function.restype = result  # type: ignore[attr-defined]
    return function
