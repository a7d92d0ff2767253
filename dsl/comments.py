"""Puts comments back into the tree, next to what they stand by. None is ever lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from .ast import Clause, Comments, File, FormatDecl, GridDecl, ScaleDecl, Setting, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scanner import Comment


def attach(file: File, comments: Sequence[Comment]) -> File:
    """The same file with its comments in place.

    A comment belongs beside the node that ends before it on its line, else above the next
    node in the same braces, else to the footer of its format or file. One inside a clause
    that is by none of the clause's own settings goes above that clause.
    """
    if not comments:
        return file
    notes, after = _share_out(comments, [item.span for item in file.formats])
    formats = tuple(_format(item, note) for item, note in zip(file.formats, notes, strict=True))
    return replace(file, formats=formats, footer=_texts(after))


@dataclass(slots=True)
class _Notes:
    """The comments of one node, by where they stand."""

    above: list[Comment] = field(default_factory=list)
    inside: list[Comment] = field(default_factory=list)
    beside: str | None = None

    def comments(self, *moved: Comment) -> Comments:
        return Comments(_texts([*self.above, *moved]), self.beside)


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


def _format(node: FormatDecl, notes: _Notes) -> FormatDecl:
    header, body = _split(notes.inside, (node.title or node.name).span, node.clauses)
    clauses, footer = _clauses(node.clauses, body)
    return replace(node, clauses=clauses, comments=notes.comments(*header), footer=_texts(footer))


def _clauses(
    nodes: tuple[Clause, ...], comments: Sequence[Comment]
) -> tuple[tuple[Clause, ...], list[Comment]]:
    notes, after = _share_out(comments, [node.span for node in nodes])
    return tuple(_clause(node, note) for node, note in zip(nodes, notes, strict=True)), after


def _clause(node: Clause, notes: _Notes) -> Clause:
    if isinstance(node, ScaleDecl) and node.settings:
        settings, moved = _settings(node.settings, notes, node.word.span)
        return replace(node, settings=settings, comments=notes.comments(*moved))
    if isinstance(node, GridDecl) and node.atom.settings:
        header = (node.atom.bits or node.atom.kind).span
        settings, moved = _settings(node.atom.settings, notes, header)
        atom = replace(node.atom, settings=settings)
        return replace(node, atom=atom, comments=notes.comments(*moved))
    return replace(node, comments=notes.comments(*notes.inside))


def _settings(
    nodes: tuple[Setting, ...], notes: _Notes, header: Span
) -> tuple[tuple[Setting, ...], list[Comment]]:
    """Settings with their comments, and the comments of none of them."""
    before, body = _split(notes.inside, header, nodes)
    settings, after = _clauses(nodes, body)
    return cast("tuple[Setting, ...]", settings), [*before, *after]


def _split(
    comments: Sequence[Comment], header: Span, nodes: Sequence[Clause]
) -> tuple[list[Comment], list[Comment]]:
    """Split the comments inside braces from those on the line that opens them."""
    body = nodes[0].span.line if nodes else header.end_line + 1
    before = [c for c in comments if c.line <= header.end_line and c.line < body]
    return before, list(comments[len(before) :])


def _texts(comments: Sequence[Comment]) -> tuple[str, ...]:
    return tuple(comment.text for comment in comments)
