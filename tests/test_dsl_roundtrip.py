from __future__ import annotations

from pathlib import Path

import fmtc
import pytest
from fmtc.dsl import (
    Arm,
    Atom,
    AtomDecl,
    Binary,
    Body,
    Call,
    Cite,
    Comments,
    File,
    FormatDecl,
    GridDecl,
    Import,
    Negate,
    Number,
    RecordDecl,
    RecordField,
    ScaleDecl,
    SelectDecl,
    Setting,
    SideDecl,
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

SHIPPED = Path(fmtc.__file__).parent / "formats"
FORMATS = sorted(SHIPPED.glob("*/*.fmt"))
RESERVED = {"format", "import", "atom", "as", "learned"} | {
    *("cite", "grid", "scale", "zero", "select", "side", "record"),
}

names = st.one_of(
    st.sampled_from(
        ["block", "rule", "absmax", "e4m3", "nf4", "bit", "bits", "at", "extends", "_", "formats"]
    ),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,30}", fullmatch=True),
).filter(lambda name: name not in RESERVED)
words = st.builds(Word, names)
numbers = st.builds(
    Number, st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
printable = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
texts = st.builds(Text, st.text(st.one_of(printable, st.sampled_from('"\\\t#{}/*')), max_size=120))
notes = st.text(st.one_of(printable, st.sampled_from('"#{}/')), max_size=60).map(str.strip)
comments = st.one_of(
    st.just(Comments()),
    st.builds(Comments, st.lists(notes, max_size=2).map(tuple), st.none() | notes),
)
footers = st.lists(notes, max_size=2).map(tuple)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.builds(Negate, inner),
        st.builds(Binary, st.sampled_from("+-*/^"), inner, inner),
        st.builds(Call, words, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=12,
)
values = st.one_of(words, texts, expressions)
knobs = st.builds(Setting, words, values, comments=comments)


def tuples(items, least=0, most=5):
    return st.lists(items, min_size=least, max_size=most).map(tuple)


bits = st.none() | numbers
recipes = st.none() | tuples(knobs)
atoms = st.one_of(
    st.builds(Atom, words, bits, recipe=recipes),
    st.builds(Atom, words, bits, values=tuples(expressions, 1, 40), recipe=recipes),
    st.builds(Atom, words, bits, settings=tuples(knobs, 1), recipe=recipes),
)
places = st.one_of(words, st.builds(lambda name: Word(f"scale.{name}"), names))
streams = st.lists(names, min_size=1, max_size=3).map(lambda parts: Word(".".join(parts)))
fields = st.builds(RecordField, streams, st.none() | tuples(knobs), comments=comments)
plain_clauses = st.one_of(
    knobs,
    st.builds(Cite, texts, comments=comments),
    st.builds(GridDecl, words, atoms, comments=comments),
    st.builds(lambda w, c: GridDecl(w, Atom(w), comments=c), words, comments),
    st.builds(
        SelectDecl,
        numbers,
        places,
        tuples(st.builds(Arm, numbers, words), 1, 16),
        comments=comments,
    ),
    st.builds(SideDecl, words, st.none() | tuples(knobs), comments=comments),
    st.builds(RecordDecl, numbers, tuples(fields, 1, 8), comments=comments),
)


def scaled(stored):
    """Scales and zeros that may be stored in a body of their own."""
    return st.one_of(
        *(
            st.builds(kind, words, st.none() | tuples(knobs), st.none() | stored, comments=comments)
            for kind in (ScaleDecl, ZeroDecl)
        )
    )


bodies = st.recursive(
    st.builds(Body, tuples(plain_clauses), footer=footers),
    lambda inner: st.builds(Body, tuples(plain_clauses | scaled(inner)), footer=footers),
    max_leaves=4,
)
formats = st.builds(
    FormatDecl,
    words,
    st.none() | texts,
    tuples(plain_clauses | scaled(bodies)),
    st.none() | texts,
    comments=comments,
    footer=footers,
)
files = st.builds(
    File,
    tuples(formats, 0, 2),
    tuples(st.builds(Import, texts, comments=comments), 0, 3),
    tuples(st.builds(AtomDecl, words, st.none() | texts, atoms, comments=comments), 0, 2),
    footers,
)


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


def test_settings_that_look_like_a_mistyped_clause_are_read_as_they_stand():
    text = 'format x { selct 1 bit at  scal e4m3  gird a  cit "text"  fromat b }'
    keys = [clause.key.text for clause in parse(text).formats[0].clauses]
    assert keys == ["selct", "bit", "scal", "gird", "cit", "fromat"]
