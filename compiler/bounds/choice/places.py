"""Boxes of peaks with the elements that their blocks may have, and where errors have kinks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...format import Format
from ...kernel import wanted_format
from ...view import view_of
from ..coder import Coder
from ..slack import element_count
from .boxes import Blank, Interval, blanks, nearest, one_peak, regular_scales

F64 = NDArray[np.float64]


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

    @cached_property
    def passed(self) -> tuple[Interval, ...]:
        """The intervals of the elements that decide a scale, and of those opposite to them."""
        positive, negative = self.blank.positive, self.blank.negative
        opposite = positive if negative is None else negative
        found = [positive] if positive[0] else []
        return (*found, *([(-opposite[1], -opposite[0])] if opposite[0] else []))

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

    def halves(self) -> tuple[Place, ...]:
        """The box cut in two along its longer interval, and where that passes kinks."""
        blank = self.blank
        one, other = blank.positive, blank.negative
        if other is None or one[1] - one[0] >= other[1] - other[0]:
            parts = [replace(blank, positive=part) for part in halved(one)]
        else:
            parts = [replace(blank, negative=part) for part in halved(other)]
        return tuple(self._with(cut) for part in parts for cut in _cut(part, self.cuts))

    def _with(self, blank: Blank) -> Place:
        return replace(self, blank=blank)


def places(fmt: Format, coders: Sequence[Coder]) -> Iterator[Place]:
    """Every box of a format's blocks, with its grids."""
    scales = regular_scales(fmt)
    count = element_count(fmt)
    if scales is None or count is None:
        return
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


def halved(interval: Interval) -> tuple[Interval, Interval]:
    """An interval cut near its middle, at a number with a short denominator."""
    low, high = interval
    width = high - low
    grain = Fraction(2) ** (2 - (width.denominator // width.numerator).bit_length() - 3)
    middle = round((low + high) / 2 / grain) * grain
    return (low, middle), (middle, high)


def between(low: Fraction, high: Fraction) -> Fraction:
    """A short number near the middle."""
    return halved((low, high))[0][1]
