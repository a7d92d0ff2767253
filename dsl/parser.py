"""Reads .fmt text. Lark is imported by the first parse, not by this module."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .ast import Clause, File, ScaleDecl, Span, ZeroDecl
from .comments import attach
from .diagnostics import Diagnostic, FormatError
from .limits import MAX_LENGTH

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What could be read of a text.

    Attributes:
        file: the declarations without syntax errors.
        diagnostics: the syntax errors, in source order; empty when the text is well formed.
        damaged: first words of the clauses that were left out of ``file`` (``"scale"``,
            ``"block"``), so that nobody complains that they are missing. With ``"format"``
            in it, whole declarations or names of declarations are missing; with ``"import"``
            or ``"atom"``, names of atoms; with ``"extends"``, what a base would say.
    """

    file: File
    diagnostics: tuple[Diagnostic, ...]
    damaged: frozenset[str]


def parse(text: str, filename: str = "<text>") -> File:
    """Parse a .fmt text of at most 1 MiB characters; line ends may be LF or CRLF.

    Raises:
        FormatError: with every syntax error of the text.
    """
    parsed = parse_partial(text)
    if parsed.diagnostics:
        raise FormatError(parsed.diagnostics, text, filename)
    return parsed.file


def parse_partial(text: str) -> Parsed:
    """Parse what can be parsed of a .fmt text; never raises for what the text says."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    if len(text) > MAX_LENGTH:
        return Parsed(File(()), (_too_large(text),), frozenset({"format"}))

    from .builder import TreeBuilder
    from .recovery import read
    from .scanner import scan

    scanned = scan(text)
    recovered = read(scanned)
    tree = _without(TreeBuilder().transform(recovered.tree), recovered.misread)
    tree = attach(tree, scanned.comments)
    place = sorted(recovered.diagnostics, key=lambda d: (d.span.line, d.span.column, d.code))
    return Parsed(tree, tuple(place), recovered.damaged)


def _without(file: File, places: frozenset[tuple[int, int]]) -> File:
    """The file without the clauses that start at these lines and columns."""
    if not places:
        return file
    formats = (replace(f, clauses=_kept(f.clauses, places)) for f in file.formats)
    return replace(file, formats=tuple(formats))


def _kept(clauses: tuple[Clause, ...], places: frozenset[tuple[int, int]]) -> tuple[Clause, ...]:
    kept: list[Clause] = []
    for clause in clauses:
        if (clause.span.line, clause.span.column) in places:
            continue
        if isinstance(clause, ScaleDecl | ZeroDecl) and clause.stored:
            stored = replace(clause.stored, clauses=_kept(clause.stored.clauses, places))
            kept.append(replace(clause, stored=stored))
        else:
            kept.append(clause)
    return tuple(kept)


def _too_large(text: str) -> Diagnostic:
    return Diagnostic(
        "E0105",
        f"the text has {len(text)} characters",
        Span(1, 1, 1, 2),
        expected=f"at most {MAX_LENGTH} (1 MiB)",
    )
