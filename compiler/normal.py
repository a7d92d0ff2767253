"""Quantiles of the standard normal distribution, with proven bounds.

For y >= 0 (Abramowitz and Stegun 26.2.11, all terms positive)

    Phi(y) - 1/2 = phi(y) * S(y),   S(y) = sum over k of y^(2k+1) / (1 * 3 * ... * (2k+1)).

S is summed in integers that are rounded outward, and once the ratio of terms is below 1/2 its
remainder is below twice the next term. phi is mpmath's interval exponential.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from statistics import NormalDist

#: Probabilities nearer to 0 or 1 are refused: their quantiles lie past 11 standard deviations.
SMALLEST_TAIL = Fraction(1, 1 << 100)

#: Bits beyond the asked precision, for the rounding of the sum and the last Newton step.
GUARD_BITS = 48

Bounds = tuple[Fraction, Fraction]


class Undecided(ArithmeticError):
    """The bounds could not be shown at this precision."""


def quantile(probability: Fraction, precision: int) -> Bounds:
    """Two numbers, 2^(10-precision) apart, that surely have the quantile between them.

    Args:
        probability: from ``SMALLEST_TAIL`` to 1 minus that.
        precision: in bits after the binary point.

    Raises:
        Undecided: the bounds could not be shown; it takes more precision.
    """
    if probability > Fraction(1, 2):
        low, high = quantile(1 - probability, precision)
        return -high, -low
    middle = Fraction(1, 2) - probability
    bits = precision + GUARD_BITS - _log2(probability)
    point = _solve(middle, probability, bits)
    step = Fraction(1, 1 << (precision - 9))
    below, above = max(point - step, Fraction(0)), point + step
    if not (below == 0 or half_mass(below, bits)[1] < middle) or (
        half_mass(above, bits)[0] <= middle
    ):
        raise Undecided
    return -above, -below


def half_mass(point: Fraction, bits: int) -> Bounds:
    """Bounds of Phi(point) - 1/2 for ``point`` >= 0, about 2^-bits relative apart."""
    low, high = _series(point, bits)
    thin, thick = density(point, bits)
    return thin * low, thick * high


def density(point: Fraction, bits: int) -> Bounds:
    """Bounds of phi(point), the normal density."""
    from mpmath.ctx_iv import MPIntervalContext

    iv = MPIntervalContext()
    iv.prec = bits
    exponent = -point * point / 2
    ratio = iv.mpf(exponent.numerator) / iv.mpf(exponent.denominator)
    ends = (iv.exp(ratio) / iv.sqrt(2 * iv.pi))._mpi_
    low, high = (Fraction(int(man)) * Fraction(2) ** int(exp) for _, man, exp, _ in ends)
    return low, high


def _series(point: Fraction, bits: int) -> Bounds:
    """Bounds of S(point)."""
    one = 1 << bits
    square = point * point
    square_low, square_high = floor(square * one), ceil(square * one)
    term_low, term_high = floor(point * one), ceil(point * one)
    low = high = 0
    odd = 1
    while True:
        low += term_low
        high += term_high
        odd += 2
        term_low = (term_low * square_low) // (odd * one)
        term_high = -((-term_high * square_high) // (odd * one))  # rounded up
        if term_high <= 1 and 2 * square_high < odd * one:
            return Fraction(low, one), Fraction(high + 2 * term_high, one)


def _solve(middle: Fraction, probability: Fraction, bits: int) -> Fraction:
    """An approximate y with Phi(y) - 1/2 = middle, by Newton's method from a binary64 start."""
    point = _dyadic(Fraction(-NormalDist().inv_cdf(float(probability))), bits)
    correct = 40
    while correct < bits:
        low, high = half_mass(point, bits)
        thin, thick = density(point, bits)
        point += _dyadic((2 * middle - low - high) / (thin + thick), bits)
        point = max(point, Fraction(0))
        correct *= 2
    return point


def _dyadic(value: Fraction, bits: int) -> Fraction:
    """``value`` with ``bits`` bits after the binary point: it keeps numbers short."""
    return Fraction(round(value * (1 << bits)), 1 << bits)


def _log2(value: Fraction) -> int:
    """About the binary logarithm, from below."""
    return value.numerator.bit_length() - value.denominator.bit_length() - 1
