"""Why corners are enough, decided by SymPy: the shape of every objective that a proof uses.

A cell's objective is one of a few expressions in a few symbols. SymPy differentiates it, finds
its stationary points, and decides the sign that makes the ends of the cell the only places for
a maximum. The numbers of each cell are then put in and compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fractions import Fraction

    from .proof import Cell, Proof, Statement

#: Name, what is claimed, and how SymPy decided it.
Lemma = tuple[str, str, str]


class NotProven(ArithmeticError):
    """SymPy does not agree: the message says with what."""


@cache
def lemmas() -> tuple[Lemma, ...]:
    """Every lemma, proven anew.

    Raises:
        NotProven: one of them is wrong.
    """
    return tuple(prove() for prove in _LEMMAS)


def decide(proof: Proof) -> int:
    """Let SymPy decide every inequality of a proof; how many there were.

    Raises:
        NotProven: a number exceeds the bound it is claimed to be under.
    """
    return sum(_decide(statement) for statement in proof.statements)


def _decide(statement: Statement) -> int:
    bound = _rational(statement.bound)
    count = 0
    for cell in statement.cells:
        for y, height in cell.points:
            found = _objective(statement.measure, cell, y)
            if found != _rational(height):
                raise NotProven(f"{statement.name}: {found} at {y}, not {height}")
    for height in heights(statement):
        if not _rational(height) <= bound:
            raise NotProven(f"{statement.name}: {height} is above {statement.bound}")
        count += 1
    return count


def _objective(measure: str, cell: Cell, y: Fraction) -> Any:
    from sympy import Abs, Max

    at, value = _rational(y), _rational(cell.value)
    error = Abs(at - value)
    if measure == "absmax":
        return error / Max(Abs(at), _rational(cell.floor))
    return error / Abs(at) if measure == "self" else error


def _rational(value: Fraction) -> Any:
    from sympy import Rational

    return Rational(value.numerator, value.denominator)


def heights(statement: Statement) -> Iterator[Any]:
    """The objective at every critical point of a statement."""
    for cell in statement.cells:
        yield from (height for _, height in cell.points)
    yield from (corner.height for corner in statement.corners)
    for box in statement.boxes:
        yield from _leaf_heights(box.tree)
    yield from (part.height for part in statement.moved)


def _leaf_heights(tree: Any) -> Iterator[Any]:
    if hasattr(tree, "few"):
        yield from _leaf_heights(tree.few)
        yield from _leaf_heights(tree.many)
    else:
        yield tree.height


# -- the lemmas ----------------------------------------------------------------------------


def _symbols(names: str, **assumptions: bool) -> Any:
    from sympy import symbols

    return symbols(names, real=True, **assumptions)


def _agree(found: Any, wanted: Any, what: str) -> None:
    from sympy import simplify

    if simplify(found - wanted) != 0:
        raise NotProven(f"{what}: {found}, not {wanted}")


def _true(claim: Any, what: str) -> None:
    if not claim:  # None is undecided; of an open relation SymPy refuses a truth value
        raise NotProven(f"{what}: {claim}")


def _under_the_floor() -> Lemma:
    """(x - v) / m: linear in x, and it falls where m grows."""
    from sympy import diff

    x, v = _symbols("x v")
    m, e = _symbols("m e", positive=True)
    _true(diff((x - v) / m, x).is_positive, "slope over x")
    _true(diff(e / m, m).is_negative, "slope over the floor")
    return (
        "under the floor",
        "|x - v| / m has no maximum inside a piece, and the least m has the largest",
        "d/dx (x - v)/m = 1/m > 0; d/dm e/m = -e/m^2 < 0",
    )


def _above_the_floor() -> Lemma:
    """|x - v| / |x| is monotone between 0, v and the ends."""
    from sympy import diff, solveset

    x = _symbols("x", positive=True)
    v = _symbols("v")
    slope = diff((x - v) / x, x)
    _agree(slope, v / x**2, "slope")
    _true(solveset(slope.subs(v, 1), x).is_empty, "stationary points for v > 0")
    _true(solveset(slope.subs(v, -1), x).is_empty, "stationary points for v < 0")
    return (
        "above the floor",
        "|x - v| / |x| has no maximum inside a piece that v cuts",
        "d/dx (x - v)/x = v/x^2 has one sign and no zero for x > 0",
    )


def _asked_scale() -> Lemma:
    """|y - v / u| over u, where codes are chosen under the asked scale."""
    from sympy import diff

    y, v = _symbols("y v")
    u = _symbols("u", positive=True)
    _agree(diff(y - v / u, u), v / u**2, "slope")
    return (
        "asked scale",
        "y - v / u is monotone in u: both ends of the ratios are enough",
        "d/du (y - v/u) = v/u^2 has the sign of v",
    )


def _block() -> Lemma:
    """(C + sum (x_i - v_i)^2) / A^2, with x_i = +-A and C >= 0, is convex in 1 / A."""
    from sympy import diff, expand, solve

    w, b, c = _symbols("w b c", nonnegative=True)
    n = _symbols("n", positive=True)
    square = expand(n - 2 * b * w + c * w**2)
    _agree(diff(square, w, 2), 2 * c, "curvature")
    _true((2 * c).is_nonnegative, "curvature is not negative")
    p = _symbols("p", positive=True)
    inside = solve(diff(square.subs(c, p), w), w)
    _agree(inside[0], b / p, "stationary point")
    return (
        "block",
        "(C + sum of (A - v)^2) / A^2 with C >= 0 has no maximum inside an interval of A",
        "with w = 1/A it is n - 2 b w + c w^2; its curvature is 2 c >= 0, so w = b/c is a minimum",
    )


def _weighting() -> Lemma:
    """The least of some numbers is at most a weighted mean of them."""
    from sympy import simplify

    a, d = _symbols("a d", nonnegative=True)
    t = _symbols("t", nonnegative=True)
    mean = (1 - t) * a + t * (a + d)
    _true(simplify(mean - a).is_nonnegative, "the mean is not under the least")
    return (
        "weighting",
        "min(a, a + d) <= (1 - t) a + t (a + d) for d, t >= 0, and so for any number of trials",
        "the difference is d t >= 0",
    )


def _kinks() -> Lemma:
    """Sum of l_j (x - v_j)^2 with weights that are not negative is convex between kinks."""
    from sympy import diff

    x, v1, v2 = _symbols("x v1 v2")
    l1, l2 = _symbols("l1 l2", nonnegative=True)
    curvature = diff(l1 * (x - v1) ** 2 + l2 * (x - v2) ** 2, x, 2)
    _agree(curvature, 2 * (l1 + l2), "curvature")
    _true((2 * (l1 + l2)).is_nonnegative, "curvature is not negative")
    return (
        "kinks",
        "a weighted squared error has its maximum at a kink or an end of its reach",
        "its second derivative between kinks is 2 (l1 + l2 + ...) >= 0",
    )


_LEMMAS: tuple[Callable[[], Lemma], ...] = (
    _under_the_floor,
    _above_the_floor,
    _asked_scale,
    _block,
    _weighting,
    _kinks,
)
