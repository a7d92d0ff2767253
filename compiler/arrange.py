"""How the elements of a tensor fall into blocks: pieces of rows, tiles, rows, or all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .blockwork import NUMPY, BlockWork, in_order, order_of
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
        low, high: the least and the largest element, -0 below +0.
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


def peaks_of(
    arrangement: Arrangement, x: F32, blocks: BlockWork = NUMPY, signed: bool = True
) -> Peaks:
    """The peaks of every block of C-contiguous float32 [rows, length].

    Args:
        arrangement: how they fall into blocks.
        x: the elements.
        blocks: looks at them.
        signed: whether ``first_negative`` counts; else it says nothing.
    """
    found = blocks.peaks(x, arrangement.unit)
    low, high, negative, broken = found.low, found.high, found.first_negative, found.broken
    if arrangement.extent != "block" or arrangement.tile > 1:
        reduce = arrangement.reduce
        sizes = np.maximum(high, -low)
        nothing = np.zeros(arrangement.block_shape, np.bool_)
        negative = _first_sign(arrangement, sizes, negative) if signed else nothing
        broken = np.asarray(reduce(np.logical_or, broken), np.bool_)
        least = np.asarray(reduce(np.minimum, order_of(low)), np.int32)
        most = np.asarray(reduce(np.maximum, order_of(high)), np.int32)
        low = np.where(broken, np.float32(np.nan), in_order(least))
        high = np.where(broken, np.float32(np.nan), in_order(most))
    zero = np.float32(0)
    return Peaks(
        positive=np.maximum(high, zero),
        negative=np.maximum(-low, zero),
        low=low,
        high=high,
        first_negative=negative,
        broken=broken,
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
