"""Bit fields to bytes and back, as ``compiler.packing`` lays them out."""

from __future__ import annotations

import numpy as np

from .jit import jit
from .tables import Longs, Number, Octets


@jit
def pack(
    fields: Octets, count: Number, bits: Number, high_first: Number, out: Octets, first: Number
) -> None:
    """Pack ``count`` fields of up to 8 bits from byte ``first`` on; spare bits are zero."""
    if bits == 4:
        low, high = (4, 0) if high_first else (0, 4)
        at = np.uintp(first)
        for i in range(np.uintp(count >> 1)):
            two = i + i
            pair = fields[two] << low | fields[two + np.uintp(1)] << high
            out[at + i] = np.uint8(pair)
        if count & 1:
            out[first + (count >> 1)] = np.uint8(fields[count - 1] << low)
        return
    # Eight fields fill as many bytes as a field has bits.
    for i in range(0, count, 8):
        some = min(8, count - i)
        together = np.uint64(0)
        for k in range(some):
            shift = 64 - bits * (k + 1) if high_first else bits * k
            together |= np.uint64(fields[np.uintp(i + k)]) << np.uint64(shift)
        place = first + (i >> 3) * bits
        for k in range((some * bits + 7) >> 3):
            shift = 56 - 8 * k if high_first else 8 * k
            out[np.uintp(place + k)] = np.uint8(together >> np.uint64(shift))


@jit
def unpack(
    octets: Octets, first: Number, count: Number, bits: Number, high_first: Number, out: Octets
) -> None:
    """The inverse of ``pack``."""
    if bits == 4:
        low, high = (4, 0) if high_first else (0, 4)
        at = np.uintp(first)
        for i in range(np.uintp(count >> 1)):
            two = i + i
            octet = octets[at + i]
            out[two] = np.uint8((octet >> low) & 15)
            out[two + np.uintp(1)] = np.uint8((octet >> high) & 15)
        if count & 1:
            out[count - 1] = np.uint8((octets[first + (count >> 1)] >> low) & 15)
        return
    mask = np.uint64((1 << bits) - 1)
    for i in range(0, count, 8):
        some = min(8, count - i)
        together = np.uint64(0)
        place = first + (i >> 3) * bits
        for k in range((some * bits + 7) >> 3):
            shift = 56 - 8 * k if high_first else 8 * k
            together |= np.uint64(octets[np.uintp(place + k)]) << np.uint64(shift)
        for k in range(some):
            shift = 64 - bits * (k + 1) if high_first else bits * k
            out[np.uintp(i + k)] = np.uint8((together >> np.uint64(shift)) & mask)


@jit
def write_words(
    words: Longs, count: Number, bits: Number, out: Octets, row: Number, first: Number
) -> None:
    """Fields ``first`` and on of a little-endian row whose bits there are zero."""
    if bits == 8:
        for i in range(count):
            out[row, first + i] = np.uint8(words[i])
        return
    for i in range(count):
        start = (first + i) * bits
        rest = np.uint64(words[i]) << np.uint64(start & 7)
        for k in range(start >> 3, (start + bits + 7) >> 3):
            out[row, k] |= np.uint8(rest)
            rest >>= np.uint64(8)


@jit
def read_words(
    octets: Octets, row: Number, first: Number, count: Number, bits: Number, out: Longs
) -> None:
    """The inverse of ``write_words``."""
    if bits == 8:
        for i in range(count):
            out[i] = octets[row, first + i]
        return
    mask = np.uint64((1 << bits) - 1)
    for i in range(count):
        start = (first + i) * bits
        word = np.uint64(0)
        place = start >> 3
        for k in range((start & 7) + bits + 7 >> 3):
            word |= np.uint64(octets[row, place + k]) << np.uint64(8 * k)
        out[i] = np.int64(word >> np.uint64(start & 7) & mask)
