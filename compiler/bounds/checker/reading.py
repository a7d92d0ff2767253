"""Reading a proof strictly: every field is known, every number exact and in lowest terms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

_FRACTION = re.compile(r"(0|-?[1-9][0-9]*)(/[1-9][0-9]*)?\Z", re.ASCII)


class Rejected(ValueError):
    """A proof that proves nothing.

    Attributes:
        where: the place, such as ``statements[3].cells[7].points[1][0]``.
        why: what is there, and what it should be.
    """

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True)
class Node:
    """A place in a proof and what stands there."""

    where: str
    value: Any

    def reject(self, why: str) -> NoReturn:
        """Give up, naming this place."""
        raise Rejected(self.where, why)

    def record(self, *names: str) -> dict[str, Node]:
        """The fields of an object that has exactly these."""
        if not isinstance(self.value, dict):
            self.reject("is no object")
        for name in names:
            if name not in self.value:
                self.reject(f"the field '{name}' is missing")
        for name in self.value:
            if name not in names:
                self.reject(f"the field '{name}' is not known here")
        start = f"{self.where}." if self.where else ""
        return {name: Node(start + name, self.value[name]) for name in names}

    def items(self, count: int | None = None) -> list[Node]:
        """The items of a list, of which there must be ``count``."""
        if not isinstance(self.value, list):
            self.reject("is no list")
        if count is not None and len(self.value) != count:
            self.reject(f"has {len(self.value)} items, and should have {count}")
        return [Node(f"{self.where}[{i}]", item) for i, item in enumerate(self.value)]

    def number(self) -> Fraction:
        """An exact rational, written ``p`` or ``p/q`` in lowest terms."""
        text = self.value
        if not isinstance(text, str) or not _FRACTION.match(text):
            self.reject(f"{text!r} is no fraction written 'p/q'")
        try:
            found = Fraction(text)
        except ValueError:
            self.reject("has too many digits")
        if str(found) != text:
            self.reject(f"'{text}' is not in lowest terms, which are '{found}'")
        return found

    def interval(self) -> tuple[Fraction, Fraction]:
        """Two numbers, the lower one first."""
        low, high = (item.number() for item in self.items(2))
        if low > high:
            self.reject(f"{low} is above {high}")
        return low, high

    def integer(self, least: int = 0) -> int:
        """A whole number of at least ``least``."""
        if type(self.value) is not int or self.value < least:
            self.reject(f"{self.value!r} is no whole number of at least {least}")
        return self.value

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            self.reject(f"{self.value!r} is no text")
        return self.value

    def holds(self, expected: object) -> None:
        """A text, a whole number, a truth value or null that must be this one."""
        if type(self.value) is not type(expected) or self.value != expected:
            self.reject(f"is {self.value!r}, and should be {expected!r}")

    def equals(self, expected: Fraction) -> None:
        """A number that must be this one."""
        found = self.number()
        if found != expected:
            self.reject(f"is {found}, and should be {expected}")

    def all_equal(self, expected: Iterable[Fraction]) -> None:
        """A list of numbers that must be these."""
        wanted = list(expected)
        for item, number in zip(self.items(len(wanted)), wanted, strict=True):
            item.equals(number)


def read(text: str) -> Node:
    """The proof as a tree of places.

    Raises:
        Rejected: it is no JSON, has a key twice, or has a number that is not whole.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_no_float, parse_constant=_no_float
        )
    except RecursionError:
        raise Rejected("", "is nested too deeply") from None
    except Rejected:
        raise
    except ValueError as error:
        raise Rejected("", f"is no JSON: {error}") from None
    return Node("", value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Rejected("", "has a key twice in one object")
    return found


def _no_float(text: str) -> Any:
    raise Rejected("", f"'{text}' stands in it, and only whole numbers and texts may")
