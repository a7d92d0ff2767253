"""Checks of bounds with stored minima.

An element's error is a sum of three: of rounding, of the value times what the scale is missed by,
and of what the minimum is missed by. None of them falls when the block's scale grows, which is at
most 2 absmax / D. What a word misses a number by is wider from every power of two on, and no
narrower before the next: error over absmax is largest where a binade begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from ...exact import floor_log2
from ...floats import named_float
from ...format import Format, ScaleWord
from .moved_inner import Record, codings, inner_pieces, places_of
from .single import element_count
from .words import Coding, is_binary32, ratios, stored_scales

_BINARY32 = named_float("fp32")

HALF, ONE, ZERO = Fraction(1, 2), Fraction(1), Fraction(0)


@dataclass(frozen=True, slots=True)
class _Miss:
    """How far above and below itself a number may be stored, given it and its group's largest."""

    up: Callable[[Fraction, Fraction], Fraction]
    down: Callable[[Fraction, Fraction], Fraction]
    top: Fraction = ONE


def _none(_: Fraction, __: Fraction) -> Fraction:
    return ZERO


def _missed_by_format(inner: Format, regime: str, signed: bool) -> _Miss | None:
    regimes = ("normal",) if regime == "normal" else ("normal", "subnormal")
    found = [
        ((piece.value - y) / group, abs(piece.value) / group)
        for r in regimes
        for piece in inner_pieces(inner, r, signed)
        for y in places_of(piece, signed)
        for group in (max(abs(y), piece.floor),)
    ]
    if not found:
        return None
    up = max(ZERO, *(miss for miss, _ in found))
    down = max(ZERO, *(-miss for miss, _ in found))
    top = max(size for _, size in found)
    return _Miss(lambda _, group: up * group, lambda _, group: down * group, top)


def _missed_by_word(word: ScaleWord, rounding: str, finest: Fraction) -> _Miss:
    mantissa = word.number.mantissa
    if mantissa == 23:
        return _Miss(_none, _none)

    def place(size: Fraction, _: Fraction) -> Fraction:
        return max(finest, Fraction(2) ** (floor_log2(size) - mantissa))

    def half(size: Fraction, group: Fraction) -> Fraction:
        return place(size, group) / 2

    return {"up": _Miss(place, _none), "down": _Miss(_none, place)}.get(rounding, _Miss(half, half))


# -- minima --------------------------------------------------------------------------------


def _level(fmt: Format) -> Fraction:
    return Fraction(2) ** (fmt.scale.shift or 0)


def domain_of(fmt: Format, regime: str) -> tuple[Fraction, Fraction] | None:
    """The absmaxima for which a minimum's word is normal (or not too large)."""
    inner = fmt.zero.stored if fmt.zero else None
    if inner is not None and not is_binary32(inner):
        ends = [coding.divisor(side) for coding in codings(inner) for side in (1, -1)]
        top = max(m for m in inner.scale.word.number.magnitudes() if m is not None)
        return ZERO, top * min(end for end in ends if end)
    word = fmt.zero.word if fmt.zero else None
    if word is None or word.number.mantissa == 23:
        return None
    number = word.number
    sizes = [m for m in number.magnitudes() if m is not None]
    normal = sizes[1 << number.mantissa]
    if regime == "subnormal" and fmt.scale.stored is None:
        normal = ZERO
    return normal * _level(fmt), sizes[-1] * _level(fmt)


def _misses(fmt: Format, regime: str) -> tuple[_Miss, _Miss] | None:
    """Of the scale and of the minimum; None where there is no such regime."""
    scale, zero = fmt.scale, fmt.zero
    fine = regime == "subnormal" and scale.stored is None
    rounding = "even" if scale.codes == "wanted" else scale.rounding
    if scale.stored is not None:
        if not ratios(scale.stored, regime):
            return None
        kept = _missed_by_format(scale.stored, regime, scale.center)
    else:
        if not ratios(fmt, regime):
            return None
        finest = stored_scales(fmt)[0].value if fine else ZERO
        kept = _missed_by_word(scale.word, rounding, finest)
    lost: _Miss | None = _Miss(_none, _none)
    if zero is not None and zero.stored is not None:
        lost = _missed_by_format(zero.stored, regime, zero.center or not zero.negated)
    elif zero is not None and zero.word is not None:
        subnormal = regime == "subnormal" and bool(stored_scales(fmt))
        if subnormal and scale.codes == "stored":
            return None
        if subnormal and zero.word.number not in (scale.word.number, _BINARY32):
            return None
        least = (zero.word.number.magnitude(1) or ZERO) * _level(fmt) if subnormal else ZERO
        lost = _missed_by_word(zero.word, "even", least)
    return (kept, lost) if kept is not None and lost is not None else None


def _starts(fmt: Format, regime: str) -> list[Fraction]:
    """Absmaxima from which on a word's places are wider, and the least of all."""
    steps = min(coding.up for coding in codings(fmt))
    zero = fmt.zero
    first, last = steps / 2, steps
    word = zero.word if zero else None
    has_lost = word is not None and word.number.mantissa < 23
    has_kept = fmt.scale.stored is None and fmt.scale.word.number.mantissa < 23
    if regime == "subnormal" and stored_scales(fmt):
        scales = stored_scales(fmt)
        small = [s.low for s in scales if s.regime == "subnormal" and s.low is not None]
        number = fmt.scale.word.number
        normal = number.magnitude(1 << number.mantissa) or ZERO
        first = min(small) * steps / 2
        last = max(2 * normal * steps, 4 * first)
        if has_lost and word is not None:
            least = (word.number.magnitude(1) or ZERO) * _level(fmt)
            last = max(last, least * 4 * (1 << word.number.mantissa))
    found = {first}
    if has_lost:
        found |= set(_powers(first, last, ONE))
    if has_kept:
        found |= set(_powers(first, last, steps / 2))
    return sorted(found)


def _powers(first: Fraction, last: Fraction, unit: Fraction) -> Iterator[Fraction]:
    power = floor_log2(first / unit)
    while unit * Fraction(2) ** power < last:
        if unit * Fraction(2) ** power >= first:
            yield unit * Fraction(2) ** power
        power += 1


@dataclass(frozen=True, slots=True)
class _Case:
    """A block's absmax, scale asked for and stored, and by how much both are missed."""

    absmax: Fraction
    scale: Fraction
    stored: Fraction
    up: Fraction
    down: Fraction
    shift: Fraction


def _case(
    fmt: Format, both: tuple[_Miss, _Miss], absmax: Fraction, steps: Fraction, ends: int
) -> _Case:
    kept, lost = both
    scale = absmax * ends / steps
    group = 2 * absmax / min(coding.up for coding in codings(fmt))
    up, down = kept.up(scale, group), kept.down(scale, group)
    stored = scale + up
    if fmt.scale.stored is not None and not fmt.scale.center:
        stored = min(stored, kept.top * group)
    shift = ZERO
    zero = fmt.zero
    if zero is not None and zero.kind == "minimum":
        spread = absmax * (2 if zero.center and not zero.negated else 1)
        shift = max(lost.up(absmax, spread), lost.down(absmax, spread))
    return _Case(absmax, scale, stored, up, down, shift)


def minimum_records(fmt: Format, regime: str, kind: str) -> Iterator[Record]:
    """Of a format with a minimum, or with a zero point and inner scales."""
    both = _misses(fmt, regime)
    if both is None:
        return
    zero = fmt.zero
    sure = zero is not None and (zero.kind == "point" or zero.negated)
    for trial, coding in enumerate(codings(fmt)):
        for absmax in _starts(fmt, regime):
            if kind != "any":
                case = _case(fmt, both, absmax, coding.up, 2)
                errors = list(_errors(fmt, coding, case, kind))
                if errors:
                    yield _record(fmt, trial, case, max(errors), (ZERO, ZERO), 0)
                continue
            for ends in (2, 1) if sure else (2,):
                case = _case(fmt, both, absmax, coding.up, ends)
                kinds = ("rounding", "clipping")
                worst = max(e for k in kinds for e in _errors(fmt, coding, case, k))
                outer = _outer(fmt, coding, case, worst[0])
                yield _record(fmt, trial, case, worst, outer, ends)


def _errors(
    fmt: Format, coding: Coding, case: _Case, kind: str
) -> Iterator[tuple[Fraction, Fraction, Fraction]]:
    """Errors, values and elements at the ends of what every value stands for."""
    low, high, steps = coding.values[0], coding.values[-1], coding.up
    miss = max(case.up, case.down)
    if fmt.zero is not None and fmt.zero.kind == "point":
        if kind == "rounding":
            yield case.scale / 2 + steps * miss, steps, steps - HALF
        return
    wanted = fmt.scale.codes == "wanted"
    if not wanted and kind == "clipping":
        past = max(ZERO, steps - high) * case.stored
        yield steps * case.down + past + case.shift, high, steps
        yield case.shift + max(ZERO, low) * case.stored, low, ZERO
        return
    limit = steps if wanted else max(steps, high)
    for index, value in enumerate(coding.values):
        start, stop = coding.span(index)
        a, b = max(start or ZERO, ZERO), limit if stop is None else min(stop, limit)
        spans = [(max(a, low), min(b, high))]
        if kind == "clipping":
            spans = [(a, min(b, low)), (max(a, high), b)]
        for c, d in spans:
            if c < d or (c == d and kind == "rounding"):
                for y in (c, d):
                    error = abs(y - value) * (case.scale if wanted else case.stored)
                    more = abs(value) * miss + case.shift if wanted else ZERO
                    yield error + more, value, y


def _outer(fmt: Format, coding: Coding, case: _Case, most: Fraction) -> tuple[Fraction, Fraction]:
    """The errors of the least and of the largest element."""
    if fmt.zero is not None and fmt.zero.kind == "point":
        return most, most
    miss = max(case.up, case.down)
    found = []
    for y, value in ((ZERO, coding.values[0]), (coding.up, coding.values[-1])):
        error = most
        if fmt.scale.codes == "wanted":
            errors = [abs(y - v) * case.scale + abs(v) * miss for v in coding.codes(y)]
            error = max(errors) + case.shift
        elif y == value:
            error = y * miss + case.shift
        found.append(min(most, error))
    return found[0], found[1]


def _record(
    fmt: Format,
    trial: int,
    case: _Case,
    worst: tuple[Fraction, Fraction, Fraction],
    outer: tuple[Fraction, Fraction],
    ends: int,
) -> Record:
    most, value, at = worst
    count = element_count(fmt)
    height = most / case.absmax
    if ends:
        counted = [outer[0], outer[1]] if ends == 2 else [max(outer)]
        total = most**2
        if count is not None:
            largest = sorted(counted, reverse=True)[:count]
            total = most**2 * max(0, count - ends) + sum(error**2 for error in largest)
        height = total / case.absmax**2
    return {
        "trial": trial,
        "absmax": case.absmax,
        "scale": case.scale,
        "stored": case.stored,
        "over": case.up,
        "under": case.down,
        "shift": case.shift,
        "value": value,
        "at": at,
        "most": most,
        "low": outer[0],
        "high": outer[1],
        "drivers": ends,
        "height": height,
    }
