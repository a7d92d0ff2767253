"""Codebooks of least squared error for blocks of Gaussian values over their largest (BOF4).

Blum et al., arXiv:2505.06653. For a block of g independent N(0, 1) values with largest magnitude
M, and y = x/M of an element that is not the largest, the squared error of the block itself is
M^2 (y - q)^2. Averaged over M, y has the weight density

    f(y) = const * integral over m > 0 of  m^3 phi(m y) phi(m) (2 Phi(m) - 1)^(g-2)  dm,

and the optimal levels are the centroids of f on the cells around them (Lloyd's condition), with
0 and the ends held: -1 and 1 under absmax; 1 alone where the largest decodes to 1 with either
sign (signed, BOF4-S). As 0 is a level, the two sides are problems of their own.

Not proven but checked: the integrals over m are Gauss-Legendre sums, refined until two of them
agree to ``AGREEMENT``; the levels solve the condition for these sums to ``AGREEMENT`` as well.
Users rely on ``RADIUS``, ten orders wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

#: Largest block, and most levels.
MAX_BLOCK = 4096
MAX_LEVELS = 32
#: What two quadratures, and the two sides of Lloyd's condition, may differ by.
AGREEMENT = Fraction(1, 10**40)
#: The levels are taken to be known to this.
RADIUS = Fraction(1, 10**30)

#: Decimal digits that are worked with.
_DIGITS = 52
#: m beyond this has less than 10^-50 of the weight; so do nodes that are left out.
_FARTHEST = 16
_NEGLIGIBLE = 1e-55
#: Nodes of a panel of the quadrature over m, and how many panels are tried.
_NODES = 24
_PANELS = (16, 32, 64, 128, 256)


class NoSolution(ArithmeticError):
    """The levels were not found to the promised digits."""


@cache
def levels(count: int, block: int, signed: bool) -> tuple[Fraction, ...]:
    """The optimal levels, ascending, each within ``RADIUS``; -1, 0 and 1 are exact.

    ``count // 2`` levels are positive, one is 0, the others are negative.

    Args:
        count: levels in all, 3 to ``MAX_LEVELS``.
        block: elements of a block, 2 to ``MAX_BLOCK``.
        signed: the largest element decodes to 1, whatever its sign.

    Raises:
        NoSolution: the iteration did not settle.
    """
    right = _side(count // 2 - 1, block, held=True)
    negative = (count - 1) // 2
    left = _side(negative if signed else negative - 1, block, held=not signed)
    ends = () if signed else (Fraction(-1),)
    mirrored = tuple(-level for level in reversed(left))
    return (*ends, *mirrored, Fraction(0), *right, Fraction(1))


@cache
def _side(free: int, block: int, held: bool) -> tuple[Fraction, ...]:
    """The free levels between 0 and 1, ascending; ``held``: 1 is a level beyond them."""
    if free <= 0:
        return ()
    plain = _plain_rule(block)
    rough = _settled(plain, free, held)
    exact: list[Any] | None = None
    for panels in _PANELS:
        rule = _exact_rule(block, panels)
        start = exact or [rule.number(level) for level in rough]
        exact, first_step = _polished(rule, plain, start, held)
        if panels != _PANELS[0] and first_step < AGREEMENT:
            return tuple(_fraction(level) for level in exact)
    raise NoSolution(f"{free} levels for blocks of {block}: the integrals do not settle")


# -- integrals over m ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """A quadrature over m, in binary64 or in mpmath's numbers.

    ``nodes``: (m / sqrt 2, and the weights of the mass, the first moment and the density).
    """

    nodes: tuple[tuple[Any, Any, Any, Any], ...]
    erf: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    number: Callable[[Any], Any]

    def moments(self, edge: Any) -> tuple[Any, Any, Any]:
        """The integrals of f and y f(y) over 0..edge, and f(edge), all times one constant."""
        mass = moment = height = self.number(0)
        for scale, for_mass, for_moment, for_density in self.nodes:
            reach = scale * edge
            fall = self.exp(-reach * reach)
            mass += for_mass * self.erf(reach)
            moment += for_moment * (1 - fall)
            height += for_density * fall
        return mass, moment, height


def _rule(block: int, points: Sequence[tuple[Any, Any]], calls: Any, number: Any) -> _Rule:
    """The quadrature with these nodes and weights; those that weigh nothing are left out."""
    root = calls.sqrt(number(2))
    slope = 1 / calls.sqrt(2 * number(calls.pi))
    nodes = []
    for m, weight in points:
        x = m / root
        common = weight * calls.exp(-x * x) * calls.erf(x) ** (block - 2)
        nodes.append((x, m * m * common / 2, m * common * slope, m**3 * common * slope))
    most = max(node[1] for node in nodes)
    kept = tuple(node for node in nodes if node[1] > most * _NEGLIGIBLE)
    return _Rule(kept, calls.erf, calls.exp, number)


def _plain_rule(block: int) -> _Rule:
    """Binary64, for the first approximation and the Jacobian."""
    import math

    context = _context()
    points = [(float(m), float(weight)) for m, weight in _points(context, 64)]
    return _rule(block, points, math, float)


def _exact_rule(block: int, panels: int) -> _Rule:
    context = _context()
    return _rule(block, _points(context, panels), context, context.mpf)


@cache
def _context() -> Any:
    """Multiple precision of our own, whose digits nobody else sets."""
    import mpmath

    context = mpmath.mp.clone()
    context.dps = _DIGITS
    return context


def _points(context: Any, panels: int) -> list[tuple[Any, Any]]:
    """Gauss-Legendre nodes and weights on equal panels of 0 to ``_FARTHEST``."""
    half = context.mpf(_FARTHEST) / (2 * panels)
    return [
        ((2 * panel + 1 + x) * half, weight * half)
        for panel in range(panels)
        for x, weight in _legendre()
    ]


@cache
def _legendre() -> tuple[tuple[Any, Any], ...]:
    """Nodes and weights of the Gauss-Legendre rule on -1..1: Newton's method on the polynomial."""
    context = _context()
    found = []
    for index in range(_NODES):
        x = context.cos(context.pi * (index + context.mpf(3) / 4) / (_NODES + context.mpf(1) / 2))
        for _ in range(7):
            before, value = context.mpf(1), x
            for degree in range(2, _NODES + 1):
                before, value = (
                    value,
                    ((2 * degree - 1) * x * value - (degree - 1) * before) / degree,
                )
            slope = _NODES * (x * value - before) / (x * x - 1)
            x -= value / slope
        found.append((x, 2 / ((1 - x * x) * slope * slope)))
    return tuple(found)


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    magnitude = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -magnitude if sign else magnitude


# -- Lloyd's condition -----------------------------------------------------------------


def _excess(
    rule: _Rule, levels_: Sequence[Any], held: bool
) -> tuple[list[Any], list[tuple[Any, Any, Any]]]:
    """Centroid minus level of every cell, and the three diagonals of its Jacobian, row by row."""
    one = rule.number(1)
    middles = [(a + b) / 2 for a, b in pairwise([rule.number(0), *levels_])]
    edges = [*middles, (levels_[-1] + one) / 2 if held else one]
    found = [rule.moments(edge) for edge in edges]
    excess, rows = [], []
    for i, level in enumerate(levels_):
        (mass, moment, height), (mass_b, moment_b, height_b) = found[i], found[i + 1]
        weight = mass_b - mass
        centroid = (moment_b - moment) / weight
        lower = height * (centroid - edges[i]) / weight / 2
        upper = height_b * (edges[i + 1] - centroid) / weight / 2
        if i == len(levels_) - 1 and not held:
            upper = 0 * upper
        excess.append(centroid - level)
        rows.append((lower, lower + upper - 1, upper))
    return excess, rows


def _newton_step(excess: Sequence[Any], rows: Sequence[tuple[Any, Any, Any]]) -> list[Any]:
    """What to add to the levels: the tridiagonal system of one step of Newton's method."""
    right, diagonal = [-value for value in excess], [row[1] for row in rows]
    for i in range(1, len(rows)):
        factor = rows[i][0] / diagonal[i - 1]
        diagonal[i] = diagonal[i] - factor * rows[i - 1][2]
        right[i] = right[i] - factor * right[i - 1]
    step = [right[-1] / diagonal[-1]]
    for i in range(len(rows) - 2, -1, -1):
        step.append((right[i] - rows[i][2] * step[-1]) / diagonal[i])
    return step[::-1]


def _settled(rule: _Rule, free: int, held: bool) -> list[float]:
    """The levels as near as binary64 takes them: Lloyd's iteration, then Newton's method."""
    cells = free + (1 if held else 0.5)
    found = [(i + 1) / cells for i in range(free)]
    for _ in range(40):
        excess, _rows = _excess(rule, found, held)
        found = [level + move for level, move in zip(found, excess, strict=True)]
    size = 1.0
    for _ in range(60):
        step = _newton_step(*_excess(rule, found, held))
        found = _moved(found, step)
        before, size = size, max(map(abs, step))
        if size < 1e-9 and size > before / 8:
            return found
    raise NoSolution(f"{free} levels: Newton's method does not settle")


def _moved(levels_: list[float], step: list[float]) -> list[float]:
    """The levels after a step, halved until they still ascend from 0 to 1."""
    factor = 1.0
    while True:
        moved = [level + factor * move for level, move in zip(levels_, step, strict=True)]
        if all(a < b for a, b in pairwise([0.0, *moved, 1.0])):
            return moved
        factor /= 2


def _polished(rule: _Rule, plain: _Rule, start: list[Any], held: bool) -> tuple[list[Any], Any]:
    """Solve Lloyd's condition for ``rule``; also the size of the first step from ``start``.

    Newton's method with the binary64 Jacobian: each step adds ten digits or more.
    """
    rows = _excess(plain, [float(level) for level in start], held)[1]
    found, first = start, None
    for _ in range(12):
        step = _newton_step(_excess(rule, found, held)[0], rows)
        found = [level + move for level, move in zip(found, step, strict=True)]
        size = _fraction(max(map(abs, step)))
        first = size if first is None else first
        if size < AGREEMENT:
            return found, first
    raise NoSolution("the levels do not settle")
