"""What a format's hardware costs in a cell library: area, delay and energy of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from ...codegen.design import Design, design_of, hif8_activation
from ...codegen.verilog.module import Module
from ...codegen.verilog.parts.dot import dot
from ...codegen.verilog.parts.scale_apply import scale_apply
from ...compiler.format import Format
from . import activity
from .activity import Data, Integers, Words
from .energy import Energy, energy
from .fpga import Placed, place_and_route
from .liberty import Library
from .netlist import Bits, Netlist, Simulation
from .synthesis import EFFORTS, synthesize

#: Lanes of the dot product that formats are compared by.
LANES = 16

#: The parts that decode an element, one of which a dot product has.
DECODERS = ("element_decoder", "arithmetic_decoder")

#: What is measured besides the dot product and the scaled accumulate: parts of the former.
PARTS = ("scale_decoder", *DECODERS, "multiply", "sum")

#: Hears what is being done.
Step = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One way to synthesize a design: area in the library's unit, delay in seconds."""

    effort: str
    area: float
    delay: float
    delay_by: str
    abc_delay: float


@dataclass(frozen=True)
class Measured:
    """A module in cells of a library, on its curve of area and delay.

    Attributes:
        points: by effort.
        energy: of the first effort's netlist; None: not taken.
    """

    module: str
    points: tuple[Point, ...]
    energy: Energy | None = None

    @property
    def first(self) -> Point:
        """The point that tables show: nothing was asked of the delay."""
        return self.points[0]

    def area_within(self, delay: float) -> float | None:
        """The least area of a point that is no slower; None: all are slower."""
        fits = [p.area for p in self.points if p.delay <= delay * (1 + 1e-9)]
        return min(fits, default=None)


@dataclass(frozen=True)
class Measurement:
    """A format's hardware, measured.

    Attributes:
        design: the dot product of ``lanes`` elements.
        block: elements that share a scale in the format itself; None: a row does.
        dot: the dot product with its decoders.
        parts: parts of it, by name, one of each.
        scale_apply: a block's scaled accumulate; None where scales are not of blocks.
        placed: on the FPGA; None: not asked for.
        data: what the energies are of; empty: none were taken.
    """

    design: Design
    block: int | None
    dot: Measured
    parts: Mapping[str, Measured]
    scale_apply: Measured | None
    placed: Placed | None
    data: str = ""

    @property
    def lanes(self) -> int:
        """Elements of the dot product."""
        return self.design.block

    @property
    def energy_per_product(self) -> float | None:
        """Joules of one product: its share of the dot product and of the scaled accumulate."""
        if self.dot.energy is None:
            return None
        share = self.dot.energy.dynamic / self.lanes
        if self.scale_apply is not None and self.scale_apply.energy is not None and self.block:
            share += self.scale_apply.energy.dynamic / self.block
        return share


def lane_design(fmt: Format, activation: Format | None = None, lanes: int = LANES) -> Design:
    """The dot product of ``lanes`` elements of a format, whatever its own block is.

    A block shorter than that is a dot product of its own; a longer one is summed piece by piece.
    """
    if fmt.extent == "block" and fmt.block % lanes:
        lanes = fmt.block
    return design_of(
        _in_blocks(fmt, lanes), _in_blocks(activation or hif8_activation(lanes), lanes)
    )


def block_design(fmt: Format, activation: Format | None = None) -> Design | None:
    """The dot product of a format's own blocks; None where a row or a tensor has one scale."""
    if fmt.extent != "block":
        return None
    return design_of(fmt, _in_blocks(activation or hif8_activation(fmt.block), fmt.block))


@lru_cache(maxsize=256)
def _in_blocks(fmt: Format, block: int) -> Format:
    if (fmt.block, fmt.extent, fmt.tile) == (block, "block", 1):
        return fmt
    return replace(fmt, block=block, extent="block", tile=1)


def decoders_of(module: Module) -> list[str]:
    """The names of the modules in a module that decode elements."""
    return [one.name for one in module.closure if one.part in DECODERS]


def sources_of(module: Module) -> dict[str, str]:
    """File name -> text of a module and all that it is made of."""
    return {f"{one.name}.v": one.text() for one in module.closure}


@dataclass
class Bench:
    """Measures designs with the same library, efforts and data.

    Attributes:
        library: whose cells are used.
        efforts: of synthesis, the first of which tables show.
        data: what energies are taken of; None: none are.
        fpga: whether designs are placed on the FPGA as well.
        step: hears what is being done.
    """

    library: Library
    efforts: tuple[str, ...] = tuple(EFFORTS)
    data: Data | None = None
    fpga: bool = False
    step: Step = field(default=lambda _: None)

    def format(self, fmt: Format, activation: Format | None = None) -> Measurement:
        """All figures of a format.

        Args:
            fmt: whose blocks are runs of one row with a scale word each.
            activation: the activations' format; None: HIF8 words.

        Raises:
            BackendUnavailable: yosys is missing or refuses the design.
        """
        design, own = lane_design(fmt, activation), block_design(fmt, activation)
        module = dot(design)
        parts = {
            one.part: self.module(one, self.efforts[:1])
            for one in module.closure
            if one.part in PARTS and one.owner == design.weights.fmt
        }
        step = None if own is None else self._scaling(own, fmt)
        measured = self.design(design, fmt, activation)
        placed = None
        if self.fpga:
            self.step(f"{module.name}: place and route")
            placed = place_and_route(sources_of(module), module.name)
        block = fmt.block if fmt.extent == "block" else None
        source = "" if self.data is None else self.data.source
        return Measurement(design, block, measured, parts, step, placed, source)

    def design(
        self,
        design: Design,
        fmt: Format,
        activation: Format | None = None,
        *,
        loadable: bool = False,
    ) -> Measured:
        """The dot product of a design, with the energy of ``fmt``'s codes running through it.

        Args:
            design: of the lanes that one cycle takes.
            fmt: whose codes run through it.
            activation: of the other factor; None: HIF8 words.
            loadable: tables are mapped apart, so that the products take any word of the host.
        """
        module = dot(design)
        apart = tuple(decoders_of(module)) if loadable else ()
        inputs = None
        if self.data is not None:
            weights = activity.words_of(fmt, self.data.weights)
            taken = activation or hif8_activation(LANES)
            factors = activity.words_of(taken, self.data.activations)
            inputs = activity.dot_inputs(design, weights, factors)
        return self.text(sources_of(module), module.name, inputs, apart)

    def module(self, module: Module, efforts: tuple[str, ...] | None = None) -> Measured:
        """A module's curve of area and delay."""
        points = self._points(sources_of(module), module.name, efforts or self.efforts, ())
        return Measured(module.name, points)

    def text(
        self,
        sources: Mapping[str, str],
        top: str,
        inputs: Mapping[str, Bits] | None,
        apart: tuple[str, ...] = (),
    ) -> Measured:
        """A combinational module's curve of area and delay, and its energy.

        Args:
            sources: file name -> Verilog.
            top: the module.
            inputs: of its ports, and perhaps of others; None: no energy is taken.
            apart: see ``synthesize``.
        """
        points = self._points(sources, top, self.efforts, apart)
        if inputs is None:
            return Measured(top, points)
        self.step(f"{top}: energy")
        mapped = synthesize(sources, top, self.library, self.efforts[0], apart=apart)
        given = activity.selected(inputs, mapped.netlist.inputs)
        return Measured(top, points, energy(mapped.netlist, self.library, given))

    def _points(
        self,
        sources: Mapping[str, str],
        top: str,
        efforts: tuple[str, ...],
        apart: tuple[str, ...],
    ) -> tuple[Point, ...]:
        points = []
        for effort in efforts:
            self.step(f"{top}: synthesis ({effort})")
            found = synthesize(sources, top, self.library, effort, apart=apart)
            points.append(Point(effort, found.area, found.delay, found.delay_by, found.abc_delay))
        return tuple(points)

    def _scaling(self, design: Design, fmt: Format) -> Measured:
        """A block's scaled accumulate."""
        module = scale_apply(design)
        measured = self.module(module, self.efforts[:1])
        if self.data is None:
            return measured
        self.step(f"{module.name}: energy")
        weights = activity.words_of(fmt, self.data.weights)
        factors = activity.words_of(design.activations.fmt, self.data.activations)
        effort = self.efforts[0]
        netlist = synthesize(sources_of(module), module.name, self.library, effort).netlist
        sums = (_values(design, weights, 0) * _values(design, factors, 1)).sum(axis=2)
        values = activity.scale_inputs(design, sums, np.ones_like(sums), weights, factors)
        values["accumulator_i"] = _accumulators(netlist, self.library, values)
        inputs = {
            name: activity.port_bits(values[name], len(nets))
            for name, nets in netlist.inputs.items()
        }
        return replace(measured, energy=energy(netlist, self.library, inputs))


def _values(design: Design, words: Words, side: int) -> Integers:
    operand = (design.weights, design.activations)[side].operand
    coefficients, shifts = activity.operands(operand, words)
    return np.left_shift(coefficients, shifts)


def _accumulators(netlist: Netlist, library: Library, values: Mapping[str, Integers]) -> Integers:
    """What the accumulator holds before every block: [rows, blocks], by the netlist itself."""
    simulation = Simulation(netlist, library)
    rows, blocks = values["sum_i"].shape
    found = np.zeros((rows, blocks), np.int64)
    for block in range(blocks - 1):
        now = {name: array[:, block] for name, array in values.items()}
        now["accumulator_i"] = found[:, block]
        inputs = {
            name: activity.port_bits(now[name], len(nets)) for name, nets in netlist.inputs.items()
        }
        result = simulation.run(inputs)["result_o"]
        found[:, block + 1] = activity.port_values(result, signed=False)
    return found
