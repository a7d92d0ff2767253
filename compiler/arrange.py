"""How the elements of a tensor fall into blocks: pieces of rows, tiles, rows, or all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .format import Format
from .thresholds import F32

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Rows of ``length`` elements, cut into *pieces* of ``unit`` that make up *blocks*.

    A piece lies in one row; the last of a row may be short. A block is a piece, a column of
    pieces (tile), a row of them, or all. Values of pieces are arrays [rows, pieces], those of
    blocks [block_rows, block_columns].
    """

    rows: int
    length: int
    unit: int
    extent: str
    tile: int

    @staticmethod
    def of(fmt: Format, rows: int, length: int) -> Arrangement:
        """The arrangement of a tensor of [rows, length] elements."""
        return Arrangement(rows, length, fmt.block, fmt.extent, fmt.tile)

    @property
    def pieces(self) -> int:
        """Pieces of a row."""
        return -(-self.length // self.unit)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        if self.extent == "row":
            return (self.rows, min(1, self.length))
        if self.extent == "tensor":
            return (min(1, self.rows), min(1, self.length))
        return (-(-self.rows // self.tile), self.pieces)

    def padded(self, x: F32) -> F32:
        """float32 [rows, pieces, unit]; a short piece repeats its last element."""
        spare = self.pieces * self.unit - self.length
        full = np.pad(x, ((0, 0), (0, spare)), mode="edge") if spare else x
        return full.reshape(self.rows, self.pieces, self.unit)

    def reduce(self, ufunc: np.ufunc, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Values of pieces to values of blocks by ``np.maximum``, ``np.add`` and the like."""
        if values.size == 0:
            return np.zeros(self.block_shape, values.dtype)
        if self.extent != "block":
            values = ufunc.reduce(values, axis=1, keepdims=True)
            return values if self.extent == "row" else ufunc.reduce(values, axis=0, keepdims=True)
        if self.tile == 1:
            return values
        return ufunc.reduceat(values, np.arange(0, self.rows, self.tile), axis=0)

    def expand(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Values of blocks to values of the pieces that they are made of."""
        if values.size == 0:
            return np.zeros((self.rows, self.pieces), values.dtype)
        if self.extent == "block" and self.tile == 1:
            return values
        if self.extent == "block":
            return np.repeat(values, self.tile, axis=0)[: self.rows]
        return np.broadcast_to(values, (self.rows, self.pieces)).copy()


@dataclass(frozen=True, slots=True)
class Peaks:
    """What the elements of each block reach, as float32 [block_rows, block_columns].

    Attributes:
        positive, negative: the largest max(x, 0) and max(-x, 0).
        low, high: the least and the largest element.
        first_negative: whether the first element of largest magnitude is negative.
        broken: whether the block holds a NaN (whose other values mean nothing).
    """

    positive: F32
    negative: F32
    low: F32
    high: F32
    first_negative: NDArray[np.bool_]
    broken: NDArray[np.bool_]

    def row(self, index: int) -> Peaks:
        """Those of one row of blocks."""
        one = slice(index, index + 1)
        return Peaks(
            self.positive[one],
            self.negative[one],
            self.low[one],
            self.high[one],
            self.first_negative[one],
            self.broken[one],
        )

    @property
    def largest(self) -> F32:
        """The largest magnitude."""
        return np.maximum(self.positive, self.negative)


def peaks_of(arrangement: Arrangement, x: F32) -> Peaks:
    """The peaks of every block of float32 [rows, length]."""
    pieces = arrangement.padded(x)
    reduce = arrangement.reduce
    broken = np.isnan(pieces).any(axis=2)
    with np.errstate(invalid="ignore"):
        low, high = pieces.min(axis=2), pieces.max(axis=2)
    zero = np.float32(0)
    sizes = np.maximum(high, -low)
    first = np.abs(pieces).argmax(axis=2)
    negative = np.signbit(np.take_along_axis(pieces, first[..., None], axis=2)[..., 0])
    if arrangement.extent != "block" or arrangement.tile > 1:
        negative = _first_sign(arrangement, sizes, negative)
    return Peaks(
        positive=np.asarray(reduce(np.maximum, np.maximum(high, zero)), np.float32),
        negative=np.asarray(reduce(np.maximum, np.maximum(-low, zero)), np.float32),
        low=np.asarray(reduce(np.minimum, low), np.float32),
        high=np.asarray(reduce(np.maximum, high), np.float32),
        first_negative=negative,
        broken=np.asarray(reduce(np.logical_or, np.asarray(broken)), np.bool_),
    )


def _first_sign(
    arrangement: Arrangement, sizes: F32, negative: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The sign at the first piece, row by row, that reaches its block's largest magnitude."""
    if sizes.size == 0:
        return np.zeros(arrangement.block_shape, np.bool_)
    most = arrangement.expand(arrangement.reduce(np.maximum, sizes))
    order = np.where(sizes == most, np.arange(sizes.size).reshape(sizes.shape), sizes.size - 1)
    first = np.asarray(arrangement.reduce(np.minimum, order), np.int64)
    return np.asarray(negative.reshape(-1)[first], np.bool_)
