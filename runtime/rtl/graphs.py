"""And-inverter graphs of truth tables, written by themselves: what a small module should be.

Yosys takes most of a minute over a case statement of 4096 lines; a table split bit by bit, with
equal parts shared, is a graph in milliseconds. The file format is binary AIGER 1.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

#: Tables have at most so many input bits.
TABLE_BITS = 14

FALSE, TRUE = 0, 1


class Meant(Protocol):
    """What a module should be: a graph, and by other means an answer to any input."""

    def graph(self) -> bytes:
        """A binary AIGER file with names."""
        ...

    def answer(self, given: Mapping[str, int], /) -> Mapping[str, int]:
        """A value for every output."""
        ...


@dataclass(frozen=True)
class Case:
    """Inputs that have given values, and what a module should be under them."""

    fixed: Mapping[str, int]
    meant: Meant


@dataclass(frozen=True)
class Table:
    """What a combinational module answers to every input.

    Attributes:
        inputs, outputs: (port, bits).
        look_up: from a value for every input to a value for every output; negative values are
            two's complement.
    """

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    look_up: Callable[[Mapping[str, int]], Mapping[str, int]]

    def answer(self, given: Mapping[str, int], /) -> Mapping[str, int]:
        """A value for every output."""
        return self.look_up(given)

    def graph(self) -> bytes:
        """The table as a binary AIGER file.

        Raises:
            ValueError: it has more than TABLE_BITS input bits.
        """
        return _graph(self)


class Ands:
    """And gates by their operands; literals are 2 * variable + negated, 0 and 1 the constants.

    The variables 1 to ``len(names)`` are the inputs.
    """

    def __init__(self, ports: Sequence[tuple[str, int]]) -> None:
        self.names = [bit for port in ports for bit in bit_names(*port)]
        self.gates: dict[tuple[int, int], int] = {}
        self.parts: dict[tuple[int, int], int] = {}

    def port(self, name: str, bits: int) -> list[int]:
        """The literals of an input, its lowest bit first."""
        first = self.names.index(bit_names(name, bits)[0])
        return [2 * (first + i + 1) for i in range(bits)]

    def both(self, a: int, b: int) -> int:
        """A and b."""
        a, b = max(a, b), min(a, b)
        if b == FALSE or a == b ^ 1:
            return FALSE
        if b in {TRUE, a}:
            return a
        found = self.gates.get((a, b))
        if found is None:
            found = 2 * (len(self.names) + len(self.gates) + 1)
            self.gates[a, b] = found
        return found

    def either(self, a: int, b: int) -> int:
        """A or b."""
        return self.both(a ^ 1, b ^ 1) ^ 1

    def differ(self, a: int, b: int) -> int:
        """A exclusive-or b."""
        return self.choose(a, b ^ 1, b)

    def every(self, literals: Iterable[int]) -> int:
        """Whether all are 1."""
        found = TRUE
        for literal in literals:
            found = self.both(found, literal)
        return found

    def some(self, literals: Iterable[int]) -> int:
        """Whether one is 1."""
        return self.every(literal ^ 1 for literal in literals) ^ 1

    def add(self, a: Sequence[int], b: Sequence[int], carry: int = FALSE) -> list[int]:
        """The sum of two words of one length, modulo their length: a ripple of full adders."""
        total = []
        for x, y in zip(a, b, strict=True):
            half = self.differ(x, y)
            total.append(self.differ(half, carry))
            carry = self.either(self.both(x, y), self.both(half, carry))
        return total

    def multiply(self, a: Sequence[int], b: Sequence[int], bits: int) -> list[int]:
        """The product of two signed words, modulo ``bits`` bits: rows of additions."""
        total = [FALSE] * bits
        wide = [*a, *[a[-1]] * (bits - len(a))]
        for place, bit in enumerate(b):
            row = [FALSE] * place + [self.both(x, bit) for x in wide[: bits - place]]
            # The highest bit of two's complement counts -2^place.
            minus = TRUE if place == len(b) - 1 else FALSE
            total = self.add(total, [self.differ(x, minus) for x in row], minus)
        return total

    def within(self, word: Sequence[int], low: int, high: int) -> int:
        """Whether a signed word is from ``low`` to ``high``."""
        bits = 2 + max(len(word), low.bit_length(), high.bit_length())
        wide = [*word, *[word[-1]] * (bits - len(word))]
        above = self.add(wide, [TRUE if -low >> i & 1 else FALSE for i in range(bits)])
        below = self.add([bit ^ 1 for bit in wide], [high + 1 >> i & 1 for i in range(bits)])
        return self.both(above[-1] ^ 1, below[-1] ^ 1)

    def shifted(self, word: Sequence[int], shift: Sequence[int]) -> list[int]:
        """A signed word to the left by an unsigned one, as wide as it takes."""
        width = len(word) + (1 << len(shift)) - 1 if shift else len(word)
        found = [*word, *[word[-1]] * (width - len(word))]
        for place, bit in enumerate(shift):
            found = self.pick(bit, ([FALSE] * (1 << place) + found)[:width], found)
        return found

    def turned(self, a: Sequence[int], minus: int) -> list[int]:
        """A, or -a where ``minus``."""
        return self.add([self.differ(x, minus) for x in a], [FALSE] * len(a), minus)

    def pick(self, which: int, one: Sequence[int], zero: Sequence[int]) -> list[int]:
        """One of two words of one length."""
        return [self.choose(which, x, y) for x, y in zip(one, zero, strict=True)]

    def choose(self, which: int, one: int, zero: int) -> int:
        """One of two bits."""
        if one == zero:
            return one
        return self.both(self.both(which, one) ^ 1, self.both(which ^ 1, zero) ^ 1) ^ 1

    def file(self, outputs: Mapping[str, Sequence[int]]) -> bytes:
        """A binary AIGER file; ``outputs``: by port, the literals, the lowest bit first."""
        named = {
            name: literal
            for port, word in outputs.items()
            for name, literal in zip(bit_names(port, len(word)), word, strict=True)
        }
        return _aiger(self, named)

    def column(self, bits: int, depth: int) -> int:
        """The function whose value at input i is bit i; input bit 0 changes fastest."""
        if bits == 0:
            return FALSE
        if bits == (1 << (1 << depth)) - 1:
            return TRUE
        found = self.parts.get((bits, depth))
        if found is None:
            half = 1 << (depth - 1)
            low, high = bits & ((1 << half) - 1), bits >> half
            found = self.choose(
                2 * depth, self.column(high, depth - 1), self.column(low, depth - 1)
            )
            self.parts[bits, depth] = found
        return found


def _graph(table: Table) -> bytes:
    depth = sum(bits for _, bits in table.inputs)
    if depth > TABLE_BITS:
        raise ValueError(f"a table of {depth} input bits; the most is {TABLE_BITS}")
    columns = {port: [0] * bits for port, bits in table.outputs}
    spans = [range(1 << bits) for _, bits in reversed(table.inputs)]
    order = [name for name, _ in reversed(table.inputs)]
    for place, values in enumerate(product(*spans)):
        answer = table.answer(dict(zip(order, values, strict=True)))
        for port, bits in table.outputs:
            for i in range(bits):
                columns[port][i] |= (answer[port] >> i & 1) << place
    ands = Ands(table.inputs)
    return ands.file({p: [ands.column(c, depth) for c in found] for p, found in columns.items()})


def cofactor(graph: bytes, fixed: Mapping[str, int]) -> bytes:
    """A graph whose input bits ``fixed``, by name, are constants, and no inputs any more.

    Raises:
        ValueError: the file is no AIGER file without registers, or has no names.
    """
    head, rest = graph.split(b"\n", 1)
    kind, _, inputs, latches, outputs, gates = head.split()
    if kind != b"aig" or int(latches):
        raise ValueError("no combinational AIGER file")
    *lines, rest = rest.split(b"\n", int(outputs))
    reader = iter(enumerate(rest))
    pairs = []
    for gate in range(int(gates)):
        first = 2 * (int(inputs) + gate + 1) - _number(reader)
        pairs.append((first, first - _number(reader)))
    symbols = rest[next(reader, (len(rest), 0))[0] :].split(b"\n")
    named = {}
    for line in symbols:
        if line == b"c":
            break
        if line:
            label, name = line.decode().split(" ", 1)
            named[label] = name
    if len(named) != int(inputs) + int(outputs):
        raise ValueError("inputs or outputs without names")
    ands = Ands(())
    literals = [FALSE]
    for i in range(int(inputs)):
        name = named[f"i{i}"]
        if name in fixed:
            literals.append(fixed[name])
        else:
            ands.names.append(name)
            literals.append(2 * len(ands.names))
    for a, b in pairs:
        literals.append(ands.both(literals[a >> 1] ^ a & 1, literals[b >> 1] ^ b & 1))
    found = [literals[int(line) >> 1] ^ int(line) & 1 for line in lines]
    return _aiger(ands, {named[f"o{i}"]: literal for i, literal in enumerate(found)})


def bit_names(port: str, bits: int) -> list[str]:
    """The names of a port's bits in a graph, the lowest first."""
    return [port] if bits == 1 else [f"{port}[{i}]" for i in range(bits)]


def _number(reader: Iterator[tuple[int, int]]) -> int:
    value = shift = 0
    for _, octet in reader:
        value |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return value
    raise ValueError("the file ends within its gates")


def _aiger(ands: Ands, outputs: Mapping[str, int]) -> bytes:
    count, inputs = len(ands.gates), ands.names
    head = f"aig {len(inputs) + count} {len(inputs)} 0 {len(outputs)} {count}\n"
    head += "".join(f"{literal}\n" for literal in outputs.values())
    body = bytearray()
    for (a, b), gate in ands.gates.items():
        body += _delta(gate - a) + _delta(a - b)
    names = [f"i{i} {name}\n" for i, name in enumerate(inputs)]
    names += [f"o{i} {name}\n" for i, name in enumerate(outputs)]
    return head.encode() + bytes(body) + "".join(names).encode()


def _delta(value: int) -> bytes:
    """An unsigned number, seven bits a byte, the low ones first."""
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
