"""Golden rows of the scaled accumulate: extremes, ties, cancellation, far exponents, random bits.

The results are those of ``compiler.block_product.scaled_accumulate``: exact numbers, rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from ...compiler.block_product import scale_values, scaled_accumulate
from ...compiler.exact import FP32_MAX, floor_log2, fp32_bits, round_fp32
from ...compiler.format import Format
from ..design import Bounds, Design
from .draws import Draws
from .words import decoder_words, scale_fields

#: fp32 accumulators at every edge: zeros, least and largest of either kind, one, no numbers.
EDGES = (
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000),
    *(0x3F800000, 0xBF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000),
    *(0x7FC00000, 0xFF800001, 0x7FFFFFFF),
)

#: Rows of a bench that are drawn; the edges come on top.
DRAWN = 1200

#: fp32 exponents that products are brought near to: all, and beyond both ends.
_LEAST, _MOST = -160, 132

_OFFSETS = range(-512, 512)


@dataclass(frozen=True, slots=True)
class ScaledRow:
    """One step: stored words, the sum (None: not valid), the offset, the accumulator's bits."""

    weight_word: int
    activation_word: int
    total: int | None
    offset: int
    accumulator: int


def scaled_rows(design: Design, drawn: int = DRAWN, salt: int = 0) -> Iterator[dict[str, int]]:
    """Rows of the ports of ``scale_apply``.

    Args:
        design: the blocks' design.
        drawn: how many rows are drawn, besides the edges.
        salt: another number, other draws.
    """
    for row in (*_edges(design), *_drawn(design, drawn, salt)):
        yield row_of(design, row)


def row_of(design: Design, row: ScaledRow) -> dict[str, int]:
    """The ports' values of a step, with its exact result."""
    fields = {
        f"{prefix}_{name}_i": value
        for prefix, side, word in (
            ("weight", design.weights, row.weight_word),
            ("activation", design.activations, row.activation_word),
        )
        for name, value in scale_fields(side.fmt, word).items()
        if name != "select"
    }
    result = scaled_accumulate(
        row.accumulator,
        row.total,
        _scale(design.weights.fmt, row.weight_word),
        _scale(design.activations.fmt, row.activation_word),
        design.unit + row.offset,
    )
    return fields | {
        "sum_valid_i": int(row.total is not None),
        "sum_i": row.total or 0,
        "exponent_offset_i": row.offset,
        "accumulator_i": row.accumulator,
        "result_o": result,
    }


def _scale(fmt: Format, word: int) -> float:
    return float(scale_values(fmt, np.array([word], np.uint32))[0])


def _edges(design: Design) -> Iterator[ScaledRow]:
    totals = (design.total.low, design.total.high, -1, 0, 1, None)
    words_of_both = [_edge_words(side.fmt) for side in (design.weights, design.activations)]
    pairs = zip(*words_of_both, strict=True)
    for i, ((weight, activation), total) in enumerate(product(pairs, totals)):
        for j in range(4):
            # All accumulators meet all sums and words in turn.
            yield ScaledRow(weight, activation, total, 0, EDGES[(4 * i + j) % len(EDGES)])
    weight, activation = (_one_like(side.fmt) for side in (design.weights, design.activations))
    for total, accumulator in product(totals, EDGES):
        yield ScaledRow(weight, activation, total, 0, accumulator)
    negative = min(zip(*words_of_both, strict=True), key=lambda pair: _both(design, pair))
    for offset, pair in product((_OFFSETS[0], _OFFSETS[-1]), ((weight, activation), negative)):
        for total, accumulator in product((-1, 1, design.total.high), (0x3F800000, 0x80000000, 0)):
            yield ScaledRow(pair[0], pair[1], total, offset, accumulator)


def _both(design: Design, words: tuple[int, ...]) -> float:
    """The product of a pair of scales; not finite: 0."""
    sides = design.weights, design.activations
    values = [_scale(side.fmt, word) for side, word in zip(sides, words, strict=True)]
    return values[0] * values[1] if np.isfinite(values).all() else 0.0


def _edge_words(fmt: Format) -> list[int]:
    """The first and last word, words that are zero, infinite or no number, and the extremes."""
    words = np.array(decoder_words(fmt), np.uint32)
    values = scale_values(fmt, words)
    finite = np.flatnonzero(np.isfinite(values) & (values != 0))
    extreme = values[finite]
    chosen = [0, len(words) - 1]
    chosen += [finite[i] for i in (extreme.argmin(), extreme.argmax(), np.abs(extreme).argmin())]
    for found in (np.isnan(values), np.isinf(values), values == 0):
        chosen += np.flatnonzero(found)[:: max(1, int(found.sum()) - 1)][:2].tolist()
    chosen += [finite[len(finite) // 2]] * (11 - len(chosen))
    return [int(words[place]) for place in chosen]


def _one_like(fmt: Format) -> int:
    """The word of the finite scale nearest to 1."""
    words = np.array(decoder_words(fmt), np.uint32)
    values = scale_values(fmt, words)
    sizes = np.abs(np.where(np.isfinite(values) & (values != 0), values, np.float32(2**-100)))
    return int(words[np.abs(np.log2(sizes)).argmin()])


def _drawn(design: Design, count: int, salt: int) -> Iterator[ScaledRow]:
    draws = Draws(57 + salt)
    words = [_finite_words(side.fmt) for side in (design.weights, design.activations)]
    bounds = design.total
    for i in range(count):
        chosen = [draws.of(of_side) for of_side in words]
        width = 1 + draws.below(bounds.bits)
        total = draws.below(1 << width) - (1 << (width - 1))
        total = min(max(total, bounds.low), bounds.high)
        scales = [
            Fraction(_scale(side.fmt, word))
            for side, word in zip((design.weights, design.activations), chosen, strict=True)
        ]
        if i % 7 == 6:
            total = _halfway(draws, total, scales[0] * scales[1], bounds)
        plain = total * scales[0] * scales[1] * Fraction(2) ** design.unit
        wanted = draws.below(_MOST - _LEAST) + _LEAST
        offset = wanted - floor_log2(abs(plain)) if plain else 0
        offset = min(max(offset, _OFFSETS[0]), _OFFSETS[-1])
        term = plain * Fraction(2) ** offset
        accumulator = _accumulator(draws, i % 7, term)
        yield ScaledRow(chosen[0], chosen[1], total, offset, accumulator)


def _halfway(draws: Draws, total: int, scale: Fraction, bounds: Bounds) -> int:
    """An odd sum that makes products of 25 significant bits, a tie; ``total`` if none is found."""
    numerator = abs(scale.numerator)
    odd = numerator // (numerator & -numerator) if numerator else 1 << 25
    least = -(-(1 << 24) // odd)
    most = min(((1 << 25) - 1) // odd, -bounds.low, bounds.high)
    if most <= least:
        return total
    chosen = least + draws.below(most - least) | 1
    return -chosen if total < 0 else chosen


def _accumulator(draws: Draws, kind: int, term: Fraction) -> int:
    """An accumulator that makes a product hard to add: 32 bits."""
    if kind in (0, 5) or not term:
        return draws.of(EDGES) if kind == 5 else draws.below(1 << 32)
    sign = draws.below(2) << 31
    near = fp32_bits(round_fp32(max(-FP32_MAX, min(FP32_MAX, term))))
    if kind == 1:  # cancels, but for some of the last bits
        return (near ^ 0x80000000) + draws.below(9) - 4 & 0xFFFFFFFF
    if kind == 2:  # the product's last bit is a half, or a half and a bit, of the accumulator's
        lowest = floor_log2(Fraction(term.numerator & -term.numerator, term.denominator))
        field = min(max(lowest + 151 - draws.below(2), 0), 254)
        return sign | field << 23 | draws.below(1 << 23)
    if kind == 3:  # a power of two, or the number below it, at any distance
        field = min(max(floor_log2(abs(term)) + 127 + draws.below(64) - 32, 1), 254)
        return sign | (field << 23) - draws.below(2)
    if kind == 4:  # few bits, at any distance: ties
        field = min(max(floor_log2(abs(term)) + 127 + draws.below(56) - 28, 0), 254)
        return sign | field << 23 | draws.below(4) << 21
    # Far below: it breaks a tie, or does nothing.
    field = max(floor_log2(abs(term)) + 127 - 28 - draws.below(64), 0)
    return sign | min(field, 254) << 23 | draws.below(1 << 23)


def _finite_words(fmt: Format) -> Sequence[int]:
    words = np.array(decoder_words(fmt), np.uint32)
    finite: list[int] = words[np.isfinite(scale_values(fmt, words))].tolist()
    return finite
