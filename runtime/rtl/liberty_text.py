"""The syntax of Liberty files: nested groups of attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""/\*.*?\*/ | //[^\n]* | \\\r?\n | [ \t\r]+   # nothing
    | (?P<newline>\n)
    | (?P<open>/\*)
    | "(?P<string>(?:\\.|[^"\\])*)"
    | (?P<mark>[{}():;,])
    | (?P<word>[^\s{}():;,"]+)
    | (?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)


class BadSyntax(ValueError):
    """A text is no Liberty; the message names the line."""


@dataclass(slots=True)
class Group:
    """``kind (name, ...) { attributes and groups }``, which begins in ``line``.

    Attributes:
        arguments: what stands in the parentheses.
        attributes: name -> words of its value, the last one that is given.
    """

    kind: str
    arguments: list[str]
    line: int
    attributes: dict[str, list[str]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first argument, or nothing."""
        return self.arguments[0] if self.arguments else ""

    def of(self, kind: str) -> list[Group]:
        """The groups of one kind that stand directly in this one."""
        return [group for group in self.groups if group.kind == kind]

    def listed(self, name: str) -> list[str]:
        """The words of an attribute; none where it is absent."""
        return self.attributes.get(name, [])

    def text(self, name: str, default: str) -> str:
        """An attribute's value as text."""
        return " ".join(self.listed(name)) or default

    def number(self, name: str, default: float) -> float:
        """An attribute's value as a number.

        Raises:
            BadSyntax: it is none.
        """
        words = self.listed(name)
        return self._numbers(name, words[:1])[0] if words else default

    def numbers(self, name: str) -> list[float]:
        """The numbers of ``name ("1, 2", "3, 4")``, one after another.

        Raises:
            BadSyntax: one of the words is no number.
        """
        words = [w for text in self.listed(name) for w in re.split(r"[\s,\\]+", text) if w]
        return self._numbers(name, words)

    def _numbers(self, name: str, words: list[str]) -> list[float]:
        try:
            return [float(word) for word in words]
        except ValueError as error:
            raise BadSyntax(
                f"'{name}' of the {self.kind} in line {self.line} is no number ({error})"
            ) from error


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    line: int
    is_mark: bool


def parse(text: str) -> Group:
    """The one group that a Liberty file is.

    Raises:
        BadSyntax: the text is cut short or no Liberty.
    """
    parser = _Parser(list(_tokens(text)))
    return parser.only_group()


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind in ("bad", "open"):
            raise BadSyntax(f"line {line}: a text or comment does not end")
        if kind in ("string", "word"):
            yield _Token(match[kind].replace("\\\n", " "), line, is_mark=False)
        elif kind == "mark":
            yield _Token(match["mark"], line, is_mark=True)
        line += match[0].count("\n")


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def only_group(self) -> Group:
        top = Group("file", [], 0)
        self._statement(top)
        if not top.groups:
            raise BadSyntax("it holds no group 'library (...) { ... }'")
        if self._at < len(self._tokens):
            raise BadSyntax(f"line {self._line}: something stands after the end of the library")
        return top.groups[0]

    @property
    def _line(self) -> int:
        at = min(self._at, len(self._tokens) - 1)
        return self._tokens[at].line if self._tokens else 1

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> _Token:
        token = self._peek()
        if token is None:
            raise BadSyntax(f"line {self._line}: the file ends inside a group")
        self._at += 1
        return token

    def _is(self, mark: str) -> bool:
        token = self._peek()
        return token is not None and token.is_mark and token.text == mark

    def _statement(self, into: Group) -> None:
        name = self._next()
        if name.is_mark:
            raise BadSyntax(f"line {name.line}: '{name.text}' stands where a name should")
        follows = self._next()
        if follows.is_mark and follows.text == ":":
            into.attributes[name.text] = self._value(follows.line)
        elif follows.is_mark and follows.text == "(":
            self._call(name, into)
        else:
            raise BadSyntax(f"line {follows.line}: neither ':' nor '(' follows '{name.text}'")

    def _value(self, line: int) -> list[str]:
        """The words up to the semicolon, which some writers leave out at a line's end."""
        words = []
        while not (self._is(";") or self._is("}")):
            token = self._peek()
            if token is None or token.line != line:
                break
            words.append(self._next().text)
        return words

    def _call(self, name: _Token, into: Group) -> None:
        arguments = []
        while not self._is(")"):
            token = self._next()
            if token.is_mark and token.text != ",":
                raise BadSyntax(f"line {token.line}: '{token.text}' in the words of '{name.text}'")
            if not token.is_mark:
                arguments.append(token.text)
        self._next()
        if not self._is("{"):
            into.attributes[name.text] = arguments
            return
        self._next()
        group = Group(name.text, arguments, name.line)
        while not self._is("}"):
            if self._is(";"):
                self._next()
            else:
                self._statement(group)
        self._next()
        into.groups.append(group)
