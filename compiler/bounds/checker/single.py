"""Checks of what one trial is bounded by: every piece of an element's error, every block corner.

Lengths are in units of the stored scale s, so that a block asks for the ratio u; under ``codes
wanted`` in units of the asked scale, so that v decodes to v / u.

An element's error over what the measure divides by is a quotient of two linear functions of x
between the places where it or its divisor turns: at the value itself and where |x| passes the
floor. Such a quotient is monotone, so its largest value lies at one of these or at an end. As
for u: the floor u * d makes the quotient fall as u grows, while more elements come into reach.
The least u and the largest reach therefore bound every u between, and where v / u is what is
decoded, |x - v / u| is convex in 1 / u, so that the two ends of an interval do.

A block's squared error over absmax^2 is, in 1 / A for fixed u and in 1 / u for A in a fixed
proportion to u, or fixed, a sum of squares of linear functions and of constants times squares
as long as no element crosses a turn. A convex function is largest at an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ...format import Format
from .reading import Node
from .words import Coding, Span, codings, ratios

ONE, ZERO = Fraction(1), Fraction(0)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a cell must say, and the largest of its heights."""

    trial: int
    ratio: Fraction
    value: Fraction
    start: Fraction
    stop: Fraction
    floor: Fraction
    points: tuple[tuple[Fraction, Fraction], ...]

    @property
    def most(self) -> Fraction:
        """The largest error of the piece."""
        return max(height for _, height in self.points)


@dataclass(frozen=True, slots=True)
class Vertex:
    """What a corner must say."""

    trial: int
    ratio: Fraction
    end: int
    absmax: Fraction
    at: Fraction
    most: Fraction
    driver: Fraction
    height: Fraction


def element_count(fmt: Format) -> int | None:
    """How many elements a block has at most; None where there is no limit."""
    return fmt.block * fmt.tile if fmt.extent == "block" else None


# -- elements ------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def pieces(fmt: Format, measure: str, regime: str, kind: str) -> tuple[Piece, ...]:
    """Every piece of one measure of elements, in order."""
    return tuple(
        piece
        for trial, coding in enumerate(codings(fmt))
        for low, high in ratios(fmt, regime, coding.step)
        for piece in _of_ratios(fmt, trial, coding, (low, high), measure, kind)
    )


def _of_ratios(
    fmt: Format, trial: int, coding: Coding, span: Span, measure: str, kind: str
) -> Iterator[Piece]:
    low, high = span
    near = min(coding.divisor(side) for side in coding.sides)
    if fmt.scale.codes == "wanted":
        for ratio in (low, high) if low < high else (low,):
            areas = _areas(fmt, coding, (ONE, ONE), measure, kind)
            yield from _cut(coding, areas, measure, kind, (trial, ratio, ratio, near))
    else:
        areas = _areas(fmt, coding, span, measure, kind)
        yield from _cut(coding, areas, measure, kind, (trial, low, ONE, low * near))


def _areas(fmt: Format, coding: Coding, span: Span, measure: str, kind: str) -> tuple[Span, ...]:
    """Where the elements may lie that a measure and a kind speak of, ascending."""
    least, reach = span
    outer = (-reach * coding.down, reach * coding.up)
    areas = [outer]
    if element_count(fmt) == 1:  # the one element decides the scale itself
        areas = [_mirrored(least * d, reach * d, side) for side, d in _deciding(coding)]
        if not least and len(areas) == 2:
            areas = [outer]
    low, high = coding.values[0], coding.values[-1]
    limits = [(low, high)] if kind == "rounding" else [(outer[0], low), (high, outer[1])]
    if measure == "self":
        tiny = min(abs(v) for v in coding.values if v)
        limits = [s for a, b in limits for s in ((a, min(b, -tiny)), (max(a, tiny), b))]
    shared = ((max(a, c), min(b, d)) for a, b in areas for c, d in limits)
    if kind == "rounding":
        return tuple(sorted({(a, b) for a, b in shared if a <= b}))
    # Beyond the grid: more than its end alone.
    return tuple(sorted({(a, b) for a, b in shared if a <= b and (a < low or b > high)}))


def _deciding(coding: Coding) -> list[tuple[int, Fraction]]:
    return [(side, coding.divisor(side)) for side in coding.sides]


def _mirrored(low: Fraction, high: Fraction, side: int) -> Span:
    return (low, high) if side > 0 else (-high, -low)


def _cut(
    coding: Coding,
    areas: Iterable[Span],
    measure: str,
    kind: str,
    known: tuple[int, Fraction, Fraction, Fraction],
) -> Iterator[Piece]:
    """The areas, cut where the code turns, value after value."""
    trial, ratio, unit, floor = known
    for index, value in enumerate(coding.values):
        begin, end = coding.span(index)
        for a, b in areas:
            start = a if begin is None else max(a, begin)
            stop = b if end is None else min(b, end)
            inside = kind == "rounding" or a == b
            if start < stop or (start == stop and inside):
                yield _piece(measure, trial, ratio, value / unit, (start, stop), floor)


def _piece(
    measure: str, trial: int, ratio: Fraction, value: Fraction, ends: Span, floor: Fraction
) -> Piece:
    start, stop = ends
    turns = {t for t in (value, -floor, floor) if start < t < stop}
    points = tuple((y, _share(measure, y, value, floor)) for y in sorted({start, stop} | turns))
    return Piece(trial, ratio, value, start, stop, floor, points)


def _share(measure: str, y: Fraction, value: Fraction, floor: Fraction) -> Fraction:
    """The error of y over what the measure divides by."""
    whole = {"absmax": max(y, -y, floor), "self": max(y, -y)}.get(measure, ONE)
    return max(y - value, value - y) / whole


def check_cells(node: Node, expected: tuple[Piece, ...]) -> None:
    """Whether the cells are these: none is left out, moved or changed."""
    for cell, piece in zip(node.items(len(expected)), expected, strict=True):
        fields = cell.record("trial", "ratio", "value", "start", "stop", "floor", "points")
        fields["trial"].holds(piece.trial)
        for name in ("ratio", "value", "start", "stop", "floor"):
            fields[name].equals(getattr(piece, name))
        for point, pair in zip(
            fields["points"].items(len(piece.points)), piece.points, strict=True
        ):
            point.all_equal(pair)


# -- blocks --------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def vertices(fmt: Format, regime: str) -> tuple[Vertex, ...]:
    """Every corner of the sum of squares of a block of a format with one trial, in order."""
    (coding,) = codings(fmt)
    wanted = fmt.scale.codes == "wanted"
    found = []
    for low, high in ratios(fmt, regime, coding.step):
        for side in coding.sides:
            for ratio in [*sorted({low, high})] if wanted else _ratios(coding, low, high):
                reach, unit = (ONE, ratio) if wanted else (ratio, ONE)
                for absmax in _peaks(coding, side, reach):
                    found.append(_vertex(fmt, coding, side, (ratio, reach, unit), absmax))
    return tuple(found)


def _ratios(coding: Coding, low: Fraction, high: Fraction) -> list[Fraction]:
    """The ends of an interval, and where the end of a side's reach is a turn of the code."""
    turns = {
        turn / d
        for turn in coding.turns
        for d in (coding.up, -coding.up, coding.down, -coding.down)
        if d
    }
    return sorted({low, high} | {turn for turn in turns if low < turn < high})


def _peaks(coding: Coding, side: int, reach: Fraction) -> list[Fraction]:
    """The least and the largest absmax of a block whose scale a side decides, and turns between."""
    least = reach * coding.divisor(side)
    most = reach * max(coding.up, coding.down)
    between = {t for turn in coding.turns for t in (turn, -turn) if least < t < most}
    return sorted({least, most} | between)


def _vertex(
    fmt: Format,
    coding: Coding,
    side: int,
    where: tuple[Fraction, Fraction, Fraction],
    absmax: Fraction,
) -> Vertex:
    ratio, reach, unit = where
    low, high = -min(absmax, reach * coding.down), min(absmax, reach * coding.up)
    places = sorted({low, high} | {turn for turn in coding.turns if low < turn < high})
    at, most = low, ZERO
    for place in places:  # the last of several
        worst = coding.worst(place, unit)
        if worst >= most:
            at, most = place, worst
    driver = coding.worst(side * reach * coding.divisor(side), unit)
    count = element_count(fmt)
    total = most if count is None else most * (count - 1) + driver
    return Vertex(0, ratio, side, absmax, at, most, driver, total / (absmax * absmax))


def check_corners(node: Node, expected: tuple[Vertex, ...]) -> None:
    """Whether the corners are these."""
    for corner, vertex in zip(node.items(len(expected)), expected, strict=True):
        fields = corner.record("trial", "ratio", "end", "absmax", "at", "most", "driver", "height")
        fields["trial"].holds(vertex.trial)
        fields["end"].holds(vertex.end)
        for name in ("ratio", "absmax", "at", "most", "driver", "height"):
            fields[name].equals(getattr(vertex, name))
