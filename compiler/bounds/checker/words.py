"""The checker's own reading of a format: what scales are stored, and how elements are coded.

It reads the exact ``Format`` and shares no line with what derives the proofs. A rule of powers of
two is read here as the set of blocks that ask for each power, and a linear one as the rounding
of a number to its neighbours; neither goes by thresholds between words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import ceil, floor, isqrt

from ...exact import floor_log2
from ...floats import SmallFloat, named_float
from ...format import Format, Grid

#: An interval with both ends.
Span = tuple[Fraction, Fraction]

#: The rules that ask for powers of two.
_POWER_RULES = ("floor_log2", "ceil_log2", "even_log2", "round_log2")

#: The root of two to 200 binary places, from below. No quotient of two binary32 numbers lies
#: between this and the root itself: its square would have to be as near to 2.
_ROOT_2 = Fraction(isqrt(1 << 401), 1 << 200)


# -- how elements are coded ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Coding:
    """One way to encode a block, seen from x / |scale| (of ``argmax``: x / scale).

    Attributes:
        values: what is decoded, ascending.
        offset: of truncated quotients, else None; ``mirrored``: of -x / |scale|.
        up, down: what the largest positive and negative magnitude are divided by for the asked
            scale; 0 for a side that does not count.
        sides: the sides (1 before -1) of elements that may decide the asked scale.
        step: how many stored scales above the asked one.
        sign: of the scale, in a block whose largest element is positive.
    """

    values: tuple[Fraction, ...]
    offset: Fraction | None
    mirrored: bool
    up: Fraction
    down: Fraction
    sides: tuple[int, ...]
    step: int
    sign: int

    def divisor(self, side: int) -> Fraction:
        """The divisor of a side."""
        return self.up if side > 0 else self.down

    def codes(self, y: Fraction) -> tuple[Fraction, ...]:
        """What y may be decoded to: two values where it lies half-way."""
        if self.offset is not None:
            return self._truncated(y)
        place = bisect_left(self.values, y)
        beside = self.values[max(0, place - 1) : place + 1]
        nearest = min(abs(y - v) for v in beside)
        return tuple(v for v in beside if abs(y - v) == nearest)

    def _truncated(self, y: Fraction) -> tuple[Fraction, ...]:
        quotient = (-y if self.mirrored else y) + (self.offset or 0)
        last = len(self.values) - 1
        places = {max(0, min(last, n)) for n in (floor(quotient), ceil(quotient) - 1)}
        return tuple(self.values[last - p if self.mirrored else p] for p in sorted(places))

    def span(self, index: int) -> tuple[Fraction | None, Fraction | None]:
        """Between which ends elements are decoded to ``values[index]``; None: to the end."""
        low = self.turn(index) if index else None
        high = self.turn(index + 1) if index + 1 < len(self.values) else None
        return low, high

    def turn(self, index: int) -> Fraction:
        """Where ``values[index - 1]`` ends and ``values[index]`` begins."""
        if self.offset is None:
            return (self.values[index - 1] + self.values[index]) / 2
        if self.mirrored:
            return self.offset - (len(self.values) - index)
        return index - self.offset

    @property
    def turns(self) -> tuple[Fraction, ...]:
        """All of these, ascending."""
        return tuple(self.turn(i) for i in range(1, len(self.values)))

    def worst(self, y: Fraction, unit: Fraction = Fraction(1)) -> Fraction:
        """The larger squared error of y, whose values count in units of ``unit``."""
        return max((y - v / unit) ** 2 for v in self.codes(y))


@lru_cache(maxsize=64)
def codings(fmt: Format) -> tuple[Coding, ...]:
    """Every way to encode a block, in the order of the language."""
    steps = [0] + [s * n for n in range(1, fmt.scale.search + 1) for s in (-1, 1)]
    mirrors = (False, True) if fmt.scale.both_signs else (False,)
    return tuple(
        _coding(fmt, *choice)
        for choice in product(fmt.grids, fmt.scale.targets or (None,), mirrors, steps)
    )


def _coding(fmt: Format, grid: Grid, target: Fraction | None, mirrored: bool, step: int) -> Coding:
    values = tuple(sorted({v for v in grid.values if v is not None}))
    up, down = _divisors(fmt.scale.rule, values, target)
    sides = tuple(side for side, d in ((1, up), (-1, down)) if d)
    sign = -1 if mirrored else 1
    if fmt.scale.rule == "argmax":
        sign = -1 if -values[0] > values[-1] else 1
        sides = (sign,)
    elif mirrored:
        values = tuple(-v for v in values[::-1])
        up, down, sides = down, up, tuple(-s for s in sides)
    return Coding(values, fmt.policies.offset, mirrored, up, down, sides, step, sign)


def _divisors(
    rule: str, values: tuple[Fraction, ...], target: Fraction | None
) -> tuple[Fraction, Fraction]:
    low, high = min(values[0], Fraction(0)), values[-1]
    if rule == "absmax" and target is None:
        return high, -low
    end = max(high, -low) if target is None else target
    if rule in ("floor_log2", "ceil_log2", "even_log2"):
        end = Fraction(2) ** floor_log2(end)
    return end, end if low else low


# -- what is stored ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored scale, and between which ends the scales lie that are asked where it is stored.

    Attributes:
        value: exact.
        low, high: the ends; ``low`` is None where no block asks for it, and ``high`` where it
            is the largest, which larger ones saturate to.
        regime: ``normal``, ``subnormal`` or ``least``.
    """

    value: Fraction
    low: Fraction | None
    high: Fraction | None
    regime: str


def is_binary32(fmt: Format) -> bool:
    """Whether scales are binary32 numbers, of which there is no table."""
    return fmt.scale.word.number.mantissa == 23


@lru_cache(maxsize=64)
def stored_scales(fmt: Format) -> tuple[Stored, ...]:
    """Every stored scale but zero, ascending; none where scales are binary32 numbers."""
    if is_binary32(fmt):
        return ()
    number = fmt.scale.word.number
    wanted = fmt.scale.codes == "wanted"
    codes = [
        code
        for code in range(1 << number.magnitude_bits)
        if (m := number.magnitude(code)) is not None
        and (m > 0 if wanted else m >= fmt.scale.minimum)
    ]
    values = [number.magnitude(code) or Fraction(0) for code in codes]
    rounding = "even" if wanted else fmt.scale.rounding
    loses = number.magnitude(0) == 0 if wanted else fmt.scale.underflow == "zero_block"
    if fmt.scale.rule in _POWER_RULES and not wanted:
        asked = _asked_by_powers(fmt, values, rounding, loses, codes[0] % 2 == 0)
    else:
        asked = _asked(values, rounding, loses)
    normal = number.magnitude(1 << number.mantissa if number.subnormals else 0) or Fraction(0)
    regimes = ["least"] + ["normal" if v >= normal else "subnormal" for v in values[1:]]
    return tuple(
        Stored(value, *ends, regime)
        for value, ends, regime in zip(values, asked, regimes, strict=True)
    )


def _asked(
    values: list[Fraction], rounding: str, loses: bool
) -> list[tuple[Fraction | None, Fraction | None]]:
    """What is rounded to each value: up to it, from it on, or half-way from its neighbours."""
    found: list[tuple[Fraction | None, Fraction | None]] = []
    for i, value in enumerate(values):
        before = values[i - 1] if i else Fraction(0)
        after = values[i + 1] if i + 1 < len(values) else None
        low, above = (before + value) / 2, value if after is None else (value + after) / 2
        if rounding == "up":
            low, above = before, value
        elif rounding == "down":
            low, above = value, after or value
        high = None if after is None else above
        found.append((low if i or loses else Fraction(0), high))
    return found


def _asked_by_powers(
    fmt: Format, values: list[Fraction], rounding: str, loses: bool, first_even: bool
) -> list[tuple[Fraction | None, Fraction | None]]:
    """For each value the blocks that ask for a power of two which is stored as it."""
    share = power_share(fmt)
    first, last = values[0], values[-1]
    ends: dict[Fraction, Span] = {}
    for exponent in range(floor_log2(first) - 2, floor_log2(last) + 2):
        power = Fraction(2) ** exponent
        half = power * 2 == first and first_even
        lost = loses and power < first
        if lost and not (rounding == "up" or (rounding == "even" and (power * 2 > first or half))):
            continue
        # Between its binade's ends a float has every power of two: others lie past its ends.
        value = min(max(power, first), last)
        low, high = ends.get(value, (power * share, power * share))
        ends[value] = min(low, power * share), max(high, 2 * power * share)
    if not loses or rounding == "up":
        ends[first] = Fraction(0), ends[first][1]
    none: tuple[None, None] = (None, None)
    asked = [ends.get(value, none) for value in values]
    return [*asked[:-1], (asked[-1][0], None)]


def power_share(fmt: Format) -> Fraction:
    """From which multiple of a power of two on the rule asks for it."""
    match fmt.scale.rule:
        case "floor_log2":
            return Fraction(1)
        case "ceil_log2":
            return Fraction(1, 2)
        case "even_log2":
            element = named_float(fmt.grids[0].atom)
            return 1 - Fraction(1, 1 << (2 + (element.mantissa if element else 0)))
    return _ROOT_2 / 2


@lru_cache(maxsize=256)
def ratios(fmt: Format, regime: str, step: int = 0) -> tuple[Span, ...]:
    """Where asked / stored may lie while the stored scale is of a regime: apart, ascending.

    The largest word is asked for without end. Its ratios count as far as those of the others.
    """
    if is_binary32(fmt):
        return ((Fraction(1), Fraction(1)),) if regime == "normal" else ()
    scales = stored_scales(fmt)
    spans: list[Span] = []
    open_ended: list[Fraction] = []
    for i, kept in enumerate(scales):
        if kept.regime != regime or not 0 <= i - step < len(scales):
            continue
        asked = scales[i - step]
        if asked.low is None or (step and i == step):
            continue  # of blocks that ask for less than the least and then step, nothing is said
        if asked.high is None:
            open_ended.append(asked.low / kept.value)
        else:
            spans.append((asked.low / kept.value, asked.high / kept.value))
    top = max((high for _, high in spans), default=Fraction(0))
    spans += [(low, top) for low in open_ended if low < top]
    return tuple(_united(spans))


def _united(spans: list[Span]) -> Iterator[Span]:
    now: Span | None = None
    for low, high in sorted(spans):
        if now is not None and low <= now[1]:
            now = now[0], max(now[1], high)
            continue
        if now is not None:
            yield now
        now = low, high
    if now is not None:
        yield now


def regular_word(fmt: Format, asked: Fraction, step: int, odd: bool = False) -> Fraction:
    """What is stored far from both ends of the word, where its table goes on for ever.

    A tie goes to the word of even code. Where a binade has one word alone, ``odd`` says which
    of two neighbouring binades have an even code; else it is without meaning.
    """
    number: SmallFloat = fmt.scale.word.number
    fine = number.mantissa
    if fmt.scale.rule in _POWER_RULES:
        share = power_share(fmt)
        exponent = floor_log2(asked / share)
        if fmt.scale.rule == "ceil_log2" and asked == share * Fraction(2) ** exponent:
            exponent -= 1  # a power of two asks for itself
        return _word_at(exponent << fine, step, fine)
    binade = floor_log2(asked)
    exact = (asked / Fraction(2) ** binade - 1) * (1 << fine) + (binade << fine)
    below = floor(exact)
    match fmt.scale.rounding:
        case "down":
            place = below
        case "up":
            place = ceil(exact)
        case _:
            # In units of the place, half-way is half-way also to the next binade's first.
            up = exact - below > Fraction(1, 2)
            tie = exact - below == Fraction(1, 2)
            place = below + (up or (tie and (below % 2 == 1) != (odd and fine == 0)))
    return _word_at(place, step, fine)


def _word_at(place: int, step: int, fine: int) -> Fraction:
    binade, mantissa = divmod(place + step, 1 << fine)
    return Fraction(2) ** binade * (1 + Fraction(mantissa, 1 << fine))
