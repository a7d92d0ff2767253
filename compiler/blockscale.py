"""A block's scale and zero from its peaks, in NumPy, for blocks of any shape.

Thresholds decide, as ``view`` explains; a *rank* counts the stored scales in ascending order,
rank 0 being an all-zero block's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrange import Peaks
from .blockwork import NUMPY, BlockWork
from .format import Zero
from .reference import block_scales, fp32_scale, select_bits
from .thresholds import F32, side_thresholds
from .view import Trial, View
from .view_arrays import scale_ranks

U32 = NDArray[np.uint32]
Mask = NDArray[np.bool_]

_FP32_MAX = np.float32(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Scales of blocks, arrays of one shape.

    Attributes:
        words: scale words, with sign and select bits.
        scales: the effective binary32 scales that they mean, signed.
        valid: False where the trial asks for a scale that there is not.
    """

    words: U32
    scales: F32
    valid: Mask


def choose(
    view: View, trial: Trial, peaks: Peaks, multiplier: float, blocks: BlockWork = NUMPY
) -> Chosen:
    """The scale that one trial gives every block.

    Args:
        view: the format, as scales are chosen (``kernel.wanted_format``).
        trial: grid, target, sign and nudge.
        peaks: of the blocks; broken ones get NaN where the word has one.
        multiplier: the second level (``TensorLevel.multiplier``).
        blocks: does the searching and decoding.
    """
    positive, negative = _sides(view, trial, peaks)
    if view.scale.is_fp32:
        divisors = (trial.positive_divisor, trial.negative_divisor)
        magnitude = fp32_scale(view, view.grids[trial.grid], positive, negative, divisors).view(
            np.uint32
        )
        valid = np.ones(positive.shape, np.bool_)
    else:
        magnitude, valid = _table_magnitude(view, trial, positive, negative, multiplier, blocks)
    if view.scale.nan_magnitude is not None and peaks.broken.any():
        magnitude = np.where(peaks.broken, np.uint32(view.scale.nan_magnitude), magnitude)
    words = magnitude << np.uint32(view.scale.magnitude_lsb)
    words |= np.uint32(select_bits(view, trial.grid))
    if view.scale.sign_bit is not None and (view.scale.signed_rule or trial.flip):
        words |= _signs(view, trial, peaks).astype(np.uint32) << np.uint32(view.scale.sign_bit)
    return Chosen(words, block_scales(view, words, multiplier, blocks), valid)


def _sides(view: View, trial: Trial, peaks: Peaks) -> tuple[F32, F32]:
    """What is divided by the positive and by the negative divisor."""
    if view.format.scale.rule == "range":
        low, high = block_range(view.format.zero, peaks)
        with np.errstate(over="ignore"):
            return np.minimum(high - low, _FP32_MAX), np.zeros_like(low)
    if view.scale.signed_rule:
        return peaks.largest, peaks.largest
    return (peaks.negative, peaks.positive) if trial.flip else (peaks.positive, peaks.negative)


def _signs(view: View, trial: Trial, peaks: Peaks) -> Mask:
    """Which scales are negative, of a rule or a trial that has such."""
    if not view.scale.signed_rule:
        return np.ones(peaks.positive.shape, np.bool_)
    asked: Mask = peaks.first_negative != view.grids[trial.grid].end_is_negative
    # Under a scale that is stored as it is wanted, zeros keep the sign of x* / t*.
    keeps_zeros = view.format.scale.codes == "wanted"
    return np.logical_and(asked, keeps_zeros or peaks.largest > 0)


def _table_magnitude(
    view: View,
    trial: Trial,
    positive: F32,
    negative: F32,
    multiplier: float,
    blocks: BlockWork,
) -> tuple[U32, Mask]:
    table = side_thresholds(
        view, trial.grid, trial.positive_divisor, trial.negative_divisor, multiplier
    )
    if trial.positive_divisor == trial.negative_divisor:
        ranks = blocks.ranks(np.maximum(positive, negative), table[0])
    elif trial.negative_divisor == 0:
        ranks = blocks.ranks(positive, table[0])
    else:
        ranks = np.maximum(blocks.ranks(positive, table[0]), blocks.ranks(negative, table[1]))
    codes = scale_ranks(view.format)
    if trial.step == 0:
        return codes[ranks], np.ones(ranks.shape, np.bool_)
    last = int(np.isfinite(table).any(axis=0).sum())
    moved = ranks.astype(np.int64) + trial.step
    valid = (ranks > 0) & (moved >= 1) & (moved <= last)
    return codes[np.where(valid, moved, ranks)], valid


def block_range(zero: Zero | None, peaks: Peaks) -> tuple[F32, F32]:
    """The ends of the range that a block's codes span under rule ``range``.

    A zero point and a minimum that is never negative need zero inside.
    """
    if zero is not None and zero.kind == "minimum" and not zero.negated:
        return peaks.low, peaks.high
    # An end that is zero is +0: the sign of the least of several zeros depends on the machine.
    low, high = np.minimum(peaks.low, np.float32(0)), np.maximum(peaks.high, np.float32(0))
    return low + np.float32(0), high + np.float32(0)


def zero_points(view: View, index: int, scales: F32, low: F32) -> F32:
    """The integer zero point of every block, in one of the grids.

    RNE(RNE32(t- - RNE32(low / s))), or t- - RNE(RNE32(low / s)) where it is added after rounding.
    """
    grid = view.format.grids[index]
    bottom, top = np.float32(float(grid.low)), np.float32(float(grid.high))
    safe = np.where(scales == 0, np.float32(1), scales)
    with np.errstate(over="ignore", under="ignore"):
        quotient = np.divide(low, safe, dtype=np.float32)
        point = np.rint(bottom - (np.rint(quotient) if view.adds_after else quotient))
    return np.clip(point, bottom, top).astype(np.float32)
