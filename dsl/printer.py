"""The canonical form of a .fmt file: what ``fmtc fmt`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ast import (
    Atom,
    AtomDecl,
    Binary,
    Body,
    Call,
    Cite,
    Clause,
    Comments,
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
    Text,
    Word,
    ZeroDecl,
)
from .limits import FORBIDDEN

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Longest line, in characters, where a line can be broken; comments do not count.
WIDTH = 100
_INDENT = "  "

_SUM, _PRODUCT, _UNARY, _POWER, _PRIMARY = range(1, 6)
#: Of every operator: its own level, and the least level of its left and right operands.
_LEVELS = {
    "+": (_SUM, _SUM, _PRODUCT),
    "-": (_SUM, _SUM, _PRODUCT),
    "*": (_PRODUCT, _PRODUCT, _UNARY),
    "/": (_PRODUCT, _PRODUCT, _UNARY),
    "^": (_POWER, _PRIMARY, _UNARY),
}


def print_file(tree: File) -> str:
    """Write a syntax tree as canonical .fmt text, so that ``parse(print_file(tree)) == tree``.

    Imports come first, then atoms, then formats.

    Raises:
        ValueError: when a string or a comment has characters that no .fmt text can have.
    """
    imports = [line for item in tree.imports for line in _import(item)]
    parts = [imports] if imports else []
    parts += [_atom_decl(item) for item in tree.atoms]
    parts += [_format(item) for item in tree.formats]
    if tree.footer:
        parts.append([_comment(text) for text in tree.footer])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n" if parts else ""


def print_body(body: Body) -> str:
    """Write a nested body as it stands after ``as``, at the margin and in its braces.

    Raises:
        ValueError: when a string or a comment has characters that no .fmt text can have.
    """
    return "\n".join(_body(body, "", WIDTH)) + "\n"


def print_expr(expr: Expr) -> str:
    """Write an expression with as few brackets as keep its tree."""
    return _expr(expr, _SUM)


def _expr(expr: Expr, least: int) -> str:
    match expr:
        case Number(text):
            return text
        case Call(function, arguments):
            return f"{function.text}({', '.join(map(print_expr, arguments))})"
        case Negate(operand):
            level, text = _UNARY, f"-{_expr(operand, _UNARY)}"
        case Binary(op, left, right):
            level, least_left, least_right = _LEVELS[op]
            sign = f" {op} " if level == _SUM else op
            text = f"{_expr(left, least_left)}{sign}{_expr(right, least_right)}"
    return text if level >= least else f"({text})"


# -- declarations ----------------------------------------------------------------------


def _import(node: Import) -> list[str]:
    return _commented(node.comments, [f"import {_string(node.source)}"])


def _atom_decl(node: AtomDecl) -> list[str]:
    title = f" {_string(node.title)}" if node.title else ""
    lines = _atom(node.atom, f"atom {node.name.text}{title} = ", WIDTH)
    return _commented(node.comments, lines)


def _format(node: FormatDecl) -> list[str]:
    title = f" {_string(node.title)}" if node.title else ""
    base = f" extends {_string(node.base)}" if node.base else ""
    lines = [
        f"format {node.name.text}{title}{base} {{",
        *_indented(_clauses(node.clauses, node.footer, WIDTH - len(_INDENT))),
        "}",
    ]
    return _commented(node.comments, lines)


# -- clauses ---------------------------------------------------------------------------
# Every function below returns lines as if they stood at the margin, of at most ``width``.


def _clauses(clauses: Sequence[Clause], footer: Sequence[str], width: int) -> list[str]:
    """The clauses of a format or a body, in columns."""
    key_width = max((len(_key(clause)) for clause in clauses), default=0)
    name_width = max(
        (len(c.name.text) for c in clauses if isinstance(c, GridDecl) and not _is_short(c)),
        default=0,
    )
    lines: list[str] = []
    for clause in clauses:
        head = f"{_key(clause):{key_width}} "
        lines += _commented(clause.comments, _clause(clause, head, name_width, width))
    return lines + [_comment(text) for text in footer]


_KEYWORDS: dict[type[Clause], str] = {
    Cite: "cite",
    GridDecl: "grid",
    ScaleDecl: "scale",
    ZeroDecl: "zero",
    SelectDecl: "select",
    SideDecl: "side",
    RecordDecl: "record",
}


def _key(clause: Clause) -> str:
    return clause.key.text if isinstance(clause, Setting) else _KEYWORDS[type(clause)]


def _clause(clause: Clause, head: str, name_width: int, width: int) -> list[str]:
    """The lines of a clause that starts with ``head``."""
    match clause:
        case Setting(_, value):
            lines = [head + _value(value)]
        case Cite(source):
            lines = [head + _string(source)]
        case GridDecl(name) if _is_short(clause):
            lines = [head + name.text]
        case GridDecl(name, atom):
            lines = _atom(atom, f"{head}{name.text:{name_width}} = ", width)
        case ScaleDecl(word, settings, stored) | ZeroDecl(word, settings, stored):
            lines = _stored(stored, settings, head + word.text, width)
        case SelectDecl():
            lines = _select(clause, head, width)
        case SideDecl(kind, settings):
            lines = _settings(settings, head + kind.text, width)
        case RecordDecl():
            lines = _record(clause, head, width)
    return lines


def _is_short(grid: GridDecl) -> bool:
    return grid.atom == Atom(grid.name)


def _atom(atom: Atom, head: str, width: int) -> list[str]:
    head += atom.kind.text + (f" {atom.bits.text}" if atom.bits else "")
    room = width if atom.recipe is None else width - len(" learned {")
    if atom.values is None:
        lines = _settings(atom.settings, head, room)
    else:
        lines = _braced(head, [print_expr(value) for value in atom.values], room)
    if atom.recipe is None:
        return lines
    return [*lines[:-1], *_settings(atom.recipe, f"{lines[-1]} learned", width)]


def _stored(
    stored: Body | None, settings: Sequence[Setting] | None, head: str, width: int
) -> list[str]:
    """The settings of a scale or a minimum, and the body that it is stored in."""
    if stored is None:
        return _settings(settings, head, width)
    lines = _settings(settings, head, width - len(" as {"))
    return [*lines[:-1], *_body(stored, f"{lines[-1]} as ", width)]


def _body(body: Body, head: str, width: int) -> list[str]:
    lines = _clauses(body.clauses, body.footer, width - len(_INDENT))
    return [f"{head}{{", *_indented(lines), "}"] if lines else [f"{head}{{ }}"]


def _select(clause: SelectDecl, head: str, width: int) -> list[str]:
    unit = "bit" if clause.bits.text == "1" else "bits"
    head += f"{clause.bits.text} {unit} at {clause.place.text}"
    return _braced(head, [f"{arm.index.text}: {arm.grid.text}" for arm in clause.arms], width)


def _record(clause: RecordDecl, head: str, width: int) -> list[str]:
    """Fields with commas: on one line while it is short, else each on a line of its own."""
    head += clause.elements.text
    last = len(clause.fields) - 1
    fields = [
        _field(field, "" if index == last else ",", width - len(_INDENT))
        for index, field in enumerate(clause.fields)
    ]
    line = f"{head} {{ {' '.join(lines[0] for lines in fields)} }}"
    bare = all(len(lines) == 1 for lines in fields) and all(
        field.comments == Comments() for field in clause.fields
    )
    if bare and len(line) <= width:
        return [line]
    return [f"{head} {{", *_indented([line for lines in fields for line in lines]), "}"]


def _field(field: RecordField, comma: str, width: int) -> list[str]:
    lines = _settings(field.settings, field.stream.text, width - len(comma))
    return _commented(field.comments, [*lines[:-1], lines[-1] + comma])


# -- what stands in braces -------------------------------------------------------------


def _braced(head: str, items: Sequence[str], width: int) -> list[str]:
    """Items with commas: on one line while it is short, else as many in a line as fit."""
    line = f"{head} {{ {', '.join(items)} }}"
    if len(line) <= width:
        return [line]
    lines = [f"{head} {{"]
    row = _INDENT
    for index, item in enumerate(items):
        text = item + ("," if index < len(items) - 1 else "")
        if row.strip() and len(row) + 1 + len(text) > width:
            lines.append(row)
            row = _INDENT
        row += f" {text}" if row.strip() else text
    return [*lines, row, "}"]


def _settings(settings: Sequence[Setting] | None, head: str, width: int) -> list[str]:
    """Settings in braces: on one line while it is short and has no comments."""
    if settings is None:
        return [head]
    if not settings:
        return [f"{head} {{ }}"]
    items = [f"{item.key.text} {_value(item.value)}" for item in settings]
    line = f"{head} {{ {'  '.join(items)} }}"
    if len(line) <= width and all(s.comments == Comments() for s in settings):
        return [line]
    column = max(len(item.key.text) for item in settings)
    lines: list[str] = []
    for item in settings:
        text = f"{item.key.text:{column}} {_value(item.value)}"
        lines += _commented(item.comments, [text])
    return [f"{head} {{", *_indented(lines), "}"]


def _value(value: Word | Text | Expr) -> str:
    match value:
        case Word(text):
            return text
        case Text():
            return _string(value)
        case _:
            return print_expr(value)


def _commented(comments: Comments, lines: list[str]) -> list[str]:
    above = [_comment(text) for text in comments.above]
    if comments.beside is None:
        return above + lines
    return [*above, *lines[:-1], f"{lines[-1]}  {_comment(comments.beside)}"]


def _comment(text: str) -> str:
    return f"# {_checked(text)}".rstrip()


def _string(text: Text) -> str:
    escaped = _checked(text.text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _checked(text: str) -> str:
    if "\n" in text or FORBIDDEN.search(text):
        raise ValueError(f"no .fmt text can say {text!r}: it has a control character")
    return text


def _indented(lines: Sequence[str]) -> list[str]:
    return [_INDENT + line for line in lines]
