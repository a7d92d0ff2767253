"""What a symmetric integer grid loses beside one with a zero point: the gamma squared law.

Data between lo <= 0 <= hi, n levels. A symmetric grid spans -A..A with A = max(-lo, hi), in
steps of 2A / (n - 1); one with a zero point spans lo..hi, in steps of (hi - lo) / (n - 1). The
steps' ratio is

    gamma = 2 max(-lo, hi) / (hi - lo),      1 <= gamma <= 2,

1 where the data lie alike on both sides, 2 where they lie on one. Where the error is uniform
within half a step, its variance is step^2 / 12, so that the symmetric grid's noise is gamma^2
times the other's: at most 6.02 dB, or one bit.

Levels: of b bits there are n = 2^b levels, 2^b - 1 steps apart, when both grids use all codes
(``int4_sym_g128``, whose ends stand at 7.5 steps). Practical symmetric integers leave out the
lowest code, so that 0 lies in the middle: 2^b - 1 levels, 2^b - 2 steps, and their noise is
((2^b - 1) / (2^b - 2))^2 times higher still.

``derive`` proves these statements with SymPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Statement:
    """What was proven, in words and as a formula."""

    claim: str
    formula: str


class NotProven(ArithmeticError):
    """SymPy did not show a statement."""


def gamma(lo: Fraction | int, hi: Fraction | int) -> Fraction:
    """The symmetric step over the step with a zero point, level for level: 1 to 2.

    Raises:
        ValueError: 0 is not between the ends, or they are equal. A range with a zero point
            always reaches 0, so that ends of one sign are widened to it first.
    """
    if not (lo <= 0 <= hi and lo < hi):
        raise ValueError(f"a range goes from lo <= 0 to hi >= 0, not from {lo} to {hi}")
    return Fraction(2 * max(-lo, hi)) / (hi - lo)


def noise_ratio(
    lo: Fraction | int, hi: Fraction | int, bits: int, practical: bool = False
) -> Fraction:
    """The symmetric grid's noise over that of the one with a zero point.

    Args:
        lo: the least datum, at most 0.
        hi: the largest, at least 0.
        bits: of a code.
        practical: the symmetric grid leaves out the lowest code: 2^bits - 1 levels.

    Raises:
        ValueError: the range is none (``gamma``), or there are too few bits for two steps.
    """
    if bits < (2 if practical else 1):
        raise ValueError(f"{bits} bits leave a grid without steps")
    ratio = gamma(lo, hi)
    if practical:
        ratio *= Fraction(2**bits - 1, 2**bits - 2)
    return ratio * ratio


def derive() -> tuple[Statement, ...]:
    """The law, proven from the definitions of both steps and the uniform noise model.

    Raises:
        NotProven: SymPy did not show one of the statements.
    """
    found = []
    for claim, formula, holds in _statements():
        if not holds:
            raise NotProven(claim)
        found.append(Statement(claim, formula))
    return tuple(found)


def _statements() -> Iterator[tuple[str, str, bool]]:
    """Claims, their formulas, and whether SymPy shows them.

    The ends are hi and lo = -r hi with 0 <= r <= 1: data with the longer side below are the
    mirror image. SymPy decides signs from those of r and of t = 1 - r >= 0.
    """
    import sympy as sp

    step, top = sp.symbols("step hi", positive=True)
    error = sp.Symbol("e", real=True)
    share, short = sp.symbols("r t", nonnegative=True)
    steps = sp.Symbol("m", positive=True)
    bits = sp.Symbol("b", integer=True, positive=True)
    low = -share * top
    symmetric, shifted = 2 * top / steps, (top - low) / steps

    noise = sp.integrate(error**2 / step, (error, -step / 2, step / 2))
    yield "the error's variance is step^2 / 12", f"{noise}", _same(noise, step**2 / 12)
    ratio = sp.simplify(symmetric / shifted)
    claim = "the steps' ratio is gamma = 2 hi / (hi - lo), whatever the number of levels"
    yield claim, f"{ratio}", _same(ratio, 2 * top / (top - low)) and not ratio.has(steps, top)
    noises = noise.subs(step, symmetric) / noise.subs(step, shifted)
    yield "the noises' ratio is gamma^2", f"{sp.simplify(noises)}", _same(noises, ratio**2)

    slope = sp.simplify(sp.diff(ratio, share))
    yield "gamma falls as the shorter side grows", f"{slope} < 0", bool(slope.is_negative)
    over, under = sp.fraction(sp.together(ratio - 1))
    left = sp.expand(over.subs(share, 1 - short))
    claim = "gamma is at least 1: over the positive 1 + r stands t"
    yield claim, f"{over / under}", bool(left.is_nonnegative and under.is_positive)
    at_most = sp.factor(2 - ratio)
    yield "gamma is at most 2", f"{at_most} >= 0", bool(at_most.is_nonnegative)
    ends = ratio.subs(share, 1), ratio.subs(share, 0)
    yield "gamma is 1 for ends alike", f"{ends[0]}", _same(ends[0], sp.Integer(1))
    yield "gamma is 2 for data on one side", f"{ends[1]}", _same(ends[1], sp.Integer(2))

    fewer = symmetric.subs(steps, 2**bits - 2) / shifted.subs(steps, 2**bits - 1)
    practical = ((2**bits - 1) / (2**bits - 2)) ** 2
    claim = "without the lowest code the ratio is gamma^2 ((2^b - 1) / (2^b - 2))^2"
    yield claim, f"{sp.simplify(fewer**2)}", _same(fewer**2, ratio**2 * practical)
    limit = sp.limit(practical, bits, sp.oo)
    yield "and that factor falls to 1", f"{limit}", _same(limit, sp.Integer(1))


def _same(left: object, right: object) -> bool:
    """Whether SymPy shows that two expressions are equal."""
    import sympy as sp

    return bool(sp.simplify(sp.sympify(left) - sp.sympify(right)) == 0)
