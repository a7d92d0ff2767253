"""One way to encode a block, as bounds see it: values, the edges between them, and reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ..format import Format
from ..kernel import wanted_format
from ..view import Trial, view_of


@dataclass(frozen=True, slots=True)
class Coder:
    """A grid under the scale that one trial gives a block.

    An element y (in units of the scale that codes are chosen under) takes ``values[i]`` for y
    between ``edges[i - 1]`` and ``edges[i]``. The asked scale is the larger of the largest
    positive element / ``positive`` and the largest negative magnitude / ``negative``.

    Attributes:
        values: the grid's values, ascending, mirrored where the trial's scale is negative.
        edges: one fewer: the midpoints, or where a truncated quotient steps.
        positive, negative: the divisors of the two sides; 0 where a side asks for nothing.
        ends: the sides (+1, -1) that the element may lie on which decides the scale.
        step: how many stored scales above the asked one's it takes.
    """

    values: tuple[Fraction, ...]
    edges: tuple[Fraction, ...]
    positive: Fraction
    negative: Fraction
    ends: tuple[int, ...]
    step: int = 0

    def reach(self, side: int) -> Fraction:
        """How far elements of a side go, in units of the asked scale."""
        return self.positive if side > 0 else self.negative

    @property
    def floor(self) -> Fraction:
        """A block's absmax is at least this times its asked scale."""
        return min(self.reach(end) for end in self.ends)

    def spans(
        self, bottom: Fraction, top: Fraction, *, inside: bool
    ) -> Iterator[tuple[Fraction, Fraction, Fraction]]:
        """Every value with the ends of the elements from ``bottom`` to ``top`` that take it.

        ``inside``: of those between the grid's ends, else of those beyond them.
        """
        low, high = self.values[0], self.values[-1]
        for i, value in enumerate(self.values):
            start = max(self.edges[i - 1] if i else bottom, bottom)
            stop = min(self.edges[i] if i < len(self.edges) else top, top)
            parts = [(start, min(stop, low)), (max(start, high), stop)]
            for a, b in [(max(start, low), min(stop, high))] if inside else parts:
                if a < b or (a == b and inside):
                    yield value, a, b

    def nearest(self, y: Fraction) -> tuple[Fraction, ...]:
        """The value that y takes: the two beside an edge."""
        from bisect import bisect_left, bisect_right

        low, high = bisect_left(self.edges, y), bisect_right(self.edges, y)
        return self.values[low : high + 1]

    def error(self, y: Fraction) -> Fraction:
        """|y - value|, the larger one on an edge."""
        return max(abs(y - value) for value in self.nearest(y))


def coder_of(fmt: Format, trial: Trial) -> Coder:
    """The coder of one trial of a format without zero clause."""
    grid = fmt.grids[trial.grid]
    values = grid.numbers
    edges = tuple((low + high) / 2 for low, high in pairwise(values))
    if fmt.policies.offset is not None:
        edges = tuple(i + 1 - fmt.policies.offset for i in range(len(values) - 1))
    positive, negative = trial.positive_divisor, trial.negative_divisor
    ends = tuple(end for end, d in ((1, positive), (-1, negative)) if d)
    if trial.flip:
        values, edges = tuple(-v for v in reversed(values)), tuple(-e for e in reversed(edges))
        positive, negative, ends = negative, positive, tuple(-end for end in ends)
    if fmt.scale.rule == "argmax":
        ends = (-1,) if view_of(wanted_format(fmt)).grids[trial.grid].end_is_negative else (1,)
    return Coder(values, edges, positive, negative, ends, trial.step)


def coders_of(fmt: Format) -> tuple[Coder, ...]:
    """The coder of every trial, in their order."""
    return tuple(coder_of(fmt, trial) for trial in view_of(wanted_format(fmt)).trials)
