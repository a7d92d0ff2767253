"""The linear and integer programs behind a bound of several trials, in binary64.

What they find is only a proposal: ``choice`` computes exactly what it proves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise, product
from typing import TypeVar

import numpy as np

from .places import F64, Place

Number = TypeVar("Number", float, Fraction)

#: Most integer programs for one format, and seconds for each.
MOST_PROGRAMS, SECONDS = 60, 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """A split on the way from the root: ``few`` (at most count) or not (more)."""

    start: Fraction
    stop: Fraction
    count: int
    few: bool

    def inside(self, x: Fraction) -> bool:
        """Whether x counts, so that no element near x scores more than x is given."""
        return self.start < x < self.stop if self.few else self.start <= x <= self.stop


@dataclass
class Node:
    """An open end of the search: a box, the splits above it, and what the program says."""

    place: Place
    path: tuple[Taken, ...]
    height: float
    weights: F64
    prices: F64
    points: tuple[Fraction, ...]
    shares: F64
    children: tuple[Node, Node] | None = None
    split: Taken | None = None
    cells: list[Node] = field(default_factory=list)


def solve(place: Place, path: tuple[Taken, ...]) -> Node:
    """The best weights and prices for a box under the splits on the way to it.

    A linear program in the weights, the prices, the bound, and for every corner the largest
    score of an element and of each driver. It minimises the bound, which is at least
    (sum(drivers) + (g - #drivers) * most + sum(price * count)) / absmax^2 at every corner.
    """
    from scipy.optimize import linprog

    ends = set(split_ends(path, place))
    kinds, prices = len(place.grids), len(path)
    cost_of_counts = np.array([t.count if t.few else -t.count - 1 for t in path], np.float64)
    each = [1 + len(corner.drivers) for corner in place.corners]
    size = kinds + prices + 1 + sum(each)
    rows, totals, first = [], [], kinds + prices + 1
    where: list[tuple[Fraction, ...]] = []
    for corner, wide in zip(place.corners, each, strict=True):
        low, high = corner.points[0], corner.points[-1]
        points = tuple(sorted({*corner.points, *(e for e in ends if low < e < high)}))
        where.append(points)
        for which, group in enumerate((points, *corner.drivers)):
            part = np.zeros((len(group), size))
            part[:, :kinds] = place.distances(group).T
            for i, taken in enumerate(path):
                inside = np.array([taken.inside(x) for x in group], np.float64)
                part[:, kinds + i] = -inside if taken.few else inside
            part[:, first + which] = -1
            rows.append(part)
        total = np.zeros(size)
        total[kinds : kinds + prices] = cost_of_counts
        total[kinds + prices] = -(float(corner.absmax) ** 2)
        total[first] = place.count - len(corner.drivers)
        total[first + 1 : first + wide] = 1
        totals.append(total)
        first += wide
    table = np.vstack([*rows, *totals])
    cost = np.zeros(size)
    cost[kinds + prices] = 1
    unit = np.zeros((1, size))
    unit[0, :kinds] = 1
    bounds = [(0, None)] * (kinds + prices) + [(None, None)] * (1 + sum(each))
    found = linprog(cost, table, np.zeros(len(table)), unit, np.ones(1), bounds, method="highs")
    if found.status == 3:  # the program has no lowest value: no block is like that
        empty = np.zeros(0)
        return Node(place, path, -np.inf, np.full(kinds, 1 / kinds), np.zeros(prices), (), empty)
    if found.status != 0:
        raise ArithmeticError(found.message)
    shares: dict[Fraction, float] = {}
    marginals, start = -found.ineqlin.marginals, 0
    for corner, points in zip(place.corners, where, strict=True):
        scale = float(corner.absmax) ** 2
        for x, share in zip(points, marginals[start : start + len(points)], strict=True):
            shares[x] = shares.get(x, 0.0) + float(share) * scale
        start += len(points) + sum(len(group) for group in corner.drivers)
    ordered = sorted(shares)
    sums = np.stack(totals)
    sums[:, kinds + prices] = 0
    reached = (sums @ found.x).tolist()
    ends_of = [(float(c.absmax), y) for c, y in zip(place.corners, reached, strict=True)]
    return Node(
        place,
        path,
        max(found.fun, over_square(ends_of)),
        found.x[:kinds],
        found.x[kinds : kinds + prices],
        tuple(ordered),
        np.array([shares[x] for x in ordered]),
    )


def over_square(ends: Sequence[tuple[Number, Number]]) -> Number:
    """The most of total / absmax^2 in a box, from (absmax, total) at its corners.

    A total is convex in the leading peak, and so lies under the chord between the largest at
    either end. The chord a + b A over A^2 turns at A = -2 a / b where a is negative.
    """
    least, greatest = min(x for x, _ in ends), max(x for x, _ in ends)
    first, last = (max(y for x, y in ends if x == end) for end in (least, greatest))
    found = max(first / least**2, last / greatest**2)
    if least == greatest:
        return found
    slope = (last - first) / (greatest - least)
    constant = first - slope * least
    if constant < 0 < slope and least < -2 * constant / slope < greatest:
        found = max(found, -slope * slope / (4 * constant))
    return found


def split_ends(path: Sequence[Taken], place: Place) -> Iterator[Fraction]:
    """Where intervals whose elements are counted begin and end, within reach."""
    low, high = place.points[0], place.points[-1]
    for taken in path:
        yield from (x for x in (taken.start, taken.stop) if low < x < high)


@dataclass(frozen=True, slots=True)
class Found:
    """A block, as positions relative to a box, and its height."""

    height: Fraction
    place: Place
    elements: tuple[Fraction, ...]


def worst_block(roots: Sequence[Node]) -> Found:
    """The worst block that integer programs find, box by box, until no box promises more."""
    best: Found | None = None
    tries = 0
    for root in sorted(roots, key=lambda node: -node.height):
        if best is not None and (root.height <= float(best.height) or tries > MOST_PROGRAMS):
            break
        heights = [(solve(corner, ()).height, corner) for corner in corner_places(root.place)]
        for height, corner in sorted(heights, key=lambda pair: -pair[0]):
            if best is not None and height <= float(best.height):
                continue
            tries += 1
            for found in _blocks(corner):
                if best is None or found.height > best.height:
                    best = found
    if best is None:
        raise ArithmeticError("no block was found")
    return best


def corner_places(place: Place) -> Iterator[Place]:
    """A place of its own for each corner of a box; the leading peak stays the larger.

    A peak that need not be there stays so.
    """
    blank = place.blank
    if blank.negative is None:
        for p in dict.fromkeys(blank.positive):
            yield replace(place, blank=replace(blank, positive=(p, p)))
        return
    for p in dict.fromkeys(blank.positive):
        for n in dict.fromkeys(blank.negative):
            up, down = (p, min(n, p)) if blank.leads else (min(n, p), n)
            first = up if blank.positive[0] else Fraction(0)
            second = down if blank.negative[0] else Fraction(0)
            yield replace(
                place, blank=replace(blank, positive=(first, up), negative=(second, down))
            )


def _blocks(place: Place) -> Iterator[Found]:
    """Blocks with given peaks: the counts of the other elements by integer programming."""
    corner = place.corners[-1]
    where = _dense(place)
    errors = place.distances(where)
    for fixed in product(*corner.drivers):
        start = place.distances(fixed).sum(axis=1)
        counts = balanced(errors, start, place.count - len(fixed))
        if counts is None:
            continue
        elements = [x for x, n in zip(where, counts, strict=True) for _ in range(n)]
        block = (*fixed, *elements)
        sums = [sum(row, Fraction(0)) for row in place.errors(block)]
        yield Found(min(sums) / corner.absmax**2, place, block)


def balanced(gains: F64, start: F64, count: int) -> list[int] | None:
    """How many elements to put at each point so that the least of several sums is largest.

    Args:
        gains: what an element at a point adds to each sum, [sums, points].
        start: what the sums begin with, [sums].
        count: the elements.

    Returns:
        Integers [points] of sum ``count``, or None where the solver found none in its time.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    sums, points = gains.shape
    answer = milp(
        np.append(np.zeros(points), -1.0),
        constraints=[
            LinearConstraint(np.hstack([-gains, np.ones((sums, 1))]), -np.inf, start),
            LinearConstraint(np.append(np.ones(points), 0.0)[None], count, count),
        ],
        integrality=np.append(np.ones(points), 0),
        bounds=Bounds(
            np.append(np.zeros(points), -np.inf), np.append(np.full(points, count), np.inf)
        ),
        options={"time_limit": SECONDS, "mip_rel_gap": 1e-4},
    )
    if answer.x is None:
        return None
    return [int(n) for n in np.rint(answer.x[:-1])]


def _dense(place: Place) -> tuple[Fraction, ...]:
    """Kinks and ends, and between neighbours some points more."""
    points = place.points
    more = {p + (q - p) * Fraction(i, 8) for p, q in pairwise(points) for i in range(8)}
    return tuple(sorted({*points, *more}))
