"""The syntax tree of a .fmt file: frozen values that carry their source spans.

Two trees are equal when they say the same thing: spans never take part in a
comparison, comments and the spelling of numbers do. So ``parse(print(tree)) == tree``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of source text: 1-based lines and columns, ``end`` exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


#: The span of a node that was built by a program and stands in no file.
NOWHERE = Span(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Word:
    """A name, a keyword value such as ``absmax``, or a dotted place such as ``scale.sign``."""

    text: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Text:
    """A string literal; ``text`` is its meaning, without quotes or escapes."""

    text: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number:
    """An unsigned numeric literal, kept as written (``0.25``, ``16``, ``1e-3``)."""

    text: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Negate:
    """``-operand``."""

    operand: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """``left op right`` with ``op`` one of ``+ - * / ^``."""

    op: str
    left: Expr
    right: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """``function(arguments)``: a closed form of a generated grid."""

    function: Word
    arguments: tuple[Expr, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


Expr = Number | Negate | Binary | Call


@dataclass(frozen=True, slots=True)
class Comments:
    """The comments that stand above a clause, and the one at the end of its line.

    Texts are without the ``#`` and the blanks around it.
    """

    above: tuple[str, ...] = ()
    beside: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """``key value``: one knob of a format, a scale or an atom."""

    key: Word
    value: Word | Text | Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class Cite:
    """``cite "source"``: where the format comes from."""

    source: Text
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class Atom:
    """``kind [bits] [{ values } | { settings }] [learned { recipe }]``: a way to make a grid.

    ``codebook 4 { -1, 0, 1 }`` has values, ``e3m3 { bias 3 }`` and ``other { times 2 }`` have
    settings, ``e2m1`` has neither. ``recipe`` says how frozen values were learned.
    """

    kind: Word
    bits: Number | None = None
    values: tuple[Expr, ...] | None = None
    settings: tuple[Setting, ...] | None = None
    recipe: tuple[Setting, ...] | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class GridDecl:
    """``grid name = atom``, or ``grid e2m1`` where the atom's kind is its name."""

    name: Word
    atom: Atom
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class Body:
    """``{ clauses }`` after ``as``: the nameless format that scales or minima are stored in."""

    clauses: tuple[Clause, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    footer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScaleDecl:
    """``scale word { settings } as { ... }``; ``settings`` is None where there are no braces."""

    word: Word
    settings: tuple[Setting, ...] | None = None
    stored: Body | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class ZeroDecl:
    """``zero point { settings }`` or ``zero minimum { settings } as { ... }``."""

    kind: Word
    settings: tuple[Setting, ...] | None = None
    stored: Body | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class SideDecl:
    """``side opq { settings }``: a sparse stream beside the dense codes."""

    kind: Word
    settings: tuple[Setting, ...] | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class Arm:
    """``index: grid`` inside a select clause."""

    index: Number
    grid: Word
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SelectDecl:
    """``select N bit at place { index: grid, ... }``."""

    bits: Number
    place: Word
    arms: tuple[Arm, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class RecordField:
    """``stream { settings }`` inside a record; ``stream`` may be dotted (``scales.codes``)."""

    stream: Word
    settings: tuple[Setting, ...] | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class RecordDecl:
    """``record N { field, ... }``: N elements of a row and their words stand together."""

    elements: Number
    fields: tuple[RecordField, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


Clause = Setting | Cite | GridDecl | ScaleDecl | ZeroDecl | SelectDecl | SideDecl | RecordDecl


@dataclass(frozen=True, slots=True)
class Import:
    """``import "nf4"``: the atoms of a shipped file, or of ``"near/by.fmt"``."""

    source: Text
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class AtomDecl:
    """``atom name "title" = atom``: a named grid that formats of this file, or importers, use."""

    name: Word
    title: Text | None
    atom: Atom
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()


@dataclass(frozen=True, slots=True)
class FormatDecl:
    """``format name "title" extends "base" { clauses }``.

    ``footer`` are comments before the closing brace.
    """

    name: Word
    title: Text | None
    clauses: tuple[Clause, ...]
    base: Text | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    comments: Comments = Comments()
    footer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A whole .fmt file; ``footer`` are comments after its last declaration.

    Imports and atoms stand before, between or after the formats; printing puts them first.
    """

    formats: tuple[FormatDecl, ...]
    imports: tuple[Import, ...] = ()
    atoms: tuple[AtomDecl, ...] = ()
    footer: tuple[str, ...] = ()
