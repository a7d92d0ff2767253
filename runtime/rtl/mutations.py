"""Single-point mutations of generated Verilog: where text can be wrong, and how.

A mutation changes one place of a module's body: a bit of a table or of a constant, a width, a
bit's index, a sign extension, an operator, an inversion, a connection. Which ones are taken is
decided by hashes: the same on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_OPERATORS = {
    "+": "-",
    "-": "+",
    "*": "+",
    "&": "|",
    "|": "&",
    "^": "|",
    "<<": ">>",
    ">>": "<<",
    "<<<": ">>>",
    ">>>": "<<<",
    "==": "!=",
    "!=": "==",
    "<": ">=",
    ">": "<=",
    ">=": "<",
    "<=": ">",
    "&&": "||",
    "||": "&&",
}

_LITERAL = re.compile(r"\b(\d+)'([bdh])([0-9a-f]+)\b")
_BINARY = re.compile(r"(?<= )(<<<|>>>|<<|>>|==|!=|<=|>=|&&|\|\||[-+*&|^<>])(?= )")
_LEADING = re.compile(r"^( *)([-+*&|^]|&&|\|\|)(?= )")
_UNARY = re.compile(r"(?<=[ (])([&|])(?=[a-z_(])")
_INVERTED = re.compile(r"[~!](?=[a-z_(&|])")
_CHOICE = re.compile(r"= ([^=?;]+) \?")
_SIGN = re.compile(r"\{(\d+)\{(\w+\[[^\[\]]+\]|\w+)\}\}")
_BIT = re.compile(r"(?<=\w)\[(\d+)\]")
_PART = re.compile(r"(?<=\w)\[(\d+):(\d+)\]")
_PLACE = re.compile(r"(?<=\w)\[([\w*]+) \+: ")
_WIDTH = re.compile(r"^( *(?:wire|reg)(?: signed)?) \[(\d+):0\]")
_PIN = re.compile(r"^ *\.(\w+)\((.+)\),?$")
_RESET = re.compile(r"!rst_ni")
_CONDITION = re.compile(r"\bif \((.+)\) begin$")
_NONBLOCKING = re.compile(r"^ *[\w\[\]*+: ]+? <= ")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one module.

    Attributes:
        module: whose text is changed.
        kind: what sort of change.
        line: its line number, from 1.
        old, new: the line before and after, without its indentation.
    """

    module: str
    kind: str
    line: int
    old: str
    new: str

    def of(self, text: str) -> str:
        """The module's text with the change.

        Raises:
            ValueError: the line is not the one that was changed.
        """
        lines = text.split("\n")
        before = lines[self.line - 1]
        if before.strip() != self.old:
            raise ValueError(f"line {self.line} of {self.module} is not '{self.old}'")
        lines[self.line - 1] = before[: len(before) - len(before.lstrip())] + self.new
        return "\n".join(lines)

    def shown(self) -> str:
        """The change in a line."""
        return f"{self.module}:{self.line} {self.kind}: {self.old} -> {self.new}"


def mutations_of(module: str, text: str) -> list[Mutation]:
    """Every mutation of a module's body, in the order of their places."""
    found: list[Mutation] = []
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("module "))
    body = next(i for i in range(start, len(lines)) if lines[i] == ");")
    for number in range(body + 1, len(lines)):
        code = lines[number].split("//")[0].rstrip()
        # A loop's head is left alone: it may never end.
        if not code.strip() or "for (" in code:
            continue
        following = lines[number + 1].split("//")[0].rstrip() if number + 1 < len(lines) else ""
        for kind, changed in _changes(code, following, f"{module}:{number}"):
            if changed != code:
                old, new = lines[number].strip(), changed.strip()
                found.append(Mutation(module, kind, number + 1, old, new))
    unique = {(m.line, m.new): m for m in found}
    return list(unique.values())


def choose(mutations: list[Mutation], count: int) -> list[Mutation]:
    """So many of them: of each kind in turn, by hash."""
    kinds: dict[str, list[Mutation]] = {}
    for mutation in sorted(mutations, key=_hash_of):
        kinds.setdefault(mutation.kind, []).append(mutation)
    chosen: list[Mutation] = []
    for turn in range(max(map(len, kinds.values()), default=0)):
        chosen += [kinds[kind][turn] for kind in sorted(kinds) if turn < len(kinds[kind])]
    return chosen[:count]


def _hash_of(mutation: Mutation) -> str:
    text = f"{mutation.kind} {mutation.old} {mutation.new} {mutation.line}"
    return hashlib.sha256(text.encode()).hexdigest()


def _changes(code: str, following: str, place: str) -> Iterator[tuple[str, str]]:
    """The changed lines that a line of code can become, with their kinds."""
    kind = "table bit" if re.search(r": word =| \{1'b1, ", code) else "constant"
    for match in _LITERAL.finditer(code):
        yield kind, _put(code, match, _flipped(match, place))
    for pattern in (_BINARY, _LEADING):
        group = pattern.groups
        for match in pattern.finditer(code):
            if not _is_assignment(code, match.start(group)):
                yield "operator", _put(code, match, _OPERATORS[match[group]], group)
    simple: list[tuple[str, re.Pattern[str], Callable[[re.Match[str]], str]]] = [
        ("reduction", _UNARY, lambda m: "|" if m[1] == "&" else "&"),
        ("inversion", _INVERTED, lambda m: m[0][1:]),
        ("choice", _CHOICE, lambda m: f"= !({m[1]}) ?"),
        ("sign", _SIGN, lambda m: f"{{{m[1]}{{1'b0}}}}"),
        ("index", _BIT, lambda m: f"[{int(m[1]) - 1 if int(m[1]) else 1}]"),
        ("index", _PLACE, lambda m: f"[{m[1]}+1 +: "),
        ("reset", _RESET, lambda m: f"1'b{int(not m[0])}"),
        ("condition", _CONDITION, lambda m: f"if (!({m[1]})) begin"),
        ("width", _WIDTH, lambda m: f"{m[1]} [{max(0, int(m[2]) - 1)}:0]"),
    ]
    for name, pattern, change in simple:
        for match in pattern.finditer(code):
            if not (name == "condition" and "rst_ni" in code):
                yield name, _put(code, match, change(match))
    if not _WIDTH.match(code):
        for match in _PART.finditer(code):
            low = int(match[2])
            step = -1 if low else 1
            yield "index", _put(code, match, f"[{int(match[1]) + step}:{low + step}]")
    pin, other = _PIN.match(code), _PIN.match(following)
    if pin and pin[1].endswith("_i") and pin[1] not in ("clk_i", "rst_ni"):
        yield "connection", _put(code, pin, "1'b0" if not other else other[2], 2)


def _put(code: str, match: re.Match[str], text: str, group: int = 0) -> str:
    return code[: match.start(group)] + text + code[match.end(group) :]


def _flipped(match: re.Match[str], place: str) -> str:
    """The literal with one bit the other way, which by hash."""
    bits, base = int(match[1]), match[2]
    value = int(match[3], {"b": 2, "d": 10, "h": 16}[base])
    draw = int(hashlib.sha256(f"{place}:{match.start()}".encode()).hexdigest()[:8], 16)
    value ^= 1 << draw % bits
    return f"{bits}'{base}{value:{ {'b': 'b', 'd': 'd', 'h': 'x'}[base] }}"


def _is_assignment(code: str, start: int) -> bool:
    """Whether an operator is the arrow of a nonblocking assignment."""
    arrow = _NONBLOCKING.match(code)
    return arrow is not None and arrow.end() - 3 == start
