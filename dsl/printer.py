"""The canonical form of a .fmt file: what ``fmtc fmt`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ast import (
    Atom,
    Binary,
    Call,
    Cite,
    Clause,
    Comments,
    Expr,
    File,
    FormatDecl,
    GridDecl,
    Negate,
    Number,
    ScaleDecl,
    SelectDecl,
    Setting,
    Text,
    Word,
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

    Raises:
        ValueError: when a string or a comment has characters that no .fmt text can have.
    """
    parts = ["\n".join(_format(item)) for item in tree.formats]
    if tree.footer:
        parts.append("\n".join(_comment(text) for text in tree.footer))
    return "\n\n".join(parts) + "\n" if parts else ""


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


def _format(node: FormatDecl) -> list[str]:
    title = f" {_string(node.title)}" if node.title else ""
    key_width = max((len(_key(clause)) for clause in node.clauses), default=0)
    name_width = max(
        (len(c.name.text) for c in node.clauses if isinstance(c, GridDecl) and not _is_short(c)),
        default=0,
    )
    lines = [f"format {node.name.text}{title} {{"]
    for clause in node.clauses:
        head = f"{_key(clause):{key_width}} "
        lines += _commented(clause.comments, _clause(clause, head, name_width))
    lines += [_comment(text) for text in node.footer]
    lines = [lines[0], *_indented(lines[1:]), "}"]
    return _commented(node.comments, lines)


def _key(clause: Clause) -> str:
    match clause:
        case Setting(key):
            return key.text
        case Cite():
            return "cite"
        case GridDecl():
            return "grid"
        case ScaleDecl():
            return "scale"
        case SelectDecl():
            return "select"


def _clause(clause: Clause, head: str, name_width: int) -> list[str]:
    """The lines of a clause that starts with ``head``, indented as if it stood at the margin."""
    match clause:
        case Setting(_, value):
            return [head + _value(value)]
        case Cite(source):
            return [head + _string(source)]
        case GridDecl(name, atom):
            if _is_short(clause):
                return [head + name.text]
            return _atom(atom, f"{head}{name.text:{name_width}} = ")
        case ScaleDecl(word, settings):
            return _settings(settings, head + word.text)
        case SelectDecl():
            return _select(clause, head)


def _is_short(grid: GridDecl) -> bool:
    return grid.atom == Atom(grid.name)


def _atom(atom: Atom, head: str) -> list[str]:
    head += atom.kind.text + (f" {atom.bits.text}" if atom.bits else "")
    if atom.values is None:
        return _settings(atom.settings, head)
    return _braced(head, [print_expr(value) for value in atom.values])


def _select(clause: SelectDecl, head: str) -> list[str]:
    unit = "bit" if clause.bits.text == "1" else "bits"
    head += f"{clause.bits.text} {unit} at {clause.place.text}"
    return _braced(head, [f"{arm.index.text}: {arm.grid.text}" for arm in clause.arms])


def _braced(head: str, items: Sequence[str]) -> list[str]:
    """Items with commas: on one line while it is short, else as many in a line as fit."""
    line = f"{head} {{ {', '.join(items)} }}"
    if len(line) <= WIDTH - len(_INDENT):
        return [line]
    lines = [f"{head} {{"]
    row = _INDENT
    for index, item in enumerate(items):
        text = item + ("," if index < len(items) - 1 else "")
        if row.strip() and len(row) + 1 + len(text) > WIDTH - len(_INDENT):
            lines.append(row)
            row = _INDENT
        row += f" {text}" if row.strip() else text
    return [*lines, row, "}"]


def _settings(settings: Sequence[Setting] | None, head: str) -> list[str]:
    """Settings in braces: on one line while it is short and has no comments."""
    if settings is None:
        return [head]
    if not settings:
        return [f"{head} {{ }}"]
    items = [f"{item.key.text} {_value(item.value)}" for item in settings]
    line = f"{head} {{ {'  '.join(items)} }}"
    if len(line) <= WIDTH - len(_INDENT) and all(s.comments == Comments() for s in settings):
        return [line]
    width = max(len(item.key.text) for item in settings)
    lines: list[str] = []
    for item in settings:
        text = f"{item.key.text:{width}} {_value(item.value)}"
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
