"""The bench of the side path: streams at full speed, under pauses, and after a reset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...design import Design
from ...vectors.sparse import SparseCommand, results_of, sparse_commands
from ..bench import Bench, memory_text
from .sparse import kinds_of, sparse, streams_of

#: The tile of the bench, and the bits of an index in it.
ROWS, COLUMNS, INDEX_BITS, BLOCK_BITS, COUNT_BITS = 3, 5, 8, 6, 4


@dataclass(frozen=True, slots=True)
class StreamRows:
    """One stream's beats in the memory.

    Attributes:
        name: of the stream.
        base, count: its first row, and how many there are.
        fields: of a row: port, highest and lowest bit.
    """

    name: str
    base: int
    count: int
    fields: tuple[tuple[str, int, int], ...]

    @property
    def bits(self) -> int:
        """Of a beat."""
        return self.fields[-1][1] + 1


def sparse_bench(design: Design) -> Bench:
    """Commands with their results, three times: at full speed, with pauses, after a reset."""
    module = sparse(design)
    commands = sparse_commands(design, ROWS, COLUMNS)
    beats = _beats(design, commands)
    streams: list[StreamRows] = []
    base = 0
    for name, fields, rows in beats:
        streams.append(StreamRows(name, base, len(rows), fields))
        base += len(rows)
    widest = max(high + 1 for _, fields, _ in beats for _, high, _ in fields)
    parameters = {
        "Rows": ROWS,
        "Columns": COLUMNS,
        "IndexBits": INDEX_BITS,
        "CountBits": COUNT_BITS,
    } | ({"BlockBits": BLOCK_BITS} if "BlockBits" in {p.name for p in module.parameters} else {})
    results = streams[-1].count
    return Bench(
        module=module,
        template="sparse_tb.v.j2",
        notes=(
            (
                f"Test bench of {module.name} as a tile of {ROWS} x {COLUMNS}: {results} rows of "
                "results, at full speed, then with every stream and the reader pausing, and once "
                "more after a reset in the middle."
            ),
        ),
        vectors=3 * results,
        memory=lambda: memory_text(
            module,
            tuple(f"rows {s.base}..{s.base + s.count - 1}: {s.name}" for s in streams),
            widest,
            (row for _, _, rows in beats for row in rows),
        ),
        values={
            "streams": streams[:-1],
            "results": streams[-1],
            "row_bits": widest,
            "memory_rows": base,
            "columns": COLUMNS,
        },
        parameters=parameters,
    )


def _beats(
    design: Design, commands: tuple[SparseCommand, ...]
) -> list[tuple[str, tuple[tuple[str, int, int], ...], list[int]]]:
    """Name, fields and rows of every stream; the results are the last."""
    parameters = {
        "Rows": ROWS,
        "Columns": COLUMNS,
        "IndexBits": INDEX_BITS,
        "BlockBits": BLOCK_BITS,
        "CountBits": COUNT_BITS,
    }
    values = {
        "command": _commands(design, commands),
        "activation": _activations(design, commands),
        "scale": _scales(design, commands),
        "dense": _dense(commands),
        "entry": _entries(design, commands),
    }
    found = []
    for name, ports in streams_of(design):
        fields, low = [], 0
        for port in ports:
            bits = port.width(parameters)
            fields.append((port.name, low + bits - 1, low))
            low += bits
        rows = [
            sum((beat[port] & ((2 << high - start) - 1)) << start for port, high, start in fields)
            for beat in values[name]
        ]
        found.append((name, tuple(fields), rows))
    results = [
        _joined(row, 32)
        for c in commands
        for tile in c.tiles
        for row in results_of(design, c, tile)
    ]
    return [*found, ("result", (("result_o", 32 * COLUMNS - 1, 0),), results)]


def _commands(design: Design, commands: tuple[SparseCommand, ...]) -> Iterator[dict[str, int]]:
    for command in commands:
        factors = {
            f"command_{kind.name}_factor_i": factor
            for kind, factor in zip(kinds_of(design), command.factors, strict=True)
        }
        yield {
            "command_tiles_i": len(command.tiles),
            "command_exponent_offset_i": command.offset,
        } | factors


def _activations(design: Design, commands: tuple[SparseCommand, ...]) -> Iterator[dict[str, int]]:
    for command in commands:
        for i, codes in enumerate(command.codes):
            yield {
                "activation_codes_i": _joined(codes, design.activations.code_bits),
                "activation_last_i": int(i == len(command.codes) - 1),
            }


def _scales(design: Design, commands: tuple[SparseCommand, ...]) -> Iterator[dict[str, int]]:
    side = design.activations
    for command in commands:
        for i, (words, selects) in enumerate(zip(command.words, command.selects, strict=True)):
            yield {
                "scale_words_i": _joined(words, side.container),
                "scale_selects_i": _joined(selects, side.select_bits),
                "scale_last_i": int(i == len(command.words) - 1),
            }


def _dense(commands: tuple[SparseCommand, ...]) -> Iterator[dict[str, int]]:
    for command in commands:
        for tile in command.tiles:
            for row in tile.dense:
                yield {"dense_i": _joined(row, 32)}


def _entries(design: Design, commands: tuple[SparseCommand, ...]) -> Iterator[dict[str, int]]:
    names = [side.kind for side in design.weights.fmt.sides]
    for command in commands:
        for tile in command.tiles:
            last = len(tile.entries) - 1
            for i, entry in enumerate(tile.entries):
                yield {
                    "entry_last_i": int(i == last),
                    "entry_none_i": 0,
                    "entry_column_i": entry.column,
                    "entry_index_i": entry.index,
                    "entry_block_i": entry.index // design.block,
                    "entry_kind_i": int(names[entry.kind] == "wr"),
                    "entry_value_i": entry.word,
                }
            if not tile.entries:
                # What such an entry says besides counts for nothing.
                empty = ("column", "index", "block", "kind")
                yield {f"entry_{name}_i": 0 for name in empty} | {
                    "entry_value_i": 1 << design.weights.fmt.sides[0].value.container - 2,
                    "entry_last_i": 1,
                    "entry_none_i": 1,
                }


def _joined(fields: tuple[int, ...], bits: int) -> int:
    """Lanes as one integer, lane 0 in the low bits."""
    return sum(field << lane * bits for lane, field in enumerate(fields))
