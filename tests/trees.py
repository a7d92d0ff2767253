"""Hypothesis strategies for syntax trees: whatever a .fmt text can say."""

from __future__ import annotations

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
)
from hypothesis import strategies as st

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
values = st.one_of(words, st.just(Word("zero")), texts, expressions)
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
