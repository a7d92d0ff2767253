"""All that is asked of Lark: the built grammar, its tokens, and a parser fed token by token.

This module imports Lark, so nothing imports it before there is a text to parse.
"""

from __future__ import annotations

import functools
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedToken

from .ast import Span

if TYPE_CHECKING:
    from collections.abc import Iterator


@functools.cache
def language() -> Lark:
    """The grammar, built once in a process (about 30 ms)."""
    return Lark(
        Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        start=["file", "trivia"],
        propagate_positions=True,
    )


def lex(text: str) -> Iterator[Token]:
    """The tokens of any text, comments and misfits included; it never raises."""
    parser = language().parse_interactive(text, start="file")
    yield from parser.lexer_thread.lex(parser.parser_state)  # type: ignore[no-untyped-call]


def span_of(token: Token) -> Span:
    """Where a token stands."""
    return Span(token.line or 1, token.column or 1, token.end_line or 1, token.end_column or 1)


class Cursor:
    """A parser between two tokens."""

    def __init__(self) -> None:
        self._parser = language().parse_interactive("", start="file")

    def feed(self, token: Token) -> bool:
        """Take one token; False when it does not fit, and then it has not been taken."""
        try:
            self._parser.feed_token(token)
        except UnexpectedToken:
            return False
        return True

    def finish(self) -> Tree[Token]:
        """End the text, which must be complete, and return its parse tree."""
        tree: Tree[Token] = self._parser.feed_eof()  # type: ignore[no-untyped-call]
        return tree

    @property
    def height(self) -> int:
        """How many entries the parser's stack has."""
        return len(self._parser.parser_state.state_stack)

    def cut(self, height: int) -> None:
        """Take back what was read since the stack was this high.

        Only what is still unfinished can be taken back: a clause is joined to the ones
        before it when a token arrives that can only stand after it.
        """
        state = self._parser.parser_state
        del state.state_stack[height:]
        del state.value_stack[height - 1 :]  # no value belongs to the first state

    def accepted(self) -> set[str]:
        """The kinds of tokens that fit here."""
        kinds: set[str] = self._parser.accepts()  # type: ignore[no-untyped-call]
        return kinds

    def accepts(self, *kinds: str) -> bool:
        """Whether tokens of these kinds, one after the other, would fit here."""
        # A cheap look first. It may say yes where a trial says no: the table has one state
        # for a name wherever it stands.
        if kinds[0] not in self._parser.choices():  # type: ignore[no-untyped-call]
            return False
        trial = self._parser.copy(deepcopy_values=False)  # type: ignore[no-untyped-call]
        trial.parser_state.parse_conf = copy(trial.parser_state.parse_conf)
        trial.parser_state.parse_conf.callbacks = {}  # a trial builds no tree
        try:
            for kind in kinds:
                trial.feed_token(Token(kind, ""))
        except UnexpectedToken:
            return False
        return True
