"""Checks of the least squared error of a block over several trials.

The proof cuts the peaks of a block into boxes. In each every trial has one scale; weights of sum
1 bound the least of the trials' errors by their mean, and prices account for how many elements
lie in an interval. All that is chosen is read from the proof, and all that follows is worked
out here: that every block is in a box with its scales, and how large the mean can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from ...exact import floor_log2
from ...format import Format
from .reading import Node
from .single import element_count
from .words import (
    Span,
    Stored,
    codings,
    is_binary32,
    regular_word,
    stored_scales,
)

ONE, TWO, ZERO = Fraction(1), Fraction(2), Fraction(0)


# -- which blocks --------------------------------------------------------------------------


def has_boxes(fmt: Format) -> bool:
    """Whether a block's least error is to be stated.

    Blocks have a limit, codes are nearest under the stored scale, errors are chosen by as they
    are, and the word's table goes on in the same way for a binade at least; or scales are what
    is asked, and the absmax decides.
    """
    nearest = fmt.scale.codes == "stored" and fmt.policies.offset is None
    plain = fmt.policies.error == "squared" and not fmt.scale.search
    if element_count(fmt) is None or not nearest or not plain:
        return False
    return one_peak(fmt) if is_binary32(fmt) else _binade(fmt) is not None


def one_peak(fmt: Format) -> bool:
    """Whether the absmax alone decides every trial's scale."""
    return fmt.scale.rule == "argmax" or all(c.up == c.down for c in codings(fmt))


@lru_cache(maxsize=64)
def _binade(fmt: Format) -> tuple[Stored, ...] | None:
    """A whole binade of words, behind the first, that is asked for like the next one."""
    normal = [w for w in stored_scales(fmt) if w.regime == "normal"]
    firsts = [i for i, w in enumerate(normal) if _is_power(w.value)]
    for i, j in pairwise(firsts[1:]):
        low, after = normal[i].low, normal[j].low
        if low and after == 2 * low:
            return tuple(normal[i:j])
    return None


def _is_power(value: Fraction) -> bool:
    return value == TWO ** floor_log2(value)


def regular_domain(fmt: Format) -> Span | None:
    """From which absmax on and to which a block is like those in the boxes."""
    if is_binary32(fmt):
        return None
    trials, scales = codings(fmt), stored_scales(fmt)
    normal = [w.value for w in scales if w.regime == "normal"]
    divisors = [d for c in trials for d in (c.up, c.down) if d]
    far = max(abs(c.step) for c in trials) + 1
    up = max(0, *(c.step for c in trials)) + 1
    low = 2 * max(divisors) * normal[min(far, len(normal) - 1)]
    return low, min(divisors) * min(_asked_from(scales)[-up:])


def _asked_from(scales: Sequence[Stored]) -> list[Fraction]:
    """From which scale on each word or a larger one is stored."""
    found: list[Fraction] = []
    after: Fraction | None = None
    for word in reversed(scales):
        low = word.low if word.low is not None else after
        after = 2 * word.value if low is None else low
        found.append(after)
    return found[::-1]


def _marks(fmt: Format, side: int) -> set[Fraction]:
    """Every peak of a side up to 2 at which a trial's word may change.

    Where the larger peak is 1 at least, a scale of at least 1 / (the larger divisor) is asked.
    """
    if is_binary32(fmt):
        return set()
    lows = {w.low for w in _binade(fmt) or () if w.low is not None}
    turns = {low / TWO ** floor_log2(low) for low in lows}
    found = set()
    for coding in codings(fmt):
        d = coding.divisor(side)
        first = floor_log2(1 / max(coding.up, coding.down)) - 1
        for exponent in range(first, floor_log2(TWO / d) + 1):
            found |= {turn * TWO**exponent * d for turn in turns}
    return {mark for mark in found if mark <= 2}


# -- boxes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Area:
    """A box as it is read: its peaks, and every trial's scale."""

    up: Span
    down: Span | None
    scales: tuple[Fraction, ...]


def check_boxes(fmt: Format, node: Node) -> Fraction:
    """The largest height of boxes that cover every block, each checked."""
    trials = codings(fmt)
    found: list[tuple[Node, Area]] = []
    bound: Fraction | None = None
    for item in node.items():
        fields = item.record("positive", "negative", "scales", "tree")
        down = None if fields["negative"].value is None else fields["negative"].interval()
        if (down is None) != one_peak(fmt):
            fields["negative"].reject(
                "should be null: the absmax decides" if down else "should be an interval"
            )
        scales = tuple(s.number() for s in fields["scales"].items(len(trials)))
        area = Area(fields["positive"].interval(), down, scales)
        _check_area(fields, area)
        height = _Tree(fmt, fields, area).height(fields["tree"])
        bound = height if bound is None else max(bound, height)
        found.append((item, area))
    if bound is None:
        node.reject("is empty, and should cover every block")
    _check_cover(fmt, node, found)
    return bound


def _check_area(fields: dict[str, Node], area: Area) -> None:
    for name, span in (("positive", area.up), ("negative", area.down)):
        if span is not None and not 0 <= span[0] <= span[1] <= 2:
            fields[name].reject("leaves the peaks from 0 to 2")
    if max(area.up[1], area.down[1] if area.down else ZERO) < 1:
        fields["positive"].reject("ends below the absmax 1")
    if area.up[0] == 0 and (area.down is None or area.down[0] == 0):
        fields["positive"].reject("holds a block of zeros")


def _check_cover(fmt: Format, node: Node, found: list[tuple[Node, Area]]) -> None:
    """Whether every block is in a box with its scales, and no part of it in two.

    A trial's word changes at marks alone, so that it is the same all over a stratum: a mark or
    an end, or what lies between two neighbours, on either axis.
    """
    if one_peak(fmt):
        _check_row(fmt, node, found)
    else:
        _check_parts(fmt, node, found)
    ups, downs = _axes(fmt, found)
    rows = [(n, _asked(fmt, n, -1)) for n in _strata(downs)]
    for p in _strata(ups):
        words = _asked(fmt, p, 1)
        column = [(item, a) for item, a in found if a.up[0] <= p[0] and p[1] <= a.up[1]]
        doubled = [a for _, a in found if a.up[0] <= 2 * p[0] and 2 * p[1] <= a.up[1]]
        for n, others in rows:
            most = max(p[0] + p[1], n[0] + n[1]) / 2
            if not 1 <= most < 2 and not is_binary32(fmt):
                continue  # as the block of half the size
            near = [(item, a) for item, a in column if _holds(a, n)]
            twice = [a for a in doubled if _holds(a, (2 * n[0], 2 * n[1]))] if most == 1 else []
            for one, other in zip(words, others, strict=True):
                wanted = tuple(
                    c.sign * max(x, y) for c, x, y in zip(codings(fmt), one, other, strict=True)
                )
                inner = p[0] < p[1] and (n[0] < n[1] or one_peak(fmt))
                _check_stratum(node, wanted, near, twice, inner=inner)


def _axes(fmt: Format, found: list[tuple[Node, Area]]) -> tuple[list[Fraction], list[Fraction]]:
    """Every mark and end of both peaks; where the absmax decides, 0 for the other."""
    ups = {e for _, area in found for e in area.up}
    downs = {e for _, area in found if area.down for e in area.down}
    if is_binary32(fmt):
        return sorted(ups), [ZERO]
    ups |= {ONE, TWO} | _marks(fmt, 1)
    if one_peak(fmt):
        return sorted(m for m in ups if m >= 1), [ZERO]
    downs |= {ONE, TWO} | _marks(fmt, -1)
    return sorted(ups | {ZERO}), sorted(downs | {ZERO})


def _strata(marks: Sequence[Fraction]) -> Iterator[Span]:
    for low, high in pairwise(marks):
        yield low, low
        yield low, high
    yield marks[-1], marks[-1]


def _asked(fmt: Format, span: Span, side: int) -> list[tuple[Fraction, ...]]:
    """Every trial's word (0 for none) if the peak of one side in the middle of a span decides.

    Twice where a tie may go either way: a binade of one word alone has an even code or not.
    """
    peak = (span[0] + span[1]) / 2
    either = fmt.scale.word.number.mantissa == 0 and fmt.scale.rounding == "even"
    found = []
    for odd in (False, True) if either else (False,):
        words = []
        for coding in codings(fmt):
            d = coding.divisor(side)
            asked = peak / d if d else ZERO
            plain = is_binary32(fmt) or not asked
            words.append(asked if plain else regular_word(fmt, asked, coding.step, odd))
        found.append(tuple(words))
    return found


def _holds(area: Area, span: Span) -> bool:
    return area.down is None or (area.down[0] <= span[0] and span[1] <= area.down[1])


def _check_stratum(
    node: Node,
    wanted: tuple[Fraction, ...],
    near: list[tuple[Node, Area]],
    twice: list[Area],
    *,
    inner: bool,
) -> None:
    """Whether blocks of a stratum are in a box with their scales.

    Args:
        node: the boxes.
        wanted: the scales.
        near: the boxes that hold the stratum.
        twice: those that hold twice its peaks: a block is as well in a box as twice the block.
        inner: no tie decides: then all boxes that hold it must have these scales.
    """
    for item, area in near:
        if inner and area.scales != wanted:
            Node(f"{item.where}.scales", [str(s) for s in area.scales]).all_equal(wanted)
    if any(a.scales == wanted for _, a in near):
        return
    doubled = tuple(2 * s for s in wanted)
    if not any(a.scales == doubled for a in twice):
        shown = ", ".join(map(str, wanted))
        node.reject(f"none has the blocks that there are with the scales {shown}")


def _check_row(fmt: Format, node: Node, found: list[tuple[Node, Area]]) -> None:
    """Boxes of one peak stand one behind the other from 1 to 2; points may stand between."""
    if is_binary32(fmt):
        node.items(1)
    at = ONE
    for item, area in found:
        if area.up[0] != at:
            Node(f"{item.where}.positive[0]", None).reject(
                f"is {area.up[0]}, and the box before ends at {at}"
            )
        at = area.up[1]
    last = ONE if is_binary32(fmt) else TWO
    if at != last:
        found[-1][0].reject(f"ends at {at}, and should end at {last}")


def _check_parts(fmt: Format, node: Node, found: list[tuple[Node, Area]]) -> None:
    """Boxes of two peaks have the area of the strips that they are cut from.

    A strip lies between two marks of the larger peak, on either side, and reaches to the upper
    one: what covers these with this area overlaps where two strips do, and nowhere else.
    """
    total = ZERO
    for side in (1, -1):
        marks = {ONE, TWO} | _marks(fmt, side)
        total += sum((b - a) * b for a, b in pairwise(sorted(m for m in marks if m >= 1)))
    parts = sum((a.up[1] - a.up[0]) * (a.down[1] - a.down[0]) for _, a in found if a.down)
    if parts != total:
        node.reject(f"have the area {parts}, and should have {total}")


# -- trees ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counted:
    """A split on the way down: at most ``count`` elements in an interval (``few``), or more."""

    start: Fraction
    stop: Fraction
    count: int
    few: bool

    def counts(self, x: Fraction) -> bool:
        """Whether x pays. On an end it does what makes its score larger: all scores then hold."""
        if self.few:
            return self.start < x < self.stop
        return self.start <= x <= self.stop


@dataclass(frozen=True, slots=True)
class _Corner:
    """The peaks of a block at a corner of a box.

    Attributes:
        low, high: between which ends its elements lie.
        drivers: for each element that decides a scale, where it may be.
        absmax: at most that of the block.
    """

    low: Fraction
    high: Fraction
    drivers: tuple[tuple[Fraction, ...], ...]
    absmax: Fraction


class _Tree:
    """What bounds the blocks of one box.

    Let f be the weighted error of an element. Between two turns it is a sum of squares. Of peaks
    p and n, with no turn of the code in the box that either passes, the block loses at most
    f(p) + f(-n) + (g - 2) * max(f(p), f(-n), a constant), which is convex in p and in n, also
    with prices, as long as no counted interval begins or ends where a deciding element passes. So
    the loss lies under the chord from its largest value at one end of the leading peak to that at
    the other, and what is wanted is the most of chord(p) / p^2. A peak whose interval begins at 0
    need not be there at all; it then widens the reach, and the wider one counts.
    """

    def __init__(self, fmt: Format, fields: dict[str, Node], area: Area) -> None:
        self.area = area
        self.trials = codings(fmt)
        self.count = element_count(fmt) or 1
        self.signed = fmt.scale.rule == "argmax"
        self.folded = _is_folded(fmt)
        self.units = tuple(s if self.signed else abs(s) for s in area.scales)
        self.turns = frozenset(
            t * unit for c, unit in zip(self.trials, self.units, strict=True) for t in c.turns
        )
        self.known: dict[Fraction, tuple[Fraction, ...]] = {}
        self.corners = tuple(self._corners())
        for name, low, high in self._passed():
            turn = next((t for t in self.turns if low < t < high), None)
            if turn is not None:
                fields[name].reject(f"passes {turn}, where the code of an element turns")

    def _passed(self) -> list[tuple[str, Fraction, Fraction]]:
        """The intervals of elements that decide a scale, and of those opposite to them."""
        up, down = self.area.up, self.area.down
        found = [("positive", *up)] if up[0] else []
        if down is None:
            return [*found, ("positive", -up[1], -up[0])]
        return [*found, ("negative", -down[1], -down[0])] if down[0] else found

    def _corners(self) -> Iterator[_Corner]:
        up, down = self.area.up, self.area.down
        if down is None:
            for p in sorted(set(up)):
                deciding = (p,) if self.signed or self.folded else (p, -p)
                yield _Corner(ZERO if self.folded else -p, p, (deciding,), p)
            return
        for p in sorted(set(up)):
            for n in sorted(set(down)):
                drivers = [(p,)] if up[0] else []
                drivers += [(-n,)] if down[0] else []
                yield _Corner(-n, p, tuple(drivers), p if up[0] >= down[0] else n)

    def height(self, node: Node, above: tuple[Counted, ...] = ()) -> Fraction:
        """The largest height of the leaves of a tree, each checked."""
        if isinstance(node.value, dict) and "weights" in node.value:
            return self._leaf(node, above)
        fields = node.record("start", "stop", "count", "few", "many")
        start, stop = fields["start"].number(), fields["stop"].number()
        if start > stop:
            fields["start"].reject(f"is above {stop}")
        for _, low, high in self._passed():
            for name, end in (("start", start), ("stop", stop)):
                if low < end < high:
                    fields[name].reject(
                        f"lies between {low} and {high}, where an element decides the scale"
                    )
        count = fields["count"].integer()
        if count >= self.count:
            fields["count"].reject(f"is not below the {self.count} elements of a block")
        branches = (("few", True), ("many", False))
        return max(
            self.height(fields[name], (*above, Counted(start, stop, count, few)))
            for name, few in branches
        )

    def _leaf(self, node: Node, above: tuple[Counted, ...]) -> Fraction:
        fields = node.record("weights", "prices", "most", "drivers", "height")
        weights = [w.number() for w in fields["weights"].items(len(self.trials))]
        prices = [p.number() for p in fields["prices"].items(len(above))]
        if min(weights) < 0 or sum(weights) != 1:
            fields["weights"].reject(f"should be shares of sum 1, and the sum is {sum(weights)}")
        if prices and min(prices) < 0:
            fields["prices"].reject("should not be negative")
        score = _Score(self, weights, tuple(zip(above, prices, strict=True)))
        paid = sum((k * (c.count if c.few else -c.count - 1) for c, k in score.prices), ZERO)
        fields["most"].items(len(self.corners))
        fields["drivers"].items(len(self.corners))
        totals = []
        for i, corner in enumerate(self.corners):
            most = score.most(corner.low, corner.high)
            fields["most"].items()[i].equals(most)
            drivers = [max(score.at(x) for x in where) for where in corner.drivers]
            fields["drivers"].items()[i].all_equal(drivers)
            totals.append(most * (self.count - len(drivers)) + sum(drivers, paid))
        height = _under_the_chord(
            [(corner.absmax, total) for corner, total in zip(self.corners, totals, strict=True)]
        )
        fields["height"].equals(height)
        return height

    def squares(self, x: Fraction) -> tuple[Fraction, ...]:
        """The squared error of x under every trial."""
        if x not in self.known:
            self.known[x] = tuple(
                unit * unit * coding.worst(x / unit)
                for coding, unit in zip(self.trials, self.units, strict=True)
            )
        return self.known[x]


def _under_the_chord(ends: Sequence[tuple[Fraction, Fraction]]) -> Fraction:
    """The most of y / x^2 for points (x, y) on the chord between the highest at either end.

    With x = 1 / w and y = a + b x it is a w^2 + b w, which for a < 0 turns at w = -b / (2 a).
    """
    first, last = min(x for x, _ in ends), max(x for x, _ in ends)
    start, stop = (max(y for x, y in ends if x == end) for end in (first, last))
    heights = [start / first**2, stop / last**2]
    if first < last:
        slope = (stop - start) / (last - first)
        constant = start - slope * first
        if constant < 0 < slope and first < -2 * constant / slope < last:
            heights.append(-slope * slope / (4 * constant))
    return max(heights)


def _is_folded(fmt: Format) -> bool:
    """Whether x loses as much as -x does: one peak counts and every grid is its mirror image.

    Elements are then spoken of by their magnitudes, in what is counted too.
    """
    return one_peak(fmt) and all(
        coding.offset is None and all(-v in coding.values for v in coding.values)
        for coding in codings(fmt)
    )


class _Score:
    """The weighted and priced error of an element."""

    def __init__(
        self,
        tree: _Tree,
        weights: Sequence[Fraction],
        prices: tuple[tuple[Counted, Fraction], ...],
    ) -> None:
        self.tree = tree
        self.weights = tuple((i, weight) for i, weight in enumerate(weights) if weight)
        self.prices = prices
        self.known: dict[Fraction, Fraction] = {}

    def at(self, x: Fraction) -> Fraction:
        """Of one element."""
        if x not in self.known:
            squares = self.tree.squares(x)
            total = sum((weight * squares[i] for i, weight in self.weights), ZERO)
            for counted, price in self.prices:
                if counted.counts(x):
                    total += -price if counted.few else price
            self.known[x] = total
        return self.known[x]

    def most(self, low: Fraction, high: Fraction) -> Fraction:
        """The largest of elements between two ends.

        Between its kinks, which are the turns of every trial's code and the ends of counted
        intervals, the score is a sum of squares and constants, and so convex.
        """
        kinks = {e for c, _ in self.prices for e in (c.start, c.stop)} | self.tree.turns
        return max(self.at(x) for x in {low, high} | {k for k in kinks if low < k < high})
