"""The hardware's product of two quantized tensors, to the last bit: the arbiter of its RTL.

SOP (arXiv:2605.14929): the sum of a block needs no scale, and every block is one scaled
accumulate. So y[m, r] begins as +0, and for every block in order

    y = RNE32(y + S * 2^unit * s_w * s_a * 2^-(k_w + k_a))

with S the block's exact integer sum, s_w and s_a the stored scale words and k_w, k_a the shifts of
both tensors: one fused multiply-add of IEEE 754, subnormal results kept. Where a tensor has an fp32
second level t, y = RNE32(y * RNE32(t_w * t_a)) follows.

Sides of the weights come last. The element at an outlier's place counts as 0 in S, and then for
each outlier of the row, in ascending order, y = RNE32(y + v * t_a * a * s_a * 2^-k_a) with v its
stored value and a the activation's element; then for each residual r, y = RNE32(y + r *
RNE32(t_wr * t_a) * a * s_a * 2^-k_a): each exact before its one rounding.

A code or a scale that is no number makes y NaN, and every NaN is 7fc00000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blockwork import NUMPY
from .datapath.operands import operand_of
from .elements import U8
from .exact import fp32_bits, fp32_from_bits, round_fp32
from .format import Format, Side
from .packing import unpack
from .reference import TensorLevel, select_of
from .sides import Sparse, from_streams
from .stored import from_word
from .streams import RECORDS
from .thresholds import F32
from .view import view_of

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]

#: int64, or Python integers where a block's sum may be longer.
Integers = NDArray[Any]

#: The one NaN that a product gives.
NAN_BITS = 0x7FC00000

#: binary64 holds integers of so many bits.
_EXACT_BITS = 53


class NoBlockProduct(ValueError):
    """Two tensors have no product block by block; the message says why."""


@dataclass(frozen=True, slots=True)
class BlockWords:
    """A tensor as the hardware reads it, with ``blocks`` blocks of ``block`` elements a row.

    Attributes:
        integers: [rows, blocks, block], elements in units of ``2^unit``; 0 past a row's end.
        valid: bool [rows, blocks]: every code of the block is a number.
        scales: float32 [rows, blocks], the stored words exactly; NaN for one that is no number.
        unit: exponent of the integers' least significant bit.
    """

    integers: Integers
    valid: Bool
    scales: F32
    unit: int


def check_format(fmt: Format, *, with_sides: bool = False) -> None:
    """Raise unless the blocks of a format are runs of one row, each under one scale word.

    Args:
        fmt: the format.
        with_sides: whether side streams may stand beside the codes.

    Raises:
        NoBlockProduct: they are not.
    """
    for lacks, why in (
        (fmt.extent != "block" or fmt.tile > 1, "its scales are not of runs of one row"),
        (fmt.scale.stored is not None, "its scales are stored in a format of their own"),
        (fmt.scale.tensor == "rows", "every row has a second level"),
        (fmt.zero is not None, "it has zero points or minima"),
        (bool(fmt.sides) and not with_sides, "values stand beside the codes of the activations"),
    ):
        if lacks:
            raise NoBlockProduct(f"no block product of '{fmt.name}': {why}")


def check_formats(weights: Format, activations: Format) -> None:
    """Raise unless the two formats multiply block by block.

    Raises:
        NoBlockProduct: they do not.
    """
    check_format(weights, with_sides=True)
    check_format(activations)
    if weights.block != activations.block:
        raise NoBlockProduct(
            f"no block product of '{weights.name}' and '{activations.name}': their blocks have "
            f"{weights.block} and {activations.block} elements, and a sum takes one scale of each"
        )


def block_product(
    weights: Format,
    w_streams: dict[str, U8],
    w_level: TensorLevel,
    activations: Format,
    a_streams: dict[str, U8],
    a_level: TensorLevel,
    length: int,
) -> F32:
    """Packed weights times packed activations as the hardware multiplies them.

    Args:
        weights: the format of the weights, which may have sides.
        w_streams: their streams, as ``pipeline.encode`` makes them, of ``rows`` rows.
        w_level: their second level.
        activations: the format of the activations, with blocks of the same length.
        a_streams: their streams, of ``m`` rows.
        a_level: their second level.
        length: elements of a row of either.

    Returns:
        float32 [m, rows].

    Raises:
        NoBlockProduct: the formats do not multiply block by block.
        ValueError: side streams are damaged.
    """
    check_formats(weights, activations)
    sparse = [(side, _sparse(side, w_streams, w_streams, length)) for side in weights.sides]
    outliers = next((found for side, found in sparse if side.kind == "opq"), None)
    left = block_words(weights, w_streams, length, outliers)
    right = block_words(activations, a_streams, length)
    exponent = left.unit + right.unit - w_level.shift - a_level.shift
    y = np.zeros((len(right.scales), len(left.scales)), np.float32)
    for block in range(left.scales.shape[1]):
        valid = right.valid[:, block, None] & left.valid[None, :, block]
        scales = right.scales[:, block, None].astype(np.float64) * left.scales[None, :, block]
        y = accumulate(y, _one_sum(left, right, block), valid, scales, exponent)
    if "fp32" in (weights.scale.tensor, activations.scale.tensor):
        y = output_scale(y, _level(weights, w_level), _level(activations, a_level))
    for side, found in sparse:
        level = _level(activations, a_level)
        y = _add_side(y, side, found, right, level, right.unit - a_level.shift, length)
    return y


def block_words(
    fmt: Format, streams: dict[str, U8], length: int, outliers: Sparse | None = None
) -> BlockWords:
    """The integers and scales of packed rows.

    Args:
        fmt: the format.
        streams: its streams.
        length: elements of a row.
        outliers: elements at their places count as 0.
    """
    if fmt.record is not None:
        streams = NUMPY.from_records(fmt, streams[RECORDS], length)
    blocks = -(-length // fmt.block)
    fields = {
        s.name: unpack(streams[s.name], length if s.per == "element" else blocks, s)
        for s in fmt.streams
    }
    words = fields["scales"]
    selects = fields["select"] if "select" in fields else select_of(view_of(fmt), words)
    integers, numbers = _tables(fmt)  # [select, code]
    of_block = np.arange(length) // fmt.block
    place = selects[:, of_block], fields["codes"]
    padding = ((0, 0), (0, blocks * fmt.block - length))
    elements = np.pad(integers[place], padding)
    valid = np.pad(numbers[place], padding, constant_values=True)
    if outliers is not None:
        where = np.divmod(outliers.index, max(1, length))
        elements[where], valid[where] = 0, True
    shape = (len(words), blocks, fmt.block)
    return BlockWords(
        elements.reshape(shape),
        np.all(valid.reshape(shape), axis=2),
        scale_values(fmt, words),
        operand_of(fmt).unit,
    )


def scale_values(fmt: Format, words: NDArray[np.uint32]) -> F32:
    """The scales that stored words mean, exactly; NaN for one that is no finite number.

    Of binary32 words infinities are infinities.
    """
    values = from_word(fmt.scale.word, words)
    # A sign bit that says which grid the block has is no sign.
    return np.abs(values) if fmt.select.place == "scale.sign" else values


def block_sums(weights: BlockWords, activations: BlockWords) -> Integers:
    """The exact sums of all blocks: integers [blocks, m, rows] of 2^(sum of both units)."""
    blocks = range(weights.scales.shape[1])
    sums = [_one_sum(weights, activations, block) for block in blocks]
    shape = (0, len(activations.scales), len(weights.scales))
    return np.stack(sums) if sums else np.zeros(shape, np.int64)


def scaled_accumulate(
    accumulator: int, total: int | None, weight_scale: float, activation_scale: float, exponent: int
) -> int:
    """One step in exact numbers, the definition: RNE32(y + S * s_w * s_a * 2^exponent).

    Args:
        accumulator: the 32 bits of y.
        total: the integer S; None: a code of the block is no number.
        weight_scale: s_w; NaN: no number.
        activation_scale: s_a, likewise.
        exponent: of the sum's least significant bit, shifts of the tensors counted in.

    Returns:
        32 bits, rounded once as by a fused multiply-add of IEEE 754-2019; a NaN is 7fc00000.
    """
    y = fp32_from_bits(accumulator)
    scales = weight_scale, activation_scale
    if total is None or math.isnan(y) or any(math.isnan(s) for s in scales):
        return NAN_BITS
    negative = (total < 0) ^ (math.copysign(1, scales[0]) != math.copysign(1, scales[1]))
    if any(math.isinf(s) for s in scales):
        if total == 0 or 0 in scales or (math.isinf(y) and (y < 0) != negative):
            return NAN_BITS
        return fp32_bits(-math.inf if negative else math.inf)
    if math.isinf(y):
        return accumulator
    term = total * Fraction(scales[0]) * Fraction(scales[1]) * Fraction(2) ** exponent
    exact = Fraction(y) + term
    if exact == 0:
        both = term == 0 and negative and accumulator >> 31
        return 0x80000000 if both else 0
    return _rounded(exact)


def accumulate(y: F32, sums: Integers, valid: Bool, scales: F64, exponent: int) -> F32:
    """``scaled_accumulate`` of arrays, equal to it bit for bit.

    Args:
        y: float32, the accumulators.
        sums: integers of the same shape.
        valid: bool, likewise: every code of the block is a number.
        scales: float64, likewise: the products of both scales, exact.
        exponent: of the sums' least significant bit.
    """
    long = abs(sums) >= 1 << _EXACT_BITS
    return _fused(y, sums.astype(np.float64), np.ldexp(scales, exponent), valid, sums, long)


def output_scale(y: F32, weight_level: np.float32, activation_level: np.float32) -> F32:
    """RNE32(y * RNE32(t_w * t_a)): the second levels of both tensors."""
    with np.errstate(all="ignore"):
        return _one_nan(y * (weight_level * activation_level))


@lru_cache(maxsize=64)
def _tables(fmt: Format) -> tuple[Integers, Bool]:
    """Integer and validity by select index and code; an index without a grid has no number."""
    operand = operand_of(fmt)
    shape = (1 << fmt.select.bits, 1 << fmt.code_bits)
    largest = max(abs(operand.value.low), abs(operand.value.high))
    integers = np.zeros(shape, object if largest >> 62 else np.int64)
    numbers = np.zeros(shape, np.bool_)
    for select, words in enumerate(operand.words):
        for code, word in enumerate(words):
            if word is not None:
                integers[select, code], numbers[select, code] = word.value, True
    integers.flags.writeable = numbers.flags.writeable = False
    return integers, numbers


def _one_sum(weights: BlockWords, activations: BlockWords, block: int) -> Integers:
    """The exact sums of one block: integers [m, rows], by binary64 where that is exact."""
    left, right = activations.integers[:, block], weights.integers[:, block]
    reach = int(abs(left).max(initial=0)) * int(abs(right).max(initial=0)) * left.shape[1]
    kind: Any = object
    if reach < 1 << _EXACT_BITS:
        kind = np.float64
    elif reach < 1 << 63:
        kind = np.int64
    total: Integers = left.astype(kind) @ right.astype(kind).T
    return total.astype(np.int64) if kind is np.float64 else total


def _level(fmt: Format, level: TensorLevel) -> np.float32:
    """The tensor's fp32 second level; 1 where it has none."""
    return np.float32(level.tensor_scale if fmt.scale.tensor == "fp32" else 1)


def _sparse(side: Side, streams: dict[str, U8], dense: dict[str, U8], length: int) -> Sparse:
    rows = len(dense[RECORDS if RECORDS in dense else "codes"])
    return from_streams(side, streams, rows * length)


def _add_side(
    y: F32,
    side: Side,
    sparse: Sparse,
    activations: BlockWords,
    level: np.float32,
    exponent: int,
    length: int,
) -> F32:
    """Add value * activation, entry after entry of a row; rows are independent of each other."""
    rows, columns = np.divmod(sparse.index, max(1, length))
    factor = level
    if side.kind == "wr":
        with np.errstate(all="ignore"):
            factor = np.float32(sparse.scale) * level
    values = from_word(side.value, sparse.words).astype(np.float64) * float(factor)
    block = activations.integers.shape[2]
    elements = activations.integers.reshape(len(activations.scales), -1)
    turn = np.arange(len(rows)) - np.searchsorted(rows, rows)
    y = y.copy()
    for now in range(int(turn.max(initial=-1)) + 1):
        entries = np.flatnonzero(turn == now)
        row, column = rows[entries], columns[entries]
        # Grids and scales are binary32 numbers: both products are exact.
        element = elements[:, column].astype(np.float64)
        scaled = element * activations.scales[:, column // block]
        stored = np.broadcast_to(np.ldexp(values[entries], exponent), scaled.shape)
        y[:, row] = _fused(y[:, row], scaled, stored, activations.valid[:, column // block])
    return y


def _fused(
    y: F32,
    left: F64,
    right: F64,
    valid: Bool,
    whole: Integers | None = None,
    long: Bool | bool = False,
) -> F32:
    """RNE32(y + left * right), NaN where it is not valid.

    Where ``long``, binary64 does not hold the left factor: it is ``whole``, and rationals decide,
    one by one.
    """
    with np.errstate(all="ignore"):
        found = np.where(valid, _fma(left, right, y.astype(np.float64)), np.float32(np.nan))
    finite = np.isfinite(left) & np.isfinite(right) & np.isfinite(y)
    for place in zip(*np.nonzero(long & valid & finite), strict=True):
        factor = Fraction(float(left[place]) if whole is None else int(whole[place]))
        exact = Fraction(float(y[place])) + factor * Fraction(float(right[place]))
        found[place] = fp32_from_bits(_rounded(exact))
    return _one_nan(found)


def _fma(left: F64, right: F64, y: F64) -> F32:
    """RNE32(y + left * right) of binary64 numbers whose products are far from its ends.

    The product is a sum of two numbers (Dekker, 1971) and y a third; what adding them in pairs
    leaves over (Knuth's two-sum) says in which direction the sum is rounded to odd, which a second
    rounding to 24 bits or less cannot tell from the exact sum (Boldo and Melquiond, 2008).
    """
    product, below = _two_product(left, right)
    total, rest = _two_sum(y, product)
    rest, last = _two_sum(rest, below)
    total, rest = _two_sum(total, rest)
    rest = rest + last
    bits = total.view(np.int64)
    even = (rest != 0) & np.isfinite(rest) & (bits & 1 == 0)
    odd = np.where(even, bits + np.where((rest > 0) == (total > 0), 1, -1), bits)
    # Zeros and numbers that are not finite go their own way: nothing is left over.
    plain = (product == 0) | ~np.isfinite(product) | ~np.isfinite(y)
    return np.where(plain, y + product, odd.view(np.float64)).astype(np.float32)


def _two_sum(a: F64, b: F64) -> tuple[F64, F64]:
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _two_product(a: F64, b: F64) -> tuple[F64, F64]:
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, a_low * b_low - (
        ((product - a_high * b_high) - a_low * b_high) - a_high * b_low
    )


def _halves(a: F64) -> tuple[F64, F64]:
    """Two numbers of at most 26 bits each that make up ``a``."""
    large = a * ((1 << 27) + 1.0)
    high = large - (large - a)
    return high, a - high


def _rounded(exact: Fraction) -> int:
    """The bits of RNE32, a number that rounds to zero keeping its sign."""
    return fp32_bits(round_fp32(abs(exact))) | (exact < 0) << 31


def _one_nan(y: F32) -> F32:
    found = np.asarray(y, np.float32)
    bits = np.where(np.isnan(found), np.uint32(NAN_BITS), found.view(np.uint32))
    return bits.view(np.float32)
