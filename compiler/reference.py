"""The reference encoder and decoder in NumPy: the arbiter of every back end.

It follows the definition step by step and works in chunks, so that its memory stays under
twice the input plus the output. See ``view`` for the meaning of ranks and thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .arrange import Arrangement
from .blockwork import NUMPY, BlockWork, WordTable
from .elements import element_codes, element_values
from .exact import FP32_MAX, fp32_from_bits, round_fp32
from .format import Format
from .packing import pack, unpack
from .thresholds import F32, scale_thresholds
from .view import GridView, Trial, View, view_of
from .view_arrays import scale_ranks, scale_values

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

#: Elements that are worked on at once.
CHUNK = 1 << 17

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)


@dataclass(frozen=True, slots=True)
class TensorLevel:
    """What is stored once per tensor: an fp32 scale, and SOP's exponent shift k.

    A stored scale s means s * tensor_scale * 2^-shift, rounded once to binary32.
    """

    tensor_scale: float = 1.0
    shift: int = 0

    @property
    def multiplier(self) -> float:
        """tensor_scale * 2^-shift, exact in binary32 (a format has one or the other)."""
        return self.tensor_scale * 2.0**-self.shift


@dataclass(frozen=True, slots=True)
class Blocks:
    """Unpacked blocks: uint8 codes [blocks, g], uint32 scale words and selects [blocks]."""

    codes: U8
    words: U32
    selects: U32


def encode(fmt: Format, x: NDArray[np.floating], level: TensorLevel) -> dict[str, U8]:
    """Encode rows.

    Args:
        fmt: the format.
        x: floats [rows, n] of any precision, without NaN or infinity unless the format
            propagates NaN; rounded to binary32 first.
        level: the tensor's second level, from ``calibrate``.

    Returns:
        Stream name -> uint8 [rows, stream.row_bytes(n, block)].
    """
    view = view_of(fmt)
    rows, length = x.shape
    out = {s.name: np.zeros((rows, s.row_bytes(length, fmt.block)), np.uint8) for s in fmt.streams}
    thresholds = scale_thresholds(view, level.multiplier)
    for row, column in chunks(fmt, rows, length):
        piece = x[row, column].astype(np.float32)
        count = piece.shape[1]
        padded = -count % fmt.block
        blocks = np.pad(piece, ((0, 0), (0, padded))).reshape(-1, fmt.block)
        valid = np.ones(fmt.block * -(-count // fmt.block), np.bool_)
        valid[count:] = False
        live = np.broadcast_to(valid, (piece.shape[0], valid.size)).reshape(-1, fmt.block)
        encoded = encode_blocks(view, blocks, live, thresholds, level)
        fields: dict[str, NDArray[np.unsignedinteger]] = {
            "codes": encoded.codes.reshape(piece.shape[0], -1)[:, :count],
            "scales": encoded.words.reshape(piece.shape[0], -1),
            "select": encoded.selects.reshape(piece.shape[0], -1),
        }
        for stream in fmt.streams:
            start = stream.row_bytes(column.start, fmt.block)
            packed = pack(fields[stream.name], stream)
            out[stream.name][row, start : start + packed.shape[1]] = packed
    return out


def decode(
    fmt: Format, streams: dict[str, U8], length: int, level: TensorLevel, out: F32 | None = None
) -> F32:
    """Decode rows: grid value * scale, rounded once to binary32.

    Args:
        fmt: the format.
        streams: as ``encode`` returns them.
        length: elements per row.
        level: the tensor's second level.
        out: float32 [rows, length] to write to, allocated when None.

    Returns:
        float32 [rows, length].
    """
    view = view_of(fmt)
    rows = streams["codes"].shape[0]
    result = np.empty((rows, length), np.float32) if out is None else out
    for row, column in chunks(fmt, rows, length):
        count = column.stop - column.start
        fields = {}
        for stream in fmt.streams:
            start = stream.row_bytes(column.start, fmt.block)
            fields_count = count if stream.per == "element" else -(-count // fmt.block)
            stop = start + stream.row_bytes(count, fmt.block)
            fields[stream.name] = unpack(
                streams[stream.name][row, start:stop], fields_count, stream
            )
        height = fields["codes"].shape[0]
        codes = np.zeros((height, -(-count // fmt.block) * fmt.block), np.uint8)
        codes[:, :count] = fields["codes"]
        words = fields["scales"].reshape(-1)
        blocks = Blocks(
            codes.reshape(-1, fmt.block),
            words,
            fields["select"].reshape(-1) if "select" in fields else np.zeros_like(words),
        )
        decoded = decode_blocks(view, blocks, level)
        result[row, column] = decoded.reshape(height, -1)[:, :count]
    return result


def chunks(fmt: Format, rows: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Cut [rows, length] into pieces of about CHUNK elements that begin on whole bytes."""
    if length == 0 or rows == 0:
        return
    step = max(1, CHUNK // (8 * fmt.block)) * 8 * fmt.block
    if length <= step:
        height = max(1, CHUNK // length)
        for top in range(0, rows, height):
            yield slice(top, min(rows, top + height)), slice(0, length)
        return
    for row in range(rows):
        for left in range(0, length, step):
            yield slice(row, row + 1), slice(left, min(length, left + step))


def encode_blocks(
    view: View, x: F32, live: NDArray[np.bool_], thresholds: F32, level: TensorLevel
) -> Blocks:
    """Encode whole blocks: float32 [blocks, g] and which elements are no padding.

    With several trials (grids, or targets for the largest element) each block takes the one with
    the least squared error, summed over its elements in order in binary64; the first on a tie.
    """
    best: Blocks | None = None
    least = np.zeros(len(x))
    for trial, table in zip(view.trials, thresholds, strict=True):
        tried = _encode_trial(view, trial, x, table, level)
        if len(view.trials) == 1:
            return tried
        error = _squared_error(x, decode_blocks(view, tried, level), live)
        if best is None:
            best, least = tried, error
            continue
        better = error < least
        best.codes[better] = tried.codes[better]
        best.words[better] = tried.words[better]
        best.selects[better] = tried.selects[better]
        least = np.where(better, error, least)
    if best is None:
        raise ValueError(f"the format '{view.format.name}' has no grid")
    return best


def decode_blocks(view: View, blocks: Blocks, level: TensorLevel) -> F32:
    """float32 [blocks, g] from codes, scale words and selects."""
    fmt = view.format
    scales = block_scales(view, blocks.words, level.multiplier)
    selects = blocks.selects if fmt.select.place == "field" else select_of(view, blocks.words)
    return element_values(view, blocks.codes, scales, selects, None)


def block_scales(view: View, words: U32, multiplier: float, blocks: BlockWork = NUMPY) -> F32:
    """The effective binary32 scale of every scale word: one rounding, sign included."""
    return blocks.word_values(words, _scale_table(view.format), multiplier)


@lru_cache(maxsize=64)
def _scale_table(fmt: Format) -> WordTable:
    scale = view_of(fmt).scale
    values = None if scale.is_fp32 else scale_values(fmt)
    return WordTable(values, scale.magnitude_lsb, scale.magnitude_bits, scale.sign_bit)


def select_of(view: View, words: U32) -> U32:
    """The grid index that the select bits of every scale word say."""
    selects = np.zeros_like(words)
    for position in view.format.select.positions:
        selects = (selects << np.uint32(1)) | ((words >> np.uint32(position)) & np.uint32(1))
    return selects


def select_bits(view: View, index: int) -> int:
    """The bits of a scale word that say ``index``."""
    positions = view.format.select.positions
    return sum(1 << position for i, position in enumerate(reversed(positions)) if index >> i & 1)


def _encode_trial(view: View, trial: Trial, x: F32, thresholds: F32, level: TensorLevel) -> Blocks:
    scale, grid = view.scale, view.grids[trial.grid]
    magnitude, negative, broken = _scale_magnitude(view, trial, x, thresholds)
    words = (magnitude << np.uint32(scale.magnitude_lsb)) | np.uint32(select_bits(view, trial.grid))
    if scale.sign_bit is not None:
        words |= negative.astype(np.uint32) << np.uint32(scale.sign_bit)
    effective = block_scales(view, words, level.multiplier)
    effective[broken] = 0
    codes = element_codes(view, grid, np.where(broken[:, None], 0, x), effective, None)
    codes[broken] = grid.zero_code
    return Blocks(codes, words, np.full(len(x), trial.grid, np.uint32))


def _scale_magnitude(
    view: View, trial: Trial, x: F32, thresholds: F32
) -> tuple[U32, NDArray[np.bool_], NDArray[np.bool_]]:
    """Magnitude code of every block's scale, its sign, and whether the block holds a NaN."""
    scale, grid = view.scale, view.grids[trial.grid]
    sizes = np.abs(x).view(np.uint32)  # magnitudes order like their bits, NaN on top
    broken: NDArray[np.bool_] = np.any(sizes > _INFINITY, axis=1)
    first = sizes.argmax(axis=1)
    peak = x[np.arange(len(x)), first]
    negative = np.zeros(len(x), np.bool_)
    if scale.signed_rule:
        positive_max = negative_max = np.abs(peak)
        negative = (np.signbit(peak) != grid.end_is_negative) & (peak != 0) & ~broken
    else:
        positive_max = np.maximum(x, np.float32(0)).max(axis=1)
        negative_max = np.maximum(-x, np.float32(0)).max(axis=1)
    if scale.is_fp32:
        divisors = (trial.positive_divisor, trial.negative_divisor)
        magnitude = fp32_scale(view, grid, positive_max, negative_max, divisors).view(np.uint32)
    else:
        rank = np.maximum(
            np.searchsorted(thresholds[0], positive_max),
            np.searchsorted(thresholds[1], negative_max),
        )
        magnitude = scale_ranks(view.format)[np.where(broken, 0, rank)]
    if broken.any():
        if scale.nan_magnitude is None:
            raise ValueError("the format has no NaN to propagate")
        magnitude = np.where(broken, np.uint32(scale.nan_magnitude), magnitude)
    return magnitude.astype(np.uint32), negative, broken


def fp32_scale(
    view: View, grid: GridView, positive: F32, negative: F32, divisors: tuple[Fraction, Fraction]
) -> F32:
    """Peak / divisor, one correctly rounded division; saturates where the grid stays finite."""
    counted = positive
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wanted = positive / np.float32(float(divisors[0]))
        if divisors[1]:
            counted = np.maximum(positive, negative)
            wanted = np.maximum(wanted, negative / np.float32(float(divisors[1])))
    least = np.float32(fp32_from_bits(view.scale.minimum_bits))
    zero = np.float32(fp32_from_bits(view.scale.zero_bits))
    largest = np.float32(fp32_from_bits(grid.largest_scale_bits))
    wanted = np.asarray(np.maximum(np.minimum(wanted, largest), least), np.float32)
    np.copyto(wanted, zero, where=counted == 0)
    return wanted


def _squared_error(x: F32, decoded: F32, live: NDArray[np.bool_]) -> NDArray[np.float64]:
    total = np.zeros(len(x))
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(x.shape[1]):
            error = x[:, i].astype(np.float64) - decoded[:, i]
            total += np.where(live[:, i], error * error, 0.0)
    return total


def calibrate(
    fmt: Format,
    x: NDArray[np.floating],
    absmax: float | None = None,
    blocks: BlockWork = NUMPY,
) -> TensorLevel:
    """The second level of a tensor, from its elements [rows, n] (NaN and infinity left out).

    ``tensor fp32``: RNE(absmax / (e * largest scale)) with e the least endpoint magnitude of
    all grids, so that no block's scale saturates. ``shift auto`` (SOP's F_layer): the power
    of two that puts the most block scales absmax / t* of the first grid into the word's
    normal range, the least |k| on a tie, then the positive one.

    Args:
        fmt: the format.
        x: the elements.
        absmax: their largest finite magnitude where it is known; None: it is looked for.
        blocks: looks for the largest magnitude of every block.
    """
    view = view_of(fmt)
    for side in fmt.sides:
        if side.kind == "opq":
            from .sides import take_outliers

            x, absmax = take_outliers(side, np.asarray(x, np.float32), fmt.block, blocks)[0], None
    if view.scale.has_tensor_scale:
        largest = _absmax(fmt, x) if absmax is None else absmax
        return TensorLevel(tensor_scale=_tensor_scale(view, largest))
    if view.scale.shift is None:
        return TensorLevel(shift=_best_shift(view, _block_maxima(fmt, x, blocks)))
    return TensorLevel(shift=view.scale.shift)


def _finite_magnitudes(piece: NDArray[np.floating]) -> F32:
    with np.errstate(over="ignore"):
        sizes = np.abs(piece.astype(np.float32))
    return np.where(np.isfinite(sizes), sizes, np.float32(0))


def _absmax(fmt: Format, x: NDArray[np.floating]) -> float:
    pieces = (x[row, column] for row, column in chunks(fmt, *x.shape))
    return max((float(_finite_magnitudes(piece).max()) for piece in pieces), default=0.0)


def _block_maxima(fmt: Format, x: NDArray[np.floating], blocks: BlockWork) -> F32:
    arrangement = Arrangement.of(fmt, *x.shape)
    pieces = np.zeros((arrangement.rows, arrangement.pieces), np.float32)
    height = max(1, 8 * CHUNK // max(1, arrangement.length))
    for top in range(0, arrangement.rows if arrangement.length else 0, height):
        place = slice(top, top + height)
        with np.errstate(over="ignore"):
            strip = np.ascontiguousarray(x[place], np.float32)
        pieces[place] = blocks.absmax(strip, fmt.block)
    return np.asarray(arrangement.reduce(np.maximum, pieces), np.float32).reshape(-1)


def _tensor_scale(view: View, absmax: float) -> float:
    if absmax == 0:
        return 1.0
    wanted = round_fp32(Fraction(absmax) / level_divisor(view.format))
    return min(max(wanted, 2.0**-149), float(FP32_MAX))


@lru_cache(maxsize=64)
def level_divisor(fmt: Format) -> Fraction:
    """The largest magnitude of a tensor whose second level is 1."""
    view = view_of(fmt)
    end = min(d for g in view.grids for d in (g.positive_divisor, g.negative_divisor) if d > 0)
    # A block's range reaches twice the largest magnitude.
    return end * view.scale.aim / (2 if fmt.scale.rule == "range" else 1)


def _best_shift(view: View, maxima: F32) -> int:
    """Counts for every k how many block scales sc satisfy normal <= sc * 2^k <= largest."""
    live = maxima[maxima > 0].astype(np.float64)
    if not live.size:
        return 0
    divisor = max(view.grids[0].positive_divisor, view.grids[0].negative_divisor)
    mantissa, exponent = np.frexp(live)
    low_m, low_e = np.frexp(float(divisor * view.scale.smallest_normal))
    high_m, high_e = np.frexp(float(divisor * view.scale.largest))
    # absmax * 2^k >= low  <=>  k >= low_e - exponent + (mantissa < low_m); likewise above.
    first = low_e - exponent + (mantissa < low_m)
    last = high_e - exponent - (mantissa > high_m)
    limit = 126
    starts = np.bincount(np.clip(first + limit, 0, 2 * limit + 1), minlength=2 * limit + 2)
    stops = np.bincount(np.clip(last + 1 + limit, 0, 2 * limit + 1), minlength=2 * limit + 2)
    inside = np.cumsum(starts - stops)[: 2 * limit + 1]
    most = np.flatnonzero(inside == inside.max()) - limit
    return min(most.tolist(), key=lambda k: (abs(k), k < 0))
