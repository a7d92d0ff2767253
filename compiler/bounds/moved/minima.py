"""Worst-case errors of blocks with a minimum: how far scale and minimum lie from what was asked.

An element is x = lo + y s with y from 0 to D, and is decoded to v s' + m'. With ``codes wanted``
v is nearest to y, and the error is (y - v) s + v (s - s') + (lo - m'). Otherwise v is nearest to
(x - m') / s', and the error is (y - v) s' between the grid's ends and D (s - s') + (lo - m') or
m' - lo beyond them. Each term grows with s, and s is at most 2 A / D for a block of absmax A:
only the pieces of A on which no term's own bound jumps have to be looked at, at their beginnings,
since there error / A is largest.

* A float of M mantissa bits misses a number in [2^e, 2^(e+1)) by 2^(e-M-1) at most, by twice
  that on one side if it is rounded up or down: it jumps at powers of two. Only the alignment of
  both powers counts, so that s from 1 to 2 stands for all.
* A format of scales misses one by its own bound times the largest scale of a group. Small blocks
  may stand beside large ones, so that no bound relative to their own absmax exists (their scale
  may be stored as zero), and the measure is ``group``: A is the largest absmax of all blocks that
  share an inner scale or minimum. Where the mean is taken out first, that is the whole tensor
  (``tensor``): an inner spread is at most the largest scale of the tensor.

The regime is that of the scale's word, or of all inner scale words. A minimum's word has no
regime: ``Statement.domain`` says from which absmax on it is normal. Under the least scale word,
nothing is said where there are minima: these may be of any size beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ...exact import floor_log2
from ...format import Format, ScaleWord
from ...scales import is_fp32_word
from ..coder import Coder, coders_of
from ..proof import Cell, Statement
from ..single import ANY, CLIPPING, ROUNDING, element_cells
from ..slack import element_count
from ..words import NORMAL, SUBNORMAL, ratios_of, words_of
from .points import Piece
from .slack import moved_block_slack, moved_slack

HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Store:
    """How far a stored number may lie from the one asked for.

    Attributes:
        over, under: above and below it; in units of its last place for a word, and of the
            largest number of the group for an inner format.
        top: the largest stored number of a group, over the largest asked for.
        mantissa: mantissa bits of the word, or None for an inner format (or binary32).
        finest: the distance of the word's subnormals where they count, or 0.
    """

    over: Fraction
    under: Fraction
    top: Fraction
    mantissa: int | None
    finest: Fraction = Fraction(0)

    def misses(self, size: Fraction, group: Fraction) -> tuple[Fraction, Fraction]:
        """How far above and below a number of at most ``size`` may be stored."""
        if self.mantissa is None:
            return self.over * group, self.under * group
        step = max(Fraction(2) ** (floor_log2(size) - self.mantissa), self.finest)
        return self.over * step, self.under * step


EXACT = Store(Fraction(0), Fraction(0), Fraction(1), None)


def is_served(fmt: Format) -> bool:
    """Whether there are bounds: see ``moved.moved_statements``."""
    inner = [fmt.scale.stored, fmt.zero.stored if fmt.zero else None]
    plain = all(f is None or (f.zero is None and f.scale.stored is None) for f in inner)
    word = fmt.zero.word if fmt.zero else None
    return plain and (word is None or is_fp32_word(word) or fmt.scale.tensor == "none")


def inner_cells(inner: Format, regimes: Iterable[str], signed: bool) -> tuple[Cell, ...]:
    """The cells of numbers that an inner format stores: those from 0 on, or all of them."""
    spans = [span for regime in regimes for span in ratios_of(inner, regime)]
    cells = [
        cell
        for kind in (ROUNDING, CLIPPING)
        for trial, coder in enumerate(coders_of(inner))
        for cell in element_cells(inner, trial, coder, spans, "absmax", kind)
    ]
    return non_negative(cells, signed)


def non_negative(cells: Iterable[Cell], signed: bool) -> tuple[Cell, ...]:
    """The cells that reach 0 or beyond, or, where numbers have signs, all."""
    return tuple(c for c in cells if signed or c.stop > 0 or c.start == c.stop == 0)


def numbers_of(cell: Cell, signed: bool) -> list[Fraction]:
    """The critical numbers of an inner cell."""
    if signed:
        return [y for y, _ in cell.points]
    return sorted({max(y, Fraction(0)) for y, _ in cell.points})


@lru_cache(maxsize=64)
def inner_store(inner: Format, regimes: tuple[str, ...], signed: bool) -> Store | None:
    """How an inner format stores the numbers of a group, or None where no word is there."""
    over = under = top = Fraction(0)
    cells = inner_cells(inner, regimes, signed)
    for cell in cells:
        for y in numbers_of(cell, signed):
            group = max(abs(y), cell.floor)
            over = max(over, (cell.value - y) / group)
            under = max(under, (y - cell.value) / group)
            top = max(top, abs(cell.value) / group)
    return Store(over, under, top, None) if cells else None


def word_store(word: ScaleWord, rounding: str, finest: Fraction) -> Store:
    """How a float stores numbers."""
    if is_fp32_word(word):
        return EXACT
    over, under = {
        "even": (HALF, HALF),
        "up": (Fraction(1), Fraction(0)),
        "down": (Fraction(0), Fraction(1)),
    }[rounding]
    return Store(over, under, Fraction(1), word.number.mantissa, finest)


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a format's scales and minima are stored, in one regime."""

    scale: Store
    minimum: Store
    measure: str
    starts: tuple[Fraction, ...]


def stores_of(fmt: Format, regime: str) -> Stores | None:
    """Both stores, and the absmaxima at which their steps jump; None: no such regime."""
    scale, zero = fmt.scale, fmt.zero
    if zero is None:
        return None
    least = _first(fmt) if regime == SUBNORMAL else None
    regimes = (NORMAL,) if regime == NORMAL else (NORMAL, SUBNORMAL)
    divisor = min(coder.positive for coder in coders_of(fmt))
    if scale.stored is not None:
        kept = inner_store(scale.stored, regimes, scale.center)
        there = bool(ratios_of(scale.stored, regime))
    else:
        wanted = scale.codes == "wanted"
        kept = word_store(scale.word, "even" if wanted else scale.rounding, least or Fraction(0))
        there = bool(ratios_of(fmt, regime))
    lost: Store | None = EXACT
    if zero.stored is not None:
        lost = inner_store(zero.stored, regimes, not zero.negated or zero.center)
    elif zero.word is not None:
        if least and scale.codes == "stored" and words_of(fmt):
            return None  # a coarse scale decides the codes: nothing is known
        if least and not (is_fp32_word(zero.word) or zero.word.number == scale.word.number):
            return None  # below their normal numbers two words do not go together
        finest = (zero.word.number.magnitude(1) or Fraction(0)) * _level(fmt) if least else 0
        lost = word_store(zero.word, "even", Fraction(finest))
    if kept is None or lost is None or not there:
        return None
    inner = scale.stored is not None or zero.stored is not None
    measure = "tensor" if scale.center or zero.center else "group" if inner else "absmax"
    return Stores(kept, lost, measure, _starts(fmt, kept, lost, divisor, least))


def _first(fmt: Format) -> Fraction | None:
    """The least scale word."""
    words = words_of(fmt)
    return words[0].value if words else None


def _starts(
    fmt: Format, kept: Store, lost: Store, divisor: Fraction, least: Fraction | None
) -> tuple[Fraction, ...]:
    """The absmaxima at which a step jumps: one binade, or all subnormals and one binade."""
    first, last = divisor / 2, divisor
    if least:
        subnormal = [word for word in words_of(fmt) if word.regime == SUBNORMAL]
        first = min(word.low for word in subnormal) * divisor / 2
        last = max(2 * fmt.scale.word.number.smallest_normal * divisor, 4 * first)
        if lost.mantissa is not None:
            last = max(last, lost.finest * Fraction(2) ** (lost.mantissa + 2))
    found = {first}
    if lost.mantissa is not None:
        found |= _powers(first, last)
    if kept.mantissa is not None:
        found |= {power * divisor / 2 for power in _powers(first * 2 / divisor, last * 2 / divisor)}
    return tuple(sorted(found))


def _powers(first: Fraction, last: Fraction) -> set[Fraction]:
    """The powers of two from ``first`` to below ``last``."""
    power = Fraction(2) ** floor_log2(first)
    found = set()
    while power < last:
        if power >= first:
            found.add(power)
        power *= 2
    return found


# -- pieces --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A block of absmax ``absmax`` whose scale is asked for as at most ``scale``."""

    absmax: Fraction
    scale: Fraction
    stored: Fraction
    over: Fraction
    under: Fraction
    shift: Fraction

    @property
    def miss(self) -> Fraction:
        return max(self.over, self.under)


def _place(fmt: Format, stores: Stores, absmax: Fraction, divisor: Fraction, ends: int) -> _Place:
    group = 2 * absmax / min(coder.positive for coder in coders_of(fmt))
    scale = ends * absmax / divisor
    over, under = stores.scale.misses(scale, group)
    shift = Fraction(0)
    if fmt.zero is not None and fmt.zero.kind == "minimum":
        # Minima that are centred spread by as much as they differ.
        spread = 2 if fmt.zero.center and not fmt.zero.negated else 1
        shift = max(stores.minimum.misses(absmax, spread * absmax))
    stored = scale + over
    if fmt.scale.stored is not None and not fmt.scale.center:
        stored = min(stored, stores.scale.top * group)
    return _Place(absmax, scale, stored, over, under, shift)


def piece_statements(fmt: Format) -> Iterator[Statement]:
    """What elements and blocks may lose that have a minimum, or a zero point and inner scales."""
    for regime in (NORMAL, SUBNORMAL):
        stores = stores_of(fmt, regime)
        if stores is None:
            continue
        tight = regime == NORMAL and _is_tight(fmt, stores)
        for kind in (ROUNDING, CLIPPING):
            pieces = tuple(_element_pieces(fmt, stores, kind))
            if pieces:
                bound = max(piece.height for piece in pieces)
                more = moved_slack(fmt, stores.measure, bound)
                yield Statement(
                    stores.measure,
                    regime,
                    kind,
                    bound,
                    more,
                    tight,
                    _domain(fmt, regime),
                    moved=pieces,
                )
        pieces = tuple(_block_pieces(fmt, stores))
        bound = max(piece.height for piece in pieces)
        more = moved_block_slack(element_count(fmt) or 1, bound)
        name = "block" if stores.measure == "absmax" else f"{stores.measure}_block"
        yield Statement(name, regime, ANY, bound, more, tight, _domain(fmt, regime), moved=pieces)


def _is_tight(fmt: Format, stores: Stores) -> bool:
    """Whether it is known that one block comes within a thousandth of all terms at once."""
    zero = fmt.zero
    if zero is None or zero.kind == "point" or len(coders_of(fmt)) > 1:
        return False
    if zero.word is not None:
        return fmt.scale.stored is None and fmt.scale.codes == "wanted"
    both = fmt.scale.stored is not None and zero.stored is not None and zero.negated
    return both and fmt.scale.codes == "stored" and stores.measure == "group"


def _domain(fmt: Format, regime: str) -> tuple[Fraction, Fraction] | None:
    """From which absmax on a minimum's word is normal, and up to which it does not saturate."""
    inner = fmt.zero.stored if fmt.zero else None
    if inner is not None and words_of(inner):
        reach = min(d for coder in coders_of(inner) for d in (coder.positive, coder.negative) if d)
        return Fraction(0), reach * inner.scale.word.number.largest
    word = fmt.zero.word if fmt.zero else None
    if word is None or is_fp32_word(word):
        return None
    below = regime == SUBNORMAL and fmt.scale.stored is None
    first = Fraction(0) if below else word.number.smallest_normal
    return first * _level(fmt), word.number.largest * _level(fmt)


def _level(fmt: Format) -> Fraction:
    """1 in units of the second level, which is a fixed power of two."""
    return Fraction(2) ** (fmt.scale.shift or 0)


def _element_pieces(fmt: Format, stores: Stores, kind: str) -> Iterator[Piece]:
    for trial, coder in enumerate(coders_of(fmt)):
        for absmax in stores.starts:
            place = _place(fmt, stores, absmax, coder.positive, 2)
            found = _worst(fmt, coder, place, kind)
            if found:
                yield _piece(trial, place, found, (Fraction(0), Fraction(0)), 0, None)


def _block_pieces(fmt: Format, stores: Stores) -> Iterator[Piece]:
    count = element_count(fmt)
    for trial, coder in enumerate(coders_of(fmt)):
        for absmax in stores.starts:
            for drivers in (2, 1) if _holds_zero(fmt) else (2,):
                place = _place(fmt, stores, absmax, coder.positive, drivers)
                worst = [_worst(fmt, coder, place, kind) for kind in (ROUNDING, CLIPPING)]
                most = max(found for found in worst if found)
                ends = _driver_errors(fmt, coder, place, most[0])
                yield _piece(trial, place, most, ends, drivers, count)


def _holds_zero(fmt: Format) -> bool:
    """Whether zero is in every range, so that only one end need be an element."""
    return fmt.zero is not None and (fmt.zero.kind == "point" or fmt.zero.negated)


def _piece(
    trial: int,
    place: _Place,
    worst: tuple[Fraction, Fraction, Fraction],
    ends: tuple[Fraction, Fraction],
    drivers: int,
    count: int | None,
) -> Piece:
    most, value, at = worst
    low, high = ends
    height = most / place.absmax
    if drivers:
        there = sorted([low, high][2 - drivers :])
        total = most**2
        if count is not None:
            total = max(count - drivers, 0) * most**2 + sum(e**2 for e in there[::-1][:count])
        height = total / place.absmax**2
    return Piece(
        trial,
        place.absmax,
        place.scale,
        place.stored,
        place.over,
        place.under,
        place.shift,
        value,
        at,
        most,
        low,
        high,
        drivers,
        height,
    )


def _worst(
    fmt: Format, coder: Coder, place: _Place, kind: str
) -> tuple[Fraction, Fraction, Fraction] | None:
    """The largest error of a kind, the grid's value and the element that it is of."""
    if fmt.zero is not None and fmt.zero.kind == "point":
        return _worst_point(coder, place, kind)
    if fmt.scale.codes == "wanted":
        errors = [
            (_wanted_error(place, y, value), value, y)
            for value, y in _ends(coder, coder.positive, kind)
        ]
    elif kind == ROUNDING:
        reach = max(coder.values[-1], coder.positive)
        errors = [
            (abs(y - value) * place.stored, value, y) for value, y in _ends(coder, reach, kind)
        ]
    else:
        errors = _clipped(coder, place)
    return max(errors, default=None)


def _wanted_error(place: _Place, y: Fraction, value: Fraction) -> Fraction:
    return abs(y - value) * place.scale + abs(value) * place.miss + place.shift


def _ends(coder: Coder, reach: Fraction, kind: str) -> Iterator[tuple[Fraction, Fraction]]:
    """Values and the ends of their elements: between the grid's ends, or beyond them."""
    for value, a, b in coder.spans(Fraction(0), reach, inside=kind == ROUNDING):
        yield value, a
        yield value, b


def _clipped(coder: Coder, place: _Place) -> list[tuple[Fraction, Fraction, Fraction]]:
    """The errors of elements beyond the grid's ends under the stored scale."""
    low, high, span = coder.values[0], coder.values[-1], coder.positive
    above = span * place.under + max(span - high, Fraction(0)) * place.stored + place.shift
    below = place.shift + max(low, Fraction(0)) * place.stored
    return [(above, high, span), (below, low, Fraction(0))]


def _worst_point(
    coder: Coder, place: _Place, kind: str
) -> tuple[Fraction, Fraction, Fraction] | None:
    """Under a zero point whose scales are stored later: half a step, and D steps of scale."""
    span = coder.positive
    if kind == CLIPPING:
        return None
    return place.scale / 2 + span * place.miss, span, span - HALF


def _driver_errors(
    fmt: Format, coder: Coder, place: _Place, most: Fraction
) -> tuple[Fraction, Fraction]:
    """The largest errors of the least and of the largest element."""
    if fmt.zero is not None and fmt.zero.kind == "point":
        return most, most
    errors = []
    for y, end in ((Fraction(0), coder.values[0]), (coder.positive, coder.values[-1])):
        if fmt.scale.codes == "wanted":
            error = max(_wanted_error(place, y, value) for value in coder.nearest(y))
        elif y == end:
            error = y * place.miss + place.shift
        else:
            error = most
        errors.append(min(error, most))
    return errors[0], errors[1]
