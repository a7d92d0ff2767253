"""What loops are called with: a format's tables and numbers."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Octets = NDArray[np.uint8]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

#: A scalar: Python's where a loop is called from, a machine number in a loop.
Number: TypeAlias = Any

#: How elements are compared: see ``policies.compare``.
EXACT, QUOTIENT, RECIPROCAL = range(3)

#: What a block's zero is.
NO_ZERO, POINT, MINIMUM = range(3)

#: So many thresholds of a grid are compared one after the other; more are searched among.
WIDTHS = (15, 31, 63)

#: Bits of a key, and of a positive binary32 number, below those that say where a search begins.
KEY_SHIFT, SCALE_SHIFT = 16, 19


class Elements(NamedTuple):
    """How elements are coded, as plain numbers.

    Attributes:
        block, bits: elements of a block, bits of a code.
        high_first: 1 where codes are packed from each byte's top bit.
        width: one of ``WIDTHS``, or 0 where thresholds are searched.
        compare: ``EXACT``, ``QUOTIENT`` or ``RECIPROCAL``.
        zero: ``NO_ZERO``, ``POINT`` or ``MINIMUM``.
        adds_after: 1 where a quotient is rounded before the zero point is added.
        mapped: 1 where a rank is not its own code.
        floor: the least scale that is inverted.
    """

    block: int
    bits: int
    high_first: int
    width: int
    compare: int
    zero: int
    adds_after: int
    mapped: int
    floor: float


class Grids(NamedTuple):
    """Tables of all grids [grids, ...], padded to the same length.

    Attributes:
        midpoints: float64 [grids, width + 1], +inf past the last one.
        inclusive: uint8, whether an element on the threshold takes the upper rank.
        keys: int32 [grids, width + 1], keys of the thresholds of a quotient, the largest integer
            past the last one; under ``EXACT`` those of the midpoints, to guess a rank by.
        starts: uint8 [grids, 2^16]: rank of the least key with these high bits, for a search.
        splits: int64 [grids], the index of the threshold between -0 and +0; -1 for none.
        counts: int64 [grids], thresholds.
        order: uint8 [grids, codes], rank -> code.
        pair_order: uint8 [grids, 256], the same for two ranks in a byte, where codes have 4 bits.
        values: float32 [grids, codes], rank -> value.
        zero_ranks: uint8 [grids], the rank of +0.
    """

    midpoints: Doubles
    inclusive: Octets
    keys: Ints
    starts: Octets
    splits: Longs
    counts: Longs
    order: Octets
    pair_order: Octets
    values: Floats
    zero_ranks: Octets


class Words(NamedTuple):
    """Where a scale word and a select index stand.

    Attributes:
        container: bits of a word.
        lsb, magnitude_bits: its magnitude.
        sign_bit: the sign's position; -1 for none.
        is_fp32: 1 where the magnitude is a binary32 number.
        signed_rule: 1 where the largest element decides the sign.
        both_sides: 1 where the largest positive and negative element are told apart.
        nan_magnitude: of a block that holds a NaN; 0 where there is none.
        select_bits: bits of an index in a stream of its own, else 0.
        positions: int64, the index's places in a word, the most significant bit first.
        values: float32 [magnitudes], their values.
    """

    container: int
    lsb: int
    magnitude_bits: int
    sign_bit: int
    is_fp32: int
    signed_rule: int
    both_sides: int
    nan_magnitude: int
    select_bits: int
    positions: Longs
    values: Floats


class Trials(NamedTuple):
    """Tables of the ways to encode a block [trials, ...], in their order, for one tensor.

    Attributes:
        grids: int64 [trials], the grid.
        thresholds: float32 [trials, 2, ranks], of the largest positive and negative element,
            +inf past the last one.
        starts: int16 [trials, 2, 2^12]: how many thresholds lie below the least number with
            these high bits.
        divisors: float32 [trials, 2], of the same two elements.
        largest: float32 [trials], where a binary32 scale saturates.
        mirrors: uint8 [trials], the sign of a largest element that keeps the scale positive.
        bits: int64 [trials], the word's bits that say the grid.
        magnitudes: int64 [ranks], rank -> magnitude.
        least, zero: the least scale, and that of an all-zero block, where they are binary32.
        multiplier: the tensor's second level.
    """

    grids: Longs
    thresholds: Floats
    starts: NDArray[np.int16]
    divisors: Floats
    largest: Floats
    mirrors: Octets
    bits: Longs
    magnitudes: Longs
    least: float
    zero: float
    multiplier: float
