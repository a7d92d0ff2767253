"""The words of a format's hardware: their fields and widths.

The Verilog modules declare these widths and the golden vectors fill them: this is the one
place that both read. What the numbers reach is ``compiler.datapath``'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ...compiler.datapath.accumulators import Bounds
from ...compiler.datapath.derive import ACTIVATION, datapath
from ...compiler.format import Format
from ...compiler.hosts import COEFFICIENT_BITS
from ...compiler.scales import is_fp32_word

__all__ = ["ACTIVATION", "ACTIVATION_SHIFT_BITS", "Bounds", "Shapes", "shapes_of"]

ACTIVATION_SHIFT_BITS = ACTIVATION.max_shift.bit_length()


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
            coefficient, or the fixed-point element; zero included.
        product: range of multiplicand times an activation's coefficient.
        lane: range of element times activation, the product after its shifts.
        total: range of a block's sum.
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
    product: Bounds
    lane: Bounds
    total: Bounds
    exponent_bits: int
    significand_bits: int
    scale_bias: int
    has_infinity: bool

    @property
    def element_bits(self) -> int:
        """Bits of a HIF word's coefficient, or of the fixed-point element."""
        return COEFFICIENT_BITS if self.hosted else self.element.bits

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
    """The hardware widths of a plain format."""
    number, path = fmt.scale.word.number, datapath(fmt)
    if path.block_sum is None:
        raise ValueError(f"'{fmt.name}' has no blocks for hardware to sum")
    return Shapes(
        code_bits=fmt.code_bits,
        container=fmt.scale.word.container,
        select_bits=fmt.select.bits,
        select_is_field=fmt.select.place == "field",
        block=fmt.block,
        hosted=path.host is not None,
        unit=path.unit,
        shift_bits=path.host.max_shift.bit_length() if path.host else 0,
        # A code that is no number decodes to the word 0.
        element=path.element.integers.with_zero(),
        multiplicand=path.multiplicand.with_zero(),
        product=path.coefficients,
        lane=path.product.integers,
        total=path.block_sum.integers,
        exponent_bits=number.exponent,
        significand_bits=number.mantissa + 1,
        scale_bias=number.bias + number.mantissa,
        has_infinity=is_fp32_word(fmt.scale.word),
    )
