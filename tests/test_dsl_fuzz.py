from __future__ import annotations

import itertools
import multiprocessing
import pickle
import subprocess
import sys
import time
from pathlib import Path

import fmtc
import pytest
from fmtc.dsl import (
    SYNTAX_CODES,
    File,
    FormatError,
    Span,
    parse,
    parse_partial,
    print_file,
    render,
)
from fuzzing import attack
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import files

SHIPPED = [
    path.read_text(encoding="utf-8")
    for path in sorted((Path(fmtc.__file__).parent / "formats").glob("*/*.fmt"))
]
SAMPLE = """# A format with every clause.
import "nf4"
import "near/by.fmt"  # beside
atom half "title" = codebook 1 { -1/2, 1/2 } learned { method lloyd  block 16 }
format demo "every clause" extends "mxfp4" {
  cite   "a source"
  block  16
  min    2^-9 + -(1/3)*sinh(1, 2)
  grid   a = codebook 2 { -1, -0.25, 1e-3, 1 }  # beside
  grid   b = e3m3 { top reserved  bias 3 }
  grid   e2m1
  grid   c = half { times 2  order negated }
  scale  fp32 { rule absmax } as {
    over  tensor  # beside
    block 256
    scale fp32 as { block 16  grid e4m3  scale fp32 }
    # footer
  }
  zero   minimum { word fp16 }
  nan    zero
  select 2 bits at scale.sign { 0: a, 1: b, 2: e2m1, 3: c, }
  side   opq { quantile 0.92 }
  side   wr
  record 32 { scales.codes { order halves  run 64 }, codes, }
}
format next { block 32 }
"""
WORDS = [
    "format",
    "import",
    "atom",
    "extends",
    "cite",
    "grid",
    "scale",
    "zero",
    "select",
    "side",
    "record",
    "as",
    "learned",
    "bit",
    "at",
    "block",
    "e4m3",
    "16",
    "0.5",
    "2x",
    ".5",
    "1.",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "=",
    ".",
    "+",
    "-",
    "*",
    "/",
    "^",
    ";",
    '"text"',
    '"open',
    "#",
    "//",
    "[",
    "]",
    "@",
    "ö",
    "\x00",
    "\\",
    "f(",
    "\n",
    "\r\n",
    "\ufeff",
]


def positions(file):
    """Every span of a tree."""
    pending = [file]
    while pending:
        node = pending.pop()
        if isinstance(node, Span):
            yield node
        elif isinstance(node, tuple):
            pending += node
        elif hasattr(node, "__dataclass_fields__"):
            pending += [getattr(node, name) for name in node.__dataclass_fields__]


def check(text):
    parsed = parse_partial(text)
    lines = text.removeprefix("\ufeff").split("\n")
    for span in itertools.chain(positions(parsed.file), (d.span for d in parsed.diagnostics)):
        assert 1 <= span.line <= span.end_line <= len(lines)
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1
        assert 1 <= span.end_column <= len(lines[span.end_line - 1]) + 1 or span.column == 1
        assert (span.line, span.column) <= (span.end_line, span.end_column)
    assert len(parsed.diagnostics) <= 50
    assert all(d.code in SYNTAX_CODES for d in parsed.diagnostics)
    if parsed.diagnostics:
        with pytest.raises(FormatError) as caught:
            parse(text, "fuzz.fmt")
        assert caught.value.diagnostics == parsed.diagnostics
        assert str(caught.value) == render(parsed.diagnostics, text, "fuzz.fmt")
    else:
        assert parsed.damaged == frozenset()
        assert parse(text) == parsed.file
    again = parse_partial(print_file(parsed.file))
    assert again.diagnostics == ()
    assert again.file == parsed.file
    return parsed


@settings(max_examples=400, deadline=None)
@given(st.text())
def test_no_text_is_too_strange_to_be_reported_on(text):
    check(text)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_no_order_of_words_is_too_strange_to_be_reported_on(words):
    check(" ".join(words))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_text_with_pieces_cut_out_or_put_in_is_reported_on(data):
    text = data.draw(st.sampled_from([SAMPLE, *SHIPPED]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 12)))
        piece = data.draw(st.sampled_from(["", " ", *WORDS]) | st.text(max_size=3))
        text = text[:start] + piece + text[stop:]
    check(text)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_printed_tree_with_an_edit_is_reported_on(data):
    text = print_file(data.draw(files))
    start = data.draw(st.integers(0, len(text)))
    stop = start + data.draw(st.integers(0, 12))
    check(text[:start] + data.draw(st.sampled_from(["", " ", *WORDS])) + text[stop:])


def assert_harmless(found, inputs):
    assert found.crashes == []
    assert found.inputs == inputs
    assert found.slowest[0] < 1.0, found.slowest


def test_texts_of_a_mutation_fuzzer_are_read_or_refused_in_time():
    found = attack(seed=0, count=1500)
    assert_harmless(found, 1500)
    assert found.sound > 50
    assert len(found.codes) > 20


@pytest.mark.slow
def test_a_million_texts_of_a_mutation_fuzzer_are_read_or_refused_in_time():
    half = 500_000
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for found in pool.starmap(attack, [(1, half), (2, half)]):
            assert_harmless(found, half)
            assert found.peak_mb < 1024
            assert found.sound > 10_000
            assert len(found.codes) > 30


def test_every_prefix_of_a_text_is_reported_on_unless_it_is_whole():
    for stop in range(len(SAMPLE)):
        parsed = check(SAMPLE[:stop])
        inside = "{" in SAMPLE[:stop] and SAMPLE[:stop].rstrip()[-1] not in "}"
        assert not inside or parsed.diagnostics, SAMPLE[:stop]


def test_leaving_out_any_one_token_keeps_the_clauses_that_do_not_touch_it():
    whole = parse(SAMPLE)
    words = SAMPLE.split(" ")
    for index, word in enumerate(words):
        parsed = check(" ".join(words[:index] + words[index + 1 :]))
        if word.strip():
            assert len(parsed.file.formats) <= len(whole.formats)
            assert sum(len(f.clauses) for f in parsed.file.formats) >= 6 or {"format", "atom"} & (
                parsed.damaged
            )


@pytest.mark.parametrize(
    "text",
    [
        "format x { k " + "(" * 5000 + "1" + ")" * 5000 + " block 16 }",
        "format x { k " + "-" * 5000 + "1 block 16 }",
        "format x { k " + "2^" * 5000 + "2 block 16 }",
        "format x { k 1" + " + 1" * 5000 + " block 16 }",
        "format x { k " + "f(" * 5000 + "1" + ")" * 5000 + " block 16 }",
        "format x { grid g = codebook 1 { " + "f(1+1," * 5000 + "1" + ")" * 5000 + " } block 16 }",
    ],
    ids=["brackets", "minuses", "powers", "sums", "calls", "arguments"],
)
def test_an_expression_too_deep_is_one_fault_and_the_rest_is_read(text):
    parsed = check(text)
    assert [d.code for d in parsed.diagnostics] == ["E0105"]
    assert parsed.damaged in ({"k"}, {"grid"})


@pytest.mark.parametrize("sign", ["-", "2^", "f(1,", "1+", "(1)*"])
def test_an_expression_at_the_depth_limit_is_read(sign):
    count = 50 if "(" in sign else 100
    closing = ")" * (count if sign == "f(1," else 0)
    text = f"format x {{ k {sign * count}1{closing} }}"
    assert check(text).diagnostics == ()


def test_a_long_list_is_no_deep_expression():
    values = ", ".join(f"-{index}/256" for index in range(256))
    assert check(f"format x {{ grid g = codebook 8 {{ {values} }} }}").diagnostics == ()
    assert check(f"format x {{ k table({values}) }}").diagnostics == ()


@pytest.mark.parametrize(
    "unit",
    [
        "x",
        "@ ",
        "\0",
        "{",
        "}",
        "(",
        '"',
        "# x\n",
        "format x {",
        "block 16\n",
        "1 ",
        "scale ",
        ". ",
        "as {",
        "scale x as {\n",
        "import a\n",
        "atom ",
        "record 1 {",
        "record 1 { a b }",
    ],
)
@pytest.mark.parametrize(
    ("size", "seconds"), [(1 << 15, 10), pytest.param(1 << 20, 100, marks=pytest.mark.slow)]
)
def test_a_long_text_of_anything_is_answered_in_time(unit, size, seconds):
    text = ("format x {\n" + unit * size)[:size]
    start = time.monotonic()
    parse_partial(text)
    assert time.monotonic() - start < seconds


def test_a_text_over_a_mebibyte_is_refused():
    parsed = parse_partial(" " * ((1 << 20) + 1))
    assert [d.code for d in parsed.diagnostics] == ["E0105"]
    assert parsed.file == File(())


def test_crlf_line_ends_and_a_byte_order_mark_change_nothing():
    windows = "\ufeff" + SAMPLE.replace("\n", "\r\n")
    assert parse(windows) == parse(SAMPLE)
    spans, plain = (sorted(map(repr, positions(parse(t)))) for t in (windows, SAMPLE))
    assert spans == plain
    assert str(error_of("\ufeffformat x {\r\n  block = 1\r\n}")) == str(
        error_of("format x {\n  block = 1\n}")
    )


def error_of(text):
    with pytest.raises(FormatError) as caught:
        parse(text, "x.fmt")
    return caught.value


def test_an_error_survives_being_sent_to_another_process():
    error = error_of("format x { block }")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.diagnostics == error.diagnostics


def test_importing_the_language_does_not_import_lark():
    code = "import sys, fmtc.dsl; sys.exit('lark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_grammar_is_built_within_a_tenth_of_a_second():
    from fmtc.dsl.cursor import language

    times = []
    for _ in range(3):
        language.cache_clear()
        start = time.process_time()
        language()
        times.append(time.process_time() - start)
    assert min(times) < 0.1


def test_spans_cover_exactly_the_text_of_their_nodes():
    text = 'format x "t" {\n  grid  a = codebook 2 { -1, (1 + 2)/3, f(2) }\n  k -2^2\n}'
    (declaration,) = parse(text).formats
    grid, setting = declaration.clauses
    assert declaration.span == Span(1, 1, 4, 2)
    assert declaration.title.span == Span(1, 10, 1, 13)
    assert grid.span == Span(2, 3, 2, 47)
    assert grid.atom.span == Span(2, 13, 2, 47)
    assert [value.span for value in grid.atom.values] == [
        Span(2, 26, 2, 28),
        Span(2, 30, 2, 39),
        Span(2, 41, 2, 45),
    ]
    assert setting.key.span == Span(3, 3, 3, 4)
    assert setting.value.span == Span(3, 5, 3, 9)
