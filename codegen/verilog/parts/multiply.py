"""One lane: the product of two coefficients, shifted by the sum of both shifts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as pairs
from typing import Any

from ...design import Bounds, Design, Operand
from ...vectors.draws import Draws
from ..adders import Gates, bits_of, products, reduced
from ..bench import Bench, Row, vector_bench
from ..module import Module, Port
from .words import span

#: Operands of so many bits together are tried in all combinations.
EXHAUSTIVE_BITS = 16
RANDOM_ROWS = 4096


def multiply(design: Design) -> Module:
    """The exact product of an element and an activation, in units of 2^unit."""
    left, right = design.weights.operand, design.activations.operand
    product, term = design.product.bits, design.term.bits
    gates = Gates()
    columns = products(
        gates,
        bits_of("a", left.coefficient_bits),
        bits_of("b", right.coefficient_bits),
        product,
        signed=True,
    )
    bits = reduced(gates, columns)
    return Module(
        owner=design.weights.fmt,
        part="multiply",
        notes=(
            (
                "Product of one element and one activation, exact: partial products of two's "
                "complement, reduced by full and half adders, then one logarithmic shifter."
            ),
            f"term_o = (coefficient_i * activation_coefficient_i) << {_shift_words(design)}",
            (
                f"Widths: {left.coefficient_bits} x {right.coefficient_bits} bits, product "
                f"{product} bits ({span(design.product)}), shifts "
                f"0..{design.max_shift}, term {term} bits ({span(design.term)})."
            ),
        ),
        ports=(
            *_operand_ports(left, "", "of the element"),
            *_operand_ports(right, "activation_", "of the activation"),
            Port("term_o", term, f"{span(design.term)}, LSB weight 2^{design.unit}", signed=True),
        ),
        values={
            "widths": (left.coefficient_bits, right.coefficient_bits),
            "gates": gates.statements,
            "product": bits,
            **_shift(design),
            "levels": _levels(design),
        },
    )


def _operand_ports(operand: Operand, prefix: str, whose: str) -> Iterator[Port]:
    yield Port(
        f"{prefix}coefficient_i",
        operand.coefficient_bits,
        f"coefficient {whose}, {span(operand.coefficients)}",
        signed=True,
    )
    if operand.shift_bits:
        yield Port(f"{prefix}shift_i", operand.shift_bits, f"shift {whose}, 0..{operand.max_shift}")


def _shifts(design: Design) -> list[tuple[str, Operand]]:
    sides = (("shift_i", design.weights), ("activation_shift_i", design.activations))
    return [(name, side.operand) for name, side in sides if side.operand.shift_bits]


def _shift_words(design: Design) -> str:
    names = [name for name, _ in _shifts(design)]
    return f"({' + '.join(names)})" if len(names) > 1 else next(iter(names), "0")


def _shift(design: Design) -> dict[str, Any]:
    """The sum of both shifts, or the only one."""
    shifts, gates = _shifts(design), Gates()
    columns: list[list[str]] = [[] for _ in range(design.shift_bits)]
    for name, (_, operand) in zip("ab", shifts, strict=False):
        for place, bit in enumerate(bits_of(name, operand.shift_bits)):
            columns[place].append(bit)
    bits = reduced(gates, columns)
    return {
        "shifts": [name for name, _ in shifts],
        "shift_widths": tuple(operand.shift_bits for _, operand in shifts),
        "shift_gates": gates.statements,
        "shift_sum": bits,
    }


def _levels(design: Design) -> list[tuple[int, int, int]]:
    """The shifter's levels: what each shifts by, the bits that it takes and that it gives."""
    levels, bits = [], design.product.bits
    widest = min(design.term.bits, bits + design.max_shift)
    for level in range(design.shift_bits):
        wide = min(bits + (1 << level), widest)
        levels.append((1 << level, bits, wide))
        bits = wide
    return levels


def multiply_bench(design: Design) -> Bench:
    """All operands where they are few, else extremes and random ones."""
    module = multiply(design)
    left, right = design.weights.operand, design.activations.operand
    fields = [_field(left), _field(right)]
    width = sum(o.coefficient_bits + o.shift_bits for o in (left, right))
    if width <= EXHAUSTIVE_BITS:
        note = "All operands whose product is in range."
        words = list(pairs(*(list(_every(*field)) for field in fields)))
    else:
        note = "Extremes and random operands."
        words = list(_sampled(fields))
    rows = [_row(module, *pair) for pair in words if _fits(design.product, design.term, *pair)]
    return vector_bench(module, rows, note)


#: A coefficient and a shift.
Word = tuple[int, int]


def _field(operand: Operand) -> tuple[Bounds, int]:
    return operand.coefficients, operand.max_shift


def _every(coefficients: Bounds, max_shift: int) -> Iterator[Word]:
    return pairs(range(coefficients.low, coefficients.high + 1), range(max_shift + 1))


def _sampled(fields: list[tuple[Bounds, int]]) -> Iterator[tuple[Word, Word]]:
    ends = [
        list(pairs((c.low, c.low + 1, -1, 0, 1, c.high), range(last + 1))) for c, last in fields
    ]
    yield from pairs(*ends)
    draws = Draws(2)
    for _ in range(RANDOM_ROWS):
        (a, s), (b, t) = (
            (c.low + draws.below(c.high - c.low + 1), draws.below(last + 1)) for c, last in fields
        )
        yield (a, s), (b, t)


def _fits(product: Bounds, term: Bounds, left: Word, right: Word) -> bool:
    """Whether the widths hold the exact product: operands that the formats have not may not."""
    exact = left[0] * right[0]
    return all(
        -(1 << (bounds.bits - 1)) <= value < 1 << (bounds.bits - 1)
        for bounds, value in ((product, exact), (term, exact << (left[1] + right[1])))
    )


def _row(module: Module, left: Word, right: Word) -> Row:
    row = {
        "coefficient_i": left[0],
        "shift_i": left[1],
        "activation_coefficient_i": right[0],
        "activation_shift_i": right[1],
        "term_o": (left[0] * right[0]) << (left[1] + right[1]),
    }
    names = {port.name for port in module.ports}
    return {name: value for name, value in row.items() if name in names}
