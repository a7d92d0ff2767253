"""Widths and bounds of a format's hardware words, derived from its exact values.

The Verilog modules declare these widths and the golden vectors fill them: this is the one
place that both read.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ...compiler.exact import floor_log2, significant_bits
from ...compiler.format import Format
from ...compiler.hosts import COEFFICIENT_BITS, HIF8
from ...compiler.scales import is_fp32_word

#: The activations of a dot product are HIF8 words (SOP, arXiv:2605.14929).
ACTIVATION = HIF8
ACTIVATION_SHIFT_BITS = ACTIVATION.max_shift.bit_length()


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed range of integers that a field takes."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """The least two's-complement width that holds the range."""
        return max(self.high.bit_length(), (~self.low).bit_length() if self.low < 0 else 0) + 1

    def times(self, other: Bounds) -> Bounds:
        """The range of the products."""
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Bounds(min(ends), max(ends))

    def repeated(self, count: int) -> Bounds:
        """The range of the sum of ``count`` such integers."""
        return Bounds(self.low * count, self.high * count)


_COEFFICIENT = Bounds(-(1 << (COEFFICIENT_BITS - 1)), (1 << (COEFFICIENT_BITS - 1)) - 1)
_ACTIVATION_VALUE = Bounds(
    _COEFFICIENT.low << ACTIVATION.max_shift, _COEFFICIENT.high << ACTIVATION.max_shift
)


@dataclass(frozen=True, slots=True)
class Shapes:
    """The words of one format's hardware.

    A block's element is ``element * 2^unit``, its scale is
    ``(-1)^sign * significand * 2^(exponent - scale_bias)``.

    Attributes:
        hosted: elements are HIF words, else signed fixed-point integers.
        unit: exponent of the element's least significant bit.
        shift_bits: width of a HIF word's shift; 0 when not hosted.
        element: range of the element as an integer in units of 2^unit, zero included.
        multiplicand: range of what meets an activation's coefficient: the HIF word's
            coefficient, or the fixed-point element.
        exponent_bits, significand_bits, scale_bias: the scale's fields.
        has_infinity: the scale word tells infinity from NaN (binary32 only).
    """

    code_bits: int
    container: int
    select_bits: int
    select_is_field: bool
    block: int
    hosted: bool
    unit: int
    shift_bits: int
    element: Bounds
    multiplicand: Bounds
    exponent_bits: int
    significand_bits: int
    scale_bias: int
    has_infinity: bool

    @property
    def element_bits(self) -> int:
        """Bits of a HIF word's coefficient, or of the fixed-point element."""
        return COEFFICIENT_BITS if self.hosted else self.element.bits

    @property
    def product(self) -> Bounds:
        """Multiplicand times an activation's coefficient."""
        return self.multiplicand.times(_COEFFICIENT)

    @property
    def lane(self) -> Bounds:
        """Element times activation: the product after its shifts."""
        return self.element.times(_ACTIVATION_VALUE)

    @property
    def total(self) -> Bounds:
        """The sum over a block."""
        return self.lane.repeated(self.block)

    @property
    def scale_fields(self) -> tuple[tuple[str, int], ...]:
        """Name and width of what a scale word decodes to, the most significant first."""
        fields = [
            ("select", 0 if self.select_is_field else self.select_bits),
            ("scale_sign", 1),
            ("scale_nan", 1),
            ("scale_infinity", int(self.has_infinity)),
            ("scale_zero", 1),
            ("scale_exponent", self.exponent_bits),
            ("scale_significand", self.significand_bits),
        ]
        return tuple(field for field in fields if field[1])

    @property
    def element_fields(self) -> tuple[tuple[str, int], ...]:
        """Name and width of what a code decodes to, the most significant first."""
        valid = ("element_valid", 1)
        if self.hosted:
            return (
                valid,
                ("element_coefficient", COEFFICIENT_BITS),
                ("element_shift", self.shift_bits),
            )
        return valid, ("element_fixed", self.element_bits)

    @property
    def selects(self) -> int:
        """How many values a select field beside the scale word takes; 1 without one."""
        return 1 << self.select_bits if self.select_is_field else 1

    @property
    def codes(self) -> int:
        """How many codes an element has."""
        return 1 << self.code_bits


@lru_cache(maxsize=256)
def shapes_of(fmt: Format) -> Shapes:
    """The hardware widths of a format."""
    number, hosting = fmt.scale.word.number, fmt.hosting
    values = [v for grid in fmt.grids for v in grid.numbers]
    unit = hosting.exponent if hosting else min(_lsb(v) for v in values if v)
    steps = [0, *(int(v / Fraction(2) ** unit) for v in values)]
    element = Bounds(min(steps), max(steps))
    coefficients = [0]
    if hosting:
        coefficients += [w.coefficient for grid in hosting.words for w in grid if w]
    return Shapes(
        code_bits=fmt.code_bits,
        container=fmt.scale.word.container,
        select_bits=fmt.select.bits,
        select_is_field=fmt.select.place == "field",
        block=fmt.block,
        hosted=hosting is not None,
        unit=unit,
        shift_bits=hosting.host.max_shift.bit_length() if hosting else 0,
        element=element,
        multiplicand=Bounds(min(coefficients), max(coefficients)) if hosting else element,
        exponent_bits=number.exponent,
        significand_bits=number.mantissa + 1,
        scale_bias=number.bias + number.mantissa,
        has_infinity=is_fp32_word(fmt.scale.word),
    )


def _lsb(value: Fraction) -> int:
    """The exponent of the lowest set bit of a dyadic rational other than 0."""
    return floor_log2(abs(value)) - (significant_bits(value) or 1) + 1
