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
from .hints import INSERTIONS, hint_for, insertion, superfluous
from .limits import MAX_FAULTS, MAX_NESTING
from .lookahead import (
    DECLARES,
    KEYWORDS,
    RESERVED,
    WORDS,
    atom_without_equal,
    bare_text,
    bodies_of,
    declaration_at,
    first_on_line,
    kinds,
    lonely_key,
    misread_clause,
    next_clause,
    next_declaration,
)
from .scanner import BAD_TOKENS, Scan
from .wording import A_CLAUSE, A_VALUE, CLAUSES, DECLARATIONS, expected_words, token_words

if TYPE_CHECKING:
    from .ast import Span

#: The word that stands in a tree for a format's name that could not be read.
NAMELESS = "_"

_STARTS = WORDS | KEYWORDS
_VALUES = frozenset({"NUMBER", "MINUS", "LPAR", "FUNCTION", "STRING"}) | WORDS


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a declaration or a clause starts: its first token, and the stacks before it."""

    index: int
    token: Token
    height: int
    braces: int


@dataclass(frozen=True, slots=True)
class _Brace:
    """An open brace; in a format's and in a body's stand clauses, the clause ``outer`` around."""

    token: Token
    column: int  # of the first token on its line
    has_clauses: bool
    outer: _Mark | None


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
        self.bodies: dict[int, int] | None = None
        self.braces: list[_Brace] = []
        self.declaration: _Mark | None = None
        self.clause: _Mark | None = None
        self.quiet = False  # the fault that stopped the reading here has been reported
        self.mended: set[tuple[str, str]] = (
            set()
        )  # what was said about mended tokens of this clause
        self.stopped = -1  # where the last skip ended: none may end there twice
        self.resumed = 0  # offset in the text from where scanner faults excuse parser faults
        self.column = 1  # of the first token on this line
        self.closed = False  # whether any brace was closed
        self.crooked: tuple[int, int] | None = None  # lines of a brace closed further left

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
        if self._first_on_line():
            self.column = token.column or 1
        if token.type in DECLARES:
            self.declaration = _Mark(self.at, token, height, 0)
            self.clause = None
            self.crooked = None
            self._resume(token)
        elif starts_clause:
            self.clause = _Mark(self.at, token, height, len(self.braces))
            self.starts.append(self.at)
            self._resume(token)
        elif token.type == "LBRACE":
            self._open(token)
        elif token.type == "RBRACE":
            self._shut(token)
        return True

    def _open(self, token: Token) -> None:
        has_clauses = self._may_start_clause()
        self.braces.append(_Brace(token, self.column, has_clauses, self.clause))
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

    # -- mistyped keywords -------------------------------------------------------------

    def _reread(self, index: int) -> Token:
        """The token at ``index``, as the keyword it was meant to be when that is plain."""
        token = self.tokens[index]
        if token.type == "NAME":
            after = self._type_after()
            if after in ("LBRACE", "STRING") and self._reread_inner(index, after):
                pass
            elif self._is_outside():
                self._reread_declaration(index)
            else:
                self._reread_clause(index)
        elif token.type == "GRID" and self._may_start_clause():
            self._put_equal(index)
        return self.tokens[index]

    def _reread_declaration(self, index: int) -> None:
        token = self.tokens[index]
        kind = declaration_at(self.tokens, index)
        if kind:
            self._resume(token)
            word = kind.lower()
            hint = did_you_mean(token, (word,))
            self._report("E0109", f"unknown word '{token}'", span_of(token), f"'{word}'", hint)
            self.tokens[index] = token.update(type=kind)

    def _reread_inner(self, index: int, after: str) -> bool:
        """Mend a mistyped ``as``, ``learned`` or ``extends``."""
        token = self.tokens[index]
        for word in ("as", "learned") if after == "LBRACE" else ("extends",):
            plain = word == "extends" or (word == "as" and not self._first_on_line())
            if (plain or nearest(token, (word,))) and self._fits_only(word.upper()):
                hint = did_you_mean(token, (word,))
                self._report("E0109", f"unknown word '{token}'", span_of(token), f"'{word}'", hint)
                self.tokens[index] = token.update(type=word.upper())
                return True
        return False

    def _fits_only(self, kind: str) -> bool:
        """Whether this kind of token fits here, other than as a name."""
        return self.cursor.accepts(kind) and not (kind in WORDS and self.cursor.accepts("NAME"))

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
        mends = (self._drop, self._replace, self._move, self._close, self._quote, self._insert)
        if any(mend(token) for mend in mends):
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
        if token.type == "RBRACE" and self._is_outside():
            self._report("E0110", "this '}' closes nothing", span_of(token))
            self.closed = True
            self.at += 1
            return True
        if token.type not in {"EQUAL", "COLON", "COMMA", "RPAR", "PLUS"}:
            return False
        accepted = self.cursor.accepted()
        after = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else ""
        hint = superfluous(token, self._previous(), after, accepted, self._owner())
        if hint is None or self._type_after() not in accepted:
            return False
        in_record = self._owner() == "RECORD" and "NAME" in accepted
        expected = "a field or '}'" if in_record else expected_words(accepted) or ""
        self._report_mended(token, f"unexpected '{token}'", expected, hint)
        self.at += 1
        return True

    def _replace(self, token: Token) -> bool:
        """Read ``:`` as ``=`` and the other way round, and a second file as a second import."""
        other = {"EQUAL": "COLON", "COLON": "EQUAL"}.get(token.type)
        if token.type == "COMMA" and self._declared() == "IMPORT":
            other = "IMPORT"
        if other is None or not self.cursor.accepts(other, self._type_after()):
            return False
        if other == "IMPORT":
            sign, hint = "import", "every file has an import of its own"
        else:
            sign, hint = insertion(other, self._owner(), "")
        self._report_mended(token, f"unexpected '{token}'", f"'{sign}'", hint)
        self.tokens[self.at] = token.update(type=other)
        return True

    def _move(self, token: Token) -> bool:
        """Read on where an import or an atom stands in a format, or a grid outside of any."""
        stands = f"'{token}' stands "
        after = kinds(self.tokens, self.at + 1, 2)
        if token.type == "GRID" and self._is_outside() and not self.closed:
            if after == ("NAME", "EQUAL"):
                hint = f"outside a format, write 'atom {self.tokens[self.at + 1]} = ...'"
                self._report("E0110", stands + "outside any format", span_of(token), hint=hint)
                self.tokens[self.at] = token.update(type="ATOM")
                return True
        elif token.type in {"IMPORT", "ATOM"} and self._is_misplaced(token):
            if token.type == "ATOM" and after == ("NAME", "EQUAL"):
                hint = f"in a format, write 'grid {self.tokens[self.at + 1]} = ...'"
                self._report("E0101", stands + "in a format", span_of(token), A_CLAUSE, hint)
                self.tokens[self.at] = token.update(type="GRID")
                return True
            if token.type == "IMPORT" and after[:1] == ("STRING",):
                hint = "move it out of the format, to the top of the file"
                self._report("E0101", stands + "in a format", span_of(token), A_CLAUSE, hint)
                self.damaged.add("import")
                self.at += 2
                return True
        return False

    def _is_misplaced(self, token: Token) -> bool:
        """Whether this stands in a format as a clause would, not below one without its brace."""
        if self.declaration is None or not self._may_start_clause():
            return False
        outer = self.declaration.token
        return not self._first_on_line() or (token.column or 1) > (outer.column or 1)

    def _close(self, token: Token) -> bool:
        """Put in the braces that are missing before a clause or a declaration on a new line."""
        declares = token.type in DECLARES
        most = len(self.braces) - (not declares and self._declared() == "FORMAT")
        if token.type not in _STARTS | DECLARES or most < 1:
            return False
        if token.type != "FORMAT" and not self._first_on_line():
            return False
        for depth in range(most if declares else 1, most + 1):
            if self.cursor.accepts(*["RBRACE"] * depth, token.type):
                break
        else:
            return False
        hint = self._unclosed(declares)
        self._report("E0103", f"missing '}}' before '{token}'", span_of(token), "'}'", hint)
        for _ in range(depth):
            self._feed(Token.new_borrow_pos("RBRACE", "}", token))
        return True

    def _unclosed(self, whole: bool) -> str | None:
        """The hint for a missing brace, where the ``whole`` declaration ends without it."""
        if not self.braces:
            return None
        if whole and self.crooked:
            opened, closed = self.crooked
            return (
                f"the '}}' on line {closed} closes the '{{' on line {opened}, but stands further "
                "left: is one missing before it?"
            )
        return f"the '{{' on line {self.braces[-1].token.line} is never closed"

    def _quote(self, token: Token) -> bool:
        """Read the name of a file or of a base without quotes as if it had them."""
        if self._previous().type not in {"IMPORT", "EXTENDS"} or self._first_on_line():
            return False
        if token.type not in WORDS | KEYWORDS or not self.cursor.accepts("STRING"):
            return False
        hint = "put the text in double quotes"
        expected = "a string in double quotes"
        self._report("E0101", f"unexpected '{token}'", span_of(token), expected, hint)
        stop = bare_text(self.tokens, self.at)
        text = "".join(self.tokens[self.at : stop])
        self.at = stop - 1
        last = self.tokens[self.at]
        self.tokens[self.at] = last.update(type="STRING", value='"' + text.replace('"', "") + '"')
        return True

    def _insert(self, token: Token) -> bool:
        """Put in one token when the next one fits after it."""
        accepted = self.cursor.accepted()
        previous = self._previous()
        for kind in INSERTIONS:
            if kind not in accepted or (kind in WORDS and "NAME" in accepted):
                continue
            if not self._is_missing(kind, token, accepted):
                continue
            if self.cursor.accepts(kind, token.type):
                sign, hint = insertion(kind, self._owner(), previous.type)
                if self._first_on_line():
                    place, message = previous, f"missing '{sign}' after '{previous}'"
                else:
                    place, message = token, f"missing '{sign}' before '{token}'"
                self._report_mended(place, message, f"'{sign}'", hint)
                self._feed(Token.new_borrow_pos(kind, sign, token))
                return True
        return False

    def _is_missing(self, kind: str, token: Token, accepted: set[str]) -> bool:
        """Whether a kind of token that fits before this one is what was left out."""
        after = self._type_after()
        if kind == "COMMA":
            # What has a value is no field: it is a setting that lacks its braces.
            return not ("DOT" in accepted and token.type in WORDS and after == "NUMBER")
        if kind not in {"LBRACE", "AS"}:
            return True
        if self._previous().type == "AS" or kind == "AS":
            deep = sum(brace.has_clauses for brace in self.braces) > MAX_NESTING
            clause = after in _VALUES and not first_on_line(self.tokens, self.at + 1)
            return not deep and (kind == "AS" or token.type in KEYWORDS or clause)
        if self.braces:
            return "DOT" not in accepted
        if self._declared() == "ATOM":
            return not self._first_on_line()
        return token.type in KEYWORDS or self._first_on_line()

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
        if self.bodies is None:
            self.bodies = bodies_of(self.tokens)
        start = self.at + (self.stopped == self.at)
        self.at = next_clause(self.tokens, start, depth, self.bodies)
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
        self.damaged.update((*DECLARATIONS, *CLAUSES))
        del self.tokens[self.at :]

    def _finish(self) -> Tree[Token]:
        if not self._is_outside():
            self._close_all()
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
