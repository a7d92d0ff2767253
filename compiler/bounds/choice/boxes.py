"""The peaks of a block, cut into boxes in which every trial has one scale.

A word table repeats from one power of two to the next, and with it everything about a block, so
that blocks whose absmax lies between 1 and 2 stand for all whose scales are regular: above the
smallest normal word, where the table repeats.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ...exact import floor_log2
from ...format import Format
from ..coder import Coder
from ..words import NORMAL, words_of

Interval = tuple[Fraction, Fraction]


@dataclass(frozen=True, slots=True)
class Scales:
    """The regular words of one binade: asked scales above ``edges[i]`` are stored as values[i].

    The last edge is twice the first. Binary32 stores what is asked: it has no edges. ``taken``
    says of each edge whether it is stored as the word above it: once, or, where that changes
    from binade to binade, once for either.
    """

    edges: tuple[Fraction, ...]
    values: tuple[Fraction, ...]
    taken: tuple[tuple[bool, ...], ...] = ()

    def above(self, asked: Fraction, step: int = 0) -> Fraction:
        """What is stored for scales just above ``asked``, ``step`` words further."""
        if not self.edges:
            return asked
        shift = Fraction(2) ** floor_log2(asked / self.edges[0])
        index = bisect_right(self.edges, asked / shift, hi=len(self.edges) - 1) - 1
        turns, place = divmod(index + step, len(self.values))
        return self.values[place] * shift * Fraction(2) ** turns

    def at(self, asked: Fraction, step: int, turn: int) -> Fraction:
        """What is stored for ``asked`` itself; ``turn`` counts the binades that alternate."""
        shift = floor_log2(asked / self.edges[0])
        place = asked / Fraction(2) ** shift
        if place not in self.edges:
            return self.above(asked, step)
        taken = self.taken[(turn + shift) % len(self.taken)]
        up = taken[self.edges.index(place)]
        return self.above(asked, step if up else step - 1)

    def edges_between(self, low: Fraction, high: Fraction) -> Iterator[Fraction]:
        """Every edge e with low < e < high, for low > 0."""
        if not self.edges:
            return
        shift = Fraction(2) ** floor_log2(low / self.edges[0])
        while self.edges[0] * shift < high:
            yield from (e * shift for e in self.edges[:-1] if low < e * shift < high)
            shift *= 2


def regular_scales(fmt: Format) -> Scales | None:
    """The words of a binade in the middle of the normal range; None where it has none."""
    words = words_of(fmt)
    if not words:
        return Scales((), ())
    normal = [w for w in words if w.regime == NORMAL]
    powers = [i for i, w in enumerate(normal) if w.value == Fraction(2) ** floor_log2(w.value)]
    for first, after in pairwise(powers[1:]):
        binade = normal[first:after]
        if binade[0].low and normal[after].low == 2 * binade[0].low:
            edges = (*(w.low for w in binade), normal[after].low)
            following = normal[after : 2 * after - first]
            taken = {tuple(w.takes_low for w in words) for words in (binade, following)}
            return Scales(edges, tuple(w.value for w in binade), tuple(sorted(taken)))
    return None


def regular_domain(fmt: Format, coders: Sequence[Coder]) -> Interval | None:
    """From which absmax on, and to which, every trial's word is regular."""
    words = words_of(fmt)
    if not words:
        return None
    normal = [w.value for w in words if w.regime == NORMAL]
    tops = [w.low for w in words[-1 - max(0, *(c.step for c in coders)) :]]
    reach = [d for c in coders for d in (c.positive, c.negative) if d]
    steps = 1 + max(abs(c.step) for c in coders)
    return normal[min(steps, len(normal) - 1)] * 2 * max(reach), min(tops) * min(reach)


@dataclass(frozen=True, slots=True)
class Blank:
    """A box without its tree; see ``proof.Box``."""

    positive: Interval
    negative: Interval | None
    scales: tuple[Fraction, ...]

    @property
    def leads(self) -> bool:
        """Whether the positive peak stands for the absmax (the other is never above it)."""
        return self.negative is None or self.positive[0] >= self.negative[0]


def blanks(fmt: Format, coders: Sequence[Coder], scales: Scales) -> Iterator[Blank]:
    """Boxes that cover every block whose absmax is in [1, 2] (1 alone under binary32 scales)."""
    signs = trial_signs(fmt, coders)
    if one_peak(fmt, coders):
        yield from _one_peak(coders, scales, signs)
    elif scales.edges:
        for end in (1, -1):
            yield from _two_peaks(coders, scales, signs, end)


def trial_signs(fmt: Format, coders: Sequence[Coder]) -> tuple[int, ...]:
    """The sign of every trial's scale, of a block whose largest element is positive."""
    from ...kernel import wanted_format
    from ...view import view_of

    if fmt.scale.rule == "argmax":
        return tuple(coder.ends[0] for coder in coders)
    return tuple(-1 if trial.flip else 1 for trial in view_of(wanted_format(fmt)).trials)


def one_peak(fmt: Format, coders: Sequence[Coder]) -> bool:
    """Whether the absmax alone decides every trial's scale."""
    return fmt.scale.rule == "argmax" or all(c.positive == c.negative for c in coders)


def _one_peak(coders: Sequence[Coder], scales: Scales, signs: Sequence[int]) -> Iterator[Blank]:
    one = Fraction(1)
    if not scales.edges:
        alone = tuple(sign / c.positive for c, sign in zip(coders, signs, strict=True))
        yield Blank((one, one), None, alone)
        return
    cuts = {one, 2 * one}
    for coder in coders:
        d = coder.positive
        cuts |= {d * edge for edge in scales.edges_between(1 / d, 2 / d)}
    for low, high in pairwise(sorted(cuts)):
        yield from _on_a_tie(coders, scales, signs, low)
        stored = tuple(
            sign * scales.above(low / c.positive, c.step)
            for c, sign in zip(coders, signs, strict=True)
        )
        yield Blank((low, high), None, stored)


def _on_a_tie(
    coders: Sequence[Coder], scales: Scales, signs: Sequence[int], peak: Fraction
) -> Iterator[Blank]:
    """Boxes of one peak where several trials' scales lie on an edge, and round apart.

    Where all round alike, the boxes below and above have the block already.
    """
    found = set()
    for turn in range(len(scales.taken)):
        pairs = [(peak / c.positive, c.step) for c in coders]
        stored = [scales.at(asked, step, turn) for asked, step in pairs]
        above = [scales.above(asked, step) for asked, step in pairs]
        tied = [s for s, a, (asked, _) in zip(stored, above, pairs, strict=True) if s != a]
        if tied and len(tied) < sum(_is_edge(scales, asked) for asked, _ in pairs):
            found.add(tuple(sign * s for sign, s in zip(signs, stored, strict=True)))
    for mixed in sorted(found):
        yield Blank((peak, peak), None, mixed)


def _is_edge(scales: Scales, asked: Fraction) -> bool:
    shift = Fraction(2) ** floor_log2(asked / scales.edges[0])
    return asked / shift in scales.edges


def _two_peaks(
    coders: Sequence[Coder], scales: Scales, signs: Sequence[int], end: int
) -> Iterator[Blank]:
    """Boxes where the peak on side ``end`` is the absmax."""
    one = Fraction(1)
    near = [c.reach(end) for c in coders]
    far = [c.reach(-end) for c in coders]
    cuts = {one, 2 * one}
    for d in near:
        cuts |= {d * edge for edge in scales.edges_between(1 / d, 2 / d)}
    for low, high in pairwise(sorted(cuts)):
        marks = {Fraction(0), high}
        for d, e in zip(near, far, strict=True):
            marks |= {e * edge for edge in scales.edges_between(low / d, high / e)}
        for bottom, top in pairwise(sorted(m for m in marks if m <= high)):
            stored = tuple(
                sign * scales.above(max(low / d, bottom / e), c.step)
                for c, sign, d, e in zip(coders, signs, near, far, strict=True)
            )
            first, second = (low, high), (bottom, top)
            yield Blank(*((first, second) if end > 0 else (second, first)), stored)


def nearest(values: Sequence[Fraction], x: Fraction) -> Fraction:
    """The distance from x to the nearest of ascending values."""
    index = bisect_left(values, x)
    return min(abs(x - v) for v in values[max(0, index - 1) : index + 1])
