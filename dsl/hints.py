"""The way out for a token that does not fit: what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .diagnostics import did_you_mean
from .lookahead import RESERVED, WORDS, first_on_line, kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lark import Token

_A_SELECT = "write 'select 1 bit at scale.sign { ... }'"
_A_RECORD = "a record is written 'record 32 { scales, codes { order halves } }'"
_AN_ATOM = "an atom is written 'atom name = codebook 2 { -1, 0, 1/2, 1 }'"
_TITLE_FIRST = "a title stands before 'extends'"
_A_BASE = 'name the format to build on: extends "mxfp4"'

#: Tokens that are put in where they are missing: how they are written, and what to say.
INSERTIONS = {
    "COMMA": (",", "separate values with commas"),
    "COLON": (":", "an arm is written '0: name'"),
    "EQUAL": ("=", "a grid is written 'grid name = atom'"),
    "LBRACE": ("{", None),
    "RPAR": (")", None),
    "BIT": ("bit", _A_SELECT),
    "AT": ("at", _A_SELECT),
    "AS": ("as", "what a scale is stored in is written 'scale fp32 as { ... }'"),
    "IMPORT": ("import", "every file has an import of its own"),
    "LEARNED": ("learned", "how values were learned is written 'learned { method lloyd }'"),
}

#: How what begins with a reserved word is written.
_WRITTEN = {
    "SCALE": "a scale is written 'scale e4m3 { rule absmax }'",
    "ZERO": "a zero is written 'zero point' or 'zero minimum { word fp16 }'",
    "SELECT": "a select is written 'select 1 bit at scale.sign { 0: a, 1: b }'",
    "SIDE": "a side stream is written 'side opq' or 'side wr { fraction 0.001 }'",
    "RECORD": _A_RECORD,
    "IMPORT": 'an import names a file of atoms: import "nf4"',
    "ATOM": _AN_ATOM,
    "EXTENDS": _A_BASE,
    "AS": "what it is stored in stands in braces: as { block 256  grid e4m3  scale fp32 }",
    "LEARNED": "a recipe stands in braces: learned { method lloyd  block 16 }",
}


def insertion(kind: str, owner: str, before: str) -> tuple[str, str | None]:
    """How a missing token is written, and the hint.

    It stands in what begins with a token of kind ``owner``, behind one of kind ``before``.
    """
    sign, hint = INSERTIONS[kind]
    if kind == "EQUAL" and owner == "ATOM":
        hint = _AN_ATOM
    elif kind == "COMMA" and owner == "RECORD":
        hint = "separate the fields of a record with commas"
    elif kind == "LBRACE":
        hint = _WRITTEN.get("RECORD" if owner == "RECORD" else before)
    return sign, hint


def superfluous(
    token: Token, previous: Token, after: Token | str, accepted: set[str], owner: str
) -> str | None:
    """The hint for a token that the language does without; None for one that it needs."""
    kind = token.type
    if kind in {"EQUAL", "COLON"} and "STRING" in accepted:
        if "EQUAL" in accepted:
            return None
        if "LBRACE" in accepted:
            return f"a title needs no '{token}'"
        owners = {"CITE": "cite has", "IMPORT": "import has", "EXTENDS": "extends has"}
        what = owners.get(previous.type, "settings have")
        return f"{what} no '{token}': write '{previous} {after}'"
    if kind == "COMMA" and {"NAME", "RBRACE"} <= accepted and owner != "RECORD":
        what = "clauses need" if "CITE" in accepted else "settings need"
        return f"{what} no ','"
    return {
        "COMMA": "leave the ',' out",
        "RPAR": "there is no '(' before it",
        "PLUS": "a number needs no '+'",
    }.get(kind)


def hint_for(tokens: Sequence[Token], index: int, accepted: set[str], owner: str) -> str | None:
    """The way out for a token that does not fit where only ``accepted`` kinds do."""
    token, previous = tokens[index], tokens[max(0, index - 1)]
    kind, before = token.type, previous.type
    touching = previous.end_pos == token.start_pos
    value_after = kinds(tokens, index + 1, 1) in (("NUMBER",), ("MINUS",))
    in_record = owner == "RECORD"
    hints = (
        (kind == "FUNCTION" and "CITE" in accepted, "a setting is written 'block 16'"),
        (kind == "LPAR" and before in WORDS, f"a call is written without a blank: '{previous}(2)'"),
        (kind == "RPAR" and before == "LPAR", "there must be a number between the brackets"),
        (kind == "MINUS" and before in WORDS and touching, "a name has no '-': write '_'"),
        (kind == "DOT" and kinds(tokens, index + 1, 2) == ("DOT", "DOT"), "write out every value"),
        (kind == "STAR" and before == "STAR", "a power is written 2^3"),
        (in_record and kind in {"COLON", "EQUAL", "NUMBER"}, _settings_of(previous)),
        (in_record and kind in WORDS and value_after, _settings_of(previous)),
        (in_record and kind == "SCALE", "the streams of scales are called 'scales'"),
        (kind == "STRING" and "EXTENDS" not in accepted and "LBRACE" in accepted, _TITLE_FIRST),
        (kind in WORDS | {"NUMBER"} and accepted == {"STRING"}, "put the text in double quotes"),
        (kind in {"NUMBER", "STRING"} and "CITE" in accepted, "a setting has one value"),
        (kind in RESERVED and not first_on_line(tokens, index), f"'{token}' is a reserved word"),
        (before in _WRITTEN, _WRITTEN.get(before)),
        (in_record and (before == "LBRACE" or accepted == {"LBRACE"}), _A_RECORD),
        (before == "LBRACE" and accepted == {"NUMBER"}, "an arm is written '0: name'"),
        (kind == "NAME" and "BIT" in accepted, did_you_mean(token, ("bit", "bits"))),
        (kind == "NAME" and accepted == {"AT"}, did_you_mean(token, ("at",))),
        (owner == "ATOM" and "EQUAL" in accepted, _AN_ATOM),
    )
    return next((hint for applies, hint in hints if applies), None)


def _settings_of(field: Token) -> str:
    return f"the settings of a field stand in braces: '{field} {{ bits 4 }}'"
