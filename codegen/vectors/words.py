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
from .shapes import shapes_of

#: Words of at most this many bits are all tried.
EXHAUSTIVE_BITS = 12

_INFINITY_BITS = 0x7F800000


@dataclass(frozen=True, slots=True)
class ElementWord:
    """One code's hardware word: ``value = integer * 2^unit``; not valid: no number."""

    valid: bool
    integer: int
    hif: HifWord | None

    def fields(self) -> dict[str, int]:
        """The values of ``Shapes.element_fields``."""
        fields = {"element_valid": int(self.valid)}
        if self.hif is None:
            return fields | {"element_fixed": self.integer}
        return fields | {
            "element_coefficient": self.hif.coefficient,
            "element_shift": self.hif.shift,
        }


def element_words(fmt: Format) -> tuple[ElementWord, ...]:
    """By ``select << code_bits | code``; the word of a code that is no number is zero."""
    shapes = shapes_of(fmt)
    return tuple(_element_word(fmt, shapes.unit, bits) for bits in view_of(fmt).decode_bits)


def _element_word(fmt: Format, unit: int, bits: int) -> ElementWord:
    value = fp32_from_bits(bits)
    valid = value == value  # NaN differs from itself
    integer = Fraction(value if valid else 0) / Fraction(2) ** unit
    hif = fmt.hosting.host.word(integer) if fmt.hosting else None
    if integer.denominator != 1 or (fmt.hosting and hif is None):
        raise ValueError(f"the hardware word of '{fmt.name}' cannot hold {value}")
    return ElementWord(valid, int(integer), hif)


def scale_fields(fmt: Format, word: int) -> dict[str, int]:
    """The values of ``Shapes.scale_fields`` for one scale word.

    Exponent and significand are zero for a word that is no finite number.
    """
    shapes, scale, number = shapes_of(fmt), view_of(fmt).scale, fmt.scale.word.number
    magnitude = (word >> scale.magnitude_lsb) & ((1 << scale.magnitude_bits) - 1)
    value = number.magnitude(magnitude)
    exponent = significand = 0
    if value is not None:
        least = int(number.subnormals)
        exponent = max(least, floor_log2(value) + number.bias) if value else least
        significand = int(value * Fraction(2) ** (shapes.scale_bias - exponent))
    infinite = shapes.has_infinity and magnitude == _INFINITY_BITS
    every = {
        "select": select_of(fmt, word),
        "scale_sign": 0 if scale.sign_bit is None else (word >> scale.sign_bit) & 1,
        "scale_nan": int(value is None and not infinite),
        "scale_infinity": int(infinite),
        "scale_zero": int(value == 0),
        "scale_exponent": exponent,
        "scale_significand": significand,
    }
    return {name: every[name] for name, _ in shapes.scale_fields}


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
    if not shapes_of(fmt).has_infinity:
        yield from range(1 << number.magnitude_bits)
        return
    ones = (1 << number.mantissa) - 1
    edges = (0, 1, ones // 3, ones // 2, ones // 2 + 1, ones - ones // 3, ones - 1, ones)
    for exponent in range(1 << number.exponent):
        yield from (exponent << number.mantissa | mantissa for mantissa in edges)


def _subsets(positions: list[int]) -> Iterator[int]:
    for chosen in range(1 << len(positions)):
        yield sum(1 << p for i, p in enumerate(positions) if chosen >> i & 1)
