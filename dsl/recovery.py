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

from .cursor import Cursor, span_of
from .diagnostics import Diagnostic, did_you_mean, nearest
from .limits import MAX_FAULTS
from .lookahead import (
    KEYWORDS,
    WORDS,
    atom_without_equal,
    first_on_line,
    hint_for,
    lonely_key,
    looks_like_format,
    misread_clause,
    next_clause,
)
from .scanner import BAD_TOKENS, Scan
from .wording import A_CLAUSE, A_VALUE, CLAUSES, expected_words, token_words

if TYPE_CHECKING:
    from .ast import Span

#: The word that stands in a tree for a format's name that could not be read.
NAMELESS = "_"

_STARTS = WORDS | KEYWORDS

#: Tokens that are put in where they are missing: how they are written, and what to say.
_INSERTIONS = {
    "COMMA": (",", "separate values with commas"),
    "COLON": (":", "an arm is written '0: name'"),
    "EQUAL": ("=", "a grid is written 'grid name = atom'"),
    "LBRACE": ("{", None),
    "RPAR": (")", None),
    "BIT": ("bit", "write 'select 1 bit at scale.sign { ... }'"),
    "AT": ("at", "write 'select 1 bit at scale.sign { ... }'"),
}


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a clause or a format starts: its token's index, and the stacks before it."""

    index: int
    height: int
    braces: int


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


class _Reader:
    def __init__(self, scanned: Scan) -> None:
        self.cursor = Cursor()
        self.tokens = list(scanned.tokens)
        self.faults = scanned.faults
        self.diagnostics = list(scanned.diagnostics)
        self.damaged: set[str] = set()
        self.misread: set[tuple[int, int]] = set()
        self.starts: list[int] = []  # the index of every clause's first token
        self.at = 0
        self.braces: list[Token] = []
        self.format: _Mark | None = None
        self.clause: _Mark | None = None
        self.quiet = False  # the fault that stopped the reading here has been reported
        self.mended: set[tuple[str, str]] = (
            set()
        )  # what was said about mended tokens of this clause
        self.stopped = -1  # where the last skip ended: none may end there twice
        self.resumed = 0  # offset in the text from where scanner faults excuse parser faults

    # -- the walk ----------------------------------------------------------------------

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

    def _feed(self, token: Token) -> bool:
        starts_clause = token.type in _STARTS and self._may_start_clause()
        if not self.cursor.feed(token):
            return False
        height = self.cursor.height - 1
        if token.type == "FORMAT":
            self.format = _Mark(self.at, height, 0)
            self._resume(token)
        elif starts_clause:
            self.clause = _Mark(self.at, height, len(self.braces))
            self.starts.append(self.at)
            self._resume(token)
        elif token.type == "LBRACE":
            self.braces.append(token)
        elif token.type == "RBRACE":
            self.braces.pop()
            if not self.braces:
                self.format = self.clause = None
        return True

    def _resume(self, token: Token) -> None:
        self.quiet = False
        self.mended.clear()
        self.resumed = token.start_pos or 0

    def _may_start_clause(self) -> bool:
        return self.cursor.accepts("CITE")

    def _type_after(self) -> str:
        after = self.at + 1
        return self.tokens[after].type if after < len(self.tokens) else "$END"

    def _previous(self) -> Token:
        return self.tokens[max(0, self.at - 1)]

    def _first_on_line(self) -> bool:
        return first_on_line(self.tokens, self.at)

    # -- mistyped keywords -------------------------------------------------------------

    def _reread(self, index: int) -> Token:
        """The token at ``index``, as the keyword it was meant to be when that is plain."""
        token = self.tokens[index]
        if self.format is None and token.type == "NAME":
            self._reread_format(index)
        elif token.type == "NAME":
            self._reread_clause(index)
        elif token.type == "GRID" and self._may_start_clause():
            self._put_equal(index)
        return self.tokens[index]

    def _reread_format(self, index: int) -> None:
        token = self.tokens[index]
        if looks_like_format(self.tokens, index):
            hint = did_you_mean(token, ("format",))
            self._report("E0109", f"unknown word '{token}'", span_of(token), "'format'", hint)
            self.tokens[index] = token.update(type="FORMAT")

    def _reread_clause(self, index: int) -> None:
        token = self.tokens[index]
        candidates = misread_clause(self.tokens, index)
        if not candidates or not self._may_start_clause():
            return
        keyword = nearest(token, candidates)
        self._resume(token)
        hint = did_you_mean(token, candidates)
        self._report("E0109", f"unknown clause '{token}'", span_of(token), A_CLAUSE, hint)
        if keyword:
            self.tokens[index] = token.update(type=keyword.upper())
        else:
            self.damaged.add(candidates[0])
            self.tokens[index] = token.update(type="BAD_WORD")

    def _put_equal(self, index: int) -> None:
        """Mend ``grid x codebook 4 {``, which would read on as a setting ``codebook 4``."""
        atom = atom_without_equal(self.tokens, index)
        if atom is None:
            return
        name, kind = self.tokens[index + 1], self.tokens[atom]
        self._resume(name)
        hint = f"write 'grid {name} = {kind} ...'"
        self._report("E0111", f"missing '=' before '{kind}'", span_of(kind), "'='", hint)
        self.tokens.insert(atom, Token.new_borrow_pos("EQUAL", "=", kind))

    # -- the ways out ------------------------------------------------------------------

    def _recover(self, token: Token) -> None:
        if self._is_excused(token):
            self.quiet = True
        if self._drop(token) or self._replace(token) or self._close(token) or self._insert(token):
            return
        if self.format is None:
            self._skip_outside(token)
        elif not self.braces:
            self._skip_header(token)
        elif not self._step_back():
            self._skip_clause(token)

    def _is_excused(self, token: Token) -> bool:
        """Whether the scanner has reported something in this clause, up to this token."""
        fault = bisect_left(self.faults, self.resumed)
        end = token.end_pos or 0
        return token.type in BAD_TOKENS or (fault < len(self.faults) and self.faults[fault] < end)

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

    def _drop(self, token: Token) -> bool:
        """Pass over a token that the language does without."""
        accepted = self.cursor.accepted()
        previous = self._previous()
        words = f"unexpected '{token}'"
        hint: str | None
        if token.type == "RBRACE" and self.format is None:
            self._report("E0110", "this '}' closes nothing", span_of(token))
            self.at += 1
            return True
        if token.type in {"EQUAL", "COLON"} and "STRING" in accepted:
            what = "cite has" if previous.type == "CITE" else "settings have"
            after = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else ""
            hint = f"{what} no '{token}': write '{previous} {after}'"
        elif token.type == "COMMA" and {"NAME", "RBRACE"} <= accepted:
            what = "clauses need" if "CITE" in accepted else "settings need"
            hint = f"{what} no ','"
        elif token.type == "COMMA":
            hint = "leave the ',' out"
        elif token.type == "RPAR":
            hint = "there is no '(' before it"
        elif token.type == "PLUS":
            hint = "a number needs no '+'"
        else:
            return False
        if self._type_after() not in accepted:
            return False
        self._report_mended(token, words, expected_words(accepted) or "", hint)
        self.at += 1
        return True

    def _replace(self, token: Token) -> bool:
        """Read ``:`` as ``=`` and the other way round."""
        other = {"EQUAL": "COLON", "COLON": "EQUAL"}.get(token.type)
        if other is None or not self.cursor.accepts(other, self._type_after()):
            return False
        sign, hint = _INSERTIONS[other]
        self._report_mended(token, f"unexpected '{token}'", f"'{sign}'", hint)
        self.tokens[self.at] = token.update(type=other)
        return True

    def _close(self, token: Token) -> bool:
        """Put in the braces that are missing before a clause or a format on a new line."""
        depth = len(self.braces) - (token.type != "FORMAT")
        if token.type not in _STARTS | {"FORMAT"} or depth < 1:
            return False
        if token.type != "FORMAT" and not self._first_on_line():
            return False
        if not self.cursor.accepts(*["RBRACE"] * depth, token.type):
            return False
        hint = f"the '{{' on line {self.braces[-1].line} is never closed"
        self._report("E0103", f"missing '}}' before '{token}'", span_of(token), "'}'", hint)
        for _ in range(depth):
            self._feed(Token.new_borrow_pos("RBRACE", "}", token))
        return True

    def _insert(self, token: Token) -> bool:
        """Put in one token when the next one fits after it."""
        accepted = self.cursor.accepted()
        previous = self._previous()
        for kind, (sign, hint) in _INSERTIONS.items():
            if kind not in accepted or (kind in WORDS and "NAME" in accepted):
                continue
            if kind == "LBRACE" and not self.braces and not self._opens_body(token):
                continue
            if self.cursor.accepts(kind, token.type):
                if self._first_on_line():
                    place, message = previous, f"missing '{sign}' after '{previous}'"
                else:
                    place, message = token, f"missing '{sign}' before '{token}'"
                self._report_mended(place, message, f"'{sign}'", hint)
                self._feed(Token.new_borrow_pos(kind, sign, token))
                return True
        return False

    def _opens_body(self, token: Token) -> bool:
        return token.type in KEYWORDS or self._first_on_line()

    # -- skipping ----------------------------------------------------------------------

    def _skip_outside(self, token: Token) -> None:
        seen = any(item.type == "RBRACE" for item in self.tokens[: self.at])
        hint = "is there one '}' too many above?" if seen else None
        self._report(
            "E0110",
            f"{token_words(token.type, token)} stands outside any format",
            span_of(token),
            "'format name {'",
            hint,
        )
        self.damaged.add("format")
        self.at += 1
        while self.at < len(self.tokens) and not looks_like_format(self.tokens, self.at):
            self.at += 1
        self.quiet = False
        self.resumed = (self.tokens[self.at - 1].end_pos or 0) + 1

    def _skip_header(self, token: Token) -> None:
        """Go on at the format's body, or without the format when it has none."""
        self._complain(token)
        self.quiet = True
        stop = {"LBRACE", "RBRACE", "FORMAT"} | KEYWORDS
        while self.at < len(self.tokens) and self.tokens[self.at].type not in stop:
            if self._first_on_line():
                break
            self.at += 1
        if self.cursor.accepts("NAME"):
            self.damaged.add("format")
            self._feed(Token.new_borrow_pos("NAME", NAMELESS, token))
        if self.at < len(self.tokens) and not self.cursor.accepts(self.tokens[self.at].type):
            self._skip_to_body(self.tokens[self.at])

    def _skip_to_body(self, token: Token) -> None:
        if self.cursor.accepts("LBRACE", token.type) and token.type != "RBRACE":
            self._feed(Token.new_borrow_pos("LBRACE", "", token))  # empty: it is in no text
            return
        assert self.format is not None
        self._take_back(self.format)
        self.damaged.add("format")
        self.format = None
        self.quiet = token.type != "FORMAT"

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
        depth = len(self.braces) - 1
        whole = self._may_start_clause()
        if self.clause and not (whole and self._first_on_line()):
            self.damaged.add(str(self.tokens[self.clause.index]))
            self._take_back(self.clause)
        elif token.type in BAD_TOKENS | WORDS:
            self.damaged.add(str(token))
        self.clause = None
        self.at = next_clause(self.tokens, self.at + (self.stopped == self.at), depth)
        self.stopped = self.at

    def _take_back(self, mark: _Mark) -> None:
        """Take everything since the mark back from the parser."""
        self.cursor.cut(mark.height)
        del self.braces[mark.braces :]

    def _give_up(self) -> None:
        """Stop reading: after so many faults the rest would only be noise."""
        self.quiet = True
        rest = self.tokens[self.at :]
        self.damaged.update(str(token) for token in rest if token.type in _STARTS)
        self.damaged.update(("format", *CLAUSES))
        del self.tokens[self.at :]

    def _finish(self) -> Tree[Token]:
        if self.format is not None:
            self._close_all()
        return self.cursor.finish()

    def _close_all(self) -> None:
        """Report the braces that are missing at the end, and put them in."""
        last = self.tokens[-1]
        gave_up = len(self.diagnostics) >= MAX_FAULTS
        self.quiet = gave_up or (bool(self.braces) and not self.braces[-1])
        expected = "'}'" if self.braces else expected_words(self.cursor.accepted())
        opened = self.braces[-1].line if self.braces else None
        hint = f"the '{{' on line {opened} is never closed" if opened else None
        self._report("E0103", "the text ends too early", span_of(last), expected, hint)
        self.at = len(self.tokens)
        if not self.braces:
            assert self.format is not None
            self._take_back(self.format)
            self.damaged.add("format")
            return
        if not self.cursor.accepts(*["RBRACE"] * len(self.braces)) and self.clause:
            self.damaged.add(str(self.tokens[self.clause.index]))
            self._take_back(self.clause)
        for _ in range(len(self.braces)):
            self._feed(Token.new_borrow_pos("RBRACE", "}", last))

    # -- wording -----------------------------------------------------------------------

    def _complain(self, token: Token) -> None:
        """Report a token that cannot be mended."""
        accepted = self.cursor.accepted()
        previous = self._previous()
        ends = token.type in KEYWORDS | {"RBRACE", "FORMAT"}
        if ends and {"NAME", "STRING", "NUMBER"} <= accepted:
            lonely = lonely_key(self.tokens, self.at)
            self._report_no_value(previous if lonely is None else self.tokens[lonely])
            return
        if "CITE" not in accepted and self._first_on_line():
            message = f"something is missing after '{previous}'"
            hint = hint_for(self.tokens, self.at, accepted)
            self._report("E0108", message, span_of(previous), expected_words(accepted), hint)
            return
        message = f"unexpected {token_words(token.type, token)}"
        hint = hint_for(self.tokens, self.at, accepted)
        self._report("E0101", message, span_of(token), expected_words(accepted), hint)
