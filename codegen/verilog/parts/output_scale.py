"""The second level: an fp32 result times an fp32 scale, with one rounding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from ....compiler.block_product import scaled_accumulate
from ....compiler.exact import fp32_from_bits
from ...design import Design
from ...vectors.draws import Draws
from ...vectors.scaled import EDGES
from ..bench import Bench, Row, vector_bench
from ..module import Module, Port
from .scale_steps import RESULT

#: Rows of the bench that are drawn.
DRAWN = 1200

_NEGATIVE_ZERO = 0x80000000


def output_scale(design: Design) -> Module:
    """The multiplication by the tensors' fp32 scales."""
    return Module(
        owner=design.weights.fmt,
        part="output_scale",
        notes=(
            (
                "result_o = value_i * scale_i with one rounding: an fp32 multiplier of IEEE "
                "754-2019, subnormal numbers as they are."
            ),
            (
                "Widths: significands 24 bits, product 48; normalized to the left, then moved to "
                "the right by up to 31 places where the result is subnormal."
            ),
        ),
        ports=(
            Port("value_i", 32, "fp32, any bits"),
            Port("scale_i", 32, "fp32, any bits: the product of both tensors' scales"),
            RESULT,
        ),
    )


def output_scale_bench(design: Design) -> Bench:
    """Edges by edges, ties, subnormal results and random bits against exact products."""
    return vector_bench(
        output_scale(design),
        output_scale_rows(DRAWN),
        "Every edge by every edge; ties, subnormal and infinite results; random bits.",
    )


def output_scale_rows(drawn: int, salt: int = 0) -> Iterator[Row]:
    """Rows of the bench, ``drawn`` of them besides the edges."""
    for value, scale in product(EDGES, EDGES):
        yield _row(value, scale)
    draws = Draws(31 + salt)
    for i in range(drawn):
        value, scale = draws.below(1 << 32), draws.below(1 << 32)
        if i % 4 == 1:  # short significands make ties
            value, scale = value & 0xFFFFF800, scale & 0xFFFFF000
        if i % 4 >= 2:  # results about the least normal number, or about the largest
            middle = 127 if i % 4 == 2 else 127 + 254
            other = middle - (value >> 23 & 0xFF) + draws.below(32) - 28
            scale = scale & 0x807FFFFF | min(max(other, 0), 254) << 23
            if i % 8 >= 4:
                value, scale = value & 0xFFFF0000, scale & 0xFFFFFF00
        yield _row(value, scale)


def _row(value: int, scale: int) -> Row:
    numbers = fp32_from_bits(value), fp32_from_bits(scale)
    # Whatever is added to -0 keeps its sign.
    result = scaled_accumulate(_NEGATIVE_ZERO, 1, *numbers, 0)
    return {"value_i": value, "scale_i": scale, "result_o": result}
