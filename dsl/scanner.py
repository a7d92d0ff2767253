"""From text to tokens: comments set aside, and every character fault reported at once."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .ast import Span
from .diagnostics import Diagnostic
from .wording import character_hint, character_words, number_hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lark import Lark, Token
    from lark.parsers.lalr_interactive_parser import InteractiveParser

#: Longest text that is read, in characters.
MAX_LENGTH = 1 << 20
#: Most operators and brackets on the way from an expression to its innermost number.
MAX_DEPTH = 100

#: Tokens that stay among the others though nothing in the grammar accepts them: they stop the
#: clause they stand in, and have been reported.
BAD_TOKENS = frozenset({"BAD_NUMBER", "BAD_WORD", "STRAY", "TOO_DEEP"})

#: Control characters and the separators that some programs, but not this one, take for the end
#: of a line. They would be invisible in an editor, and harmful in generated code.
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\r(?!\n)")
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


def span_of(token: Token) -> Span:
    """Where a token stands."""
    return Span(
        token.line or 1,
        token.column or 1,
        token.end_line or 1,
        token.end_column or 1,
    )


@functools.cache
def language() -> Lark:
    """The grammar, built once in a process (about 30 ms)."""
    from lark import Lark  # noqa: PLC0415 - an import that only a parse should pay for

    return Lark(
        Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        start=["file", "trivia"],
        propagate_positions=True,
    )


def open_parser(text: str) -> InteractiveParser:
    """A parser at the start of ``text`` that is fed one token at a time."""
    return language().parse_interactive(text, start="file")


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
        cursor = open_parser(clean)
        for token in cursor.lexer_thread.lex(cursor.parser_state):
            self._take(token)
        self._forbidden(text)
        self._limit_depth()
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
                self._report(
                    token, "E0107", f"'{token}' is not a number", "a number", number_hint(token)
                )
                self.tokens.append(token)
            case "BAD_WORD":
                hint = "names are made of the letters a-z and A-Z, digits and '_'"
                self._report(token, "E0104", f"'{token}' is not a name", "a name", hint)
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
        if token != ";":
            self.tokens.append(token)

    def _forbidden(self, text: str) -> None:
        """Report control characters; the tokens were made with blanks in their place."""
        line, start = 1, 0
        for match in FORBIDDEN.finditer(text):
            offset = match.start()
            line += text.count("\n", start, offset)
            start = offset
            column = offset - (text.rfind("\n", 0, offset) + 1) + 1
            self.found.append(
                (
                    offset,
                    Diagnostic(
                        "E0104",
                        f"the language has no character {character_words(match[0])}",
                        Span(line, column, line, column + 1),
                    ),
                )
            )

    def _limit_depth(self) -> None:
        """Cut expressions that are too deep to be worked on without a deep stack."""
        kept: list[Token] = []
        for token, depth in _with_depths(self.tokens):
            if depth <= MAX_DEPTH:
                kept.append(token)
            elif not kept or kept[-1].type != "TOO_DEEP":
                message = f"an expression of more than {MAX_DEPTH} operators and brackets"
                hint = "compute a part of it, and write its value"
                self._report(token, "E0105", message, hint=hint)
                kept.append(token.update(type="TOO_DEEP"))
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
