"""Sums of single bits: partial products and their reduction to one number, gate by gate.

A synthesizer's own ``*`` and ``+`` come with fast carry chains, which cost half as much again as
the adders that they are made of. What is generated here are full and half adders alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ZERO, ONE = "1'b0", "1'b1"


@dataclass
class Gates:
    """Statements that make new bits of given ones; constants are folded.

    Attributes:
        statements: names and what is assigned to them, in the order of the data.
    """

    statements: list[tuple[str, str]] = field(default_factory=list)

    def add(self, bits: Sequence[str]) -> tuple[str, str]:
        """The sum and the carry of up to three bits."""
        free, ones = _parted(bits)
        if len(free) == 3:
            half = self._new("half", f"{free[0]} ^ {free[1]}")
            carry = f"({free[0]} & {free[1]}) | ({half} & {free[2]})"
            return self._new("sum", f"{half} ^ {free[2]}"), self._new("carry", carry)
        total = self.total(bits)
        if len(free) == 2:
            return total, self._new("carry", f"{free[0]} {'|' if ones else '&'} {free[1]}")
        if free:
            return total, (ZERO, free[0], ONE)[ones]
        return total, ONE if ones > 1 else ZERO

    def total(self, bits: Sequence[str]) -> str:
        """The sum of bits without its carry."""
        free, ones = _parted(bits)
        while len(free) > 2:
            free = [self._new("half", f"{free[0]} ^ {free[1]}"), *free[2:]]
        odd = ones % 2
        if not free:
            return ONE if odd else ZERO
        if len(free) == 1:
            return self._new("sum", f"~{free[0]}") if odd else free[0]
        return self._new("sum", f"~({free[0]} ^ {free[1]})" if odd else f"{free[0]} ^ {free[1]}")

    def product(self, a: str, b: str, *, inverted: bool = False) -> str:
        """The product of two bits, or its complement."""
        return self._new("product", f"~({a} & {b})" if inverted else f"{a} & {b}")

    def _new(self, kind: str, expression: str) -> str:
        name = f"{kind}_{len(self.statements)}"
        self.statements.append((name, expression))
        return name


def reduced(gates: Gates, columns: Sequence[Sequence[str]]) -> list[str]:
    """The sum of columns of bits, modulo two to the number of columns, the lowest bit first.

    Dadda's reduction (Alta Frequenza 34, 1965) to two rows, with as few half adders as heights
    allow, and a carry chain.
    """
    if not columns:
        return []
    folded = _folded(columns)
    for height in _heights(max(map(len, folded), default=0)):
        folded = _lowered(gates, folded, height)
    result, carry = [], ZERO
    for column in folded[:-1]:
        bit, carry = gates.add([*column, carry])
        result.append(bit)
    return [*result, gates.total([*folded[-1], carry])]


def bits_of(name: str, bits: int) -> list[str]:
    """The bits of a signal, the lowest first."""
    return [f"{name}[{place}]" for place in range(bits)] if bits > 1 else [name]


def products(
    gates: Gates, left: Sequence[str], right: Sequence[str], width: int, *, signed: bool
) -> list[list[str]]:
    """Columns of the bits whose sum is a product of two numbers, modulo ``2^width``.

    In two's complement a product of which one factor is a sign bit counts negative; its
    complement and a constant stand for it (Baugh and Wooley, IEEE Transactions on Computers
    C-22, 1973).
    """
    columns: list[list[str]] = [[] for _ in range(width)]
    last = len(left) - 1, len(right) - 1
    for i, a in enumerate(left):
        for j, b in enumerate(right[: width - i] if i < width else ()):
            negative = signed and (i == last[0]) != (j == last[1])
            columns[i + j].append(gates.product(a, b, inverted=negative))
    for place in (*last, sum(last) + 1) if signed else ():
        if place < width:
            columns[place].append(ONE)
    return columns


def _parted(bits: Sequence[str]) -> tuple[list[str], int]:
    """What is not known, and how many ones are."""
    return [bit for bit in bits if bit not in (ZERO, ONE)], sum(bit == ONE for bit in bits)


def _folded(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Columns whose constants are one number: at most one of each column's bits."""
    every = [list(column) for column in columns]
    constant = sum(column.count(ONE) << place for place, column in enumerate(every))
    return [
        [bit for bit in column if bit not in (ZERO, ONE)] + [ONE] * (constant >> place & 1)
        for place, column in enumerate(every)
    ]


def _heights(highest: int) -> list[int]:
    """Dadda's heights below the highest column, descending to 2."""
    heights = [2]
    while heights[-1] * 3 // 2 < highest:
        heights.append(heights[-1] * 3 // 2)
    return heights[::-1] if highest > heights[0] else []


def _lowered(gates: Gates, columns: list[list[str]], height: int) -> list[list[str]]:
    """Columns of at most ``height`` bits, by as few adders as that takes."""
    lowered: list[list[str]] = []
    carries: list[str] = []
    for place, column in enumerate(columns):
        # Early bits come first, what this step makes last. No bit is carried out of the top.
        waiting, carries = [*column, *carries], []
        while (over := len(waiting) - height) > 0:
            taken = waiting[: 2 if over == 1 else 3]
            waiting = waiting[len(taken) :]
            if place == len(columns) - 1:
                waiting.append(gates.total(taken))
                continue
            bit, carry = gates.add(taken)
            waiting.append(bit)
            if carry != ZERO:
                carries.append(carry)
        lowered.append(waiting)
    return lowered
