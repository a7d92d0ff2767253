"""The multiple-choice knapsack over integers, solved and proven.

A Lagrangian bound in exact integers says of every choice what it loses at least against the best
plan of the relaxed problem. Choices that cannot be part of a better plan than the best known one
are dropped; what is left is a dynamic program over (octets, loss), in 64-bit integers. Where that
grows too large, HiGHS (``scipy.optimize.milp``) finds a better plan to begin with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: States of the dynamic program above which the worst ones are given up: a pass that gives up some
#: proves nothing, but finds a good pick, for which the next one has less to look at.
STATES = (1 << 12, 1 << 16, 1 << 20, 1 << 21)

#: Nodes that HiGHS may look at: it only has to find a good plan.
NODES = 500

#: How much wider than its bound, against the rounding of sums of some thousand numbers.
_WIDER = 1 + 2.0**-30


@dataclass(frozen=True, slots=True)
class Problem:
    """Pick one choice of every row.

    Attributes:
        costs: octets, not negative, below 2^40; a row for each unit.
        losses: not negative; the sum of the rows' largest is below 2^62.
        capacity: what the costs may sum up to. The least costs do not exceed it.
    """

    costs: tuple[tuple[int, ...], ...]
    losses: tuple[tuple[int, ...], ...]
    capacity: int

    def totals(self, picks: Sequence[int]) -> tuple[int, int]:
        """Loss and cost of a pick."""
        cost = sum(row[i] for row, i in zip(self.costs, picks, strict=True))
        return sum(row[i] for row, i in zip(self.losses, picks, strict=True)), cost


@dataclass(frozen=True, slots=True)
class Solution:
    """The best pick.

    Attributes:
        picks: the index of every row's choice.
        gap: 0 where it is proven that none is better, in (loss, cost, picks); else no pick's
            loss is lower by more than this.
        price: the multiplier of the bound, loss per octet.
    """

    picks: tuple[int, ...]
    gap: int
    price: Fraction


def solve(problem: Problem) -> Solution:
    """The pick of the least (loss, cost, indices) within the capacity.

    Raises:
        ValueError: the least costs exceed the capacity.
    """
    rows = [_pareto(*pair) for pair in zip(problem.costs, problem.losses, strict=True)]
    if sum(problem.costs[i][row[0]] for i, row in enumerate(rows)) > problem.capacity:
        raise ValueError("the least costs exceed the capacity")
    bound = _Bound.of(problem, rows, _price(problem, rows))
    best = _start(problem, rows, bound)
    core: Sequence[Sequence[int]] = rows
    for most in STATES:
        if most == STATES[-1]:
            best = _better(problem, best, _highs(problem, core, best))
        gap = bound.above(problem.totals(best)[0])
        core = bound.within(core, gap)
        picks, whole = _search(problem, core, bound, gap, most)
        best = _better(problem, best, picks)
        if whole:
            return Solution(best, 0, bound.slope)
    gap = -(-bound.above(problem.totals(best)[0]) // bound.scale)
    return Solution(best, gap, bound.slope)


def _better(
    problem: Problem, one: tuple[int, ...], other: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The better of two picks that fit."""
    if other is None or (*problem.totals(one), one) <= (*problem.totals(other), other):
        return one
    return other


def _pareto(costs: Sequence[int], losses: Sequence[int]) -> list[int]:
    """The choices that none beats in both, by rising cost; of equal ones the first."""
    kept: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i], i)):
        if not kept or losses[i] < losses[kept[-1]]:
            kept.append(i)
    return kept


# -- the bound -------------------------------------------------------------------------


def _hull(costs: Sequence[int], losses: Sequence[int], row: Sequence[int]) -> list[int]:
    """The choices on the lower convex hull, by rising cost."""
    hull: list[int] = []
    for i in row:
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            near = (losses[a] - losses[b]) * (costs[i] - costs[a])
            if near > (losses[a] - losses[i]) * (costs[b] - costs[a]):
                break
            hull.pop()
        hull.append(i)
    return hull


def _price(problem: Problem, rows: Sequence[Sequence[int]]) -> Fraction:
    """The slope of the step on the hulls at which the capacity is full; 0 if it never is."""
    steps = []
    room = problem.capacity
    for costs, losses, row in zip(problem.costs, problem.losses, rows, strict=True):
        hull = _hull(costs, losses, row)
        room -= costs[hull[0]]
        for a, b in pairwise(hull):
            gain, octets = losses[a] - losses[b], costs[b] - costs[a]
            steps.append((gain / octets, gain, octets))
    for _, gain, octets in sorted(steps, reverse=True):
        room -= octets
        if room < 0:
            return Fraction(gain, octets)
    return Fraction(0)


@dataclass(frozen=True, slots=True)
class _Bound:
    """min over picks of loss + price * (cost - capacity), and what each choice adds to it.

    All numbers are times ``scale``, the price's denominator: integers.
    """

    least: int
    scale: int
    price: int
    extra: tuple[dict[int, int], ...]

    @property
    def slope(self) -> Fraction:
        """The price: loss per octet."""
        return Fraction(self.price, self.scale)

    @staticmethod
    def of(problem: Problem, rows: Sequence[Sequence[int]], price: Fraction) -> _Bound:
        p, q = price.numerator, price.denominator
        least, extra = -p * problem.capacity, []
        for costs, losses, row in zip(problem.costs, problem.losses, rows, strict=True):
            full = {i: losses[i] * q + costs[i] * p for i in row}
            lowest = min(full.values())
            least += lowest
            extra.append({i: value - lowest for i, value in full.items()})
        return _Bound(least, q, p, tuple(extra))

    def above(self, loss: int) -> int:
        """By how much a loss is above the bound."""
        return loss * self.scale - self.least

    def within(self, rows: Sequence[Sequence[int]], gap: int) -> list[list[int]]:
        """The choices that a pick of no more than the bound and this gap may have."""
        return [
            [i for i in row if extra[i] <= gap] for row, extra in zip(rows, self.extra, strict=True)
        ]


# -- good picks ------------------------------------------------------------------------


def _start(problem: Problem, rows: Sequence[Sequence[int]], bound: _Bound) -> tuple[int, ...]:
    """The relaxed problem's pick, where no unit or pair of units has a better choice that fits."""
    picks = [
        min(row, key=lambda i: (extra[i], problem.costs[u][i]))
        for u, (row, extra) in enumerate(zip(rows, bound.extra, strict=True))
    ]
    while True:
        moves = _moves(problem, rows, picks)
        room = problem.capacity - problem.totals(picks)[1]
        change = _best_pair(*moves, room)
        if not change:
            return tuple(picks)
        picks = list(picks)
        for unit, index in change:
            picks[unit] = index


def _moves(
    problem: Problem, rows: Sequence[Sequence[int]], picks: Sequence[int]
) -> tuple[list[tuple[int, int]], I64, I64]:
    """Every other choice of a unit, and what it adds to cost and loss; first, to change nothing."""
    moves = [(-1, 0)] + [(u, i) for u, row in enumerate(rows) for i in row if i != picks[u]]
    costs = [problem.costs[u][i] - problem.costs[u][picks[u]] for u, i in moves[1:]]
    losses = [problem.losses[u][i] - problem.losses[u][picks[u]] for u, i in moves[1:]]
    return moves, np.array([0, *costs], np.int64), np.array([0, *losses], np.int64)


def _best_pair(
    moves: Sequence[tuple[int, int]], costs: I64, losses: I64, room: int
) -> list[tuple[int, int]]:
    """Two moves of two units that take the most off the loss and fit; none if none do."""
    order = np.lexsort((losses, costs))
    costs, losses = costs[order], losses[order]
    units = np.array([unit for unit, _ in moves])[order]
    least = np.minimum.accumulate(losses)
    place = np.maximum.accumulate(np.where(losses == least, np.arange(len(losses)), 0))
    # Of every move the best partner among those that leave room for it.
    reach = np.searchsorted(costs, room - costs, side="right") - 1
    partner = place[np.maximum(reach, 0)]
    sums = losses + losses[partner]
    sums[(reach < 0) | (units == units[partner])] = 0
    first = int(np.argmin(sums))
    if sums[first] >= 0:
        return []
    pair = (moves[int(order[first])], moves[int(order[partner[first]])])
    return [move for move in pair if move[0] >= 0]


def _highs(
    problem: Problem, core: Sequence[Sequence[int]], best: tuple[int, ...]
) -> tuple[int, ...] | None:
    """What HiGHS picks among the choices that are left; None where it finds nothing sound."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    places = [(u, i) for u, row in enumerate(core) if len(row) > 1 for i in row]
    if not places:
        return None
    units = sorted({u for u, _ in places})
    row_of = {u: k for k, u in enumerate(units)}
    room = problem.capacity - sum(
        problem.costs[u][best[u] if u in row_of else row[0]] for u, row in enumerate(core)
    )
    losses = [problem.losses[u][i] - problem.losses[u][best[u]] for u, i in places]
    costs = [problem.costs[u][i] - problem.costs[u][best[u]] for u, i in places]
    # Numbers up to 1: what HiGHS takes for an integer then breaks no constraint by its measure.
    most, worst = max(map(abs, costs)) or 1, max(map(abs, losses)) or 1
    ones = coo_array(
        (np.ones(len(places)), ([row_of[u] for u, _ in places], range(len(places)))),
        shape=(len(units), len(places)),
    )
    result = milp(
        np.array([loss / worst for loss in losses]),
        integrality=np.ones(len(places)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(ones.tocsr(), 1, 1),
            LinearConstraint(np.array([costs], float) / most, -np.inf, room / most),
        ],
        options={"mip_rel_gap": 0.0, "node_limit": NODES},
    )
    if result.x is None:
        return None
    picks = [row[0] for row in core]
    for (u, i), share in zip(places, result.x, strict=True):
        if share > 0.5:
            picks[u] = i
    found = tuple(picks)
    return found if problem.totals(found)[1] <= problem.capacity else None


# -- the proof -------------------------------------------------------------------------


@dataclass(slots=True)
class _States:
    """Picks of the first rows: their costs, losses, what they add to the bound, their order."""

    cost: I64
    loss: I64
    extra: F64
    order: I64

    def take(self, index: NDArray[np.intp]) -> _States:
        return _States(self.cost[index], self.loss[index], self.extra[index], self.order[index])


def _search(
    problem: Problem, core: Sequence[Sequence[int]], bound: _Bound, gap: int, most: int
) -> tuple[tuple[int, ...] | None, bool]:
    """The best pick of what is left, and whether all of it was looked at."""
    limit = float(Fraction(gap, bound.scale)) * _WIDER
    fixed = [row[0] if len(row) == 1 else None for row in core]
    room = problem.capacity - sum(
        min(problem.costs[u][i] for i in row) for u, row in enumerate(core)
    )
    spare = [max(problem.costs[u][i] for i in row) - min(problem.costs[u][i] for i in row)
             for u, row in enumerate(core)]  # fmt: skip
    zero = np.zeros(1, np.int64)
    states = _States(zero, zero, np.array([_base_extra(core, bound)]), zero)
    trail: list[tuple[int, I64, I64]] = []
    left, whole = sum(spare), True
    for u, row in enumerate(core):
        if fixed[u] is not None:
            continue
        left -= spare[u]
        grown, parent, choice = _grown(problem, bound, states, u, sorted(row))
        price = float(Fraction(bound.price, bound.scale))
        unused = np.maximum(room - left - grown.cost, 0)
        may = (grown.cost <= room) & (grown.extra + price * unused <= limit)
        kept = _undominated(grown, np.flatnonzero(may))
        if len(kept) > most:
            whole = False
            kept = np.sort(kept[np.argsort(grown.extra[kept], kind="stable")[:most]])
        states = grown.take(kept)
        trail.append((u, parent[kept], choice[kept]))
        if not len(kept):
            return None, whole
    return _back(states, trail, core), whole


def _base_extra(core: Sequence[Sequence[int]], bound: _Bound) -> float:
    total = sum(bound.extra[u][row[0]] for u, row in enumerate(core) if len(row) == 1)
    return float(Fraction(total, bound.scale))


def _grown(
    problem: Problem, bound: _Bound, states: _States, unit: int, row: Sequence[int]
) -> tuple[_States, I64, I64]:
    """Every state with every choice of a row: the new states, their parents and choices."""
    least = min(problem.costs[unit][i] for i in row)
    cost = np.array([problem.costs[unit][i] - least for i in row], np.int64)
    loss = np.array([problem.losses[unit][i] for i in row], np.int64)
    extra = np.array([float(Fraction(bound.extra[unit][i], bound.scale)) for i in row])
    count, width = len(states.cost), len(row)
    place = np.arange(width)
    grown = _States(
        np.add.outer(states.cost, cost).reshape(-1),
        np.add.outer(states.loss, loss).reshape(-1),
        np.add.outer(states.extra, extra).reshape(-1),
        np.add.outer(states.order * width, place).reshape(-1),
    )
    return grown, np.repeat(np.arange(count), width), np.tile(np.array(row, np.int64), count)


def _undominated(states: _States, index: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of these states the ones that no other is at least as good as; their order is renewed."""
    order = np.lexsort((states.order[index], states.loss[index], states.cost[index]))
    index = index[order]
    loss = states.loss[index]
    before = np.minimum.accumulate(loss)
    kept = np.ones(len(index), bool)
    kept[1:] = loss[1:] < before[:-1]
    index = index[kept]
    rank = np.empty(len(index), np.int64)
    rank[np.argsort(states.order[index], kind="stable")] = np.arange(len(index))
    states.order[index] = rank
    return index


def _back(
    states: _States, trail: Sequence[tuple[int, I64, I64]], core: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """The picks of the best state."""
    best = int(np.lexsort((states.order, states.cost, states.loss))[0])
    picks = [row[0] for row in core]
    for unit, parent, choice in reversed(trail):
        picks[unit] = int(choice[best])
        best = int(parent[best])
    return tuple(picks)
