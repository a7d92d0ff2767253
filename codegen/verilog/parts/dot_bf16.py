"""A baseline: the dot product of BF16 numbers, as long as a format's blocks.

Products are exact and aligned to the largest exponent in a window of 24 bits, and their sum is
exact, as units for BF16 dot products have it. It is not normalized and not rounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...design import Bounds, Design
from ...vectors.draws import Draws
from ..adders import Gates, bits_of, products, reduced
from ..bench import Bench, Row, vector_bench
from ..module import Module, Port
from .sum import levels
from .words import span

WORD, FIELD, FRACTION = 16, 8, 7
SIGNIFICAND, EXPONENT, PRODUCT, WINDOW = FRACTION + 1, FIELD + 1, 2 * (FRACTION + 1), 24
LARGEST_FIELD = (1 << FIELD) - 1

#: Exponent of a product's least significant bit where the sum of both fields is 0.
BIAS = 2 * (127 + FRACTION)

RANDOM_ROWS = 512


def multiply_bf16(design: Design) -> Module:
    """The exact product of two BF16 numbers, not normalized."""
    gates = Gates()
    left, right = bits_of("a", SIGNIFICAND), bits_of("b", SIGNIFICAND)
    columns = products(gates, left, right, PRODUCT, signed=False)
    bits = reduced(gates, columns)
    return Module(
        owner=design.weights.fmt,
        part="multiply_bf16",
        notes=(
            (
                "Product of two BF16 numbers, exact: the product of their significands by full and "
                "half adders, and the sum of their exponents."
            ),
            f"product = (-1)^sign_o * product_o * 2^(exponent_o - {BIAS}), where finite_o",
        ),
        ports=(
            Port("weight_i", WORD, "BF16: sign, exponent field, fraction"),
            Port("activation_i", WORD, "BF16"),
            Port("finite_o", 1, "0: a factor is an infinity or NaN"),
            Port("sign_o", 1, "1: the product is negative"),
            Port("exponent_o", EXPONENT, "sum of both exponent fields, where 0 counts as 1"),
            Port("product_o", PRODUCT, "product of both significands"),
        ),
        values={"gates": gates.statements, "product": bits},
    )


def dot_bf16(design: Design) -> Module:
    """As many products of BF16 numbers as a block has elements, and their aligned sum."""
    lanes, product = design.block, multiply_bf16(design)
    total = _total(lanes)
    tree = levels(lanes, WINDOW + 1, total.bits)
    return Module(
        owner=design.weights.fmt,
        part="dot_bf16",
        notes=(
            (
                f"Baseline: dot product of {lanes} pairs of BF16 numbers. Products are exact, "
                f"shifted right to the largest exponent of all within {WINDOW} bits, cut off "
                "there, and summed exactly. Not normalized, not rounded."
            ),
            f"sum = sum_o * 2^(exponent_o - {BIAS + WINDOW - PRODUCT})",
            f"Width: {lanes} terms of {WINDOW} bits and a sign: {total.bits} bits.",
        ),
        ports=(
            Port("weights_i", lanes * WORD, f"{lanes} BF16 numbers", lanes=True),
            Port("activations_i", lanes * WORD, f"{lanes} BF16 numbers", lanes=True),
            Port("sum_valid_o", 1, "0: a factor is an infinity or NaN"),
            Port("exponent_o", EXPONENT, "largest sum of exponent fields of all pairs"),
            Port("sum_o", total.bits, span(total), signed=True),
        ),
        values={
            "lanes": lanes,
            "multiply": product,
            "tree": tree,
            "adders": sorted({(level.bits, level.wide) for level in tree}),
            "total_bits": total.bits,
        },
        uses=(product,),
    )


def _total(lanes: int) -> Bounds:
    return Bounds(-lanes * ((1 << WINDOW) - 1), lanes * ((1 << WINDOW) - 1))


def dot_bf16_bench(design: Design) -> Bench:
    """Extreme and random numbers, with near and with far exponents."""
    rows = [_row(weights, activations) for weights, activations in _cases(design.block)]
    return vector_bench(dot_bf16(design), rows, "Extreme and random BF16 numbers.")


Words = list[int]


def _cases(lanes: int) -> Iterator[tuple[Words, Words]]:
    largest, least, one = 0x7F7F, 0x0001, 0x3F80
    for word in (largest, least, one, 0xFF7F, 0x8001, 0xBF80, 0, 0x7F80, 0x7FC0):
        yield [word] * lanes, [largest] * lanes
        yield [word] + [one] * (lanes - 1), [0xFF7F] * lanes
    draws = Draws(4)
    for _ in range(RANDOM_ROWS):
        near = draws.below(4)
        low, high = ((0, 255), (100, 154), (120, 136), (127, 128))[near]
        pairs = [[_word(draws, low, high) for _ in range(lanes)] for _ in range(2)]
        yield pairs[0], pairs[1]


def _word(draws: Draws, low: int, high: int) -> int:
    field = low + draws.below(high - low + 1)
    return draws.below(2) << 15 | field << FRACTION | draws.below(1 << FRACTION)


def _row(weights: Words, activations: Words) -> Row:
    parts = [_product(w, a) for w, a in zip(weights, activations, strict=True)]
    top = max(exponent for exponent, _ in parts)
    total = 0
    for exponent, product in parts:
        aligned = abs(product) << (WINDOW - PRODUCT) >> (top - exponent)
        total += aligned if product > 0 else -aligned
    fields = [word >> FRACTION & LARGEST_FIELD for word in (*weights, *activations)]
    return {
        "weights_i": _packed(weights),
        "activations_i": _packed(activations),
        "sum_valid_o": int(LARGEST_FIELD not in fields),
        "exponent_o": top,
        "sum_o": total,
    }


def _product(left: int, right: int) -> tuple[int, int]:
    """The sum of the exponents, and the product of the signed significands."""
    exponent, product = 0, 1
    for word in (left, right):
        field = word >> FRACTION & LARGEST_FIELD
        exponent += max(field, 1)
        product *= word & ((1 << FRACTION) - 1) | (field > 0) << FRACTION
        product *= -1 if word >> (WORD - 1) else 1
    return exponent, product


def _packed(words: Words) -> int:
    return sum(word << (lane * WORD) for lane, word in enumerate(words))
