"""What a stretch of tokens was meant to be, and where reading can go on behind a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .diagnostics import nearest
from .wording import CLAUSES, DECLARATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lark import Token

#: Kinds of tokens that are words, reserved or not.
WORDS = frozenset({"NAME", "BIT", "BITS", "AT", "EXTENDS"})
KEYWORDS = frozenset(word.upper() for word in CLAUSES)
DECLARES = frozenset(word.upper() for word in DECLARATIONS)
RESERVED = KEYWORDS | DECLARES | {"AS", "LEARNED"}

#: What follows the first word of a clause that is no setting, and the words that go on so.
#: No well-formed text has one of these behind an unreserved word.
_SHAPES = (
    (("NAME", "LBRACE"), ("scale", "zero", "side", "format")),
    (("NAME", "AS"), ("scale", "zero")),
    (("NAME", "STRING", "LBRACE"), ("format",)),
    (("NAME", "EQUAL"), ("grid",)),
    (("NUMBER", "LBRACE"), ("record",)),
    (("NUMBER", "BIT", "AT", "NAME", "LBRACE"), ("select",)),
    (("NUMBER", "BIT", "AT", "SCALE", "DOT"), ("select",)),
    (("NUMBER", "BITS", "AT", "NAME", "LBRACE"), ("select",)),
    (("NUMBER", "BITS", "AT", "SCALE", "DOT"), ("select",)),
)
#: Words of other languages for ``import``.
_IMPORTS = ("include", "use", "using", "require", "load")
_VALUES = WORDS | {"ZERO"}
_IN_SETTINGS = _VALUES | {"NUMBER", "STRING", "MINUS", "SLASH", "CARET"}
_AFTER_KEYWORD = {
    "CITE": {"STRING"},
    "GRID": WORDS,
    "SCALE": WORDS,
    "ZERO": WORDS,
    "SIDE": WORDS,
    "SELECT": {"NUMBER"},
    "RECORD": {"NUMBER"},
}


def kinds(tokens: Sequence[Token], start: int, count: int) -> tuple[str, ...]:
    """The kinds of up to ``count`` tokens."""
    return tuple(token.type for token in tokens[start : start + count])


def first_on_line(tokens: Sequence[Token], index: int) -> bool:
    """Whether no other token stands before this one on its line."""
    return index in (0, len(tokens)) or tokens[index - 1].end_line != tokens[index].line


def misread_clause(tokens: Sequence[Token], index: int) -> tuple[str, ...]:
    """The words that the clause starting with this unknown word might have begun with."""
    for shape, candidates in _SHAPES:
        if kinds(tokens, index + 1, len(shape)) == shape:
            return candidates
    return ()


def declaration_at(tokens: Sequence[Token], index: int) -> str | None:
    """The declaration that starts here, perhaps with its word mistyped: its kind of token."""
    token = tokens[index]
    if token.type in DECLARES:
        return token.type
    if token.type != "NAME":
        return None
    after = kinds(tokens, index + 1, 3)
    like = nearest(token, (*DECLARATIONS, *CLAUSES))
    if (
        (like == "format" and after[:1] == ("NAME",))
        or after in (("NAME", "STRING", "LBRACE"), ("NAME", "STRING", "EXTENDS"))
        or (like is None and after[:2] == ("NAME", "LBRACE"))
    ):
        return "FORMAT"
    if after[:1] == ("STRING",) and (like == "import" or token.lower() in _IMPORTS):
        return "IMPORT"
    named = after[:2] == ("NAME", "EQUAL") or after == ("NAME", "STRING", "EQUAL")
    return "ATOM" if named and (like is None or like == "atom") else None


def next_declaration(tokens: Sequence[Token], index: int, depth: int) -> int:
    """Where the next declaration starts, seen from ``depth`` braces inside a faulty one."""
    while index < len(tokens) and tokens[index].type not in DECLARES:
        if depth == 0 and declaration_at(tokens, index):
            break
        kind = tokens[index].type
        depth = max(0, depth + (kind == "LBRACE") - (kind == "RBRACE"))
        index += 1
    return index


def atom_without_equal(tokens: Sequence[Token], index: int) -> int | None:
    """The index of the atom in ``grid x codebook 4 {``, which lacks its ``=``."""
    after = kinds(tokens, index + 1, 4)
    lacks = after[:3] == ("NAME", "NAME", "LBRACE") or after == ("NAME", "NAME", "NUMBER", "LBRACE")
    return index + 2 if lacks and not first_on_line(tokens, index + 2) else None


def bodies_of(tokens: Sequence[Token]) -> dict[int, int]:
    """Of every ``{`` after ``as``, and of its ``}``: the offsets in the text."""
    ends: dict[int, int] = {}
    opened: list[int | None] = []
    for index, token in enumerate(tokens):
        if token.type == "LBRACE":
            body = index > 0 and tokens[index - 1].type == "AS"
            opened.append(token.start_pos if body else None)
        elif token.type == "RBRACE" and opened:
            start = opened.pop()
            if start is not None:
                ends[start] = token.start_pos or 0
        elif token.type in DECLARES:
            opened.clear()
    return ends


def next_clause(tokens: Sequence[Token], index: int, depth: int, bodies: Mapping[int, int]) -> int:
    """Where reading can go on, ``depth`` braces inside a clause.

    That is at a clause, at the ``}`` that ends the clauses or at a declaration, but not at what
    stands in a body of the faulty clause: ``bodies`` says where the bodies end.
    """
    inside = -1  # the offset where the body that is being passed over ends
    while index < len(tokens):
        token = tokens[index]
        kind, new_line = token.type, first_on_line(tokens, index)
        if inside < (token.start_pos or 0):
            if kind in DECLARES or (kind in KEYWORDS and new_line):
                break
            if depth == 0 and (kind == "RBRACE" or _goes_on_as_clause(tokens, index)):
                break
            if depth == 0 and kind in WORDS and new_line:
                break
            if kind == "LBRACE":
                inside = bodies.get(token.start_pos or 0, inside)
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
        words = len(tokens) > start + 2 and {tokens[start].type, tokens[start + 1].type} <= _VALUES
        lines = [first_on_line(tokens, i) for i in range(start, start + 3)] if words else []
        if lines == [True, True, False]:
            return start
    return None


def bare_text(tokens: Sequence[Token], index: int) -> int:
    """The index behind the tokens that touch this one: a text that lacks its quotes."""
    stop = index + 1
    while stop < len(tokens) and tokens[stop - 1].end_pos == tokens[stop].start_pos:
        if tokens[stop].type in {"LBRACE", "RBRACE", "COMMA"}:
            break
        stop += 1
    return stop
