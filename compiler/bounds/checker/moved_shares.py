"""Checks of bounds where an inner format stores the scales.

The inner format's own pieces (``single``) say what a scale t may become, w. An element y
of the scale t errs by |y t - v w| (codes wanted), and an element x by |x - v w|. Where the mean of
all scales is taken out first, every corner of (mean, spread) is tried, in floating point first:
what is not within 1e-9 of the largest there is not it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from ...format import Format
from .moved_inner import Record, codings, has_signs, inner_pieces, places_of
from .single import Piece, element_count
from .words import Coding, ratios, stored_scales

ONE, ZERO = Fraction(1), Fraction(0)

#: Far more than binary64 makes of the few operations on numbers near 1.
_MARGIN = 1e-9


def _floor(fmt: Format) -> Fraction:
    """A block's absmax is at least this times its scale."""
    return min(coding.divisor(side) for coding in codings(fmt) for side in coding.sides)


def share_records(fmt: Format, regime: str, kind: str) -> Iterator[Record]:
    """Of a format with inner scales and no zero; of a rough bound with kind ``any`` alone."""
    inner = fmt.scale.stored
    if inner is None or not ratios(inner, regime):
        return
    if not fmt.scale.center:
        yield from _shares(fmt, regime, kind)
    elif not is_loose(fmt):
        yield from _centred_shares(fmt, inner, regime, kind)
    elif kind == "any":
        yield from _loose_shares(fmt, inner, regime)


def is_loose(fmt: Format) -> bool:
    """Whether centred scales have a rough bound alone."""
    return fmt.zero is None and fmt.scale.center and (fmt.scale.codes == "stored" or has_signs(fmt))


# -- inner scales --------------------------------------------------------------------------


def _shares(fmt: Format, regime: str, kind: str) -> Iterator[Record]:
    inner = fmt.scale.stored
    if inner is None:
        return
    signed = has_signs(fmt)
    for trial, coding in enumerate(codings(fmt)):
        for piece in inner_pieces(inner, regime, signed):
            if kind == "any":
                found = list(_sums(fmt, trial, coding, piece, signed))
            else:
                found = list(_elements(fmt, (trial, kind), coding, piece, signed))
            if found:
                yield max(found, key=_height)


def _height(record: Record) -> Fraction:
    return Fraction(record["height"])


def _asked(piece: Piece, signed: bool) -> list[Fraction]:
    return sorted({abs(y) for y in places_of(piece, signed)})


def _elements(
    fmt: Format, what: tuple[int, str], coding: Coding, piece: Piece, signed: bool
) -> Iterator[Record]:
    trial, kind = what
    sizes = _asked(piece, signed)
    reused = kind == "rounding" and fmt.scale.codes == "stored"
    for asked in sizes:
        group = max(piece.floor, sizes[0] if reused else asked)
        for x, value in _ends(fmt, coding, asked, abs(piece.value), kind):
            most = abs(x - value * abs(piece.value))
            height = most / max(_floor(fmt) * group, abs(x)) if group else ZERO
            yield _share(trial, (asked, abs(piece.value), group), (value, x), (most, ZERO), height)


def _share(
    trial: int,
    scales: tuple[Fraction, Fraction, Fraction],
    place: tuple[Fraction, Fraction],
    errors: tuple[Fraction, Fraction],
    height: Fraction,
) -> Record:
    asked, stored, group = scales
    return {
        "trial": trial,
        "asked": asked,
        "stored": stored,
        "group": group,
        "value": place[0],
        "at": place[1],
        "most": errors[0],
        "driver": errors[1],
        "height": height,
    }


def _ends(
    fmt: Format, coding: Coding, asked: Fraction, stored: Fraction, kind: str
) -> Iterator[tuple[Fraction, Fraction]]:
    """Elements at the ends of what values stand for, and these values."""
    unit = asked if fmt.scale.codes == "wanted" else stored
    if fmt.scale.codes == "stored" and not stored:
        if kind == "clipping":
            yield asked * coding.up, ZERO
            yield -asked * coding.down, ZERO
        return
    reach = ONE if fmt.scale.codes == "wanted" else asked / stored
    for y, value in _cuts(coding, reach, kind):
        yield y * unit, value


def _cuts(coding: Coding, reach: Fraction, kind: str) -> Iterator[tuple[Fraction, Fraction]]:
    low, high = coding.values[0], coding.values[-1]
    for index, value in enumerate(coding.values):
        first, last = coding.span(index)
        a, b = -reach * coding.down, reach * coding.up
        a = a if first is None else max(a, first)
        b = b if last is None else min(b, last)
        if kind == "rounding":
            parts = [(max(a, low), min(b, high))]
        else:
            parts = [(a, min(b, low)), (max(a, high), b)]
        for c, d in parts:
            if c < d or (c == d and kind == "rounding"):
                yield c, value
                yield d, value


def _driver(fmt: Format, coding: Coding, side: int, asked: Fraction, stored: Fraction) -> Fraction:
    """The error of the element that decides the scale."""
    y = side * coding.divisor(side)
    if fmt.scale.codes == "stored":
        if not stored:
            return abs(y) * asked
        y = y * asked / stored
        return max(abs(y - v) for v in coding.codes(y)) * stored
    return max(abs(y * asked - v * stored) for v in coding.codes(y))


def _sums(fmt: Format, trial: int, coding: Coding, piece: Piece, signed: bool) -> Iterator[Record]:
    """Squared errors of a block at every size at which the deciding element's code turns."""
    stored, sizes = abs(piece.value), _asked(piece, signed)
    turns = {
        side * turn * stored / coding.divisor(side)
        for turn in coding.turns
        for side in coding.sides
        if fmt.scale.codes == "stored"
    }
    count = element_count(fmt)
    for asked in sorted({*sizes, *(t for t in turns if sizes[0] < t < sizes[-1])}):
        group = max(piece.floor, asked)
        found = [
            (abs(x - value * stored), x, value)
            for kind in ("rounding", "clipping")
            for x, value in _ends(fmt, coding, asked, stored, kind)
        ]
        most, x, value = max(found, default=(ZERO, ZERO, ZERO))
        for side in coding.sides:
            driver = _driver(fmt, coding, side, asked, stored)
            total = most**2 if count is None else (count - 1) * most**2 + driver**2
            height = total / (_floor(fmt) * group) ** 2 if group else ZERO
            yield _share(trial, (asked, stored, group), (value, x), (most, driver), height)


def can_vanish(inner: Format) -> bool:
    """Whether groups may be too small for the inner scale's words."""
    scales = stored_scales(inner)
    return bool(scales) and scales[0].high is not None and inner.scale.codes == "stored"


def least_records(fmt: Format) -> Iterator[Record]:
    """Groups under the least inner scale, in its units, and those that are stored as zero."""
    inner = fmt.scale.stored
    if inner is None:
        return
    signed = has_signs(fmt)
    first = stored_scales(inner)[0]
    most = max(max(coding.up, coding.down) for coding in codings(inner))
    lost = (first.low or ZERO) / first.value * most
    cells = inner_pieces(inner, "least", signed, "least")
    cells.append(Piece(0, ONE, ZERO, lost, lost, ZERO, ((lost, lost),)))
    for trial, coding in enumerate(codings(fmt)):
        for piece in cells:
            found = [
                record | {"group": ONE, "height": record["most"]}
                for kind in ("rounding", "clipping")
                for record in _elements(fmt, (trial, kind), coding, piece, signed)
            ]
            if found:
                yield max(found, key=_height)


# -- centred scales ------------------------------------------------------------------------


def _centred_shares(fmt: Format, inner: Format, regime: str, kind: str) -> Iterator[Record]:
    points = _scales(inner, regime)
    kinds = ("rounding", "clipping") if kind == "any" else (kind,)
    count = element_count(fmt)
    for trial, coding in enumerate(codings(fmt)):
        for part in kinds:
            for y, value in sorted(set(_cuts(coding, ONE, part))):

                def share(
                    point: tuple[Fraction, Fraction],
                    y: Fraction = y,
                    value: Fraction = value,
                    trial: int = trial,
                    coding: Coding = coding,
                ) -> Record:
                    asked, stored = point
                    most, driver = abs(y * asked - value * stored), ZERO
                    height = most / _floor(fmt)
                    if kind == "any":
                        errors = [_driver(fmt, coding, s, asked, stored) for s in coding.sides]
                        driver = max(errors)
                        total = most**2
                        if count is not None:
                            total = (count - 1) * most**2 + driver**2
                        height = total / _floor(fmt) ** 2
                    at = y * asked
                    return _share(trial, (asked, stored, ONE), (value, at), (most, driver), height)

                near = _nearly(points, y, value, coding if kind == "any" else None, count)
                yield max(
                    (share(point) for point in near),
                    key=lambda r: (r["height"], r["asked"], r["stored"]),
                )


def _nearly(
    points: list[tuple[Fraction, Fraction]],
    y: Fraction,
    value: Fraction,
    coding: Coding | None,
    count: int | None,
) -> list[tuple[Fraction, Fraction]]:
    """The scales at which an error, or a sum of squares, is the largest up to rounding."""
    ends: list[tuple[float, float]] = []
    if coding is not None and count is not None:
        for side in coding.sides:
            place = side * coding.divisor(side)
            ends += [(float(place), float(v)) for v in coding.codes(place)]
    a, b = float(y), float(value)

    def size(point: tuple[Fraction, Fraction]) -> float:
        s, t = float(point[0]), float(point[1])
        error = abs(a * s - b * t)
        if coding is None or count is None:
            return error
        return (count - 1) * error**2 + max(abs(c * s - d * t) for c, d in ends) ** 2

    sizes = [size(point) for point in points]
    least = max(sizes) - _MARGIN * (1 + max(sizes))
    return [point for point, found in zip(points, sizes, strict=True) if found >= least]


@lru_cache(maxsize=16)
def _scales(inner: Format, regime: str) -> list[tuple[Fraction, Fraction]]:
    """Scales asked for and stored, in units of the tensor's largest, at all corners.

    The scale asked for is s = c + t N with 0 <= s, c <= 1, and N is at most c or at most 1 - c.
    """
    found = set()
    for piece in inner_pieces(inner, regime, True):
        for y in places_of(piece, True):
            spread = max(abs(y), piece.floor)
            t, w = y / spread, piece.value / spread
            for c, size in _corners(t):
                found.add((c + t * size, c + w * size))
    return sorted(found)


def _corners(t: Fraction) -> Iterator[tuple[Fraction, Fraction]]:
    """Mean and spread at the corners, worked out line by line."""
    yield from ((ZERO, ZERO), (ONE, ZERO))
    # N = c from 0 on, until s = c (1 + t) is 1, or c is.
    c = min(ONE, 1 / (1 + t)) if t > -1 else ONE
    yield c, c
    # c = 1, until s = 1 + t N is 0, or N is 1; s is above 1 where t is positive.
    if t <= 0:
        yield ONE, min(ONE, -1 / t) if t else ONE
    # N = 1 - c, from c = 0 where s = t N is 0 at least.
    if t >= 0:
        yield ZERO, ONE
    else:
        # s = c + t (1 - c) = 0
        c = -t / (1 - t)
        yield c, 1 - c


def _loose_shares(fmt: Format, inner: Format, regime: str) -> Iterator[Record]:
    """All terms at their largest."""
    found = [
        (abs(piece.value - y)) / max(abs(y), piece.floor)
        for piece in inner_pieces(inner, regime, True)
        for y in places_of(piece, True)
    ]
    miss = max(found) * (2 if has_signs(fmt) else 1)
    for trial, coding in enumerate(codings(fmt)):
        reach = max(coding.up, coding.down)
        value = max(abs(v) for v in coding.values)
        half = max(abs(y - v) for y, v in _cuts(coding, ONE, "rounding"))
        most = half * (1 + miss) + max(ZERO, reach - value) + (reach + value) * miss
        yield _share(trial, (ONE, 1 + miss, ONE), (value, reach), (most, ZERO), most / _floor(fmt))
