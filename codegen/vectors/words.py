"""What every scale word and every code decodes to, computed from exact values.

Nothing here looks at how a decoder finds its answer: the fields follow from the rational
number that a word means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from ...compiler.exact import floor_log2, fp32_from_bits
from ...compiler.format import Format
from ...compiler.hosts import HifWord
from ...compiler.view import view_of
from ..design import Side, side_of

#: Words of at most this many bits are all tried.
EXHAUSTIVE_BITS = 12

_INFINITY_BITS = 0x7F800000


@dataclass(frozen=True, slots=True)
class ElementWord:
    """One code's hardware word; not valid: no number, and all zero."""

    valid: bool
    word: HifWord

    def fields(self, side: Side) -> dict[str, int]:
        """The values of ``Side.element_fields``."""
        every = {
            "element_valid": int(self.valid),
            "element_coefficient": self.word.coefficient,
            "element_shift": self.word.shift,
        }
        return {name: every[name] for name, _ in side.element_fields}


def element_words(fmt: Format) -> tuple[ElementWord, ...]:
    """By ``select << code_bits | code``; the word of a code that is no number is zero."""
    side = side_of(fmt)
    words = [word for row in side.operand.words for word in row]
    words += [None] * ((1 << side.select_bits + side.code_bits) - len(words))
    bits = view_of(fmt).decode_bits
    return tuple(_element_word(side, *pair) for pair in zip(words, bits, strict=True))


def _element_word(side: Side, word: HifWord | None, bits: int) -> ElementWord:
    """The word, held against the number that software decodes the code to."""
    value = fp32_from_bits(bits)
    valid = value == value  # NaN differs from itself
    exact = None if word is None else word.value * Fraction(2) ** side.operand.unit
    if (exact is None) == valid or (valid and exact != Fraction(value)):
        raise ValueError(f"a hardware word of '{side.name}' is {exact}, its number {value}")
    return ElementWord(valid, word or HifWord(0, 0))


def scale_fields(fmt: Format, word: int) -> dict[str, int]:
    """The values of ``Side.scale_fields`` for one scale word.

    Exponent and significand are zero for a word that is no finite number.
    """
    side, scale, number = side_of(fmt), view_of(fmt).scale, fmt.scale.word.number
    magnitude = (word >> scale.magnitude_lsb) & ((1 << scale.magnitude_bits) - 1)
    value = number.magnitude(magnitude)
    exponent = significand = 0
    if value is not None:
        least = int(number.subnormals)
        exponent = max(least, floor_log2(value) + number.bias) if value else least
        significand = int(value * Fraction(2) ** (side.scale_bias - exponent))
    infinite = side.has_infinity and magnitude == _INFINITY_BITS
    every = {
        "select": select_of(fmt, word),
        "scale_sign": 0 if scale.sign_bit is None else (word >> scale.sign_bit) & 1,
        "scale_nan": int(value is None and not infinite),
        "scale_infinity": int(infinite),
        "scale_zero": int(value == 0),
        "scale_exponent": exponent,
        "scale_significand": significand,
    }
    return {name: every[name] for name, _ in side.scale_fields}


def select_of(fmt: Format, word: int) -> int:
    """The grid index that a scale word's own bits say; 0 where they say none."""
    select = 0
    for position in fmt.select.positions:
        select = select << 1 | (word >> position) & 1
    return select


def decoder_words(fmt: Format) -> tuple[int, ...]:
    """The scale words that a decoder is tried on, ascending.

    A container of at most 12 bits: every word. A wider one: every sign and select with every
    magnitude (binary32: every exponent with the mantissas at the edges), once with all unused
    bits 0 and once with all of them 1.
    """
    container = fmt.scale.word.container
    if container <= EXHAUSTIVE_BITS:
        return tuple(range(1 << container))
    scale = view_of(fmt).scale
    numeral = {scale.magnitude_lsb + i for i in range(scale.magnitude_bits)}
    flags = {*fmt.select.positions}
    if scale.sign_bit is not None:
        flags.add(scale.sign_bit)
    spare = sum(1 << i for i in range(container) if i not in numeral | flags)
    words = {
        magnitude << scale.magnitude_lsb | flag | unused
        for magnitude in _magnitudes(fmt)
        for flag in _subsets(sorted(flags))
        for unused in (0, spare)
    }
    return tuple(sorted(words))


def _magnitudes(fmt: Format) -> Iterator[int]:
    number = fmt.scale.word.number
    if not side_of(fmt).has_infinity:
        yield from range(1 << number.magnitude_bits)
        return
    ones = (1 << number.mantissa) - 1
    edges = (0, 1, ones // 3, ones // 2, ones // 2 + 1, ones - ones // 3, ones - 1, ones)
    for exponent in range(1 << number.exponent):
        yield from (exponent << number.mantissa | mantissa for mantissa in edges)


def _subsets(positions: list[int]) -> Iterator[int]:
    for chosen in range(1 << len(positions)):
        yield sum(1 << p for i, p in enumerate(positions) if chosen >> i & 1)
