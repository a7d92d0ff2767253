"""Side streams: outliers kept as they are (``opq``), residuals of the largest errors (``wr``).

Both are few values at some places of a tensor, which is seen flattened and cut into segments of
65536 elements, so that a place takes 16 bits. All decisions are exact, or made in binary64 in a
stated order, so that they come out alike everywhere. SOP, arXiv:2605.14929, on corrections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from .exact import FP32_MAX
from .floats import SmallFloat
from .format import Side, Stream
from .packing import pack, unpack
from .stored import from_word, to_word

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Elements that are worked on at once.
CHUNK = 1 << 17

_LARGEST = np.float32(float(FP32_MAX))


@dataclass(frozen=True, slots=True)
class Sparse:
    """Values at some places of a tensor.

    Attributes:
        index: int64 [k], ascending, in the flattened tensor.
        words: uint32 [k], the stored values.
        scale: a binary32 number that residuals are stored in units of.
    """

    index: I64
    words: U32
    scale: float = 1.0


def take_outliers(side: Side, x: F32, block: int) -> tuple[F32, Sparse]:
    """Take out the elements above ``side.threshold`` standard deviations of their block.

    The deviation is sqrt(sum of squares / elements) in binary64, summed in element order; an
    element is an outlier where its magnitude is above threshold * deviation, in binary64. It is
    kept as the nearest number of the side's word, ties to even, at most the largest.

    Args:
        side: an ``opq`` side.
        x: float32 [rows, n].
        block: elements of a block, along a row; the last block of a row may be shorter.

    Returns:
        ``x`` with zeros in place of outliers (``x`` itself where there are none), and these.
    """
    dense = x
    index, words = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    for row, column in _pieces(x.shape, block):
        piece = x[row, column]
        away = _is_outlier(piece, block, float(side.threshold or 0))
        if not away.any():
            continue
        if dense is x:
            dense = x.copy()
        dense[row, column][away] = 0
        index.append(_flat(away, row, column, x.shape[1]))
        words.append(to_word(side.value, piece[away]))
    return dense, Sparse(np.concatenate(index), np.concatenate(words))


def put_outliers(side: Side, decoded: F32, outliers: Sparse) -> None:
    """Replace the decoded elements [rows, n] at outliers' places, in place."""
    decoded[_places(outliers, decoded)] = from_word(side.value, outliers.words)


def residuals(side: Side, x: F32, decoded: F32, weights: F32 | None = None) -> Sparse:
    """What the worst elements lack.

    Of the elements with an error E = RNE32(x - decoded) other than zero (or NaN or infinite),
    the ceil(fraction * elements) with the largest |E| * weight are corrected, the first ones on
    a tie. Their scale is max |E| / the word's largest value, rounded up to binary32, so that
    none saturates; each is kept as the number r of the word for which r * scale is nearest to
    E, ties to even, decided exactly.

    Args:
        side: a ``wr`` side.
        x: float32 [rows, n].
        decoded: float32 [rows, n], what all else decodes to.
        weights: float32 [n], not negative, of the columns; None: all 1.
    """
    found = _worst(x, decoded, weights, ceil((side.fraction or 0) * x.size))
    largest = float(np.abs(found.errors).max(initial=0))
    scale = _residual_scale(largest, side.value.number)
    words = to_word(side.value, found.errors, unit=scale)
    return Sparse(found.index, words, scale)


def add_residuals(side: Side, decoded: F32, corrections: Sparse) -> None:
    """RNE32(decoded + RNE32(r * scale)) at corrections' places of [rows, n], in place.

    A sum past binary32's largest number stays at that.
    """
    where = _places(corrections, decoded)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        added = from_word(side.value, corrections.words) * np.float32(corrections.scale)
        decoded[where] = np.clip(decoded[where] + added, -_LARGEST, _LARGEST)


def to_streams(side: Side, sparse: Sparse, elements: int) -> dict[str, U8]:
    """The bytes of a side of a tensor of so many elements.

    Returns:
        uint8 [1, bytes] by name, little-endian: ``KIND.counts``, uint32 per segment;
        ``KIND.index``, uint16 per value, ascending in a segment; ``KIND.values``, the words;
        of ``wr`` also ``wr.scale``, binary32.
    """
    segments = -(-elements // side.segment)
    counts = np.bincount(sparse.index // side.segment, minlength=segments)
    streams = {
        "counts": counts.astype("<u4").view(np.uint8)[None],
        "index": (sparse.index % side.segment).astype("<u2").view(np.uint8)[None],
        "values": pack(sparse.words[None], _value_stream(side)),
    }
    if side.kind == "wr":
        streams["scale"] = np.array([[sparse.scale]], "<f4").view(np.uint8)
    return {f"{side.kind}.{name}": octets for name, octets in streams.items()}


def from_streams(side: Side, streams: dict[str, U8], elements: int) -> Sparse:
    """The inverse of ``to_streams``.

    Raises:
        ValueError: the streams do not fit each other or the tensor.
    """
    counts, index, values = (
        streams[f"{side.kind}.{name}"].reshape(-1) for name in ("counts", "index", "values")
    )
    segments = -(-elements // side.segment)
    _check(counts.size == 4 * segments, side, "counts", f"takes {4 * segments} bytes")
    sizes = counts.view("<u4").astype(np.int64)
    count = int(sizes.sum())
    _check(index.size == 2 * count, side, "index", f"takes {2 * count} bytes, by the counts")
    stream = _value_stream(side)
    width = stream.row_bytes(count, 1)
    _check(values.size == width, side, "values", f"takes {width} bytes, by the counts")
    starts = np.repeat(np.arange(segments) * side.segment, sizes)
    places = starts + index.view("<u2")
    sound = bool((np.diff(places) > 0).all()) and (not count or int(places[-1]) < elements)
    _check(sound, side, "index", "ascends inside the tensor")
    words = unpack(values[None], count, stream)[0]
    if side.kind != "wr":
        return Sparse(places, words)
    scale = streams["wr.scale"].reshape(-1)
    _check(scale.size == 4, side, "scale", "takes 4 bytes")
    return Sparse(places, words, float(scale.view("<f4")[0]))


def _check(sound: bool, side: Side, name: str, rule: str) -> None:
    if not sound:
        raise ValueError(f"the stream '{side.kind}.{name}' is damaged: it {rule}")


def _value_stream(side: Side) -> Stream:
    return Stream(f"{side.kind}.values", side.value.container, "element", "low_first")


def _pieces(shape: tuple[int, ...], block: int) -> Iterator[tuple[slice, slice]]:
    """Cut [rows, n] into pieces of about CHUNK elements, whole blocks each, in flat order."""
    rows, length = shape
    width = max(1, CHUNK // block) * block
    height = max(1, CHUNK // max(1, length))
    for top in range(0, rows, height):
        for left in range(0, length, width):
            yield slice(top, min(rows, top + height)), slice(left, min(length, left + width))


def _flat(chosen: NDArray[np.bool_], row: slice, column: slice, length: int) -> I64:
    """Flat indices in the tensor of the chosen elements of a piece, ascending."""
    r, c = np.nonzero(chosen)
    flat: I64 = (r + row.start) * length + (c + column.start)
    return flat


def _places(sparse: Sparse, tensor: F32) -> tuple[I64, I64]:
    row, column = np.divmod(sparse.index, max(1, tensor.shape[1]))
    return row, column


def _is_outlier(x: F32, block: int, threshold: float) -> NDArray[np.bool_]:
    """Which elements of [rows, n] are above threshold * their block's deviation."""
    rows, length = x.shape
    blocks = -(-length // block)
    squares = np.zeros((rows, blocks * block))
    np.square(x, out=squares[:, :length], dtype=np.float64)
    # A running sum adds in element order; the squares of binary32 numbers are exact.
    sums = np.cumsum(squares.reshape(rows, blocks, block), axis=2)[:, :, -1]
    sizes = np.full(blocks, block)
    sizes[-1] = length - (blocks - 1) * block
    bounds = threshold * np.sqrt(sums / sizes)
    above: NDArray[np.bool_] = np.abs(x) > np.repeat(bounds, block, axis=1)[:, :length]
    return above


@dataclass(frozen=True, slots=True)
class _Errors:
    """Candidates for a correction: places (ascending), errors, and what they are ranked by."""

    index: I64
    errors: F32
    keys: F64

    def join(self, other: _Errors) -> _Errors:
        return _Errors(
            np.concatenate([self.index, other.index]),
            np.concatenate([self.errors, other.errors]),
            np.concatenate([self.keys, other.keys]),
        )

    def best(self, limit: int) -> _Errors:
        """The ``limit`` with the largest keys, the first ones on a tie."""
        surplus = len(self.keys) - limit
        if surplus <= 0:
            return self
        least = np.partition(self.keys, surplus)[surplus]
        keep = self.keys > least
        ties = np.flatnonzero(self.keys == least)
        keep[ties[: limit - int(keep.sum())]] = True
        return _Errors(self.index[keep], self.errors[keep], self.keys[keep])


def _worst(x: F32, decoded: F32, weights: F32 | None, limit: int) -> _Errors:
    """The ``limit`` largest weighted errors, with memory for little more than these."""
    found = _Errors(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0))
    floor = -1.0
    for row, column in _pieces(x.shape, 1):
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            errors = np.subtract(x[row, column], decoded[row, column], dtype=np.float32)
            keys = np.abs(errors.astype(np.float64))  # times a binary32 weight it is exact
            if weights is not None:
                keys *= weights[column]
        chosen = np.isfinite(errors) & (errors != 0) & (keys > floor)
        flat = _flat(chosen, row, column, x.shape[1])
        found = found.join(_Errors(flat, errors[chosen], keys[chosen]))
        if len(found.keys) > 2 * limit:
            found = found.best(limit)
            floor = float(found.keys.min(initial=np.inf))  # a later equal one loses the tie
    return found.best(limit)


def _residual_scale(largest_error: float, number: SmallFloat) -> float:
    end = np.float64(float(number.largest))
    with np.errstate(under="ignore"):
        scale = np.float32(largest_error / end)
    if scale * end < largest_error:  # exact: 24 bits times at most 11
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)
