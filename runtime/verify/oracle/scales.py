"""Scales: what a rule asks for, and which stored words there are to give."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ....compiler.exact import FP32_MAX, floor_log2, fp32_bits, fp32_from_bits, round_fp32
from ....compiler.floats import SmallFloat, named_float
from ....compiler.format import Format, Grid, ScaleWord
from .binary32 import INFINITY, LARGEST, is_negative, times

LOG2_RULES = ("floor_log2", "ceil_log2", "even_log2", "round_log2")


@dataclass(frozen=True, slots=True)
class Level:
    """A tensor's second level: a stored scale counts in units of tensor_scale * 2^-shift."""

    tensor_scale: float = 1.0
    shift: int = 0

    @property
    def unit(self) -> Fraction:
        """What a stored scale is multiplied by."""
        return Fraction(self.tensor_scale) / Fraction(2) ** self.shift


# -- words ---------------------------------------------------------------------------------


def is_fp32(word: ScaleWord) -> bool:
    """Whether the word is a binary32 number itself."""
    return word.number.mantissa == 23


@lru_cache(maxsize=64)
def last_code(number: SmallFloat) -> int:
    """The magnitude code of the largest finite value."""
    code = (1 << number.magnitude_bits) - 1
    while number.magnitude(code) is None:
        code -= 1
    return code


def magnitude(number: SmallFloat, code: int) -> Fraction:
    """The value of a finite magnitude code."""
    value = number.magnitude(code)
    if value is None:
        raise ValueError(f"the code {code} is no number")
    return value


def floor_code(number: SmallFloat, value: Fraction) -> int | None:
    """The code of the largest magnitude that is at most ``value``; None where none is."""
    low, high = -1, last_code(number)
    while low < high:
        middle = (low + high + 1) // 2
        if magnitude(number, middle) <= value:
            low = middle
        else:
            high = middle - 1
    return None if low < 0 else low


def nearest_word(word: ScaleWord, value: float, *, signed: bool = True) -> int:
    """The word nearest to a binary32 value: ties to even, at most the largest, its own sign."""
    if is_fp32(word):
        return fp32_bits(value)
    code = _between(word.number, abs(Fraction(value)), 0, last_code(word.number), "even")
    bits = code << word.magnitude_lsb
    if word.sign_bit is not None and signed:
        bits |= is_negative(value) << word.sign_bit
    return bits


def word_value(word: ScaleWord, bits: int, *, signed: bool = True) -> float:
    """The binary32 value of a word; NaN where it is no number."""
    if is_fp32(word):
        return fp32_from_bits(bits if signed else bits & 0x7FFFFFFF)
    value = word.number.magnitude(
        bits >> word.magnitude_lsb & (1 << word.number.magnitude_bits) - 1
    )
    if value is None:
        return float("nan")
    negative = signed and word.sign_bit is not None and bits >> word.sign_bit & 1
    return -float(value) if negative else float(value)


def _between(number: SmallFloat, value: Fraction, first: int, last: int, rounding: str) -> int:
    """The code from ``first`` to ``last`` that ``value`` is rounded to."""
    below = floor_code(number, value)
    if below is None or below < first:
        return first
    if below >= last:
        return last
    low, high = magnitude(number, below), magnitude(number, below + 1)
    if rounding == "down" or value == low:
        return below
    if rounding == "up":
        return below + 1
    if value - low != high - value:
        return below if value - low < high - value else below + 1
    return below + below % 2


# -- what a rule asks for ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """The elements of a block as rules see them: exact, in order.

    ``range`` is what rule range scales, ``minus`` whether the first element's sign bit is set.
    """

    elements: tuple[Fraction, ...]
    range: Fraction | None = None
    minus: bool = False

    def most(self, negated: bool) -> Fraction:
        """Max(x, 0) over the block, or max(-x, 0)."""
        sign = -1 if negated else 1
        return max(Fraction(0), *(sign * x for x in self.elements))


def real_scale(
    fmt: Format, grid: Grid, target: Fraction | None, mirrored: bool, block: Block, unit: Fraction
) -> tuple[Fraction, bool]:
    """The scale that the rule asks for, in units of the second level, and its sign.

    Zero where nothing in the block counts. Rules of powers of two see the elements in these
    units: with a second level too they ask for powers of two.
    """
    rule = fmt.scale.rule
    if rule == "range":
        return (block.range or Fraction(0)) / (grid.high - grid.low) / unit, mirrored
    p, n = block.most(mirrored), block.most(not mirrored)
    if rule == "argmax":
        largest = max(p, n)
        first = next((x for x in block.elements if abs(x) == largest), Fraction(0))
        asked = largest / (target or abs(grid.absmax_end)) / unit
        negative = (first < 0 if largest else block.minus) != (grid.absmax_end < 0)
        # Of a scale that is stored as it is wanted, a zero too has the sign of x* / t*.
        return asked, negative and (largest > 0 or fmt.scale.codes == "wanted")
    if grid.low >= 0:
        n = Fraction(0)  # a side without grid values does not count
    if rule == "absmax" and target is None:
        return max(p / grid.high, n / -grid.low if n else Fraction(0)) / unit, mirrored
    end = target or abs(grid.absmax_end)
    m = max(p, n) / unit
    if m == 0 or rule == "absmax":
        return m / end, mirrored
    return Fraction(2) ** _exponent(fmt, rule, m, end), mirrored


def _exponent(fmt: Format, rule: str, m: Fraction, end: Fraction) -> int:
    if rule == "round_log2":
        exponent = floor_log2(m / end)
        return exponent + ((m / end / Fraction(2) ** exponent) ** 2 > 2)
    top = floor_log2(m)
    if rule == "ceil_log2":
        top += Fraction(2) ** top < m
    elif rule == "even_log2":
        element = named_float(fmt.grids[0].atom)
        mantissa = element.mantissa if element else 0
        top += m >= Fraction(2) ** (top + 1) * (1 - Fraction(1, 4 << mantissa))
    return top - floor_log2(end)


# -- what is stored ------------------------------------------------------------------------


def stored_codes(fmt: Format, grid: Grid, asked: Fraction, unit: Fraction) -> list[int]:
    """Magnitude codes for a real scale: the rule's, then those that a search tries as well."""
    scale, number = fmt.scale, fmt.scale.word.number
    first = floor_code(number, scale.minimum)
    last = _last_finite(fmt, grid, unit)
    # Where no scale keeps the grid in binary32, the block is stored like one of zeros.
    if asked == 0 or first is None or last < first:
        return [scale.zero_block]
    lost = asked < magnitude(number, first) and not _reaches(number, first, asked, scale.rounding)
    if scale.underflow == "zero_block" and lost:
        return [scale.zero_block]
    code = _between(number, asked, first, last, scale.rounding)
    nudges = [sign * n for n in range(1, scale.search + 1) for sign in (-1, 1)]
    return [code] + [code + n for n in nudges if first <= code + n <= last]


def _reaches(number: SmallFloat, first: int, asked: Fraction, rounding: str) -> bool:
    """Whether a scale between 0 and the least one is rounded to that."""
    half = magnitude(number, first) / 2
    if rounding == "even":
        return asked > half or (asked == half and first % 2 == 0)
    return rounding == "up"


@lru_cache(maxsize=256)
def _last_finite(fmt: Format, grid: Grid, unit: Fraction) -> int:
    """The largest code under which the grid's end decodes to a finite number; -1 for none."""
    number = fmt.scale.word.number
    low, high = -1, last_code(number)
    while low < high:
        middle = (low + high + 1) // 2
        effective = round_fp32(magnitude(number, middle) * unit)
        finite = effective != INFINITY and (
            abs(times(float(grid.absmax_end), effective)) != INFINITY
        )
        low, high = (middle, high) if finite else (low, middle - 1)
    return low


def wanted_fp32(fmt: Format, grid: Grid, asked: Fraction) -> float:
    """The binary32 scale: one correctly rounded division, saturated where the grid is finite."""
    scale = fmt.scale
    if asked == 0:
        zero = scale.word.number.magnitude(scale.zero_block) or Fraction(0)
        return round_fp32(zero)
    least = float(scale.minimum) if is_fp32(scale.word) else 2.0**-149
    rounded = min(round_fp32(asked), LARGEST)
    if abs(times(float(grid.absmax_end), rounded)) == INFINITY:
        low, high = 0, fp32_bits(rounded)
        while high - low > 1:
            middle = (low + high) // 2
            finite = abs(times(float(grid.absmax_end), fp32_from_bits(middle))) != INFINITY
            low, high = (middle, high) if finite else (low, middle)
        rounded = fp32_from_bits(low)
    return max(rounded, least)


# -- second levels -------------------------------------------------------------------------


def level_of(fmt: Format, blocks: Sequence[Sequence[float]]) -> Level:
    """The second level of a tensor whose blocks these are."""
    finite = [[Fraction(x) for x in block if abs(x) < INFINITY] for block in blocks]
    peaks = [max((abs(x) for x in block), default=Fraction(0)) for block in finite]
    if fmt.scale.tensor == "fp32":
        return Level(tensor_scale=tensor_scale(fmt, max(peaks, default=Fraction(0))))
    if fmt.scale.shift is None:
        return Level(shift=_best_shift(fmt, [peak for peak in peaks if peak]))
    return Level(shift=fmt.scale.shift)


def tensor_scale(fmt: Format, largest: Fraction) -> float:
    """RNE32(M / (e * aim)): the largest block's scale becomes ``aim``."""
    if largest == 0:
        return 1.0
    aim = fmt.scale.word.number.largest if fmt.scale.aim is None else fmt.scale.aim
    ends = [end for grid in fmt.grids for end in _divisors(fmt, grid)]
    reach = 2 * largest if fmt.scale.rule == "range" else largest  # a range may have both signs
    wanted = round_fp32(reach / (min(ends) * aim))
    return min(max(wanted, 2.0**-149), float(FP32_MAX))


def _divisors(fmt: Format, grid: Grid) -> list[Fraction]:
    """What a block's largest element is divided by under the rule and its first target."""
    scale = fmt.scale
    if scale.rule == "range":
        return [grid.high - grid.low]
    if scale.rule == "absmax" and not scale.targets:
        return [grid.high, *([-grid.low] if grid.low < 0 else [])]
    end = scale.targets[0] if scale.targets else abs(grid.absmax_end)
    if scale.rule in LOG2_RULES and scale.rule != "round_log2":
        end = Fraction(2) ** floor_log2(end)
    return [end]


def _best_shift(fmt: Format, peaks: list[Fraction]) -> int:
    number = fmt.scale.word.number
    divisor = max(_divisors(fmt, fmt.grids[0]))
    scales = [peak / divisor for peak in peaks]

    def badness(k: int) -> tuple[int, int, bool]:
        moved = (scale * Fraction(2) ** k for scale in scales)
        inside = sum(number.smallest_normal <= scale <= number.largest for scale in moved)
        return -inside, abs(k), k < 0

    return min(range(-126, 127), key=badness)


def little_endian(value: float) -> int:
    """The bits of a binary32 number that is stored as four bytes."""
    return int.from_bytes(struct.pack("<f", value), "little")
