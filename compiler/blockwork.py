"""What blocks of any format need around their elements: a protocol, and NumPy that fulfils it.

None of it depends on a format's grids, so that one library serves all formats. Implementations
agree to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .format import Format, Stream
from .packing import U8, U32, pack, unpack
from .records import from_records, to_records

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

Floating = TypeVar("Floating", np.float32, np.float64)

_MAGNITUDE = np.int32(0x7FFFFFFF)


@dataclass(frozen=True, slots=True)
class PiecePeaks:
    """What the elements of every piece reach, arrays [rows, pieces].

    Attributes:
        low, high: float32, the least and the largest element, -0 below +0; NaN in a broken piece.
        first_negative: whether the first element of largest magnitude is negative; False in a
            broken piece.
        broken: whether the piece holds a NaN.
    """

    low: F32
    high: F32
    first_negative: Mask
    broken: Mask


@dataclass(frozen=True, slots=True)
class WordTable:
    """What the bits of a stored word mean.

    Attributes:
        values: float32, of every magnitude; None: the magnitude is that of a binary32 number.
        shift, bits: where the magnitude stands.
        sign_bit: the position of the bit that negates, or None.
    """

    values: F32 | None
    shift: int
    bits: int
    sign_bit: int | None


class BlockWork(Protocol):
    """Work on rows of elements cut into *pieces* of ``unit`` (see ``arrange.Arrangement``)."""

    def peaks(self, x: F32, unit: int) -> PiecePeaks:
        """The peaks of every piece of C-contiguous float32 [rows, length]."""
        ...

    def absmax(self, x: F32, unit: int) -> F32:
        """The largest finite magnitude of every piece, 0 where there is none: [rows, pieces]."""
        ...

    def errors(self, x: F32, decoded: F32 | None, weights: F32 | None, unit: int) -> F64:
        """What every piece errs by: float64 [rows, pieces].

        The squares of ``x - decoded`` (C-contiguous float32 [rows, length]; None: zeros), times
        the weights [length] of their columns where there are such, are summed in element order;
        every step is rounded to binary64.
        """
        ...

    def above(self, x: F32, bounds: F64, unit: int) -> I64:
        """Flat indices, ascending, of elements whose magnitude is above their piece's bound."""
        ...

    def errors_above(self, x: F32, decoded: F32, weights: F32 | None, floor: float) -> I64:
        """Flat indices, ascending, of elements with an error that counts for more than ``floor``.

        The error is ``x - decoded`` rounded to binary32, neither zero nor infinite nor NaN. It
        counts for its magnitude, times the weight of its column where there are weights.
        """
        ...

    def ranks(self, values: F32, thresholds: F32) -> U32:
        """How many thresholds [n], ascending, lie below each value; a NaN lies above all."""
        ...

    def word_values(self, words: U32, table: WordTable, multiplier: float) -> F32:
        """What words mean, times a binary32 multiplier, rounded once; an array of their shape."""
        ...

    def pack(self, fields: NDArray[np.unsignedinteger], stream: Stream) -> U8:
        """See ``packing.pack``."""
        ...

    def unpack(self, octets: U8, count: int, stream: Stream) -> U32:
        """See ``packing.unpack``."""
        ...

    def to_records(self, fmt: Format, streams: Mapping[str, U8], rows: int, length: int) -> U8:
        """See ``records.to_records``."""
        ...

    def from_records(self, fmt: Format, records: U8, length: int) -> dict[str, U8]:
        """See ``records.from_records``."""
        ...


class NumpyBlockWork:
    """The arbiter of the other implementations."""

    def peaks(self, x: F32, unit: int) -> PiecePeaks:
        """See ``BlockWork.peaks``."""
        pieces = _pieces(x, unit, "edge")
        order = order_of(pieces)
        low, high = order.min(axis=2), order.max(axis=2)
        first = np.abs(pieces).argmax(axis=2)
        broken = np.asarray(np.isnan(pieces).any(axis=2), np.bool_)
        return PiecePeaks(
            low=np.where(broken, np.float32(np.nan), in_order(low)),
            high=np.where(broken, np.float32(np.nan), in_order(high)),
            first_negative=_signs_at(pieces, first) & ~broken,
            broken=broken,
        )

    def absmax(self, x: F32, unit: int) -> F32:
        """See ``BlockWork.absmax``."""
        sizes = np.abs(_pieces(x, unit, "edge"))
        return np.asarray(np.where(np.isfinite(sizes), sizes, np.float32(0)).max(axis=2))

    def errors(self, x: F32, decoded: F32 | None, weights: F32 | None, unit: int) -> F64:
        """See ``BlockWork.errors``."""
        with np.errstate(over="ignore", invalid="ignore"):
            error = (x.astype(np.float64) - (0 if decoded is None else decoded)) ** 2
            if weights is not None:
                error *= weights.astype(np.float64)
            pieces = _pieces(error, unit, "constant")
            total = np.zeros(pieces.shape[:2])
            for i in range(unit):
                total += pieces[:, :, i]
        return total

    def above(self, x: F32, bounds: F64, unit: int) -> I64:
        """See ``BlockWork.above``."""
        return np.flatnonzero(np.abs(x) > np.repeat(bounds, unit, axis=1)[:, : x.shape[1]])

    def errors_above(self, x: F32, decoded: F32, weights: F32 | None, floor: float) -> I64:
        """See ``BlockWork.errors_above``."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            errors = np.subtract(x, decoded, dtype=np.float32)
            keys = np.abs(errors.astype(np.float64))  # times a binary32 weight it is exact
            if weights is not None:
                keys *= weights
        return np.flatnonzero(np.isfinite(errors) & (errors != 0) & (keys > floor))

    def ranks(self, values: F32, thresholds: F32) -> U32:
        """See ``BlockWork.ranks``."""
        return np.searchsorted(thresholds, values, side="left").astype(np.uint32)

    def word_values(self, words: U32, table: WordTable, multiplier: float) -> F32:
        """See ``BlockWork.word_values``."""
        magnitude = (words >> np.uint32(table.shift)) & np.uint32((1 << table.bits) - 1)
        values = magnitude.view(np.float32) if table.values is None else table.values[magnitude]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = values * np.float32(multiplier)
        if table.sign_bit is None:
            return values
        negative = (words >> np.uint32(table.sign_bit)) & np.uint32(1)
        return np.where(negative, -values, values)

    def pack(self, fields: NDArray[np.unsignedinteger], stream: Stream) -> U8:
        """See ``packing.pack``."""
        return pack(fields, stream)

    def unpack(self, octets: U8, count: int, stream: Stream) -> U32:
        """See ``packing.unpack``."""
        return unpack(octets, count, stream)

    def to_records(self, fmt: Format, streams: Mapping[str, U8], rows: int, length: int) -> U8:
        """See ``records.to_records``."""
        return to_records(fmt, streams, rows, length)

    def from_records(self, fmt: Format, records: U8, length: int) -> dict[str, U8]:
        """See ``records.from_records``."""
        return from_records(fmt, records, length)


#: It keeps nothing between calls: one is enough.
NUMPY = NumpyBlockWork()


def order_of(x: F32) -> I32:
    """Integers that order like binary32 numbers other than NaN, with -0 below +0."""
    bits = x.view(np.int32)
    return bits ^ ((bits >> 31) & _MAGNITUDE)


def in_order(order: I32) -> F32:
    """The inverse of ``order_of``."""
    return (order ^ ((order >> 31) & _MAGNITUDE)).view(np.float32)


def _pieces(
    x: NDArray[Floating], unit: int, mode: Literal["edge", "constant"]
) -> NDArray[Floating]:
    """[rows, pieces, unit]; a short piece repeats its last element (``edge``) or has zeros."""
    rows, length = x.shape
    spare = -length % unit
    full = np.pad(x, ((0, 0), (0, spare)), mode=mode) if spare else x
    return full.reshape(rows, -(-length // unit), unit)


def _signs_at(pieces: F32, index: NDArray[np.intp]) -> Mask:
    """Whether the element of every piece at its index is negative."""
    return np.signbit(np.take_along_axis(pieces, index[..., None], axis=2)[..., 0])
