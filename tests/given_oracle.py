"""Codes and values under given scales by the definition, one element at a time, in rationals.

It looks for the nearest value of the grid itself and knows nothing of thresholds or NumPy.
Binary32 numbers are Python floats here, which hold them and the sign of a zero exactly.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
from fmtc.compiler.exact import FP32_MAX, round_fp32
from fmtc.compiler.format import Format
from numpy.typing import NDArray

F32 = NDArray[np.float32]

#: The least scale that is inverted under ``compare fp32_reciprocal``.
FLOOR = round_fp32(Fraction(1, 10**38))


def code_of(fmt: Format, select: int, x: float, scale: float, zero: float = 0.0) -> int:
    """The code of one element of a block."""
    if fmt.zero is not None and fmt.zero.kind == "minimum":
        x = plus(x, -zero)
    if math.copysign(1, scale) < 0:
        x, scale = -x, -scale
    scale = scale or 1.0
    point = zero if fmt.zero is not None and fmt.zero.kind == "point" else 0.0
    if fmt.policies.compare == "exact":
        if math.isinf(x):
            return _nearest(fmt, select, x, negative=x < 0)
        y = Fraction(x) / Fraction(scale) + Fraction(point)
        return _nearest(fmt, select, y, negative=math.copysign(1, x) < 0)
    if fmt.policies.compare == "fp32_quotient":
        q = divided(x, scale)
    else:
        q = times(x, divided(1.0, max(scale, FLOOR)))
    if fmt.zero is not None and fmt.zero.add == "after":
        return _counted(fmt, select, q, int(point))
    q = plus(q, point) if fmt.zero is not None and fmt.zero.kind == "point" else q
    if fmt.policies.offset is not None:
        return _truncated(fmt, select, plus(q, float(fmt.policies.offset)))
    return _between_rounded_midpoints(fmt, select, q)


def value_of(fmt: Format, select: int, code: int, scale: float, zero: float = 0.0) -> float:
    """What a code means in a block; NaN where it is no number."""
    if select >= len(fmt.grids) or fmt.grids[select].values[code] is None:
        return math.nan
    grid = fmt.grids[select]
    value = -0.0 if code == grid.negative_zero else float(grid.values[code] or 0)
    if fmt.zero is None:
        return times(value, scale)
    if fmt.zero.kind == "point":
        return times(plus(value, -zero), scale)
    return plus(times(value, scale), zero)


def ties_under_every_point(fmt: Format) -> tuple[F32, F32, NDArray[np.uint8]]:
    """Quotients, zero points and codes of a format that adds its zero point after rounding.

    The scale is 1. A row has its zero point [rows, 1] and all ties k + 1/2 from far below the grid
    to far above it, their neighbours, and numbers that any step would take past a machine integer.
    """
    low, high = int(fmt.grids[0].low), int(fmt.grids[0].high)
    reach = 2 * (high - low) + 3
    ties = (np.arange(-reach, reach) + 0.5).astype(np.float32)
    near = [np.nextafter(ties, np.float32(end)) for end in (np.inf, -np.inf)]
    powers = np.exp2([-149, -126, *range(20, 34), 62, 63, 64, 127]).astype(np.float32)
    large = np.concatenate([powers, np.nextafter(powers, np.float32(0)), [FP32_MAX, 0.0]])
    y = np.concatenate([ties, *near, large, -large]).astype(np.float32)
    points = np.arange(low, high + 1)[:, None]
    rounded = [min(max(round(float(number)), -reach), reach) for number in y]
    codes = np.clip(np.array(rounded) + points, low, high) - low
    return np.tile(y, (len(points), 1)), points.astype(np.float32), codes.astype(np.uint8)


# -- binary32 arithmetic ----------------------------------------------------------------


def plus(a: float, b: float) -> float:
    """a + b rounded to binary32; of the two, b is finite."""
    if math.isinf(a):
        return a
    exact = Fraction(a) + Fraction(b)
    return a + b if exact == 0 else round_fp32(exact)  # a + b has the sign of IEEE 754's zero


def times(a: float, b: float) -> float:
    """a * b rounded to binary32."""
    sign = math.copysign(1, a) * math.copysign(1, b)
    if math.isinf(a):
        return sign * math.inf
    return math.copysign(round_fp32(Fraction(a) * Fraction(b)), sign)


def divided(a: float, b: float) -> float:
    """a / b rounded to binary32, for a finite b that is not zero."""
    sign = math.copysign(1, a) * math.copysign(1, b)
    if math.isinf(a):
        return sign * math.inf
    return math.copysign(round_fp32(Fraction(a) / Fraction(b)), sign)


# -- the nearest value ------------------------------------------------------------------


@cache
def _values(fmt: Format, select: int) -> list[Fraction]:
    """The numbers of a grid, ascending."""
    return sorted({value for value in fmt.grids[select].values if value is not None})


@cache
def _middles(fmt: Format, select: int) -> list[float]:
    """The midpoints of neighbours rounded to binary32."""
    return [round_fp32((low + high) / 2) for low, high in pairwise(_values(fmt, select))]


@cache
def _code(fmt: Format, select: int, value: Fraction, negative: bool) -> int:
    """The lowest code of a value; of a zero with a sign that is kept, the code of that sign."""
    grid = fmt.grids[select]
    signed = value == 0 and fmt.policies.negative_zero == "keep"
    if signed and negative and grid.negative_zero is not None:
        return grid.negative_zero
    every = [code for code, other in enumerate(grid.values) if other == value]
    return next(code for code in every if code != grid.negative_zero)


def _nearest(fmt: Format, select: int, y: Fraction | float, *, negative: bool) -> int:
    values = _values(fmt, select)
    place = bisect_left(values, y)
    around = values[max(0, place - 1) : place + 1]
    if isinstance(y, float):
        return _chosen(fmt, select, around, negative)
    least = min(abs(value - y) for value in around)
    return _chosen(fmt, select, [v for v in around if abs(v - y) == least], negative)


def _between_rounded_midpoints(fmt: Format, select: int, q: float) -> int:
    """The value whose neighbourhood, with midpoints rounded to binary32, holds a quotient."""
    values, middles = _values(fmt, select), _middles(fmt, select)
    first, last = bisect_left(middles, q), bisect_right(middles, q)
    return _chosen(fmt, select, values[first : last + 1], math.copysign(1, q) < 0)


def _chosen(fmt: Format, select: int, found: list[Fraction], negative: bool) -> int:
    """The code of the only value, or of the one of two equally near that the policy takes."""
    if len(found) == 1:
        return _code(fmt, select, found[0], negative)
    low, high = _code(fmt, select, found[0], False), _code(fmt, select, found[1], True)
    middle = sum(found) / 2
    upper = {
        "up": True,
        "down": False,
        "toward_zero": middle < 0,
        "away": middle >= 0,
        "even": high % 2 == 0 and low % 2 == 1,
    }[fmt.policies.tie]
    return high if upper else low


def _counted(fmt: Format, select: int, q: float, point: int) -> int:
    """The code of the nearest integer to q, the even one of two, past an integer zero point."""
    values = _values(fmt, select)
    if math.isinf(q):
        return _code(fmt, select, values[-1 if q > 0 else 0], False)
    wanted = Fraction(round(Fraction(q)) + point)
    return _code(fmt, select, min(max(wanted, values[0]), values[-1]), False)


def _truncated(fmt: Format, select: int, y: float) -> int:
    """The code that y, counted from the grid's lowest integer, is cut down to."""
    values = _values(fmt, select)
    rank = len(values) - 1 if y == math.inf else 0 if y < 0 else math.trunc(y)
    return _code(fmt, select, values[min(rank, len(values) - 1)], False)
