"""The parser's way through faulty text: report, mend or skip, and go on.

Tokens are fed one by one. A token that does not fit is mended where the intention is plain (a
missing comma, a ``=`` too many, a mistyped keyword); otherwise the clause it stands in is taken
back off the parser's stack and reading goes on where the next clause starts. Each token is
looked at a bounded number of times, so the time is linear in the text.
"""

from __future__ import annotations

from bisect import bisect_left
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lark import Token, Tree
from lark.exceptions import UnexpectedToken

from .diagnostics import Diagnostic, did_you_mean, nearest
from .scanner import BAD_TOKENS, Scan, span_of
from .wording import A_CLAUSE, CLAUSES, expected_words, token_words

if TYPE_CHECKING:
    from lark.parsers.lalr_interactive_parser import InteractiveParser

    from .ast import Span

#: Reading stops after this many faults: what follows is seldom about the text.
MAX_FAULTS = 50
#: The word that stands in a tree for a format's name that could not be read.
NAMELESS = "_"

_WORDS = frozenset({"NAME", "BIT", "BITS", "AT"})
_KEYWORDS = frozenset(word.upper() for word in CLAUSES)
_STARTS = _WORDS | _KEYWORDS

#: What follows the first word of a clause that is no setting, and the clauses that go on so.
_SHAPES = (
    (("NAME", "LBRACE"), ("scale", "format")),
    (("NAME", "STRING", "LBRACE"), ("format",)),
    (("NAME", "EQUAL"), ("grid",)),
    (("NUMBER", "BIT", "AT"), ("select",)),
    (("NUMBER", "BITS", "AT"), ("select",)),
)

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

_NO_BRACKETS = "a setting is written 'block 16', without brackets"
_CALL = "a function's bracket touches its name: 'f(2)'"
_NO_DASH = "a name has no '-': write '_'"


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


def read(cursor: InteractiveParser, scanned: Scan) -> Recovered:
    """Parse scanned tokens. Never raises for what the text says."""
    return _Reader(cursor, scanned).run()


class _Reader:
    def __init__(self, cursor: InteractiveParser, scanned: Scan) -> None:
        self.cursor = cursor
        self.tokens = list(scanned.tokens)
        self.faults = scanned.faults
        self.diagnostics = list(scanned.diagnostics)
        self.damaged: set[str] = set()
        self.at = 0
        self.braces: list[Token] = []
        self.format: _Mark | None = None
        self.clause: _Mark | None = None
        self.quiet = False  # the fault that stopped the reading here has been reported
        self.mended: set[str] = set()  # what was said about mended tokens of this clause
        self.resumed = 0  # offset in the text from where scanner faults excuse parser faults

    # -- the walk ----------------------------------------------------------------------

    def run(self) -> Recovered:
        while self.at < len(self.tokens):
            if len(self.diagnostics) >= MAX_FAULTS:
                self._give_up()
                break
            token = self._reread(self.at)
            try:
                self._feed(token)
            except UnexpectedToken:
                self._recover(token)
            else:
                self.at += 1
        tree = self._finish()
        return Recovered(tree, tuple(self.diagnostics[:MAX_FAULTS]), frozenset(self.damaged))

    def _feed(self, token: Token) -> None:
        starts_clause = token.type in _STARTS and self._may_start_clause()
        self.cursor.feed_token(token)
        height = len(self.cursor.parser_state.state_stack) - 1
        if token.type == "FORMAT":
            self.format = _Mark(self.at, height, 0)
            self._resume(token)
        elif starts_clause:
            self.clause = _Mark(self.at, height, len(self.braces))
            self._resume(token)
        elif token.type == "LBRACE":
            self.braces.append(token)
        elif token.type == "RBRACE":
            self.braces.pop()
            if not self.braces:
                self.format = self.clause = None

    def _resume(self, token: Token) -> None:
        self.quiet = False
        self.mended.clear()
        self.resumed = token.start_pos or 0

    def _may_start_clause(self) -> bool:
        return "CITE" in self.cursor.choices()

    def _accepts(self, *types: str) -> bool:
        """Whether the parser would take these tokens, one after the other."""
        trial = self.cursor.copy(deepcopy_values=False)
        trial.parser_state.parse_conf = copy(trial.parser_state.parse_conf)
        trial.parser_state.parse_conf.callbacks = {}  # a trial builds no tree
        try:
            for kind in types:
                trial.feed_token(Token(kind, ""))
        except UnexpectedToken:
            return False
        return True

    # -- looking around ----------------------------------------------------------------

    def _types(self, start: int, count: int) -> tuple[str, ...]:
        """The kinds of some tokens; soft keywords count as names unless ``bit at`` follows."""
        return tuple(token.type for token in self.tokens[start : start + count])

    def _type_after(self) -> str:
        after = self.at + 1
        return self.tokens[after].type if after < len(self.tokens) else "$END"

    def _previous(self) -> Token:
        return self.tokens[max(0, self.at - 1)]

    def _first_on_line(self, index: int) -> bool:
        return index == 0 or self.tokens[index - 1].end_line != self.tokens[index].line

    # -- mistyped keywords -------------------------------------------------------------

    def _reread(self, index: int) -> Token:
        """The token at ``index``, as the keyword it was meant to be when that is plain."""
        token = self.tokens[index]
        if self.format is None:
            self._reread_format(index)
        elif token.type == "NAME" and self._may_start_clause():
            self._reread_clause(index)
        elif token.type == "GRID" and self._may_start_clause():
            self._put_equal(index)
        return self.tokens[index]

    def _reread_format(self, index: int) -> None:
        token = self.tokens[index]
        if self._looks_like_format(index) and token.type != "FORMAT":
            hint = did_you_mean(token, ("format",))
            self._report("E0109", f"unknown word '{token}'", span_of(token), "'format'", hint)
            self.tokens[index] = token.update(type="FORMAT")

    def _looks_like_format(self, index: int) -> bool:
        token = self.tokens[index]
        if token.type == "FORMAT":
            return True
        if token.type != "NAME" or token in CLAUSES:
            return False
        after = self._types(index + 1, 3)
        like = nearest(token, ("format", *CLAUSES))
        return (
            (like == "format" and after[:1] == ("NAME",))
            or after == ("NAME", "STRING", "LBRACE")
            or (like is None and after[:2] == ("NAME", "LBRACE"))
        )

    def _reread_clause(self, index: int) -> None:
        token = self.tokens[index]
        for shape, candidates in _SHAPES:
            if self._types(index + 1, len(shape)) == shape:
                break
        else:
            return
        keyword = nearest(token, candidates)
        hint = did_you_mean(token, candidates)
        self._resume(token)
        self._report("E0109", f"unknown clause '{token}'", span_of(token), A_CLAUSE, hint)
        if keyword:
            self.tokens[index] = token.update(type=keyword.upper())
        else:
            self.damaged.update((str(token), *candidates))
            self.tokens[index] = token.update(type="BAD_WORD")

    def _put_equal(self, index: int) -> None:
        """Mend ``grid x codebook 4 {``, which would read on as a setting ``codebook 4``."""
        types = self._types(index + 1, 4)
        atom = 2 if types[:3] == ("NAME", "NAME", "LBRACE") else 0
        atom = 2 if types == ("NAME", "NAME", "NUMBER", "LBRACE") else atom
        if not atom or self._first_on_line(index + 2):
            return
        name, kind = self.tokens[index + 1], self.tokens[index + 2]
        self._resume(name)
        hint = f"write 'grid {name} = {kind} ...'"
        self._report("E0111", f"missing '=' before '{kind}'", span_of(kind), "'='", hint)
        self.tokens.insert(index + 2, Token.new_borrow_pos("EQUAL", "=", kind))

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
        else:
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
        if expected not in self.mended:
            self._report("E0111", message, span_of(token), expected, hint)
        self.mended.add(expected)

    def _drop(self, token: Token) -> bool:
        """Pass over a token that the language does without."""
        choices = self.cursor.choices()
        previous = self._previous()
        words = f"unexpected '{token}'"
        hint: str | None
        if token.type == "RBRACE" and self.format is None:
            self._report("E0110", "this '}' closes nothing", span_of(token))
            self.at += 1
            return True
        if token.type in {"EQUAL", "COLON"} and "STRING" in choices:
            what = "cite has" if previous.type == "CITE" else "settings have"
            after = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else ""
            hint = f"{what} no '{token}': write '{previous} {after}'"
        elif token.type == "COMMA" and previous.type != "COMMA":
            what = "clauses need" if self._may_start_clause() else "settings need"
            hint = f"{what} no ','"
        elif token.type == "COMMA":
            hint = "leave out one of the commas"
        elif token.type == "PLUS":
            hint = "a number needs no '+'"
        else:
            return False
        if self._type_after() not in choices:
            return False
        self._report_mended(token, words, expected_words(self.cursor.accepts()) or "", hint)
        self.at += 1
        return True

    def _replace(self, token: Token) -> bool:
        """Read ``:`` as ``=`` and the other way round."""
        other = {"EQUAL": "COLON", "COLON": "EQUAL"}.get(token.type)
        if other is None or not self._accepts(other, self._type_after()):
            return False
        sign, hint = _INSERTIONS[other]
        self._report_mended(token, f"unexpected '{token}'", f"'{sign}'", hint)
        self.tokens[self.at] = token.update(type=other)
        return True

    def _close(self, token: Token) -> bool:
        """Put in the braces that are missing before a clause or a format on a new line."""
        depth = len(self.braces) - (token.type != "FORMAT")
        if token.type not in _KEYWORDS | {"FORMAT"} or depth < 1:
            return False
        if not self._first_on_line(self.at) or not self._accepts(*["RBRACE"] * depth, token.type):
            return False
        hint = f"the '{{' on line {self.braces[-1].line} is never closed"
        self._report("E0103", f"missing '}}' before '{token}'", span_of(token), "'}'", hint)
        for _ in range(depth):
            self._feed(Token.new_borrow_pos("RBRACE", "}", token))
        return True

    def _insert(self, token: Token) -> bool:
        """Put in one token when the next one fits after it."""
        choices = self.cursor.choices()
        for kind, (sign, hint) in _INSERTIONS.items():
            if kind not in choices or (kind in _WORDS and "NAME" in choices):
                continue
            if kind == "LBRACE" and not self.braces and not self._opens_body(token):
                continue
            if self._accepts(kind, token.type):
                self._report_mended(token, f"missing '{sign}' before '{token}'", f"'{sign}'", hint)
                self._feed(Token.new_borrow_pos(kind, sign, token))
                return True
        return False

    def _opens_body(self, token: Token) -> bool:
        return token.type in _KEYWORDS or self._first_on_line(self.at)

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
        while self.at < len(self.tokens) and not self._looks_like_format(self.at):
            self.at += 1
        self.quiet = False
        self.resumed = (self.tokens[self.at - 1].end_pos or 0) + 1

    def _skip_header(self, token: Token) -> None:
        """Go on at the format's body, or without the format when it has none."""
        self._complain(token)
        self.quiet = True
        stop = {"LBRACE", "RBRACE", "FORMAT"} | _KEYWORDS
        while self.at < len(self.tokens) and self.tokens[self.at].type not in stop:
            if self._first_on_line(self.at):
                break
            self.at += 1
        if self._accepts("NAME"):
            self.damaged.add("format")
            self._feed(Token.new_borrow_pos("NAME", NAMELESS, token))
        if self.at < len(self.tokens) and not self._accepts(self.tokens[self.at].type):
            self._skip_to_body(self.tokens[self.at])

    def _skip_to_body(self, token: Token) -> None:
        if self._accepts("LBRACE", token.type) and token.type != "RBRACE":
            self._feed(Token.new_borrow_pos("LBRACE", "{", token))
            return
        assert self.format is not None
        self._take_back(self.format)
        self.damaged.add("format")
        self.format = None
        self.quiet = token.type != "FORMAT"

    def _skip_clause(self, token: Token) -> None:
        """Drop the clause that the token stands in, and go on at the next."""
        self._complain(token)
        self.quiet = True
        depth = len(self.braces) - 1
        whole = self._may_start_clause()
        if self.clause and not (whole and self._first_on_line(self.at)):
            self.damaged.add(str(self.tokens[self.clause.index]))
            self._take_back(self.clause)
        elif token.type in BAD_TOKENS | _WORDS:
            self.damaged.add(str(token))
        self.clause = None
        self._to_next_clause(depth)

    def _take_back(self, mark: _Mark) -> None:
        """Take everything since the mark off the parser's stack."""
        state = self.cursor.parser_state
        del state.state_stack[mark.height :]
        del state.value_stack[mark.height - 1 :]
        del self.braces[mark.braces :]

    def _to_next_clause(self, depth: int) -> None:
        first = self.at
        while self.at < len(self.tokens):
            kind = self.tokens[self.at].type
            new_line = self._first_on_line(self.at)
            if kind == "FORMAT" or (kind in _KEYWORDS and (depth == 0 or new_line)):
                return
            if depth == 0 and (kind == "RBRACE" or (kind in _WORDS and new_line)):
                return
            depth += (kind == "LBRACE") - (kind == "RBRACE")
            self.at += 1
        assert self.at > first or first == len(self.tokens)

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
        last = self.tokens[-1] if self.tokens else None
        tree: Tree[Token] = self.cursor.feed_eof(last)
        return tree

    def _close_all(self) -> None:
        """Report the braces that are missing at the end, and put them in."""
        last = self.tokens[-1]
        gave_up = len(self.diagnostics) >= MAX_FAULTS
        self.quiet = gave_up
        expected = "'}'" if self.braces else expected_words(self.cursor.accepts())
        opened = self.braces[-1].line if self.braces else None
        hint = f"the '{{' on line {opened} is never closed" if opened else None
        self._report("E0103", "the text ends too early", span_of(last), expected, hint)
        self.at = len(self.tokens)
        if not self.braces:
            assert self.format is not None
            self._take_back(self.format)
            self.damaged.add("format")
            return
        if not self._accepts(*["RBRACE"] * len(self.braces)) and self.clause:
            self.damaged.add(str(self.tokens[self.clause.index]))
            self._take_back(self.clause)
        for _ in range(len(self.braces)):
            self._feed(Token.new_borrow_pos("RBRACE", "}", last))

    # -- wording -----------------------------------------------------------------------

    def _complain(self, token: Token) -> None:
        """Report a token that cannot be mended."""
        accepted = self.cursor.accepts()
        previous = self._previous()
        if {"STRING", "NUMBER"} <= accepted and token.type in _KEYWORDS | {"RBRACE", "FORMAT"}:
            message = f"'{previous}' has no value"
            self._report("E0108", message, span_of(previous), expected_words(accepted))
            return
        message = f"unexpected {token_words(token.type, token)}"
        hint = self._hint(token, previous, accepted)
        self._report("E0101", message, span_of(token), expected_words(accepted), hint)

    def _hint(self, token: Token, previous: Token, accepted: set[str]) -> str | None:
        touching = previous.end_pos == token.start_pos
        after = self._types(self.at + 1, 2)
        hints = (
            (token.type == "FUNCTION" and "CITE" in accepted, _NO_BRACKETS),
            (token.type == "LPAR" and previous.type in _WORDS, _CALL),
            (token.type == "MINUS" and previous.type in _WORDS and touching, _NO_DASH),
            (token.type == "DOT" and after == ("DOT", "DOT"), "write out every value"),
            (token.type == "STAR" and previous.type == "STAR", "a power is written 2^3"),
            (accepted == {"STRING"}, "put the text in double quotes"),
            (token.type in {"NUMBER", "STRING"} and "CITE" in accepted, "a setting has one value"),
            (token.type in _KEYWORDS, f"'{token}' is a reserved word and cannot be a name"),
            (token.type == "NAME" and "BIT" in accepted, did_you_mean(token, ("bit", "bits"))),
            (token.type == "NAME" and accepted == {"AT"}, did_you_mean(token, ("at",))),
        )
        return next((hint for applies, hint in hints if applies), None)
