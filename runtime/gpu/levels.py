"""The second level of a tensor, and the thresholds under it, on the device and without waiting.

The twin of ``compiler.reference.calibrate`` and ``compiler.thresholds.scale_thresholds``, bit for
bit. A level here is its multiplier, a float32 tensor of one element: the host never learns it, so
that a CUDA graph can hold it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from ...compiler.arrange import Arrangement
from ...compiler.format import Format
from ...compiler.reference import TensorLevel, calibrate, level_divisor
from ...compiler.thresholds import every_product, scale_thresholds
from ...compiler.view import view_of
from ...compiler.view_arrays import scale_ranks, scale_values
from .peaks import device_peaks

_LARGEST, _LEAST = float(np.finfo(np.float32).max), 2.0**-149

#: Shifts are looked for from minus this to this.
_LIMIT = 126


def is_fixed(fmt: Format) -> bool:
    """Whether the second level is the format's, whatever the tensor."""
    return fmt.scale.tensor != "fp32" and fmt.scale.shift is not None


def fixed_level(fmt: Format) -> TensorLevel:
    """The second level of a format that ``is_fixed``."""
    return calibrate(fmt, np.zeros((0, 0), np.float32))


def level_on(fmt: Format, x: torch.Tensor) -> torch.Tensor:
    """The multiplier of a tensor: float32 [1], on its device.

    Args:
        fmt: a format without sides, whose level is of the whole tensor.
        x: float32, float16 or bfloat16 [rows, length]; NaN and infinities are left out.
    """
    if is_fixed(fmt):
        return torch.full((1,), fixed_level(fmt).multiplier, device=x.device)
    if not x.numel():
        return torch.ones(1, device=x.device)
    sizes = torch.where(torch.isfinite(x), x, 0)
    if fmt.scale.tensor != "fp32":
        peaks = device_peaks(Arrangement.of(fmt, *x.shape), sizes, signed=False)
        return _shifted(fmt, peaks.largest.flatten())
    largest = sizes.abs().amax().float().reshape(1)
    exact = level_divisor(fmt)
    divisor = float(exact)
    if np.float32(divisor) != exact:  # rounded twice: the host does it by rationals
        return torch.full((1,), calibrate(fmt, _NONE, float(largest)).multiplier, device=x.device)
    # By a tensor: a division by a number is a product with its reciprocal on a GPU.
    wanted = largest / torch.full_like(largest, divisor)
    return torch.where(largest == 0, 1.0, wanted.clamp(_LEAST, _LARGEST))


def thresholds_on(fmt: Format, multiplier: torch.Tensor) -> torch.Tensor:
    """``scale_thresholds``: float32 [trials, 2, ranks - 1], on the multiplier's device."""
    device = multiplier.device
    if is_fixed(fmt):
        return _fixed_thresholds(fmt, str(device))
    tables = _tables(fmt, str(device))
    if tables is None:
        return torch.from_numpy(scale_thresholds(view_of(fmt), float(multiplier))).to(device)
    products, inclusive, missing, values, ends = tables
    exact = products * multiplier.double()  # 29 bits times 24
    nearest = exact.float()
    wide = nearest.double()
    too_high = torch.where(inclusive, wide >= exact, wide > exact)
    below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    left_out = missing | ~torch.isfinite(values * multiplier * ends)
    return torch.where(left_out, torch.inf, torch.where(too_high, below, nearest))


_NONE = np.zeros((0, 0), np.float32)


@lru_cache(maxsize=64)
def _fixed_thresholds(fmt: Format, device: str) -> torch.Tensor:
    table = scale_thresholds(view_of(fmt), fixed_level(fmt).multiplier)
    return torch.from_numpy(table.copy()).to(device)


@lru_cache(maxsize=64)
def _tables(fmt: Format, device: str) -> tuple[torch.Tensor, ...] | None:
    """Thresholds under no second level, in binary64; which ties go up, and which do not count.

    Then the scales' values and the ends of the trials' grids, float32. None where binary64 does
    not hold what they are multiplied to.
    """
    view = view_of(fmt)
    every = every_product(fmt)
    if every is None:
        return None
    products, inclusive, missing = every
    values = np.asarray(scale_values(fmt)[scale_ranks(fmt)[1:]], np.float32)
    grids = [fmt.grids[trial.grid] for trial in view.trials]
    ends = np.array([float(max(g.high, -g.low)) for g in grids], np.float32)[:, None, None]
    arrays = products, inclusive, missing, values, ends
    return tuple(torch.from_numpy(np.array(a, order="C")).to(device) for a in arrays)


def _shifted(fmt: Format, maxima: torch.Tensor) -> torch.Tensor:
    """2^-k of the best shift: see ``compiler.reference._best_shift``."""
    view, device = view_of(fmt), maxima.device
    live = (maxima > 0).long()
    divisor = max(view.grids[0].positive_divisor, view.grids[0].negative_divisor)
    mantissa, exponent = torch.frexp(maxima.double())
    low_m, low_e = math.frexp(float(divisor * view.scale.smallest_normal))
    high_m, high_e = math.frexp(float(divisor * view.scale.largest))
    first = low_e - exponent + (mantissa < low_m).int()
    last = high_e - exponent - (mantissa > high_m).int()
    counts = torch.zeros(2 * _LIMIT + 2, dtype=torch.int64, device=device)
    counts.index_add_(0, (first + _LIMIT).clamp(0, 2 * _LIMIT + 1), live)
    counts.index_add_(0, (last + 1 + _LIMIT).clamp(0, 2 * _LIMIT + 1), -live)
    inside = counts.cumsum(0)[: 2 * _LIMIT + 1]
    # Of equals the least |k|, then the positive one: no two have the same number.
    shifts = torch.arange(-_LIMIT, _LIMIT + 1, device=device)
    rank = 2 * shifts.abs() + (shifts < 0).long()
    shift = torch.argmax(inside * (4 * _LIMIT) - rank).reshape(1) - _LIMIT
    return ((127 - shift).int() << 23).view(torch.float32)
