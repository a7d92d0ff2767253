"""What does the elements: an engine, and the NumPy reference as one."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .blockwork import NUMPY, BlockWork
from .elements import U8, element_codes, element_values
from .format import Format, Stream
from .kernel import kernel_format
from .narrow import Decoded, narrow
from .packing import pack, unpack
from .reference import TensorLevel, chunks, decode, encode
from .thresholds import F32
from .view import view_of

T = TypeVar("T", np.float32, np.uint8)


class Engine(Protocol):
    """Encodes and decodes rows of one plain format, bit for bit like the reference."""

    @property
    def blocks(self) -> BlockWork:
        """What does the work that is no format's."""
        ...

    def inner(self, fmt: Format) -> Engine:
        """An engine for the elements of another format, any: of stored scales or minima."""
        ...

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """Stream name -> uint8 [rows, bytes], from C-contiguous float32 [rows, n].

        The caller has dealt with NaN and infinity: what arrives is finite, or NaN where the
        format propagates it.
        """
        ...

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, dtype: str = "float32"
    ) -> Decoded:
        """[rows, length] from the streams that ``encode`` makes.

        Each value is rounded once to binary32, and then to ``dtype`` (see ``narrow``).
        """
        ...

    def encode_given(self, x: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        """The ``codes`` stream under given scales.

        Args:
            x: float32 [rows, n], finite.
            scales: effective binary32 scales [rows, ceil(n / block)]; the sign mirrors the grid.
            selects: every block's grid, of the same shape; None for the first.
            zeros: every block's zero point or minimum; None where the format has none.
        """
        ...

    def decode_given(
        self,
        codes: U8,
        scales: F32,
        selects: U8 | None,
        zeros: F32 | None,
        length: int,
        dtype: str = "float32",
    ) -> Decoded:
        """[rows, length] from a ``codes`` stream under given scales; ``dtype`` as in ``decode``."""
        ...


class ReferenceEngine:
    """The NumPy reference: always there, and always right."""

    blocks: BlockWork = NUMPY

    def __init__(self, fmt: Format) -> None:
        self._format = fmt
        self._view = view_of(fmt)
        self._codes = Stream("codes", fmt.code_bits, "element", fmt.order)

    def inner(self, fmt: Format) -> Engine:
        """See ``Engine.inner``."""
        return ReferenceEngine(kernel_format(fmt))

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """See ``Engine.encode``."""
        return encode(self._format, x, level)

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, dtype: str = "float32"
    ) -> Decoded:
        """See ``Engine.decode``."""
        return narrow(decode(self._format, streams, length, level), dtype)

    def encode_given(self, x: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        """See ``Engine.encode_given``."""
        rows, length = x.shape
        out = np.zeros((rows, self._codes.row_bytes(length, self._format.block)), np.uint8)
        for row, column in chunks(self._format, rows, length):
            count = column.stop - column.start
            blocks = self._blocks(x[row, column])
            given = self._given(row, column, scales, selects, zeros)
            codes = self._codes_of(blocks, *given).reshape(row.stop - row.start, -1)[:, :count]
            packed = pack(codes, self._codes)
            start = self._codes.row_bytes(column.start, self._format.block)
            out[row, start : start + packed.shape[1]] = packed
        return out

    def decode_given(
        self,
        codes: U8,
        scales: F32,
        selects: U8 | None,
        zeros: F32 | None,
        length: int,
        dtype: str = "float32",
    ) -> Decoded:
        """See ``Engine.decode_given``."""
        rows, block = codes.shape[0], self._format.block
        out = np.empty((rows, length), np.float32)
        for row, column in chunks(self._format, rows, length):
            count = column.stop - column.start
            start = self._codes.row_bytes(column.start, block)
            stop = start + self._codes.row_bytes(count, block)
            fields = unpack(codes[row, start:stop], count, self._codes).astype(np.uint8)
            blocks = self._blocks(fields)
            given_scales, given_selects, given_zeros = self._given(
                row, column, scales, selects, zeros
            )
            which = np.zeros(len(blocks), np.uint8) if given_selects is None else given_selects
            values = element_values(self._view, blocks, given_scales, which, given_zeros)
            out[row, column] = values.reshape(row.stop - row.start, -1)[:, :count]
        return narrow(out, dtype)

    def _blocks(self, piece: NDArray[T]) -> NDArray[T]:
        spare = -piece.shape[1] % self._format.block
        return np.pad(piece, ((0, 0), (0, spare))).reshape(-1, self._format.block)

    def _given(
        self, row: slice, column: slice, scales: F32, selects: U8 | None, zeros: F32 | None
    ) -> tuple[F32, U8 | None, F32 | None]:
        """What is given for the blocks of a chunk, each flat."""
        block = self._format.block
        places = row, slice(column.start // block, -(-column.stop // block))
        return (
            scales[places].reshape(-1),
            None if selects is None else selects[places].reshape(-1),
            None if zeros is None else zeros[places].reshape(-1),
        )

    def _codes_of(self, blocks: F32, scales: F32, selects: U8 | None, zeros: F32 | None) -> U8:
        if selects is None:
            return element_codes(self._view, self._view.grids[0], blocks, scales, zeros)
        codes = np.zeros(blocks.shape, np.uint8)
        for index, grid in enumerate(self._view.grids):
            mine = selects == index
            theirs = None if zeros is None else zeros[mine]
            codes[mine] = element_codes(self._view, grid, blocks[mine], scales[mine], theirs)
        return codes
