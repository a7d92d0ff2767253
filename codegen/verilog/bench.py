"""Test benches: a module under golden rows, and one line that says how it went.

Every bench reads a ``.memh`` file and prints ``PASS <module> <n> vectors`` or
``FAIL <module> <m> of <n> vectors``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..render import provenance, render
from .header import header, wrapped
from .module import CLOCK, Module, Port

#: A row of a generic bench: values of ports by name.
Row = Mapping[str, int]


@dataclass(frozen=True)
class Bench:
    """One bench.

    Attributes:
        module: what it tries.
        template: of the bench.
        notes: what it tries the module on.
        vectors: how many comparisons it counts.
        memory: makes the text of ``<name>.memh``.
        values: what the template asks for besides the common values.
        parameters: of the module.
        variant: tells several benches of a module apart.
        lanes: how much a vector has a simulator do, a decoded element being one.
    """

    module: Module
    template: str
    notes: tuple[str, ...]
    vectors: int
    memory: Callable[[], str]
    values: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    variant: str = ""
    lanes: int = 1

    @property
    def name(self) -> str:
        """What the verdict names, and the memory."""
        return self.module.name + (f"_{self.variant}" if self.variant else "")

    @property
    def top(self) -> str:
        """The bench's own module."""
        return f"{self.name}_tb"

    def text(self) -> str:
        """The file of the bench."""
        return render(
            "verilog",
            self.template,
            name=self.name,
            top=self.top,
            owner=self.module.owner.name,
            module=self.module,
            vectors=self.vectors,
            parameters=dict(self.parameters),
            header=header(self.module.owner, *self.notes),
            **self.values,
        )


@dataclass(frozen=True)
class _Layout:
    """Where the ports stand in a row: what is compared, its value, the inputs."""

    inputs: tuple[tuple[Port, int], ...]
    outputs: tuple[tuple[Port, int], ...]

    @cached_property
    def bits(self) -> int:
        return sum(b for _, b in self.inputs) + 2 * self.out_bits

    @cached_property
    def out_bits(self) -> int:
        return sum(b for _, b in self.outputs)

    def pack(self, row: Row) -> int:
        unknown = set(row) - {port.name for port, _ in (*self.inputs, *self.outputs)}
        if unknown:
            raise ValueError(f"no ports {sorted(unknown)}")
        care = want = given = 0
        for port, bits in self.outputs:
            mask = (1 << bits) - 1
            care = care << bits | (mask if port.name in row else 0)
            want = want << bits | row.get(port.name, 0) & mask
        for port, bits in self.inputs:
            given = given << bits | row[port.name] & ((1 << bits) - 1)
        return (care << self.out_bits | want) << sum(b for _, b in self.inputs) | given


def vector_bench(
    module: Module,
    rows: Iterable[Row],
    *notes: str,
    parameters: Mapping[str, int] | None = None,
    variant: str = "",
) -> Bench:
    """A bench of any module: every row drives all inputs and states outputs.

    An output that a row leaves out is not compared. Of a clocked module a row is a cycle: its
    inputs are driven after a rising edge, and its outputs compared just before the next one.

    Raises:
        ValueError: a row names a port that there is not.
        KeyError: a row leaves out an input.
    """
    rows = tuple(rows)
    chosen = {p.name: p.default for p in module.parameters} | dict(parameters or {})
    driven = [port for port in module.inputs if port != CLOCK]
    layout = _Layout(
        tuple((port, port.width(chosen)) for port in driven),
        tuple((port, port.width(chosen)) for port in module.outputs),
    )
    return Bench(
        module=module,
        template="vector_tb.v.j2",
        notes=(f"Test bench of {module.name}: {len(rows)} rows of its memory.", *notes),
        vectors=len(rows),
        memory=lambda: memory_text(
            module,
            (
                "a row: what is compared, outputs ("
                + ", ".join(f"{port.bare} {bits}" for port, bits in layout.outputs)
                + "), inputs ("
                + ", ".join(f"{port.bare} {bits}" for port, bits in layout.inputs)
                + ")",
            ),
            layout.bits,
            (layout.pack(row) for row in rows),
        ),
        values={"layout": layout, "clocked": module.clocked},
        parameters=parameters or {},
        variant=variant,
    )


def memory_text(module: Module, notes: tuple[str, ...], bits: int, rows: Iterable[int]) -> str:
    """The text of a ``$readmemh`` file: comments, then a row a line."""
    digits = -(-bits // 4)
    head = [*provenance(module.owner), *notes]
    lines = [row for line in head for row in wrapped(line)]
    lines += [f"{row:0{digits}x}" for row in rows]
    return "\n".join(lines) + "\n"
