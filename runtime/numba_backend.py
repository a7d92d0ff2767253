"""The numba back end: loops that are compiled once for all formats, and fed with tables."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

import numpy as np

from ..compiler.blockwork import BlockWork
from ..compiler.format import Format
from ..compiler.kernel import kernel_format
from ..compiler.narrow import Decoded, narrow
from ..compiler.reference import TensorLevel
from ..compiler.view import view_of
from .backend import F32, U8, BackendUnavailable
from .loops.tables import Words
from .memory import aligned_empty
from .numba_tables import decode_tables, elements_of, fixed, grids_of, trials_of, words_of
from .threads import over_rows, processors


def require() -> tuple[ModuleType, ModuleType]:
    """The modules of the loops that decode and encode.

    Raises:
        BackendUnavailable: numba cannot be imported; the message says how to get it.
    """
    if find_spec("numba") is None:
        raise BackendUnavailable("numba is not installed: pip install 'fmtc[numba]'")
    try:
        from .loops import decoding, encoding
    except ImportError as reason:  # a numba that does not go with this NumPy
        raise BackendUnavailable(f"numba cannot be imported: {reason}") from reason
    return decoding, encoding


class NumbaEngine:
    """Encodes and decodes rows with loops that numba compiles, bit for bit like the reference.

    Calls release the GIL, and large tensors are cut into rows for several threads, which does
    not change a bit. A format that is not plain has only ``encode_given`` and ``decode_given``:
    the pipeline chooses its scales and zeros.

    Args:
        fmt: the format.
        threads: at most so many threads; None means one for each processor.

    Raises:
        BackendUnavailable: numba cannot be imported; says how to get it.
    """

    name = "numba"

    def __init__(self, fmt: Format, *, threads: int | None = None) -> None:
        self._decoding, self._encoding = require()
        from .numba_blockwork import NumbaBlockWork

        view = view_of(fmt)
        self._format, self._view = fmt, view
        self._threads = threads or processors()
        self.blocks: BlockWork = NumbaBlockWork(self._threads)
        self._elements, self._grids = elements_of(view), grids_of(view)
        self._lut, self._pairs = decode_tables(view)
        self._words = words_of(view) if fmt.is_plain else None

    def inner(self, fmt: Format) -> NumbaEngine:
        """See ``Engine.inner``."""
        return NumbaEngine(kernel_format(fmt), threads=self._threads)

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """See ``Engine.encode``.

        Raises:
            ValueError: x is not two-dimensional, or holds a NaN that the format cannot store;
                or the format goes through the pipeline.
        """
        words, source = self._plain_words(), _rows_of(x)
        rows, length = source.shape
        streams = {
            s.name: np.zeros((rows, s.row_bytes(length, self._format.block)), np.uint8)
            for s in self._format.streams
        }
        codes, scales = streams["codes"], streams["scales"]
        selects = streams.get("select", np.zeros((rows, 0), np.uint8))
        trials = trials_of(self._format, level.multiplier)
        broken = []

        def work(top: int, end: int) -> None:
            rows = slice(top, end)
            written = codes[rows], scales[rows], selects[rows]
            tables = self._elements, words, self._grids, trials
            broken.append(self._encoding.encode(source[rows], *tables, *written))

        over_rows(work, rows, length, self._threads)
        if sum(broken) and self._view.scale.nan_magnitude is None:
            raise ValueError("the format has no NaN to propagate")
        return streams

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, dtype: str = "float32"
    ) -> Decoded:
        """See ``Engine.decode``.

        Raises:
            ValueError: a stream is missing, too short, or not uint8 rows; or the format goes
                through the pipeline.
        """
        words = self._plain_words()
        codes, scales = (
            self._stream("codes", streams, length),
            self._stream("scales", streams, length),
        )
        selects = fixed(np.zeros((len(codes), 0), np.uint8))
        if words.select_bits:
            selects = self._stream("select", streams, length)
        if not len(codes) == len(scales) == len(selects):
            raise ValueError("the streams have different numbers of rows")
        out = aligned_empty((len(codes), length), np.float32)
        tables = self._elements, words, level.multiplier, self._lut, self._pairs

        def work(top: int, end: int) -> None:
            rows = slice(top, end)
            self._decoding.decode(codes[rows], scales[rows], selects[rows], *tables, out[rows])

        over_rows(work, len(codes), length, self._threads)
        return narrow(out, dtype)

    def encode_given(self, x: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        """See ``Engine.encode_given``.

        Raises:
            ValueError: an array does not fit, or no grid has a block's index.
        """
        source = _rows_of(x)
        rows, length = source.shape
        given = self._given((rows, length), scales, selects, zeros, len(self._view.grids))
        codes = np.empty(
            (rows, self._format.streams[0].row_bytes(length, self._format.block)), np.uint8
        )

        def work(top: int, end: int) -> None:
            rows = slice(top, end)
            pieces = (array[rows] for array in given)
            self._encoding.encode_given(
                source[rows], *pieces, self._elements, self._grids, codes[rows]
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
    ) -> Decoded:
        """See ``Engine.decode_given``.

        Raises:
            ValueError: an array does not fit, or a block's index is wider than its field.
        """
        octets = self._stream("codes", {"codes": codes}, length)
        shape = (len(octets), length)
        given = self._given(shape, scales, selects, zeros, len(self._lut))
        out = aligned_empty(shape, np.float32)
        count = 1 if selects is None else len(self._lut)
        tables = self._elements, self._lut[:count], self._pairs[:count]

        def work(top: int, end: int) -> None:
            rows = slice(top, end)
            pieces = (array[rows] for array in given)
            self._decoding.decode_given(octets[rows], *pieces, *tables, out[rows])

        over_rows(work, len(octets), length, self._threads)
        return narrow(out, dtype)

    def _plain_words(self) -> Words:
        """Where scale words stand, in a format whose scales are chosen here."""
        if self._words is None:
            raise ValueError(
                f"the loops of '{self._format.name}' are given its scales: "
                "the format goes through the pipeline"
            )
        return self._words

    def _stream(self, name: str, streams: dict[str, U8], length: int) -> U8:
        """A stream as rows that are long enough: compiled loops do not look."""
        if name not in streams:
            raise ValueError(f"the stream '{name}' is missing")
        octets = streams[name]
        stream = next(stream for stream in self._format.streams if stream.name == name)
        needed = stream.row_bytes(length, self._format.block)
        fits = octets.ndim == 2 and octets.dtype == np.uint8 and octets.shape[1] >= needed
        if length < 0 or not fits:
            raise ValueError(
                f"the stream '{name}' is {octets.dtype}{list(octets.shape)}, "
                f"not uint8 rows of the {needed} bytes of {length} elements"
            )
        return fixed(octets)

    def _given(
        self,
        shape: tuple[int, int],
        scales: F32,
        selects: U8 | None,
        zeros: F32 | None,
        indices: int,
    ) -> tuple[F32, U8, F32]:
        """Scales, selects and zeros [rows, blocks]; [rows, 0] where there are none."""
        rows, blocks = shape[0], -(-shape[1] // self._format.block)
        if (zeros is None) != (self._format.zero is None):
            wanted = "no zeros" if self._format.zero is None else "a zero for each block"
            raise ValueError(f"the format '{self._format.name}' has {wanted}")
        if selects is not None and selects.size and selects.max() >= indices:
            raise ValueError(f"no grid of '{self._format.name}' has the index {selects.max()}")
        none = rows, 0
        wanted_selects = np.zeros(none, np.uint8) if selects is None else selects
        wanted_zeros = np.zeros(none, np.float32) if zeros is None else zeros
        _check("scales", scales.dtype == np.float32, scales.shape, (rows, blocks))
        if selects is not None:
            _check("selects", selects.dtype == np.uint8, selects.shape, (rows, blocks))
        if zeros is not None:
            _check("zeros", zeros.dtype == np.float32, zeros.shape, (rows, blocks))
        return fixed(scales), fixed(wanted_selects), fixed(wanted_zeros)


def _check(name: str, typed: bool, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    """Raises ValueError where an array of blocks is not the one that is read."""
    if not typed or found != wanted:
        raise ValueError(
            f"the {name} are not {list(wanted)}, one for each block, but {list(found)}"
        )


def _rows_of(x: F32) -> F32:
    """Rows of elements; wider floats are rounded."""
    if x.ndim != 2:
        raise ValueError(f"rows of elements are two-dimensional, not {x.ndim}-dimensional")
    with np.errstate(over="ignore", under="ignore"):
        return fixed(x.astype(np.float32, copy=False))
