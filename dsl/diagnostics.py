"""What is said about a faulty .fmt file: one value, one way to print it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .ast import Span


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One fault: where it is, what is wrong, what was expected, and the way out.

    ``code`` is stable: ``E01xx`` syntax, ``E02xx`` names, ``E03xx`` values,
    ``E04xx`` combinations.
    """

    code: str
    message: str
    span: Span
    expected: str | None = None
    hint: str | None = None


class FormatError(ValueError):
    """A .fmt text that cannot be compiled; ``str(error)`` is the full report.

    Attributes:
        diagnostics: every fault of the text, in source order.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic], source: str, filename: str) -> None:
        self.diagnostics = tuple(
            sorted(diagnostics, key=lambda d: (d.span.line, d.span.column, d.code))
        )
        self.source = source
        self.filename = filename
        super().__init__(render(self.diagnostics, source, filename))

    def __reduce__(self) -> tuple[type[FormatError], tuple[object, ...]]:
        """Pickle by what it was made of, so that worker processes can report it."""
        return type(self), (self.diagnostics, self.source, self.filename)


#: Faults that a report lays out, columns of a line that it shows, and those before the fault.
MAX_SHOWN = 100
MAX_WIDTH = 240
MARGIN = 60


def render(diagnostics: Sequence[Diagnostic], source: str, filename: str) -> str:
    """Lay out diagnostics for a terminal, each with its line and a caret under the span."""
    lines = source.removeprefix("\ufeff").split("\n")
    parts = [_render_one(d, lines, filename) for d in diagnostics[:MAX_SHOWN]]
    if len(diagnostics) > MAX_SHOWN:
        parts.append(f"... and {len(diagnostics) - MAX_SHOWN} more faults")
    return "\n\n".join(parts)


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like ``word``, or None when nothing is close."""
    matches = difflib.get_close_matches(word.lower(), list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """A hint that names the nearest candidate, or None."""
    match = nearest(word, candidates)
    return f"did you mean '{match}'?" if match else None


def _visible(line: str) -> str:
    """A source line as a terminal can show it, character by character in the same columns."""
    shown = (c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in line.rstrip("\r"))
    return "".join(shown)


def _render_one(diagnostic: Diagnostic, lines: Sequence[str], filename: str) -> str:
    span = diagnostic.span
    line = lines[span.line - 1] if 0 < span.line <= len(lines) else ""
    # Of a very long line only the surroundings of the fault are shown.
    start = max(0, span.column - 1 - MARGIN) if len(line) > MAX_WIDTH else 0
    text = _visible(line[start : start + MAX_WIDTH])
    stop = span.end_column if span.end_line == span.line else len(line) + 1
    column = span.column - start
    carets = "^" * max(1, min(stop - start, len(text) + 1) - column)
    margin = " " * len(str(span.line))
    out = [
        f"error[{diagnostic.code}]: {diagnostic.message}",
        f"{margin}--> {filename}:{span.line}:{span.column}",
        f"{margin} |",
        f"{span.line} | {text}".rstrip(),
        f"{margin} | {' ' * (column - 1)}{carets}",
    ]
    if diagnostic.expected:
        out.append(f"{margin} = expected {diagnostic.expected}")
    if diagnostic.hint:
        out.append(f"{margin} = help: {diagnostic.hint}")
    return "\n".join(out)
