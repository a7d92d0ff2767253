"""Codes and values under given scales by the definition, one element at a time, in rationals.

It looks for the nearest value of the grid itself and knows nothing of thresholds or NumPy.
Binary32 numbers are Python floats here, which hold them and the sign of a zero exactly.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

from fmtc.compiler.exact import round_fp32
from fmtc.compiler.format import Format, Grid

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
    grid = fmt.grids[select]
    if fmt.policies.compare == "exact":
        if math.isinf(x):
            return _nearest(fmt, grid, x, negative=x < 0)
        y = Fraction(x) / Fraction(scale) + Fraction(point)
        return _nearest(fmt, grid, y, negative=math.copysign(1, x) < 0)
    if fmt.policies.compare == "fp32_quotient":
        q = divided(x, scale)
    else:
        q = times(x, divided(1.0, max(scale, FLOOR)))
    q = plus(q, point) if fmt.zero is not None and fmt.zero.kind == "point" else q
    if fmt.policies.offset is not None:
        return _truncated(grid, plus(q, float(fmt.policies.offset)))
    return _between_rounded_midpoints(fmt, grid, q)


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


def _codes(fmt: Format, grid: Grid) -> dict[Fraction, int]:
    """Every value with its lowest code; that of -0 is not among them."""
    codes: dict[Fraction, int] = {}
    for code, value in enumerate(grid.values):
        if value is not None and code != grid.negative_zero:
            codes.setdefault(value, code)
    return codes


def _nearest(fmt: Format, grid: Grid, y: Fraction | float, *, negative: bool) -> int:
    codes = _codes(fmt, grid)
    if isinstance(y, float):
        return codes[min(codes) if negative else max(codes)]
    least = min(abs(value - y) for value in codes)
    found = sorted(value for value in codes if abs(value - y) == least)
    return _chosen(fmt, grid, found, negative)


def _between_rounded_midpoints(fmt: Format, grid: Grid, q: float) -> int:
    """The value whose neighbourhood, with midpoints rounded to binary32, holds a quotient."""
    codes = _codes(fmt, grid)
    found = [min(codes)]
    for low, high in pairwise(sorted(codes)):
        middle = round_fp32((low + high) / 2)
        if q == middle:
            found = [low, high]
        elif q > middle:
            found = [high]
    return _chosen(fmt, grid, found, math.copysign(1, q) < 0)


def _chosen(fmt: Format, grid: Grid, found: list[Fraction], negative: bool) -> int:
    """The code of the only value, or of the one of two equally near that the policy takes."""
    codes = _codes(fmt, grid)
    signed = grid.negative_zero is not None and fmt.policies.negative_zero == "keep"

    def code(value: Fraction, below: bool) -> int:
        return grid.negative_zero if value == 0 and signed and below else codes[value]

    if len(found) == 1:
        return code(found[0], negative)
    low, high = code(found[0], False), code(found[1], True)
    middle = sum(found) / 2
    upper = {
        "up": True,
        "down": False,
        "toward_zero": middle < 0,
        "away": middle >= 0,
        "even": high % 2 == 0 and low % 2 == 1,
    }[fmt.policies.tie]
    return high if upper else low


def _truncated(grid: Grid, y: float) -> int:
    """The code that y, counted from the grid's lowest integer, is cut down to."""
    values = sorted(value for value in grid.values if value is not None)
    rank = len(values) - 1 if y == math.inf else 0 if y < 0 else math.trunc(y)
    return grid.values.index(values[min(rank, len(values) - 1)])
