"""Checks of formats whose elements are moved off zero, or whose scales are stored twice.

All numbers of a statement are worked out here a second time, in plain fractions, and compared.

Under a zero point elements y, in units of the scale that codes are chosen under, reach from -b
to c with b + c a whole number of steps D (times the ratio u where codes see the stored scale).
The zero point is the integer j nearest to b, at most D, and the codes are -j to D - j. An
element between the codes may have any absmax from max(|y|, (b + c) / 2) on; one beyond the last
code, k = D - j, is c itself, and c - k is at most 1/2 + (b + c) - D. What is claimed of negative
elements follows from their mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, isqrt

from ...format import Format
from .moved_inner import Expected, Record, codings, is_checkable, measure_of
from .moved_minima import domain_of, minimum_records
from .moved_shares import can_vanish, is_loose, least_records, share_records
from .reading import Node
from .single import Piece, check_cells, element_count
from .words import ratios, stored_scales

HALF, ONE, ZERO = Fraction(1, 2), Fraction(1), Fraction(0)


@dataclass(frozen=True, slots=True)
class MovedClaim:
    """A statement that a proof must make: measure, regime and kind."""

    name: tuple[str, str, str]


def is_moved(fmt: Format) -> bool:
    """Whether elements are more than a grid value times a scale of a table."""
    return fmt.zero is not None or fmt.scale.stored is not None


def moved_claims(fmt: Format) -> list[MovedClaim]:
    """Every statement to make of such a format, in order."""
    if not is_checkable(fmt):
        return []
    names = _stored_names(fmt)
    if fmt.zero is not None and fmt.zero.kind == "point" and fmt.scale.stored is None:
        names = _point_names(fmt)
    return [MovedClaim(name) for name in names + _zero_names(fmt)]


def check_moved(fmt: Format, fields: dict[str, Node], claim: MovedClaim) -> None:
    """Check one of these statements, its bound and its slack.

    Raises:
        Rejected: a number is not what it should be.
    """
    measure, regime, kind = claim.name
    fields["corners"].items(0)
    fields["boxes"].items(0)
    if measure == "zero":
        fields["cells"].items(0)
        fields["moved"].items(0)
        fields["domain"].holds(None)
        fields["tight"].holds(True)
        fields["bound"].equals(ZERO)
        fields["slack"].equals(ZERO)
        return
    expected = _expected(fmt, measure, regime, kind)
    check_cells(fields["cells"], expected.cells)
    for node, record in zip(
        fields["moved"].items(len(expected.records)), expected.records, strict=True
    ):
        check_record(node, record)
    fields["tight"].holds(False)  # near the supremum, as an input may show, and not surely it
    if expected.domain is None:
        fields["domain"].holds(None)
    else:
        fields["domain"].all_equal(expected.domain)
    fields["bound"].equals(expected.bound)
    fields["slack"].equals(_slack(fmt, measure, expected.bound))


def check_record(node: Node, record: dict[str, Fraction | int]) -> None:
    """Whether an object has these fields and numbers."""
    fields = node.record(*record)
    for name, number in record.items():
        if isinstance(number, int):
            fields[name].holds(number)
        else:
            fields[name].equals(number)


@lru_cache(maxsize=64)
def _expected(fmt: Format, measure: str, regime: str, kind: str) -> Expected:
    if fmt.zero is None:
        return _expected_shares(fmt, measure, regime, kind)
    if fmt.zero.kind == "minimum" or fmt.scale.stored is not None:
        return _expected_pieces(fmt, regime, kind)
    if measure == "block":
        return _windows(fmt, regime)
    if measure == "least":
        return _least(fmt)
    cells = tuple(
        cell
        for trial, steps in enumerate(_spans(fmt))
        for low, high in ratios(fmt, regime)
        for cell in _cells(fmt, (measure, kind), trial, steps, (low, high))
    )
    return Expected(max(cell.most for cell in cells), cells=cells)


def _zero_names(fmt: Format) -> list[tuple[str, str, str]]:
    """All-zero blocks are decoded to zero if 0 is a value, and no stored minimum is in between."""
    if fmt.zero is not None and fmt.zero.kind == "point":
        return [("zero", "zero", "any")]
    if fmt.zero is not None and fmt.zero.stored is not None:
        return []
    return [("zero", "zero", "any")] if all(0 in grid.values for grid in fmt.grids) else []


# -- minima and inner scales ---------------------------------------------------------------


def _stored_names(fmt: Format) -> list[tuple[str, str, str]]:
    """The statements of a format with a minimum or an inner format, but for that of zeros."""
    found: list[tuple[str, str, str]] = []
    for regime in ("normal", "subnormal"):
        for kind in ("rounding", "clipping", "any"):
            measure = measure_of(fmt)
            if kind == "any" and not is_loose(fmt):
                measure = "block" if measure == "absmax" else f"{measure}_block"
            if _records(fmt, regime, kind):
                found.append((measure, regime, kind))
    inner = fmt.scale.stored
    if fmt.zero is None and inner is not None and not fmt.scale.center and can_vanish(inner):
        found.append(("least", "least", "any"))
    return found


def _expected_pieces(fmt: Format, regime: str, kind: str) -> Expected:
    """Of a format with a minimum, or with a zero point and inner scales."""
    records = _records(fmt, regime, kind)
    tight = regime == "normal" and len(codings(fmt)) == 1 and _comes_near(fmt)
    return Expected(_top(records), tight, domain_of(fmt, regime), records=records)


def _comes_near(fmt: Format) -> bool:
    """Whether some block is known to have nearly all terms at their largest."""
    scale, zero = fmt.scale, fmt.zero
    if zero is None or zero.kind != "minimum" or scale.center or zero.center:
        return False
    if zero.stored is None:
        return scale.stored is None and scale.codes == "wanted"
    return scale.stored is not None and scale.codes == "stored" and zero.negated


def _expected_shares(fmt: Format, measure: str, regime: str, kind: str) -> Expected:
    """Of a format with inner scales and no zero."""
    one = len(codings(fmt)) == 1
    if measure == "least":
        records = tuple(least_records(fmt))
        return Expected(_top(records), one, records=records)
    records = _records(fmt, regime, kind)
    if measure == "group_block":
        one = one and all(coding.up == coding.down for coding in codings(fmt))
    return Expected(_top(records), one and not is_loose(fmt), records=records)


def _top(records: tuple[Record, ...]) -> Fraction:
    return max(Fraction(record["height"]) for record in records)


@lru_cache(maxsize=64)
def _records(fmt: Format, regime: str, kind: str) -> tuple[Record, ...]:
    of = share_records if fmt.zero is None else minimum_records
    return tuple(of(fmt, regime, kind))


# -- what binary32 adds --------------------------------------------------------------------


def _slack(fmt: Format, measure: str, bound: Fraction) -> Fraction:
    """48 half ulps of what an element and its error are at most, or of all elements of a block."""
    share = Fraction(48, 1 << 24)
    if not measure.endswith("block"):
        spans = [max(values) - min(values) for values in _grid_values(fmt)]
        return share * (bound + (max(spans) if measure in ("scale", "least", "self") else 1))
    eta, count = 2 * share, element_count(fmt) or 1
    mean = bound / count
    r = Fraction(isqrt((mean.numerator << 60) // mean.denominator) + 1, 1 << 30)
    return eta * (bound / r + count * r) + count * eta * eta


def _grid_values(fmt: Format) -> list[list[Fraction]]:
    return [[v for v in grid.values if v is not None] for grid in fmt.grids]


# -- zero points ---------------------------------------------------------------------------


def _point_names(fmt: Format) -> list[tuple[str, str, str]]:
    found = []
    if ratios(fmt, "normal"):
        for measure in ("absmax", "scale"):
            found += [(measure, "normal", kind) for kind in ("rounding", "clipping")]
        found += [("self", "normal", "rounding"), ("block", "normal", "any")]
    if ratios(fmt, "subnormal"):
        found += [("absmax", "subnormal", kind) for kind in ("rounding", "clipping")]
        found.append(("block", "subnormal", "any"))
    scales = stored_scales(fmt)
    return [*found, ("least", "least", "any")] if scales and scales[0].high is not None else found


def _spans(fmt: Format) -> list[int]:
    """How many steps every grid has, each number once."""
    return sorted({int(max(values) - min(values)) for values in _grid_values(fmt)})


def _turns(fmt: Format, steps: int, span: tuple[Fraction, Fraction]) -> list[Fraction]:
    """Ratios at which the range ends on a code, where it moves at all, and the ends."""
    low, high = span
    between = range(ceil(low * steps), floor(high * steps) + 1)
    moving = fmt.scale.codes == "stored"
    return sorted({low, high} | ({Fraction(n, steps) for n in between} if moving else set()))


def _cells(
    fmt: Format, what: tuple[str, str], trial: int, steps: int, span: tuple[Fraction, Fraction]
) -> list[Piece]:
    measure, kind = what
    wanted = fmt.scale.codes == "wanted"
    found = []
    single = kind == "rounding" and not wanted
    for ratio in [span[0]] if single else _turns(fmt, steps, span):
        whole = Fraction(steps) if wanted else ratio * steps
        for k in range(steps + 1):
            start, least = Fraction(k), whole / 2
            if kind == "rounding":
                start = max(k - HALF, ONE if measure == "self" else ZERO)
                stop = min(k + HALF, Fraction(steps), steps * (ONE if wanted else span[1]))
            else:
                stop = min(k + HALF + whole - steps, whole)
                least = max(least, whole - stop)
            if start <= stop:
                value = k / ratio if wanted else Fraction(k)
                found.append(_piece(measure, trial, ratio, value, (start, stop), least))
    return found


def _piece(
    measure: str,
    trial: int,
    ratio: Fraction,
    value: Fraction,
    ends: tuple[Fraction, Fraction],
    least: Fraction,
) -> Piece:
    places = sorted({*ends, *(p for p in (value, least) if ends[0] < p < ends[1])})
    points = []
    for y in places:
        whole = {"absmax": max(y, least), "self": y}.get(measure, ONE)
        points.append((y, abs(value - y) / whole))
    return Piece(trial, ratio, value, *ends, least, tuple(points))


def _least(fmt: Format) -> Expected:
    """In units of the least word: what is coded under it, or stored as zero."""
    first = stored_scales(fmt)[0]
    low, high = ((end or ZERO) / first.value for end in (first.low, first.high))
    wanted = fmt.scale.codes == "wanted"
    cells = []
    for trial, steps in enumerate(_spans(fmt)):
        ends = _turns(fmt, steps, (low, high)) if low else [low, high]
        for ratio in ends:
            span = (ratio, ratio if wanted else high)
            for kind in ("rounding", "clipping"):
                one = (span[0], span[0]) if kind == "clipping" else span
                for cell in _cells(fmt, ("scale", kind), trial, steps, one):
                    cells.append(_times(cell, ratio if wanted else ONE))
    lost = low * max(_spans(fmt))
    return Expected(max(lost, *(cell.most for cell in cells)), cells=tuple(cells))


def _times(cell: Piece, unit: Fraction) -> Piece:
    return replace(
        cell,
        value=cell.value * unit,
        start=cell.start * unit,
        stop=cell.stop * unit,
        floor=cell.floor * unit,
        points=tuple((y * unit, height * unit) for y, height in cell.points),
    )


def _windows(fmt: Format, regime: str) -> Expected:
    found = []
    for trial, steps in enumerate(_spans(fmt)):
        for span in ratios(fmt, regime):
            for ratio in _turns(fmt, steps, span):
                for below in range(steps + 1):
                    places = _below_zero(fmt, steps, ratio, below)
                    windows = [_window(fmt, trial, steps, ratio, below, b) for b in places]
                    if windows:
                        found.append(max(windows, key=lambda w: w["height"]))
    bound = max(Fraction(window["height"]) for window in found)
    return Expected(bound, len(_spans(fmt)) == 1, records=tuple(found))


def _below_zero(fmt: Format, steps: int, ratio: Fraction, below: int) -> list[Fraction]:
    """Critical magnitudes b of the least element that are nearest to ``below``, ascending.

    They are the ends of those, where b = c, and where c turns to its next code.
    """
    whole = Fraction(steps) if fmt.scale.codes == "wanted" else ratio * steps
    first = max(ZERO, below - HALF)
    last = whole if below == steps else min(whole, below + HALF)
    between = range(floor(whole - last) - 1, ceil(whole - first) + 1)
    turns = [whole - (n + HALF) for n in between]
    return sorted({b for b in (first, last, whole / 2, *turns) if first <= b <= last})


def _window(
    fmt: Format, trial: int, steps: int, ratio: Fraction, below: int, least: Fraction
) -> dict[str, Fraction | int]:
    """Every code of the window at both ends of its elements: none is left out."""
    wanted = fmt.scale.codes == "wanted"
    whole, unit = (Fraction(steps), ratio) if wanted else (ratio * steps, ONE)
    largest = whole - least
    codes = range(-below, steps - below + 1)
    worst = dict.fromkeys(("top", "bottom", "most"), ZERO)
    for k in codes:
        start = -least if k == codes[0] else max(k - HALF, -least)
        stop = largest if k == codes[-1] else min(k + HALF, largest)
        value = k / unit
        for y in (start, stop) if start <= stop else ():
            error = abs(y - value)
            worst["most"] = max(worst["most"], error)
            if y == largest:
                worst["top"] = max(worst["top"], error)
            if y == -least:
                worst["bottom"] = max(worst["bottom"], error)
    worst = {name: error**2 for name, error in worst.items()}
    there = [worst[name] for name, size in (("top", largest), ("bottom", least)) if size > 0]
    count = element_count(fmt)
    total = worst["most"]
    if count is not None:
        total = total * max(0, count - len(there)) + sum(there[:count])
    absmax = max(least, largest)
    return {
        "trial": trial,
        "ratio": ratio,
        "below": below,
        "largest": largest,
        "absmax": absmax,
        "most": worst["most"],
        "top": worst["top"],
        "bottom": worst["bottom"],
        "drivers": len(there),
        "height": total / absmax**2,
    }
