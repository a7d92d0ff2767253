"""Suprema of a block's errors where one trial encodes it: exact, cell by cell.

All lengths are in units of the stored scale, s = 1, so that the asked scale is the ratio u. An
element x lies within u times the divisor of its side, and the block's absmax is at least
u * floor and at least |x|. Over x the objective |x - v| / max(|x|, u * floor) is monotone
between v, the ends of the piece and where |x| passes the floor; over u it never rises, except
that a larger u reaches further. So the least u counts, and the largest reach.

Where codes are chosen under the asked scale (``codes wanted``), y = x / u is what is rounded,
and the objective |y - v / u| / max(|y|, floor) is monotone in u: both ends count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from ..format import Format
from .coder import Coder
from .proof import Cell, Corner, Statement
from .slack import block_slack, element_count, slack
from .words import LEAST, NORMAL, SUBNORMAL, Ratios, ratios_of, words_of

ROUNDING, CLIPPING, ANY = "rounding", "clipping", "any"


def element_cells(
    fmt: Format, trial: int, coder: Coder, ratios: Iterable[Ratios], measure: str, kind: str
) -> tuple[Cell, ...]:
    """The pieces of one measure: one for every value, interval of ratios and part of reach.

    Args:
        fmt: the format.
        trial: the index of the trial.
        coder: how it encodes.
        ratios: the intervals of asked / stored.
        measure: ``absmax``, ``scale``, ``self`` or ``least``.
        kind: ``rounding`` or ``clipping``.
    """
    wanted = fmt.scale.codes == "wanted"
    alone = is_alone(fmt)
    found = []
    for span in ratios:
        for ratio in dict.fromkeys((span.low, span.high)) if wanted else (span.low,):
            unit = ratio if wanted else Fraction(1)
            reach = Fraction(1) if wanted else span.high
            floor = coder.floor if wanted else ratio * coder.floor
            least = (ratio if not wanted else reach) if alone else None
            for value, start, stop in _pieces(coder, reach, kind, measure, least):
                found.append(_cell(measure, trial, ratio, value / unit, start, stop, floor))
    return tuple(found)


def is_alone(fmt: Format) -> bool:
    """Whether a block is one element, which then decides its own scale."""
    return element_count(fmt) == 1


def _pieces(
    coder: Coder, reach: Fraction, kind: str, measure: str, least: Fraction | None
) -> Iterator[tuple[Fraction, Fraction, Fraction]]:
    """Value, start and stop of every piece within reach, cut at the ends of the grid.

    Where a block is one element (``least`` is its least asked scale), it lies at an end.
    """
    areas = [(-reach * coder.negative, reach * coder.positive)]
    if least is not None and (least or len(coder.ends) == 1):
        areas = []
        for end in coder.ends:
            low, high = least * coder.reach(end), reach * coder.reach(end)
            areas.append((low, high) if end > 0 else (-high, -low))
    spans = {
        (max(a, c), min(b, d)) for a, b in areas for c, d in _limits(coder, areas, kind, measure)
    }
    low, high = coder.values[0], coder.values[-1]
    for i, value in enumerate(coder.values):
        for a, b in sorted(spans):
            start = a if i == 0 else max(a, coder.edges[i - 1])
            stop = b if i == len(coder.edges) else min(b, coder.edges[i])
            point = start == stop and (kind == ROUNDING or (a == b and (a < low or b > high)))
            if a <= b and (start < stop or point):
                yield value, start, stop


def _limits(
    coder: Coder, areas: Sequence[tuple[Fraction, Fraction]], kind: str, measure: str
) -> list[tuple[Fraction, Fraction]]:
    """Between which ends elements lie that a kind and a measure speak of."""
    low, high = coder.values[0], coder.values[-1]
    limits = [(low, high)]
    if kind == CLIPPING:
        limits = [(min(a for a, _ in areas), low), (high, max(b for _, b in areas))]
    if measure == "self":
        least = min(abs(v) for v in coder.values if v)
        limits = [s for a, b in limits for s in ((a, min(b, -least)), (max(a, least), b))]
    return limits


def _cell(
    measure: str,
    trial: int,
    ratio: Fraction,
    value: Fraction,
    start: Fraction,
    stop: Fraction,
    floor: Fraction,
) -> Cell:
    inside = [p for p in (value, floor, -floor) if start < p < stop]
    points = sorted({start, stop, *inside})
    return Cell(
        trial,
        ratio,
        value,
        start,
        stop,
        floor,
        tuple((p, objective(measure, p, value, floor)) for p in points),
    )


def objective(measure: str, y: Fraction, value: Fraction, floor: Fraction) -> Fraction:
    """The error of y, which is decoded to ``value``, over what the measure divides by."""
    error = abs(y - value)
    match measure:
        case "absmax":
            return error / max(abs(y), floor)
        case "self":
            return error / abs(y)
        case _:
            return error


def block_corners(
    fmt: Format, trial: int, coder: Coder, ratios: Iterable[Ratios]
) -> tuple[Corner, ...]:
    """The critical points of the sum of squares of a block over absmax^2.

    Between two neighbouring kinks the sum is convex in 1 / u, so that only kinks and the ends
    of the ratios count.
    """
    wanted = fmt.scale.codes == "wanted"
    count = element_count(fmt)
    found = []
    for span in ratios:
        for end in coder.ends:
            for ratio in _critical_ratios(coder, span, wanted):
                for absmax in _critical_maxima(coder, ratio, end, wanted):
                    found.append(_corner(trial, coder, ratio, end, absmax, count, wanted))
    return tuple(found)


def _critical_ratios(coder: Coder, span: Ratios, wanted: bool) -> list[Fraction]:
    if wanted:
        return sorted({span.low, span.high})
    kinks = {abs(edge) / coder.reach(side) for edge in coder.edges for side in coder_sides(coder)}
    return sorted({span.low, span.high, *(k for k in kinks if span.low < k < span.high)})


def coder_sides(coder: Coder) -> tuple[int, ...]:
    """The sides whose elements have a limit."""
    return tuple(side for side in (1, -1) if coder.reach(side))


def _critical_maxima(coder: Coder, ratio: Fraction, end: int, wanted: bool) -> list[Fraction]:
    unit = Fraction(1) if wanted else ratio
    least = unit * coder.reach(end)
    most = unit * max(coder.positive, coder.negative)
    kinks = {abs(edge) for edge in coder.edges if least < abs(edge) <= most}
    return sorted({least, most, *kinks})


def _corner(
    trial: int,
    coder: Coder,
    ratio: Fraction,
    end: int,
    absmax: Fraction,
    count: int | None,
    wanted: bool,
) -> Corner:
    unit, reach = (ratio, Fraction(1)) if wanted else (Fraction(1), ratio)

    def squared(y: Fraction) -> Fraction:
        return max((y - value / unit) ** 2 for value in coder.nearest(y))

    top = min(absmax, reach * coder.positive)
    bottom = -min(absmax, reach * coder.negative)
    places = [bottom, top, *(edge for edge in coder.edges if bottom < edge < top)]
    at = max(places, key=lambda y: (squared(y), y))
    driver = squared(end * reach * coder.reach(end))
    most = squared(at)
    height = most if count is None else (count - 1) * most + driver
    return Corner(trial, ratio, end, absmax, at, most, driver, height / absmax**2)


def element_statements(fmt: Format, coders: Sequence[Coder]) -> Iterator[Statement]:
    """What one element may lose, at worst, whichever trial its block takes.

    Of several trials the worst may never be the best for a block: the bound is then one, but not
    surely the least.
    """
    for regime in (NORMAL, SUBNORMAL):
        spans = [ratios_of(fmt, regime, coder.step) for coder in coders]
        for measure, kinds in _MEASURES[regime]:
            for kind in kinds:
                cells = _all_cells(fmt, coders, spans, measure, kind)
                if cells:
                    found = element_statement(fmt, measure, regime, kind, cells)
                    yield replace(found, tight=len(coders) == 1)
    yield from _least(fmt, coders)


#: What is stated of the elements of each regime.
_MEASURES = {
    NORMAL: (
        ("absmax", (ROUNDING, CLIPPING)),
        ("scale", (ROUNDING, CLIPPING)),
        ("self", (ROUNDING,)),
    ),
    SUBNORMAL: (("absmax", (ROUNDING, CLIPPING)),),
}


def _all_cells(
    fmt: Format,
    coders: Sequence[Coder],
    spans: Sequence[tuple[Ratios, ...]],
    measure: str,
    kind: str,
) -> tuple[Cell, ...]:
    return tuple(
        cell
        for trial, coder in enumerate(coders)
        for cell in element_cells(fmt, trial, coder, spans[trial], measure, kind)
    )


def block_statements(fmt: Format, coder: Coder) -> Iterator[Statement]:
    """What a block of a format with one trial may lose: squared errors over absmax^2."""
    for regime in (NORMAL, SUBNORMAL):
        ratios = ratios_of(fmt, regime, coder.step)
        if ratios:
            corners = block_corners(fmt, 0, coder, ratios)
            bound = max(corner.height for corner in corners)
            more = block_slack(fmt, bound)
            yield Statement("block", regime, ANY, bound, more, corners=corners)


def element_statement(
    fmt: Format, measure: str, regime: str, kind: str, cells: tuple[Cell, ...]
) -> Statement:
    """The statement that the largest of some cells makes."""
    bound = max(cell.most for cell in cells)
    return Statement(measure, regime, kind, bound, slack(fmt, measure, bound), cells=cells)


def _least(fmt: Format, coders: Sequence[Coder]) -> Iterator[Statement]:
    """Blocks that ask for less than the least stored scale takes."""
    wanted = fmt.scale.codes == "wanted"
    spans = [ratios_of(fmt, LEAST, coder.step) for coder in coders]
    if wanted and any(not span.low for found in spans for span in found):
        return  # next to what is asked for, the least scale has no limit
    cells = _all_cells(fmt, coders, spans, "least", ROUNDING)
    cells += _all_cells(fmt, coders, spans, "least", CLIPPING)
    if not cells:
        return
    first = words_of(fmt)[0]
    bound = max(cell.most for cell in cells)
    if first.low:
        # Smaller blocks are stored as zero: an element is its own error.
        reach = max(max(coder.positive, coder.negative) for coder in coders)
        # The unit is the asked scale where codes are chosen under it.
        bound = max(bound, reach if wanted else first.low / first.value * reach)
    more = slack(fmt, "least", bound)
    tight = len(coders) == 1
    yield Statement("least", LEAST, ANY, bound, more, tight, cells=cells)
