"""What the encoder's hardware compares with, exact: the scale's thresholds and the grid's form.

An element's magnitude over its block's scale is computed as a quotient of a few digits and what
remains, never rounded. What the digits are for depends on the grid:

* a *ladder* (integers, floats, HIF words) counts in steps of a unit that double from binade to
  binade, so the digits are rounded like a float's;
* any other grid is searched: the digits tell its midpoints apart, and the one midpoint that has
  the same digits is compared with exactly, by what remains.

The scale's thresholds repeat from one power of two to the next, as far as the word has its full
precision: they are searched by significand alone, and only the few below one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

import numpy as np

from ....compiler.exact import floor_log2, significant_bits
from ....compiler.format import Format
from ....compiler.thresholds import scale_thresholds
from ....compiler.view import GridView, view_of

#: Bias and significand of binary32.
BIAS, FRACTION = 127, 23

#: Shifts that ``calibrate`` gives a tensor: -SHIFTS..SHIFTS.
SHIFTS = 126

#: What is added to an exponent field less an offset, so that the difference is not negative.
OFFSET_BIAS = 127

#: Up to this many digits a midpoint is told apart by all of its digits.
FEW_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Search:
    """How many stored scales lie above the least for one side of a block.

    A peak's key is its binary32 bits, or with an offset its exponent less the offset, plus
    OFFSET_BIAS, before the fraction; the last ``ScalePlan.dropped`` bits count as one bit.
    A key reaches every threshold that is at most the key.

    Attributes:
        low: thresholds that do not repeat, ascending.
        repeats: the least key from which thresholds repeat with every power of two; None: never.
        octave: thresholds of the fraction in a power of two, without those that are 0, and
        base: the index is (exponent << mantissa) + those reached + base, with the mantissa bits
            of the scale word.
    """

    low: tuple[int, ...]
    repeats: int | None
    octave: tuple[int, ...]
    base: int


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """From a block's peaks to its scale word.

    The index of a stored scale counts from ``least``, the magnitude code of the least scale.

    Attributes:
        sides: searches of the positive and of the negative peak, or one of the larger of both.
        dropped: so many low bits of a peak count only as one bit, whether any of them is set; 0:
            all count.
        has_offset: the tensor's exponent offset is a port.
        least_offset: the least offset under which no subnormal number decides anything.
        limits: offset -> the largest index whose scale keeps all values finite, where it is not
            the last one.
        last: the largest index.
        live_keys: for every side the key from which a block is not all zero's; None: any number
            but zero.
        least: magnitude code of index 0.
        zero: magnitude code of an all-zero block.
        shift: exponents of scales are this much less than the word says.
    """

    sides: tuple[Search, ...]
    dropped: int
    has_offset: bool
    least_offset: int
    limits: dict[int, int]
    last: int
    live_keys: tuple[int, ...] | None
    least: int
    zero: int
    shift: int

    @property
    def fraction_bits(self) -> int:
        """Bits of a peak's fraction."""
        return FRACTION - self.dropped + (self.dropped > 0)

    @property
    def key_bits(self) -> int:
        """Bits of a peak's key."""
        return (9 if self.has_offset else 8) + self.fraction_bits


@dataclass(frozen=True, slots=True)
class Ladder:
    """A grid whose magnitudes are 0, 1, 2 .. in units, with steps that double.

    Magnitude i is i below 2^(mantissa+1), and the significands 2^mantissa .. in every binade
    above.

    Attributes:
        unit: exponent of the unit.
        mantissa: bits of a significand below its leading one.
        top: exponent of the largest magnitude in units.
        positive, negative: how many magnitudes above 0 either side has.
        ties: Verilog expressions of either side (positive, negative), over the magnitude's
            lowest bit ``odd``: whether a tie goes to the larger magnitude.
        form: how a code follows from sign and magnitude; ``table`` for ``codes`` one by one.
        codes: code by sign and magnitude.
    """

    unit: int
    mantissa: int
    top: int
    positive: int
    negative: int
    ties: tuple[str, str]
    form: str
    codes: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def digits(self) -> int:
        """Digits of the quotient: a significand and the bit that rounds it."""
        return self.mantissa + 2

    @property
    def rank_bits(self) -> int:
        """Bits of a rounded magnitude before it is clamped."""
        fields = max(0, self.top - self.mantissa + 1)
        return ((fields + 1) << self.mantissa).bit_length()


@dataclass(frozen=True, slots=True)
class Midpoint:
    """A midpoint's magnitude: its key, what its significand has past the digits, and its tie.

    ``passed_on_tie``: a magnitude equal to it counts as past it.
    """

    key: int
    rest: int
    passed_on_tie: bool


@dataclass(frozen=True, slots=True)
class Codebook:
    """Any grid: midpoints of either side by magnitude, and the codes between them.

    Attributes:
        unit: one less than the exponent of the least midpoint.
        digits: of the quotient's significand in a key.
        exponent_bits: of the exponent in a key: 0 below every midpoint, all ones above.
        rest_bits: bits of a midpoint's significand past the digits.
        sides: positive and negative midpoints, ascending by magnitude.
        codes: code by sign and midpoints passed.
        zero_code: what a zero of either sign takes where zero is itself a midpoint; else None.
    """

    unit: int
    digits: int
    exponent_bits: int
    rest_bits: int
    sides: tuple[tuple[Midpoint, ...], tuple[Midpoint, ...]]
    codes: tuple[tuple[int, ...], tuple[int, ...]]
    zero_code: int | None

    @property
    def top_key(self) -> int:
        """The exponent of a key above every midpoint."""
        return (1 << self.exponent_bits) - 1


@dataclass(frozen=True, slots=True)
class LanePlan:
    """From an element and its block's scale to a code.

    Attributes:
        grid: the grid's form.
        scale_bits: of the scale's significand, leading one included.
        unit_exponents: least and largest exponent field of unit * scale.
        normalize: places that subnormal elements have to be shifted by; None: subnormal
            elements are less than any midpoint.
    """

    grid: Ladder | Codebook
    scale_bits: int
    unit_exponents: tuple[int, int]
    normalize: int | None


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """The whole encoder of a format."""

    scale: ScalePlan
    lane: LanePlan


@lru_cache(maxsize=64)
def encoder_plan(fmt: Format) -> EncoderPlan:
    """What the encoder of a format compares with.

    The format is plain, with one trial and a scale word decoded by a table (see ``encoder``).

    Raises:
        ValueError: its scales under shifts leave binary32; the message says how.
    """
    grid = view_of(fmt).grids[0]
    form = _ladder(grid, fmt) or _codebook(grid)
    exponents, shift = _scale_exponents(fmt), fmt.scale.shift
    least_offset = -SHIFTS
    if shift is None:
        # No subnormal element, and no subnormal peak, comes near a midpoint or a threshold.
        first = min(point for side in _products(fmt) for point, _ in side[1:])
        least_offset = max(-SHIFTS, 2 - BIAS - form.unit - exponents[0], -126 - floor_log2(first))
        reach = (exponents[0] + least_offset, exponents[1] + SHIFTS)
        if least_offset > 0:
            raise ValueError("its scales, shifted by the tensor's offset, leave binary32")
    else:
        reach = (exponents[0] - shift, exponents[1] - shift)
    # A scale that is zero compares as 1, whatever the offset.
    units = (min(0, reach[0]) + form.unit + BIAS, max(0, reach[1]) + form.unit + BIAS)
    spare = form.mantissa - 1 if isinstance(form, Ladder) else 0
    need = None if units[0] >= 2 else max(0, min(FRACTION, 1 - units[0] - spare))
    lane = LanePlan(form, fmt.scale.word.number.mantissa + 1, units, need)
    return EncoderPlan(_scale_plan(fmt, least_offset), lane)


def _scale_exponents(fmt: Format) -> tuple[int, int]:
    """Exponents of the least and the largest scale that a block may get, shift left out.

    Raises:
        ValueError: a fixed shift rounds a scale.
    """
    view = view_of(fmt).scale
    values = [fmt.scale.word.number.magnitude(code) for code in view.ranks]
    known = [value for value in values if value]
    multiplier = Fraction(2) ** -(view.shift or 0)
    if any((value * multiplier * 2**149).denominator != 1 for value in known):
        raise ValueError("its shift brings scales below binary32")
    return floor_log2(min(known)), floor_log2(max(known))


def _products(fmt: Format) -> list[list[tuple[Fraction, bool]]]:
    """For every side that counts: from which peak on each rank is taken, and whether on it."""
    view = view_of(fmt)
    scale, trial = view.scale, view.trials[0]
    points, ups = (scale.first_point, *scale.points), (scale.first_tie_up, *scale.ties_up)
    steps = list(zip(points, ups, strict=True))
    divisors = [trial.positive_divisor, trial.negative_divisor]
    if scale.signed_rule:
        divisors = [min(d for d in divisors if d)]
    elif divisors[0] == divisors[1]:
        divisors = divisors[:1]
    multiplier = Fraction(2) ** -(scale.shift or 0)
    return [[(d * p * multiplier, up) for p, up in steps] for d in divisors if d]


def _scale_plan(fmt: Format, least_offset: int) -> ScalePlan:
    view = view_of(fmt)
    scale, moves = view.scale, view.scale.shift is None
    sides = _products(fmt)
    keys = [[_key(*step, moves) for step in side[1:]] for side in sides]
    starts = [_key(*side[0], moves) for side in sides] if scale.first_point else []
    every = [key for side in keys for key in side]
    dropped = 0
    while dropped < FRACTION and all(k % (2 << dropped) <= 1 for k in every + starts):
        dropped += 1
    dropped = dropped if dropped > 1 else 0
    shifts = [-o for o in range(least_offset, SHIFTS + 1)] if moves else [scale.shift or 0]
    last = len(scale.ranks) - 2
    limits = {}
    for shift in shifts:
        finite = np.isfinite(scale_thresholds(view, 2.0**-shift)[0]).sum(axis=1).max()
        if finite == 0:
            raise ValueError("its least scale takes the grid past binary32")
        if finite - 1 < last:
            limits[-shift] = int(finite) - 1
    if not moves and limits:
        last, limits = limits[-shifts[0]], {}
    return ScalePlan(
        sides=tuple(_search(fmt, side, moves, dropped) for side in keys),
        dropped=dropped,
        has_offset=moves,
        least_offset=least_offset,
        limits=limits,
        last=last,
        live_keys=tuple(_drop(key, dropped) for key in starts) or None,
        least=scale.ranks[1],
        zero=scale.ranks[0],
        shift=scale.shift or 0,
    )


def _key(product: Fraction, inclusive: bool, moves: bool) -> int:
    """The key of the least number of 24 bits that is past ``product``, or on it if inclusive."""
    exponent = floor_log2(product)
    if not moves:
        exponent = max(exponent, 1 - BIAS)  # subnormal numbers have the least exponent
    scaled = product / Fraction(2) ** (exponent - FRACTION)
    integer = ceil(scaled) if inclusive else int(scaled) + 1
    bias = BIAS + OFFSET_BIAS if moves else BIAS
    return ((exponent + bias - 1) << FRACTION) + integer


def _drop(key: int, dropped: int) -> int:
    """A key whose low bits count as one."""
    low = (1 << dropped) - 1
    return key >> dropped << 1 | (key & low > 0) if dropped else key


def _search(fmt: Format, keys: list[int], moves: bool, dropped: int) -> Search:
    """Where thresholds repeat from one power of two to the next, and the rest."""
    mantissa = fmt.scale.word.number.mantissa
    bits, count = (9 if moves else 8) + FRACTION, 1 << mantissa
    if keys[0] <= 0:
        raise ValueError("its scales, shifted by the tensor's offset, leave binary32")
    keys = [_drop(key, dropped) for key in keys if key < (1 << bits) - 1]
    step = _drop(1 << FRACTION, dropped)
    start = max(0, len(keys) - count)
    while start and keys[start - 1] + step == keys[start - 1 + count] and keys[start - 1] >= step:
        start -= 1
    if len(keys) - start < 2 * count:
        return Search(tuple(keys), None, (), 0)
    first = keys[start]
    octave = sorted(key % step for key in keys[start : start + count])
    base = bisect_right(keys, first) - ((first // step) << mantissa)
    base -= bisect_right(octave, first % step)
    found = Search(
        low=tuple(keys[:start]),
        repeats=first,
        octave=tuple(key for key in octave if key),
        base=base + octave.count(0),
    )
    for index, key in enumerate(keys):
        for probe in (key - 1, key):
            reached = min(_index(found, probe, step, mantissa), len(keys))
            if reached != bisect_right(keys, probe):
                raise AssertionError(f"threshold {index} of '{fmt.name}' is not found")
    return found


def _index(search: Search, key: int, step: int, mantissa: int) -> int:
    """What the hardware finds for a key."""
    if search.repeats is None or key < search.repeats:
        return bisect_right(search.low, key)
    exponent, fraction = divmod(key, step)
    return (exponent << mantissa) + bisect_right(search.octave, fraction) + search.base


def _ladder(grid: GridView, fmt: Format) -> Ladder | None:
    """The grid as a ladder, if it is one whose ties follow a rule."""
    values = [fmt.grids[0].values[code] or Fraction(0) for code in grid.order]
    if Fraction(0) not in values or len(values) < 3:
        return None
    last = len(values) - 1 - values[::-1].index(Fraction(0))
    first = values.index(Fraction(0))
    sides = (values[last:], [-v for v in values[first::-1]])
    above = (list(grid.order[last:]), list(grid.order[first::-1]))
    ties = (list(grid.ties_up[last:]), [not up for up in grid.ties_up[:first][::-1]])
    longest = max(sides, key=len)
    unit = longest[1]
    if unit.numerator & (unit.numerator - 1) or unit.denominator & (unit.denominator - 1):
        return None
    count = next((i for i, v in enumerate(longest) if v != i * unit), None)
    bits = ((len(longest) if count is None else count) - 2).bit_length()
    mantissa = max(0, bits - 1)
    steps = [_rung(i, mantissa) * unit for i in range(len(longest))]
    rules = [_tie_rule(side) for side in ties]
    if any(side != steps[: len(side)] for side in sides) or None in rules:
        return None
    codes = (tuple(above[0]), tuple(above[1]))
    return Ladder(
        unit=floor_log2(unit),
        mantissa=mantissa,
        top=floor_log2(longest[-1] / unit),
        positive=len(sides[0]) - 1,
        negative=len(sides[1]) - 1,
        ties=(rules[0] or "", rules[1] or ""),
        form=_form(codes, mantissa, fmt.code_bits),
        codes=codes,
    )


def _rung(index: int, mantissa: int) -> int:
    """Magnitude ``index`` of a ladder in units."""
    if index < 2 << mantissa:
        return index
    binade, fraction = divmod(index, 1 << mantissa)
    return ((1 << mantissa) + fraction) << (binade - 1)


def _tie_rule(away: list[bool]) -> str | None:
    """A Verilog expression for whether the tie above magnitude i goes to i + 1."""
    rules = {
        "1'b0": [False] * len(away),
        "1'b1": [True] * len(away),
        "odd": [bool(i % 2) for i in range(len(away))],
        "~odd": [not i % 2 for i in range(len(away))],
    }
    return next((text for text, wanted in rules.items() if wanted == away), None)


def _form(codes: tuple[tuple[int, ...], tuple[int, ...]], mantissa: int, bits: int) -> str:
    """How codes follow from sign and magnitude."""

    def hif(sign: int, index: int) -> int:
        # The least shift under which -16..15 holds the coefficient.
        value, shift = -_rung(index, mantissa) if sign else _rung(index, mantissa), 0
        while not -16 <= value <= 15:
            value, shift = value >> 1, shift + 1
        return shift << 5 | value & 31

    forms: dict[str, Callable[[int, int], int]] = {
        "sign_magnitude": lambda sign, index: sign << (bits - 1) | index,
        "twos_complement": lambda sign, index: (-index if sign else index) & ((1 << bits) - 1),
    }
    if mantissa == 3 and bits > 5 and max(map(len, codes)) > 16:
        forms["hif"] = hif
    for name, code_of in forms.items():
        if all(
            code == code_of(sign, index)
            for sign in (0, 1)
            for index, code in enumerate(codes[sign])
        ):
            return name
    return "table"


def _codebook(grid: GridView) -> Codebook:
    """The grid as two ascending lists of midpoints."""
    split = grid.zero_split
    steps = [
        (middle, up)
        for index, (middle, up) in enumerate(zip(grid.midpoints, grid.ties_up, strict=True))
        if middle
    ]
    positive = [(m, up) for m, up in steps if m > 0]
    negative = [(-m, not up) for m, up in reversed(steps) if m < 0]
    if not steps:
        raise ValueError("it has no midpoint besides zero: its codes are signs")
    exponents = [floor_log2(m) for m, _ in positive + negative]
    low, high = min(exponents), max(exponents)
    wide = max(significant_bits(m) or 1 for m, _ in steps)
    digits = next(
        n
        for n in range(1, wide + 1)
        if (n == wide or wide > FEW_DIGITS)
        and all(len({_cut(m, n) for m, _ in side}) == len(side) for side in (positive, negative))
    )
    digits = max(2, digits)
    order, below = grid.order, len(negative)
    middle = len(grid.midpoints) - len(steps)  # 1: a midpoint lies at zero
    zero_code = None
    if middle and split is None:
        zero_code = order[below + grid.ties_up[below]]
    return Codebook(
        unit=low - 1,
        digits=digits,
        exponent_bits=(high - low + 2).bit_length(),
        rest_bits=max(0, wide - digits),
        sides=(
            tuple(_midpoint(m, up, low, digits, wide) for m, up in positive),
            tuple(_midpoint(m, up, low, digits, wide) for m, up in negative),
        ),
        codes=(order[below + middle :], tuple(reversed(order[: below + 1]))),
        zero_code=zero_code,
    )


def _cut(value: Fraction, digits: int) -> tuple[int, int]:
    """Exponent, and the first digits of the significand."""
    exponent = floor_log2(value)
    return exponent, int(value / Fraction(2) ** (exponent - digits + 1))


def _midpoint(value: Fraction, up: bool, low: int, digits: int, wide: int) -> Midpoint:
    exponent, significand = _cut(value, max(digits, wide))
    rest_bits = max(0, wide - digits)
    top, rest = divmod(significand, 1 << rest_bits)
    fraction = top - (1 << (digits - 1))
    return Midpoint((exponent - low + 1) << (digits - 1) | fraction, rest, up)
