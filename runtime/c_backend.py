"""The C back end: generated C, built with the system's compiler at first use."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codegen.c import emit_target
from ..codegen.c.structure import VALUES, nameless, take_apart
from ..compiler.format import Format, Stream
from ..compiler.kernel import kernel_format
from ..compiler.reference import TensorLevel
from ..compiler.thresholds import scale_thresholds
from ..compiler.view import view_of
from .arguments import Blocks, address, given_arguments, stream_arguments
from .backend import F32, U8
from .compile_cache import function_of, load_apart
from .cpu import fastest_target, target_of
from .memory import aligned_empty
from .native.blocks import NativeBlockWork
from .threads import over_rows, processors

#: What is decoded to: name -> the C's ``fmtc_number``, and what NumPy holds it in.
_NUMBERS: dict[str, tuple[int, type[np.generic]]] = {
    "float32": (0, np.float32),
    "bfloat16": (1, np.uint16),
    "float16": (2, np.float16),
}

#: Rows of decoded numbers.
Decoded = NDArray[Any]

_Array = TypeVar("_Array", F32, U8)

_SIZE, _FLOAT, _POINTER = ctypes.c_size_t, ctypes.c_float, ctypes.c_void_p
_INT = ctypes.c_int


class CBackend:
    """Encodes, decodes and multiplies packed rows with compiled C.

    Encode and decode give the reference's bits (a NaN stays a NaN, with any payload);
    calls release the GIL and large tensors are cut into rows for several threads, which
    does not change a bit. A format that is not plain has only ``encode_given`` and
    ``decode_given``: the pipeline chooses its scales and zeros.

    Args:
        fmt: the format.
        target: one of ``codegen.c.targets``; None takes the fastest that this processor runs.
        threads: at most so many threads; None means one for each processor.

    Raises:
        BackendUnavailable: no compiler, it cannot build the library, or this processor does
            not run the target; says why.
        ValueError: there is no such target.
    """

    name = "c"

    def __init__(
        self, fmt: Format, *, target: str | None = None, threads: int | None = None
    ) -> None:
        self._format = fmt
        self._view = view_of(fmt)
        self._codes = next(stream for stream in fmt.streams if stream.name == "codes")
        self._threads = threads or processors()
        self.blocks = NativeBlockWork(self._threads)
        self._inner: dict[Format, CBackend] = {}
        self.target = fastest_target() if target is None else target_of(target)
        plain = nameless(fmt)
        apart = take_apart(plain, emit_target(plain, self.target))
        library = load_apart(apart.shared, {VALUES: apart.values})
        prefix = f"{apart.symbol}_{self.target.name}"
        stream = [_POINTER, _SIZE]
        given = [_POINTER, _POINTER, _POINTER, _SIZE]
        out = [_POINTER, _SIZE, _INT]
        self._encode_given = function_of(
            library,
            f"{prefix}_encode_given",
            [_SIZE, _SIZE, _POINTER, _SIZE, *given, *stream],
            None,
        )
        self._decode_given = function_of(
            library, f"{prefix}_decode_given", [_SIZE, _SIZE, *stream, *given, *out], None
        )
        if not fmt.is_plain:
            return
        self._encode = function_of(
            library,
            f"{prefix}_encode",
            [_SIZE, _SIZE, _POINTER, _SIZE, _FLOAT, _POINTER, *stream * 3],
            _SIZE,
        )
        self._decode = function_of(
            library, f"{prefix}_decode", [_SIZE, _SIZE, *stream * 3, _FLOAT, *out], None
        )

    def inner(self, fmt: Format) -> CBackend:
        """See ``Engine.inner``."""
        kernel = kernel_format(fmt)
        if kernel not in self._inner:
            self._inner[kernel] = CBackend(kernel, target=self.target.name, threads=self._threads)
        return self._inner[kernel]

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """See ``Backend.encode``.

        Raises:
            ValueError: x is not two-dimensional, or holds a NaN that the format cannot store;
                or the format goes through the pipeline.
        """
        self._check_fused()
        source = _elements(x)
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
                address(source, top),
                length,
                level.multiplier,
                address(thresholds, 0),
                *stream_arguments(streams, top),
            )
            broken.append(found)

        over_rows(work, rows, length, self._threads)
        if sum(broken) and self._view.scale.nan_magnitude is None:
            raise ValueError("the format has no NaN to propagate")
        return streams

    def decode(
        self,
        streams: dict[str, U8],
        length: int,
        level: TensorLevel,
        dtype: str = "float32",
        out: Decoded | None = None,
    ) -> Decoded:
        """See ``Backend.decode``; writes to ``out``, C-contiguous [rows, length], where given.

        Raises:
            ValueError: a stream is missing, too short, or not uint8 rows, ``out`` does
                not fit, or there is no such dtype; or the format goes through the pipeline.
        """
        self._check_fused()
        checked, rows = self._check(streams, length)
        number, result = _output(out, dtype, rows, length)

        def work(top: int, bottom: int) -> None:
            self._decode(
                bottom - top,
                length,
                *stream_arguments(checked, top),
                level.multiplier,
                address(result, top),
                length,
                number,
            )

        over_rows(work, rows, length, self._threads)
        return result

    def encode_given(self, x: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        """Codes of rows whose blocks' scales are given: only the elements are rounded here.

        Args:
            x: finite float32 [rows, n].
            scales: finite effective scales, float32 [rows, ceil(n / block)]. A negative one
                (-0 too) mirrors the grid, and a zero counts as 1.
            selects: the index of each block's grid, uint8 like ``scales``; None: all 0.
            zeros: each block's zero point or effective minimum, float32 like ``scales``, for a
                format that has them; else None.

        Returns:
            uint8 [rows, bytes of n codes].

        Raises:
            ValueError: an array does not fit, or no grid has a block's index.
        """
        source = _elements(x)
        rows, length = source.shape
        given = self._check_given(rows, length, (scales, selects, zeros), len(self._view.grids))
        width = self._codes.row_bytes(length, self._format.block)
        codes = np.empty((rows, width), np.uint8)

        def work(top: int, bottom: int) -> None:
            self._encode_given(
                bottom - top,
                length,
                address(source, top),
                length,
                *given_arguments(given, top),
                address(codes, top),
                width,
            )

        over_rows(work, rows, length, self._threads)
        return codes

    def decode_given(
        self,
        codes: U8,
        scales: F32,
        selects: U8 | None,
        zeros: F32 | None,
        length: int,
        dtype: str = "float32",
        out: Decoded | None = None,
    ) -> Decoded:
        """Rows from their codes and what ``encode_given`` was given.

        Args:
            codes: uint8 [rows, bytes of ``length`` codes or more].
            scales: see ``encode_given``; 0 decodes to zeros.
            selects: see ``encode_given``; what a select field can say, but no grid has, is NaN.
            zeros: see ``encode_given``.
            length: elements per row.
            dtype: see ``Engine.decode``.
            out: C-contiguous [rows, length] to write to, allocated when None.

        Raises:
            ValueError: an array does not fit, or there is no such dtype.
        """
        codes = self._check_stream(self._codes, codes, length)
        rows = len(codes)
        tables = len(self._view.decode_bits) >> self._format.code_bits
        given = self._check_given(rows, length, (scales, selects, zeros), tables)
        number, result = _output(out, dtype, rows, length)

        def work(top: int, bottom: int) -> None:
            self._decode_given(
                bottom - top,
                length,
                address(codes, top),
                codes.shape[1],
                *given_arguments(given, top),
                address(result, top),
                length,
                number,
            )

        over_rows(work, rows, length, self._threads)
        return result

    def _check_fused(self) -> None:
        """Raises ValueError where scales are not chosen in C."""
        if not self._format.is_plain:
            raise ValueError(
                f"the C of '{self._format.name}' is given its scales: "
                "the format goes through the pipeline"
            )

    def _check(self, streams: dict[str, U8], length: int) -> tuple[dict[str, U8], int]:
        """The streams as contiguous rows that are long enough, and how many rows."""
        checked = {}
        for stream in self._format.streams:
            if stream.name not in streams:
                raise ValueError(f"the stream '{stream.name}' is missing")
            checked[stream.name] = self._check_stream(stream, streams[stream.name], length)
        counts = {len(octets) for octets in checked.values()}
        if len(counts) != 1:
            raise ValueError(f"the streams have different numbers of rows: {sorted(counts)}")
        return checked, counts.pop()

    def _check_stream(self, stream: Stream, octets: U8, length: int) -> U8:
        """The stream as contiguous rows that are long enough."""
        if length < 0:
            raise ValueError(f"a row cannot have {length} elements")
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
        return np.ascontiguousarray(octets)

    def _check_given(
        self, rows: int, length: int, given: tuple[F32, U8 | None, F32 | None], indices: int
    ) -> Blocks:
        """Scales, selects and zeros as contiguous arrays of one entry for each block."""
        scales, selects, zeros = given
        shape = (rows, -(-length // self._format.block))
        if (zeros is None) != (self._format.zero is None):
            wanted = "no zeros" if self._format.zero is None else "a zero for each block"
            raise ValueError(f"the format '{self._format.name}' has {wanted}")
        scales = _of_blocks("scales", scales, np.float32, shape)
        if selects is not None:
            selects = _of_blocks("selects", selects, np.uint8, shape)
            if selects.size and int(selects.max()) >= indices:
                raise ValueError(f"no grid of '{self._format.name}' has the index {selects.max()}")
        if zeros is not None:
            zeros = _of_blocks("zeros", zeros, np.float32, shape)
        return scales, selects, zeros


@lru_cache(maxsize=64)
def _thresholds(fmt: Format, multiplier: float) -> F32:
    """The tensor's scale thresholds, kept: their exact arithmetic takes milliseconds."""
    table = np.ascontiguousarray(scale_thresholds(view_of(fmt), multiplier))
    table.flags.writeable = False
    return table


def _elements(x: F32) -> F32:
    """Rows of elements, C-contiguous; wider floats are rounded."""
    if x.ndim != 2:
        raise ValueError(f"rows of elements are two-dimensional, not {x.ndim}-dimensional")
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(x, np.float32)


def _output(out: Decoded | None, dtype: str, rows: int, length: int) -> tuple[int, Decoded]:
    """The C's number for ``dtype``, and the array to write to, allocated when None."""
    if dtype not in _NUMBERS:
        raise ValueError(f"no numbers '{dtype}' to decode to; there are {', '.join(_NUMBERS)}")
    number, kind = _NUMBERS[dtype]
    if out is None:
        return number, aligned_empty((rows, length), kind)
    fits = out.shape == (rows, length) and out.dtype == kind
    if not (fits and out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"the output is not writeable contiguous {np.dtype(kind)} [{rows}, {length}]"
        )
    return number, out


def _of_blocks(name: str, array: _Array, dtype: type[np.generic], shape: tuple[int, int]) -> _Array:
    """An array with an entry for each block, C-contiguous."""
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"the {name} are {array.dtype}{list(array.shape)}, "
            f"not {np.dtype(dtype)}{list(shape)}: one for each block"
        )
    return np.ascontiguousarray(array)
