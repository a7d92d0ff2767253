"""Faults that are mended: where what was meant is plain, it is reported and read so."""

from __future__ import annotations

from lark import Token

from .cursor import span_of
from .diagnostics import did_you_mean, nearest
from .hints import INSERTIONS, insertion, superfluous
from .limits import MAX_NESTING
from .lookahead import (
    DECLARES,
    KEYWORDS,
    WORDS,
    atom_without_equal,
    bare_text,
    bodies_of,
    declaration_at,
    first_on_line,
    kinds,
    misread_clause,
    next_clause,
)
from .reading import STARTS, Reading
from .wording import A_CLAUSE, expected_words

_VALUES = frozenset({"NUMBER", "MINUS", "LPAR", "FUNCTION", "STRING"}) | WORDS


class Mending(Reading):
    """The mends. Each takes the token that does not fit, and says whether it could do anything."""

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
            self._read_as(index, word)

    def _reread_inner(self, index: int, after: str) -> bool:
        """Mend a mistyped ``as``, ``learned`` or ``extends``."""
        token = self.tokens[index]
        for word in ("as", "learned") if after == "LBRACE" else ("extends",):
            plain = word == "extends" or (word == "as" and not self._first_on_line())
            if (plain or nearest(token, (word,))) and self._fits_only(word.upper()):
                self._read_as(index, word)
                return True
        return False

    def _read_as(self, index: int, word: str) -> None:
        """Report an unknown word, and take it for a reserved one."""
        token, after = self.tokens[index : index + 2]
        hint = did_you_mean(token, (word,)) or f"write '{word} {after}'"
        self._report("E0109", f"unknown word '{token}'", span_of(token), f"'{word}'", hint)
        self.tokens[index] = token.update(type=word.upper())

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

    # -- tokens that do not fit ---------------------------------------------------------

    def _mend(self, token: Token) -> bool:
        """Make the token fit, if it is plain how."""
        mends = (self._drop, self._replace, self._move, self._close, self._quote, self._insert)
        return any(mend(token) for mend in mends)

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
            if token.type == "ATOM" and after == ("NAME", "STRING"):
                hint = "in a format, write 'grid' and leave the title out"
                self._report("E0101", stands + "in a format", span_of(token), A_CLAUSE, hint)
                self.damaged.add("grid")
                self._skip_to_clause(self.at + 1, 0)
                return True
            if token.type == "IMPORT" and after[:1] == ("STRING",):
                hint = "move it out of the format, to the top of the file"
                self._report("E0101", stands + "in a format", span_of(token), A_CLAUSE, hint)
                self.moved += self.tokens[self.at : self.at + 2]
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
        if token.type not in STARTS | DECLARES or most < 1:
            return False
        if token.type != "FORMAT" and not self._first_on_line():
            return False
        if self._owner() == "RECORD" and self._is_field(token):
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

    def _is_field(self, token: Token) -> bool:
        """Whether a word in a record is no setting of the format."""
        return token.type in WORDS and (
            self._type_after() in {"COMMA", "DOT", "LBRACE", "RBRACE"}
            or first_on_line(self.tokens, self.at + 1)
        )

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
        if self._previous().type in {"AS", "LEARNED"} or kind == "AS":
            deep = sum(brace.has_clauses for brace in self.braces) > MAX_NESTING
            clause = after in _VALUES and not first_on_line(self.tokens, self.at + 1)
            return not deep and (kind == "AS" or token.type in KEYWORDS or clause)
        if self.braces:
            return "DOT" not in accepted
        if self._declared() == "ATOM":
            return not self._first_on_line()
        return token.type in KEYWORDS or self._first_on_line()

    def _skip_to_clause(self, start: int, depth: int) -> None:
        if self.bodies is None:
            self.bodies = bodies_of(self.tokens)
        self.at = next_clause(self.tokens, start, depth, self.bodies)
        self.stopped = self.at
