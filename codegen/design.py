"""The words of a format's hardware, and of a dot product of two formats: fields and widths.

The Verilog modules declare these widths and the golden vectors fill them: this is the one
place that both read. What the numbers reach is ``compiler.datapath``'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..compiler.datapath.accumulators import Bounds
from ..compiler.datapath.operands import Operand, operand_of
from ..compiler.format import Format
from ..compiler.scales import is_fp32_word
from ..formats import compile_text, load

__all__ = ["Bounds", "Design", "Operand", "Side", "design_of", "side_of"]

#: The format of the activations that HIF datapaths take (SOP, arXiv:2605.14929).
ACTIVATIONS = "hif8_ue4m4"


@dataclass(frozen=True, slots=True)
class Side:
    """The words of one format's blocks.

    A block's element is ``coefficient * 2^(shift + unit)``, its scale is
    ``(-1)^sign * significand * 2^(exponent - scale_bias)``.

    Attributes:
        fmt: the format.
        operand: the words of its elements.
        container: bits of a stored scale word.
        select_is_field: the index of a block's grid stands beside the scale word.
        exponent_bits, significand_bits, scale_bias: the scale's fields.
        has_infinity: the scale word tells infinity from NaN (binary32 only).
    """

    fmt: Format
    operand: Operand
    container: int
    select_bits: int
    select_is_field: bool
    exponent_bits: int
    significand_bits: int
    scale_bias: int
    has_infinity: bool

    @property
    def name(self) -> str:
        """What the names of this side's modules begin with."""
        return self.fmt.name

    @property
    def block(self) -> int:
        """Elements that share a scale."""
        return self.fmt.block

    @property
    def code_bits(self) -> int:
        """Bits of a stored element."""
        return self.fmt.code_bits

    @property
    def codes(self) -> int:
        """How many codes an element has."""
        return 1 << self.code_bits

    @property
    def selects(self) -> int:
        """How many values a select field beside the scale word takes; 1 without one."""
        return 1 << self.select_bits if self.select_is_field else 1

    @property
    def select_in_word(self) -> bool:
        """Whether the scale word says which grid a block has."""
        return bool(self.select_bits) and not self.select_is_field

    @property
    def scale_fields(self) -> tuple[tuple[str, int], ...]:
        """Name and width of what a scale word decodes to, the most significant first."""
        fields = [
            ("select", self.select_bits if self.select_in_word else 0),
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
        fields = [
            ("element_valid", 1),
            ("element_coefficient", self.operand.coefficient_bits),
            ("element_shift", self.operand.shift_bits),
        ]
        return tuple(field for field in fields if field[1])


@dataclass(frozen=True, slots=True)
class Design:
    """The block dot product of weights and activations, in integers of ``2^unit``.

    Attributes:
        weights, activations: both sides, with blocks of the same length.
        product: range of coefficient times coefficient.
        term: range of element times activation, the product after its shifts.
        total: range of a block's sum.
    """

    weights: Side
    activations: Side
    product: Bounds
    term: Bounds
    total: Bounds

    @property
    def name(self) -> str:
        """What the names of the design's modules begin with: the weights' format."""
        return self.weights.name

    @property
    def block(self) -> int:
        """Lanes of a dot product."""
        return self.weights.block

    @property
    def unit(self) -> int:
        """The exponent of the sum's least significant bit."""
        return self.weights.operand.unit + self.activations.operand.unit

    @property
    def max_shift(self) -> int:
        """The largest shift of a product."""
        return self.weights.operand.max_shift + self.activations.operand.max_shift

    @property
    def shift_bits(self) -> int:
        """The width of the sum of both shifts; 0: nothing is shifted."""
        return self.max_shift.bit_length()


@lru_cache(maxsize=256)
def side_of(fmt: Format) -> Side:
    """The words of a format whose blocks are runs of one row, each with a scale word."""
    number = fmt.scale.word.number
    return Side(
        fmt=fmt,
        operand=operand_of(fmt),
        container=fmt.scale.word.container,
        select_bits=fmt.select.bits,
        select_is_field=fmt.select.place == "field",
        exponent_bits=number.exponent,
        significand_bits=number.mantissa + 1,
        scale_bias=number.bias + number.mantissa,
        has_infinity=is_fp32_word(fmt.scale.word),
    )


@lru_cache(maxsize=256)
def design_of(fmt: Format, activation: Format | None = None) -> Design:
    """The dot product of a format's blocks with activations.

    Args:
        fmt: the weights' format.
        activation: the activations'; None: HIF8 words under UE4M4 scales, in blocks of ``fmt``'s.

    Raises:
        ValueError: the blocks of both are not equally long.
    """
    weights, activations = side_of(fmt), side_of(activation or hif8_activation(fmt.block))
    if activations.block != weights.block:
        raise ValueError(
            f"'{fmt.name}' has blocks of {weights.block}, '{activations.name}' of "
            f"{activations.block}: a block's sum takes one scale of each"
        )
    left, right = weights.operand, activations.operand
    term = left.value.times(right.value)
    return Design(
        weights=weights,
        activations=activations,
        product=left.coefficient.times(right.coefficient),
        term=term,
        total=term.repeated(weights.block),
    )


@lru_cache(maxsize=64)
def hif8_activation(block: int) -> Format:
    """The library's HIF8 activations, in blocks of any length."""
    fmt = load(ACTIVATIONS)
    if fmt.block == block:
        return fmt
    text = f'format {ACTIVATIONS}_g{block} extends "{ACTIVATIONS}" {{ block {block}  check "" }}'
    return compile_text(text, f"{ACTIVATIONS} in blocks of {block}")
