"""The mean squared error that a format makes on random blocks, by quadrature and not by sampling.

A block is g independent elements of a symmetric law of variance 1. Element x asks for the scale
a(x) = x / d+ or -x / d- (0 on a side that does not count), d+ and d- the format's divisors, and
the block takes the largest, s. With F(s) = P(a <= s), the others of a block of scale s follow
the law cut off at -s d- and s d+, and the one that asked for s stands at an end. With

    E(s; A) = integral over -A d- .. A d+ of (x - s Q(x / s))^2 f(x) dx,

a sum over the grid's cells of the law's partial moments of order 0, 1 and 2 (closed forms), the
error of an element is, under ``exact`` scales,

    integral over s of  F^(g-1) (d+ f(s d+) e(d+) + d- f(s d-) e(-d-)) s^2
                        + (g-1) F^(g-2) F' E(s; s),             e(t) = (t - Q(t))^2,

where all edges move with s, so that the integrand is analytic: the trapezoidal rule over log s
converges exponentially, and is refined until two steps agree. Under rule ``argmax`` d+ = d-, and
the largest element stands at t* whichever its sign was; the others are symmetric as before.

Under ``stored`` scales word k serves the blocks that ask for lo_k < s <= hi_k. That no element
asks for more than hi is a product over elements, so that no integral is left:

    sum over k of  F(hi_k)^(g-1) E(s_k; hi_k) - F(lo_k)^(g-1) E(s_k; lo_k).

Under ``argmax`` the largest element differs from this symmetric figure by an integral over its
size, which is smooth between the grid's thresholds: Gauss-Legendre on panels cut at all of them.

What is computed is real arithmetic: that a scale, a threshold and a product are rounded to
binary32 is not in the figures, nor are ties, which have probability 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise

import mpmath
import numpy as np

from ..exact import fp32_from_bits
from ..format import Format
from ..scales import LOG2_RULES
from ..view import View, view_of
from .laws import GAUSSIAN, Law, Mp

#: Digits that are carried beyond the asked ones: 8-bit grids lose six to cancellation.
GUARD_DIGITS = 15
MAX_DIGITS = 40

#: How often the trapezoidal step is halved, and a panel cut in two, at most.
_HALVINGS = 8
_CUTS = 24
#: Points of the two Gauss-Legendre rules that a panel is integrated by.
_RULES = (10, 14)


class NotDerivable(ValueError):
    """This format's error is not derived here; the message says why."""


class Unsettled(ArithmeticError):
    """A quadrature did not settle to the digits asked for."""


@dataclass(frozen=True, slots=True)
class Expected:
    """An expected squared error per element, in units of the law's variance.

    Attributes:
        value: the figure.
        error: its absolute error, estimated: what the last refinement of the quadratures
            changed, plus bounds of what was cut off and of mpmath's rounding. Refining squares
            the error, so that what is left is far smaller; it is an estimate all the same and
            no enclosure. Where no integral is left (absmax with stored scales), rounding alone.
        law: the law's name.
        block: elements of a block.
        scales: ``exact`` or ``stored``.
    """

    value: float
    error: float
    law: str
    block: int
    scales: str


def expected_mse(
    fmt: Format,
    law: Law = GAUSSIAN,
    *,
    block: int | None = None,
    scales: str = "exact",
    unit: float = 1.0,
    digits: int = 8,
) -> Expected:
    """The expected squared error per element of blocks of independent elements.

    Args:
        fmt: a format with one way to encode a block: one grid, one target, no search.
        law: of the elements, variance 1.
        block: elements that share a scale; the format's own by default. Where a row or a tensor
            shares one, it must be said.
        scales: ``exact``: a block's scale is the one it asks for: the error of grid and rule
            alone. ``stored``: it is rounded to the format's word. Words that are powers of two
            count as stored always, and fp32 ones as exact.
        unit: what a stored scale of 1 means where the law's deviation is 1: the tensor's second
            level, or 2^-k of a shift chosen per tensor. A fixed shift counts by itself.
        digits: significant digits to settle to.

    Raises:
        NotDerivable: the format chooses among grids or scales, or stores more than codes and
            scales; or a block size is missing.
        ValueError: an argument is out of range.
        Unsettled: the quadrature did not reach the digits.
    """
    if scales not in ("exact", "stored"):
        raise ValueError(f"scales are 'exact' or 'stored', not '{scales}'")
    if not 1 <= digits <= MAX_DIGITS:
        raise ValueError(f"digits go from 1 to {MAX_DIGITS}, not {digits}")
    if not (unit > 0 and math.isfinite(unit)):
        raise ValueError(f"a unit is a positive number, not {unit}")
    reason = _reason(fmt, block)
    if reason:
        raise NotDerivable(f"the expected error of '{fmt.name}' is not derived: {reason}")
    size = _block_of(fmt) if block is None else block
    if size < 1:
        raise ValueError(f"a block has 1 element or more, not {size}")
    view = view_of(fmt)
    stored = not view.scale.is_fp32 and (scales == "stored" or _powers_of_two(view))
    if stored and fmt.scale.codes == "wanted":
        raise NotDerivable(
            f"the expected error of '{fmt.name}' is not derived: elements are rounded under the"
            " wanted scale and decoded under the stored one; scales='exact' is served"
        )
    with mpmath.workdps(digits + GUARD_DIGITS):
        problem = _Problem(view, law, size, mpmath.mpf(unit), digits)
        value, error = _stored(problem) if stored else _exact(problem)
        return Expected(float(value), float(error), str(law), size, "stored" if stored else "exact")


def _reason(fmt: Format, block: int | None) -> str:
    """Why a format's error is not derived here; empty where it is."""
    view = view_of(fmt)
    reasons = {
        "it chooses between grids": len(fmt.grids) > 1,
        "it has a zero point or a minimum": fmt.zero is not None,
        "it keeps some elements in a side stream": bool(fmt.sides),
        "its scales are stored in a format of their own": fmt.scale.stored is not None,
        "it tries several scales for a block": len(view.trials) > 1,
        "its scale follows the block's range": fmt.scale.rule == "range",
        f"a {fmt.extent} shares a scale: say of how many elements (block)": (
            fmt.extent != "block" and block is None
        ),
        "its grid has no positive value": view.trials[0].positive_divisor <= 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _block_of(fmt: Format) -> int:
    return fmt.block * fmt.tile


def _powers_of_two(view: View) -> bool:
    """Whether stored scales are powers of two, so that rounding them is part of the rule."""
    scale = view.format.scale
    return scale.rule in LOG2_RULES or scale.word.number.mantissa == 0


# -- the integrand ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """A format's only grid and rule, and a law, in mpmath's numbers (not hashed, not shared)."""

    view: View
    law: Law
    block: int
    unit: Mp
    digits: int

    @cached_property
    def values(self) -> list[Mp]:
        """The grid's values, ascending, each once."""
        return [_mp(value) for value in self.view.format.grids[0].numbers]

    @cached_property
    def thresholds(self) -> list[Mp]:
        """Between one value and the next, in units of the scale."""
        offset = self.view.format.policies.offset
        if offset is not None:  # truncated after adding it, counted from the lowest code
            return [_mp(rank + 1 - offset) for rank in range(len(self.values) - 1)]
        return [(low + high) / 2 for low, high in pairwise(self.values)]

    @cached_property
    def rises(self) -> list[tuple[Mp, list[tuple[Mp, Mp, bool]]]]:
        """By magnitude of threshold: how v and v^2 rise there, and whether it is positive."""
        found: dict[Mp, list[tuple[Mp, Mp, bool]]] = {}
        for i, point in enumerate(self.thresholds):
            low, high = self.values[i : i + 2]
            rise = (high - low, high * high - low * low, point > 0)
            found.setdefault(abs(point), []).append(rise)
        return list(found.items())

    @cached_property
    def signed(self) -> bool:
        """Whether the largest element always stands at the same end."""
        return self.view.scale.signed_rule

    @cached_property
    def divisors(self) -> tuple[Mp, Mp]:
        """d+ and d-; d- is 0 where negative elements do not count."""
        trial = self.view.trials[0]
        positive = _mp(trial.positive_divisor)
        return positive, positive if self.signed else _mp(trial.negative_divisor)

    @cached_property
    def span(self) -> Mp:
        """The largest magnitude among values and divisors."""
        return max(*map(abs, self.values), *self.divisors)

    def region(self, reach: Mp) -> tuple[Mp, Mp]:
        """What asks for no more than ``reach``."""
        positive, negative = self.divisors
        return -reach * negative if negative else -mpmath.inf, reach * positive

    def below(self, reach: Mp) -> Mp:
        """F: the probability that an element asks for no more than ``reach``."""
        low, high = self.region(reach)
        return (self.law.mp_within(high) + self.law.mp_within(-low)) / 2

    def density(self, reach: Mp) -> tuple[Mp, Mp]:
        """F' in two parts: of an element at the positive and at the negative end."""
        positive, negative = self.divisors
        at_negative = negative * self.law.mp_density(reach * negative) if negative else 0
        return positive * self.law.mp_density(reach * positive), at_negative

    def end_errors(self) -> tuple[Mp, Mp]:
        """The squared error of an element at either end, in units of the scale."""
        positive, negative = self.divisors
        right = (positive - self.nearest(positive)) ** 2
        left = (negative + self.nearest(-negative)) ** 2
        if self.signed:
            return (left, left) if self.view.grids[0].end_is_negative else (right, right)
        return right, left

    def nearest(self, point: Mp) -> Mp:
        """The value that a number in units of the scale is rounded to."""
        return self.values[bisect_left(self.thresholds, point)]

    def errors(self, scale: Mp, reaches: list[Mp]) -> list[Mp]:
        """E(scale; reach) for every reach."""
        moments = {}
        for size, _ in self.rises:
            edge = scale * size
            moments[size] = (self.law.mp_within(edge) / 2, self.law.mp_first(edge))
        return [self._error(scale, *self.region(reach), moments) for reach in reaches]

    def _error(self, scale: Mp, low: Mp, high: Mp, moments: dict[Mp, tuple[Mp, Mp]]) -> Mp:
        """The integral of (x - scale Q)^2 f(x) over low..high, summed by parts."""
        law = self.law
        first = last = self.values[0]
        linear = square = mpmath.mpf(0)
        if scale:
            first = self.values[bisect_right(self.thresholds, low / scale)]
            last = self.values[bisect_left(self.thresholds, high / scale)]
            least, most = low / scale, high / scale
            for size, rises in self.rises:
                mass, moment = moments[size]
                for rise, rise_of_square, positive in rises:
                    if least < (size if positive else -size) < most:
                        linear += rise * moment
                        square += rise_of_square * (mass if positive else -mass)
        linear = last * law.mp_first(high) - first * law.mp_first(-low) - linear
        mass_high, mass_low = law.mp_within(high) / 2, -law.mp_within(-low) / 2
        square = last * last * mass_high - first * first * mass_low - square
        whole = law.mp_second(high) + law.mp_second(-low)
        return whole - 2 * scale * linear + scale * scale * square

    def all_zero(self, reach: Mp) -> Mp:
        """The share of blocks that ask for no more than ``reach`` and get an all-zero one's."""
        scale = self.effective(fp32_from_bits(self.view.scale.zero_bits))
        return self.below(reach) ** (self.block - 1) * self.errors(scale, [reach])[0]

    def effective(self, stored: float) -> Mp:
        """What a stored scale means in the law's deviations."""
        shift = self.view.scale.shift or 0
        return mpmath.ldexp(mpmath.mpf(stored), -shift) * self.unit

    def rounding(self, moment: Mp) -> Mp:
        """A bound of mpmath's rounding, where squares of size ``moment`` are added up."""
        count = 8 * (len(self.values) + 8)
        return count * self.span**2 * moment * mpmath.mpf(10) ** (1 - mpmath.mp.dps)


def _mp(value: Fraction) -> Mp:
    return mpmath.mpf(value.numerator) / value.denominator


# -- exact scales ----------------------------------------------------------------------


def _exact(problem: _Problem) -> tuple[Mp, Mp]:
    """The error under the scales that blocks ask for, and its error."""
    right, left = problem.end_errors()
    g = problem.block

    def integrand(reach: Mp) -> tuple[Mp, Mp]:
        """What log s is integrated of, and of the second moment of s alike."""
        below = problem.below(reach)
        at_right, at_left = problem.density(reach)
        slope = at_right + at_left
        total = below ** (g - 1) * (at_right * right + at_left * left) * reach * reach
        if g > 1:
            others = problem.errors(reach, [reach])[0]
            total += (g - 1) * below ** (g - 2) * slope * others
        return total * reach, g * below ** (g - 1) * slope * reach**3

    value, moment, error = _over_logarithm(integrand, _middle(problem), g, problem.digits)
    zero = problem.all_zero(mpmath.mpf(0))
    if problem.view.scale.is_fp32:
        least = mpmath.mpf(fp32_from_bits(problem.view.scale.minimum_bits))
        error += problem.below(least) ** g * (2 * least * problem.span) ** 2
    return value + zero, error + problem.rounding(moment)


def _middle(problem: _Problem) -> float:
    """About the logarithm of the median scale, from which the integral is walked."""
    divisor = float(max(problem.divisors))
    low, high = -60.0, 60.0
    wanted = math.log(2) / problem.block
    while high - low > 1e-3:
        middle = (low + high) / 2
        # (1 - beyond)^g against 1/2, for large blocks as for small ones.
        beyond = float(problem.law.beyond(math.exp(middle)))
        rare = -math.log1p(-beyond) if beyond < 1 else math.inf
        low, high = (middle, high) if rare > wanted else (low, middle)
    return low - math.log(divisor)


def _over_logarithm(
    integrand: Callable[[Mp], tuple[Mp, Mp]], middle: float, block: int, digits: int
) -> tuple[Mp, Mp, Mp]:
    """The integral over log s of two functions of s, and the first one's error.

    The peak of the largest of g is about 1 / (2 log g) wide in log s.
    """
    step = mpmath.mpf(1) / mpmath.mpf(4 + 4 * math.ceil(math.log(block + 1)))
    wanted = mpmath.mpf(10) ** (-digits)
    negligible = wanted * mpmath.mpf(10) ** -4
    start = integrand(mpmath.exp(middle))
    sums = [start[0], start[1]]
    counts, cut = [], mpmath.mpf(0)
    for direction in (1, -1):
        before, count = start[0], 0
        while True:
            count += 1
            term, moment = integrand(mpmath.exp(middle + direction * count * step))
            sums[0] += term
            sums[1] += moment
            if term <= before and term <= negligible * sums[0] * step:
                ratio = term / before if before else mpmath.mpf(0)
                cut += step * term * ratio / (1 - ratio) if ratio < 1 else term
                break
            before = term
        counts.append(count)
    for _ in range(_HALVINGS):
        coarse = sums[0] * step
        for count in range(-counts[1], counts[0]):
            term, moment = integrand(mpmath.exp(middle + (count + mpmath.mpf(0.5)) * step))
            sums[0] += term
            sums[1] += moment
        counts = [2 * count for count in counts]
        step /= 2
        fine = sums[0] * step
        if abs(fine - coarse) <= wanted * fine:
            return fine, sums[1] * step, abs(fine - coarse) + 2 * cut
    raise Unsettled(f"the integral over a block's scale does not settle to {digits} digits")


# -- stored scales ---------------------------------------------------------------------


def _stored(problem: _Problem) -> tuple[Mp, Mp]:
    """The error under the scales that are stored, and its error."""
    power = problem.block - 1
    cells = list(_cells(problem))
    total = problem.all_zero(cells[0][1])
    error = mpmath.mpf(0)
    tiny = mpmath.mpf(10) ** (-mpmath.mp.dps)
    for scale, low, high in cells:
        share = problem.below(high) ** power
        if share * high * high < tiny * tiny:  # no block asks for so little
            continue
        to_high, to_low = problem.errors(scale, [high, low])
        total += share * to_high - problem.below(low) ** power * to_low
        if problem.signed:
            more, uncertain = _at_the_end(problem, scale, low, high)
            total += more
            error += uncertain
    return total, error + problem.rounding(mpmath.mpf(1) / problem.span**2) * len(cells)


def _cells(problem: _Problem) -> Iterator[tuple[Mp, Mp, Mp]]:
    """Every stored scale, and between which wanted ones it is taken; the last one saturates."""
    view = problem.view.scale
    one = problem.effective(1.0)
    edges = [_mp(view.first_point) * one, *(_mp(point) * one for point in view.points)]
    for code, (low, high) in zip(view.ranks[1:], pairwise([*edges, mpmath.inf]), strict=True):
        yield problem.effective(fp32_from_bits(view.values_bits[code])), low, high


def _at_the_end(problem: _Problem, scale: Mp, low: Mp, high: Mp) -> tuple[Mp, Mp]:
    """What rule argmax adds: the largest element is encoded on t*'s side, not on its own.

    With v+ and v- the values of x and -x, half the difference of their squared errors is
    s (v+ + v-) (s (v+ - v-) - 2x) / 2, and the other side's is its negative.
    """
    law, divisor = problem.law, problem.divisors[0]
    side = -1 if problem.view.grids[0].end_is_negative else 1
    start, stop = low * divisor, high * divisor
    cuts = sorted({scale * size for size, _ in problem.rises if start < scale * size < stop})
    total, error = mpmath.mpf(0), mpmath.mpf(0)
    for left, right in pairwise([start, *cuts, stop]):
        point = (left + right) / 2 if right < mpmath.inf else 2 * left + 1
        value, mirror = (problem.nearest(x / scale) if scale else 0 for x in (point, -point))
        weight, offset = side * scale * (value + mirror), scale * (value - mirror)
        if weight == 0 or law.mp_within(right) ** problem.block < mpmath.eps * mpmath.eps:
            continue

        def integrand(x: Mp, weight: Mp = weight, offset: Mp = offset) -> Mp:
            rest = law.mp_within(x) ** (problem.block - 1)
            return law.mp_density(x) * rest * weight * (offset - 2 * x)

        for a, b in _halves(left, right):
            more, uncertain = _panel(integrand, a, b, problem.digits)
            total += more
            error += uncertain
    return total, error


def _halves(left: Mp, right: Mp) -> list[tuple[Mp, Mp]]:
    """A panel, or doubling ones in place of one without end."""
    if right < mpmath.inf:
        return [(left, right)]
    edges = [left, *(max(left, mpmath.mpf(1)) * 2**k for k in range(1, 60))]
    return list(pairwise(edges))


def _panel(
    integrand: Callable[[Mp], Mp], left: Mp, right: Mp, digits: int, depth: int = 0
) -> tuple[Mp, Mp]:
    """The integral by two rules, the panel halved until they agree; and what they differ by."""
    half, middle = (right - left) / 2, (right + left) / 2
    coarse, fine = (
        half * mpmath.fsum(w * integrand(middle + half * x) for x, w in _gauss(n, mpmath.mp.prec))
        for n in _RULES
    )
    difference = abs(fine - coarse)
    if difference <= mpmath.mpf(10) ** (-digits - 6) * (right - left) / (1 + right):
        return fine, difference
    if depth == _CUTS:
        raise Unsettled(f"the largest element's error does not settle to {digits} digits")
    parts = [
        _panel(integrand, a, b, digits, depth + 1) for a, b in ((left, middle), (middle, right))
    ]
    return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]


@cache
def _gauss(count: int, precision: int) -> tuple[tuple[Mp, Mp], ...]:
    """Abscissas and weights of Gauss-Legendre on -1..1: NumPy's, refined by Newton's method."""
    found = []
    with mpmath.workprec(precision + 10):
        for start in np.polynomial.legendre.leggauss(count)[0].tolist():
            x = mpmath.mpf(start)
            for _ in range(math.ceil(math.log2(precision / 40)) + 1):
                slope, height = _legendre(count, x)
                x -= height / slope
            slope, _height = _legendre(count, x)
            found.append((x, 2 / ((1 - x * x) * slope * slope)))
    return tuple(found)


def _legendre(count: int, x: Mp) -> tuple[Mp, Mp]:
    """The slope and the value of the Legendre polynomial."""
    before, now = mpmath.mpf(1), x
    for n in range(2, count + 1):
        before, now = now, ((2 * n - 1) * x * now - (n - 1) * before) / n
    return count * (x * now - before) / (x * x - 1), now
