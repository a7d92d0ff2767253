"""What a format costs: hardware, storage and bandwidth, in one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...codegen.design import hif8_activation
from ...compiler.format import Format
from . import analytic
from .measure import LANES, Bench, Measured, Measurement, lane_design


@dataclass(frozen=True)
class Cost:
    """One row.

    Attributes:
        model: ``synthesis`` or the name of the analytic model.
        library: of the cells.
        measured: where it was synthesized.
        estimated: the model's figures, where it was not.
        bits_per_cycle: that a core of ``tile`` rows and columns takes in every cycle.
        mse: of Gaussian elements of variance 1, by the reference encoder; None: not asked for.
    """

    name: str
    activations: str
    model: str
    library: str
    lanes: int
    bpw: float
    tile: tuple[int, int]
    bits_per_cycle: float
    measured: Measurement | None
    estimated: analytic.Estimate | None
    mse: float | None = None

    @property
    def area(self) -> float:
        """Of the dot product, in the library's unit."""
        if self.measured is not None:
            return self.measured.dot.first.area
        assert self.estimated is not None
        return self.estimated.area

    @property
    def delay(self) -> float:
        """Of the dot product, in seconds."""
        if self.measured is not None:
            return self.measured.dot.first.delay
        assert self.estimated is not None
        return self.estimated.delay

    @property
    def energy(self) -> float | None:
        """Joules of one dot product, without delays; None: not taken."""
        if self.estimated is not None:
            return self.estimated.energy
        assert self.measured is not None
        taken = self.measured.dot.energy
        return None if taken is None else taken.dynamic

    @property
    def bytes_per_weight(self) -> float:
        """Stored bytes of a weight."""
        return self.bpw / 8

    def values(self) -> dict[str, Any]:
        """Everything, as JSON-ready values; areas in the library's unit, else SI units."""
        row: dict[str, Any] = {
            "format": self.name,
            "activations": self.activations,
            "model": self.model,
            "library": self.library,
            "lanes": self.lanes,
            "area": self.area,
            "area_per_lane": self.area / self.lanes,
            "delay": self.delay,
            "energy": self.energy,
            "bpw": self.bpw,
            "bytes_per_weight": self.bytes_per_weight,
            "tile": list(self.tile),
            "bits_per_cycle": self.bits_per_cycle,
            "mse": self.mse,
        }
        if self.estimated is not None:
            return row | {"parts": dict(self.estimated.parts)}
        found = self.measured
        assert found is not None
        parts = dict(found.parts)
        if found.scale_apply is not None:
            parts["scale_apply"] = found.scale_apply
        placed = found.placed
        return row | {
            "data": found.data or None,
            "energy_per_product": found.energy_per_product,
            "dot": _measured(found.dot),
            "parts": {name: _measured(part) for name, part in parts.items()},
            "fpga": None if placed is None else {"luts": placed.luts, "mhz": placed.mhz},
        }


def _measured(one: Measured) -> dict[str, Any]:
    taken = one.energy
    return {
        "module": one.module,
        "points": [
            {
                "effort": point.effort,
                "area": point.area,
                "delay": point.delay,
                "delay_by": point.delay_by,
                "abc_delay": point.abc_delay,
            }
            for point in one.points
        ],
        "energy": None
        if taken is None
        else {
            "zero_delay": taken.dynamic,
            "unit_delay": taken.glitching,
            "leakage_power": taken.leakage,
            "vectors": taken.vectors,
        },
    }


def cost_of(
    fmt: Format,
    activation: Format | None,
    bench: Bench | None,
    tile: tuple[int, int],
    mse: float | None = None,
) -> Cost:
    """The row of a format.

    Args:
        fmt: a format whose blocks are runs of one row with a scale word each.
        activation: the activations' format; None: HIF8 words.
        bench: measures; None: the analytic model says all.
        tile: rows (of activations) and columns (of weights) of a core.
        mse: to be shown beside it.

    Raises:
        BackendUnavailable: synthesis fails.
        ValueError: the formats do not multiply block by block.
    """
    design = lane_design(fmt, activation)
    taken = activation or hif8_activation(LANES)
    measured = None if bench is None else bench.format(fmt, activation)
    return Cost(
        name=fmt.name,
        activations=taken.name,
        model=analytic.NAME if bench is None else "synthesis",
        library=analytic.CALIBRATED_ON if bench is None else bench.library.label,
        lanes=design.block,
        bpw=fmt.bpw,
        tile=tile,
        bits_per_cycle=tile[1] * fmt.bpw + tile[0] * taken.bpw,
        measured=measured,
        estimated=analytic.estimate(design) if bench is None else None,
        mse=mse,
    )
