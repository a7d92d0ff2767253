"""What a stretch of tokens was meant to be: mistyped keywords, and hints for lone misfits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .diagnostics import did_you_mean, nearest
from .wording import CLAUSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lark import Token

#: Kinds of tokens that are words, reserved or not.
WORDS = frozenset({"NAME", "BIT", "BITS", "AT"})
KEYWORDS = frozenset(word.upper() for word in CLAUSES)

#: What follows the first word of a clause that is no setting, and the words that go on so.
#: No well-formed text has one of these behind an unreserved word.
_SHAPES = (
    (("NAME", "LBRACE"), ("scale", "format")),
    (("NAME", "STRING", "LBRACE"), ("format",)),
    (("NAME", "EQUAL"), ("grid",)),
    (("NUMBER", "BIT", "AT", "NAME", "LBRACE"), ("select",)),
    (("NUMBER", "BIT", "AT", "SCALE", "DOT"), ("select",)),
    (("NUMBER", "BITS", "AT", "NAME", "LBRACE"), ("select",)),
    (("NUMBER", "BITS", "AT", "SCALE", "DOT"), ("select",)),
)
_IN_SETTINGS = WORDS | {"NUMBER", "STRING", "MINUS", "SLASH", "CARET"}
_AFTER_KEYWORD = {
    "CITE": {"STRING"},
    "GRID": WORDS,
    "SCALE": WORDS,
    "SELECT": {"NUMBER"},
}


def kinds(tokens: Sequence[Token], start: int, count: int) -> tuple[str, ...]:
    """The kinds of up to ``count`` tokens."""
    return tuple(token.type for token in tokens[start : start + count])


def first_on_line(tokens: Sequence[Token], index: int) -> bool:
    """Whether no other token stands before this one on its line."""
    return index == 0 or tokens[index - 1].end_line != tokens[index].line


def misread_clause(tokens: Sequence[Token], index: int) -> tuple[str, ...]:
    """The words that the clause starting with this unknown word might have begun with."""
    for shape, candidates in _SHAPES:
        if kinds(tokens, index + 1, len(shape)) == shape:
            return candidates
    return ()


def looks_like_format(tokens: Sequence[Token], index: int) -> bool:
    """Whether a declaration starts here, perhaps with ``format`` mistyped."""
    token = tokens[index]
    if token.type != "NAME":
        return token.type == "FORMAT"
    after = kinds(tokens, index + 1, 3)
    like = nearest(token, ("format", *CLAUSES))
    return (
        (like == "format" and after[:1] == ("NAME",))
        or after == ("NAME", "STRING", "LBRACE")
        or (like is None and after[:2] == ("NAME", "LBRACE"))
    )


def atom_without_equal(tokens: Sequence[Token], index: int) -> int | None:
    """The index of the atom in ``grid x codebook 4 {``, which lacks its ``=``."""
    after = kinds(tokens, index + 1, 4)
    lacks = after[:3] == ("NAME", "NAME", "LBRACE") or after == ("NAME", "NAME", "NUMBER", "LBRACE")
    return index + 2 if lacks and not first_on_line(tokens, index + 2) else None


def next_clause(tokens: Sequence[Token], index: int, depth: int) -> int:
    """Where reading can go on, ``depth`` braces inside a clause: a clause, ``}`` or a format."""
    while index < len(tokens):
        kind = tokens[index].type
        new_line = first_on_line(tokens, index)
        if kind == "FORMAT" or (kind in KEYWORDS and new_line):
            break
        if depth == 0 and (kind == "RBRACE" or _goes_on_as_clause(tokens, index)):
            break
        if depth == 0 and kind in WORDS and new_line:
            break
        depth += (kind == "LBRACE") - (kind == "RBRACE")
        index += 1
    return index


def _goes_on_as_clause(tokens: Sequence[Token], index: int) -> bool:
    """Whether a reserved word in the middle of a line has what a clause needs next."""
    after = kinds(tokens, index + 1, 1)
    return bool(after) and after[0] in _AFTER_KEYWORD.get(tokens[index].type, ())


def lonely_key(tokens: Sequence[Token], index: int) -> int | None:
    """The setting without a value that shifted all the words from it to this misfit.

    In ``tie``, and on the next line ``block 16``, the parser reads ``tie block`` and stumbles
    at ``16``; this looks back for a word alone on its line before a line with more than one.
    """
    for start in range(index - 1, -1, -1):
        if tokens[start].type not in _IN_SETTINGS:
            break
        words = len(tokens) > start + 2 and {tokens[start].type, tokens[start + 1].type} <= WORDS
        lines = [first_on_line(tokens, i) for i in range(start, start + 3)] if words else []
        if lines == [True, True, False]:
            return start
    return None


def hint_for(tokens: Sequence[Token], index: int, accepted: set[str]) -> str | None:
    """The way out for a token that does not fit where only ``accepted`` kinds do."""
    token, previous = tokens[index], tokens[max(0, index - 1)]
    kind, before = token.type, previous.type
    touching = previous.end_pos == token.start_pos
    hints = (
        (kind == "FUNCTION" and "CITE" in accepted, "a setting is written 'block 16'"),
        (kind == "LPAR" and before in WORDS, f"a call is written without a blank: '{previous}(2)'"),
        (kind == "RPAR" and before == "LPAR", "there must be a number between the brackets"),
        (kind == "MINUS" and before in WORDS and touching, "a name has no '-': write '_'"),
        (kind == "DOT" and kinds(tokens, index + 1, 2) == ("DOT", "DOT"), "write out every value"),
        (kind == "STAR" and before == "STAR", "a power is written 2^3"),
        (kind in WORDS | {"NUMBER"} and accepted == {"STRING"}, "put the text in double quotes"),
        (kind in {"NUMBER", "STRING"} and "CITE" in accepted, "a setting has one value"),
        (kind in KEYWORDS and not first_on_line(tokens, index), f"'{token}' is a reserved word"),
        (before == "SCALE", "a scale is written 'scale e4m3 { rule absmax }'"),
        (before == "SELECT", "a select is written 'select 1 bit at scale.sign { 0: a, 1: b }'"),
        (before == "LBRACE" and accepted == {"NUMBER"}, "an arm is written '0: name'"),
        (kind == "NAME" and "BIT" in accepted, did_you_mean(token, ("bit", "bits"))),
        (kind == "NAME" and accepted == {"AT"}, did_you_mean(token, ("at",))),
    )
    return next((hint for applies, hint in hints if applies), None)
