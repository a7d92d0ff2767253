"""Benches of the core: commands under pauses and a reset, and a harness for whole products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...design import Design, Side
from ...vectors.core import Command, bench_commands, results_of
from ..bench import Bench, memory_text
from ..module import Module
from .core import core, streams_of
from .lut_decoder import load_inputs
from .tile import OFFSET_BITS

#: Tiles of the benches: no powers of two, so that groups of sums straddle rows.
SHAPES = {"": (3, 5), "lut": (4, 4)}

COUNT_BITS = 16

#: A field of a row of memory: its name, its highest and its lowest bit.
Field = tuple[str, int, int]


def core_bench(design: Design, variant: str = "") -> Bench:
    """Commands at full speed, then under pauses of every stream, then with a reset.

    Args:
        design: the design.
        variant: of SHAPES; ``lut`` has its table loaded.
    """
    rows, columns = SHAPES[variant]
    return harness(
        design,
        bench_commands(design, rows, columns),
        rows,
        columns,
        variant=variant,
        table=table_of(design.weights) if variant == "lut" else (),
    )


def table_of(side: Side) -> tuple[dict[str, int], ...]:
    """A format's own words as loads of a table: values of the load ports."""
    return tuple(
        {
            "load_select_i": select,
            "load_code_i": code,
            "load_coefficient_i": word.coefficient,
            "load_shift_i": word.shift,
        }
        for select, words in enumerate(side.operand.words)
        for code, word in enumerate(words)
        if word is not None
    )


def harness(
    design: Design,
    commands: Sequence[Command],
    rows: int,
    columns: int,
    *,
    variant: str = "",
    table: Sequence[dict[str, int]] = (),
    record: bool = False,
) -> Bench:
    """A bench that feeds commands to a core.

    Args:
        design: the design.
        commands: each with ``columns`` lanes of weights and ``rows`` of activations.
        rows: of the core's tile.
        columns: likewise.
        variant: tells benches apart.
        table: loads of the decoder's table, by load port; none: its table is constant.
        record: print the results of one run at full speed; else compare those of three.
    """
    module = core(design)
    layout = _Layout(design, rows, columns, bool(table))
    steps = sum(command.steps for command in commands)
    results = rows * len(commands)
    return Bench(
        module=module,
        template="core_tb.v.j2",
        notes=(
            f"Test bench of {module.name} as a tile of {rows} x {columns}: {len(commands)} "
            f"commands, {steps} k."
            if record
            else f"Test bench of {module.name} as a tile of {rows} x {columns}: {len(commands)} "
            f"commands, {steps} k, at full speed, then with every stream and the reader pausing, "
            "then with resets on the way.",
            "Rows of the memory: what every stream offers at each k, results, loads of the table.",
        ),
        vectors=results if record else 3 * results,
        memory=lambda: _memory(module, layout, commands, table, record=record),
        values={
            "rows": rows,
            "columns": columns,
            "block": design.block,
            "steps": steps,
            "results": results,
            "loads": len(table),
            "record": record,
            "count_bits": COUNT_BITS,
            "row_bits": layout.bits,
            "streams": layout.fields,
            "load_ports": layout.loads,
        },
        variant=variant,
        lanes=4 * columns * steps // len(commands),
    )


@dataclass(frozen=True)
class _Layout:
    """Where the fields stand in a row of memory."""

    design: Design
    rows: int
    columns: int
    loadable: bool

    @cached_property
    def fields(self) -> tuple[tuple[str, tuple[Field, ...]], ...]:
        """Every stream, and the fields of its beats."""
        parameters = {"Rows": self.rows, "Columns": self.columns, "CountBits": COUNT_BITS}
        low, found = 0, []
        for name, ports in streams_of(self.design):
            placed: list[Field] = []
            for port in ports:
                bits = port.width(parameters)
                placed.append((port.bare, low + bits - 1, low))
                low += bits
            found.append((name, tuple(placed)))
        return tuple(found)

    @cached_property
    def loads(self) -> tuple[Field, ...]:
        """The fields of a load of the decoder's table."""
        low, placed = 0, []
        for port in load_inputs(self.design.weights)[1:]:
            bits = port.width({})
            placed.append((port.name, low + bits - 1, low))
            low += bits
        return tuple(placed)

    @cached_property
    def bits(self) -> int:
        widest = max(high for _, parts in self.fields for _, high, _ in parts) + 1
        return max(widest, 32 * self.columns, self.loads[-1][1] + 1)

    def beat(self, command: Command, k: int) -> int:
        """The row of a command's k-th step."""
        block, design = k // self.design.block, self.design
        weights, activations = command.weights, command.activations
        values = {
            "command_blocks": command.blocks,
            "command_exponent_offset": command.exponent_offset & ((1 << OFFSET_BITS) - 1),
            "weight_codes": _joined(weights.codes[:, k], design.weights.code_bits),
            "weight_mask": _joined(weights.masks[:, k], 1),
            "weight_scale_words": _joined(weights.words[:, block], design.weights.container),
            "weight_scale_selects": _joined(weights.selects[:, block], design.weights.select_bits),
            "activation_codes": _joined(activations.codes[:, k], design.activations.code_bits),
            "activation_scale_words": _joined(
                activations.words[:, block], design.activations.container
            ),
            "activation_scale_selects": _joined(
                activations.selects[:, block], design.activations.select_bits
            ),
        }
        places = (place for _, parts in self.fields for place in parts)
        return sum(values[name] << low for name, _, low in places)

    def load(self, values: dict[str, int]) -> int:
        """The row of one load."""
        return sum(
            (values[name] & ((2 << high - low) - 1)) << low for name, high, low in self.loads
        )


def _memory(
    module: Module,
    layout: _Layout,
    commands: Sequence[Command],
    table: Sequence[dict[str, int]],
    *,
    record: bool,
) -> str:
    notes = tuple(
        f"bits of {stream}: " + ", ".join(f"{name} {high}..{low}" for name, high, low in parts)
        for stream, parts in layout.fields
    )
    return memory_text(module, notes, layout.bits, _rows(layout, commands, table, record=record))


def _rows(
    layout: _Layout,
    commands: Sequence[Command],
    table: Sequence[dict[str, int]],
    *,
    record: bool,
) -> Iterator[int]:
    for command in commands:
        for k in range(command.steps):
            yield layout.beat(command, k)
    for command in commands:
        if record:
            yield from (0,) * layout.rows
        else:
            for row in results_of(layout.design, command).view(np.uint32):
                yield _joined(row, 32)
    for values in table:
        yield layout.load(values)


def _joined(fields: np.ndarray[tuple[int, ...], np.dtype[np.generic]], bits: int) -> int:
    """Lanes as one integer, lane 0 in the low bits."""
    return sum(int(field) << lane * bits for lane, field in enumerate(fields.tolist()))
