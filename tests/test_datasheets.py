"""Datasheets are drawn from the formats, and the page of all of them is what they are today."""

from __future__ import annotations

from fractions import Fraction

import pytest
from fmtc.codegen import emit
from fmtc.codegen.datasheet.drawings import WIDTH, number_line, packing_diagram
from fmtc.compiler.format import Grid
from fmtc.compiler.resolve import compile_text
from regenerate import SHEETS, every_sheet


def test_the_page_of_all_formats_is_generated_from_them() -> None:
    assert SHEETS.read_text(encoding="utf-8") == every_sheet(), "make golden writes it again"


def test_a_number_line_has_a_mark_for_every_value_and_names_its_ends() -> None:
    values = tuple(Fraction(v, 2) for v in (-12, -8, -3, 0, 1, 2, 3, 12))
    line, labels = number_line(Grid("g", "codebook 3", values)).split("\n")
    assert len(line) == WIDTH
    assert line.count("|") == len(values)
    assert line[0] == line[-1] == line[WIDTH // 2] == "|"
    assert labels.split() == ["-6", "0", "6"]


def test_a_one_sided_grid_starts_at_zero() -> None:
    line, labels = number_line(Grid("g", "int 1", (Fraction(1), Fraction(3)))).split("\n")
    assert (line[24], line[-1], line.count("|")) == ("|", "|", 2)
    assert labels.split() == ["0", "3"]


@pytest.mark.parametrize(
    ("bits", "pack", "first"),
    [
        (4, "low_first", "byte 0: [c1 | c0]"),
        (4, "high_first", "byte 0: [c0 | c1]"),
        (3, "low_first", "byte 0: [c2 1..0 | c1 | c0]"),
        (3, "high_first", "byte 0: [c0 | c1 | c2 2..1]"),
        (6, "low_first", "byte 0: [c1 1..0 | c0]"),
        (8, "low_first", "byte 0: [c0]"),
    ],
)
def test_a_packing_diagram_says_which_bits_a_byte_holds(bits: int, pack: str, first: str) -> None:
    text = f"format f {{ block 8  grid a = int {bits}  scale e8m0  pack {pack} }}"
    assert packing_diagram(compile_text(text)).split("\n")[0].endswith(first)


def test_a_sheet_cannot_be_broken_by_what_a_file_says() -> None:
    text = 'format f "<script> | `x` */" { block 8  grid e2m1  scale e8m0  cite "a|b <i>" }'
    sheet = emit(compile_text(text), "datasheet")["f.md"]
    assert "<" not in sheet.replace("```", "")
    assert "a\\|b (i)" in sheet
