"""The text of inline PTX: what stands in the asm string of ``tl.inline_asm_elementwise``.

The syntax is that of the PTX ISA, chapters "Syntax" and "State Spaces, Types, and Variables",
within LLVM's inline assembly (Language Reference, "Inline Assembler Expressions"): ``$0`` or
``${0}`` is an operand, ``$$`` a dollar sign. Only what runs straight through is known: no labels,
no branches, no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<float>0[fF][0-9a-fA-F]{8}(?!\w))
    |(?P<number>(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?(?!\w))
    |(?P<operand>\$\d+|\$\{\d+\})
    |(?P<word>\.?[A-Za-z_%](?:\w|\.(?=\w)|\$\$)*)
    |(?P<mark>[{},;@!<>-])""",
    re.VERBOSE | re.DOTALL,
)


#: A name that can be declared (ISA, "Identifiers").
_NAME = re.compile(r"[A-Za-z][\w$]*|[_%][\w$]+")


class PtxError(ValueError):
    """Inline PTX that is no PTX, or that the emulator does not know; the message names it."""


@dataclass(frozen=True, slots=True)
class Name:
    """A register, ``$0`` for an operand of the asm; ``_`` takes what nobody wants."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """An immediate: an integer, or the 32 bits of a float that was written ``0f3F800000``."""

    value: int
    floating: bool = False


Scalar = Name | Number
Operand = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """``{`` or ``}``."""

    opens: bool


@dataclass(frozen=True, slots=True)
class Declaration:
    """``.reg .b32 a, b<2>;``: type b32, names a, b0 and b1."""

    text: str
    type: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Execution:
    """``@!p add.u32 d, a, 1;``: guard p, negated; opcode ``add.u32``; the destination first."""

    text: str
    guard: str
    negated: bool
    opcode: str
    operands: tuple[Operand, ...]


Statement = Scope | Declaration | Execution


def parse(asm: str) -> list[Statement]:
    """The statements of an asm string, in order.

    Raises:
        PtxError: it cannot be read; the message names the statement.
    """
    return list(_Parser(asm).statements())


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    """Reads one token ahead."""

    def __init__(self, asm: str) -> None:
        self._asm = asm
        self._tokens = list(_tokens(asm))
        self._at = 0
        self._start = 0

    def statements(self) -> Iterator[Statement]:
        """All statements until the end of the text."""
        depth = 0
        while self._peek().kind != "end":
            self._start = self._peek().start
            if self._take("{"):
                depth += 1
                yield Scope(opens=True)
            elif self._take("}"):
                depth -= 1
                if depth < 0:
                    raise PtxError("a '}' closes no scope")
                yield Scope(opens=False)
            elif self._peek().text == ".reg":
                yield self._declaration()
            else:
                yield self._execution()
        if depth:
            raise PtxError("a '{' is never closed")

    def _declaration(self) -> Declaration:
        self._next()
        kind = self._word("a register type").removeprefix(".")
        names: list[str] = []
        while True:
            name = self._word("a register name")
            if not _NAME.fullmatch(name):
                raise self._error(f"'{name}' is no name of a register")
            if self._take("<"):
                count = self._number(self._next())
                self._expect(">")
                names += [f"{name}{i}" for i in range(count)]
            else:
                names.append(name)
            if not self._take(","):
                break
        self._expect(";")
        return Declaration(self._text(), kind, tuple(names))

    def _execution(self) -> Execution:
        guard, negated = "", False
        if self._take("@"):
            negated = self._take("!")
            guard = self._word("a predicate")
        opcode = self._word("an instruction")
        operands: list[Operand] = []
        if self._peek().text != ";":
            operands.append(self._operand())
            while self._take(","):
                operands.append(self._operand())
        self._expect(";")
        return Execution(self._text(), guard, negated, opcode, tuple(operands))

    def _operand(self) -> Operand:
        if not self._take("{"):
            return self._scalar()
        parts = [self._scalar()]
        while self._take(","):
            parts.append(self._scalar())
        self._expect("}")
        return tuple(parts)

    def _scalar(self) -> Scalar:
        if self._take("-"):
            return Number(-self._number(self._next()))
        token = self._next()
        if token.kind == "float":
            return Number(int(token.text[2:], 16), floating=True)
        if token.kind == "number":
            return Number(self._number(token))
        if token.kind not in ("word", "operand") or token.text.startswith("."):
            raise self._error(f"'{token.text}' is no operand")
        return Name(token.text)

    def _number(self, token: _Token) -> int:
        """A decimal, hexadecimal (0x), binary (0b) or octal (0...) number."""
        if token.kind != "number":
            raise self._error(f"'{token.text}' is no integer")
        digits = token.text.removesuffix("U").lower()
        if digits.startswith(("0x", "0b")):
            return int(digits, 0)
        if len(digits) > 1 and digits.startswith("0"):
            if not re.fullmatch("[0-7]+", digits):
                raise self._error(f"'{token.text}' is no octal number")
            return int(digits, 8)
        return int(digits)

    def _word(self, wanted: str) -> str:
        token = self._next()
        if token.kind not in ("word", "operand"):
            raise self._error(f"'{token.text}' stands where {wanted} is expected")
        return token.text

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        if token.kind == "end":
            raise self._error("the text ends before ';'")
        self._at += 1
        return token

    def _take(self, mark: str) -> bool:
        token = self._peek()
        found = token.kind == "mark" and token.text == mark
        self._at += found
        return found

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._error(f"'{mark}' is expected before '{self._peek().text or 'the end'}'")

    def _text(self) -> str:
        """The statement as far as it has been read, in one line."""
        end = self._tokens[max(self._at - 1, 0)].end
        return " ".join(self._asm[self._start : end].split())

    def _error(self, what: str) -> PtxError:
        return PtxError(f"{what}: '{self._text()}'")


def _tokens(asm: str) -> Iterator[_Token]:
    at = 0
    while at < len(asm):
        found = _TOKEN.match(asm, at)
        if found is None or found.lastgroup is None:
            line = asm[at:].splitlines()[0]
            raise PtxError(f"not PTX that can be emulated: '{line.strip()}'")
        kind, text = found.lastgroup, found.group()
        if kind == "operand":
            text = "$" + text.strip("${}")
        if kind == "word":
            text = text.replace("$$", "$")
        if kind != "skip":
            yield _Token(kind, text, at, found.end())
        at = found.end()
    yield _Token("end", "", len(asm), len(asm))
