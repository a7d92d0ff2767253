"""The one view of a ``Format`` that every back end is fed from.

Here the exact rationals become the integers and binary32 bit patterns that a machine works
with. The NumPy reference, the C, Triton and Verilog emitters and the golden vectors read this
value and nothing else, so that a fact about a format is turned into bits in one place.

Encoding is two searches among thresholds, never a rounded division:

* the scale's rank is the number of scale thresholds below the block's absmax;
* an element's rank is the number of thresholds T with x > T in the total order of binary32
  (-0 below +0), where T is scale * midpoint rounded down to binary32, so that x > T holds
  exactly when x > scale * midpoint does. Where a tie goes up, T is the largest binary32
  number below the product.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import floor, isqrt

from .exact import FP32_MAX, floor_log2, fp32_bits, fp32_from_bits, round_fp32
from .floats import named_float
from .format import Format, Grid, Scale
from .scales import LOG2_RULES, is_fp32_word

NAN_BITS = 0x7FC00000
NEGATIVE_ZERO_BITS = 0x80000000

#: Under ``compare fp32_reciprocal`` a scale counts as at least this, so that 1 / scale stays
#: finite: the binary32 number nearest to 1e-38, as bitsandbytes has it.
RECIPROCAL_FLOOR = round_fp32(Fraction(1, 10**38))


@dataclass(frozen=True, slots=True)
class GridView:
    """One grid as a back end sees it.

    Attributes:
        name: the grid's name.
        lut_bits: binary32 bits of every code's value (-0 and NaN included).
        order: codes in ascending order of value, -0 before +0; rank -> code.
        midpoints: between rank i and i+1; exact in binary64 with at most 29 significant bits.
        ties_up: whether x equal to scale * midpoint takes the upper rank.
        quotient_bits: thresholds of a rounded quotient (``compare fp32_quotient`` and
            ``fp32_reciprocal``) as binary32 bits, to compare with ``>``; under ``add after`` of
            an integer, the rounded quotient plus the zero point.
        zero_split: the index of the threshold between -0 and +0, or None.
        zero_code: the code that +0 takes.
        positive_divisor: absmax of the positive elements / this = the scale they ask for.
        negative_divisor: the same for the negative ones; 0 where they do not count.
        end_is_negative: the endpoint t* of rule argmax is the negative one.
        largest_scale_bits: binary32 bits of the largest scale under which every value of the
            grid is finite: where an fp32 scale saturates.
    """

    name: str
    lut_bits: tuple[int, ...]
    order: tuple[int, ...]
    midpoints: tuple[Fraction, ...]
    ties_up: tuple[bool, ...]
    quotient_bits: tuple[int, ...]
    zero_split: int | None
    zero_code: int
    positive_divisor: Fraction
    negative_divisor: Fraction
    end_is_negative: bool
    largest_scale_bits: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to encode a block: a grid, what its largest element is scaled to, and a nudge.

    Attributes:
        grid: the grid's index.
        positive_divisor, negative_divisor: as in ``GridView``, for this trial's target.
        flip: the scale is negative: the block is encoded with the mirrored grid.
        step: how many stored scales above the rule's.
    """

    grid: int
    positive_divisor: Fraction
    negative_divisor: Fraction
    flip: bool = False
    step: int = 0


@dataclass(frozen=True, slots=True)
class ScaleView:
    """The scale word as a back end sees it.

    A word is ``magnitude << magnitude_lsb | sign << sign_bit | select bits``. With ``is_fp32``
    the magnitude is the binary32 number itself (31 bits) and the tables are empty.

    Attributes:
        container: bits of a stored word.
        magnitude_bits, magnitude_lsb: where exponent and mantissa stand.
        sign_bit: position of a sign that mirrors the grid; None when there is none (or it
            carries a select bit).
        is_fp32: the word is binary32.
        values_bits: binary32 bits of every magnitude code's value.
        ranks: magnitude codes in ascending order; rank 0 is an all-zero block's.
        first_point, first_tie_up: the threshold between rank 0 and 1 in units of the scale, and
            whether an absmax on it takes rank 1: 0 unless small blocks count as all zero.
        points: thresholds between rank i and i+1 for i >= 1, in units of the scale.
        ties_up: whether an absmax on the threshold takes the upper rank.
        nan_magnitude: magnitude code of NaN, or None.
        signed_rule: rule argmax: the scale takes the sign that maps the largest element to t*.
        has_tensor_scale: the tensor has a binary32 second level.
        shift: fixed power of two, or None for one per tensor.
        minimum_bits, zero_bits: binary32 bits of the least scale and of an all-zero block's.
        aim: the scale that the tensor's largest block gets under a second level, exact.
        largest, smallest_normal: of the scale word's finite values, exact.
    """

    container: int
    magnitude_bits: int
    magnitude_lsb: int
    sign_bit: int | None
    is_fp32: bool
    values_bits: tuple[int, ...]
    ranks: tuple[int, ...]
    first_point: Fraction
    first_tie_up: bool
    points: tuple[Fraction, ...]
    ties_up: tuple[bool, ...]
    nan_magnitude: int | None
    signed_rule: bool
    has_tensor_scale: bool
    shift: int | None
    minimum_bits: int
    zero_bits: int
    aim: Fraction
    largest: Fraction
    smallest_normal: Fraction


@dataclass(frozen=True, slots=True)
class View:
    """A format in machine numbers. See ``GridView``, ``ScaleView`` and ``Trial``.

    ``trials`` are in the order of preference: the first of those with the least error wins.
    """

    format: Format
    grids: tuple[GridView, ...]
    scale: ScaleView
    trials: tuple[Trial, ...]

    @property
    def zero_kind(self) -> str:
        """``none``, ``point`` or ``minimum``."""
        return "none" if self.format.zero is None else self.format.zero.kind

    @property
    def adds_after(self) -> bool:
        """Whether quotients are rounded to integers before the zero point is added."""
        return self.format.zero is not None and self.format.zero.add == "after"

    @property
    def decode_bits(self) -> tuple[int, ...]:
        """binary32 bits by ``select << code_bits | code``; NaN where no grid has the index."""
        size = 1 << self.format.code_bits
        rows = [grid.lut_bits for grid in self.grids]
        rows += [(NAN_BITS,) * size] * ((1 << self.format.select.bits) - len(rows))
        return tuple(bits for row in rows for bits in row)


@lru_cache(maxsize=256)
def view_of(fmt: Format) -> View:
    """The view of a format, built once."""
    grids = tuple(_grid_view(fmt, grid) for grid in fmt.grids)
    return View(fmt, grids, _scale_view(fmt), tuple(_trials(fmt)))


def _trials(fmt: Format) -> Iterator[Trial]:
    scale = fmt.scale
    steps = [0] + [sign * n for n in range(1, scale.search + 1) for sign in (-1, 1)]
    for index, grid in enumerate(fmt.grids):
        for target in scale.targets or (None,):
            divisors = _divisors(scale, grid, target)
            for flip in (False, True) if scale.both_signs else (False,):
                for step in steps:
                    yield Trial(index, *divisors, flip, step)


def _grid_view(fmt: Format, grid: Grid) -> GridView:
    keep = fmt.policies.negative_zero == "keep"
    ranked: dict[tuple[Fraction, bool], int] = {}
    for code, value in enumerate(grid.values):
        if value is None or (code == grid.negative_zero and not keep):
            continue
        # Codes of the same value: the lowest is canonical. -0 sorts before +0.
        ranked.setdefault((value, code != grid.negative_zero), code)
    ladder = sorted(ranked)
    order = tuple(ranked[key] for key in ladder)
    pairs = list(pairwise(ladder))
    midpoints = tuple((low[0] + high[0]) / 2 for low, high in pairs)
    split = next((i for i, (low, high) in enumerate(pairs) if low[0] == high[0]), None)
    ties = tuple(
        _tie_goes_up(fmt.policies.tie, middle, ranked[low], ranked[high])
        for middle, (low, high) in zip(midpoints, pairs, strict=True)
    )
    targets = fmt.scale.targets
    positive, negative = _divisors(fmt.scale, grid, targets[0] if targets else None)
    zero_rank = _zero_rank(midpoints, ties, split)
    if fmt.policies.offset is not None:  # ranks are truncated quotients: 0 has that of the offset
        zero_rank = max(0, min(floor(fmt.policies.offset), len(midpoints)))
    return GridView(
        name=grid.name,
        lut_bits=tuple(_lut_bits(grid, code) for code in range(len(grid.values))),
        order=order,
        midpoints=midpoints,
        ties_up=ties,
        quotient_bits=_quotient_bits(fmt, midpoints, ties, split),
        zero_split=split,
        zero_code=order[zero_rank],
        positive_divisor=positive,
        negative_divisor=negative,
        end_is_negative=grid.absmax_end < 0,
        largest_scale_bits=largest_scale_bits(grid),
    )


def largest_scale_bits(grid: Grid) -> int:
    """Bits of the largest binary32 s with RNE32(s * end) finite, by bisection over the bits."""
    end = max(grid.high, -grid.low)
    low, high = 0, fp32_bits(float(FP32_MAX)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        product = round_fp32(Fraction(fp32_from_bits(middle)) * end)
        low, high = (middle, high) if product != float("inf") else (low, middle)
    return low


def _zero_rank(midpoints: tuple[Fraction, ...], ties: tuple[bool, ...], split: int | None) -> int:
    """The rank that x = +0 takes."""
    return sum(
        middle < 0 or index == split or (middle == 0 and up)
        for index, (middle, up) in enumerate(zip(midpoints, ties, strict=True))
    )


def _tie_goes_up(tie: str, middle: Fraction, low_code: int, high_code: int) -> bool:
    match tie:
        case "up":
            return True
        case "down":
            return False
        case "toward_zero":
            return middle < 0
        case "away":
            return middle >= 0
        case _:  # even: the neighbour with the even code; the lower if both or neither is
            return high_code % 2 == 0 and low_code % 2 == 1


def _quotient_bits(
    fmt: Format,
    midpoints: tuple[Fraction, ...],
    ties_up: tuple[bool, ...],
    split: int | None,
) -> tuple[int, ...]:
    offset = fmt.policies.offset
    if offset is not None:
        return tuple(_last_below(rank + 1, offset) for rank in range(len(midpoints)))
    if fmt.zero is not None and fmt.zero.add == "after":
        # Integers are compared: the next one is above a value, which is a binary32 number.
        return tuple(fp32_bits(float(floor(midpoint))) for midpoint in midpoints)
    bits = []
    for index, (midpoint, up) in enumerate(zip(midpoints, ties_up, strict=True)):
        rounded = fp32_bits(round_fp32(midpoint))
        if index == split:
            bits.append(NEGATIVE_ZERO_BITS)
        else:
            bits.append(_below(rounded) if up else rounded)
    return tuple(bits)


def _last_below(integer: int, offset: Fraction) -> int:
    """Bits of the largest binary32 y with RNE32(y + offset) < integer, by bisection."""
    below = _ordered(fp32_bits(round_fp32(integer - offset - 2)))
    above = _ordered(fp32_bits(round_fp32(integer - offset + 2)))
    while above - below > 1:
        middle = (below + above) // 2
        if round_fp32(Fraction(fp32_from_bits(_unordered(middle))) + offset) < integer:
            below = middle
        else:
            above = middle
    return _unordered(below)


def _ordered(bits: int) -> int:
    """An integer that orders like the binary32 number with these bits; -0 below +0."""
    return -1 - (bits ^ NEGATIVE_ZERO_BITS) if bits & NEGATIVE_ZERO_BITS else bits


def _unordered(order: int) -> int:
    return (-1 - order) ^ NEGATIVE_ZERO_BITS if order < 0 else order


def _divisors(scale: Scale, grid: Grid, target: Fraction | None) -> tuple[Fraction, Fraction]:
    """What the largest positive and negative element are divided by for the real scale."""
    if scale.rule == "range":
        return grid.high - grid.low, Fraction(0)
    end = abs(grid.absmax_end) if target is None else target
    if scale.rule in ("floor_log2", "ceil_log2", "even_log2"):
        end = Fraction(2) ** floor_log2(end)
    elif scale.rule == "absmax" and target is None:
        return grid.high, max(-grid.low, Fraction(0))
    return end, end if grid.low < 0 else Fraction(0)


def _lut_bits(grid: Grid, code: int) -> int:
    value = grid.values[code]
    if value is None:
        return NAN_BITS
    return NEGATIVE_ZERO_BITS if code == grid.negative_zero else fp32_bits(float(value))


def _scale_view(fmt: Format) -> ScaleView:
    scale, word = fmt.scale, fmt.scale.word
    number = word.number
    fp32 = is_fp32_word(word)
    magnitudes = () if fp32 else number.magnitudes()
    numbers = [(m, c) for c, m in enumerate(magnitudes) if m is not None]  # ascending
    above = [c for _, c in numbers[bisect_left(numbers, (scale.minimum, 0)) :]]
    rule = _rule(fmt)
    rules = [
        rule(magnitudes[a] or Fraction(0), magnitudes[b] or Fraction(0), b)
        for a, b in pairwise(above)
    ]
    first = (Fraction(0), False)
    if scale.underflow == "zero_block" and above:
        first = _first(scale, rule, magnitudes[above[0]] or Fraction(0), above[0])
    zero = number.magnitude(scale.zero_block)
    return ScaleView(
        container=word.container,
        magnitude_bits=number.magnitude_bits,
        magnitude_lsb=word.magnitude_lsb,
        sign_bit=None if fmt.select.place == "scale.sign" else word.sign_bit,
        is_fp32=fp32,
        values_bits=tuple(NAN_BITS if m is None else fp32_bits(float(m)) for m in magnitudes),
        ranks=() if fp32 else (scale.zero_block, *above),
        first_point=first[0],
        first_tie_up=first[1],
        points=tuple(point for point, _ in rules),
        ties_up=tuple(up for _, up in rules),
        nan_magnitude=number.nan_code,
        signed_rule=scale.rule == "argmax",
        has_tensor_scale=scale.tensor == "fp32",
        shift=scale.shift,
        minimum_bits=fp32_bits(float(scale.minimum)),
        zero_bits=fp32_bits(float(zero or 0)),
        aim=number.largest if scale.aim is None else scale.aim,
        largest=number.largest,
        smallest_normal=number.smallest_normal,
    )


def _first(scale: Scale, rule: Rule, least: Fraction, code: int) -> tuple[Fraction, bool]:
    """From which real scale on the least one is stored, where less is stored as zero."""
    if scale.rule not in LOG2_RULES:
        return rule(Fraction(0), least, code)
    if scale.rounding == "up":
        return Fraction(0), False
    # Powers of two are asked for, and ``round`` says which of those below the least become it.
    point, included = _ROUNDINGS[scale.rounding](Fraction(0), least, code)
    power = Fraction(2) ** floor_log2(point)
    if power < point or (power == point and not included):
        power *= 2
    return rule(power / 2, power, code)


#: From two neighbouring scales and the upper one's code: the real scale from which the upper
#: one is stored, and whether that one is included.
Rule = Callable[[Fraction, Fraction, int], tuple[Fraction, bool]]

#: sqrt(2) from below: no binary32 number, nor one divided by a grid value, lies in between.
_SQRT_2 = Fraction(isqrt(2 << 400), 1 << 200)


def _rule(fmt: Format) -> Rule:
    rule = fmt.scale.rule
    if rule == "floor_log2":
        return lambda low, high, _: (_upper_power(low, high), True)
    if rule == "ceil_log2":
        return lambda low, high, _: (_upper_power(low, high) / 2, False)
    if rule == "even_log2":
        step = Fraction(1, 4 << _mantissa(fmt.grids[0]))
        return lambda low, high, _: (_upper_power(low, high) * (1 - step), True)
    if rule == "round_log2":
        return lambda low, high, _: (_upper_power(low, high) / 2 * _SQRT_2, False)
    return _ROUNDINGS[fmt.scale.rounding]


_ROUNDINGS: dict[str, Rule] = {
    "down": lambda _, high, __: (high, True),
    "up": lambda low, _, __: (low, False),
    "even": lambda low, high, high_code: (_middle(low, high), high_code % 2 == 0),
}


def _middle(low: Fraction, high: Fraction) -> Fraction:
    """(low + high) / 2 as one fraction: a wide scale word has tens of thousands of them."""
    below = low.denominator * high.denominator
    above = low.numerator * high.denominator + high.numerator * low.denominator
    return Fraction(above, 2 * below)


def _upper_power(low: Fraction, high: Fraction) -> Fraction:
    """The power of two in (low, high], or the next above: only powers of two are asked for."""
    power = Fraction(2) ** floor_log2(high)
    return power if power > low else 2 * power


def _mantissa(grid: Grid) -> int:
    """Mantissa bits of a grid that is a float (checked where ``even_log2`` is declared)."""
    number = named_float(grid.atom)
    return 0 if number is None else number.mantissa


def _below(bits: int) -> int:
    """The bits of the largest binary32 number below the one with ``bits`` (not -inf or NaN)."""
    if bits in (0, NEGATIVE_ZERO_BITS):
        return NEGATIVE_ZERO_BITS | 1
    return bits + 1 if bits & NEGATIVE_ZERO_BITS else bits - 1
