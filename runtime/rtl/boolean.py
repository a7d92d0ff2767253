"""Boolean functions of cells, as Liberty writes them, on 64 cases at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Sixty-four cases a word.
Words = NDArray[np.uint64]

_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][\w\[\]]*)|([01])|([!'&*|+^()]))")


class BadFunction(ValueError):
    """A text is no function of a cell."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A function as a tree.

    ``kind`` is ``pin``, ``const``, ``not``, ``and``, ``or`` or ``xor``; ``name`` is the pin's, or
    the constant's digit.
    """

    kind: str
    parts: tuple[Expression, ...] = ()
    name: str = ""

    @property
    def pins(self) -> frozenset[str]:
        """The names of all pins that it reads."""
        if self.kind == "pin":
            return frozenset({self.name})
        return frozenset().union(*(part.pins for part in self.parts))

    def value(self, pins: Mapping[str, Words | np.uint64]) -> Words | np.uint64:
        """The output for words of the pins, all of one shape."""
        if self.kind == "pin":
            return pins[self.name]
        if self.kind == "const":
            return _ONES if self.name == "1" else np.uint64(0)
        first, *rest = (part.value(pins) for part in self.parts)
        if self.kind == "not":
            return ~first
        for other in rest:
            if self.kind == "and":
                first = first & other
            elif self.kind == "or":
                first = first | other
            else:
                first = first ^ other
        return first


@lru_cache(maxsize=1024)
def parse_function(text: str) -> Expression:
    """Read ``(!((A B)+C))``; ``'`` behind a factor negates it, too.

    Raises:
        BadFunction: the text is no such function.
    """
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadFunction(f"the function '{text}' cannot be read at '{text[at:]}'")
        tokens.append(match[0].strip())
        at = match.end()
    parser = _Parser(text, tokens)
    expression = parser.sum()
    if parser.rest:
        raise BadFunction(f"the function '{text}' cannot be read at '{parser.rest[0]}'")
    return expression


class _Parser:
    """Negation binds tightest, then ^, then products, then sums (Liberty's order)."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self._text = text
        self.rest = tokens

    def _takes(self, *marks: str) -> bool:
        if self.rest and self.rest[0] in marks:
            self.rest = self.rest[1:]
            return True
        return False

    def sum(self) -> Expression:
        """Terms joined by + or |."""
        parts = [self._product()]
        while self._takes("+", "|"):
            parts.append(self._product())
        return parts[0] if len(parts) == 1 else Expression("or", tuple(parts))

    def _product(self) -> Expression:
        parts = [self._difference()]
        while self._takes("*", "&") or (self.rest and self.rest[0] not in {")", "+", "|", "^"}):
            parts.append(self._difference())
        return parts[0] if len(parts) == 1 else Expression("and", tuple(parts))

    def _difference(self) -> Expression:
        parts = [self._factor()]
        while self._takes("^"):
            parts.append(self._factor())
        return parts[0] if len(parts) == 1 else Expression("xor", tuple(parts))

    def _factor(self) -> Expression:
        if self._takes("!"):
            return Expression("not", (self._factor(),))
        if not self.rest:
            raise BadFunction(f"the function '{self._text}' ends too soon")
        if self._takes("("):
            found = self.sum()
            if not self._takes(")"):
                raise BadFunction(f"the function '{self._text}' lacks a ')'")
        else:
            word, self.rest = self.rest[0], self.rest[1:]
            if word in {")", "+", "|", "*", "&", "^", "'"}:
                raise BadFunction(f"the function '{self._text}' cannot be read at '{word}'")
            found = Expression("const" if word in {"0", "1"} else "pin", name=word)
        while self._takes("'"):
            found = Expression("not", (found,))
        return found
