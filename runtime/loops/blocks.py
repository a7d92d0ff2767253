"""What pieces of rows reach, and what they err by: no format's work, see ``compiler.blockwork``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .jit import jit, loop
from .tables import Doubles, Floats, Number

_INFINITY = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF


@jit
def sum_in_order(terms: Doubles, count: Number, unit: Number, sums: Doubles) -> None:
    """Sums of each ``unit`` of ``count`` terms, the last may be short, in order in binary64."""
    step, end, one = np.uintp(unit), np.uintp(count), np.uintp(1)
    whole, piece = np.uintp(count // unit), np.uintp(0)
    # Four sums at once: each has to wait for its own last step only.
    while piece + np.uintp(4) <= whole:
        first = second = third = fourth = 0.0
        place = piece * step
        for _ in range(unit):
            first += terms[place]
            second += terms[place + step]
            third += terms[place + step + step]
            fourth += terms[place + step + step + step]
            place += one
        sums[piece], sums[piece + one] = first, second
        sums[piece + one + one], sums[piece + one + one + one] = third, fourth
        piece += np.uintp(4)
    low = piece * step
    while low < end:
        high, total = min(low + step, end), 0.0
        for i in range(low, high):
            total += terms[i]
        sums[piece] = total
        piece, low = piece + one, high


@loop
def errors(x: Floats, decoded: Floats, weights: Floats, unit: Number, out: Doubles) -> None:
    """Squares of ``x - decoded`` [rows, n] of every piece, times ``weights`` [n].

    ``decoded`` is [rows, 0] for zeros, ``weights`` [0] for ones.
    """
    rows, length = x.shape
    terms = np.empty(length, np.float64)
    for row in range(rows):
        one, two = x[row], decoded[row]
        for i in range(np.uintp(length)):
            terms[i] = np.float64(one[i])
        for i in range(np.uintp(len(two))):
            terms[i] = terms[i] - np.float64(two[i])
        for i in range(np.uintp(length)):
            terms[i] = terms[i] * terms[i]
        for i in range(np.uintp(len(weights))):
            terms[i] = terms[i] * np.float64(weights[i])
        sum_in_order(terms, length, unit, out[row])


@loop
def absmax(x: Floats, unit: Number, out: Floats) -> None:
    """The largest finite magnitude of every piece."""
    rows, length = x.shape
    bits = x.view(np.int32)
    for row in range(rows):
        line = bits[row]
        step, low, end = np.uintp(unit), np.uintp(0), np.uintp(length)
        piece = np.uintp(0)
        while low < end:
            high, peak = min(low + step, end), np.int32(0)
            for i in range(low, high):
                size = np.int32(line[i] & _MAGNITUDE)
                peak = max(peak, size if size < _INFINITY else np.int32(0))
            out[row, piece] = np.int32(peak).view(np.float32)
            piece, low = piece + np.uintp(1), high


@loop
def peaks(
    x: Floats,
    unit: Number,
    lows: Floats,
    highs: Floats,
    negative: NDArray[np.bool_],
    broken: NDArray[np.bool_],
) -> None:
    """The least and largest element of every piece, the sign of the largest; NaN where one is."""
    rows, length = x.shape
    bits = x.view(np.int32)
    for row in range(rows):
        line = bits[row]
        step, low, end = np.uintp(unit), np.uintp(0), np.uintp(length)
        piece = np.uintp(0)
        while low < end:
            high = min(low + step, end)
            least, most, largest = np.int32(_MAGNITUDE), np.int32(~_MAGNITUDE), np.int32(0)
            for i in range(low, high):
                one = line[i]
                key = np.int32(one ^ ((one >> 31) & _MAGNITUDE))
                least, most = min(least, key), max(most, key)
                largest = max(largest, np.int32(one & _MAGNITUDE))
            torn = largest > _INFINITY
            first = low
            while line[first] & _MAGNITUDE != largest:
                first += np.uintp(1)
            broken[row, piece] = torn
            negative[row, piece] = line[first] < 0 and not torn
            lows[row, piece] = np.nan if torn else _number(least)
            highs[row, piece] = np.nan if torn else _number(most)
            piece, low = piece + np.uintp(1), high


@jit
def _number(key: Number) -> Number:
    """The binary32 number of a key (see ``ranking``)."""
    return np.int32(key ^ ((key >> 31) & _MAGNITUDE)).view(np.float32)
