"""Fitting grids to samples: Lloyd's iteration, and grids that share blocks.

The samples are those of ``cells``; grids of a host's points are in ``clustering``. Both are
imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .cells import Blocks, Cells, draw, errors, errors_under_own_ends, normalised
from .clustering import Bins, HostPoints, cluster, clustered, descend, descend_together

if TYPE_CHECKING:
    from .cells import F64, Codes, Mask

__all__ = [
    "Bins",
    "Blocks",
    "Cells",
    "HostPoints",
    "cluster",
    "clustered",
    "descend",
    "descend_together",
    "draw",
    "errors",
    "errors_under_own_ends",
    "lloyd",
    "normalised",
    "pair",
    "partner",
    "start_levels",
]


# -- Lloyd's iteration -----------------------------------------------------------------


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
        codes, own = errors(blocks.y, levels, blocks.inner)
        chosen = own < base
        trace.append(blocks.mean(np.minimum(own, base)))
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
        codes, first = errors(blocks.y, one, blocks.inner)
        others, second = errors(blocks.y, two, blocks.inner)
        chosen = second < first
        trace.append(blocks.mean(np.minimum(first, second)))
        one = _step(blocks, codes, ~chosen, one, held)
        two = _step(blocks, others, chosen, two, held)
    return (one, two), trace


def _step(blocks: Blocks, codes: Codes, chosen: Mask, levels: F64, held: Mask) -> F64:
    """Every level at the centroid of what the chosen blocks gave it."""
    taken, y = codes[chosen], blocks.y[chosen]
    weight = blocks.weights(chosen)
    mass = np.bincount(taken.ravel(), weight.ravel(), len(levels))
    moment = np.bincount(taken.ravel(), (weight * y).ravel(), len(levels))
    moved = np.divide(moment, mass, out=levels.copy(), where=mass > 0)
    return np.where(held, levels, moved)
