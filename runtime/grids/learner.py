"""A grid learned for the blocks that another one serves worst, on the host's points, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.fitting import Bins, cluster
from .alphabet import Hosted, host_points, learned_name
from .options import SearchOptions
from .pair_text import format_of
from .scoring import Losses, Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Partner:
    """A learned grid: its values, ascending; the objective on the way; how many were scored."""

    values: tuple[Fraction, ...]
    trace: tuple[float, ...]
    tried: int


@dataclass(frozen=True, slots=True)
class _Choice:
    """Levels, as indices of points; what blocks lose under them; and in which sign each does."""

    levels: tuple[int, ...]
    losses: Losses
    sign: NDArray[np.intp]


class Learner:
    """Builds grids of the host's points for blocks of a unit, at their stored scales.

    The ends of such a grid are fixed, a top of the host and its mirror image, so that a block has
    the same scale under each: elements are divided by the stored scales once and for all. Under
    ``argmax`` the upper end is one, and the lower is free.

    With both signs tried, every block is there twice: as it is, and mirrored.
    """

    def __init__(self, scorer: Scorer, options: SearchOptions, top: Fraction) -> None:
        self._scorer, self._options = scorer, options
        exact = tuple(point for point in host_points(options.host) if abs(point) <= top)
        self._exact = exact
        self._points = np.array([float(point) for point in exact])
        count = 1 << options.bits
        spread = np.linspace(0, len(exact) - 1, count).round().astype(int)
        carrier = Hosted(learned_name(options.bits), tuple(exact[i] for i in spread))
        self._scales = scorer.scales(format_of((carrier,), options.of_one_grid))
        wide = scorer.x.astype(np.float64)
        y = np.concatenate([_over(wide, scale) for scale in self._scales])
        weight = np.concatenate([self._weights(wide, scale) for scale in self._scales])
        self._bins = Bins.of(y, weight, self._points)
        self._count = count

    def alone(self) -> Partner:
        """The grid for all blocks."""
        blocks = len(self._scorer.x)
        nothing = Losses(np.full(blocks, np.inf), np.full(blocks, np.inf))
        levels, trace, tried = self._settle(nothing, np.ones(blocks, np.bool_))
        return Partner(self._values(levels), trace, tried)

    def beside(self, base: Losses, regret: F64) -> Partner:
        """The best grid beside another, over all shares of the blocks that are the other's pool.

        Args:
            base: what the blocks lose under the other grid.
            regret: how much more they lose than under the best of all, float64 [blocks].
        """
        key = regret if self._options.pool == "regret" else base.ranked
        order = np.argsort(key, kind="stable")
        shares = self._options.shares if self._options.pool != "none" else (0,)
        best: tuple[tuple[int, ...], tuple[float, ...]] | None = None
        tried = 0
        for share in shares:
            rest = np.ones(len(order), np.bool_)
            rest[order[: len(order) * share // 100]] = False
            levels, trace, count = self._settle(base, rest)
            tried += count
            if best is None or trace[-1] < best[1][-1] * (1 - 1e-9):
                best = levels, trace
        if best is None:
            raise ValueError("no share is tried")
        return Partner(self._values(best[0]), best[1], tried)

    def _settle(self, base: Losses, rest: Mask) -> tuple[tuple[int, ...], tuple[float, ...], int]:
        """Levels for the rest, then for the blocks that take them, while the objective falls."""
        chosen, sign = rest, self._first_signs()
        best: _Choice | None = None
        trace: list[float] = []
        tried = 0
        for _ in range(self._options.rounds):
            if not chosen.any():
                break
            choice = self._fit(chosen, sign)
            tried += 1
            total = float(np.minimum(choice.losses.counted, base.counted).sum())
            if best is not None and not total < trace[-1] * (1 - 1e-9):
                break
            best = choice
            trace.append(total)
            chosen, sign = choice.losses.counted < base.counted, choice.sign
        if best is None:
            raise ValueError("no blocks are left for a learned grid")
        return best.levels, tuple(trace), tried

    def _fit(self, chosen: Mask, sign: NDArray[np.intp]) -> _Choice:
        lanes = np.concatenate([chosen & (sign == lane) for lane in range(len(self._scales))])
        ends = self._options.rule == "absmax"
        held = () if ends else (len(self._points) - 1,)
        cells = self._bins.cells(lanes)
        levels = cluster(cells, self._points, self._count, ends, held)
        return _Choice(levels, *self._losses(levels))

    def _losses(self, levels: tuple[int, ...]) -> tuple[Losses, NDArray[np.intp]]:
        """What blocks lose under levels in their better sign, and which that is."""
        values = self._points[list(levels)]
        # A bin belongs to the level that its upper edge is nearest to, the lower on a tie.
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, self._bins.edges)
        table = values.astype(np.float32)[nearest]
        blocks = len(self._scorer.x)
        sign = np.zeros(blocks, np.intp)
        best: Losses | None = None
        for lane, scale in enumerate(self._scales):
            codes = self._bins.codes[lane * blocks : (lane + 1) * blocks]
            found = self._scorer.losses(table[codes] * scale[:, None])
            if best is None:
                best = found
                continue
            sign[found.counted < best.counted] = lane
            best = best.beside(found)
        if best is None:
            raise ValueError("a format has a trial at least")
        return best, sign

    def _first_signs(self) -> NDArray[np.intp]:
        """The sign that brings a block's largest element to the upper end."""
        x = self._scorer.x
        if len(self._scales) == 1:
            return np.zeros(len(x), np.intp)
        largest = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
        return np.asarray(largest < 0, np.intp)

    def _weights(self, x: F64, scale: F32) -> F64:
        """What every element counts for: blocks as the objective counts them, times ``lloyd``."""
        c = self._scorer.c
        weight = {"none": np.ones_like(c), "c": c, "c2": c * c}[self._options.lloyd]
        block = np.square(scale.astype(np.float64))
        if self._options.reassign == "acos":
            # A cosine does not depend on a block's size: its squares count over its energy.
            energy = (weight * x * x).sum(axis=1)
            block = np.divide(block, energy, out=np.zeros_like(block), where=energy > 0)
        found: F64 = weight * block[:, None]
        return found

    def _values(self, levels: tuple[int, ...]) -> tuple[Fraction, ...]:
        return tuple(self._exact[level] for level in levels)


def _over(x: F64, scale: F32) -> F64:
    """Blocks in units of their scales; a scale of 0 counts as 1, as encoders compare."""
    safe = np.where(scale == 0, np.float32(1), scale).astype(np.float64)
    return np.asarray(x / safe[:, None], np.float64)
