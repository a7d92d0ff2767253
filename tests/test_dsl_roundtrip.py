from __future__ import annotations

from pathlib import Path

import fmtc
import pytest
from fmtc.dsl import (
    Arm,
    Atom,
    File,
    FormatDecl,
    GridDecl,
    Number,
    ScaleDecl,
    SelectDecl,
    Setting,
    Text,
    Word,
    ZeroDecl,
    parse,
    print_body,
    print_expr,
    print_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import bodies, expressions, files, names, numbers, tuples, words

SHIPPED = Path(fmtc.__file__).parent / "formats"
FORMATS = sorted(SHIPPED.glob("*/*.fmt"))


@settings(max_examples=300, deadline=None)
@given(files)
def test_a_printed_tree_reads_back_as_the_same_tree_and_prints_the_same(tree):
    text = print_file(tree)
    again = parse(text)
    assert again == tree
    assert print_file(again) == text


@settings(max_examples=100, deadline=None)
@given(bodies)
def test_a_body_printed_alone_reads_back_behind_as(body):
    (clause,) = parse(f"format x {{ scale fp32 as {print_body(body)} }}").formats[0].clauses
    # Alone on its line, the first comment of a body stays in it.
    assert clause.stored == body


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_an_expression_keeps_its_tree_through_print_and_parse(expression):
    text = f"format x {{ k {print_expr(expression)} }}"
    (clause,) = parse(text).formats[0].clauses
    assert clause == Setting(Word("k"), expression)


@settings(max_examples=200, deadline=None)
@given(expressions)
def test_no_bracket_is_printed_that_could_be_left_out(expression):
    text = print_expr(expression)
    for start, sign in enumerate(text):
        if sign != "(" or (start and (text[start - 1].isalnum() or text[start - 1] == "_")):
            continue
        stop = _closing(text, start)
        bare = f"{text[:start]}{text[start + 1 : stop]}{text[stop + 1 :]}"
        (clause,) = parse(f"format x {{ k {bare} }}").formats[0].clauses
        assert clause != Setting(Word("k"), expression), bare


def _closing(text, start):
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise AssertionError(text)


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: str(path.relative_to(SHIPPED)))
def test_every_shipped_file_reads_and_reads_back_from_its_canonical_form(path):
    tree = parse(path.read_text(encoding="utf-8"), path.name)
    assert len(tree.formats) == (path.parent.name != "atoms")
    assert bool(tree.atoms) == (path.parent.name == "atoms")
    assert parse(print_file(tree)) == tree


def test_there_are_shipped_formats_to_read():
    assert FORMATS


def test_the_canonical_form_is_laid_out_in_columns_and_wrapped():
    wide = ", ".join(f"0.{index:02}" for index in range(32))
    source = """
    # Above the format.
    format   demo "A \\"demo\\" with a backslash \\\\"   { # on the header
      cite "source" block 16 # beside block
      # above the grid
      grid a=codebook 3{-1,-0.5,# inside the list
        -1/4,0,2^-2,(1+1)/4,1 } # beside a
      grid longer = int 4 { range symmetric }
      grid e2m1 = e2m1
      grid wide = codebook 5 { WIDE }
      scale e4m3 { rule absmax # beside rule
        tensor fp32
        # last in the scale
      }
      select 2 bits at scale.sign { 0:a,1:longer,2:e2m1,3:wide, }
      # last
    } # beside the brace
    # after all
    """.replace("WIDE", wide)
    assert print_file(parse(source)) == (
        "# Above the format.\n"
        "# on the header\n"
        'format demo "A \\"demo\\" with a backslash \\\\" {\n'
        '  cite   "source"\n'
        "  block  16  # beside block\n"
        "  # above the grid\n"
        "  # inside the list\n"
        "  grid   a      = codebook 3 { -1, -0.5, -1/4, 0, 2^-2, (1 + 1)/4, 1 }  # beside a\n"
        "  grid   longer = int 4 { range symmetric }\n"
        "  grid   e2m1\n"
        "  grid   wide   = codebook 5 {\n"
        "    0.00, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10, 0.11, 0.12, 0.13, "
        "0.14, 0.15,\n"
        "    0.16, 0.17, 0.18, 0.19, 0.20, 0.21, 0.22, 0.23, 0.24, 0.25, 0.26, 0.27, 0.28, 0.29, "
        "0.30, 0.31\n"
        "  }\n"
        "  # last in the scale\n"
        "  scale  e4m3 {\n"
        "    rule   absmax  # beside rule\n"
        "    tensor fp32\n"
        "  }\n"
        "  select 2 bits at scale.sign { 0: a, 1: longer, 2: e2m1, 3: wide }\n"
        "  # last\n"
        "}  # beside the brace\n"
        "\n"
        "# after all\n"
    )


@settings(max_examples=100, deadline=None)
@given(names, tuples(numbers, 1, 200), tuples(st.builds(Setting, words, numbers), 1, 20))
def test_lists_and_settings_are_broken_at_a_hundred_columns(name, items, knobs_of_scale):
    grid = GridDecl(Word(name), Atom(Word("codebook"), Number("8"), values=items))
    scale = ScaleDecl(Word("e4m3"), knobs_of_scale)
    select = SelectDecl(
        Number("4"), Word("field"), tuple(Arm(item, Word(name)) for item in items[:16])
    )
    text = print_file(File((FormatDecl(Word(name), None, (grid, scale, select)),)))
    assert max(map(len, text.splitlines())) <= 100


def test_an_empty_text_is_an_empty_file_and_prints_as_nothing():
    assert parse("") == parse(" \n\r\n\t") == File(())
    assert print_file(File(())) == ""


@pytest.mark.parametrize("bad", ["two\nlines", "nul\0", "next\x85line", "lone\rreturn", "\u2028"])
def test_a_string_that_no_text_can_hold_is_refused_by_the_printer(bad):
    tree = File((FormatDecl(Word("x"), Text(bad), ()),))
    with pytest.raises(ValueError, match="control character"):
        print_file(tree)


def test_imports_atoms_and_bodies_are_laid_out_with_their_comments():
    source = """
    format demo extends "mxfp4" { # on the header
      scale fp32{rule absmax # beside rule
        } as { # on the body
        over tensor  block 256 # beside block
        # above the grid
        grid q = int 8 { range full }
        scale fp32 as { } # beside the inner scale
        # at the end of the body
      } # beside the scale
      zero minimum as{block 8}
      side opq{quantile 0.92}side wr # beside wr
      record 16 { scales, # beside the scales
        # above the codes
        codes { order halves run 16 }, zeros.codes # beside the zeros
        # behind the fields
      }
      record 16{scales,codes{bits 4}}
    }
    # above the import
    import "near/by.fmt" # beside the import
    atom pair "A pair" = codebook 1 { -1, # between values
      1 } learned { method lloyd # beside method
      # above source
      source gaussian } # beside the atom
    import "nf4"
    # after all
    """
    assert (
        print_file(parse(source))
        == """\
# above the import
import "near/by.fmt"  # beside the import
import "nf4"

# between values
atom pair "A pair" = codebook 1 { -1, 1 } learned {
  method lloyd  # beside method
  # above source
  source gaussian
}  # beside the atom

# on the header
format demo extends "mxfp4" {
  # on the body
  scale  fp32 {
    rule absmax  # beside rule
  } as {
    over  tensor
    block 256  # beside block
    # above the grid
    grid  q = int 8 { range full }
    scale fp32 as { }  # beside the inner scale
    # at the end of the body
  }  # beside the scale
  zero   minimum as {
    block 8
  }
  side   opq { quantile 0.92 }
  side   wr  # beside wr
  # behind the fields
  record 16 {
    scales,  # beside the scales
    # above the codes
    codes { order halves  run 16 },
    zeros.codes  # beside the zeros
  }
  record 16 { scales, codes { bits 4 } }
}

# after all
"""
    )


def test_the_reserved_word_zero_is_a_value_too():
    (clause, point) = parse("format x { nan zero  zero point }").formats[0].clauses
    assert clause == Setting(Word("nan"), Word("zero"))
    assert point == ZeroDecl(Word("point"))


def test_settings_that_look_like_a_mistyped_clause_are_read_as_they_stand():
    text = 'format x { selct 1 bit at  scal e4m3  gird a  cit "text"  fromat b }'
    keys = [clause.key.text for clause in parse(text).formats[0].clauses]
    assert keys == ["selct", "bit", "scal", "gird", "cit", "fromat"]
