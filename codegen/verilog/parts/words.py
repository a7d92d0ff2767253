"""The ports that carry words: a scale word and what it decodes to, a code and its word."""

from __future__ import annotations

from ...design import Bounds, Side
from ..module import Port


def scale_word(side: Side) -> Port:
    """A block's stored scale word."""
    return Port("scale_word_i", side.container, "stored scale word of the block")


def select_field(side: Side) -> tuple[Port, ...]:
    """The grid's index, where it stands beside the scale word."""
    return _select(side) if side.select_is_field else ()


def element_inputs(side: Side) -> tuple[Port, ...]:
    """What one element is decoded from: the grid's index, where there are several, and the code."""
    code = Port("code_i", side.code_bits, "stored code of one element")
    return (*_select(side), code) if side.select_bits else (code,)


def _select(side: Side) -> tuple[Port, ...]:
    last = len(side.fmt.grids) - 1
    return (Port("select_i", side.select_bits, f"index of the block's grid, 0..{last}"),)


def scale_outputs(side: Side, prefix: str = "", direction: str = "o") -> tuple[Port, ...]:
    """What a scale word decodes to."""
    significand = f"{prefix}scale_significand"
    exponent = f"{prefix}scale_exponent"
    meanings = {
        "select": f"index of the block's grid, 0..{len(side.fmt.grids) - 1}",
        "scale_sign": "1: the scale is negative",
        "scale_nan": "1: the word is no number"
        if side.has_infinity
        else "1: the word is no finite number",
        "scale_infinity": "1: the word is an infinity",
        "scale_zero": "1: the scale is zero",
        "scale_exponent": f"exponent of {significand}'s LSB plus {side.scale_bias}; "
        "0 where the word is no finite number",
        "scale_significand": f"0..{(1 << side.significand_bits) - 1}, LSB weight "
        f"2^({exponent} - {side.scale_bias}); 0 where the word is no finite number",
    }
    return tuple(
        Port(f"{prefix}{name}_{direction}", bits, meanings[name])
        for name, bits in side.scale_fields
    )


def element_outputs(side: Side, prefix: str = "", direction: str = "o") -> tuple[Port, ...]:
    """What a code decodes to."""
    operand = side.operand
    lsb = shifted(f"{prefix}element_shift_{direction}" if operand.shift_bits else "", operand.unit)
    meanings = {
        "element_valid": "0: the code is no number, and its word is zero",
        "element_coefficient": f"{span(operand.coefficient)}, LSB weight 2^({lsb})",
        "element_shift": f"left shift of the coefficient, 0..{operand.max_shift}",
    }
    return tuple(
        Port(f"{prefix}{name}_{direction}", bits, meanings[name], name == "element_coefficient")
        for name, bits in side.element_fields
    )


def span(bounds: Bounds) -> str:
    """A range as text."""
    return f"{bounds.low}..{bounds.high}"


def shifted(name: str, unit: int) -> str:
    """The exponent ``name + unit`` as text."""
    if not name:
        return str(unit)
    return f"{name} {'-' if unit < 0 else '+'} {abs(unit)}" if unit else name
