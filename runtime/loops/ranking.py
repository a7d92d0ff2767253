"""Ranks of elements under given scales: how many thresholds each of them lies above.

Binary32 numbers are compared by their *keys*, integers that order like them in the total order
(-0 below +0).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .jit import jit
from .tables import (
    EXACT,
    KEY_SHIFT,
    MINIMUM,
    POINT,
    RECIPROCAL,
    WIDTHS,
    Doubles,
    Elements,
    Floats,
    Grids,
    Ints,
    Longs,
    Number,
    Octets,
)

_MAGNITUDE = 0x7FFFFFFF
_NEGATIVE_STARTS = 1 << (31 - KEY_SHIFT)


@jit
def rank_chunk(
    x: Floats,
    row: Number,
    start: Number,
    count: Number,
    elements: Elements,
    grids: Grids,
    which: Longs,
    scales: Floats,
    zeros: Floats,
    y: Floats,
    bits: Ints,
    keys: Ints,
    ranks: Octets,
) -> None:
    """Ranks of ``count`` elements of a row from ``start`` on.

    ``start`` begins a block; ``which``, ``scales`` and ``zeros`` are those of the chunk's blocks:
    a scale of 0 counts as 1, and a negative one mirrors the grid. Scratch are ``y`` and ``bits``,
    the same memory as float32 and int32 [count], and ``keys`` [blocks, width + 1].
    """
    _load(x, row, start, count, elements, scales, zeros, y)
    if elements.compare == EXACT:
        if elements.width:
            _thresholds(count, elements, grids, which, scales, zeros, keys)
            _count(elements, bits, count, keys, which, ranks)
        else:
            _guess_exact(y, count, elements, grids, which, scales, zeros, ranks)
        return
    _divide(count, elements, scales, zeros, y)
    if elements.width:
        _count(elements, bits, count, grids.keys, which, ranks)
    else:
        _search_all(bits, count, elements.block, grids, which, ranks)


@jit
def key_of(bits: Number) -> Number:
    """An integer that orders like the binary32 number with these bits."""
    return np.int32(bits ^ ((bits >> 31) & _MAGNITUDE))


@jit
def _load(
    x: Floats,
    row: Number,
    start: Number,
    count: Number,
    elements: Elements,
    scales: Floats,
    zeros: Floats,
    y: Floats,
) -> None:
    """Elements past their minimum, mirrored where the scale is negative."""
    block, end = np.uintp(elements.block), np.uintp(count)
    line, at = x[row], np.uintp(start)
    b, low = np.uintp(0), np.uintp(0)
    while low < end:
        high = min(low + block, end)
        # Less +0 and times 1 every number stays what it is, -0 too.
        less = zeros[b] if elements.zero == MINIMUM else np.float32(0)
        sign = np.float32(-1) if np.signbit(scales[b]) else np.float32(1)
        for i in range(low, high):
            y[i] = (line[at + i] - less) * sign
        b, low = b + np.uintp(1), high


@jit
def _size(scale: Number) -> Number:
    """What a scale counts as."""
    return np.float32(1) if scale == 0 else np.float32(abs(scale))


@jit
def _thresholds(
    count: Number,
    elements: Elements,
    grids: Grids,
    which: Longs,
    scales: Floats,
    zeros: Floats,
    keys: Ints,
) -> None:
    """Keys of each block's thresholds: scale * (midpoint - point), rounded down to binary32.

    Where a threshold is inclusive it is the largest number below the product.
    """
    midpoints, inclusive, splits = grids.midpoints, grids.inclusive, grids.splits
    width = np.uintp(midpoints.shape[1])
    for b in range(np.uintp((count + elements.block - 1) // elements.block)):
        grid = np.uintp(which[b])
        scale = np.float64(_size(scales[b]))
        point = np.float64(zeros[b]) if elements.zero == POINT else 0.0
        for k in range(width):
            product = scale * (midpoints[grid, k] - point)
            nearest = np.float32(product)
            key = key_of(nearest.view(np.int32))
            too_high = (nearest > product) | ((nearest == product) & (inclusive[grid, k] != 0))
            below = -2 if key == 0 else key - 1  # -0 is no number below +0
            key = below if too_high else key
            keys[b, k] = np.int32(key if product == product else _MAGNITUDE)
        if splits[grid] >= 0:
            keys[b, np.uintp(splits[grid])] = -1


def _counting(width: int) -> Callable[[Elements, Ints, Number, Ints, Longs, Octets], None]:
    """The loop that counts how many of ``width`` thresholds each number lies above."""

    def count_below(
        elements: Elements, bits: Ints, count: Number, keys: Ints, which: Longs, ranks: Octets
    ) -> None:
        block, end = np.uintp(elements.block), np.uintp(count)
        own = elements.compare == EXACT
        b, low = np.uintp(0), np.uintp(0)
        while low < end:
            high = min(low + block, end)
            table = b if own else np.uintp(which[b])
            for i in range(low, high):
                one = bits[i]
                key = np.int32(one ^ ((one >> 31) & _MAGNITUDE))
                rank = 0
                for k in range(width):
                    rank += key > keys[table, np.uintp(k)]
                ranks[i] = np.uint8(rank)
            b, low = b + np.uintp(1), high

    return jit(count_below)


_count_15, _count_31, _count_63 = (_counting(width) for width in WIDTHS)


@jit
def _count(
    elements: Elements, bits: Ints, count: Number, keys: Ints, which: Longs, ranks: Octets
) -> None:
    """Count by each block's own table of ``keys``, or by that of its grid for quotients."""
    if elements.width == 15:
        _count_15(elements, bits, count, keys, which, ranks)
    elif elements.width == 31:
        _count_31(elements, bits, count, keys, which, ranks)
    else:
        _count_63(elements, bits, count, keys, which, ranks)


@jit
def _divide(count: Number, elements: Elements, scales: Floats, zeros: Floats, y: Floats) -> None:
    """Elements in units of the scale and past the point, each step rounded to binary32."""
    block, end = np.uintp(elements.block), np.uintp(count)
    b, low = np.uintp(0), np.uintp(0)
    while low < end:
        high = min(low + block, end)
        scale = _size(scales[b])
        if elements.compare == RECIPROCAL:
            inverse = np.float32(1) / max(scale, np.float32(elements.floor))
            for i in range(low, high):
                y[i] = y[i] * inverse
        else:
            for i in range(low, high):
                y[i] = y[i] / scale
        if elements.adds_after:
            for i in range(low, high):
                y[i] = np.rint(y[i])
        if elements.zero == POINT:
            point = zeros[b]
            for i in range(low, high):
                y[i] = y[i] + point
        b, low = b + np.uintp(1), high


@jit
def _search(key: Number, grid: Number, keys: Ints, starts: Octets) -> Number:
    """How many of a grid's ascending thresholds a number lies above."""
    rank = np.int64(starts[grid, np.uintp((key >> KEY_SHIFT) + _NEGATIVE_STARTS)])
    rank += key > keys[grid, np.uintp(rank)]  # no branch: it would be guessed wrong half the time
    while key > keys[grid, np.uintp(rank)]:
        rank += 1
    return rank


@jit
def _search_all(
    bits: Ints, count: Number, block: Number, grids: Grids, which: Longs, ranks: Octets
) -> None:
    """Ranks by search among many thresholds."""
    keys, starts = grids.keys, grids.starts
    step, end = np.uintp(block), np.uintp(count)
    b, low = np.uintp(0), np.uintp(0)
    while low < end:
        high = min(low + step, end)
        grid = np.uintp(which[b])
        for i in range(low, high):
            key = key_of(bits[i])
            ranks[i] = np.uint8(_search(key, grid, keys, starts))
        b, low = b + np.uintp(1), high


@jit
def _guess_exact(
    y: Floats,
    count: Number,
    elements: Elements,
    grids: Grids,
    which: Longs,
    scales: Floats,
    zeros: Floats,
    ranks: Octets,
) -> None:
    """Ranks among many thresholds: guessed by a quotient, moved to where exact products say."""
    keys, starts, midpoints, inclusive = grids.keys, grids.starts, grids.midpoints, grids.inclusive
    block, end = np.uintp(elements.block), np.uintp(count)
    b, low = np.uintp(0), np.uintp(0)
    while low < end:
        high = min(low + block, end)
        grid = np.uintp(which[b])
        split, last = grids.splits[grid], grids.counts[grid]
        size = _size(scales[b])
        scale = np.float64(size)
        point = zeros[b] if elements.zero == POINT else np.float32(0)
        shift = np.float64(point)
        for i in range(low, high):
            x = np.float64(y[i])
            key = key_of(np.float32(y[i] / size + point).view(np.int32))
            rank = _search(key, grid, keys, starts)
            # Without a point the rounded quotient and midpoint are each off by one step at most.
            sure = elements.zero != POINT and keys[grid, np.uintp(rank)] - key > 2
            if sure and (rank == 0 or key - keys[grid, np.uintp(rank - 1)] > 2):
                ranks[i] = np.uint8(rank)
                continue
            while rank < last and _above(x, rank, grid, midpoints, inclusive, split, scale, shift):
                rank += 1
            while rank > 0 and not _above(
                x, rank - 1, grid, midpoints, inclusive, split, scale, shift
            ):
                rank -= 1
            ranks[i] = np.uint8(rank)
        b, low = b + np.uintp(1), high


@jit
def _above(
    x: Number,
    rank: Number,
    grid: Number,
    midpoints: Doubles,
    inclusive: Octets,
    split: Number,
    scale: Number,
    shift: Number,
) -> Number:
    """Whether x lies above a threshold, by the product in binary64."""
    k = np.uintp(rank)
    product = scale * (midpoints[grid, k] - shift)
    if rank == split:
        return x > 0 or (x == 0 and not np.signbit(x))
    return x > product or (x == product and inclusive[grid, k] != 0)
