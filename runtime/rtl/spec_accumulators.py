"""That a block's accumulator cannot overflow: induction over its steps, from the emitted text.

Invariant: after n products since a block's first one, n * low <= sum <= n * high, for the range
low..high of one product. The step is cut out of the tile's text as it was emitted; for every sum
that the invariant allows, every product in range and every n up to the block's length, the stored
sum is the exact one, and the invariant holds again. The first step needs no sum. That a block has
no more steps than elements is the tile's contract; that products are in range is the claim about
``multiply``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...codegen.design import Design
from ...codegen.verilog.module import Module
from .formal import Claim
from .specs import specification

_STEP = re.compile(r"wire \[SumBits-1:0\] sum = \(sum_q [^;]+;")
_BITS = re.compile(r"localparam SumBits = (\d+);")
_TERM = re.compile(r"wire signed \[(\d+):0\] term;")


def tile_claims(design: Design, module: Module) -> Iterator[Claim]:
    """A tile's accumulators hold a block's sum of the design's terms."""
    yield overflow_claim(design, module.name, module.text())


def overflow_claim(design: Design, name: str, text: str) -> Claim:
    """That the accumulator in a tile's text holds every sum of a block.

    Raises:
        ValueError: the text has not exactly one such accumulator.
    """
    found = [pattern.findall(text) for pattern in (_STEP, _BITS, _TERM)]
    if [len(matches) for matches in found] != [1, 1, 1]:
        raise ValueError(f"{name} has no accumulator of the known form")
    step, bits, term_bits = found[0][0], int(found[1][0]), int(found[2][0]) + 1
    low, high, block = design.term.low, design.term.high, design.block
    count_bits = block.bit_length()
    wide = max(bits, term_bits, design.total.bits) + count_bits + 2
    inputs = (("first_i", 1), ("count_i", count_bits), ("sum_i", bits), ("term_i", term_bits))
    outputs = (("exact_o", wide), ("again_o", 1))
    given = [
        f"localparam SumBits = {bits};",
        f"localparam signed [{wide - 1}:0] Low = {_signed(low, wide)};",
        f"localparam signed [{wide - 1}:0] High = {_signed(high, wide)};",
        f"wire signed [{bits - 1}:0] sum_q = sum_i;",
        f"wire signed [{term_bits - 1}:0] term = term_i;",
        f"wire signed [{wide - 1}:0] old = first_i ? {wide}'sd0 : sum_q;",
        f"wire signed [{wide - 1}:0] added = term;",
        # n: the products that are in the sum already.
        f"wire [{count_bits - 1}:0] n = first_i ? {count_bits}'d0 : count_i;",
        f"wire signed [{wide - 1}:0] least = {_multiple(low, count_bits, wide)};",
        f"wire signed [{wide - 1}:0] most = {_multiple(high, count_bits, wide)};",
        (
            "wire allowed = added >= Low && added <= High && old >= least && old <= most"
            f" && n < {block} && (first_i || n > 0);"
        ),
    ]
    made = [
        *given,
        step,
        f"wire signed [{wide - 1}:0] stored = {{{{{wide - bits}{{sum[SumBits-1]}}}}, sum}};",
        "assign exact_o = allowed ? stored : 0;",
        "assign again_o = !allowed || (stored >= least + Low && stored <= most + High);",
    ]
    meant = [*given, "assign exact_o = allowed ? old + added : 0;", "assign again_o = 1'b1;"]
    return Claim(
        subject=name,
        statement=(
            f"{bits}-bit accumulators hold {block} products of {low}..{high}: by induction, "
            "every step is exact"
        ),
        inputs=inputs,
        outputs=outputs,
        files={
            "made.v": specification(f"{name}_made", inputs, outputs, made),
            "meant.v": specification(f"{name}_meant", inputs, outputs, meant),
        },
        made=f"{name}_made",
        meant=f"{name}_meant",
    )


def _multiple(value: int, count_bits: int, wide: int) -> str:
    """N times a constant, as a sum over the bits of n."""
    terms = [f"(n[{i}] ? {_signed(value << i, wide)} : {wide}'sd0)" for i in range(count_bits)]
    return " + ".join(terms)


def _signed(value: int, bits: int) -> str:
    return f"-{bits}'sd{-value}" if value < 0 else f"{bits}'sd{value}"
