"""Drawings in plain text: a grid on the number line, and how codes and words stand in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import lcm

from ...compiler.format import Format, Grid, RecordField, Stream

#: Characters of a number line.
WIDTH = 73

#: How many values fall on one character: none, one, more.
_MARKS = "-|#"

#: Columns of the names of streams, where none is longer.
_NAME_WIDTH = 9

#: Bytes that a diagram shows before it breaks off.
_MOST_BYTES = 6


def number_line(grid: Grid) -> str:
    """Two lines: the values as marks from the lowest to the highest, and where -max, 0, max are.

    ``|`` is one value, ``#`` several that are too close to tell apart.
    """
    end = max(grid.high, -grid.low)
    first = -end if grid.low < 0 else Fraction(0)
    counts = [0] * WIDTH
    for value in grid.numbers:
        counts[_column(value, first, end)] += 1
    line = "".join(_MARKS[min(count, 2)] for count in counts)
    labels = [" "] * WIDTH
    for value in sorted({first, Fraction(0), end}):
        text = f"{float(value):.6g}"
        place = min(max(0, _column(value, first, end) - len(text) // 2), WIDTH - len(text))
        labels[place : place + len(text)] = text
    return f"{line}\n{''.join(labels).rstrip()}"


def _column(value: Fraction, first: Fraction, end: Fraction) -> int:
    return round((value - first) / (end - first) * (WIDTH - 1))


def packing_diagram(fmt: Format) -> str:
    """Which bits of which bytes hold what, high bits on the left."""
    if fmt.record is not None:
        return _record(fmt)
    streams = list(_streams(fmt, ""))
    width = max(_NAME_WIDTH, *(len(name) for name, _ in streams))
    lines = []
    for name, stream in streams:
        letters = "".join(part[0] for part in name.split("."))
        lines += _stream_lines(name.ljust(width), letters, stream.bits, stream.order)
    return "\n".join(lines)


def _streams(fmt: Format, prefix: str) -> Iterator[tuple[str, Stream]]:
    """Name and shape of every stream of words, those of formats inside with their prefix."""
    for stream in fmt.streams:
        yield prefix + stream.name, stream
    for name, owner in (("scales", fmt.scale), ("zeros", fmt.zero)):
        if owner is not None and owner.stored is not None:
            yield from _streams(owner.stored, f"{prefix}{name}.")


def _stream_lines(name: str, letter: str, bits: int, order: str) -> list[str]:
    """The bytes of a stream until they repeat, or the first ones; ``name`` stands before them."""
    total = lcm(bits, 8)
    owners = [divmod(place, bits) for place in range(total)]
    if order == "high_first":
        # Counted from each byte's top bit, a field's own top bit first.
        flipped = [(item, bits - 1 - bit) for item, bit in owners]
        owners = [flipped[8 * (p // 8) + 7 - p % 8] for p in range(total)]
    lines = []
    for byte in range(min(total // 8, _MOST_BYTES)):
        fields = _fields(owners[8 * byte : 8 * byte + 8], letter, bits)
        head = name if byte == 0 else " " * len(name)
        lines.append(f"{head} byte {byte}: [{' | '.join(fields)}]")
    if total // 8 > _MOST_BYTES:
        lines.append(f"{' ' * len(name)} ... {total // bits} fields in {total // 8} bytes")
    return lines


def _fields(owners: list[tuple[int, int]], letter: str, bits: int) -> list[str]:
    """The fields of a byte from its high bits down: ``c1``, or ``c1 3..0`` for a part of one."""
    fields: list[tuple[int, list[int]]] = []
    for item, bit in reversed(owners):
        if fields and fields[-1][0] == item:
            fields[-1][1].append(bit)
        else:
            fields.append((item, [bit]))
    return [
        f"{letter}{item}" + (f" {held[0]}..{held[-1]}" if len(held) < bits else "")
        for item, held in fields
    ]


def _record(fmt: Format) -> str:
    record = fmt.record
    if record is None:
        return ""
    lines = [f"record of {record.elements} elements, field after field:"]
    lines += [f"  {_field(field)}" for field in record.fields]
    return "\n".join(lines)


def _field(field: RecordField) -> str:
    part = f"bits {field.low + field.bits - 1}..{field.low}"
    run = f" in runs of {field.run}" if field.order == "halves" else ""
    return f"{field.stream:<14} {part}, {field.order}{run}"
