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
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ...format import Format
from ..coder import coders_of
from ..proof import Box, Leaf, Split, Statement
from ..single import ANY
from ..slack import block_slack
from ..witness.choice import block_witness
from .boxes import nearest, regular_domain
from .places import F64, Place, between, places
from .programs import Node, Taken, corner_places, over_square, solve, split_ends, worst_block

#: A bound is searched for until it is within this of the worst block that was found.
TOLERANCE = Fraction(1, 2000)

#: How near (as a share of the reach) points must be to be passed over when counts are split,
#: and how many boxes and splits each way is tried for. What is open then keeps its bound.
MANNERS = ((Fraction(1, 128), 1200), (Fraction(1), 3000))

#: Most splits above a leaf: what is still open then has come down as far as it will.
DEEPEST = 24

#: Shares of an element below this are the solver's noise.
_SPECK = 1e-6

#: Weights and prices are rounded to multiples of this.
_GRAIN = 1 << 22


def is_served(fmt: Format) -> bool:
    """Whether codes are the nearest under the stored scale, and what is chosen is not searched."""
    nearest = fmt.scale.codes == "stored" and fmt.policies.offset is None
    return nearest and fmt.policies.error == "squared" and not fmt.scale.search


def block_statement(fmt: Format) -> Statement | None:
    """The bound of a block's squared error, over absmax^2, of a format with several trials.

    None where codes are not the nearest under the stored scale, where the choice weighs errors,
    or where the word's table does not repeat.
    """
    if not is_served(fmt):
        return None
    coders = coders_of(fmt)
    roots = [solve(place, ()) for place in places(fmt, coders)]
    if not roots:
        return None
    found = worst_block(roots)
    target = float(found.height) * (1 + float(TOLERANCE))
    boxes = tuple(_searched(roots, target))
    bound = _bound(boxes)
    statement = Statement(
        "block",
        "regular",
        ANY,
        bound,
        block_slack(fmt, bound),
        tight=False,
        domain=regular_domain(fmt, coders),
        boxes=boxes,
    )
    return replace(statement, witness=block_witness(fmt, statement, found))


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
    order, stuck = len(roots), False
    while heap and -heap[0][0] > target and order < len(roots) + most:
        _, _, node = heapq.heappop(heap)
        finer = _refined(node, near)
        stuck = stuck or not finer
        for child in finer:
            order += 1
            heapq.heappush(heap, (-child.height, order, child))
    return not stuck and (not heap or -heap[0][0] <= target)


def _refined(node: Node, near: Fraction) -> list[Node]:
    """Two nodes in place of one: the box is cut while that tells, then counts are split."""
    blank = node.place.blank
    pick = _fractional(node, near)
    wide = any(a < b for a, b in (blank.positive, blank.negative or blank.positive))
    if not node.path and wide and (pick is None or _gains_by_a_cut(node)):
        node.cells = [solve(half, ()) for half in node.place.halves()]
        return node.cells
    if pick is None or len(node.path) >= DEEPEST:
        return []
    few = Taken(*pick, True)
    node.split = few
    node.children = (
        solve(node.place, (*node.path, few)),
        solve(node.place, (*node.path, replace(few, few=False))),
    )
    return list(node.children)


def _gains_by_a_cut(node: Node) -> bool:
    """Whether the box's bound lies above the bounds of its corners, each for itself."""
    corners = max(solve(corner, ()).height for corner in corner_places(node.place))
    return corners * (1 + float(TOLERANCE) / 4) < node.height


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
            pair = sorted((beside, points[i]))
            end = between(pair[0], pair[1]) if pair[0] < pair[1] else points[i]
            ends.append(_clear(node.place, end))
        low, high = ends
        worth = part * float(high - low)
        if (low, high, below) not in known and (best is None or worth > best[0]):
            best = (worth, low, high, below)
    return None if best is None else best[1:]


def _clear(place: Place, end: Fraction) -> Fraction:
    """An end of an interval, moved off where an element that decides a scale passes."""
    for low, high in place.passed:
        if low < end < high:
            return low if low > 0 else high
    return end


def _bound(boxes: Sequence[Box]) -> Fraction:
    return max(_highest(box.tree) for box in boxes)


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


def leaf_of(node: Node) -> Leaf:
    """The exact bound that a node's weights and prices prove, after they are rounded."""
    weights = _rounded_weights(node.weights)
    prices = tuple(Fraction(max(0, round(float(p) * _GRAIN)), _GRAIN) for p in node.prices)
    place, path = node.place, node.path
    ends = set(split_ends(path, place))
    scores = _scores(place, path, weights, prices, ends)
    owed = sum(
        (p * t.count if t.few else -p * (t.count + 1) for t, p in zip(path, prices, strict=True)),
        Fraction(0),
    )
    most, drivers, totals = [], [], []
    for corner in place.corners:
        low, high = corner.points[0], corner.points[-1]
        most.append(max(scores[x] for x in {*corner.points, *(e for e in ends if low < e < high)}))
        drivers.append(tuple(max(scores[x] for x in group) for group in corner.drivers))
        total = sum(drivers[-1], (place.count - len(corner.drivers)) * most[-1]) + owed
        totals.append((corner.absmax, total))
    height = over_square(totals)
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
