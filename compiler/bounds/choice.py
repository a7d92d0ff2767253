"""The least squared error of a block over several trials: bounded by weighting them.

For weights that sum to 1, the least of the trials' errors is at most their weighted mean, and
the worst block of the mean is found element by element. Weighting alone answers as if elements
came in fractions; branching on how many lie near one place closes the gap. A linear program
finds weights and prices in binary64; they are then rounded, and what they prove is computed
exactly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from ..format import Format
from .boxes import Blank, Interval, blanks, nearest, one_peak, regular_domain, regular_scales
from .coder import Coder, coders_of
from .proof import Box, Leaf, Split, Statement
from .single import ANY
from .slack import block_slack, element_count

F64 = NDArray[np.float64]

#: A bound is searched for until it is within this of the worst block that was found.
TOLERANCE = Fraction(1, 2000)

#: How near (as a share of the reach) points must be to be passed over when counts are split,
#: and how many boxes and splits each way is tried for. What is open then keeps its bound.
MANNERS = ((Fraction(1, 128), 1200), (Fraction(1), 3000))

#: Most integer programs.
MOST_PROGRAMS = 60

#: Shares of an element below this are the solver's noise.
_SPECK = 1e-6

#: Weights and prices are rounded to multiples of this.
_GRAIN = 1 << 22


@dataclass(frozen=True, slots=True)
class Corner:
    """A block's peaks, fixed.

    Attributes:
        points: where an element's error may be largest: kinks and the ends of its reach.
        drivers: for each element that decides a scale, where it may be.
        absmax: what the error is divided by, squared; never above the block's absmax.
    """

    points: tuple[Fraction, ...]
    drivers: tuple[tuple[Fraction, ...], ...]
    absmax: Fraction


@dataclass(frozen=True)
class Place:
    """A box and the elements that blocks of it may have.

    Attributes:
        blank: the box.
        grids: the values of every trial, times its scale, ascending.
        cuts: the edges of every trial, times its scale: where errors have kinks.
        count: the elements of a block.
        mirrored: whether the deciding element may lie on either side.
        folded: whether every grid is its own mirror image and one peak counts: then x stands
            for -x too, and only magnitudes are spoken of.
    """

    blank: Blank
    grids: tuple[tuple[Fraction, ...], ...]
    cuts: frozenset[Fraction]
    count: int
    mirrored: bool
    folded: bool

    @cached_property
    def corners(self) -> tuple[Corner, ...]:
        """The box's corners: two, or four where both peaks count."""
        positive, negative = self.blank.positive, self.blank.negative
        found = []
        for p in dict.fromkeys(positive):
            for n in dict.fromkeys(negative or (p,)):
                low, high = Fraction(0) if self.folded else -n, p
                points = {low, high, *(c for c in self.cuts if low < c < high)}
                drivers: tuple[tuple[Fraction, ...], ...]
                if negative is None:
                    both = self.mirrored and not self.folded
                    drivers = ((p, -p),) if both else ((p,),)
                else:
                    ends = ((p, positive[0]), (-n, negative[0]))
                    drivers = tuple((end,) for end, least in ends if least)
                absmax = p if self.blank.leads else n
                found.append(Corner(tuple(sorted(points)), drivers, absmax))
        return tuple(found)

    @cached_property
    def points(self) -> tuple[Fraction, ...]:
        """Kinks and ends of the elements' reach at every corner, ascending."""
        return tuple(sorted({x for corner in self.corners for x in corner.points}))

    def errors(self, points: Sequence[Fraction]) -> tuple[tuple[Fraction, ...], ...]:
        """The squared error of every point under every trial, exactly."""
        return tuple(tuple(nearest(grid, x) ** 2 for x in points) for grid in self.grids)

    @cached_property
    def _floats(self) -> tuple[F64, ...]:
        return tuple(np.array([float(v) for v in grid]) for grid in self.grids)

    def distances(self, points: Sequence[Fraction]) -> F64:
        """The same in binary64, [trials, points]."""
        x = np.array([float(p) for p in points])
        return np.stack([np.min(np.abs(x[:, None] - g[None]), axis=1) ** 2 for g in self._floats])

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
    folded = one_peak(fmt, coders) and all(
        {-v for v in numbers} == set(numbers) for numbers in values
    )
    for blank in blanks(fmt, coders, scales):
        grids = tuple(
            tuple(sorted(v * scale for v in numbers))
            for numbers, scale in zip(values, blank.scales, strict=True)
        )
        cuts = frozenset((a + b) / 2 for grid in grids for a, b in pairwise(grid))
        for part in _cut(blank, cuts):
            yield Place(part, grids, cuts, count, fmt.scale.rule != "argmax", folded)


def _cut(blank: Blank, cuts: frozenset[Fraction]) -> Iterator[Blank]:
    """A box cut where a peak passes a kink: in between, its error is convex."""
    if blank.negative is None:
        kinks = {abs(c) for c in cuts}
        for part in _parts(blank.positive, kinks):
            yield replace(blank, positive=part)
        return
    for p in _parts(blank.positive, cuts):
        for n in _parts(blank.negative, {-c for c in cuts}):
            yield replace(blank, positive=p, negative=n)


def _parts(interval: Interval, kinks: Set[Fraction]) -> Iterator[Interval]:
    low, high = interval
    inside = sorted(c for c in kinks if low < c < high) if low else []
    marks = [low, *inside, high]
    yield from pairwise(marks)


def solve(place: Place, path: tuple[Taken, ...]) -> Node:
    """The best weights and prices for a box under the splits on the way to it.

    A linear program in the weights, the prices, the bound, and for every corner the largest
    score of an element and of each driver. It minimises the bound, which is at least
    (sum(drivers) + (g - #drivers) * most + sum(price * count)) / absmax^2 at every corner.
    """
    from scipy.optimize import linprog

    ends = set(_ends(path, place))
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
    return Node(
        place,
        path,
        found.fun,
        found.x[:kinds],
        found.x[kinds : kinds + prices],
        tuple(ordered),
        np.array([shares[x] for x in ordered]),
    )


def _ends(path: Sequence[Taken], place: Place) -> Iterator[Fraction]:
    low, high = place.points[0], place.points[-1]
    for taken in path:
        yield from (x for x in (taken.start, taken.stop) if low < x < high)


def leaf_of(node: Node) -> Leaf:
    """The exact bound that a node's weights and prices prove, after they are rounded."""
    weights = _rounded_weights(node.weights)
    prices = tuple(Fraction(max(0, round(float(p) * _GRAIN)), _GRAIN) for p in node.prices)
    place, path = node.place, node.path
    ends = set(_ends(path, place))
    scores = _scores(place, path, weights, prices, ends)
    owed = sum(
        (p * t.count if t.few else -p * (t.count + 1) for t, p in zip(path, prices, strict=True)),
        Fraction(0),
    )
    most, drivers, heights = [], [], []
    for corner in place.corners:
        low, high = corner.points[0], corner.points[-1]
        most.append(max(scores[x] for x in {*corner.points, *(e for e in ends if low < e < high)}))
        drivers.append(tuple(max(scores[x] for x in group) for group in corner.drivers))
        total = sum(drivers[-1], (place.count - len(corner.drivers)) * most[-1]) + owed
        heights.append(total)
    squares = [corner.absmax**2 for corner in place.corners]
    if path:
        # Prices may spoil the convexity in 1 / absmax: the largest total over the least square.
        height = max(heights) / min(squares)
    else:
        height = max(total / square for total, square in zip(heights, squares, strict=True))
    return Leaf(weights, prices, tuple(most), tuple(drivers), height)


def _scores(
    place: Place,
    path: Sequence[Taken],
    weights: Sequence[Fraction],
    prices: Sequence[Fraction],
    ends: set[Fraction],
) -> dict[Fraction, Fraction]:
    """The weighted and priced squared error of every point that counts."""
    used = [(i, w) for i, w in enumerate(weights) if w]
    found = {}
    for x in {*place.points, *ends}:
        total = sum((w * nearest(place.grids[i], x) ** 2 for i, w in used), Fraction(0))
        for taken, price in zip(path, prices, strict=True):
            if taken.inside(x):
                total += -price if taken.few else price
        found[x] = total
    return found


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
    bound = _bound(boxes)
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
    tries = 0
    for root in sorted(roots, key=lambda node: -node.height):
        if best is not None and (root.height <= float(best.height) or tries > MOST_PROGRAMS):
            break
        heights = [(solve(corner, ()).height, corner) for corner in _corners(root.place)]
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


def _corners(place: Place) -> Iterator[Place]:
    """A place of its own for each corner of a box."""
    positive, negative = place.blank.positive, place.blank.negative
    for p in dict.fromkeys(positive):
        for n in dict.fromkeys(negative or (Fraction(0),)):
            other = None if negative is None else (n, n)
            yield replace(place, blank=replace(place.blank, positive=(p, p), negative=other))


def _blocks(place: Place) -> Iterator[Found]:
    """Blocks with given peaks: the counts of the other elements by integer programming."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    corner = place.corners[0]
    where = _dense(place)
    errors = place.distances(where)
    kinds, size = errors.shape
    for fixed in product(*corner.drivers):
        left = place.count - len(fixed)
        start = place.distances(fixed).sum(axis=1)
        answer = milp(
            np.append(np.zeros(size), -1.0),
            constraints=[
                LinearConstraint(np.hstack([-errors, np.ones((kinds, 1))]), -np.inf, start),
                LinearConstraint(np.append(np.ones(size), 0.0)[None], left, left),
            ],
            integrality=np.append(np.ones(size), 0),
            bounds=Bounds(0, np.append(np.full(size, float(place.count)), np.inf)),
            options={"time_limit": 1.0, "mip_rel_gap": 1e-4},
        )
        if answer.x is None:
            continue
        counts = np.rint(answer.x[:-1]).astype(int)
        elements = [x for x, n in zip(where, counts, strict=True) for _ in range(n)]
        block = (*fixed, *elements)
        sums = [sum(row, Fraction(0)) for row in place.errors(block)]
        yield Found(min(sums) / corner.absmax**2, place, block)


def _dense(place: Place) -> tuple[Fraction, ...]:
    """Kinks and ends, and between neighbours some points more."""
    points = place.points
    more = {p + (q - p) * Fraction(i, 8) for p, q in pairwise(points) for i in range(8)}
    return tuple(sorted({*points, *more}))


def _searched(roots: Sequence[Node], target: float) -> Sequence[Box]:
    """Cut boxes and split counts, worst first, until every open end is below the target."""
    best: list[Box] = []
    for near, most in MANNERS:
        fresh = [replace(root) for root in roots]
        done = _refine_all(fresh, target, near, most)
        boxes = [box for root in fresh for box in _boxes(root)]
        if not best or _bound(boxes) < _bound(best):
            best = boxes
        if done:
            break
    return best


def _refine_all(roots: Sequence[Node], target: float, near: Fraction, most: int) -> bool:
    """Refine nodes in place; whether all came below the target."""
    heap = [(-root.height, order, root) for order, root in enumerate(roots)]
    heapq.heapify(heap)
    order = len(roots)
    while heap and -heap[0][0] > target and order < len(roots) + most:
        _, _, node = heapq.heappop(heap)
        for child in _refined(node, near):
            order += 1
            heapq.heappush(heap, (-child.height, order, child))
    return not heap or -heap[0][0] <= target


def _bound(boxes: Sequence[Box]) -> Fraction:
    return max(_highest(box.tree) for box in boxes)


def _refined(node: Node, near: Fraction) -> list[Node]:
    """Two nodes in place of one: the box is cut while that tells, then counts are split."""
    blank = node.place.blank
    pick = _fractional(node, near)
    wide = any(a < b for a, b in (blank.positive, blank.negative or blank.positive))
    if not node.path and wide and (pick is None or not _decided(node)):
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


def _decided(node: Node) -> bool:
    """Whether the box is so small that the least absmax may stand for all of it."""
    squares = [corner.absmax**2 for corner in node.place.corners]
    return max(squares) <= min(squares) * (1 + TOLERANCE / 4)


def _fractional(node: Node, near: Fraction) -> tuple[Fraction, Fraction, int] | None:
    """Around a point with a divided element: an interval and the count below.

    The interval goes half way to the points beside it; where these are splits' ends that have
    come very near, half way to the next points that have elements. A wide interval moves the
    bound more than a narrow one, and an even division more than an uneven one.
    """
    points, shares = node.points, node.shares
    live = [i for i, share in enumerate(shares) if share > _SPECK]
    near *= points[-1] - points[0]
    known = {(taken.start, taken.stop, taken.count) for taken in node.path}
    best: tuple[float, Fraction, Fraction, int] | None = None
    for place, i in enumerate(live):
        below = int(np.floor(shares[i] + _SPECK))
        part = min(float(shares[i]) - below, below + 1 - float(shares[i]))
        if part < 1e-4:
            continue
        ends = []
        for step, edge in ((-1, 0), (1, len(points) - 1)):
            beside = points[min(max(i + step, 0), len(points) - 1)]
            if i != edge and abs(beside - points[i]) < near:
                following = place + step
                beside = points[live[following] if 0 <= following < len(live) else edge]
            ends.append(
                points[i] if beside == points[i] else _between(*sorted((beside, points[i])))
            )
        low, high = ends
        worth = part * float(high - low)
        if (low, high, below) not in known and (best is None or worth > best[0]):
            best = (worth, low, high, below)
    return None if best is None else best[1:]


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
