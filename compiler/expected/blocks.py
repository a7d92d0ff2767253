"""Blocks of random elements under a format's only grid and rule, in mpmath's numbers.

Scales and edges are in units of the law's deviation, thresholds and values in units of the scale.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import mpmath

from ..exact import fp32_from_bits
from ..view import View
from .laws import Law, Mp

#: Integrals of f, t f and t^2 f over a tail.
Tails = tuple[Mp, Mp, Mp]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of zero as magnitudes.

    Attributes:
        divisor: d+ or d-; 0 where this side does not count.
        points: thresholds above 0, ascending, in units of the scale.
        values: by rank, what lies between them is decoded to (negated on the negative side).
    """

    divisor: Mp
    points: tuple[Mp, ...]
    values: tuple[Mp, ...]

    def nearest(self, size: Mp) -> Mp:
        """The value of a magnitude in units of the scale."""
        return self.values[bisect_left(self.points, size)]

    def error(self, scale: Mp, low: Mp, high: Mp, tails: Callable[[Mp], Tails]) -> Mp:
        """The integral of (x - scale Q)^2 f(x) over low..high, 0 <= low <= high."""
        ends = tails(low), tails(high)
        whole = ends[0][2] - ends[1][2]
        if not scale:
            return whole
        start = bisect_right(self.points, low / scale)
        stop = max(start, bisect_left(self.points, high / scale))
        first, last = self.values[start], self.values[stop]
        linear = first * ends[0][1] - last * ends[1][1]
        square = first * first * ends[0][0] - last * last * ends[1][0]
        for point, (below, above) in zip(
            self.points[start:stop], pairwise(self.values[start : stop + 1]), strict=True
        ):
            mass, moment, _ = tails(scale * point)
            linear += (above - below) * moment
            square += (above * above - below * below) * mass
        return whole - 2 * scale * linear + scale * scale * square


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``block`` elements of a law, under a format's only grid and rule.

    ``unit`` is what a stored scale of 1 means; ``digits`` are asked for.
    """

    view: View
    law: Law
    block: int
    unit: Mp
    digits: int

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The positive and the negative side."""
        values = [rounded(value) for value in self.view.format.grids[0].numbers]
        offset = self.view.format.policies.offset
        if offset is None:
            points = [(low + high) / 2 for low, high in pairwise(values)]
        else:  # truncated after adding it, counted from the lowest code
            points = [rounded(rank + 1 - offset) for rank in range(len(values) - 1)]
        trial = self.view.trials[0]
        positive, negative = rounded(trial.positive_divisor), rounded(trial.negative_divisor)
        up, down = bisect_right(points, 0), bisect_left(points, 0)
        return (
            Side(positive, tuple(points[up:]), tuple(values[up:])),
            Side(
                positive if self.signed else negative,
                tuple(-point for point in reversed(points[:down])),
                tuple(-value for value in reversed(values[: down + 1])),
            ),
        )

    @cached_property
    def signed(self) -> bool:
        """Whether the largest element always stands at the same end, t*."""
        return self.view.scale.signed_rule

    @cached_property
    def end(self) -> int:
        """The side of t*."""
        return int(self.view.grids[0].end_is_negative)

    @cached_property
    def span(self) -> Mp:
        """The largest magnitude among values and divisors, over the least divisor that counts."""
        sizes = [abs(size) for side in self.sides for size in (side.divisor, *side.values)]
        return max(sizes) / min(side.divisor for side in self.sides if side.divisor)

    def beyond(self, reach: Mp) -> Mp:
        """1 - F: the probability that an element asks for more than ``reach``."""
        counted = (side.divisor for side in self.sides if side.divisor)
        return mpmath.fsum(self.law.mp_tails(reach * divisor)[0] for divisor in counted)

    def power(self, reach: Mp, exponent: int) -> Mp:
        """F(reach)^exponent."""
        below = (
            self.law.mp_within(reach * side.divisor) / 2 if side.divisor else mpmath.mpf(0.5)
            for side in self.sides
        )
        return mpmath.fsum(below) ** exponent

    def densities(self, reach: Mp) -> list[Mp]:
        """F' in its two parts: of an element at the positive and at the negative end."""
        return [
            side.divisor * self.law.mp_density(reach * side.divisor) if side.divisor else 0
            for side in self.sides
        ]

    def end_errors(self) -> list[Mp]:
        """The squared error of the largest element at either end, in units of the scale."""
        errors = [(side.divisor - side.nearest(side.divisor)) ** 2 for side in self.sides]
        return [errors[self.end]] * 2 if self.signed else errors

    def tails(self) -> Callable[[Mp], Tails]:
        """The law's tails, each computed once."""
        found: dict[Mp, Tails] = {}

        def tails(x: Mp) -> Tails:
            if x not in found:
                found[x] = self.law.mp_tails(x)
            return found[x]

        return tails

    def error(self, scale: Mp, reach: Mp, tails: Callable[[Mp], Tails] | None = None) -> Mp:
        """E(scale; reach)."""
        tails = tails or self.tails()
        zero = mpmath.mpf(0)
        high = [reach * side.divisor if side.divisor else mpmath.inf for side in self.sides]
        if self.sides[0] == self.sides[1]:
            return 2 * self.sides[0].error(scale, zero, high[0], tails)
        return mpmath.fsum(
            side.error(scale, zero, stop, tails)
            for side, stop in zip(self.sides, high, strict=True)
        )

    def shell(self, scale: Mp, low: Mp, high: Mp, tails: Callable[[Mp], Tails]) -> Mp:
        """E(scale; high) - E(scale; low)."""
        counted = (side for side in self.sides if side.divisor)
        return mpmath.fsum(
            side.error(scale, low * side.divisor, high * side.divisor, tails) for side in counted
        )

    def all_zero(self, reach: Mp) -> Mp:
        """What blocks make that ask for no more than ``reach`` and get an all-zero one's scale."""
        scale = self.effective(fp32_from_bits(self.view.scale.zero_bits))
        return self.power(reach, self.block - 1) * self.error(scale, reach)

    def effective(self, stored: float) -> Mp:
        """What a stored scale means in the law's deviations."""
        shift = self.view.scale.shift or 0
        return mpmath.ldexp(mpmath.mpf(stored), -shift) * self.unit

    def rounding(self, size: Mp) -> Mp:
        """A bound of mpmath's rounding where terms of this size are added up."""
        count = 8 * (sum(len(side.values) for side in self.sides) + 8)
        return count * size * mpmath.mpf(10) ** (1 - mpmath.mp.dps)


def rounded(value: Fraction) -> Mp:
    """A rational in mpmath, rounded once."""
    return mpmath.mpf(value.numerator) / value.denominator
