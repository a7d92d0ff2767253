"""Codebooks of least squared error for blocks of Gaussian values over their largest (BOF4).

Blum et al., arXiv:2505.06653. For a block of g independent N(0, 1) values with largest magnitude
M, and y = x/M of an element that is not the largest, the squared error of the block itself is
M^2 (y - q)^2. Averaged over M, y has the weight density

    f(y) = const * integral over m > 0 of  m^3 phi(m y) phi(m) (2 Phi(m) - 1)^(g-2)  dm,

and the optimal levels are the centroids of f on the cells around them (Lloyd's condition), with
0 and the ends held: -1 and 1 under absmax; 1 alone where the largest decodes to 1 with either
sign (signed, BOF4-S). As 0 is a level, the two sides are problems of their own.

Worked out in binary64 and checked, not proven: the integrals over m are Gauss-Legendre sums, and
the levels from two of them, one twice as fine, must agree to ``AGREEMENT``. Users rely on
``RADIUS``, which is wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np

#: Largest block, and most levels.
MAX_BLOCK = 4096
MAX_LEVELS = 32
#: What the levels from two quadratures may differ by.
AGREEMENT = 2e-13
#: The levels are taken to be known to this.
RADIUS = Fraction(1, 10**12)

#: m beyond this has less than 10^-50 of the weight; nodes below this share are left out.
_FARTHEST = 16
_NEGLIGIBLE = 1e-20
#: Nodes of a panel of the quadrature over m, and how many panels each of the two has.
_NODES = 24
_PANELS = (16, 32)


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
    coarse, fine = (_settled(_rule(block, panels), free, held) for panels in _PANELS)
    if max(abs(a - b) for a, b in zip(coarse, fine, strict=True)) > AGREEMENT:
        raise NoSolution(f"{free} levels for blocks of {block}: the integrals do not settle")
    return tuple(map(Fraction, fine))


# -- integrals over m ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """A quadrature over m.

    ``nodes``: (m / sqrt 2, and the weights of the mass, the first moment and the density).
    """

    nodes: tuple[tuple[float, float, float, float], ...]

    def moments(self, edge: float) -> tuple[float, float, float]:
        """The integrals of f and y f(y) over 0..edge, and f(edge), all times one constant."""
        # Exact sums: Newton's method magnifies their rounding a thousandfold.
        reaches = [node[0] * edge for node in self.nodes]
        rises = [-math.expm1(-reach * reach) for reach in reaches]
        nodes = list(zip(self.nodes, reaches, rises, strict=True))
        return (
            math.fsum(node[1] * math.erf(reach) for node, reach, _ in nodes),
            math.fsum(node[2] * rise for node, _, rise in nodes),
            math.fsum(node[3] * (1 - rise) for node, _, rise in nodes),
        )


@cache
def _rule(block: int, panels: int) -> _Rule:
    """Gauss-Legendre nodes on equal panels of 0 to ``_FARTHEST``."""
    abscissas, weights = np.polynomial.legendre.leggauss(_NODES)
    half = _FARTHEST / (2 * panels)
    slope = 1 / math.sqrt(2 * math.pi)
    nodes = []
    for panel in range(panels):
        for abscissa, weight in zip(abscissas.tolist(), weights.tolist(), strict=True):
            m = (2 * panel + 1 + abscissa) * half
            x = m / math.sqrt(2)
            common = weight * half * math.exp(-x * x) * math.erf(x) ** (block - 2)
            nodes.append((x, m * m * common / 2, m * common * slope, m**3 * common * slope))
    most = max(node[1] for node in nodes)
    return _Rule(tuple(node for node in nodes if node[1] > most * _NEGLIGIBLE))


# -- Lloyd's condition -----------------------------------------------------------------


def _excess(
    rule: _Rule, levels_: Sequence[float], held: bool
) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Centroid minus level of every cell, and the three diagonals of its Jacobian, row by row."""
    middles = [(a + b) / 2 for a, b in pairwise([0.0, *levels_])]
    edges = [*middles, (levels_[-1] + 1) / 2 if held else 1.0]
    found = [rule.moments(edge) for edge in edges]
    excess, rows = [], []
    for i, level in enumerate(levels_):
        (mass, moment, height), (mass_b, moment_b, height_b) = found[i], found[i + 1]
        weight = mass_b - mass
        centroid = (moment_b - moment) / weight
        lower = height * (centroid - edges[i]) / weight / 2
        upper = height_b * (edges[i + 1] - centroid) / weight / 2
        if i == len(levels_) - 1 and not held:
            upper = 0.0
        excess.append(centroid - level)
        rows.append((lower, lower + upper - 1, upper))
    return excess, rows


def _newton_step(
    excess: Sequence[float], rows: Sequence[tuple[float, float, float]]
) -> list[float]:
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
        if size < 1e-9 and size >= before / 8:
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
