"""From Lark's parse tree to the syntax tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lark import Token, Transformer, v_args

from .ast import (
    Arm,
    Atom,
    AtomDecl,
    Binary,
    Body,
    Call,
    Cite,
    Clause,
    Expr,
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
    Span,
    Text,
    Word,
    ZeroDecl,
)
from .cursor import span_of

if TYPE_CHECKING:
    from lark.tree import Meta


def _span(meta: Meta) -> Span:
    return Span(meta.line, meta.column, meta.end_line, meta.end_column)


@v_args(meta=True, inline=True)
class TreeBuilder(Transformer[Token, File]):
    """Turns every rule and token of grammar.lark into its node. Comments come later."""

    # The methods carry the names of the grammar's rules and tokens, and need no other docstring.
    # ruff: noqa: D102, N802

    def NUMBER(self, token: Token) -> Number:
        return Number(str(token), span_of(token))

    def STRING(self, token: Token) -> Text:
        return Text(re.sub(r"\\([\"\\])", r"\1", token[1:-1]), span_of(token))

    def FUNCTION(self, token: Token) -> Word:
        return Word(str(token), span_of(token))

    def file(self, _meta: Meta, *declarations: FormatDecl | Import | AtomDecl) -> File:
        return File(
            tuple(d for d in declarations if isinstance(d, FormatDecl)),
            tuple(d for d in declarations if isinstance(d, Import)),
            tuple(d for d in declarations if isinstance(d, AtomDecl)),
        )

    def import_(self, meta: Meta, source: Text) -> Import:
        return Import(source, _span(meta))

    def atom_decl(self, meta: Meta, name: Word, title: Text | None, atom: Atom) -> AtomDecl:
        return AtomDecl(name, title, atom, _span(meta))

    def format(
        self, meta: Meta, name: Word, title: Text | None, base: Text | None, *clauses: Clause
    ) -> FormatDecl:
        return FormatDecl(name, title, clauses, base, _span(meta))

    def body(self, meta: Meta, *clauses: Clause) -> Body:
        return Body(clauses, _span(meta))

    def cite(self, meta: Meta, source: Text) -> Cite:
        return Cite(source, _span(meta))

    def grid(self, meta: Meta, name: Word, atom: Atom | None) -> GridDecl:
        short = Atom(Word(name.text, name.span), span=name.span)
        return GridDecl(name, atom or short, _span(meta))

    def scale(
        self, meta: Meta, word: Word, settings: tuple[Setting, ...] | None, stored: Body | None
    ) -> ScaleDecl:
        return ScaleDecl(word, settings, stored, _span(meta))

    def zero(
        self, meta: Meta, kind: Word, settings: tuple[Setting, ...] | None, stored: Body | None
    ) -> ZeroDecl:
        return ZeroDecl(kind, settings, stored, _span(meta))

    def side(self, meta: Meta, kind: Word, settings: tuple[Setting, ...] | None) -> SideDecl:
        return SideDecl(kind, settings, _span(meta))

    def record(self, meta: Meta, elements: Number, fields: tuple[RecordField, ...]) -> RecordDecl:
        return RecordDecl(elements, fields, _span(meta))

    def fields(self, _meta: Meta, *fields: RecordField) -> tuple[RecordField, ...]:
        return fields

    def field(self, meta: Meta, stream: Word, settings: tuple[Setting, ...] | None) -> RecordField:
        return RecordField(stream, settings, _span(meta))

    def dotted(self, meta: Meta, *names: Word) -> Word:
        return Word(".".join(name.text for name in names), _span(meta))

    def select(self, meta: Meta, bits: Number, place: Word, arms: tuple[Arm, ...]) -> SelectDecl:
        return SelectDecl(bits, place, arms, _span(meta))

    def setting(self, meta: Meta, key: Word, value: Word | Text | Expr) -> Setting:
        return Setting(key, value, _span(meta))

    def atom(
        self,
        meta: Meta,
        kind: Word,
        bits: Number | None,
        body: list[Expr] | tuple[Setting, ...] | None,
        recipe: tuple[Setting, ...] | None,
    ) -> Atom:
        if isinstance(body, list):
            return Atom(kind, bits, values=tuple(body), recipe=recipe, span=_span(meta))
        return Atom(kind, bits, settings=body, recipe=recipe, span=_span(meta))

    def values(self, _meta: Meta, *values: Expr) -> list[Expr]:
        return list(values)

    def settings(self, _meta: Meta, *settings: Setting) -> tuple[Setting, ...]:
        return settings

    def knobs(self, _meta: Meta, *settings: Setting) -> tuple[Setting, ...]:
        return settings

    def arms(self, _meta: Meta, *arms: Arm) -> tuple[Arm, ...]:
        return arms

    def arm(self, meta: Meta, index: Number, grid: Word) -> Arm:
        return Arm(index, grid, _span(meta))

    def place(self, _meta: Meta, name: Word) -> Word:
        return name

    def scale_place(self, meta: Meta, name: Word) -> Word:
        return Word(f"scale.{name.text}", _span(meta))

    def name(self, _meta: Meta, token: Token) -> Word:
        return Word(str(token), span_of(token))

    def select_name(self, _meta: Meta, token: Token) -> Word:
        return Word(str(token), span_of(token))

    def binary(self, meta: Meta, left: Expr, op: Token, right: Expr) -> Binary:
        return Binary(str(op), left, right, _span(meta))

    def negate(self, meta: Meta, _minus: Token, operand: Expr) -> Negate:
        return Negate(operand, _span(meta))

    def call(self, meta: Meta, function: Word, *arguments: Expr) -> Call:
        return Call(function, arguments, _span(meta))
