"""Exact thresholds as binary32 tables: the numbers that encoders compare with ``>``."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .exact import FP32_MAX, round_fp32, significant_bits
from .format import Format
from .view import View, view_of
from .view_arrays import scale_ranks, scale_values

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
    ``max(sum(p > T[t, 0]), sum(n > T[t, 1]))`` under trial t of ``view.trials``.

    Args:
        view: the format.
        multiplier: the tensor's second level: its fp32 scale, or 2^-shift.

    Returns:
        float32 [trials, 2, ranks - 1], ascending. A side that does not count is all +inf, and
        so is the threshold of a scale that binary32 cannot hold once multiplied.
    """
    every = every_product(view.format)
    if every is None:
        return np.stack(
            [
                side_thresholds(view, t.grid, t.positive_divisor, t.negative_divisor, multiplier)
                for t in view.trials
            ]
        )
    products, inclusive, missing = every
    tables = round_down_fp32(products * multiplier, inclusive)
    tables[missing] = np.inf
    for trial, table in zip(view.trials, tables, strict=True):
        _leave_out(view, trial.grid, multiplier, table)
    return tables


def side_thresholds(
    view: View, g: int, positive_divisor: Fraction, negative_divisor: Fraction, multiplier: float
) -> F32:
    """The table of one grid under given divisors: float32 [2, ranks - 1]; see above.

    It is kept, as every strip of a tensor asks for the same, and read-only.
    """
    return _side_thresholds(view.format, g, positive_divisor, negative_divisor, multiplier)


@lru_cache(maxsize=64)
def _side_thresholds(
    fmt: Format, g: int, positive_divisor: Fraction, negative_divisor: Fraction, multiplier: float
) -> F32:
    view = view_of(fmt)
    scale = view.scale
    table = np.full((2, max(0, len(scale.ranks) - 1)), np.inf, np.float32)
    if scale.ranks:
        for side, divisor in enumerate((positive_divisor, negative_divisor)):
            if divisor != 0:
                table[side] = _scaled(fmt, divisor, multiplier)
        _leave_out(view, g, multiplier, table)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=256)
def every_product(fmt: Format) -> tuple[F64, NDArray[np.bool_], NDArray[np.bool_]] | None:
    """``_products`` of all trials and sides at once: arrays [trials, 2, ranks - 1].

    The products, whether ties go up, and which sides do not count. None where binary64 does
    not hold a product, or there are no ranks: then they are gone through one by one.
    """
    view = view_of(fmt)
    sides = [(trial.positive_divisor, trial.negative_divisor) for trial in view.trials]
    held = [_products(fmt, divisor) for both in sides for divisor in both if divisor != 0]
    if not view.scale.ranks or any(wide is None for _, wide, _ in held):
        return None
    shape = (len(sides), 2, len(view.scale.ranks) - 1)
    products, missing = np.zeros(shape), np.zeros(shape, np.bool_)
    for trial, both in enumerate(sides):
        for side, divisor in enumerate(both):
            if divisor == 0:
                missing[trial, side] = True
            else:
                products[trial, side] = _products(fmt, divisor)[1]
    return products, np.broadcast_to(held[0][2], shape), missing


def _leave_out(view: View, g: int, multiplier: float, table: F32) -> None:
    """Take out scales under which the grid's end leaves binary32: blocks saturate.

    Two roundings do not take a product below 2^127 past the largest number.
    """
    if _reach(view.format, g) * multiplier >= 2.0**127:
        table[:, ~_decodes_finitely(view, g, multiplier)] = np.inf


@lru_cache(maxsize=256)
def _reach(fmt: Format, g: int) -> float:
    """The largest scale times grid g's end, in binary64."""
    grid = fmt.grids[g]
    return float(scale_values(fmt)[scale_ranks(fmt)[-1]]) * float(max(grid.high, -grid.low))


def _decodes_finitely(view: View, g: int, multiplier: float) -> NDArray[np.bool_]:
    """For ranks 1 and up, whether every value of grid g times the scale is finite."""
    grid = view.format.grids[g]
    values = scale_values(view.format)[scale_ranks(view.format)[1:]]
    end = np.float32(float(max(grid.high, -grid.low)))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        ends: F32 = values * np.float32(multiplier) * end
    return np.isfinite(ends)


def _scaled(fmt: Format, divisor: Fraction, multiplier: float) -> F32:
    """One side's thresholds."""
    exact, wide, inclusive = _products(fmt, divisor)
    if wide is not None:
        return round_down_fp32(wide * multiplier, inclusive)
    factor = Fraction(multiplier)
    return np.array(
        [_round_down(p * factor, bool(up)) for p, up in zip(exact, inclusive, strict=True)],
        np.float32,
    )


@lru_cache(maxsize=256)
def _products(
    fmt: Format, divisor: Fraction
) -> tuple[tuple[Fraction, ...], F64 | None, NDArray[np.bool_]]:
    """Divisor * point for every threshold, as fractions or in binary64, and whether ties go up.

    A binary32 multiplier has 24 bits: where 29 bits hold each of these, binary64 holds their
    products with it exactly, and the fractions are not made.
    """
    scale = view_of(fmt).scale
    inclusive = np.array((scale.first_tie_up, *scale.ties_up), dtype=np.bool_)
    points = (scale.first_point, *scale.points)
    wide = _wide_products(divisor, points)
    if wide is not None:
        return (), wide, inclusive
    return tuple(divisor * point for point in points), None, inclusive


def _wide_products(divisor: Fraction, points: tuple[Fraction, ...]) -> F64 | None:
    """The products where all of them have at most 29 bits, without making them as fractions."""
    if not all(_fits(factor, 24) for factor in (divisor, *points)):
        return None
    products = float(divisor) * np.array([float(point) for point in points])
    mantissas, _ = np.frexp(products)
    return products if np.all(np.ldexp(mantissas, 29) % 1 == 0) else None


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
