"""The bodies of the decoders: the element table and the expressions over a scale word."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ...compiler.exact import show_number
from ...compiler.format import Format, Grid
from ...compiler.view import view_of
from ..vectors.shapes import shapes_of
from .header import COLUMNS, wrapped

_INDENT = "      "


@dataclass(frozen=True, slots=True)
class ScaleText:
    """Verilog expressions over ``scale_word_i``.

    ``nan`` and ``infinity`` are conditions over the wires ``exponent_field`` and ``mantissa``;
    ``unused`` lists the parts of the word that mean nothing.
    """

    exponent_field: str
    mantissa: str | None
    mantissa_bits: int
    subnormals: bool
    nan: str | None
    infinity: str | None
    sign: str
    select: str
    unused: tuple[str, ...]


def scale_text(fmt: Format) -> ScaleText:
    """The expressions of a format's scale decoder."""
    scale, number = view_of(fmt).scale, fmt.scale.word.number
    low = scale.magnitude_lsb
    nan, infinity = _not_finite(number.top, number.mantissa, split=scale.is_fp32)
    used = set(range(low, low + scale.magnitude_bits)) | {*fmt.select.positions}
    if scale.sign_bit is not None:
        used.add(scale.sign_bit)
    bits = ", ".join(f"scale_word_i[{p}]" for p in fmt.select.positions)
    return ScaleText(
        exponent_field=_part(low + number.mantissa, low + scale.magnitude_bits - 1),
        mantissa=_part(low, low + number.mantissa - 1) if number.mantissa else None,
        mantissa_bits=number.mantissa,
        subnormals=number.subnormals,
        nan=nan,
        infinity=infinity,
        sign="1'b0" if scale.sign_bit is None else f"scale_word_i[{scale.sign_bit}]",
        select=bits if len(fmt.select.positions) == 1 else f"{{{bits}}}",
        unused=_runs([p for p in range(scale.container) if p not in used]),
    )


def _not_finite(top: str, mantissa: int, *, split: bool) -> tuple[str | None, str | None]:
    """When a word is NaN, and when infinite (told apart only where ``split``)."""
    if top == "finite":
        return None, None
    if split:
        return "(&exponent_field) & (|mantissa)", "(&exponent_field) & ~(|mantissa)"
    if top == "nan" and mantissa:
        return "(&exponent_field) & (&mantissa)", None
    return "&exponent_field", None


def _part(low: int, high: int) -> str:
    return f"scale_word_i[{high}]" if low == high else f"scale_word_i[{high}:{low}]"


def _runs(positions: list[int]) -> tuple[str, ...]:
    """Neighbouring positions joined into part selects."""
    starts = [p for p in positions if p - 1 not in positions]
    ends = [p for p in positions if p + 1 not in positions]
    return tuple(_part(low, high) for low, high in zip(starts, ends, strict=True))


def element_rom(fmt: Format) -> list[str]:
    """The case items of the element decoder: one for every code that is a number."""
    lines: list[str] = []
    for select, grid in enumerate(fmt.grids):
        for code, value in enumerate(grid.values):
            if value is not None:
                lines += _item(fmt, select, code, value)
    return lines


def _item(fmt: Format, select: int, code: int, value: Fraction) -> list[str]:
    grid, shapes = fmt.grids[select], shapes_of(fmt)
    index_bits = shapes.select_bits + shapes.code_bits
    index = f"{index_bits}'h{select << shapes.code_bits | code:0{-(-index_bits // 4)}x}"
    word, product = _word(fmt, select, code, value)
    note = f"= {_shown(grid, code, value)} = {product}, code {code} of {grid.name}"
    line = f"{_INDENT}{index}: word = {{1'b1, {word}}};"
    if len(line) > COLUMNS:
        line = f"{_INDENT}{index}: word =\n{_INDENT}  {{1'b1, {word}}};"
    elif len(line) + len(note) + 5 <= COLUMNS:
        return [f"{line}  // {note}"]
    return [*wrapped(note, _INDENT, "// "), line]


def _word(fmt: Format, select: int, code: int, value: Fraction) -> tuple[str, str]:
    """The literal of an element's word, and the same as integer times a power of two."""
    shapes = shapes_of(fmt)
    hif = fmt.hosting.words[select][code] if fmt.hosting else None
    if hif is None:
        integer = int(value / Fraction(2) ** shapes.unit)
        return _literal(integer, shapes.element_bits), f"{integer} * 2^{shapes.unit}"
    literal = f"{_literal(hif.coefficient, shapes.element_bits)}, {shapes.shift_bits}'d{hif.shift}"
    return literal, f"{hif.coefficient} * 2^{hif.shift + shapes.unit}"


def _literal(value: int, bits: int) -> str:
    return f"{bits}'h{value & ((1 << bits) - 1):0{-(-bits // 4)}x}"


def _shown(grid: Grid, code: int, value: Fraction) -> str:
    return "-0" if code == grid.negative_zero else show_number(value)


def extend(name: str, bits: int, wanted: int, sign: str | None = None) -> str:
    """``name`` of ``bits`` bits widened to ``wanted``: by its ``sign`` bit, or by zeros."""
    if bits == wanted:
        return name
    missing = wanted - bits
    return f"{{{{{missing}{{{sign}}}}}, {name}}}" if sign else f"{{{missing}'d0, {name}}}"
