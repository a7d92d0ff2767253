"""Streams as lists of items, and the bytes that hold them, one bit at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ....compiler.format import Format, RecordField, Side

#: Stream name -> rows of items.
Fields = dict[str, list[list[int]]]


@dataclass(frozen=True, slots=True)
class Layout:
    """One stream: ``rows`` of ``count`` items, ``bits`` each; see "Bytes" in docs/language.md.

    ``each`` is how many elements of a row share an item; 0 where they are not of one row.
    """

    rows: int
    count: int
    bits: int
    order: str = "low_first"
    each: int = 0


def layout(fmt: Format, rows: int, length: int) -> dict[str, Layout]:
    """The streams of a tensor of [rows, length], without sides and before any record."""
    block_rows, columns, each = _blocks(fmt, rows, length)
    found = {"codes": Layout(rows, length, fmt.code_bits, fmt.order, 1)}
    words: list[tuple[str, int]] = []
    if fmt.scale.stored is None:
        words.append(("scales", fmt.scale.word.container))
    if fmt.zero is not None and fmt.zero.stored is None:
        own = fmt.zero.word
        words.append(("zeros", fmt.zero.bits if own is None else own.container))
    if fmt.select.place == "field":
        words.append(("select", fmt.select.bits))
    for name, bits in words:
        found[name] = Layout(block_rows, columns, bits, each=each)
    if fmt.scale.tensor == "rows":
        found["levels"] = Layout(rows, 1, 32)
    for name, owner in (("scales", fmt.scale), ("zeros", fmt.zero)):
        if owner is None or owner.stored is None:
            continue
        shape = (1, block_rows * columns) if owner.flat else (block_rows, columns)
        for part, inner in layout(owner.stored, *shape).items():
            shared = 0 if owner.flat else each * inner.each
            found[f"{name}.{part}"] = Layout(
                inner.rows, inner.count, inner.bits, inner.order, shared
            )
        if owner.center:
            found[f"{name}.center"] = Layout(1, 1, 32)
    return found


def _blocks(fmt: Format, rows: int, length: int) -> tuple[int, int, int]:
    """Rows and columns of blocks, and the elements of a row that one has."""
    if fmt.extent == "row":
        return rows, 1, 0
    if fmt.extent == "tensor":
        return 1, 1, 0
    columns = -(-length // fmt.block)
    return -(-rows // fmt.tile), columns, fmt.block if fmt.tile == 1 else 0


def side_layout(side: Side, elements: int, count: int) -> dict[str, Layout]:
    """The streams of a side that keeps ``count`` of a tensor's elements."""
    found = {
        f"{side.kind}.counts": Layout(1, -(-elements // 65536), 32),
        f"{side.kind}.index": Layout(1, count, 16),
        f"{side.kind}.values": Layout(1, count, side.value.container),
    }
    return found | ({"wr.scale": Layout(1, 1, 32)} if side.kind == "wr" else {})


# -- bytes ---------------------------------------------------------------------------------


def write_streams(fields: Fields, layouts: Mapping[str, Layout]) -> dict[str, list[bytes]]:
    """The rows of every stream as bytes, spare bits zero."""
    return {
        name: [_pack(row, layouts[name].bits, layouts[name].order) for row in rows]
        for name, rows in fields.items()
    }


def read_streams(fmt: Format, streams: Mapping[str, list[bytes]], rows: int, length: int) -> Fields:
    """The items that rows of bytes hold, in a record or not; sides are left out.

    Raises:
        ValueError: a stream is missing, has another size, or spare bits that are not zero.
    """
    layouts = layout(fmt, rows, length)
    if fmt.record is not None:
        return _from_records(fmt, streams["records"], layouts, length)
    found: Fields = {}
    for name, shape in layouts.items():
        if name not in streams or len(streams[name]) != shape.rows:
            raise ValueError(f"the stream '{name}' has not {shape.rows} rows")
        found[name] = [_unpack(row, shape, name) for row in streams[name]]
    return found


def _pack(items: list[int], bits: int, order: str) -> bytes:
    size = -(-len(items) * bits // 8)
    total = 0
    for i, item in enumerate(items):
        place = i * bits if order == "low_first" else 8 * size - (i + 1) * bits
        total |= item << place
    return total.to_bytes(size, "little" if order == "low_first" else "big")


def _unpack(row: bytes, shape: Layout, name: str) -> list[int]:
    total = int.from_bytes(row, "little" if shape.order == "low_first" else "big")
    places = [
        i * shape.bits if shape.order == "low_first" else 8 * len(row) - (i + 1) * shape.bits
        for i in range(shape.count)
    ]
    if len(row) != -(-shape.count * shape.bits // 8):
        raise ValueError(f"a row of the stream '{name}' has {len(row)} bytes")
    items = [total >> place & ((1 << shape.bits) - 1) for place in places]
    if _pack(items, shape.bits, shape.order) != row:
        raise ValueError(f"the stream '{name}' has spare bits that are not zero")
    return items


# -- records -------------------------------------------------------------------------------


def _from_records(
    fmt: Format, rows: list[bytes], layouts: Mapping[str, Layout], length: int
) -> Fields:
    """The items of every stream, gathered from the records of each row."""
    record = fmt.record
    if record is None:
        raise ValueError("the format has no record")
    found: Fields = {name: [[] for _ in rows] for name in layouts}
    for number, row in enumerate(rows):
        size = len(row) // max(1, length // record.elements)
        for start in range(0, len(row), size or 1):
            items = _one_record(fmt, row[start : start + size], layouts)
            for name, values in items.items():
                found[name][number] += values
    return found


def _one_record(fmt: Format, octets: bytes, layouts: Mapping[str, Layout]) -> dict[str, list[int]]:
    record = fmt.record
    if record is None:
        raise ValueError("the format has no record")
    items = {name: [0] * (record.elements // shape.each) for name, shape in layouts.items()}
    place = 0
    fields = list(record.fields)
    while fields:
        field = fields.pop(0)
        count = len(items[field.stream])
        size = count * field.bits // 8
        if field.order == "k_quants":
            other, size = fields.pop(0), 2 * size
            pairs = _k_quants(octets[place : place + size], field.bits)
            for which, values in ((field, pairs[0]), (other, pairs[1])):
                _put(items[which.stream], values, which.low)
        else:
            _put(items[field.stream], _field(octets[place : place + size], field), field.low)
        place += size
    if place != len(octets):
        raise ValueError(f"a record has {len(octets)} bytes and its fields {place}")
    return items


def _put(items: list[int], parts: list[int], low: int) -> None:
    for i, part in enumerate(parts):
        items[i] |= part << low


def _field(octets: bytes, field: RecordField) -> list[int]:
    bits = field.bits
    if field.order != "halves":
        count = 8 * len(octets) // bits
        return _unpack(octets, Layout(1, count, bits, field.order), field.stream)
    # Byte j of a run holds item j lowest, then the item one run's bytes further, and so on.
    found: list[int] = []
    size = field.run * bits // 8
    for start in range(0, len(octets), size):
        run = octets[start : start + size]
        found += [octet >> at & ((1 << bits) - 1) for at in range(0, 8, bits) for octet in run]
    return found


def _k_quants(octets: bytes, bits: int) -> tuple[list[int], list[int]]:
    """Scales and minima, as llama.cpp's get_scale_min_k4 reads 6 bits and Q2_K 4 bits."""
    scales: list[int] = []
    minima: list[int] = []
    if bits == 4:
        return [q & 15 for q in octets], [q >> 4 for q in octets]
    for start in range(0, len(octets), 12):
        q = octets[start : start + 12]
        for j in range(8):
            if j < 4:
                scales.append(q[j] & 63)
                minima.append(q[j + 4] & 63)
            else:
                scales.append(q[j + 4] & 15 | q[j - 4] >> 6 << 4)
                minima.append(q[j + 4] >> 4 | q[j] >> 6 << 4)
    return scales, minima
