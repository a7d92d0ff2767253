"""Grids whose values are points of a host: coordinate descent, and the exact best choice.

SOP's DD grids (arXiv:2605.14929) are the exact one-dimensional clustering, by dynamic programming
over a histogram, that is held to the numbers of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .cells import Blocks, Cells

if TYPE_CHECKING:
    from .cells import F64, Codes, Mask


def descend(
    cells: Cells,
    start: Sequence[int],
    points: F64,
    held: Mask,
    trace: list[float] | None = None,
) -> tuple[int, ...]:
    """Coordinate descent: a level moves to the next point up or down while the error falls.

    Args:
        cells: the samples.
        start: indices into ``points``, strictly ascending.
        points: float64 [p], ascending.
        held: levels that stay, bool [n].
        trace: gets the error at the start and after every move; it never rises.

    Returns:
        Indices from which no single move of one step lowers the error.
    """
    chosen = list(start)
    best = cells.error(points[chosen])
    passed = [] if trace is None else trace
    passed.append(best)
    moved = True
    while moved:
        moved = False
        for i in np.flatnonzero(~held):
            for step in (-1, 1):
                trial = [*chosen[:i], chosen[i] + step, *chosen[i + 1 :]]
                inside = 0 <= trial[i] < len(points)
                if not inside or any(a >= b for a, b in pairwise(trial)):
                    continue
                lost = cells.error(points[trial])
                if lost < best * (1 - 1e-12):
                    chosen, best, moved = trial, lost, True
                    passed.append(best)
    return tuple(chosen)


def cluster(
    cells: Cells, points: F64, count: int, ends: bool, held: Sequence[int] = ()
) -> tuple[int, ...]:
    """The best ``count`` of the points, exactly, by dynamic programming over the sorted axis.

    Between two neighbouring chosen points, every sample goes to the nearer; so the error is a sum
    over neighbours, and the best choice that ends with a point extends a best one before it.

    Args:
        cells: the samples (or a histogram's bins, with their counts as weights; see ``Bins``).
        points: float64 [p], ascending.
        count: how many to choose, 2 to p.
        ends: whether the first and the last point must be chosen.
        held: indices of more points that must be chosen, such as zero's.

    Returns:
        Indices into ``points``, ascending; of equally good choices the one of lower points.

    Raises:
        ValueError: there are fewer points than ``count``, or more that must be chosen.
    """
    size = len(points)
    must = sorted({*held, *((0, size - 1) if ends else ())})
    if not max(2, len(must)) <= count <= size:
        raise ValueError(f"{count} of {size} points, {len(must)} of them held, cannot be chosen")
    places = np.searchsorted(cells.y, points, side="right")
    between = _between_costs(cells, points, places)
    first = _sums(cells, np.zeros_like(places), places, points)
    last = _sums(cells, places, np.full_like(places, len(cells.y)), points)
    for point in must:
        # No chosen pair of neighbours may step over it, and none may begin or end beyond it.
        between[:point, point + 1 :] = np.inf
        first[point + 1 :] = np.inf
        last[:point] = np.inf
    return _best_path(first, between, last, count)


def _best_path(first: F64, between: F64, last: F64, count: int) -> tuple[int, ...]:
    """The cheapest chain of ``count`` indices, ascending since ``between`` is inf elsewhere."""
    best, back = first, []
    for _ in range(count - 1):
        reach = best[:, None] + between
        back.append(reach.argmin(axis=0))
        best = reach.min(axis=0)
    at = int((best + last).argmin())
    chosen = [at]
    for step in reversed(back):
        at = int(step[at])
        chosen.append(at)
    return tuple(reversed(chosen))


def _sums(cells: Cells, low: Codes, high: Codes, point: F64) -> F64:
    """The weighted squared distance of samples low..high-1 to a point, for many at once."""
    mass, moment = cells.mass[high] - cells.mass[low], cells.moment[high] - cells.moment[low]
    lost: F64 = cells.square[high] - cells.square[low] + point * (point * mass - 2 * moment)
    return lost


def _between_costs(cells: Cells, points: F64, places: Codes) -> F64:
    """[i, j]: what the samples above point i up to point j cost, to the nearer; inf for i >= j."""
    size = len(points)
    low, high = np.triu_indices(size, 1)
    middles = (points[low] + points[high]) / 2
    # Looked up in ascending order, which finds neighbours in the cache.
    order = np.argsort(middles, kind="stable")
    middle = np.empty(len(order), dtype=np.intp)
    middle[order] = np.searchsorted(cells.y, middles[order], side="right")
    costs = np.full((size, size), np.inf)
    costs[low, high] = _sums(cells, places[low], middle, points[low]) + _sums(
        cells, middle, places[high], points[high]
    )
    return costs


@dataclass(frozen=True, slots=True)
class Bins:
    """Samples in bins between whose edges no choice of points can tell them apart.

    The edges are the points and the middles of all pairs of them. So clustering the bins finds
    what clustering the samples would, while samples are sorted into bins once for all the subsets
    of blocks that are clustered.

    Attributes:
        edges: float64 [bins], the upper edge of every bin, which belongs to it; the last is inf.
        codes: intp, the shape of the samples: the bin of every one.
        sums: float64 [3, ...], every sample's weight, times the sample, times its square.
    """

    edges: F64
    codes: Codes
    sums: F64

    @classmethod
    def of(cls, y: F64, weight: F64, points: F64) -> Bins:
        """From samples and weights of the same shape, for grids of these points (ascending)."""
        low, high = np.triu_indices(len(points), 1)
        edges = np.unique(np.concatenate([points, (points[low] + points[high]) / 2]))
        codes = np.searchsorted(edges, y.ravel(), side="left").reshape(y.shape)
        sums = np.stack([weight, weight * y, weight * y * y])
        return cls(np.append(edges, np.inf), codes, sums)

    def cells(self, chosen: Mask | None = None) -> Cells:
        """All samples, or those of the chosen rows (blocks); good for grids of the points only."""
        codes = self.codes if chosen is None else self.codes[chosen]
        taken = self.sums if chosen is None else self.sums[:, chosen]
        size = len(self.edges)
        counts = [np.bincount(codes.ravel(), each.ravel(), size) for each in taken]
        return Cells(self.edges, *(np.concatenate([[0.0], np.cumsum(each)]) for each in counts))


@dataclass(frozen=True, slots=True)
class HostPoints:
    """What a grid of a host's points may be.

    Attributes:
        points: float64 [p], ascending.
        count: how many levels a grid has.
        ends: whether the first and the last point must be among them.
        held: indices of more points that must be.
    """

    points: F64
    count: int
    ends: bool
    held: tuple[int, ...] = ()


def clustered(
    blocks: Blocks, host: HostPoints, chosen: Mask, base: F64 | None, rounds: int
) -> tuple[tuple[F64, F64], list[float]]:
    """Grids of a host's points for blocks that may choose, each the best one for its blocks.

    Exact clustering and the blocks' choice take turns until the error falls no further.

    Args:
        blocks: the samples.
        host: what the grids may be.
        chosen: the blocks that begin with the second grid, [blocks]; with none, all do.
        base: every block's squared error under a first grid that is given, [blocks]; None: the
            first is learned as well.
        rounds: how often the blocks choose at most; at least once.

    Returns:
        (both grids; where ``base`` is given, the second one twice; and the mean squared error at
        every choice, of grids of the host, which never rises).
    """
    bins = Bins.of(blocks.y, blocks.weights(), host.points)

    def best(mask: Mask) -> F64:
        cells = bins.cells(mask if mask.any() else None)
        found = cluster(cells, host.points, host.count, host.ends, host.held)
        grid: F64 = host.points[list(found)]
        return grid

    trace: list[float] = []
    grids: tuple[F64, F64] | None = None
    while True:
        two = best(chosen)
        one = two if base is not None else best(~chosen)
        first = base if base is not None else blocks.errors(one)
        second = blocks.errors(two)
        error = blocks.mean(np.minimum(first, second))
        if grids is not None and error >= trace[-1]:
            return grids, trace
        grids = one, two
        trace.append(error)
        if len(trace) >= rounds:
            return grids, trace
        chosen = second < first


def descend_together(
    blocks: Blocks,
    host: HostPoints,
    grids: tuple[F64, F64],
    base: F64 | None,
    rounds: int,
    trace: list[float],
) -> tuple[F64, F64]:
    """Coordinate descent on what `clustered` found, where blocks choose anew at every trial.

    Args:
        blocks: the samples.
        host: what the grids may be.
        grids: float64 [n] each, points of the host; where ``base`` is given, the second moves.
        base: every block's squared error under a first grid that is given, [blocks].
        rounds: how often all levels are tried at most.
        trace: gets the mean squared error after every move; it never rises.

    Returns:
        Grids of which no single level that moves to the next point lowers the error.
    """
    chosen = [np.searchsorted(host.points, grid) for grid in grids]
    lost = [base if base is not None else blocks.errors(grids[0]), blocks.errors(grids[1])]
    size = len(host.points)
    stay = {*host.held, *((0, size - 1) if host.ends else ())}
    best = blocks.mean(np.minimum(*lost))
    for _ in range(rounds):
        before = best
        for at in (1,) if base is not None else (0, 1):
            for level, step in [(level, step) for level in range(host.count) for step in (-1, 1)]:
                trial = chosen[at].copy()
                trial[level] += step
                inside = 0 <= trial[level] < size and bool(np.all(np.diff(trial) > 0))
                if chosen[at][level] in stay or not inside:
                    continue
                own = blocks.errors(host.points[trial])
                error = blocks.mean(np.minimum(own, lost[1 - at]))
                if error < best * (1 - 1e-12):
                    chosen[at], lost[at], best = trial, own, error
                    trace.append(error)
        if best == before:
            break
    one, two = (host.points[each] for each in chosen)
    return one, two
