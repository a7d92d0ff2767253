"""The three steps of a scaled accumulate with one rounding: multiply, align and add, round.

A fused multiply-add (IEEE 754-2019) whose product is a block's integer sum times the significands
of two scales. All widths follow from the factors' widths; nothing is rounded before the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ....compiler.datapath.accumulators import Bounds
from ....compiler.format import Format
from ...design import Design, Side
from ..module import Module, Port
from .element_decoder import literal

#: Bits of the sum of both tensors' shifts, which stands beside the scales.
OFFSET_BITS = 10

#: What a product needs below its lowest bit: it may be 1, and half a bit of it be taken away; then
#: come the 24 bits of a significand, a round bit and a sticky bit, one of which is the half.
EXTENSION = 26

ACCUMULATOR = Port("accumulator_i", 32, "fp32, any bits")
RESULT = Port(
    "result_o", 32, "fp32, rounded once to nearest, ties to even; subnormal or not; NaN is 7fc00000"
)


@dataclass(frozen=True, slots=True)
class Factor:
    """A scale as a module's inputs: (-1)^sign * significand * 2^(exponent - bias).

    Attributes:
        prefix: of the ports' names.
        meaning: what it is.
        greatest: the largest exponent field of a finite number.
    """

    prefix: str
    meaning: str
    exponent_bits: int
    significand_bits: int
    bias: int
    greatest: int
    has_infinity: bool

    @property
    def ports(self) -> tuple[Port, ...]:
        """Its inputs."""
        fields = [
            ("sign", 1, f"1: {self.meaning} is negative"),
            ("nan", 1, f"1: {self.meaning} is no number"),
            ("infinity", int(self.has_infinity), f"1: {self.meaning} is an infinity"),
            ("zero", 1, f"1: {self.meaning} is zero"),
            ("exponent", self.exponent_bits, f"exponent of the significand's LSB plus {self.bias}"),
            ("significand", self.significand_bits, f"0..{(1 << self.significand_bits) - 1}"),
        ]
        return tuple(Port(f"{self.prefix}_{n}_i", bits, what) for n, bits, what in fields if bits)


def scale_factor(side: Side, prefix: str, meaning: str) -> Factor:
    """A side's scale, under the names of its decoder's outputs with a prefix."""
    number = side.fmt.scale.word.number
    top_is_free = number.top in ("ieee", "reserved")
    return Factor(
        prefix=f"{prefix}_scale",
        meaning=meaning,
        exponent_bits=side.exponent_bits,
        significand_bits=side.significand_bits,
        bias=side.scale_bias,
        greatest=(1 << side.exponent_bits) - 1 - top_is_free,
        has_infinity=side.has_infinity,
    )


@dataclass(frozen=True, slots=True)
class Move:
    """One level of a shift: by ``places``, from ``before`` bits to ``after``, losing ``lost``."""

    level: int
    places: int
    before: int
    after: int
    lost: int


@dataclass(frozen=True)
class Step:
    """One scaled accumulate: fp32 plus an integer times two factors.

    Attributes:
        owner: the format whose name the modules carry.
        prefix: of the modules' parts, before ``scale_product`` and the others.
        total: the range of the integer.
        unit: exponent of its least significant bit.
        left, right: the factors.
    """

    owner: Format
    prefix: str
    total: Bounds
    unit: int
    left: Factor
    right: Factor

    @property
    def size_bits(self) -> int:
        """Bits of the integer's magnitude."""
        return max(-self.total.low, self.total.high).bit_length()

    @property
    def pair_bits(self) -> int:
        """Bits of the product of both significands."""
        most = (1 << self.left.significand_bits) - 1
        return int(most * ((1 << self.right.significand_bits) - 1)).bit_length()

    @cached_property
    def largest(self) -> int:
        """The largest magnitude of the exact product, as an integer."""
        pair = ((1 << self.left.significand_bits) - 1) * ((1 << self.right.significand_bits) - 1)
        return max(-self.total.low, self.total.high) * pair

    @property
    def product_bits(self) -> int:
        """T: bits of the product's magnitude."""
        return self.largest.bit_length()

    @property
    def field_bits(self) -> int:
        """F: bits of the wider operand of the addition."""
        return max(self.product_bits, 24)

    @property
    def constant(self) -> int:
        """What the exponent fields lack of the product's top bit's, biased as fp32's are."""
        return self.unit - self.left.bias - self.right.bias + self.product_bits + 126

    @cached_property
    def exponent(self) -> Bounds:
        """The range of the fp32 exponent field that a product with its top bit set would have."""
        half = 1 << (OFFSET_BITS - 1)
        fields = self.left.greatest + self.right.greatest
        return Bounds(self.constant - half, self.constant + fields + half - 1)

    @property
    def window(self) -> int:
        """W: bits that the larger operand's field and the smaller one's bits are added in."""
        return self.product_bits + EXTENSION

    @property
    def shift_bits(self) -> int:
        """Of the shift that aligns: W - 1 places leave a sticky bit alone."""
        return (self.window - 1).bit_length()

    @property
    def moves(self) -> tuple[Move, ...]:
        """The levels of the shift to the right, small ones first: nothing is lost in these."""
        width, found = self.field_bits, []
        for level in range(self.shift_bits):
            places = 1 << level
            after = min(self.window, width + places)
            found.append(Move(level, places, width, after, width + places - after))
            width = after
        return tuple(found)

    @property
    def normal_moves(self) -> tuple[Move, ...]:
        """The levels of the shift to the left, large ones first.

        After each only those bits are kept that may still come among the 25 that are rounded.
        """
        width, found = self.window + 1, []
        for level in reversed(range(self.count_bits)):
            after = min(width, 24 + (1 << level))
            found.append(Move(level, 1 << level, width, after, width - after))
            width = after
        return tuple(found)

    @property
    def top_exponent_bits(self) -> int:
        """Of the window's exponent, from 1 on."""
        return max(254, self.exponent.high).bit_length()

    @property
    def count_bits(self) -> int:
        """Of a count of leading zeros of W + 1 bits."""
        return (self.window + 1).bit_length()

    @property
    def infinities(self) -> tuple[str, ...]:
        """The factors that may be infinite."""
        return tuple(f.prefix for f in (self.left, self.right) if f.has_infinity)


def scale_step(design: Design) -> Step:
    """The step of a design's blocks."""
    return Step(
        owner=design.weights.fmt,
        prefix="",
        total=design.total,
        unit=design.unit,
        left=scale_factor(design.weights, "weight", "the weights' scale"),
        right=scale_factor(design.activations, "activation", "the activations' scale"),
    )


def offset_port() -> Port:
    """The sum of both tensors' shifts."""
    return Port(
        "exponent_offset_i",
        OFFSET_BITS,
        "power of two of the tensors' own level: minus the sum of their shifts",
        signed=True,
    )


def product_ports(step: Step, direction: str) -> tuple[Port, ...]:
    """What passes from the product to the addition."""
    exponent = step.exponent
    fields = [
        Port("product", step.product_bits, f"0..{step.largest}: magnitude of the product"),
        Port(
            "product_exponent",
            exponent.bits,
            f"{exponent}: of product bit {step.product_bits - 1}, biased by 127",
            signed=True,
        ),
        Port("product_negative", 1, "sign of the product, of a zero too"),
        Port("product_zero", 1, "1: the product is zero"),
        Port("product_nan", 1, "1: there is no product"),
        *(
            [Port("product_infinity", 1, "1: the product is an infinity")]
            if step.infinities
            else []
        ),
    ]
    return tuple(Port(f"{p.name}_{direction}", p.bits, p.meaning, p.signed) for p in fields)


def total_ports(step: Step, direction: str) -> tuple[Port, ...]:
    """What passes from the addition to the rounding."""
    fields = [
        Port("total", step.window + 2, "two's complement; bit 0 is sticky"),
        Port(
            "total_exponent",
            step.top_exponent_bits,
            f"1 or more: of bit {step.window - 1}, biased by 127",
        ),
        Port("total_flip", 1, "sign of the result where the total is not negative"),
        Port("total_nan", 1, "1: the result is NaN"),
        Port("total_infinity", 1, "1: the result is an infinity, unless it is NaN"),
        Port("total_special_negative", 1, "sign of a result that is an infinity, or zero exactly"),
    ]
    return tuple(Port(f"{p.name}_{direction}", p.bits, p.meaning) for p in fields)


def scale_product(step: Step) -> Module:
    """The first step: the exact product and its exponent."""
    left, right = step.left, step.right
    return Module(
        owner=step.owner,
        part=f"{step.prefix}scale_product",
        notes=(
            "First of three steps of a scaled accumulate: the exact product.",
            (
                f"Widths: the sum's magnitude {step.size_bits} bits, significands "
                f"{left.significand_bits} and {right.significand_bits}, their product "
                f"{step.pair_bits}: T = {step.product_bits} bits hold {step.largest}."
            ),
            (
                "product_exponent_o is the sum of both exponents and the offset, "
                f"{step.constant:+d}: unit {step.unit}, biases {left.bias} and {right.bias}, and "
                f"the place of bit {step.product_bits - 1}."
            ),
        ),
        ports=(*step_inputs(step), *product_ports(step, "o")),
        values={
            "step": step,
            "offset_bits": OFFSET_BITS,
            "constant": literal(step.constant, step.exponent.bits),
        },
    )


def align_add(step: Step) -> Module:
    """The second step: align the smaller operand, and add."""
    return Module(
        owner=step.owner,
        part=f"{step.prefix}align_add",
        notes=(
            "Second of three steps of a scaled accumulate: align and add.",
            (
                f"The product (T = {step.product_bits} bits) and the 24 bits of the accumulator "
                f"stand at the top of a window of W = {step.product_bits} + {EXTENSION} = "
                f"{step.window} bits, and the one with the lower top shifts right; what falls out "
                "is kept in a sticky bit."
            ),
            (
                "Nothing near the result's last bit is lost: an accumulator loses bits only where "
                f"it is below 1/8 of a nonzero product's lowest bit, and {EXTENSION} bits below "
                "that one hold a significand, a round and a sticky bit after a borrow; a product "
                "loses bits only where it is below 2^-26 of the accumulator's top bit."
            ),
            (
                "Of different signs the operand that stays is subtracted from the one that moved: "
                f"its bits end {step.window - step.field_bits} places above the window's, so that "
                f"the adder has {step.field_bits + 2} bits."
            ),
        ),
        ports=(*product_ports(step, "i"), ACCUMULATOR, *total_ports(step, "o")),
        values={"step": step, "low": step.window - step.field_bits},
    )


def normalize_round(step: Step) -> Module:
    """The third step: count leading zeros, shift, round."""
    return Module(
        owner=step.owner,
        part=f"{step.prefix}normalize_round",
        notes=(
            "Third of three steps of a scaled accumulate: normalize and round.",
            (
                f"A negative total is inverted, not negated: its {step.window + 1} bits and the "
                "ones that would follow them are the same number, which the rounding knows: up "
                "for a round bit, and to even where all is ones below it."
            ),
            "The shift ends at exponent 1: a result that is subnormal has no other way.",
            "After each of its levels the bits that cannot come up to the round bit are sticky.",
        ),
        ports=(*total_ports(step, "i"), RESULT),
        values={"step": step},
    )


def step_inputs(step: Step) -> tuple[Port, ...]:
    """The inputs besides the accumulator."""
    return (
        Port("sum_valid_i", 1, "0: a code of the block is no number"),
        Port(
            "sum_i",
            step.total.bits,
            f"{step.total}, LSB weight 2^{step.unit}",
            signed=True,
        ),
        *step.left.ports,
        *step.right.ports,
        offset_port(),
    )
