"""Fitting grids to samples: Lloyd's iteration, grids that share blocks, choices of host points.

Blocks of samples are divided by their largest magnitude (``absmax``) or by their largest element
with its sign (``argmax``), and weigh the square of what they were divided by: sums of squares are
those of the blocks themselves. Everything is float64 NumPy with a stated seed; sums may differ in
the last bits between machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    F64 = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]
    Codes = npt.NDArray[np.intp]


# -- samples ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """Normalised samples.

    Attributes:
        y: float64 [blocks, elements], the elements of a block over its largest: -1 to 1.
        weight: float64 [blocks], the squared largest.
    """

    y: F64
    weight: F64

    @property
    def scale_of_error(self) -> float:
        """What turns a weighted sum of squares of ``y`` into a mean squared error of samples."""
        return 1.0 / self.y.size


def draw(source: str, freedom: float, shape: tuple[int, int], seed: int) -> F64:
    """Samples, float64 [blocks, elements]: N(0, 1), or for ``student`` Student's t."""
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn: F64 = (
        generator.standard_t(freedom, shape)
        if source == "student"
        else generator.standard_normal(shape)
    )
    return drawn


def normalised(x: F64, rule: str) -> Blocks:
    """Blocks over their largest magnitude, or over their largest element (the first of several).

    Args:
        x: float64 [blocks, elements], no block all zero.
        rule: ``absmax`` or ``argmax``.
    """
    largest = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
    divisor = np.abs(largest) if rule == "absmax" else largest
    return Blocks(x / divisor[:, None], largest * largest)


def errors(y: F64, levels: F64) -> tuple[Codes, F64]:
    """The nearest level of every element (the lower on a tie), and every block's squared error.

    Args:
        y: float64 [blocks, elements].
        levels: float64 [n], ascending.

    Returns:
        (indices [blocks, elements], errors float64 [blocks]).
    """
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, y.ravel()).reshape(y.shape)
    lost = levels[codes] - y
    summed: F64 = np.einsum("ij,ij->i", lost, lost)
    return codes, summed


def errors_under_own_ends(blocks: Blocks, levels: F64, rule: str) -> F64:
    """Every block's squared error where the grid's ends, not 1, meet the block's, [blocks]."""
    if rule == "argmax":
        largest = levels[0] if -levels[0] > levels[-1] else levels[-1]
        scale = np.full(len(blocks.y), 1.0 / largest)
    else:
        up, down = blocks.y.max(axis=1) / levels[-1], blocks.y.min(axis=1) / levels[0]
        scale = np.maximum(np.maximum(up, down), 0)
    lost: F64 = errors(blocks.y / scale[:, None], levels)[1] * scale * scale
    return lost


# -- Lloyd's iteration -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cells:
    """Weighted samples of one axis, sorted, with running sums: cells are summed at once."""

    y: F64
    mass: F64
    moment: F64
    square: F64

    @classmethod
    def of(cls, y: F64, weight: F64) -> Cells:
        """From samples and weights of the same shape."""
        order = np.argsort(y, axis=None, kind="stable")
        flat, heavy = y.ravel()[order], weight.ravel()[order]
        sums = [np.concatenate([[0.0], np.cumsum(heavy * flat**power)]) for power in range(3)]
        return cls(flat, *sums)

    @classmethod
    def of_blocks(cls, blocks: Blocks, chosen: Mask | None = None) -> Cells:
        """From all blocks, or the chosen ones ([blocks])."""
        y = blocks.y if chosen is None else blocks.y[chosen]
        weight = blocks.weight if chosen is None else blocks.weight[chosen]
        return cls.of(y, np.broadcast_to(weight[:, None], y.shape))

    def _between(self, levels: F64, sums: F64) -> F64:
        inner = np.searchsorted(self.y, (levels[1:] + levels[:-1]) / 2, side="right")
        found: F64 = np.diff(sums[np.concatenate([[0], inner, [len(self.y)]])])
        return found

    def centroids(self, levels: F64) -> F64:
        """The centre of every cell; a level without samples stays where it is."""
        mass, moment = self._between(levels, self.mass), self._between(levels, self.moment)
        return np.where(mass > 0, moment / np.where(mass > 0, mass, 1), levels)

    def error(self, levels: F64) -> float:
        """The weighted sum of squared distances to the nearest level."""
        mass, moment = self._between(levels, self.mass), self._between(levels, self.moment)
        return float(self.square[-1] + (levels * (levels * mass - 2 * moment)).sum())


def lloyd(cells: Cells, start: F64, held: Mask, rounds: int) -> tuple[F64, list[float]]:
    """Levels at the centroids of their cells, but for those held; and the error on the way."""
    levels, trace = start.copy(), [cells.error(start)]
    for _ in range(rounds):
        moved = np.where(held, levels, cells.centroids(levels))
        trace.append(cells.error(moved))
        if np.abs(moved - levels).max() < 1e-12:
            return moved, trace
        levels = moved
    return levels, trace


def start_levels(count: int, zero: bool) -> F64:
    """Equal steps from -1 to 1; with ``zero``, equal steps on both sides of it."""
    if not zero:
        return np.linspace(-1, 1, count)
    above, below = count - 1 - count // 2, count // 2
    sides = -np.linspace(1, 1 / below, below), np.linspace(1 / above, 1, above)
    return np.concatenate([sides[0], [0.0], sides[1]])


# -- several grids ---------------------------------------------------------------------


def partner(
    blocks: Blocks, base: F64, start: F64, held: Mask, rounds: int
) -> tuple[F64, list[float]]:
    """A second grid for blocks that may choose (Grid Games, arXiv:2605.12327, problem PO2).

    It begins with the half of the blocks that the first grid serves worst; then blocks choose
    by their squared error, and the grid takes one step of Lloyd's iteration on its own.

    Args:
        blocks: the samples.
        base: every block's squared error under the first grid, float64 [blocks].
        start: levels to begin with, float64 [n], ascending.
        held: levels that stay, bool [n].
        rounds: how often the blocks choose again.

    Returns:
        (levels, the mean squared error at every choice, which never rises).
    """
    chosen = base > np.median(base)
    levels, _ = lloyd(Cells.of_blocks(blocks, chosen), start, held, 20)
    trace = []
    for _ in range(rounds):
        codes, own = errors(blocks.y, levels)
        chosen = own < base
        trace.append(_mean(blocks, np.minimum(own, base)))
        levels = _step(blocks, codes, chosen, levels, held)
    return levels, trace


def pair(
    blocks: Blocks, starts: tuple[F64, F64], held: Mask, rounds: int
) -> tuple[tuple[F64, F64], list[float]]:
    """Two grids for blocks that may choose (Grid Games, family MPO2), both learned.

    Returns:
        (both grids, the mean squared error at every choice, which never rises).
    """
    one, two = starts
    trace = []
    for _ in range(rounds):
        (codes, first), (others, second) = errors(blocks.y, one), errors(blocks.y, two)
        chosen = second < first
        trace.append(_mean(blocks, np.minimum(first, second)))
        one = _step(blocks, codes, ~chosen, one, held)
        two = _step(blocks, others, chosen, two, held)
    return (one, two), trace


def _mean(blocks: Blocks, lost: F64) -> float:
    return float(blocks.weight @ lost) * blocks.scale_of_error


def _step(blocks: Blocks, codes: Codes, chosen: Mask, levels: F64, held: Mask) -> F64:
    """Every level at the centroid of what the chosen blocks gave it."""
    taken, y = codes[chosen], blocks.y[chosen]
    weight = np.broadcast_to(blocks.weight[chosen][:, None], y.shape)
    mass = np.bincount(taken.ravel(), weight.ravel(), len(levels))
    moment = np.bincount(taken.ravel(), (weight * y).ravel(), len(levels))
    moved = np.divide(moment, mass, out=levels.copy(), where=mass > 0)
    return np.where(held, levels, moved)


# -- grids of a host's points ----------------------------------------------------------


def descend(cells: Cells, start: Sequence[int], points: F64, held: Mask) -> tuple[int, ...]:
    """Coordinate descent: a level moves to the next point up or down while the error falls.

    Args:
        cells: the samples.
        start: indices into ``points``, strictly ascending.
        points: float64 [p], ascending.
        held: levels that stay, bool [n].

    Returns:
        Indices from which no single move of one step lowers the error.
    """
    chosen = list(start)
    best = cells.error(points[chosen])
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
    return tuple(chosen)


def cluster(cells: Cells, points: F64, count: int, ends: bool) -> tuple[int, ...]:
    """The best ``count`` of the points, exactly, by dynamic programming over the sorted axis.

    Between two neighbouring chosen points, every sample goes to the nearer; so the error is a sum
    over neighbours, and the best choice that ends with a point extends a best one before it.

    Args:
        cells: the samples (or a histogram's bins, with their counts as weights).
        points: float64 [p], ascending.
        count: how many to choose, 2 to p.
        ends: whether the first and the last point must be chosen.

    Returns:
        Indices into ``points``, ascending; of equally good choices the one of lower points.
    """
    between = _between_costs(cells, points)
    size = len(points)
    first = np.array([_tail(cells, points[i], below=True) for i in range(size)])
    if ends:
        first[1:] = np.inf
    best, back = first, []
    for _ in range(count - 1):
        reach = best[:, None] + between
        back.append(reach.argmin(axis=0))
        best = reach.min(axis=0)
    last = best + np.array([_tail(cells, point, below=False) for point in points])
    at = size - 1 if ends else int(last.argmin())
    chosen = [at]
    for step in reversed(back):
        at = int(step[at])
        chosen.append(at)
    return tuple(reversed(chosen))


def _sums(cells: Cells, low: int | Codes, high: int, point: float) -> F64 | float:
    """The weighted squared distance of samples low..high-1 to a point."""
    mass, moment = cells.mass[high] - cells.mass[low], cells.moment[high] - cells.moment[low]
    lost: F64 | float = cells.square[high] - cells.square[low] + point * (point * mass - 2 * moment)
    return lost


def _tail(cells: Cells, point: float, below: bool) -> float:
    """What the samples at or below (above) a point cost when it is the lowest (highest)."""
    place = int(np.searchsorted(cells.y, point, side="right"))
    low, high = (0, place) if below else (place, len(cells.y))
    return float(_sums(cells, low, high, point))


def _between_costs(cells: Cells, points: F64) -> F64:
    """[i, j]: what the samples above point i up to point j cost, to the nearer; inf for i >= j."""
    size = len(points)
    costs = np.full((size, size), np.inf)
    places = np.searchsorted(cells.y, points, side="right")
    for i in range(size):
        for j in range(i + 1, size):
            middle = int(np.searchsorted(cells.y, (points[i] + points[j]) / 2, side="right"))
            costs[i, j] = _sums(cells, places[i], middle, points[i]) + _sums(
                cells, middle, places[j], points[j]
            )
    return costs
