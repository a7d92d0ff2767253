from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fmtc.dsl import SYNTAX_CODES, FormatError, parse, parse_partial

BAD = Path(__file__).parent / "bad"
FILES = sorted(BAD.glob("syntax_*.fmt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_malformed_file_gives_the_report_beside_it(path):
    with pytest.raises(FormatError) as caught:
        parse(path.read_text(encoding="utf-8"), path.name)
    report = f"{caught.value}\n"
    golden = path.with_suffix(".expected")
    if os.environ.get("FMTC_REGEN"):
        golden.write_text(report, encoding="utf-8")
    assert report == golden.read_text(encoding="utf-8")


def test_every_syntax_code_is_shown_by_a_malformed_file_or_by_a_large_one():
    shown = set(
        re.findall(
            r"E01\d\d", "".join(p.with_suffix(".expected").read_text("utf-8") for p in FILES)
        )
    )
    assert shown == set(SYNTAX_CODES)


def test_no_report_uses_the_names_of_terminals():
    report = "".join(path.with_suffix(".expected").read_text(encoding="utf-8") for path in FILES)
    assert not re.search(r"\b[LR](BRACE|PAR)\b|NUMBER|\$END|Token|COMMA|EQUAL", report)


@pytest.mark.parametrize(
    ("clause", "damaged"),
    [
        ("scale e4m3 @ { rule absmax }", {"scale"}),
        ("grid a = [1, 2]", {"grid"}),
        ("select bit at scale.sign { 0: a }", {"select"}),
        ("cite arXiv", {"cite"}),
        ("tie", {"tie"}),
        ("min 2^", {"min"}),
        ("foo e4m3 { rule absmax }", {"foo", "scale"}),
        ("foo a = codebook 1 { 1 }", {"foo", "grid"}),
        ("tie = even", set()),
        ("scael e4m3 { rule absmax }", set()),
        ("grid a = codebook 1 { -1 1 }", set()),
    ],
)
def test_a_faulty_clause_is_left_out_or_mended_and_its_neighbours_are_kept(clause, damaged):
    text = f"format x {{\n  block 16\n  {clause}\n  axis last\n}}\nformat y {{ block 32 }}\n"
    parsed = parse_partial(text)
    assert parsed.diagnostics
    # An unknown word before a brace may have been meant as any clause that goes on so.
    assert parsed.damaged - {"foo"} == damaged - {"foo"}
    first, second = parsed.file.formats
    assert (first.name.text, second.name.text) == ("x", "y")
    assert first.clauses[0].key.text == "block"
    assert first.clauses[-1].key.text == "axis"
    assert len(first.clauses) == 2 + (not damaged)
    assert len(second.clauses) == 1


@pytest.mark.parametrize(
    ("slip", "hint"),
    [
        ("scael e4m3 { rule absmax }", "did you mean 'scale'?"),
        ("selct 1 bit at scale.sign { 0: a }", "did you mean 'select'?"),
        ("gird a = e2m1", "did you mean 'grid'?"),
        ("block = 16", "settings have no '=': write 'block 16'"),
        ("block 16;", "a clause ends where the next one starts: it needs no ';'"),
        ("grid a = codebook 1 { -1 1 }", "separate values with commas"),
        ("grid a codebook 1 { -1, 1 }", "write 'grid a = codebook ...'"),
        ("block(16)", "a setting is written 'block 16'"),
        ("min .5", "write '0.5'"),
        ("min 2**3", "a power is written 2^3"),
    ],
)
def test_a_common_slip_is_answered_with_the_way_out(slip, hint):
    (fault,) = parse_partial(f"format x {{\n  {slip}\n}}").diagnostics
    assert fault.hint == hint
    assert fault.span.line == 2


def test_a_mistyped_format_is_named_and_its_clauses_are_still_read():
    parsed = parse_partial("fromat x {\n  block\n}\n")
    assert [fault.hint for fault in parsed.diagnostics] == ["did you mean 'format'?", None]
    assert [fault.span.line for fault in parsed.diagnostics] == [1, 2]
