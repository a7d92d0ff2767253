"""Cell libraries: what a Liberty file says of area, function, loads and energy.

Only what costs are made of is read: a cell's area and leakage, the function of its outputs, the
capacitance of its inputs, and the energy that an output's transition takes inside the cell.
Source of the syntax and the units: the Liberty Reference Manual (Open Source Liberty, 2017.06).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import BackendUnavailable
from ..errors import CorruptFile
from .boolean import BadFunction, Expression, parse_function
from .liberty_text import BadSyntax, Group, parse
from .remember import keep, place, recall

#: Enters the name of a remembered library: raise it when what is read of one changes.
EDITION = 1

#: Name -> file and the Debian package that brings it.
SHIPPED = {
    "osu018": ("osu018/osu018_stdcells.lib", "qflow-tech-osu018"),
    "osu035": ("osu035/osu035_stdcells.lib", "qflow-tech-osu035"),
    "osu050": ("osu050/osu05_stdcells.lib", "qflow-tech-osu050"),
}
_SHARE = Path("/usr/share/qflow/tech")

#: Fan-out of the inverter whose edges set the slew at which energies are read.
_FANOUT = 4
_PREFIXES = {"m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15, "": 1.0}


class BadLibrary(CorruptFile):
    """A file is no Liberty library that can be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Table:
    """A value over load and slew, both in SI units, bilinear between its points.

    Attributes:
        loads, slews: ascending points; one point alone: no dependence.
        values: [loads][slews], in SI units.
    """

    loads: tuple[float, ...]
    slews: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def at(self, loads: NDArray[np.float64], slew: float) -> NDArray[np.float64]:
        """The values at some loads and one slew; beyond the points, those at the edge."""
        rows = [np.interp(slew, self.slews, row) for row in self.values]
        return np.interp(loads, self.loads, rows)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        area: in the library's unit of area.
        leakage: in watts.
        inputs: input pin -> capacitance in farads.
        functions: output pin -> its function as text; empty for a cell that remembers.
        energies: output pin -> tables, one for each input and edge, of the joules a transition
            takes inside the cell.
        transitions: output pin -> tables of the slew that it drives, in seconds.
    """

    name: str
    area: float
    leakage: float
    inputs: Mapping[str, float]
    functions: Mapping[str, str]
    energies: Mapping[str, tuple[Table, ...]]
    transitions: Mapping[str, tuple[Table, ...]]

    def energy(self, pin: str, loads: NDArray[np.float64], slew: float) -> NDArray[np.float64]:
        """Joules of one transition of an output: the mean over inputs and both edges."""
        tables = self.energies.get(pin, ())
        total = np.zeros(loads.shape)
        for table in tables:
            total += table.at(loads, slew)
        return total / max(1, len(tables))


@dataclass(frozen=True)
class Library:
    """A cell library.

    Attributes:
        label: how the user named it.
        name: what the file calls itself.
        path: the file; ``digest``: its SHA-256.
        voltage: nominal, in volts.
    """

    label: str
    name: str
    path: Path
    digest: str
    voltage: float
    cells: Mapping[str, Cell] = field(repr=False)

    @cached_property
    def inverter(self) -> Cell:
        """The smallest inverter.

        Raises:
            BadLibrary: there is none.
        """
        found = [cell for cell in self.cells.values() if _computes(cell, "!")]
        if not found:
            raise BadLibrary(f"{self.path} has no inverter: no netlist can be mapped to it")
        return min(found, key=lambda cell: (cell.area, cell.name))

    @cached_property
    def driver(self) -> Cell:
        """The cell that drives a module's inputs: the smallest buffer, else the inverter."""
        found = [cell for cell in self.cells.values() if _computes(cell, "")]
        return min(found, key=lambda cell: (cell.area, cell.name), default=self.inverter)

    @cached_property
    def load(self) -> float:
        """What a module's outputs drive, in farads: four inputs of the smallest inverter."""
        return _FANOUT * next(iter(self.inverter.inputs.values()))

    @cached_property
    def slew(self) -> float:
        """The edge that the smallest inverter makes from its own into four of its kind, in s."""
        tables = next(iter(self.inverter.transitions.values()), ())
        loads, slew = np.array([self.load]), 0.0
        for _ in range(20):
            slew = float(np.mean([table.at(loads, slew) for table in tables])) if tables else 0.0
        return slew

    @cached_property
    def gate_area(self) -> float:
        """The area of the smallest cell that is a NAND of two inputs: one gate equivalent.

        Raises:
            BadLibrary: there is none.
        """
        found = [cell.area for cell in self.cells.values() if _is_nand2(cell)]
        if not found:
            raise BadLibrary(f"{self.path} has no NAND of two inputs to count gates in")
        return min(found)

    def function(self, cell: str, pin: str) -> Expression:
        """The function of a cell's output."""
        return parse_function(self.cells[cell].functions[pin])


def find_library(name: str) -> Path:
    """The Liberty file of a shipped name, or the user's own file.

    Raises:
        BackendUnavailable: it is not here; the message says how to get it.
    """
    if name in SHIPPED:
        file, package = SHIPPED[name]
        if (_SHARE / file).is_file():
            return _SHARE / file
        raise BackendUnavailable(
            f"the cell library {name} is not installed: "
            f"apt-get install -y --no-install-recommends {package}"
        )
    if Path(name).is_file():
        return Path(name)
    raise BackendUnavailable(
        f"there is no cell library '{name}': neither a file nor one of {', '.join(SHIPPED)}"
    )


def load_library(name: str) -> Library:
    """Read a library; what was read of it is remembered in the cache directory.

    Args:
        name: one of SHIPPED, or the path of a Liberty file.

    Raises:
        BackendUnavailable: it is not here.
        BadLibrary: the file is no complete Liberty library, or has no gates to map to.
    """
    path = find_library(name)
    octets = path.read_bytes()
    digest = hashlib.sha256(octets).hexdigest()
    remembered = place("liberty", [EDITION, digest])
    known = recall(remembered)
    if known is not None:
        return _restored(name, path, digest, known)
    try:
        group = parse(octets.decode("utf-8", "replace"))
        stated = _Reader(group).stated()
    except (BadSyntax, BadFunction, ValueError) as error:
        raise BadLibrary(f"{path} is no usable Liberty library: {error}") from error
    library = _restored(name, path, digest, stated)
    if not library.inverter or not library.gate_area:
        raise BadLibrary(f"{path} gives its gates no area")
    keep(remembered, stated)
    return library


def _restored(label: str, path: Path, digest: str, stated: dict[str, Any]) -> Library:
    cells = {
        cell["name"]: Cell(
            name=cell["name"],
            area=cell["area"],
            leakage=cell["leakage"],
            inputs=cell["inputs"],
            functions=cell["functions"],
            energies={k: tuple(_table(t) for t in v) for k, v in cell["energies"].items()},
            transitions={k: tuple(_table(t) for t in v) for k, v in cell["transitions"].items()},
        )
        for cell in stated["cells"]
    }
    return Library(label, stated["name"], path, digest, stated["voltage"], cells)


def _table(stated: list[Any]) -> Table:
    loads, slews, values = stated
    return Table(tuple(loads), tuple(slews), tuple(map(tuple, values)))


def _computes(cell: Cell, sign: str) -> bool:
    """Whether a cell has one input and its output is that, behind a sign."""
    if len(cell.inputs) != 1 or len(cell.functions) != 1:
        return False
    (pin,) = cell.inputs
    (text,) = cell.functions.values()
    return parse_function(text) == parse_function(f"{sign}{pin}")


def _is_nand2(cell: Cell) -> bool:
    if len(cell.inputs) != 2 or len(cell.functions) != 1:
        return False
    (text,) = cell.functions.values()
    expression = parse_function(text)
    rows = [
        dict(zip(cell.inputs, (np.uint64(a), np.uint64(b)), strict=True))
        for a in (0, 1)
        for b in (0, 1)
    ]
    return [int(expression.value(row)) & 1 for row in rows] == [1, 1, 1, 0]


class _Reader:
    """Takes what costs are made of out of a parsed library."""

    def __init__(self, library: Group) -> None:
        if library.kind != "library":
            raise ValueError(f"it begins with '{library.kind}', not with 'library'")
        self._library = library
        self._time = _unit(library.text("time_unit", "1ns"))
        self._voltage = _unit(library.text("voltage_unit", "1V"))
        amount, letters = (library.listed("capacitive_load_unit") or ["1", "pf"])[:2]
        self._capacitance = float(amount) * _unit(letters)
        # The manual: internal power is in capacitance times voltage squared.
        self._energy = self._capacitance * self._voltage**2
        self._power = _unit(library.text("leakage_power_unit", "1nW"))
        kinds = ("lu_table_template", "power_lut_template")
        self._templates = {g.name: g for kind in kinds for g in library.of(kind)}

    def stated(self) -> dict[str, Any]:
        """Everything as JSON-ready values, in SI units."""
        cells = [self._cell(group) for group in self._library.of("cell")]
        if not cells:
            raise ValueError("it has no cells")
        voltage = self._library.number("nom_voltage", 1.0) * self._voltage
        return {"name": self._library.name, "voltage": voltage, "cells": cells}

    def _cell(self, cell: Group) -> dict[str, Any]:
        if "area" not in cell.attributes:
            raise ValueError(f"its cell {cell.name} (line {cell.line}) has no area")
        remembers = any(cell.of(kind) for kind in ("ff", "latch", "statetable"))
        stated: dict[str, Any] = {
            "name": cell.name,
            "area": cell.number("area", 0.0),
            "leakage": self._leakage(cell),
            "inputs": {},
            "functions": {},
            "energies": {},
            "transitions": {},
        }
        for pin in cell.of("pin"):
            direction = pin.text("direction", "input")
            if direction == "input":
                load = pin.number("capacitance", 0.0) * self._capacitance
                stated["inputs"][pin.name] = load
            elif direction == "output" and not remembers and "function" in pin.attributes:
                function = pin.text("function", "")
                stated["functions"][pin.name] = function
                stated["energies"][pin.name] = self._tables(
                    pin, "internal_power", ("rise_power", "fall_power"), self._energy
                )
                stated["transitions"][pin.name] = self._tables(
                    pin, "timing", ("rise_transition", "fall_transition"), self._time
                )
        # Pads and the like compute from pins that are no inputs: no netlist of ours has them.
        known = stated["inputs"].keys()
        for pin, function in list(stated["functions"].items()):
            if not parse_function(function).pins <= known:
                del stated["functions"][pin]
        return stated

    def _leakage(self, cell: Group) -> float:
        if "cell_leakage_power" in cell.attributes:
            return cell.number("cell_leakage_power", 0.0) * self._power
        states = [group.number("value", 0.0) for group in cell.of("leakage_power")]
        return sum(states) / len(states) * self._power if states else 0.0

    def _tables(self, pin: Group, kind: str, names: tuple[str, ...], unit: float) -> list[Any]:
        found = [
            self._points(table, unit)
            for group in pin.of(kind)
            for name in names
            for table in group.of(name)
        ]
        return [points for points in found if points is not None]

    def _points(self, table: Group, unit: float) -> list[Any] | None:
        """Loads, slews and values in SI units, loads first."""
        values = table.numbers("values")
        if not values:
            return None
        template = self._templates.get(table.name)
        if len(values) == 1:
            return [[0.0], [0.0], [[values[0] * unit]]]
        if template is None:
            raise ValueError(f"the table in line {table.line} names no template")
        axes = []
        for i in (1, 2):
            variable = template.text(f"variable_{i}", "")
            points = table.numbers(f"index_{i}") or template.numbers(f"index_{i}")
            if variable:
                axes.append((variable.endswith("capacitance"), points))
        shape = tuple(len(points) for _, points in axes)
        if len(values) != int(np.prod(shape)) or len(axes) > 2:
            raise ValueError(
                f"the table in line {table.line} has {len(values)} values, not {shape}"
            )
        grid = np.array(values).reshape(shape) * unit
        if len(axes) == 1:
            axes.append((not axes[0][0], [0.0]))
            grid = grid[:, None]
        if not axes[0][0]:
            axes, grid = axes[::-1], grid.T
        loads = [point * self._capacitance for point in axes[0][1]]
        slews = [point * self._time for point in axes[1][1]]
        return [loads, slews, grid.tolist()]


def _unit(text: str) -> float:
    """``10ps`` as a number of SI units."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    letters = text[len(digits) :].strip()
    prefix = letters[:-1].lower() if letters else ""
    if prefix not in _PREFIXES:
        raise ValueError(f"its unit '{text}' is none that is known")
    return float(digits.strip() or 1) * _PREFIXES[prefix]
