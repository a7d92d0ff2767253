"""The parser's way through faulty text: report, mend or skip, and go on.

Tokens are fed one by one. A token that does not fit is mended where the intention is plain (a
missing comma, a ``=`` too many, a mistyped keyword); otherwise the clause it stands in is taken
back off the parser's stack and reading goes on where the next clause starts. Each token is
looked at a bounded number of times, so the time is linear in the text.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lark import Token, Tree

from .cursor import span_of
from .hints import hint_for
from .limits import MAX_FAULTS
from .lookahead import DECLARES, KEYWORDS, RESERVED, WORDS, lonely_key, next_declaration
from .mending import Mending
from .reading import STARTS
from .scanner import BAD_TOKENS
from .wording import CLAUSES, DECLARATIONS, expected_words, token_words

if TYPE_CHECKING:
    from .diagnostics import Diagnostic
    from .scanner import Scan

#: The word that stands in a tree for a format's name that could not be read.
NAMELESS = "_"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What could be read: Lark's tree, the faults, and the first words of what was dropped."""

    tree: Tree[Token]
    diagnostics: tuple[Diagnostic, ...]
    damaged: frozenset[str]
    misread: frozenset[tuple[int, int]]  # line and column of clauses to leave out of the tree


def read(scanned: Scan) -> Recovered:
    """Parse scanned tokens. Never raises for what the text says."""
    return _Reader(scanned).run()


class _Reader(Mending):
    def run(self) -> Recovered:
        while self.at < len(self.tokens):
            if len(self.diagnostics) >= MAX_FAULTS:
                self._give_up()
                break
            token = self._reread(self.at)
            if self._feed(token):
                self.at += 1
            else:
                self._recover(token)
        tree = self._finish()
        diagnostics = tuple(self.diagnostics[:MAX_FAULTS])
        return Recovered(tree, diagnostics, frozenset(self.damaged), frozenset(self.misread))

    # -- the ways out ------------------------------------------------------------------

    def _recover(self, token: Token) -> None:
        if self._is_excused(token):
            self.quiet = True
        if token.type in {"EQUAL", "COLON"} and self._step_back():
            return
        if self._mend(token):
            return
        if self._is_outside():
            self._skip_outside(token)
        elif self._declared() != "FORMAT":
            self._skip_declaration(token)
        elif not self.braces:
            self._skip_header(token)
        elif not self._step_back():
            self._skip_clause(token)

    def _is_excused(self, token: Token) -> bool:
        """Whether the scanner has reported something in this clause, up to this token."""
        fault = bisect_left(self.faults, self.resumed)
        end = token.end_pos or 0
        return token.type in BAD_TOKENS or (fault < len(self.faults) and self.faults[fault] < end)

    # -- skipping ----------------------------------------------------------------------

    def _skip_outside(self, token: Token) -> None:
        hint = "is there one '}' too many above?" if self.closed else None
        if token.type == "AS" and self._declared() == "IMPORT":
            hint = "the atoms of an imported file keep their names"
        self._report(
            "E0110",
            f"{token_words(token.type, token)} stands outside any format",
            span_of(token),
            "'format name {'",
            hint,
        )
        self.damaged.add("format")
        self.declaration = self.clause = None
        self.at = next_declaration(self.tokens, self.at + 1, 0)
        self._go_on()

    def _go_on(self) -> None:
        """Read on at a declaration, with the faults before it forgotten."""
        self.quiet = False
        self.resumed = (self.tokens[self.at - 1].end_pos or 0) + 1

    def _skip_declaration(self, token: Token) -> None:
        """Drop an import or an atom, and go on at the next declaration."""
        assert self.declaration is not None
        self._complain(token)
        depth = len(self.braces)
        self._drop_declaration()
        self.at = next_declaration(self.tokens, self.at, depth)
        self._go_on()

    def _drop_declaration(self) -> None:
        assert self.declaration is not None
        self.damaged.add(self._declared().lower())
        self._take_back(self.declaration)
        self.declaration = self.clause = None

    def _skip_header(self, token: Token) -> None:
        """Go on at the format's body, or without the format when it has none."""
        self._complain(token)
        self.quiet = True
        stop = {"LBRACE", "RBRACE"} | DECLARES | KEYWORDS
        while self.at < len(self.tokens) and self.tokens[self.at].type not in stop:
            if self._first_on_line():
                break
            self.at += 1
        if self.cursor.accepts("NAME"):
            self.damaged.add("format")
            self._feed(Token.new_borrow_pos("NAME", NAMELESS, token))
        elif not self.cursor.accepts("LBRACE"):
            # 'extends' without a base, which may have said what is missing now.
            self.damaged.update(("extends", "block", *CLAUSES))
            self.cursor.cut(self.cursor.height - 1)
        if self.at < len(self.tokens) and not self.cursor.accepts(self.tokens[self.at].type):
            self._skip_to_body(self.tokens[self.at])

    def _skip_to_body(self, token: Token) -> None:
        if self.cursor.accepts("LBRACE", token.type) and token.type != "RBRACE":
            self._feed(Token.new_borrow_pos("LBRACE", "", token))  # empty: it is in no text
            return
        self._drop_declaration()
        self.quiet = token.type not in DECLARES

    def _step_back(self) -> bool:
        """Read again from behind a setting without a value, when that shifted what follows."""
        key = None if self.quiet else lonely_key(self.tokens, self.at)
        if key is None or key not in self.starts or self.clause is None:
            return False
        word = self.tokens[key]
        self._report_no_value(word)
        self.damaged.add(str(word))
        while self.starts and self.starts[-1] >= key:
            start = span_of(self.tokens[self.starts.pop()])
            self.misread.add((start.line, start.column))
        self._take_back(self.clause)
        self.clause = None
        self.at = key + 1
        return True

    def _skip_clause(self, token: Token) -> None:
        """Drop the clause that the token stands in, and go on at the next."""
        self._complain(token)
        self.quiet = True
        depth = 0
        whole = self._may_start_clause()
        if self.clause and not (whole and self._first_on_line()):
            self.damaged.add(str(self.clause.token))
            depth = len(self.braces) - self.clause.braces
            self._take_back(self.clause)
        elif token.type in BAD_TOKENS | WORDS:
            self.damaged.add(str(token))
        self.clause = None
        self._skip_to_clause(self.at + (self.stopped == self.at), depth)

    def _give_up(self) -> None:
        """Stop reading: after so many faults the rest would only be noise."""
        self.quiet = True
        rest = self.tokens[self.at :]
        self.damaged.update(str(token) for token in rest if token.type in STARTS)
        self.damaged.update((*DECLARATIONS, *CLAUSES))
        del self.tokens[self.at :]

    def _finish(self) -> Tree[Token]:
        if not self._is_outside():
            self._close_all()
        for token in self.moved:
            self.cursor.feed(token)
        return self.cursor.finish()

    def _close_all(self) -> None:
        """Report the braces that are missing at the end, and put them in."""
        last = self.tokens[-1]
        gave_up = len(self.diagnostics) >= MAX_FAULTS
        self.quiet = gave_up or (bool(self.braces) and not self.braces[-1].token)
        expected = "'}'" if self.braces else expected_words(self.cursor.accepted())
        self._report(
            "E0103", "the text ends too early", span_of(last), expected, self._unclosed(whole=True)
        )
        self.at = len(self.tokens)
        if self.braces and not self.cursor.accepts(*["RBRACE"] * len(self.braces)) and self.clause:
            self.damaged.add(str(self.clause.token))
            self._take_back(self.clause)
        if not self.cursor.accepts(*["RBRACE"] * max(1, len(self.braces))):
            self._drop_declaration()
            return
        for _ in range(len(self.braces)):
            self._feed(Token.new_borrow_pos("RBRACE", "}", last))

    # -- wording -----------------------------------------------------------------------

    def _complain(self, token: Token) -> None:
        """Report a token that cannot be mended."""
        accepted = self.cursor.accepted()
        previous = self._previous()
        if token.type in RESERVED | {"RBRACE"} and {"NAME", "STRING", "NUMBER"} <= accepted:
            lonely = lonely_key(self.tokens, self.at)
            self._report_no_value(previous if lonely is None else self.tokens[lonely])
            return
        hint = hint_for(self.tokens, self.at, accepted, self._owner())
        if "CITE" not in accepted and self._first_on_line():
            message = f"something is missing after '{previous}'"
            self._report("E0108", message, span_of(previous), expected_words(accepted), hint)
            return
        message = f"unexpected {token_words(token.type, token)}"
        self._report("E0101", message, span_of(token), expected_words(accepted), hint)
