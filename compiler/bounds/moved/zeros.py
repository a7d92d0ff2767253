"""Worst-case errors of formats whose zero is moved, or whose scales have a format of their own.

Under a zero point the unit is the scale that codes are chosen under. A block spans D steps
between its least element -b and its largest c (zero counts as an element); j, the integer nearest
to b, becomes the zero point, and codes mean the integers -j to D - j. So errors are those of a
grid of integers through a window of D steps, and the block's absmax max(b, c) is at least D / 2:

* rounding: |y - k| / max(|y|, D / 2), one ``Cell`` for every integer k from 0 to D. Any y with
  absmax as near to max(|y|, D / 2) as is wanted occurs, so that nothing is given away.
  Mirrored blocks have mirrored errors;
* clipping: c lies at most half a step beyond D - j, since b lies at most that far below j.

With ``codes wanted``, k is decoded as k / u, u = asked / stored, and the span stays D; the
error is convex in 1 / u. Otherwise the span is u D while the codes still cover D, and everything
is a ratio of affine functions of u between the ratios n / D at which a code comes or goes.

A block's sum of squares over absmax^2 is convex in 1 / absmax and b / absmax as long as j and
the codes of both ends stay the same: half-integers, the ends of b and b = c are critical.

Minima and inner formats are in ``minima`` and ``shares``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor

from ...format import Format
from ..coder import coders_of
from ..proof import Cell, Statement
from ..single import ANY, CLIPPING, ROUNDING, objective
from ..slack import element_count
from ..words import LEAST, NORMAL, SUBNORMAL, Ratios, ratios_of, words_of
from .minima import is_served, piece_statements
from .points import Window
from .shares import share_statements
from .slack import moved_block_slack, moved_slack

HALF = Fraction(1, 2)


def moved_statements(fmt: Format) -> Iterator[Statement]:
    """All that is proven of a format with a zero, or whose scales have a format of their own.

    Nothing, where that inner format has a zero or an inner format itself, or where a minimum's
    word, which has a range of its own, meets scales under a second level.
    """
    if not is_served(fmt):
        return
    if fmt.zero is None:
        yield from share_statements(fmt)
    elif fmt.zero.kind == "minimum" or fmt.scale.stored is not None:
        yield from piece_statements(fmt)
    else:
        yield from _point_statements(fmt)
    yield from _zero_statement(fmt)


def _zero_statement(fmt: Format) -> Iterator[Statement]:
    """All-zero blocks stay zero where zero is a value and their scale and minimum keep zero."""
    zero = fmt.zero
    point = zero is not None and zero.kind == "point"
    kept = zero is None or point or (zero.stored is None)
    if kept and (point or all(0 in grid.values for grid in fmt.grids)):
        yield Statement("zero", "zero", ANY, Fraction(0), Fraction(0))


# -- zero points ---------------------------------------------------------------------------


def _point_statements(fmt: Format) -> Iterator[Statement]:
    spans = sorted({coder.positive for coder in coders_of(fmt)})
    plan = {
        NORMAL: (
            ("absmax", (ROUNDING, CLIPPING)),
            ("scale", (ROUNDING, CLIPPING)),
            ("self", (ROUNDING,)),
        ),
        SUBNORMAL: (("absmax", (ROUNDING, CLIPPING)),),
    }
    for regime, measures in plan.items():
        ratios = ratios_of(fmt, regime)
        if not ratios:
            continue
        for measure, kinds in measures:
            for kind in kinds:
                cells = _cells(fmt, spans, ratios, measure, kind)
                bound = max(cell.most for cell in cells)
                more = moved_slack(fmt, measure, bound)
                yield Statement(measure, regime, kind, bound, more, cells=cells)
        yield _block(fmt, spans, ratios, regime)
    yield from _least(fmt, spans)


def _cells(
    fmt: Format,
    spans: list[Fraction],
    ratios: tuple[Ratios, ...],
    measure: str,
    kind: str,
) -> tuple[Cell, ...]:
    wanted = fmt.scale.codes == "wanted"
    found: list[Cell] = []
    for trial, span in enumerate(spans):
        for range_ in ratios:
            if kind == ROUNDING and not wanted:
                found += _rounding(measure, trial, span, range_.low, range_.high)
                continue
            for ratio in critical_ratios(range_, span, wanted):
                if kind == CLIPPING:
                    found += _clipping(measure, trial, span, ratio, wanted)
                else:
                    found += _rounding(measure, trial, span, ratio, None)
    return tuple(found)


def critical_ratios(span: Ratios, steps: Fraction, wanted: bool) -> list[Fraction]:
    """The ends of an interval of ratios, and where a code comes or goes."""
    found = {span.low, span.high}
    if not wanted:
        inside = range(ceil(span.low * steps), floor(span.high * steps) + 1)
        found |= {n / steps for n in inside}
    return sorted(found)


def _rounding(
    measure: str, trial: int, span: Fraction, ratio: Fraction, reach: Fraction | None
) -> Iterator[Cell]:
    """Elements at 0 and above that lie between the codes; ``reach`` None: codes are wanted."""
    unit = ratio if reach is None else Fraction(1)
    limit = span if reach is None else min(span, reach * span)
    least = span / 2 if reach is None else ratio * span / 2
    within = Fraction(1) if measure == "self" else Fraction(0)
    for k in range(int(span) + 1):
        start, stop = max(k - HALF, within), min(k + HALF, limit)
        if start <= stop:
            yield _cell(measure, trial, ratio, k / unit, start, stop, least)


def _clipping(
    measure: str, trial: int, span: Fraction, ratio: Fraction, wanted: bool
) -> Iterator[Cell]:
    """The largest element, beyond the last code D - j = k."""
    unit, whole = (ratio, span) if wanted else (Fraction(1), ratio * span)
    for k in range(int(span) + 1):
        stop = min(k + HALF + whole - span, whole)
        if stop >= k:
            least = max(whole / 2, whole - stop)
            yield _cell(measure, trial, ratio, k / unit, Fraction(k), stop, least)


def _cell(
    measure: str,
    trial: int,
    ratio: Fraction,
    value: Fraction,
    start: Fraction,
    stop: Fraction,
    least: Fraction,
) -> Cell:
    inside = [p for p in (value, least) if start < p < stop]
    points = tuple((p, objective(measure, p, value, least)) for p in sorted({start, stop, *inside}))
    return Cell(trial, ratio, value, start, stop, least, points)


def _least(fmt: Format, spans: list[Fraction]) -> Iterator[Statement]:
    """Blocks under the least stored scale, or under one that is stored as zero, in its units."""
    first = next(iter(words_of(fmt)), None)
    if first is None or first.high is None:
        return
    wanted = fmt.scale.codes == "wanted"
    low, high = first.low / first.value, first.high / first.value
    cells: list[Cell] = []
    for trial, span in enumerate(spans):
        for ratio in critical_ratios(Ratios(low, high), span, wanted) if low else [low, high]:
            pieces = [*_rounding("scale", trial, span, ratio, None if wanted else high)]
            pieces += _clipping("scale", trial, span, ratio, wanted)
            cells += [_scaled(cell, ratio if wanted else Fraction(1)) for cell in pieces]
    # Smaller blocks are stored as zero: an element is its own error.
    bound = max([*(cell.most for cell in cells), low * max(spans)])
    more = moved_slack(fmt, "least", bound)
    yield Statement("least", LEAST, ANY, bound, more, cells=tuple(cells))


def _scaled(cell: Cell, unit: Fraction) -> Cell:
    """The same piece in units of the stored scale."""
    return replace(
        cell,
        value=cell.value * unit,
        start=cell.start * unit,
        stop=cell.stop * unit,
        floor=cell.floor * unit,
        points=tuple((y * unit, height * unit) for y, height in cell.points),
    )


def _block(
    fmt: Format, spans: list[Fraction], ratios: tuple[Ratios, ...], regime: str
) -> Statement:
    wanted = fmt.scale.codes == "wanted"
    count = element_count(fmt)
    windows = []
    for trial, span in enumerate(spans):
        for range_ in ratios:
            for ratio in critical_ratios(range_, span, wanted):
                whole = span if wanted else ratio * span
                for below in range(int(span) + 1):
                    found = [
                        _window(count, trial, ratio, int(span), below, whole - b, wanted)
                        for b in _least_elements(below, span, whole)
                    ]
                    if found:
                        windows.append(max(found, key=lambda w: w.height))
    bound = max(window.height for window in windows)
    more = moved_block_slack(count or 1, bound)
    tight = len(spans) == 1
    return Statement("block", regime, ANY, bound, more, tight, moved=tuple(windows))


def _least_elements(below: int, span: Fraction, whole: Fraction) -> list[Fraction]:
    """The critical b = -(least element) that become ``below`` codes below zero."""
    low, high = max(below - HALF, Fraction(0)), min(below + HALF, whole)
    if below == span:
        high = whole
    steps = range(ceil(whole - high - HALF), floor(whole - low + HALF) + 1)
    places = {low, high, whole / 2, *(whole - n - HALF for n in steps)}
    return sorted(b for b in places if low <= b <= high)


def _window(
    count: int | None,
    trial: int,
    ratio: Fraction,
    span: int,
    below: int,
    largest: Fraction,
    wanted: bool,
) -> Window:
    unit, whole = (ratio, Fraction(span)) if wanted else (Fraction(1), ratio * span)
    least = whole - largest
    first, last = -below, span - below

    def squared(y: Fraction) -> Fraction:
        near = {min(max(k, first), last) for k in (ceil(y - HALF), floor(y + HALF))}
        return max((y - k / unit) ** 2 for k in near)

    top, bottom = squared(largest), squared(-least)
    # The error at an edge is convex in k: the outermost edges that elements reach count.
    low_edge = max(first, ceil(-least - HALF)) + HALF
    high_edge = min(last - 1, floor(largest - HALF)) + HALF
    edges = [squared(edge) for edge in (low_edge, high_edge) if -least <= edge <= largest]
    most = max([top, bottom, *edges])
    absmax = max(least, largest)
    drivers = (largest > 0) + (least > 0)
    ends = [error for error, there in ((top, largest > 0), (bottom, least > 0)) if there]
    total = most if count is None else max(count - drivers, 0) * most + sum(ends[:count])
    return Window(
        trial, ratio, below, largest, absmax, most, top, bottom, drivers, total / absmax**2
    )
