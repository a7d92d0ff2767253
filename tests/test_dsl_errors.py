from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from fmtc.dsl import SYNTAX_CODES, FormatError, parse, parse_partial

BAD = Path(__file__).parent / "bad"
FILES = sorted(BAD.glob("syntax_*.fmt"))
AN_ATOM = "an atom is written 'atom name = codebook 2 { -1, 0, 1/2, 1 }'"


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
        ("zero point { bits @ }", {"zero"}),
        ("side { fraction 1 }", {"side"}),
        ("record 32 { scales: 8, codes }", {"record"}),
        ("scale fp32 as e4m3", {"scale"}),
        ("scale fp32 { @ } as {\n    block 8\n    grid e2m1\n    scale fp32\n  }", {"scale"}),
        ("grid a = codebook 1 { 0, 1 } learned lloyd", {"grid"}),
        ("recrd 32 { scales codes }", set()),
        ("zro minimum as { block 8 }", set()),
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
        ("zero { bits 4 }", "a zero is written 'zero point' or 'zero minimum { word fp16 }'"),
        ("sied opq { quantile 0.9 }", "did you mean 'side'?"),
        ("recrd 32 { scales, codes }", "did you mean 'record'?"),
        ("record 32 { scales codes }", "separate the fields of a record with commas"),
        (
            "record 32 { scales bits 4 }",
            "the settings of a field stand in braces: 'scales { bits 4 }'",
        ),
        ("record 32 { scale.codes }", "the streams of scales are called 'scales'"),
        ("scale fp32 ass { block 8 }", "did you mean 'as'?"),
        ("scale fp32 in { block 8 }", "write 'as {'"),
        ("grid a = int 4 lerned { source x }", "did you mean 'learned'?"),
        ("atom a = e2m1", "in a format, write 'grid a = ...'"),
        ('import "nf4"', "move it out of the format, to the top of the file"),
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


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('imprt "nf4"', "did you mean 'import'?"),
        ('include "nf4"', "write 'import \"nf4\"'"),
        ("import nf4", "put the text in double quotes"),
        ("import near/by.fmt", "put the text in double quotes"),
        ('import = "nf4"', "import has no '=': write 'import \"nf4\"'"),
        ('import "nf4", "nf5"', "every file has an import of its own"),
        ("atm a = e2m1", "did you mean 'atom'?"),
        ("grid a = e2m1", "outside a format, write 'atom a = ...'"),
        ("atom a codebook 1 { 0, 1 }", AN_ATOM),
        ("atom a { 0, 1 }", AN_ATOM),
        ("format x extends mxfp4 { block 16 }", "put the text in double quotes"),
        ("format x extends { block 16 }", 'name the format to build on: extends "mxfp4"'),
        ('format x extens "mxfp4" { block 16 }', "did you mean 'extends'?"),
        ('format x extends "mxfp4" "t" { block 16 }', "a title stands before 'extends'"),
    ],
)
def test_a_common_slip_of_a_declaration_is_answered_with_the_way_out(text, hint):
    parsed = parse_partial(f"# first\n{text}\nformat y {{ block 32 }}\n")
    (fault,) = parsed.diagnostics
    assert fault.hint == hint
    assert fault.span.line == 2
    assert parsed.file.formats[-1].name.text == "y"


def test_what_is_mended_is_read_as_it_was_meant():
    parsed = parse_partial(
        'include "nf4"\nimport near/by.fmt\nimport "a", "b"\natom c codebook 1 { 0, 1 }\n'
        "format x extends mxfp4 {\n  scale fp32 { block 8 }\n}\n"
    )
    assert len(parsed.diagnostics) == 5
    assert parsed.file == parse(
        'import "nf4"\nimport "near/by.fmt"\nimport "a"\nimport "b"\n'
        'atom c = codebook 1 { 0, 1 }\nformat x extends "mxfp4" {\n  scale fp32 { block 8 }\n}\n'
    )


def test_an_import_in_a_format_is_read_as_one_above_it():
    parsed = parse_partial('format x {\n  import "nf4" # why\n  block 16\n}\n# end\n')
    (fault,) = parsed.diagnostics
    assert (fault.span.line, fault.span.column) == (2, 3)
    assert parsed.damaged == frozenset()
    assert parsed.file == parse('import "nf4"\nformat x {\n  # why\n  block 16\n}\n# end\n')


def test_a_fault_in_a_body_costs_one_clause_of_the_body():
    parsed = parse_partial(
        "format x {\n  scale fp32 as {\n    block 8\n    tie\n    grid a = @\n    axis last\n"
        "    scale e4m3 { rule }\n  }\n  block 16\n}\n"
    )
    assert len(parsed.diagnostics) == 3
    assert parsed.damaged == {"tie", "grid", "scale"}
    scale, block = parsed.file.formats[0].clauses
    assert [clause.key.text for clause in scale.stored.clauses] == ["block", "axis"]
    assert block.key.text == "block"


def test_a_body_that_is_dropped_takes_its_clauses_along():
    parsed = parse_partial(
        "format x {\n  scale fp32 { ! } as {\n    block 8\n    grid a = e2m1\n    scale fp32 as {\n"
        "      grid b = e2m1\n    }\n  }\n  grid c = e2m1\n}\n"
    )
    assert len(parsed.diagnostics) == 1
    assert parsed.damaged == {"scale"}
    assert [clause.name.text for clause in parsed.file.formats[0].clauses] == ["c"]


def test_the_nesting_of_bodies_is_bounded():
    def nested(depth):
        return f"format x {{ {'scale fp32 as { ' * depth}block 1 {'} ' * depth}}}"

    assert parse_partial(nested(8)).diagnostics == ()
    for depth in (9, 100, 20000):
        (fault,) = parse_partial(nested(depth)).diagnostics
        assert (fault.code, fault.message) == ("E0105", "more than 8 bodies in one another")
    # Braces that were left out and put in are bounded as well.
    parse_partial("format x { " + "scale fp32 as " * 20000)
