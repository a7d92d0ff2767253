"""What the parser knows while it reads: its stack, the open braces, and the faults so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cursor import Cursor, span_of
from .diagnostics import Diagnostic
from .lookahead import DECLARES, KEYWORDS, WORDS, first_on_line
from .wording import A_VALUE

if TYPE_CHECKING:
    from lark import Token

    from .ast import Span
    from .scanner import Scan

#: Kinds of tokens that may begin a clause.
STARTS = WORDS | KEYWORDS


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a declaration or a clause starts: its first token, and the stacks before it."""

    index: int
    token: Token
    height: int
    braces: int


@dataclass(frozen=True, slots=True)
class Brace:
    """An open brace; in a format's and in a body's stand clauses, the clause ``outer`` around."""

    token: Token
    column: int  # of the first token on its line
    has_clauses: bool
    outer: Mark | None


class Reading:
    """A walk over tokens that feeds them to the parser, and what to undo where it fails."""

    def __init__(self, scanned: Scan) -> None:
        self.cursor = Cursor()
        self.tokens = list(scanned.tokens)
        self.faults = scanned.faults
        self.diagnostics = list(scanned.diagnostics)
        self.damaged: set[str] = set()
        self.misread: set[tuple[int, int]] = set()
        self.starts: list[int] = []  # the index of every clause's first token
        self.at = 0
        self.moved: list[Token] = []  # imports that stood in a format
        self.bodies: dict[int, int] | None = None
        self.braces: list[Brace] = []
        self.declaration: Mark | None = None
        self.clause: Mark | None = None
        self.quiet = False  # the fault that stopped the reading here has been reported
        self.mended: set[tuple[str, str]] = (
            set()
        )  # what was said about mended tokens of this clause
        self.stopped = -1  # where the last skip ended: none may end there twice
        self.resumed = 0  # offset in the text from where scanner faults excuse parser faults
        self.column = 1  # of the first token on this line
        self.closed = False  # whether any brace was closed
        self.crooked: tuple[int, int] | None = None  # lines of a brace closed further left

    def _feed(self, token: Token) -> bool:
        starts_clause = token.type in STARTS and self._may_start_clause()
        if not self.cursor.feed(token):
            return False
        height = self.cursor.height - 1
        if self._first_on_line():
            self.column = token.column or 1
        if token.type in DECLARES:
            self.declaration = Mark(self.at, token, height, 0)
            self.clause = None
            self.crooked = None
            self._resume(token)
        elif starts_clause:
            self.clause = Mark(self.at, token, height, len(self.braces))
            self.starts.append(self.at)
            self._resume(token)
        elif token.type == "LBRACE":
            self._open(token)
        elif token.type == "RBRACE":
            self._shut(token)
        return True

    def _open(self, token: Token) -> None:
        has_clauses = self._may_start_clause()
        self.braces.append(Brace(token, self.column, has_clauses, self.clause))
        if has_clauses:
            self.clause = None

    def _shut(self, token: Token) -> None:
        brace = self.braces.pop()
        self.closed = True
        if brace.has_clauses:
            self.clause = brace.outer
        if not self.braces and self._declared() == "FORMAT":
            self.declaration = None
        if self._first_on_line() and self.column < brace.column and not self.crooked:
            self.crooked = (brace.token.line or 1, token.line or 1)

    def _resume(self, token: Token) -> None:
        self.quiet = False
        self.mended.clear()
        self.resumed = token.start_pos or 0

    def _may_start_clause(self) -> bool:
        return self.cursor.accepts("CITE")

    def _declared(self) -> str:
        """What kind of declaration is being read."""
        return self.declaration.token.type if self.declaration else ""

    def _is_outside(self) -> bool:
        """Whether a declaration may start here: an import and an atom end without a sign."""
        if self._declared() == "FORMAT":
            return False
        return not self.braces and self.cursor.accepts("FORMAT")

    def _owner(self) -> str:
        """The kind of what stands in these braces: a clause, or an atom on its own."""
        if self.clause is None:
            return self._declared()
        return self.clause.token.type if len(self.braces) - self.clause.braces <= 1 else ""

    def _type_after(self) -> str:
        after = self.at + 1
        return self.tokens[after].type if after < len(self.tokens) else "$END"

    def _previous(self) -> Token:
        return self.tokens[max(0, self.at - 1)]

    def _first_on_line(self) -> bool:
        return self.at < len(self.tokens) and first_on_line(self.tokens, self.at)

    def _report(
        self,
        code: str,
        message: str,
        span: Span,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        if not self.quiet:
            self.diagnostics.append(Diagnostic(code, message, span, expected, hint))

    def _report_mended(self, token: Token, message: str, expected: str, hint: str | None) -> None:
        """Report a mended token, the same slip once in a clause."""
        slip = (message.partition(" ")[0], expected)
        if slip not in self.mended:
            self._report("E0111", message, span_of(token), expected, hint)
        self.mended.add(slip)

    def _report_no_value(self, key: Token) -> None:
        self._report("E0108", f"'{key}' has no value", span_of(key), A_VALUE)

    def _take_back(self, mark: Mark) -> None:
        """Take everything since the mark back from the parser."""
        self.cursor.cut(mark.height)
        del self.braces[mark.braces :]
