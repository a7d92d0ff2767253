"""The decoder of an element: a constant table from select and code to the operand's word."""

from __future__ import annotations

from fractions import Fraction

from ....compiler.exact import show_number
from ....compiler.format import Grid
from ....compiler.hosts import HifWord
from ...design import Side
from ..header import COLUMNS, wrapped
from ..module import Module
from .words import element_inputs, element_outputs, shifted

_INDENT = "      "


def element_decoder(side: Side) -> Module:
    """A ROM of the words that the grids' values are."""
    operand = side.operand
    lsb = shifted("element_shift_o" if operand.shift_bits else "", operand.unit)
    return Module(
        owner=side.fmt,
        part="element_decoder",
        notes=(
            f"Decodes one element by a constant table: {operand.form}.",
            f"value = element_coefficient_o * 2^({lsb}); -0 is 0",
        ),
        ports=(*element_inputs(side), *element_outputs(side)),
        values={
            "rom": _rom(side),
            "bits": sum(bits for _, bits in side.element_fields),
            "side": side,
        },
    )


def _rom(side: Side) -> list[str]:
    """The case items: one for every code that is a number."""
    lines: list[str] = []
    for select, grid in enumerate(side.fmt.grids):
        for code, value in enumerate(grid.values):
            word = side.operand.words[select][code]
            if value is not None and word is not None:
                lines += _item(side, select, code, value, word)
    return lines


def _item(side: Side, select: int, code: int, value: Fraction, word: HifWord) -> list[str]:
    grid, operand = side.fmt.grids[select], side.operand
    index_bits = side.select_bits + side.code_bits
    index = f"{index_bits}'h{select << side.code_bits | code:0{-(-index_bits // 4)}x}"
    fields = [literal(word.coefficient, operand.coefficient_bits)]
    if operand.shift_bits:
        fields.append(f"{operand.shift_bits}'d{word.shift}")
    power = word.shift + operand.unit
    note = f"= {_shown(grid, code, value)} = {word.coefficient} * 2^{power}, code {code} of "
    note += grid.name
    line = f"{_INDENT}{index}: word = {{1'b1, {', '.join(fields)}}};"
    if len(line) > COLUMNS:
        line = f"{_INDENT}{index}: word =\n{_INDENT}  {{1'b1, {', '.join(fields)}}};"
    elif len(line) + len(note) + 5 <= COLUMNS:
        return [f"{line}  // {note}"]
    return [*wrapped(note, _INDENT, "// "), line]


def literal(integer: int, bits: int) -> str:
    """A two's-complement constant in hexadecimal."""
    return f"{bits}'h{integer & ((1 << bits) - 1):0{-(-bits // 4)}x}"


def _shown(grid: Grid, code: int, value: Fraction) -> str:
    return "-0" if code == grid.negative_zero else show_number(value)
