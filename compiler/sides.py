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

from .blockwork import NUMPY, BlockWork
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
STRIP = 1 << 20

#: Elements by which a large tensor's errors are judged before they are searched.
SAMPLE = 1 << 14

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


def take_outliers(side: Side, x: F32, block: int, blocks: BlockWork = NUMPY) -> tuple[F32, Sparse]:
    """Take out the elements above ``side.threshold`` standard deviations of their block.

    The deviation is sqrt(sum of squares / elements) in binary64, summed in element order; an
    element is an outlier where its magnitude is above threshold * deviation, in binary64. It is
    kept as the nearest number of the side's word, ties to even, at most the largest.

    Args:
        side: an ``opq`` side.
        x: float32 [rows, n].
        block: elements of a block, along a row; the last block of a row may be shorter.
        blocks: looks for them.

    Returns:
        ``x`` with zeros in place of outliers (``x`` itself where there are none), and these.
    """
    index = [np.zeros(0, np.int64)]
    for row in _strips(x.shape):
        strip = np.ascontiguousarray(x[row])
        bounds = _bounds(strip, block, float(side.threshold or 0), blocks)
        index.append(blocks.above(strip, bounds, block) + row.start * x.shape[1])
    places = np.concatenate(index)
    if not places.size:
        return x, Sparse(places, np.zeros(0, np.uint32))
    dense = np.array(x, order="C")
    flat = dense.reshape(-1)
    words = to_word(side.value, flat[places])
    flat[places] = 0
    return dense, Sparse(places, words)


def put_outliers(side: Side, decoded: F32, outliers: Sparse) -> None:
    """Replace the decoded elements [rows, n] at outliers' places, in place."""
    decoded[_places(outliers, decoded)] = from_word(side.value, outliers.words)


def residuals(
    side: Side,
    x: F32,
    decoded: F32,
    weights: F32 | None = None,
    blocks: BlockWork = NUMPY,
) -> Sparse:
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
        blocks: looks for them.
    """
    found = _worst(x, decoded, weights, ceil((side.fraction or 0) * x.size), blocks)
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


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of [rows, n] that are worked on together: about STRIP elements."""
    rows, length = shape
    height = max(1, STRIP // max(1, length))
    for top in range(0, rows, height):
        yield slice(top, min(rows, top + height))


def _places(sparse: Sparse, tensor: F32) -> tuple[I64, I64]:
    row, column = np.divmod(sparse.index, max(1, tensor.shape[1]))
    return row, column


def _bounds(x: F32, block: int, threshold: float, blocks: BlockWork) -> F64:
    """The largest magnitude that is no outlier, of every block of [rows, length]."""
    length = x.shape[1]
    sums = blocks.errors(x, None, None, block)
    sizes = np.full(sums.shape[1], block)
    sizes[-1:] = length - (len(sizes) - 1) * block
    bounds: F64 = threshold * np.sqrt(sums / sizes)
    return bounds


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


def _worst(x: F32, decoded: F32, weights: F32 | None, limit: int, blocks: BlockWork) -> _Errors:
    """The ``limit`` largest weighted errors, with memory for little more than these."""
    floor = _guess(x, decoded, weights, limit)
    found = _worst_above(x, decoded, weights, limit, floor, blocks)
    if len(found.keys) < limit and floor >= 0:
        found = _worst_above(x, decoded, weights, limit, -1.0, blocks)
    return found.best(limit)


def _worst_above(
    x: F32, decoded: F32, weights: F32 | None, limit: int, floor: float, blocks: BlockWork
) -> _Errors:
    """The largest of those errors that count for more than ``floor``: ``limit`` or some more."""
    found = _Errors(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0))
    for row in _strips(x.shape):
        strip, other = np.ascontiguousarray(x[row]), np.ascontiguousarray(decoded[row])
        places = blocks.errors_above(strip, other, weights, floor)
        columns = places % max(1, x.shape[1])
        errors, keys = _errors_and_keys(
            strip.reshape(-1)[places],
            other.reshape(-1)[places],
            None if weights is None else weights[columns],
        )
        found = found.join(_Errors(places + row.start * x.shape[1], errors, keys))
        if len(found.keys) > 2 * limit:
            found = found.best(limit)
            floor = float(found.keys.min(initial=np.inf))  # a later equal one loses the tie
    return found


def _guess(x: F32, decoded: F32, weights: F32 | None, limit: int) -> float:
    """What somewhat more than ``limit`` errors count for more than, by a sample; -1: all do."""
    if x.size < 16 * SAMPLE:
        return -1.0
    columns = slice(None, None, min(61, x.shape[1]))
    rows = slice(None, None, max(1, x[:, columns].size // SAMPLE))
    _, keys = _errors_and_keys(
        x[rows, columns],
        decoded[rows, columns],
        None if weights is None else weights[columns],
    )
    keys = np.nan_to_num(keys.reshape(-1), nan=-1.0, posinf=-1.0)
    wanted = int(1.5 * limit * keys.size / x.size) + 16
    return -1.0 if wanted >= keys.size else float(np.partition(keys, -wanted)[-wanted])


def _errors_and_keys(x: F32, decoded: F32, weights: F32 | None) -> tuple[F32, F64]:
    """The errors in binary32, and what they count for."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        errors = np.subtract(x, decoded, dtype=np.float32)
        keys = np.abs(errors.astype(np.float64))  # times a binary32 weight it is exact
        return errors, keys if weights is None else keys * weights


def _residual_scale(largest_error: float, number: SmallFloat) -> float:
    end = np.float64(float(number.largest))
    with np.errstate(under="ignore"):
        scale = np.float32(largest_error / end)
    if scale * end < largest_error:  # exact: 24 bits times at most 11
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)
