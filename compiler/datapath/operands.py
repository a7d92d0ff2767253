"""What a multiplier takes of one side of a dot product: a coefficient and a shift.

A HIF word is one (SOP, arXiv:2605.14929), and so is a minifloat: its signed significand, shifted
by its exponent. Integers are coefficients without a shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ..format import Format
from ..hosts import COEFFICIENT_BITS, HIF_HOSTS, HifWord
from .accumulators import Bounds
from .stages import lsb, odd_part

#: A shift has to make the coefficient narrower by this factor, or words are plain fixed point.
WORTH_A_SHIFT = Fraction(3, 4)


@dataclass(frozen=True, slots=True)
class Operand:
    """The words of a format's elements: ``value = coefficient << shift`` in units of 2^unit.

    Attributes:
        name: of the HIF host that the format declares; else of the format.
        unit: exponent of the least significant bit.
        coefficient_bits: of the coefficient, in two's complement.
        max_shift: the largest shift of a word; 0: words have no shift.
        coefficient, value: what words may be, zero included: of a HIF host all of its words, else
            the ranges that the format's own words attain.
        words: by grid and code; None for a code that is no number.
    """

    name: str
    unit: int
    coefficient_bits: int
    max_shift: int
    coefficient: Bounds
    value: Bounds
    words: tuple[tuple[HifWord | None, ...], ...]

    @property
    def shift_bits(self) -> int:
        """The width of the shift field; 0: there is none."""
        return self.max_shift.bit_length()

    @property
    def coefficients(self) -> Bounds:
        """All coefficients that the field can hold."""
        half = 1 << (self.coefficient_bits - 1)
        return Bounds(-half, half - 1)

    @property
    def form(self) -> str:
        """The words in a few words."""
        if not self.max_shift:
            return f"{self.coefficient_bits}-bit integers of 2^{self.unit}"
        return (
            f"{self.coefficient_bits}-bit coefficients shifted by 0..{self.max_shift}, "
            f"of 2^{self.unit}"
        )


@lru_cache(maxsize=256)
def operand_of(fmt: Format) -> Operand:
    """The operand that a format's elements are.

    A declared HIF host is taken whole, so that its table can hold any of the host's codebooks.
    Of other formats the coefficient is as narrow as the odd parts of the values allow, or the
    values are fixed point where that is hardly wider. Coefficients are symmetric where they can
    be: -16 is written -8 << 1. A grid whose codes are HIF words already is taken as it stands.
    """
    if fmt.host in HIF_HOSTS:
        return _operand(fmt, fmt.host, 0, COEFFICIENT_BITS, HIF_HOSTS[fmt.host].max_shift)
    values = [v for grid in fmt.grids for v in grid.values if v]
    unit = min(lsb(v) for v in values)
    integers = [int(v / Fraction(2) ** unit) for v in values]
    fixed = Bounds(min(integers), max(integers)).with_zero().bits
    narrow = 1 + max(odd_part(v).bit_length() for v in values)
    if narrow > fixed * WORTH_A_SHIFT:
        return _operand(fmt, fmt.name, unit, fixed, 0)
    most = max(_word(integer, narrow, fixed).shift for integer in integers)
    return _operand(fmt, fmt.name, unit, narrow, most)


def _operand(fmt: Format, name: str, unit: int, bits: int, max_shift: int) -> Operand:
    step = Fraction(2) ** unit
    words = tuple(
        _own_words(grid.values)
        or tuple(None if v is None else _word(int(v / step), bits, max_shift) for v in grid.values)
        for grid in fmt.grids
    )
    if name in HIF_HOSTS:
        every = list(HIF_HOSTS[name].words().values())
    else:
        every = [word for row in words for word in row if word is not None]
    coefficients = [word.coefficient for word in every]
    values = [word.value for word in every]
    return Operand(
        name=name,
        unit=unit,
        coefficient_bits=bits,
        max_shift=max_shift,
        coefficient=Bounds(min(coefficients), max(coefficients)).with_zero(),
        value=Bounds(min(values), max(values)).with_zero(),
        words=words,
    )


def _own_words(values: tuple[Fraction | None, ...]) -> tuple[HifWord | None, ...] | None:
    """The codes as HIF words, where every code is the word of its value."""
    read = [HifWord.of_bits(code) for code in range(len(values))]
    if len(values) <= 1 << COEFFICIENT_BITS:
        return None
    if any(v is not None and v != word.value for v, word in zip(values, read, strict=True)):
        return None
    return tuple(None if v is None else w for v, w in zip(values, read, strict=True))


def _word(integer: int, bits: int, max_shift: int) -> HifWord:
    """The word with the smallest shift whose coefficient has so many bits, symmetric if it can."""
    largest = (1 << (bits - 1)) - 1
    coefficient, shift = integer, 0
    while abs(coefficient) > largest and coefficient % 2 == 0 and shift < max_shift:
        coefficient, shift = coefficient // 2, shift + 1
    if not -largest - 1 <= coefficient <= largest:
        raise ValueError(f"no word of {bits} bits holds {integer}")
    return HifWord(coefficient, shift)
