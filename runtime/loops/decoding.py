"""Rows from their codes: grid values by table, then each block under its scale and zero."""

from __future__ import annotations

import numpy as np

from .fields import read_words, unpack
from .jit import jit, loop
from .tables import MINIMUM, POINT, Elements, Floats, Longs, Number, Octets, Words

#: Elements of a chunk, about.
_CHUNK = 1024


@jit
def blocks_at_once(block: Number) -> Number:
    """Blocks of a chunk: a multiple of eight, so that its fields end on a whole byte."""
    return max(1, _CHUNK // (8 * block)) * 8


@jit
def scale_of(magnitude: Number, words: Words, multiplier: Number) -> Number:
    """The effective scale without its sign: one rounding."""
    if words.is_fp32:
        return np.float32(np.uint32(magnitude).view(np.float32) * np.float32(multiplier))
    return np.float32(words.values[np.uintp(magnitude)] * np.float32(multiplier))


@loop
def decode(
    codes: Octets,
    scales: Octets,
    selects: Octets,
    elements: Elements,
    words: Words,
    multiplier: Number,
    lut: Floats,
    pairs: Longs,
    out: Floats,
) -> None:
    """Rows [rows, n] from their streams.

    ``selects`` is [rows, 0] where there is no such stream; ``lut`` float32 [indices, codes], the
    values of every select index; ``pairs`` int64 [indices, 256], two of them by byte where codes
    have 4 bits.
    """
    rows, length = out.shape
    block = elements.block
    at_once = blocks_at_once(block)
    chunk = at_once * block
    fields, values = np.empty(chunk, np.uint8), np.empty(chunk, np.float32)
    read, index = np.empty(at_once, np.int64), np.zeros(at_once, np.int64)
    effective, which = np.empty(at_once, np.float32), np.empty(at_once, np.int64)
    mask = (1 << words.magnitude_bits) - 1
    for row in range(rows):
        for start in range(0, length, chunk):
            count = min(chunk, length - start)
            first, blocks = start // block, (count + block - 1) // block
            read_words(scales, row, first, blocks, words.container, read)
            if words.select_bits:
                read_words(selects, row, first, blocks, words.select_bits, index)
            for b in range(np.uintp(blocks)):
                word = read[b]
                scale = scale_of((word >> words.lsb) & mask, words, multiplier)
                if words.sign_bit >= 0 and (word >> words.sign_bit) & 1 == 1:
                    scale = -scale
                effective[b] = scale
                select = index[b]
                for position in words.positions:
                    select = select << 1 | ((word >> position) & 1)
                which[b] = select
            _look_up(codes, row, start, count, elements, lut, pairs, which, fields, values)
            _scale_blocks(values, count, elements, effective, effective, out, row, start)


@loop
def decode_given(
    codes: Octets,
    scales: Floats,
    selects: Octets,
    zeros: Floats,
    elements: Elements,
    lut: Floats,
    pairs: Longs,
    out: Floats,
) -> None:
    """Rows [rows, n] from their codes under given scales [rows, blocks].

    ``selects`` and ``zeros`` are [rows, 0] where there are none; ``lut`` and ``pairs``, as in
    ``decode``, then hold one table.
    """
    rows, length = out.shape
    block = elements.block
    at_once = blocks_at_once(block)
    chunk = at_once * block
    fields, values = np.empty(chunk, np.uint8), np.empty(chunk, np.float32)
    which, mine = np.zeros(at_once, np.int64), np.empty(at_once, np.float32)
    zero = np.zeros(at_once, np.float32)
    for row in range(rows):
        for start in range(0, length, chunk):
            count = min(chunk, length - start)
            take_given(scales, selects, zeros, row, start, count, block, mine, which, zero)
            _look_up(codes, row, start, count, elements, lut, pairs, which, fields, values)
            _scale_blocks(values, count, elements, mine, zero, out, row, start)


@jit
def take_given(
    scales: Floats,
    selects: Octets,
    zeros: Floats,
    row: Number,
    start: Number,
    count: Number,
    block: Number,
    scale: Floats,
    which: Longs,
    zero: Floats,
) -> None:
    """What is given for the blocks of a chunk; what there is none of stays as it is."""
    first = start // block
    for b in range((count + block - 1) // block):
        scale[b] = scales[row, first + b]
        if selects.shape[1]:
            which[b] = selects[row, first + b]
        if zeros.shape[1]:
            zero[b] = zeros[row, first + b]


@jit
def _look_up(
    codes: Octets,
    row: Number,
    start: Number,
    count: Number,
    elements: Elements,
    lut: Floats,
    pairs: Longs,
    which: Longs,
    fields: Octets,
    values: Floats,
) -> None:
    """Grid values of ``count`` elements of a row from ``start`` on; ``fields`` is scratch."""
    octets = codes[row]
    tables = len(lut)
    first = (start >> 3) * elements.bits
    # With one table for all, the chunk is one run.
    run = elements.block if tables > 1 else count
    if elements.bits == 4 and (tables == 1 or run % 2 == 0):
        two = values.view(np.int64)
        half, at = np.uintp(run >> 1 if tables > 1 else (count + 1) >> 1), np.uintp(first)
        end = np.uintp((count + 1) >> 1)
        b, low = np.uintp(0), np.uintp(0)
        while low < end:
            table = np.uintp(which[b]) if tables > 1 else np.uintp(0)
            high = min(low + half, end)
            for i in range(low, high):
                two[i] = pairs[table, octets[at + i]]
            b, low = b + np.uintp(1), high
        return
    if elements.bits == 8:
        for i in range(np.uintp(count)):
            fields[i] = octets[np.uintp(first) + i]
    else:
        unpack(octets, first, count, elements.bits, elements.high_first, fields)
    b, low, end = np.uintp(0), np.uintp(0), np.uintp(count)
    while low < end:
        table = np.uintp(which[b]) if tables > 1 else np.uintp(0)
        high = min(low + np.uintp(run), end)
        for i in range(low, high):
            values[i] = lut[table, fields[i]]
        b, low = b + np.uintp(1), high


@jit
def _scale_blocks(
    values: Floats,
    count: Number,
    elements: Elements,
    scales: Floats,
    zeros: Floats,
    out: Floats,
    row: Number,
    start: Number,
) -> None:
    """Grid values to elements: each step is rounded to binary32."""
    block, end = np.uintp(elements.block), np.uintp(count)
    line, at = out[row], np.uintp(start)
    b, low = np.uintp(0), np.uintp(0)
    while low < end:
        scale, high = scales[b], min(low + block, end)
        if elements.zero == POINT:
            zero = zeros[b]
            for i in range(low, high):
                line[at + i] = (values[i] - zero) * scale
        elif elements.zero == MINIMUM:
            zero = zeros[b]
            for i in range(low, high):
                line[at + i] = values[i] * scale + zero
        else:
            for i in range(low, high):
                line[at + i] = values[i] * scale
        b, low = b + np.uintp(1), high
