"""Quadratures in mpmath of smooth functions, each with an estimate of its own error."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import mpmath
import numpy as np

from .laws import Mp

#: The trapezoidal rule's first step in log s.
_STEP = 0.25
#: How often the trapezoidal step is halved, and a panel cut in two, at most.
_HALVINGS = 10
_CUTS = 24
#: Points of the two Gauss-Legendre rules that a panel is integrated by.
_RULES = (10, 14)


class Unsettled(ArithmeticError):
    """A quadrature did not settle to the digits asked for."""


def over_logarithm(
    integrand: Callable[[Mp], tuple[Mp, Mp]], middle: float, digits: int
) -> tuple[Mp, Mp, Mp]:
    """The integral over log s of two functions of s, and the first one's error.

    Both are analytic, not negative, and fall off to both sides of a peak near ``middle``: by the
    trapezoidal rule, whose step is halved until two sums agree.
    """
    step = mpmath.mpf(_STEP)
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


def doubling(left: Mp, right: Mp) -> list[tuple[Mp, Mp]]:
    """A panel, or doubling ones in place of one without end."""
    if right < mpmath.inf:
        return [(left, right)]
    edges = [left, *(max(left, mpmath.mpf(1)) * 2**k for k in range(1, 60))]
    return list(pairwise(edges))


def panel(
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
        panel(integrand, a, b, digits, depth + 1) for a, b in ((left, middle), (middle, right))
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
