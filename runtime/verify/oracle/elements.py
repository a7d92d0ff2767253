"""Elements under a given scale: the nearest value of the grid, and what a code means."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from ....compiler.exact import round_fp32
from ....compiler.format import Format
from .binary32 import divided, is_negative, plus, times, whole

#: Under ``compare fp32_reciprocal`` a scale counts as at least this.
_LEAST_INVERTED = round_fp32(Fraction(1, 10**38))


@dataclass(frozen=True, slots=True)
class _Ladder:
    """What a grid can store: its values, ascending, and the code of each.

    ``middles`` are what the policies compare with, between a value and the next; ``minus`` is
    the code of -0 where it is ever stored.
    """

    numbers: tuple[Fraction, ...]
    codes: tuple[int, ...]
    middles: tuple[Fraction, ...]
    minus: int | None


@lru_cache(maxsize=64)
def _ladder(fmt: Format, index: int) -> _Ladder:
    grid = fmt.grids[index]
    keep = fmt.policies.negative_zero == "keep"
    minus = grid.negative_zero if keep else None
    lowest: dict[Fraction, int] = {}
    for code, value in enumerate(grid.values):
        if value is not None and code != grid.negative_zero:
            lowest.setdefault(value, code)
    if minus is not None:
        lowest.setdefault(Fraction(0), minus)  # a grid whose only zero is -0
    numbers = tuple(sorted(lowest))
    middles = [(low + high) / 2 for low, high in pairwise(numbers)]
    if fmt.policies.compare != "exact":
        middles = [Fraction(round_fp32(middle)) for middle in middles]
    return _Ladder(numbers, tuple(lowest[n] for n in numbers), tuple(middles), minus)


def code_of(fmt: Format, index: int, x: float, scale: float, zero: float = 0.0) -> int:
    """The code of one element under the effective scale and zero of its block.

    Args:
        fmt: the format.
        index: of one of its grids.
        x: a finite binary32 number.
        scale: signed; 0 counts as 1.
        zero: the zero point or the minimum, of a format that has one.
    """
    kind = fmt.zero.kind if fmt.zero else ""
    if kind == "minimum":
        x = plus(x, -zero)
    if is_negative(scale):
        x, scale = -x, -scale
    scale = scale or 1.0
    point = zero if kind == "point" else 0.0
    if fmt.policies.compare == "exact":
        if math.isinf(x):
            return _nearest(fmt, index, None, x < 0)
        return _nearest(fmt, index, Fraction(x) / Fraction(scale) + Fraction(point), is_negative(x))
    if fmt.policies.compare == "fp32_quotient":
        y = divided(x, scale)
    else:
        y = times(x, divided(1.0, max(scale, _LEAST_INVERTED)))
    if fmt.zero and fmt.zero.add == "after":
        y = whole(y)
    y = plus(y, point) if kind == "point" else y
    if fmt.policies.offset is not None:
        return _truncated(fmt, index, plus(y, float(fmt.policies.offset)))
    return _nearest(fmt, index, None if math.isinf(y) else Fraction(y), is_negative(y))


def _truncated(fmt: Format, index: int, y: float) -> int:
    """The code of so many steps above the grid's lowest integer."""
    ladder = _ladder(fmt, index)
    last = len(ladder.codes) - 1
    if math.isinf(y):
        return ladder.codes[last if y > 0 else 0]
    return ladder.codes[max(0, min(last, math.trunc(y)))]


def _nearest(fmt: Format, index: int, y: Fraction | None, negative: bool) -> int:
    """The code of the value nearest to y, or of the end of that sign where y is None."""
    ladder = _ladder(fmt, index)
    if y is None:
        place = 0 if negative else len(ladder.numbers) - 1
    else:
        place = bisect_left(ladder.middles, y)
        if place < len(ladder.middles) and ladder.middles[place] == y:
            place += _tie_goes_up(fmt.policies.tie, ladder, place)
    if ladder.numbers[place] == 0 and negative and ladder.minus is not None:
        return ladder.minus
    return ladder.codes[place]


def _tie_goes_up(tie: str, ladder: _Ladder, place: int) -> bool:
    low, high = ladder.numbers[place], ladder.numbers[place + 1]
    match tie:
        case "up":
            return True
        case "down":
            return False
        case "toward_zero":
            return low + high < 0
        case "away":
            return low + high >= 0
    # The zero that a negative value may take is -0, where the grid keeps one.
    code = ladder.minus if high == 0 and ladder.minus is not None else ladder.codes[place + 1]
    return code % 2 == 0 and ladder.codes[place] % 2 == 1


def value_of(fmt: Format, index: int, code: int, scale: float, zero: float = 0.0) -> float:
    """What a code means under an effective scale and zero; NaN where it is no number."""
    if index >= len(fmt.grids):
        return math.nan
    grid = fmt.grids[index]
    exact = grid.values[code]
    if exact is None:
        return math.nan
    value = -0.0 if code == grid.negative_zero else float(exact)
    if fmt.zero is None:
        return times(value, scale)
    if fmt.zero.kind == "point":
        return times(plus(value, -zero), scale)
    return plus(times(value, scale), zero)
