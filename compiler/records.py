"""Records: the words of a few neighbours side by side, as llama.cpp's files have them.

A record is a permutation of the bits of the planar streams. It is worked out once per format, as
a few moves of many bytes each: those bits of these bytes, shifted, become bits of those bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .format import Format, RecordField
from .items import K_QUANTS_ITEMS, record_bytes, stream_items

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

#: Bytes of records that are worked on at once.
CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Move:
    """``target[columns] |= (source[columns] & mask) << shift``; to the right if negative."""

    sources: slice | I64
    targets: slice | I64
    mask: int
    shift: int


def to_records(fmt: Format, streams: Mapping[str, U8], rows: int, length: int) -> U8:
    """Interleave planar streams.

    Args:
        fmt: a format with a record of N elements.
        streams: uint8 [rows, bytes] by name, at least those that ``stream_items`` names.
        rows: of the tensor.
        length: elements of a row, a multiple of N.

    Returns:
        uint8 [rows, length / N * record_bytes].

    Raises:
        ValueError: ``length`` is no multiple of N, or a stream has another shape.
    """
    count = records_of(fmt, length)
    size = record_bytes(fmt)
    parts = {
        name: by_record(streams[name], name, rows, count, width)
        for name, width in stream_widths(fmt).items()
    }
    records = np.zeros((rows * count, size), np.uint8)
    for piece in _pieces(rows * count, size):
        for name, moves in record_moves(fmt).items():
            for move in moves:
                _apply(move, parts[name][piece], records[piece])
    return records.reshape(rows, count * size)


def from_records(fmt: Format, records: U8, length: int) -> dict[str, U8]:
    """The inverse of ``to_records``: stream name -> uint8 [rows, bytes].

    Args:
        fmt: a format with a record of N elements.
        records: uint8 [rows, length / N * record_bytes].
        length: elements of a row, a multiple of N.

    Raises:
        ValueError: ``length`` is no multiple of N, or ``records`` has another shape.
    """
    count = records_of(fmt, length)
    rows, size = len(records), record_bytes(fmt)
    source = by_record(records, "records", rows, count, size)
    widths = stream_widths(fmt)
    parts = {name: np.zeros((rows * count, width), np.uint8) for name, width in widths.items()}
    for piece in _pieces(rows * count, size):
        for name, moves in record_moves(fmt).items():
            for move in moves:
                back = Move(
                    move.targets, move.sources, _shifted(move.mask, move.shift), -move.shift
                )
                _apply(back, source[piece], parts[name][piece])
    return {name: part.reshape(rows, count * widths[name]) for name, part in parts.items()}


def records_of(fmt: Format, length: int) -> int:
    """Records of a row of ``length`` elements.

    Raises:
        ValueError: the format has no record, or ``length`` is no multiple of its elements.
    """
    if fmt.record is None:
        raise ValueError(f"the format '{fmt.name}' has no record")
    count, rest = divmod(length, fmt.record.elements)
    if rest:
        raise ValueError(
            f"rows of {length} elements do not divide into records of {fmt.record.elements}"
        )
    return count


def by_record(octets: U8, name: str, rows: int, count: int, width: int) -> U8:
    """The bytes of an array called ``name`` as uint8 [records, width].

    Raises:
        ValueError: there are not as many as ``rows`` of ``count`` records take.
    """
    if octets.shape != (rows, count * width):
        raise ValueError(
            f"'{name}' has shape {list(octets.shape)}, expected {[rows, count * width]}"
        )
    return octets.reshape(rows * count, width)


def stream_widths(fmt: Format) -> dict[str, int]:
    """The bytes that a record takes from each stream: whole ones, as every field is."""
    elements = fmt.record.elements if fmt.record else 0
    return {name: item.count(elements) * item.bits // 8 for name, item in stream_items(fmt).items()}


def _pieces(records: int, size: int) -> Iterator[slice]:
    step = max(1, CHUNK // size)
    for start in range(0, records, step):
        yield slice(start, start + step)


def _shifted(bits: int, shift: int) -> int:
    return bits << shift if shift >= 0 else bits >> -shift


def _apply(move: Move, source: U8, target: U8) -> None:
    bits = source[:, move.sources] & np.uint8(move.mask)
    if move.shift:
        amount = np.uint8(abs(move.shift))
        bits = bits << amount if move.shift > 0 else bits >> amount
    target[:, move.targets] |= bits


@lru_cache(maxsize=64)
def record_moves(fmt: Format) -> dict[str, tuple[Move, ...]]:
    """The moves from each stream's bytes of one record to the record's."""
    moves: dict[str, tuple[Move, ...]] = {}
    for name, sources, targets in layout_bits(fmt):
        moves[name] = moves.get(name, ()) + _moves(sources, targets)
    return moves


def layout_bits(fmt: Format) -> Iterator[tuple[str, I64, I64]]:
    """Where a record's bits come from, field by field.

    Yields:
        A stream's name, the places of bits in the bytes that a record takes of it, and their
        places in the record (see ``bit_places``): int64 [bits] each.
    """
    if fmt.record is None:
        raise ValueError(f"the format '{fmt.name}' has no record")
    base = 0
    second = False  # of two fields that k_quants packs as one
    items = stream_items(fmt)
    for field in fmt.record.fields:
        item = items[field.stream]
        count = item.count(fmt.record.elements)
        taken = slice(field.low, field.low + field.bits)
        sources = bit_places(count, item.bits, item.order)[:, taken].reshape(-1)
        if field.order == "k_quants":
            targets = 8 * base + _k_quants_places(count, field.bits, second)
            second = not second
            base += 0 if second else 2 * count * field.bits // 8
        else:
            targets = 8 * base + _field_places(field, count)
            base += count * field.bits // 8
        yield field.stream, sources, targets.reshape(-1)


def bit_places(count: int, bits: int, order: str) -> I64:
    """Where packed items stand: int64 [count, bits], the place of bit b of item i.

    Place p is bit p % 8 of byte p // 8. ``order`` is ``low_first`` or ``high_first``, as in
    ``pack``.
    """
    item: I64 = np.arange(count)[:, None]
    bit: I64 = np.arange(bits)
    if order == "low_first":
        return item * bits + bit
    from_the_top: I64 = item * bits + (bits - 1 - bit)
    return from_the_top ^ 7


def _field_places(field: RecordField, count: int) -> I64:
    """The same for the items of a field, counted from the field's first bit."""
    if field.order != "halves":
        return bit_places(count, field.bits, field.order)
    # Byte j of a run holds items j, j + its bytes, j + twice that ..., the first lowest.
    octets = field.run * field.bits // 8
    run, inside = np.divmod(np.arange(count), field.run)
    slot, octet = np.divmod(inside, octets)
    first: I64 = (run * octets + octet) * 8 + slot * field.bits
    return first[:, None] + np.arange(field.bits)


def _k_quants_places(count: int, bits: int, second: bool) -> I64:
    """Scales (first) and minima (second) as llama.cpp's K-quants pack them.

    6 bits: get_scale_min_k4 of ggml-quants.c. Of 8 scales and 8 minima in 12 bytes, the first
    four of each are the low bits of bytes 0..3 and 4..7; of the others the low four bits share
    bytes 8..11 and the high two stand above the first four. 4 bits (Q2_K): scale and minimum
    share a byte.
    """
    items = K_QUANTS_ITEMS[bits]
    octets = 2 * items * bits // 8
    group, inside = np.divmod(np.arange(count)[:, None], items)
    bit = np.arange(bits)
    if bits == 4:
        return group * 8 + 4 * second + bit
    later, quarter = np.divmod(inside, 4)
    own = 4 * second + quarter
    low_half = 8 * (8 + quarter) + 4 * second + bit
    high_bits = 8 * own + 6 + (bit - 4)
    place: I64 = np.where(later == 0, 8 * own + bit, np.where(bit < 4, low_half, high_bits))
    return group * octets * 8 + place


def _moves(sources: I64, targets: I64) -> tuple[Move, ...]:
    """Bit moves gathered into byte moves: a mask and a shift for as many bytes as share them."""
    shift = targets % 8 - sources % 8
    key = np.stack([shift, sources // 8, targets // 8])
    (shifts, from_bytes, to_bytes), owner = np.unique(key, axis=1, return_inverse=True)
    masks = np.zeros(len(shifts), np.int64)
    np.bitwise_or.at(masks, owner.reshape(-1), 1 << (sources % 8))
    moves = []
    for how in np.unique(np.stack([shifts, masks]), axis=1).T:
        chosen = (shifts == how[0]) & (masks == how[1])
        sources_of, targets_of = _columns(from_bytes[chosen]), _columns(to_bytes[chosen])
        moves.append(Move(sources_of, targets_of, mask=int(how[1]), shift=int(how[0])))
    return tuple(moves)


def _columns(places: I64) -> slice | I64:
    """The places as a slice where they are evenly spaced: NumPy then copies nothing twice."""
    steps = np.unique(np.diff(places))
    if len(steps) > 1 or (len(steps) == 1 and steps[0] <= 0):
        return places
    step = int(steps[0]) if len(steps) else 1
    return slice(int(places[0]), int(places[-1]) + 1, step)
