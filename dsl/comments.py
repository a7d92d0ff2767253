"""Puts comments back into the tree, next to what they stand by. None is ever lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from .ast import (
    Atom,
    AtomDecl,
    Body,
    Clause,
    Comments,
    File,
    FormatDecl,
    GridDecl,
    Import,
    RecordDecl,
    RecordField,
    ScaleDecl,
    Setting,
    SideDecl,
    Span,
    ZeroDecl,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .scanner import Comment

_Declaration = Import | AtomDecl | FormatDecl
_Node = TypeVar("_Node", bound=_Declaration | Clause | RecordField)


def attach(file: File, comments: Sequence[Comment]) -> File:
    """The same file with its comments in place.

    A comment belongs beside the node that ends before it on its line, else above the next
    node in the same braces, else to the footer of its format, body or file. One inside a node
    that is by none of what the node is made of goes above that node.
    """
    if not comments:
        return file
    nodes: list[_Declaration] = [*file.imports, *file.atoms, *file.formats]
    nodes.sort(key=lambda node: (node.span.line, node.span.column))
    nodes, after = _attach_all(nodes, comments, _declaration)
    return File(
        tuple(node for node in nodes if isinstance(node, FormatDecl)),
        tuple(node for node in nodes if isinstance(node, Import)),
        tuple(node for node in nodes if isinstance(node, AtomDecl)),
        _texts(after),
    )


@dataclass(slots=True)
class _Notes:
    """The comments of one node, by where they stand."""

    above: list[Comment] = field(default_factory=list)
    inside: list[Comment] = field(default_factory=list)
    beside: str | None = None


def _attach_all(
    nodes: Sequence[_Node],
    comments: Sequence[Comment],
    inner: Callable[[_Node, Sequence[Comment]], tuple[_Node, list[Comment]]],
) -> tuple[list[_Node], list[Comment]]:
    """The nodes of one pair of braces with their comments, and the comments after the last.

    ``inner`` gives a node the comments inside it, and returns those that it has no place for.
    """
    notes, after = _share_out(comments, [node.span for node in nodes])
    done: list[_Node] = []
    for node, note in zip(nodes, notes, strict=True):
        filled, moved = inner(node, note.inside)
        texts = Comments(_texts([*note.above, *moved]), note.beside)
        done.append(replace(filled, comments=texts))
    return done, after


def _share_out(
    comments: Sequence[Comment], spans: Sequence[Span]
) -> tuple[list[_Notes], list[Comment]]:
    """Give comments to the nodes of one pair of braces; what is left follows the last node."""
    notes = [_Notes() for _ in spans]
    after: list[Comment] = []
    index = 0  # of the first node that does not end before the comment
    for comment in comments:
        place = (comment.line, comment.column)
        while index < len(spans) and (spans[index].end_line, spans[index].end_column) <= place:
            index += 1
        if index < len(spans) and (spans[index].line, spans[index].column) < place:
            notes[index].inside.append(comment)
        elif index and spans[index - 1].end_line == comment.line:
            notes[index - 1].beside = comment.text
        elif index < len(spans):
            notes[index].above.append(comment)
        else:
            after.append(comment)
    return notes, after


# -- what a node is made of ------------------------------------------------------------
# Each function gives a node the comments inside it, and returns those without a place in it.


def _declaration(
    node: _Declaration, comments: Sequence[Comment]
) -> tuple[_Declaration, list[Comment]]:
    if isinstance(node, FormatDecl):
        header, inside = _split(comments, (node.base or node.title or node.name).span, node.clauses)
        clauses, footer = _attach_all(node.clauses, inside, _clause)
        return replace(node, clauses=tuple(clauses), footer=_texts(footer)), header
    if isinstance(node, AtomDecl):
        atom, moved = _atom(node.atom, comments)
        return replace(node, atom=atom), moved
    return node, list(comments)


def _clause(node: Clause, comments: Sequence[Comment]) -> tuple[Clause, list[Comment]]:
    match node:
        case GridDecl(_, atom):
            atom, moved = _atom(atom, comments)
            return replace(node, atom=atom), moved
        case ScaleDecl(word, settings, stored) | ZeroDecl(word, settings, stored):
            if stored is None:
                settings, moved = _settings(settings, comments, word.span)
                return replace(node, settings=settings), moved
            inside = [c for c in comments if _is_behind(c, stored.span)]
            outside = comments[: len(comments) - len(inside)]
            settings, moved = _settings(settings, outside, word.span)
            stored, header = _body(stored, inside)
            return replace(node, settings=settings, stored=stored), moved + header
        case SideDecl(kind, settings):
            settings, moved = _settings(settings, comments, kind.span)
            return replace(node, settings=settings), moved
        case RecordDecl(elements, fields):
            header, inside = _split(comments, elements.span, fields)
            filled, after = _attach_all(fields, inside, _field)
            return replace(node, fields=tuple(filled)), header + after
        case _:
            return node, list(comments)


def _body(body: Body, comments: Sequence[Comment]) -> tuple[Body, list[Comment]]:
    brace = replace(body.span, end_line=body.span.line)
    header, inside = _split(comments, brace, body.clauses)
    clauses, footer = _attach_all(body.clauses, inside, _clause)
    return replace(body, clauses=tuple(clauses), footer=_texts(footer)), header


def _field(node: RecordField, comments: Sequence[Comment]) -> tuple[RecordField, list[Comment]]:
    settings, moved = _settings(node.settings, comments, node.stream.span)
    return replace(node, settings=settings), moved


def _atom(atom: Atom, comments: Sequence[Comment]) -> tuple[Atom, list[Comment]]:
    header = (atom.bits or atom.kind).span
    if not atom.recipe:
        settings, moved = _settings(atom.settings, comments, header)
        return replace(atom, settings=settings), moved
    # The recipe's own begin behind its first setting, or below what stands before it.
    end = (atom.settings or atom.values or (atom.kind,))[-1].span
    start = atom.recipe[0].span
    own = [c for c in comments if c.line > end.end_line or _is_behind(c, start)]
    recipe, after = _settings(atom.recipe, own, end)
    settings, moved = _settings(atom.settings, comments[: len(comments) - len(own)], header)
    return replace(atom, settings=settings, recipe=recipe), moved + after


def _settings(
    nodes: tuple[Setting, ...] | None, comments: Sequence[Comment], header: Span
) -> tuple[tuple[Setting, ...] | None, list[Comment]]:
    """Settings with their comments, and the comments of none of them."""
    if not nodes:
        return nodes, list(comments)
    before, inside = _split(comments, header, nodes)
    settings, after = _attach_all(nodes, inside, lambda node, notes: (node, list(notes)))
    return tuple(settings), before + after


# -- by place --------------------------------------------------------------------------


def _split(
    comments: Sequence[Comment], header: Span, nodes: Sequence[Clause] | Sequence[RecordField]
) -> tuple[list[Comment], list[Comment]]:
    """Split those on the line that opens the braces from those in the braces."""
    first = nodes[0].span.line if nodes else header.end_line + 1
    before = [c for c in comments if c.line <= header.end_line and c.line < first]
    return before, list(comments[len(before) :])


def _is_behind(comment: Comment, start: Span) -> bool:
    return (comment.line, comment.column) > (start.line, start.column)


def _texts(comments: Sequence[Comment]) -> tuple[str, ...]:
    return tuple(comment.text for comment in comments)
