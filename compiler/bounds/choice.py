"""The least squared error of a block over several trials: bounded by weighting them.

For weights that sum to 1, the least of the trials' errors is at most their weighted mean, and
the worst block of the mean is found element by element. Weighting alone answers as if elements
came in fractions; branching on how many lie near one place closes the gap. A linear program
finds weights and prices in binary64; they are then rounded, and what they prove is computed
exactly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..format import Format
from .boxes import Blank, blanks, nearest, regular_domain, regular_scales
from .coder import Coder, coders_of
from .proof import Box, Leaf, Split, Statement
from .single import ANY
from .slack import block_slack, element_count

F64 = NDArray[np.float64]

#: A bound is searched for until it is within this of the worst block that was found.
TOLERANCE = Fraction(1, 2000)

#: Most linear programs for one format; what is open then keeps the bound it has.
MOST_NODES = 4000

#: Weights and prices are rounded to multiples of this.
_GRAIN = 1 << 22


@dataclass(frozen=True)
class Place:
    """A box and the elements that blocks of it may have.

    Attributes:
        blank: the box.
        grids: the values of every trial, times its scale, ascending.
        cuts: the edges of every trial, times its scale: where errors have kinks.
        count: the elements of a block.
        mirrored: whether the deciding element may lie on either side.
    """

    blank: Blank
    grids: tuple[tuple[Fraction, ...], ...]
    cuts: frozenset[Fraction]
    count: int
    mirrored: bool

    @cached_property
    def points(self) -> tuple[Fraction, ...]:
        """Kinks and ends of the elements' reach, ascending."""
        low, high = self.blank.reach
        return tuple(sorted({low, high, *(c for c in self.cuts if low < c < high)}))

    @cached_property
    def drivers(self) -> tuple[tuple[Fraction, ...], ...]:
        """Where each deciding element may be: the kinks and ends of its interval."""
        positive, negative = self.blank.positive, self.blank.negative
        if negative is None:
            sides = [self._between(*positive)]
            if self.mirrored:
                sides.append(self._between(-positive[1], -positive[0]))
            return (tuple(p for side in sides for p in side),)
        found = []
        if positive[0]:
            found.append(self._between(*positive))
        if negative[0]:
            found.append(self._between(-negative[1], -negative[0]))
        return tuple(found)

    def _between(self, low: Fraction, high: Fraction) -> tuple[Fraction, ...]:
        return tuple(sorted({low, high, *(c for c in self.cuts if low < c < high)}))

    def errors(self, points: Sequence[Fraction]) -> tuple[tuple[Fraction, ...], ...]:
        """The squared error of every point under every trial, exactly."""
        return tuple(tuple(nearest(grid, x) ** 2 for x in points) for grid in self.grids)

    def halves(self) -> tuple[Place, Place]:
        """The box cut in two along its longest interval."""
        blank = self.blank
        one, other = blank.positive, blank.negative
        first = other is None or one[1] - one[0] >= other[1] - other[0]
        if first or other is None:
            a, b = _halved(one)
            return self._with(replace(blank, positive=a)), self._with(replace(blank, positive=b))
        a, b = _halved(other)
        return self._with(replace(blank, negative=a)), self._with(replace(blank, negative=b))

    def _with(self, blank: Blank) -> Place:
        return replace(self, blank=blank)


def _halved(interval: tuple[Fraction, Fraction]) -> tuple[tuple[Fraction, Fraction], ...]:
    low, high = interval
    # A short dyadic number keeps the fractions of the halves short.
    width = high - low
    grain = Fraction(2) ** (2 - (width.denominator // width.numerator).bit_length() - 3)
    middle = round((low + high) / 2 / grain) * grain
    return (low, middle), (middle, high)


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


def places(fmt: Format, coders: Sequence[Coder]) -> Iterator[Place]:
    """Every box of a format's blocks, with its grids."""
    scales = regular_scales(fmt)
    count = element_count(fmt)
    if scales is None or count is None:
        return
    from ..kernel import wanted_format
    from ..view import view_of

    trials = view_of(wanted_format(fmt)).trials
    values = [fmt.grids[trial.grid].numbers for trial in trials]
    for blank in blanks(fmt, coders, scales):
        grids = tuple(
            tuple(sorted(v * scale for v in numbers))
            for numbers, scale in zip(values, blank.scales, strict=True)
        )
        cuts = {(a + b) / 2 for grid in grids for a, b in zip(grid, grid[1:], strict=False)}
        yield Place(blank, grids, frozenset(cuts), count, fmt.scale.rule != "argmax")


def solve(place: Place, path: tuple[Taken, ...]) -> Node:
    """The best weights and prices for a box under the splits on the way to it.

    Minimises sum(drivers) + (g - #drivers) * most + sum(price * count), a linear program in
    the weights, the prices, ``most`` and the drivers.
    """
    from scipy.optimize import linprog

    points = sorted({*place.points, *_ends(path, place)})
    kinds = len(place.grids)
    drivers = place.drivers
    size = kinds + len(path) + 1 + len(drivers)
    rows, scores = [], [points, *drivers]
    for which, where in enumerate(scores):
        errors = np.array(place.errors(where), np.float64).T
        part = np.zeros((len(where), size))
        part[:, :kinds] = errors
        for i, taken in enumerate(path):
            inside = np.array([taken.inside(x) for x in where], np.float64)
            part[:, kinds + i] = -inside if taken.few else inside
        part[:, kinds + len(path) + which] = -1
        rows.append(part)
    cost = np.zeros(size)
    cost[kinds : kinds + len(path)] = [t.count if t.few else -t.count - 1 for t in path]
    cost[kinds + len(path)] = place.count - len(drivers)
    cost[kinds + len(path) + 1 :] = 1
    unit = np.zeros((1, size))
    unit[0, :kinds] = 1
    bounds = [(0, None)] * (kinds + len(path)) + [(None, None)] * (1 + len(drivers))
    table = np.vstack(rows)
    found = linprog(
        cost, table, np.zeros(len(table)), unit, np.ones(1), bounds, method="highs"
    )
    least = float(place.blank.least) ** 2
    if found.status == 3:  # the program has no lowest value: no block is like that
        empty = np.zeros(0)
        return Node(place, path, -np.inf, empty, empty, tuple(points), empty)
    if found.status != 0:
        raise ArithmeticError(found.message)
    shares = -found.ineqlin.marginals[: len(points)]
    return Node(
        place,
        path,
        found.fun / least,
        found.x[:kinds],
        found.x[kinds : kinds + len(path)],
        tuple(points),
        shares,
    )


def _ends(path: Sequence[Taken], place: Place) -> Iterator[Fraction]:
    low, high = place.blank.reach
    for taken in path:
        yield from (x for x in (taken.start, taken.stop) if low < x < high)


def leaf_of(node: Node) -> Leaf:
    """The exact bound that a node's weights and prices prove, after they are rounded."""
    place, path = node.place, node.path
    weights = _rounded_weights(node.weights)
    prices = tuple(Fraction(max(0, round(float(p) * _GRAIN)), _GRAIN) for p in node.prices)
    points = tuple(sorted({*place.points, *_ends(path, place)}))

    def score(where: Sequence[Fraction]) -> Fraction:
        errors = place.errors(where)
        best = []
        for i, x in enumerate(where):
            total = sum((w * row[i] for w, row in zip(weights, errors, strict=True)), Fraction(0))
            for taken, price in zip(path, prices, strict=True):
                if taken.inside(x):
                    total += -price if taken.few else price
            best.append(total)
        return max(best)

    most = score(points)
    drivers = tuple(score(where) for where in place.drivers)
    total = sum(drivers, (place.count - len(drivers)) * most)
    for taken, price in zip(path, prices, strict=True):
        total += price * taken.count if taken.few else -price * (taken.count + 1)
    return Leaf(weights, prices, most, drivers, total / place.blank.least**2)


def _rounded_weights(weights: F64) -> tuple[Fraction, ...]:
    """Weights with short denominators that sum to 1."""
    parts = [max(0, round(float(w) * _GRAIN)) for w in weights]
    largest = max(range(len(parts)), key=parts.__getitem__)
    parts[largest] += _GRAIN - sum(parts)
    return tuple(Fraction(part, _GRAIN) for part in parts)


# -- the search ----------------------------------------------------------------------------


def block_statement(fmt: Format) -> Statement | None:
    """The bound of a block's squared error, over absmax^2, of a format with several trials."""
    coders = coders_of(fmt)
    roots = [solve(place, ()) for place in places(fmt, coders)]
    if not roots:
        return None
    found = worst_block(roots)
    target = float(found.height) * (1 + float(TOLERANCE))
    boxes = tuple(_searched(roots, target))
    bound = max(_highest(box.tree) for box in boxes)
    return Statement(
        "block",
        "regular",
        ANY,
        bound,
        block_slack(fmt, bound),
        tight=False,
        domain=regular_domain(fmt, coders),
        boxes=boxes,
    )


@dataclass(frozen=True, slots=True)
class Found:
    """A block, as positions relative to a box, and its height."""

    height: Fraction
    place: Place
    elements: tuple[Fraction, ...]


def worst_block(roots: Sequence[Node]) -> Found:
    """The worst block that integer programs find, box by box, until no box promises more."""
    best: Found | None = None
    for root in sorted(roots, key=lambda node: -node.height):
        if best is not None and root.height <= float(best.height):
            break
        for found in _blocks(root.place):
            if best is None or found.height > best.height:
                best = found
    if best is None:
        raise ArithmeticError("no block was found")
    return best


def _blocks(place: Place) -> Iterator[Found]:
    """Blocks of a box: the peaks at its lower ends, counts of elements by integer programming."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    positive, negative = place.blank.positive, place.blank.negative
    cuts = {positive[0], *(c for c in place.cuts if positive[0] < c < positive[1])}
    for peak in sorted(cuts)[:4]:
        other = None if negative is None else negative[0]
        corner = Blank((peak, peak), None if other is None else (other, other), place.blank.scales)
        here = replace(place, blank=corner)
        where = _dense(here)
        errors = np.array(here.errors(where), np.float64)
        sides = [(peak,), (-peak,)] if negative is None else [()]
        for side in sides if place.mirrored else sides[:1]:
            fixed = side or tuple(x for x in (peak, -(other or 0)) if x)
            start = np.array(here.errors(fixed), np.float64).sum(axis=1)
            kinds, size = errors.shape
            answer = milp(
                np.append(np.zeros(size), -1.0),
                constraints=[
                    LinearConstraint(np.hstack([-errors, np.ones((kinds, 1))]), -np.inf, start),
                    LinearConstraint(
                        np.append(np.ones(size), 0.0)[None],
                        place.count - len(fixed),
                        place.count - len(fixed),
                    ),
                ],
                integrality=np.append(np.ones(size), 0),
                bounds=Bounds(0, np.append(np.full(size, float(place.count)), np.inf)),
                options={"time_limit": 2.0, "mip_rel_gap": 1e-4},
            )
            if answer.x is None:
                continue
            counts = np.rint(answer.x[:-1]).astype(int)
            elements = [x for x, n in zip(where, counts, strict=True) for _ in range(n)]
            block = (*fixed, *elements)
            sums = [sum(row) for row in here.errors(block)]
            yield Found(min(sums) / corner.least**2, here, block)


def _dense(place: Place) -> tuple[Fraction, ...]:
    """Kinks and ends, and between neighbours some points more."""
    points = place.points
    more = {p + (q - p) * Fraction(i, 8) for p, q in zip(points, points[1:], strict=False) for i in range(8)}
    return tuple(sorted({*points, *more}))


def _searched(roots: Sequence[Node], target: float) -> Iterator[Box]:
    """Cut boxes and split counts, worst first, until every open end is below the target."""
    order = 0
    heap: list[tuple[float, int, Node]] = []
    for root in roots:
        heap.append((-root.height, order, root))
        order += 1
    heapq.heapify(heap)
    nodes = len(roots)
    while heap and -heap[0][0] > target and nodes < MOST_NODES:
        _, _, node = heapq.heappop(heap)
        for child in _refined(node):
            nodes += 1
            order += 1
            heapq.heappush(heap, (-child.height, order, child))
    for root in roots:
        yield from _boxes(root)


def _refined(node: Node) -> list[Node]:
    """Two nodes in place of one: on a small box the counts are split, else the box is cut."""
    blank = node.place.blank
    width = max(b - a for a, b in (blank.positive, blank.negative or blank.positive))
    pick = _fractional(node)
    corner = replace(
        node.place,
        blank=Blank(
            (blank.positive[0],) * 2,
            None if blank.negative is None else (blank.negative[0],) * 2,
            blank.scales,
        ),
    )
    gained = node.height - solve(corner, node.path).height if width else 0.0
    if node.path == () and width and (pick is None or gained > node.height * float(TOLERANCE) / 4):
        node.cells = [solve(half, ()) for half in node.place.halves()]
        return node.cells
    if pick is None:
        return []
    few = Taken(*pick, True)
    node.split = few
    node.children = (
        solve(node.place, (*node.path, few)),
        solve(node.place, (*node.path, replace(few, few=False))),
    )
    return list(node.children)


def _fractional(node: Node) -> tuple[Fraction, Fraction, int] | None:
    """Around the point with the most divided element: an interval and the count below."""
    parts = node.shares - np.floor(node.shares + 1e-6)
    parts = np.minimum(parts, 1 - parts)
    best = int(np.argmax(parts)) if len(parts) else 0
    if not len(parts) or parts[best] < 1e-4:
        return None
    points = node.points
    low = points[best] if best == 0 else _between(points[best - 1], points[best])
    high = points[best] if best + 1 == len(points) else _between(points[best], points[best + 1])
    return low, high, int(np.floor(node.shares[best] + 1e-6))


def _between(low: Fraction, high: Fraction) -> Fraction:
    """A short number near the middle."""
    return _halved((low, high))[0][1]


def _boxes(node: Node) -> Iterator[Box]:
    if node.cells:
        for cell in node.cells:
            yield from _boxes(cell)
        return
    blank = node.place.blank
    yield Box(blank.positive, blank.negative, blank.scales, _tree(node))


def _tree(node: Node) -> Split | Leaf:
    if node.children is None or node.split is None:
        return leaf_of(node)
    taken = node.split
    few, many = (_tree(child) for child in node.children)
    return Split(taken.start, taken.stop, taken.count, few, many)


def _highest(tree: Split | Leaf) -> Fraction:
    if isinstance(tree, Leaf):
        return tree.height
    return max(_highest(tree.few), _highest(tree.many))
