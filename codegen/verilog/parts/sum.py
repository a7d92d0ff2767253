"""The sum of a block's terms: a tree of adders that grow by a bit a level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...design import Bounds, Design
from ...vectors.draws import Draws
from ..bench import Bench, vector_bench
from ..module import Module, Port
from .words import span

#: A longer block is summed in groups of at least this many terms: simulators take a time that
#: grows with the square of a vector's length.
GROUP_LANES = 32

#: Random rows, and all rows' terms together.
RANDOM_ROWS, ROW_TERMS = 256, 100_000


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a tree: ``terms`` numbers of ``bits`` bits, added in pairs to ``wide`` bits."""

    terms: int
    bits: int
    wide: int

    @property
    def sums(self) -> int:
        """What the level gives: one number for each pair, and one that has no partner."""
        return (self.terms + 1) // 2


def levels(terms: int, bits: int, widest: int) -> list[Level]:
    """The levels of a tree whose sum needs ``widest`` bits."""
    tree = []
    while terms > 1:
        tree.append(Level(terms, bits, min(bits + 1, widest)))
        terms, bits = tree[-1].sums, tree[-1].wide
    return tree


def group_lanes(block: int) -> int:
    """About the square root of the block, a power of two; short blocks are one group."""
    return max(GROUP_LANES, 1 << ((block - 1).bit_length() + 1) // 2)


def block_sum(design: Design) -> Module:
    """The exact sum of a block's terms."""
    block, bits, total = design.block, design.term.bits, design.total.bits
    lanes = group_lanes(block)
    groups = -(-block // lanes)
    inner = levels(min(lanes, block), bits, total)
    outer = levels(groups, inner[-1].wide if inner else bits, total)
    return Module(
        owner=design.weights.fmt,
        part="sum",
        notes=(
            f"Sum of a block's {block} terms, exact: a tree of adders with carry chains.",
            (
                f"Width: {block} terms of {design.term.low}..{design.term.high} sum to "
                f"{block} * {design.term.low} = {design.total.low} .. "
                f"{block} * {design.term.high} = {design.total.high}: {total} bits."
            ),
        ),
        ports=(
            Port(
                "terms_i",
                block * bits,
                f"{block} terms of {bits} bits, two's complement, each {span(design.term)}, "
                f"LSB weight 2^{design.unit}, lane 0 in the low bits",
                lanes=True,
            ),
            Port("sum_o", total, f"{span(design.total)}, LSB weight 2^{design.unit}", signed=True),
        ),
        values={
            "block": block,
            "lanes": lanes,
            "groups": groups,
            "inner": inner,
            "outer": outer if groups > 1 else [],
            "term_bits": bits,
            "total_bits": total,
            "adders": sorted({(level.bits, level.wide) for level in (*inner, *outer)}),
        },
    )


def sum_bench(design: Design) -> Bench:
    """The extremes, every lane alone, and random terms."""
    module, bounds = block_sum(design), design.term
    rows = [{"terms_i": _packed(terms, bounds), "sum_o": sum(terms)} for terms in _cases(design)]
    return vector_bench(module, rows, "Extremes, single lanes and random terms.")


def _cases(design: Design) -> Iterator[list[int]]:
    block, low, high = design.block, design.term.low, design.term.high
    for a, b in ((high, high), (low, low), (high, low), (low, high), (-1, -1), (0, -1), (1, -1)):
        yield [b if lane % 2 else a for lane in range(block)]
    step = max(1, block // 64)
    for lane in sorted({*range(0, block, step), block - 1}):
        for value in (low, high, 1, -1):
            yield [value if other == lane else 0 for other in range(block)]
    draws = Draws(3)
    for _ in range(max(16, min(RANDOM_ROWS, ROW_TERMS // block))):
        yield [low + draws.below(high - low + 1) for _ in range(block)]


def _packed(terms: list[int], bounds: Bounds) -> int:
    mask = (1 << bounds.bits) - 1
    text = "".join(f"{term & mask:0{bounds.bits}b}" for term in reversed(terms))
    return int(text, 2)
