"""How the parser talks: the table of syntax error codes, and tokens in the language's own words."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What each code stands for. Codes are stable: a code is never given a second meaning.
SYNTAX_CODES = {
    "E0101": "text that cannot stand here",
    "E0102": "a string without its closing quote",
    "E0103": "a missing closing brace",
    "E0104": "a character that the language does not have",
    "E0105": "a text too large, or an expression or a body too deep",
    "E0106": "an unknown escape in a string",
    "E0107": "a malformed number",
    "E0108": "a clause that stops before its value or its end",
    "E0109": "an unknown clause",
    "E0110": "text outside any format",
    "E0111": "a missing or a wrong separator",
    "E0112": "a comment in another language's style",
}

#: The reserved words that begin a clause.
CLAUSES = ("cite", "grid", "scale", "zero", "select", "side", "record")
#: The reserved words that begin a declaration.
DECLARATIONS = ("format", "import", "atom")

A_VALUE = "a value: a word, a number or a string in double quotes"
A_CLAUSE = f"a clause ({', '.join(CLAUSES)}) or a setting such as 'block 16'"

_NAMES = {"NAME", "BIT", "BITS", "AT", "EXTENDS"}
_NUMBERS = {"NUMBER", "MINUS", "LPAR", "FUNCTION"}

#: Groups of terminals that read as one thing, widest first: those that must all be there, those
#: that it also covers, and its words. Where a clause may begin, what may still follow the one
#: before goes unsaid.
_GROUPS: tuple[tuple[set[str], set[str], str], ...] = (
    ({"CITE", "GRID"}, {word.upper() for word in CLAUSES} | _NAMES | {"AS", "LEARNED"}, A_CLAUSE),
    ({"NAME", "STRING", "NUMBER"}, _NAMES | _NUMBERS | {"ZERO"}, A_VALUE),
    ({"NAME", "NUMBER", "MINUS"}, _NAMES | _NUMBERS, "values or settings"),
    ({"NAME", "SCALE"}, _NAMES, "a place such as 'scale.sign'"),
    ({"NAME", "RBRACE"}, _NAMES, "a setting such as 'rule absmax' or '}'"),
    ({"NUMBER", "MINUS", "LPAR"}, _NUMBERS, "a number"),
    ({"NAME"}, _NAMES, "a name"),
    ({"BIT", "BITS"}, set(), "'bit'"),
)

_OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH", "CARET"}

_WORDS = {
    "AS": "'as'",
    "AT": "'at'",
    "CARET": "'^'",
    "COLON": "':'",
    "COMMA": "','",
    "DOT": "'.'",
    "EQUAL": "'='",
    "EXTENDS": "'extends'",
    "FORMAT": "'format'",
    "FUNCTION": "a function",
    "LBRACE": "'{'",
    "LEARNED": "'learned'",
    "LPAR": "'('",
    "NUMBER": "a number",
    "RBRACE": "'}'",
    "RPAR": "')'",
    "STRING": "a string in double quotes",
}


def expected_words(accepted: Iterable[str]) -> str | None:
    """What could have stood there, given the terminals that the parser accepts there."""
    left = {name for name in accepted if name != "$END"}
    if left - _OPERATORS:
        left -= _OPERATORS - ({"MINUS"} if "NUMBER" in left else set())
    parts = []
    for core, also, words in _GROUPS:
        if core <= left:
            left -= core | also
            parts.append(words)
    parts += sorted(_WORDS[name] for name in left if name in _WORDS)
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    joint = ", or " if any(" or " in part for part in parts) else " or "
    return ", ".join(parts[:-1]) + joint + parts[-1]


def token_words(kind: str, text: str) -> str:
    """A token as it is named in a message."""
    if kind == "NUMBER":
        return f"number '{text}'"
    if kind == "STRING":
        return f"string {text}" if len(text) <= 40 else "string"
    return f"'{text}'" if len(text) <= 40 else f"'{text[:39]}…'"


def character_words(character: str) -> str:
    """A character as it is named in a message, also where it cannot be seen."""
    if character.isprintable() and not character.isspace():
        return f"'{character}'"
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X}" + (f" ({name})" if name else "")


#: The way out for characters that are often typed or pasted by mistake.
_CHARACTER_HINTS = {
    ";": "a clause ends where the next one starts: it needs no ';'",
    "“”„«»'‘’`": 'strings stand in plain double quotes: "text"',
    "[]": "lists stand in braces: { -1, 0, 1 }",
    "−–—": "write a plain '-'",
    "×·⋅": "write '*'",
    "÷": "write '/'",
}


def character_hint(character: str) -> str | None:
    """The way out for a character that the language does not have."""
    for characters, hint in _CHARACTER_HINTS.items():
        if character in characters:
            return hint
    return "write a plain blank" if character.isspace() else None


def number_hint(text: str) -> str | None:
    """The way out for a malformed number."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    if text.lower().startswith(("0x", "0b", "0o")):
        return "numbers are decimal: write 255, 1e-3, 7/8 or 2^-6"
    if text.startswith("."):
        return f"write '0{text}'"
    if text.endswith("."):
        return f"write '{text[:-1]}' or '{text}0'"
    if "_" in text:
        return f"write '{text.replace('_', '')}'"
    if digits.isdigit() and digits != text:
        return f"write '{digits} {text[len(digits) :]}', or begin the name with a letter"
    return "numbers are written 16, 0.25, 1e-3, 7/8 or 2^-6"
