"""Streams from rows: scales by what the largest elements reach, then ranks, errors and codes."""

from __future__ import annotations

import numpy as np

from .blocks import sum_in_order
from .decoding import blocks_at_once, scale_of, take_given
from .fields import pack, write_words
from .jit import jit, loop
from .ranking import rank_chunk
from .tables import (
    SCALE_SHIFT,
    Doubles,
    Elements,
    Floats,
    Grids,
    Ints,
    Longs,
    Number,
    Octets,
    Trials,
    Words,
)

_INFINITY = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF


@loop
def encode_given(
    x: Floats,
    scales: Floats,
    selects: Octets,
    zeros: Floats,
    elements: Elements,
    grids: Grids,
    codes: Octets,
) -> None:
    """Codes of rows [rows, n] under given scales [rows, blocks].

    ``selects`` and ``zeros`` are [rows, 0] where there are none.
    """
    rows, length = x.shape
    block = elements.block
    at_once = blocks_at_once(block)
    chunk = at_once * block
    y, ranks = np.empty(chunk, np.float32), np.empty(chunk, np.uint8)
    bits, keys = y.view(np.int32), np.empty((at_once, grids.keys.shape[1]), np.int32)
    which, mine = np.zeros(at_once, np.int64), np.empty(at_once, np.float32)
    zero = np.zeros(at_once, np.float32)
    for row in range(rows):
        for start in range(0, length, chunk):
            count = min(chunk, length - start)
            take_given(scales, selects, zeros, row, start, count, block, mine, which, zero)
            rank_chunk(
                x, row, start, count, elements, grids, which, mine, zero, y, bits, keys, ranks
            )
            _store_codes(ranks, count, elements, grids, which, codes[row], start)


@loop
def encode(
    x: Floats,
    elements: Elements,
    words: Words,
    grids: Grids,
    trials: Trials,
    codes: Octets,
    scales: Octets,
    selects: Octets,
) -> Number:
    """Streams of rows [rows, n]; how many blocks hold a NaN.

    ``scales`` and ``selects`` are zero on entry; ``selects`` is [rows, 0] where there is no such
    stream.
    """
    rows, length = x.shape
    block, ways = elements.block, len(trials.grids)
    at_once = blocks_at_once(block)
    chunk = at_once * block
    y, ranks = np.empty(chunk, np.float32), np.empty((2, chunk), np.uint8)
    bits, keys = y.view(np.int32), np.empty((at_once, grids.keys.shape[1]), np.int32)
    squares = np.empty(chunk if ways > 1 else 0, np.float64)
    errors, least = np.empty(at_once, np.float64), np.empty(at_once, np.float64)
    peaks, effective = np.empty((at_once, 2), np.int32), np.empty(at_once, np.float32)
    found, which = np.empty((2, at_once), np.int64), np.zeros(at_once, np.int64)
    grid_of = np.zeros(at_once, np.int64)
    all_broken = 0
    for row in range(rows):
        for start in range(0, length, chunk):
            count = min(chunk, length - start)
            blocks = (count + block - 1) // block
            broken = _peaks(x, row, start, count, block, words, peaks)
            all_broken += broken
            for way in range(ways):
                mine = min(way, 1)
                for b in range(blocks):
                    grid_of[b] = trials.grids[way]
                _choose(peaks, blocks, words, trials, way, found[mine], effective)
                rank_chunk(
                    x,
                    row,
                    start,
                    count,
                    elements,
                    grids,
                    grid_of,
                    effective,
                    effective,
                    y,
                    bits,
                    keys,
                    ranks[mine],
                )
                if broken:
                    _clear(peaks, count, block, grids.zero_ranks[trials.grids[way]], ranks[mine])
                if ways > 1:
                    _errors(
                        x,
                        row,
                        start,
                        count,
                        ranks[mine],
                        block,
                        grids,
                        grid_of,
                        effective,
                        squares,
                        errors,
                    )
                for b in range(blocks):
                    if way and not errors[b] < least[b]:
                        continue
                    least[b], which[b] = errors[b], grid_of[b]
                    if way:
                        found[0, b] = found[1, b]
                        for i in range(b * block, min(count, (b + 1) * block)):
                            ranks[0, i] = ranks[1, i]
            first = start // block
            write_words(found[0], blocks, words.container, scales, row, first)
            if words.select_bits:
                write_words(which, blocks, words.select_bits, selects, row, first)
            _store_codes(ranks[0], count, elements, grids, which, codes[row], start)
    return all_broken


@jit
def _store_codes(
    ranks: Octets,
    count: Number,
    elements: Elements,
    grids: Grids,
    which: Longs,
    codes: Octets,
    start: Number,
) -> None:
    """Ranks of a chunk to packed codes; ``ranks`` is used up."""
    several = len(grids.order) > 1
    first = (start >> 3) * elements.bits
    by_pairs = elements.bits == 4 and not (several and elements.block & 1)
    if elements.mapped and not by_pairs:
        _map(ranks, 0, count, elements.block if several else count, grids.order, which)
    if elements.bits == 8:
        for i in range(np.uintp(count)):
            codes[np.uintp(first) + i] = ranks[i]
        return
    pack(ranks, count, elements.bits, elements.high_first, codes, first)
    if elements.mapped and by_pairs:
        octets = (count + 1) >> 1
        run = elements.block >> 1 if several else octets
        _map(codes, first, octets, run, grids.pair_order, which)
        if count & 1:
            codes[first + octets - 1] &= 0xF0 if elements.high_first else 0x0F


@jit
def _map(
    octets: Octets, first: Number, count: Number, run: Number, tables: Octets, which: Longs
) -> None:
    """Replace ``count`` bytes by a table's entries: in runs, each by the table of its block."""
    step, at, end = np.uintp(run), np.uintp(first), np.uintp(first + count)
    b = np.uintp(0)
    while at < end:
        last, table = min(at + step, end), np.uintp(which[b])
        for i in range(at, last):
            octets[i] = tables[table, octets[i]]
        b, at = b + np.uintp(1), last


# -- scales ---------------------------------------------------------------------------------


@jit
def _peaks(
    x: Floats, row: Number, start: Number, count: Number, block: Number, words: Words, peaks: Ints
) -> Number:
    """Bits of the largest max(x, 0) and max(-x, 0) of a chunk's blocks; how many hold a NaN.

    They order like the numbers, NaN on top. Where the sides are not told apart the first is the
    largest magnitude, and the second the sign bit of the first element that has it.
    """
    line = x.view(np.int32)[row]
    step, at, end = np.uintp(block), np.uintp(start), np.uintp(start + count)
    b, broken = np.uintp(0), 0
    while at < end:
        last = min(at + step, end)
        if words.both_sides:
            above, below = np.int32(0), np.int32(0)
            for i in range(at, last):
                above = max(above, line[i])
                below = max(below, np.int32(line[i] ^ ~_MAGNITUDE))
            peaks[b, 0], peaks[b, 1] = above, below
            broken += int(max(above, below) > _INFINITY)
        else:
            peak = np.int32(0)
            for i in range(at, last):
                peak = max(peak, np.int32(line[i] & _MAGNITUDE))
            peaks[b, 0], peaks[b, 1] = peak, 0
            broken += int(peak > _INFINITY)
            if words.signed_rule:
                first = at
                while line[first] & _MAGNITUDE != peak:
                    first += np.uintp(1)
                peaks[b, 1] = np.int32(line[first] < 0)
        b, at = b + np.uintp(1), last
    return broken


@jit
def _choose(
    peaks: Ints,
    blocks: Number,
    words: Words,
    trials: Trials,
    way: Number,
    found: Longs,
    effective: Floats,
) -> None:
    """The scale words of a chunk's blocks by one way to encode, and what they decode to."""
    mirror = words.signed_rule != 0
    for b in range(np.uintp(blocks)):
        first, second = peaks[b, 0], peaks[b, 1]
        negative = mirror and first != 0 and second != trials.mirrors[way]
        magnitude: Number = words.nan_magnitude
        if max(first, second) > _INFINITY:
            negative = False
        elif words.is_fp32:
            magnitude = _fp32_magnitude(first, second, words, trials, way)
        else:
            rank = _rank(first, trials, way, 0)
            if words.both_sides:
                rank = max(rank, _rank(second, trials, way, 1))
            magnitude = trials.magnitudes[rank]
        scale = scale_of(magnitude, words, trials.multiplier)
        word = magnitude << words.lsb | trials.bits[way]
        if negative:
            word |= 1 << words.sign_bit
            scale = -scale
        found[b], effective[b] = word, scale


@jit
def _rank(bits: Number, trials: Trials, way: Number, side: Number) -> Number:
    """How many ascending thresholds a positive number lies above."""
    x = np.int32(bits).view(np.float32)
    rank = np.uintp(trials.starts[way, side, np.uintp(bits >> SCALE_SHIFT)])
    while x > trials.thresholds[way, side, rank]:
        rank += np.uintp(1)
    return rank


@jit
def _fp32_magnitude(
    first: Number, second: Number, words: Words, trials: Trials, way: Number
) -> Number:
    """Bits of the scale that a block asks for: one correctly rounded division, saturating."""
    above, divisor = np.int32(first).view(np.float32), trials.divisors[way, 1]
    if not words.both_sides:
        divisor = np.float32(0)  # the first is the larger of both sides
    below = np.int32(second).view(np.float32)
    if above == 0 and (below == 0 or divisor == 0):
        return np.int64(np.float32(trials.zero).view(np.int32))
    wanted = above / trials.divisors[way, 0]
    if divisor != 0:
        wanted = max(wanted, below / divisor)
    wanted = max(min(wanted, trials.largest[way]), np.float32(trials.least))
    return np.int64(np.float32(wanted).view(np.int32))


@jit
def _clear(peaks: Ints, count: Number, block: Number, zero_rank: Number, ranks: Octets) -> None:
    """Every element of a block that holds a NaN takes the rank of +0."""
    for low in range(0, count, block):
        b = low // block
        if max(peaks[b, 0], peaks[b, 1]) > _INFINITY:
            for i in range(low, min(count, low + block)):
                ranks[i] = zero_rank


@jit
def _errors(
    x: Floats,
    row: Number,
    start: Number,
    count: Number,
    ranks: Octets,
    block: Number,
    grids: Grids,
    which: Longs,
    scales: Floats,
    squares: Doubles,
    errors: Doubles,
) -> None:
    """The squared error of every block, summed in order in binary64."""
    line, values, grid = x[row], grids.values, np.uintp(which[0])
    step, at, end = np.uintp(block), np.uintp(start), np.uintp(count)
    b, low = np.uintp(0), np.uintp(0)
    while low < end:
        high, scale = min(low + step, end), scales[b]
        for i in range(low, high):
            error = np.float64(line[at + i]) - np.float64(values[grid, ranks[i]] * scale)
            squares[i] = error * error
        b, low = b + np.uintp(1), high
    sum_in_order(squares, count, block, errors)
