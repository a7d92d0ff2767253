"""Scale words, zero points and minima on a device: chosen, rounded, packed and read, in torch.

The twin of ``compiler.blockscale`` and ``compiler.stored``: binary32 arithmetic that IEEE 754
rounds correctly, and searches among the same thresholds. Words are int64 [block rows, columns].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ...compiler.exact import fp32_from_bits
from ...compiler.format import Format, ScaleWord, Zero
from ...compiler.reference import select_bits
from ...compiler.scales import is_fp32_word
from ...compiler.stored import word_table, word_thresholds
from ...compiler.thresholds import F32, side_thresholds
from ...compiler.view import Trial, View
from ...compiler.view_arrays import scale_ranks, scale_values
from .peaks import DevicePeaks

_FP32_MAX = float(np.finfo(np.float32).max)


def choose(
    view: View, trial: Trial, peaks: DevicePeaks, multiplier: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The scale that one trial gives every block; see ``compiler.blockscale.choose``.

    Returns:
        Scale words, the effective float32 scales that they mean, and where there is one.
    """
    positive, negative = _sides(view, trial, peaks)
    scale = view.scale
    if scale.is_fp32:
        magnitude = _bits(_fp32_scale(view, trial, positive, negative))
        valid = torch.ones_like(peaks.broken)
    else:
        magnitude, valid = _rank(view, trial, positive, negative, multiplier)
    if scale.nan_magnitude is not None:
        magnitude = torch.where(peaks.broken, scale.nan_magnitude, magnitude)
    words = (magnitude << scale.magnitude_lsb) | select_bits(view, trial.grid)
    if scale.sign_bit is not None and (scale.signed_rule or trial.flip):
        words = words | (_signs(view, trial, peaks).long() << scale.sign_bit)
    return words, block_scales(view, words, multiplier), valid


def block_scales(view: View, words: torch.Tensor, multiplier: float | torch.Tensor) -> torch.Tensor:
    """The effective binary32 scale of every scale word: one rounding, sign included.

    The multiplier is one number, or float32 [block rows, 1].
    """
    scale = view.scale
    values = None if scale.is_fp32 else scale_values(view.format)
    place = scale.magnitude_lsb, scale.magnitude_bits, scale.sign_bit
    return _read(words, values, *place, multiplier)


def select_of(view: View, words: torch.Tensor) -> torch.Tensor:
    """uint8: the grid that the select bits of every scale word say."""
    selects = torch.zeros_like(words)
    for position in view.format.select.positions:
        selects = (selects << 1) | ((words >> position) & 1)
    return selects.to(torch.uint8)


def to_word(word: ScaleWord, values: torch.Tensor, magnitude_only: bool = False) -> torch.Tensor:
    """The words nearest to binary32 values; see ``compiler.stored.to_word``."""
    if is_fp32_word(word):
        return _bits(values)
    table = _on(word_thresholds(word.number, 1.0), values.device)
    words = torch.searchsorted(table, values.abs().contiguous()) << word.magnitude_lsb
    if word.sign_bit is not None and not magnitude_only:
        words = words | (torch.signbit(values).long() << word.sign_bit)
    return words


def from_word(word: ScaleWord, words: torch.Tensor) -> torch.Tensor:
    """The float32 values of words; metabits do not count."""
    if is_fp32_word(word):
        return words.to(torch.int32).view(torch.float32)
    table = word_table(word)
    return _read(words, table.values, table.shift, table.bits, table.sign_bit, 1.0)


def block_range(zero: Zero | None, peaks: DevicePeaks) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends of the range that a block's codes span; see ``compiler.blockscale``."""
    if zero is not None and zero.kind == "minimum" and not zero.negated:
        return peaks.low, peaks.high
    return torch.clamp(peaks.low, max=0) + 0.0, torch.clamp(peaks.high, min=0) + 0.0


def zero_points(view: View, index: int, scales: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The integer zero point of every block, float32; see ``compiler.blockscale``."""
    grid = view.format.grids[index]
    bottom, top = float(grid.low), float(grid.high)
    quotient = low / torch.where(scales == 0, 1.0, scales)
    if view.adds_after:
        quotient = torch.round(quotient)
    return torch.clamp(torch.round(bottom - quotient), bottom, top)


def lowest(fmt: Format, selects: torch.Tensor) -> torch.Tensor:
    """The least value of every block's grid, float32; of the last where none has the index."""
    lows = torch.tensor([float(grid.low) for grid in fmt.grids], device=selects.device)
    return lows[selects.long().clamp(max=len(lows) - 1)]


def pack(fields: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [rows, bytes] of int64 fields [rows, n], the first in the lowest bits."""
    if bits in (8, 16, 32):
        wide = fields.to({8: torch.uint8, 16: torch.int16, 32: torch.int32}[bits])
        return wide.contiguous().view(torch.uint8)
    rows, count = fields.shape
    places = torch.arange(bits, device=fields.device)
    spread = ((fields[:, :, None] >> places) & 1).reshape(rows, count * bits)
    spread = torch.nn.functional.pad(spread, (0, -count * bits % 8)).reshape(rows, -1, 8)
    weights = 1 << torch.arange(8, device=fields.device)
    return (spread * weights).sum(dim=2).to(torch.uint8)


def unpack(octets: torch.Tensor, count: int, bits: int) -> torch.Tensor:
    """The inverse of ``pack``: int64 [rows, count]."""
    places = torch.arange(8, device=octets.device)
    spread = ((octets.long()[:, :, None] >> places) & 1).reshape(len(octets), -1)
    fields = spread[:, : count * bits].reshape(len(octets), count, bits)
    return (fields << torch.arange(bits, device=octets.device)).sum(dim=2)


def _sides(view: View, trial: Trial, peaks: DevicePeaks) -> tuple[torch.Tensor, torch.Tensor]:
    """What is divided by the positive and by the negative divisor."""
    if view.format.scale.rule == "range":
        low, high = block_range(view.format.zero, peaks)
        return torch.clamp(high - low, max=_FP32_MAX), torch.zeros_like(low)
    if view.scale.signed_rule:
        return peaks.largest, peaks.largest
    return (peaks.negative, peaks.positive) if trial.flip else (peaks.positive, peaks.negative)


def _signs(view: View, trial: Trial, peaks: DevicePeaks) -> torch.Tensor:
    """Which scales are negative, of a rule or a trial that has such."""
    if not view.scale.signed_rule:
        return torch.ones_like(peaks.broken)
    asked = peaks.first_negative != view.grids[trial.grid].end_is_negative
    # Under a scale that is stored as it is wanted, zeros keep the sign of x* / t*.
    return asked if view.format.scale.codes == "wanted" else asked & (peaks.largest > 0)


def _fp32_scale(
    view: View, trial: Trial, positive: torch.Tensor, negative: torch.Tensor
) -> torch.Tensor:
    """Peak / divisor, saturated; see ``compiler.reference.fp32_scale``."""
    counted, wanted = positive, _divided(positive, trial.positive_divisor)
    if trial.negative_divisor:
        counted = torch.maximum(positive, negative)
        wanted = torch.maximum(wanted, _divided(negative, trial.negative_divisor))
    scale = view.scale
    most = fp32_from_bits(view.grids[trial.grid].largest_scale_bits)
    wanted = torch.clamp(torch.clamp(wanted, max=most), min=fp32_from_bits(scale.minimum_bits))
    return torch.where(counted == 0, fp32_from_bits(scale.zero_bits), wanted)


def _divided(peak: torch.Tensor, divisor: object) -> torch.Tensor:
    """By a tensor: a number on the host becomes a product with its reciprocal on a GPU."""
    return peak / torch.full_like(peak, float(divisor))  # type: ignore[arg-type]


def _rank(
    view: View, trial: Trial, positive: torch.Tensor, negative: torch.Tensor, multiplier: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitude codes by thresholds, and where the trial has a scale."""
    divisors = trial.positive_divisor, trial.negative_divisor
    table = side_thresholds(view, trial.grid, *divisors, multiplier)
    device = positive.device

    def below(values: torch.Tensor, side: int) -> torch.Tensor:
        return torch.searchsorted(_on(table[side], device), values.contiguous())

    if divisors[0] == divisors[1]:
        ranks = below(torch.maximum(positive, negative), 0)
    elif divisors[1] == 0:
        ranks = below(positive, 0)
    else:
        ranks = torch.maximum(below(positive, 0), below(negative, 1))
    codes = torch.from_numpy(scale_ranks(view.format).astype(np.int64)).to(device)
    valid = torch.ones_like(ranks, dtype=torch.bool)
    if trial.step:
        last = int(np.isfinite(table).any(axis=0).sum())
        moved = ranks + trial.step
        valid = (ranks > 0) & (moved >= 1) & (moved <= last)
        ranks = torch.where(valid, moved, ranks)
    return codes[ranks], valid


def _read(
    words: torch.Tensor,
    values: F32 | None,
    shift: int,
    bits: int,
    sign_bit: int | None,
    multiplier: float | torch.Tensor,
) -> torch.Tensor:
    """See ``compiler.blockwork.NumpyBlockWork.word_values``."""
    magnitude = (words >> shift) & ((1 << bits) - 1)
    if values is None:
        read = magnitude.to(torch.int32).view(torch.float32)
    else:
        read = _on(values, words.device)[magnitude]
    read = read * multiplier
    return read if sign_bit is None else torch.where((words >> sign_bit) & 1 == 1, -read, read)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """The bits of binary32 numbers, int64."""
    return values.contiguous().view(torch.int32).long() & 0xFFFFFFFF


def _on(table: F32, device: torch.device) -> torch.Tensor:
    """A table on a device, kept there."""
    return _kept(table.tobytes(), str(device))


@lru_cache(maxsize=128)
def _kept(octets: bytes, device: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(octets, np.float32).copy()).to(device)
