"""Exact thresholds as binary32 tables: the numbers that encoders compare with ``>``."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .exact import FP32_MAX, round_fp32, significant_bits
from .format import Format
from .view import View, view_of

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def round_down_fp32(product: F64, inclusive: bool | NDArray[np.bool_] = False) -> F32:
    """The largest binary32 number T that is at most ``product``: x > T iff x > product.

    Where ``inclusive``, the largest below ``product``: x > T iff x >= product. ``product``
    must hold the exact real number.
    """
    with np.errstate(over="ignore", under="ignore"):
        nearest = product.astype(np.float32)
    wide = nearest.astype(np.float64)
    too_high = np.where(inclusive, wide >= product, wide > product)
    with np.errstate(under="ignore", over="ignore"):
        return np.where(too_high, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def scale_thresholds(view: View, multiplier: float) -> F32:
    """Thresholds of a block's absmax, for table-coded scales.

    A block whose positive elements reach at most p and negative ones -n has the scale rank
    ``max(sum(p > T[g, 0]), sum(n > T[g, 1]))`` under grid g.

    Args:
        view: the format.
        multiplier: the tensor's second level: its fp32 scale, or 2^-shift.

    Returns:
        float32 [grids, 2, ranks - 1], ascending. A side that does not count is all +inf, and
        so is the threshold of a scale that binary32 cannot hold once multiplied.
    """
    tables = [
        side_thresholds(view, g, grid.positive_divisor, grid.negative_divisor, multiplier)
        for g, grid in enumerate(view.grids)
    ]
    return np.stack(tables)


def side_thresholds(
    view: View, g: int, positive_divisor: Fraction, negative_divisor: Fraction, multiplier: float
) -> F32:
    """The table of one grid under given divisors: float32 [2, ranks - 1]; see above."""
    scale = view.scale
    table = np.full((2, max(0, len(scale.ranks) - 1)), np.inf, np.float32)
    if scale.ranks:
        for side, divisor in enumerate((positive_divisor, negative_divisor)):
            if divisor != 0:
                table[side] = _scaled(view.format, divisor, multiplier)
        # A scale under which the grid's end leaves binary32 is never chosen: blocks saturate.
        table[:, ~_decodes_finitely(view, g, multiplier)] = np.inf
    return table


def _decodes_finitely(view: View, g: int, multiplier: float) -> NDArray[np.bool_]:
    """For ranks 1 and up, whether every value of grid g times the scale is finite."""
    scale, grid = view.scale, view.format.grids[g]
    values = np.array(scale.values_bits, np.uint32).view(np.float32)
    end = np.float32(float(max(grid.high, -grid.low)))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        ends: F32 = values[np.array(scale.ranks[1:], np.int64)] * np.float32(multiplier) * end
    return np.isfinite(ends)


@lru_cache(maxsize=64)
def _scaled(fmt: Format, divisor: Fraction, multiplier: float) -> F32:
    """One side's thresholds, kept: every trial of every strip of a tensor asks for the same."""
    scale = view_of(fmt).scale
    inclusive = np.array((scale.first_tie_up, *scale.ties_up), dtype=np.bool_)
    exact, wide = _products(fmt, divisor)
    if wide is not None:
        return round_down_fp32(wide * multiplier, inclusive)
    factor = Fraction(multiplier)
    return np.array(
        [_round_down(p * factor, bool(up)) for p, up in zip(exact, inclusive, strict=True)],
        np.float32,
    )


@lru_cache(maxsize=256)
def _products(fmt: Format, divisor: Fraction) -> tuple[tuple[Fraction, ...], F64 | None]:
    """Divisor * point for every threshold; in binary64 too where 29 bits hold each.

    A binary32 multiplier has 24 bits: with 29 more its product is exact in binary64.
    """
    scale = view_of(fmt).scale
    exact = tuple(divisor * point for point in (scale.first_point, *scale.points))
    if all(_fits(point, 29) for point in exact):
        return exact, np.array([float(point) for point in exact], np.float64)
    return exact, None


def _fits(value: Fraction, bits: int) -> bool:
    count = significant_bits(value)
    return count is not None and count <= bits


def _round_down(value: Fraction, inclusive: bool) -> np.float32:
    nearest = round_fp32(value)
    if nearest == float("inf"):
        return np.float32(float(FP32_MAX))
    too_high = Fraction(nearest) >= value if inclusive else Fraction(nearest) > value
    below = np.nextafter(np.float32(nearest), np.float32(-np.inf))
    return below if too_high else np.float32(nearest)
