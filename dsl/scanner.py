"""From text to tokens: comments set aside, and every character fault reported at once."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ast import Span
from .cursor import lex, span_of
from .diagnostics import Diagnostic
from .limits import FORBIDDEN, MAX_DEPTH, MAX_FAULTS, MAX_NESTING
from .wording import character_hint, character_words, number_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lark import Token

#: Tokens that stay among the others though nothing in the grammar accepts them: they stop the
#: clause they stand in, and have been reported.
BAD_TOKENS = frozenset({"BAD_NUMBER", "BAD_WORD", "STRAY", "TOO_DEEP"})

_KNOWN_ESCAPES = ('\\"', "\\\\")


@dataclass(frozen=True, slots=True)
class Comment:
    """One comment; ``text`` is without the ``#`` and the blanks around it."""

    text: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What the scanner found; ``faults`` are the offsets of what it reported, in order."""

    tokens: list[Token]
    comments: tuple[Comment, ...]
    diagnostics: tuple[Diagnostic, ...]
    faults: tuple[int, ...]


def scan(text: str) -> Scan:
    """Split a text (at most ``MAX_LENGTH`` characters, no byte order mark) into tokens."""
    return _Scanner().run(text)


class _Scanner:
    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.found: list[tuple[int, Diagnostic]] = []

    def run(self, text: str) -> Scan:
        clean = FORBIDDEN.sub(" ", text)
        for token in lex(clean):
            self._take(token)
        self._forbidden(text)
        self._limit_depth()
        self._limit_nesting()
        self.found.sort(key=lambda item: item[0])
        return Scan(
            self.tokens,
            tuple(self.comments),
            tuple(diagnostic for _, diagnostic in self.found),
            tuple(offset for offset, _ in self.found),
        )

    def _take(self, token: Token) -> None:
        match token.type:
            case "COMMENT":
                text = token[1:].strip()
                self.comments.append(Comment(text, token.line or 1, token.column or 1))
            case "FOREIGN_COMMENT":
                self._report(token, "E0112", f"'{token[:2]}' does not begin a comment", "'#'")
            case "OPEN_STRING":
                self._open_string(token)
            case "BAD_ESCAPE":
                self._bad_escape(token)
            case "BAD_NUMBER":
                hint = number_hint(token)
                self._report(token, "E0107", f"'{token}' is not a number", hint=hint)
                self.tokens.append(token)
            case "BAD_WORD":
                hint = "names are made of the letters a-z and A-Z, digits and '_'"
                self._report(token, "E0104", f"'{token}' is not a name", hint=hint)
                self.tokens.append(token)
            case "STRAY":
                self._stray(token)
            case _:
                self.tokens.append(token)

    def _report(
        self,
        token: Token,
        code: str,
        message: str,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        if len(self.found) < MAX_FAULTS:
            diagnostic = Diagnostic(code, message, span_of(token), expected, hint)
            self.found.append((token.start_pos or 0, diagnostic))

    def _open_string(self, token: Token) -> None:
        """Read on as if the quote stood at the end of the line, before a brace that ends it."""
        text = token.rstrip()
        brace = text[-1] if len(text) > 1 and text[-1] in "{}" else ""
        body = text.removesuffix(brace).rstrip() if brace else text
        string = _piece(token, 0, len(body))
        self._report(
            string,
            "E0102",
            "this string is not closed",
            "'\"' before the end of the line",
        )
        self.tokens.append(string.update(type="STRING", value=f'{body}"'))
        if brace:
            kind = "LBRACE" if brace == "{" else "RBRACE"
            self.tokens.append(_piece(token, len(text) - 1, len(text)).update(type=kind))

    def _bad_escape(self, token: Token) -> None:
        for match in re.finditer(r"\\.", token):
            if match[0] not in _KNOWN_ESCAPES:
                self._report(
                    _piece(token, *match.span()),
                    "E0106",
                    f"unknown escape '{match[0]}' in a string",
                    "'\\\"' for a quote or '\\\\' for a backslash",
                )
        self.tokens.append(token.update(type="STRING"))

    def _stray(self, token: Token) -> None:
        last = self.tokens[-1] if self.tokens else None
        if last and last.type == "STRAY" and last.end_pos == token.start_pos and last[0] == token:
            self.tokens[-1] = last.update(value=last + token)
            self.tokens[-1].end_pos = token.end_pos
            return
        message = f"the language has no character {character_words(token)}"
        self._report(token, "E0104", message, hint=character_hint(token))
        if token.value != ";":
            self.tokens.append(token)

    def _forbidden(self, text: str) -> None:
        """Report control characters; the tokens were made with blanks in their place."""
        for match in itertools.islice(FORBIDDEN.finditer(text), MAX_FAULTS):
            offset = match.start()
            line = text.count("\n", 0, offset) + 1
            column = offset - text.rfind("\n", 0, offset)
            message = f"the language has no character {character_words(match[0])}"
            span = Span(line, column, line, column + 1)
            self.found.append((offset, Diagnostic("E0104", message, span)))

    def _limit_depth(self) -> None:
        """Cut expressions that are too deep to be worked on without a deep stack."""
        kept: list[Token] = []
        cutting = False
        for token, depth in _with_depths(self.tokens):
            if depth > MAX_DEPTH and not cutting:
                message = f"an expression of more than {MAX_DEPTH} operators and brackets"
                hint = "compute a part of it, and write its value"
                self._report(token, "E0105", message, hint=hint)
                kept.append(token.update(type="TOO_DEEP"))
            cutting = depth > MAX_DEPTH or (cutting and depth > 0)
            if not cutting:
                kept.append(token)
        self.tokens = kept

    def _limit_nesting(self) -> None:
        """Cut bodies that stand in too many others, with all that is in them."""
        kept: list[Token] = []
        braces: list[bool] = []  # of every open brace, whether a body stands in it
        depth = 0  # how many of them are bodies
        cut_at = -1  # how many braces stand around the body that is being cut
        for token in self.tokens:
            if token.type in ("FORMAT", "IMPORT", "ATOM"):
                braces.clear()
                depth, cut_at = 0, -1
            if token.type == "LBRACE":
                braces.append(bool(kept) and kept[-1].type == "AS")
                depth += braces[-1]
                if cut_at < 0 and depth > MAX_NESTING:
                    cut_at = len(braces) - 1
                    message = f"more than {MAX_NESTING} bodies in one another"
                    hint = "what a scale is stored in seldom has a stored scale itself"
                    self._report(token, "E0105", message, hint=hint)
                    kept.append(token.update(type="TOO_DEEP"))
            if cut_at < 0:
                kept.append(token)
            if token.type == "RBRACE" and braces:
                depth -= braces.pop()
                if len(braces) == cut_at:
                    cut_at = -1
        self.tokens = kept


def _piece(token: Token, start: int, stop: int) -> Token:
    """A part of a token that stands on one line."""
    piece = token.update(value=token[start:stop])
    piece.start_pos = (token.start_pos or 0) + start
    piece.end_pos = (token.start_pos or 0) + stop
    piece.column = (token.column or 1) + start
    piece.end_column = (token.column or 1) + stop
    return piece


def _with_depths(tokens: list[Token]) -> Iterator[tuple[Token, int]]:
    """Every token with a bound on the depth of the expression that ends with it."""
    frames: list[tuple[int, int]] = []  # of every open bracket: depth outside, deepest argument
    depth = 0
    for token in tokens:
        match token.type:
            case "PLUS" | "MINUS" | "STAR" | "SLASH" | "CARET":
                depth += 1
            case "LPAR":
                depth += 1
                frames.append((depth, depth))
            case "COMMA" if frames:
                outside, deepest = frames[-1]
                frames[-1] = (outside, max(deepest, depth))
                depth = outside
            case "RPAR":
                depth = max(depth, frames.pop()[1]) if frames else 0
            case "NUMBER" | "FUNCTION":
                pass
            case _:
                frames.clear()
                depth = 0
        yield token, depth
