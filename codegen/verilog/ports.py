"""The ports of every module, said once: declarations, connections and headers read them."""

from __future__ import annotations

from dataclasses import dataclass

from ...compiler.format import Format
from ...compiler.hosts import COEFFICIENT_BITS
from ..vectors.shapes import ACTIVATION, ACTIVATION_SHIFT_BITS, Bounds, Shapes, shapes_of


@dataclass(frozen=True, slots=True)
class Port:
    """One port. ``name`` ends in ``_i`` or ``_o``; ``meaning`` states bounds and LSB weight.

    ``lanes``: a flat vector of lanes, which has a range even when it is one bit wide.
    """

    name: str
    bits: int
    meaning: str
    signed: bool = False
    lanes: bool = False

    @property
    def vector(self) -> str:
        """The type behind ``wire`` or ``reg``, with a blank in front; empty for one bit."""
        sign = " signed" if self.signed else ""
        return sign + (
            f" [{self.bits - 1}:0]" if self.bits > 1 or self.signed or self.lanes else ""
        )

    @property
    def bare(self) -> str:
        """The name without its direction."""
        return self.name[:-2]

    @property
    def declared(self) -> str:
        """The declaration in a module's port list."""
        direction = "input " if self.name.endswith("_i") else "output"
        return f"{direction} wire{self.vector} {self.name}"


@dataclass(frozen=True, slots=True)
class Ports:
    """The port lists of a format's modules.

    ``scale_in`` and ``scale_out`` are the scale decoder's; ``select_in`` is a grid index that
    stands beside the scale word; ``element_in`` and ``element_out`` are the element decoder's;
    ``dot_in`` and ``dot_out`` are what the dot product has besides the scale's ports.
    """

    scale_in: tuple[Port, ...]
    scale_out: tuple[Port, ...]
    select_in: tuple[Port, ...]
    element_in: tuple[Port, ...]
    element_out: tuple[Port, ...]
    dot_in: tuple[Port, ...]
    dot_out: tuple[Port, ...]

    @property
    def scale_decoder(self) -> tuple[Port, ...]:
        """All ports of the scale decoder."""
        return self.scale_in + self.scale_out

    @property
    def element_decoder(self) -> tuple[Port, ...]:
        """All ports of the element decoder."""
        return self.element_in + self.element_out

    @property
    def decoder(self) -> tuple[Port, ...]:
        """All ports of the top decoder."""
        code = self.element_in[-1:]
        return self.scale_in + self.select_in + code + self.scale_out + self.element_out

    @property
    def dot(self) -> tuple[Port, ...]:
        """All ports of the dot product."""
        return self.scale_in + self.select_in + self.dot_in + self.scale_out + self.dot_out


def ports_of(fmt: Format) -> Ports:
    """The ports of a format's modules."""
    shapes = shapes_of(fmt)
    last = len(fmt.grids) - 1
    select = Port("select_i", shapes.select_bits, f"index of the block's grid, 0..{last}")
    code = Port("code_i", shapes.code_bits, "stored code of one element")
    return Ports(
        scale_in=(Port("scale_word_i", shapes.container, "stored scale word of the block"),),
        scale_out=_scale_out(shapes, last),
        select_in=(select,) if shapes.select_is_field else (),
        element_in=(select, code) if shapes.select_bits else (code,),
        element_out=_element_out(shapes),
        dot_in=_dot_in(shapes),
        dot_out=_dot_out(shapes),
    )


def _scale_out(shapes: Shapes, last: int) -> tuple[Port, ...]:
    meanings = {
        "select": f"index of the block's grid, 0..{last}",
        "scale_sign": "1: the scale is negative",
        "scale_nan": "1: the word is no number"
        if shapes.has_infinity
        else "1: the word is no finite number",
        "scale_infinity": "1: the word is an infinity",
        "scale_zero": "1: the scale is zero",
        "scale_exponent": f"exponent of the significand's LSB plus {shapes.scale_bias}; "
        "0 where the word is no finite number",
        "scale_significand": f"0..{(1 << shapes.significand_bits) - 1}, LSB weight "
        f"2^(scale_exponent_o - {shapes.scale_bias}); 0 where the word is no finite number",
    }
    return tuple(Port(f"{name}_o", bits, meanings[name]) for name, bits in shapes.scale_fields)


def _element_out(shapes: Shapes) -> tuple[Port, ...]:
    lsb = shifted("element_shift_o", shapes)
    meanings = {
        "element_valid": "0: the code is no number, and its word is zero",
        "element_coefficient": f"{_range(shapes.multiplicand)}, LSB weight 2^({lsb})",
        "element_shift": "left shift of the coefficient",
        "element_fixed": f"{_range(shapes.element)}, LSB weight 2^{shapes.unit}",
    }
    return tuple(
        Port(f"{name}_o", bits, meanings[name], name in ("element_coefficient", "element_fixed"))
        for name, bits in shapes.element_fields
    )


def _dot_in(shapes: Shapes) -> tuple[Port, ...]:
    block = shapes.block
    half = 1 << (COEFFICIENT_BITS - 1)
    return (
        Port(
            "codes_i",
            block * shapes.code_bits,
            f"{block} codes, lane 0 in the low bits",
            lanes=True,
        ),
        Port(
            "activation_coefficients_i",
            block * COEFFICIENT_BITS,
            f"{block} two's-complement coefficients, each {-half}..{half - 1}, LSB weight 2^shift",
            lanes=True,
        ),
        Port(
            "activation_shifts_i",
            block * ACTIVATION_SHIFT_BITS,
            f"{block} shifts, each 0..{ACTIVATION.max_shift}",
            lanes=True,
        ),
    )


def _dot_out(shapes: Shapes) -> tuple[Port, ...]:
    return (
        Port(
            "sum_valid_o",
            1,
            "0: a code is no number or an activation's shift is past "
            f"{ACTIVATION.max_shift}; such lanes add nothing",
        ),
        Port(
            "sum_o",
            shapes.total.bits,
            f"{_range(shapes.total)}, LSB weight 2^{shapes.unit}",
            signed=True,
        ),
    )


def _range(bounds: Bounds) -> str:
    return f"{bounds.low}..{bounds.high}"


def shifted(name: str, shapes: Shapes) -> str:
    """The exponent ``name + unit`` as text."""
    sign = "-" if shapes.unit < 0 else "+"
    return f"{name} {sign} {abs(shapes.unit)}" if shapes.unit else name
