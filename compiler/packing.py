"""Bit fields to bytes and back: the canonical packing of every stream."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

from .format import Stream

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

#: Widths of fields that are whole integers in memory.
WHOLE = (8, 16, 32)


def pack(fields: NDArray[np.unsignedinteger], stream: Stream) -> U8:
    """Pack rows of bit fields.

    Args:
        fields: unsigned integers [rows, n], each below 2^stream.bits.
        stream: width and order of the fields.

    Returns:
        uint8 [rows, ceil(n * bits / 8)]; the spare bits of the last byte are zero.
    """
    rows, count = fields.shape
    if stream.bits in WHOLE:
        return np.array(fields, _whole(stream), order="C").view(np.uint8)
    per_group, group_bytes = _group(stream.bits)
    groups = -(-count // per_group)
    padded = np.zeros((rows, groups * per_group), np.uint64)
    padded[:, :count] = fields
    octets = np.zeros((rows, groups, group_bytes), np.uint8)
    for i, shift in enumerate(_shifts(stream, per_group)):
        for b, place in _places(stream, shift, group_bytes):
            octets[:, :, b] |= _moved(padded[:, i::per_group], shift - 8 * place).astype(np.uint8)
    return octets.reshape(rows, groups * group_bytes)[:, : -(-count * stream.bits // 8)].copy()


def unpack(octets: U8, count: int, stream: Stream) -> U32:
    """The inverse of ``pack``: uint32 [rows, count] from uint8 [rows, bytes]."""
    rows = octets.shape[0]
    if stream.bits in WHOLE:
        whole = np.ascontiguousarray(octets[:, : count * stream.bits // 8]).view(_whole(stream))
        return whole.reshape(rows, count).astype(np.uint32)
    per_group, group_bytes = _group(stream.bits)
    groups = -(-count // per_group)
    padded = np.zeros((rows, groups * group_bytes), np.uint8)
    used = min(octets.shape[1], padded.shape[1])
    padded[:, :used] = octets[:, :used]
    grouped = padded.reshape(rows, groups, group_bytes).astype(np.uint64)
    fields = np.zeros((rows, groups, per_group), np.uint64)
    for i, shift in enumerate(_shifts(stream, per_group)):
        for b, place in _places(stream, shift, group_bytes):
            fields[:, :, i] |= _moved(grouped[:, :, b], 8 * place - shift)
    mask = np.uint64((1 << stream.bits) - 1)
    return (fields & mask).astype(np.uint32).reshape(rows, groups * per_group)[:, :count]


def _whole(stream: Stream) -> np.dtype[np.unsignedinteger]:
    """The integer that a field of whole bytes is in memory."""
    return np.dtype(f"{'<' if stream.order == 'low_first' else '>'}u{stream.bits // 8}")


def _places(stream: Stream, shift: int, group_bytes: int) -> list[tuple[int, int]]:
    """The bytes of a group that the field at bit ``shift`` reaches: index, and place in order."""
    places = range(shift // 8, -(-(shift + stream.bits) // 8))
    return [(p if stream.order == "low_first" else group_bytes - 1 - p, p) for p in places]


def _moved(bits: NDArray[np.uint64], left: int) -> NDArray[np.uint64]:
    return bits << np.uint64(left) if left >= 0 else bits >> np.uint64(-left)


def _group(bits: int) -> tuple[int, int]:
    """The least number of fields that fill whole bytes, and how many bytes they fill."""
    common = bits * 8 // gcd(bits, 8)
    return common // bits, common // 8


def _shifts(stream: Stream, per_group: int) -> list[int]:
    ascending = [i * stream.bits for i in range(per_group)]
    return ascending if stream.order == "low_first" else ascending[::-1]
