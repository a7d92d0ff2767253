"""What a Verilog module is here: its ports said once, what it uses, and its text.

Declarations, connections and headers are made from the ports; a template is only the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...compiler.format import Format
from ..render import render
from .header import header, wrapped


@dataclass(frozen=True, slots=True)
class Port:
    """One port: ``name`` ends in ``_i``, ``_ni`` (active low) or ``_o``.

    ``meaning`` states bounds and the weight of the least significant bit.
    ``bits`` may be an expression over the module's parameters. ``lanes``: a flat vector of lanes,
    lane 0 in the low bits, which has a range even when it is one bit wide.
    """

    name: str
    bits: int | str
    meaning: str
    signed: bool = False
    lanes: bool = False

    @property
    def vector(self) -> str:
        """The type behind ``wire`` or ``reg``, with a blank in front; empty for one bit."""
        sign = " signed" if self.signed else ""
        if isinstance(self.bits, str):
            return f"{sign} [{self.bits}-1:0]"
        return sign + (
            f" [{self.bits - 1}:0]" if self.bits > 1 or self.signed or self.lanes else ""
        )

    @property
    def is_input(self) -> bool:
        """Whether the module reads it."""
        return self.name.endswith(("_i", "_ni"))

    @property
    def bare(self) -> str:
        """The name without its direction."""
        return self.name.rpartition("_")[0]

    @property
    def declared(self) -> str:
        """The declaration in a module's port list."""
        return f"{'input ' if self.is_input else 'output'} wire{self.vector} {self.name}"

    def width(self, parameters: Mapping[str, int]) -> int:
        """The bits under given parameters.

        Raises:
            ValueError: the expression is more than products and sums of parameters.
        """
        if isinstance(self.bits, int):
            return self.bits
        return _evaluate(self.bits, parameters)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that a user may set; formats are baked in, these are not."""

    name: str
    default: int
    meaning: str


@dataclass(frozen=True)
class Module:
    """One Verilog module, one file.

    Attributes:
        owner: the format that it belongs to, whose name and provenance it carries.
        part: what it is; also the name of its template.
        notes: what it does, and how its widths follow: lines of the header.
        ports: in the order of declaration.
        values: what the template asks for besides ``name``, ``module`` and ``owner``.
        uses: the modules that it instantiates directly.
        parameters: that a user may set.
        latency: cycles from input to output; ``0``: it is combinational.
    """

    owner: Format
    part: str
    notes: tuple[str, ...]
    ports: tuple[Port, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    uses: tuple[Module, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    latency: str = "0"

    @property
    def name(self) -> str:
        """The module's name, and its file's."""
        return f"{self.owner.name}_{self.part}"

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The ports that it reads."""
        return tuple(port for port in self.ports if port.is_input)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The ports that it drives."""
        return tuple(port for port in self.ports if not port.is_input)

    @property
    def clocked(self) -> bool:
        """Whether it has a clock."""
        return any(port.name == "clk_i" for port in self.ports)

    @property
    def closure(self) -> tuple[Module, ...]:
        """All modules that it is made of, the innermost first, itself last."""
        found: dict[str, Module] = {}
        for used in self.uses:
            found |= {module.name: module for module in used.closure}
        return (*found.values(), self)

    def text(self) -> str:
        """The file: header, declaration and body."""
        body = render(
            "verilog",
            f"{self.part}.v.j2",
            **{"name": self.name, "owner": self.owner.name, "module": self, **self.values},
        )
        return f"{self._head()}\n{body.strip(chr(10))}\n\nendmodule\n\n`default_nettype wire\n"

    def _head(self) -> str:
        lines = [header(self.owner, *self._words()), "`default_nettype none", ""]
        opening = f"module {self.name} "
        if self.parameters:
            lines.append(f"{opening}#(")
            declared = [f"  parameter {p.name} = {p.default}" for p in self.parameters]
            lines += [",\n".join(declared), ") ("]
        else:
            lines.append(f"{opening}(")
        lines += [",\n".join(f"  {port.declared}" for port in self.ports), ");", ""]
        return "\n".join(lines)

    def _words(self) -> list[str]:
        combinational = self.latency == "0"
        words = [
            *self.notes,
            "Combinational." if combinational else f"Latency: {self.latency} cycles.",
        ]
        if self.parameters:
            words += ["", "Parameters:"]
            words += [f"  {p.name} (default {p.default}) {p.meaning}" for p in self.parameters]
        return [
            *words,
            "",
            "Ports (bits, meaning):",
            *[f"  {port.name} ({port.bits}) {port.meaning}" for port in self.ports],
        ]


CLOCK = Port("clk_i", 1, "clock, rising edge")
RESET = Port("rst_ni", 1, "asynchronous reset, active low")


def comment(text: str, indent: str = "") -> str:
    """A comment of as many lines as it takes."""
    return "\n".join(wrapped(text, indent, "// "))


def _evaluate(expression: str, parameters: Mapping[str, int]) -> int:
    total = 0
    for term in expression.replace(" ", "").split("+"):
        factor = 1
        for name in term.split("*"):
            if not (name.isdigit() or name in parameters):
                raise ValueError(f"'{expression}' is no sum of products of parameters")
            factor *= int(name) if name.isdigit() else parameters[name]
        total += factor
    return total
