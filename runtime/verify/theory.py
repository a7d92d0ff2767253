"""What the theory promises of a format, and where: the conditions of the properties."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import frexp

from ...compiler.exact import fp32_from_bits, round_fp32
from ...compiler.format import Format, Grid, ScaleWord
from . import oracle

#: Sizes between which binary32 arithmetic scales by powers of two without a subnormal.
_MODERATE = (Fraction(2) ** -90, Fraction(2) ** 90)


def has_one_trial(fmt: Format) -> bool:
    """Whether a block's scale, sign and grid follow from the rule alone."""
    scale = fmt.scale
    return (
        len(fmt.grids) == 1
        and len(scale.targets) <= 1
        and scale.search == 0
        and not scale.both_signs
    )


def rows_stand_alone(fmt: Format) -> bool:
    """Whether a row is stored alike alone and among others, under one second level."""
    inner = [owner for owner in (fmt.scale, fmt.zero) if owner is not None]
    return (
        fmt.tile == 1
        and fmt.extent != "tensor"
        and not fmt.sides
        and not any(owner.flat or owner.center for owner in inner)
    )


def is_odd(fmt: Format) -> bool:
    """Whether -x decodes to minus what x does (up to the sign of a zero).

    So it is without zero point, minimum and offset where every grid is its own mirror image,
    ties included, and has a zero; under rule argmax with one trial the scale mirrors any grid,
    and what it is stored in has to be odd in turn.
    """
    if fmt.zero is not None or fmt.policies.offset is not None:
        return False
    inner = fmt.scale.stored
    if fmt.scale.rule == "argmax":
        zero = all(0 in grid.numbers for grid in fmt.grids)
        # A NaN or zero scale aside the sign is the scale's: a stored one must be odd itself.
        return zero and (inner is None or (is_odd(inner) and not fmt.scale.center))
    return all(_is_mirror_image(fmt, index) for index in range(len(fmt.grids)))


def _is_mirror_image(fmt: Format, index: int) -> bool:
    grid = fmt.grids[index]
    numbers = grid.numbers
    if 0 not in numbers or any(-v not in numbers for v in numbers):
        return False
    # A tie of two negative values goes the way of its mirror image.
    for low, high in pairwise(numbers):
        middle = float((low + high) / 2)
        if middle <= 0 or Fraction(middle) != (low + high) / 2:
            continue
        up = _value(fmt, grid, index, middle)
        down = _value(fmt, grid, index, -middle)
        if up != -down:
            return False
    return True


def _value(fmt: Format, grid: Grid, index: int, x: float) -> Fraction:
    return grid.values[oracle.code_of(fmt, index, x, 1.0)] or Fraction(0)


def is_well_apart(grid: Grid) -> bool:
    """Whether no midpoint, rounded to binary32, lies on a value of the grid."""
    numbers = set(grid.numbers)
    return not any(Fraction(round_fp32((a + b) / 2)) in numbers for a, b in pairwise(grid.numbers))


def inverts(fmt: Format, scale: float) -> bool:
    """Whether a value on the grid, compared as the format says, is seen to be there.

    x * RNE32(1 / s) may be some steps beside the grid; a power of two has an exact inverse.
    """
    if fmt.policies.compare != "fp32_reciprocal":
        return True
    mantissa, _ = frexp(scale)
    return abs(mantissa) == 0.5 and 2.0**-100 < abs(scale) < 2.0**100


# -- scaling by powers of two --------------------------------------------------------------


def is_in_range(fmt: Format, fields: oracle.Fields) -> bool:
    """Whether no stored scale or minimum is near an end of its word's normal range.

    There a tensor times 4 has the same words with the exponent two higher. (4 and not 2: a word
    without mantissa breaks ties by the parity of its exponent.)
    """
    inner = (("scales", fmt.scale), ("zeros", fmt.zero))
    for name, owner in inner:
        if owner is None:
            continue
        if owner.stored is not None:
            own = {
                key.removeprefix(f"{name}."): rows
                for key, rows in fields.items()
                if key.startswith(f"{name}.")
            }
            if not is_in_range(owner.stored, own):
                return False
            if "center" in own and not _is_moderate(fp32_from_bits(own["center"][0][0])):
                return False
        elif name == "scales":
            words = (word for row in fields["scales"] for word in row)
            if not all(_is_middling(fmt, fmt.scale.word, word) for word in words):
                return False
        elif fmt.zero is not None and fmt.zero.word is not None:
            words = (word for row in fields["zeros"] for word in row)
            if not all(_is_normal(fmt.zero.word, word) for word in words):
                return False
    levels = fields.get("levels", [])
    return all(_is_moderate(fp32_from_bits(row[0])) for row in levels)


def _is_moderate(value: float) -> bool:
    return _MODERATE[0] < abs(Fraction(value)) < _MODERATE[1]


def _is_normal(word: ScaleWord, bits: int) -> bool:
    """Whether a stored minimum is 0, or normal and not the largest."""
    value = oracle.word_value(word, bits)
    if value != value:
        return False
    size = abs(Fraction(value))
    return size == 0 or (word.number.smallest_normal <= size < word.number.largest)


def _is_middling(fmt: Format, word: ScaleWord, bits: int) -> bool:
    """Whether a stored scale, and those that were tried beside it, are normal ones."""
    value = oracle.word_value(word, bits, signed=False)
    if oracle.is_fp32(word):
        return value == value and _is_moderate(value)
    number = word.number
    code = bits >> word.magnitude_lsb & ((1 << number.magnitude_bits) - 1)
    low, high = (number.magnitude(max(0, code + sign * fmt.scale.search)) for sign in (-1, 1))
    if low is None or high is None or code == fmt.scale.zero_block:
        return False
    least = max(number.smallest_normal, fmt.scale.minimum)
    spread = _spread(fmt)
    inside = least < low / spread and high * spread < number.largest
    return inside and code > fmt.scale.search


def _spread(fmt: Format) -> Fraction:
    """How many times another trial's scale may be larger or smaller; 2 for what rules round."""
    if has_one_trial(fmt):
        return Fraction(1)
    ends = [end for grid in fmt.grids for end in (grid.high, -grid.low) if end > 0]
    ends = [*ends, *fmt.scale.targets]
    return 2 * max(ends) / min(ends)
