"""Binary32 arithmetic with one rounding each, in rationals, with the signs of zeros as IEEE 754."""

from __future__ import annotations

import math
from fractions import Fraction

from ....compiler.exact import FP32_MAX, round_fp32

INFINITY = float("inf")
LARGEST = float(FP32_MAX)


def is_negative(x: float) -> bool:
    """Whether the sign bit of x is set: true of -0."""
    return math.copysign(1.0, x) < 0


def times(a: float, b: float) -> float:
    """RNE32(a * b)."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b
    product = round_fp32(Fraction(a) * Fraction(b))
    return product or math.copysign(0.0, math.copysign(1.0, a) * math.copysign(1.0, b))


def plus(a: float, b: float) -> float:
    """RNE32(a + b)."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a + b
    return round_fp32(Fraction(a) + Fraction(b)) or a + b


def divided(a: float, b: float) -> float:
    """RNE32(a / b), for a finite b other than zero."""
    if not math.isfinite(a):
        return math.copysign(a, math.copysign(1.0, a) * math.copysign(1.0, b))
    quotient = round_fp32(Fraction(a) / Fraction(b))
    return quotient or math.copysign(0.0, math.copysign(1.0, a) * math.copysign(1.0, b))


def whole(x: float) -> float:
    """The integer nearest to x, the even one of two."""
    return float(round(x)) if math.isfinite(x) else x


def clipped(x: float) -> float:
    """X, or the largest binary32 number of its sign where it is infinite."""
    return x if x != x else max(-LARGEST, min(LARGEST, x))
