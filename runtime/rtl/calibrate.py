"""Fitting the analytic model against synthesis: ``python -m fmtc.runtime.rtl.calibrate``.

Prints the coefficients for ``calibration.py``, and how far the model is off on every format.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ...codegen.design import Design
from ...formats import load
from . import activity
from .analytic import CALIBRATED_ON, FITTED_ON, HELD_OUT, blocks, depths, fit
from .liberty import load_library
from .measure import Bench, lane_design


@dataclass(frozen=True, slots=True)
class Sample:
    """A design and what synthesis makes of it: area, delay in seconds, joules."""

    name: str
    design: Design
    area: float
    delay: float
    energy: float


def sample(weights: str, activations: str, bench: Bench) -> Sample:
    """Synthesize one pair of formats; an empty name: HIF8 activations.

    Raises:
        BackendUnavailable: a tool is missing.
    """
    fmt = load(weights)
    other = load(activations) if activations else None
    design = lane_design(fmt, other)
    found = bench.design(design, fmt, other)
    energy = 0.0 if found.energy is None else found.energy.dynamic
    name = f"{weights} x {activations or 'HIF8'}"
    return Sample(name, design, found.first.area, found.first.delay, energy)


def calibration_bench() -> Bench:
    """The flow that the model stands for: yosys's own script, real operands.

    Raises:
        BackendUnavailable: a tool or the library is missing.
    """
    return Bench(load_library(CALIBRATED_ON), ("relaxed",), activity.data())


def coefficients(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """The model's coefficients, in the units of the library."""
    units = [blocks(one.design) for one in samples]
    return {
        "area": fit(units, [one.area for one in samples]),
        "delay": fit([depths(one.design) for one in samples], [one.delay for one in samples]),
        "energy": fit(units, [one.energy for one in samples]),
    }


def main() -> None:
    """Fit, and print."""
    bench = calibration_bench()
    fitted = [sample(*pair, bench) for pair in FITTED_ON]
    found = coefficients(fitted)
    sys.stdout.write(f"COEFFICIENTS = {found}\n")
    for one in (*fitted, *(sample(*pair, bench) for pair in HELD_OUT)):
        guess = {
            key: sum(found[key][name] * unit for name, unit in units.items())
            for key, units in (
                ("area", blocks(one.design)),
                ("delay", depths(one.design)),
                ("energy", blocks(one.design)),
            )
        }
        truth = {"area": one.area, "delay": one.delay, "energy": one.energy}
        off = ", ".join(f"{key} {100 * (guess[key] / truth[key] - 1):+.1f} %" for key in truth)
        sys.stdout.write(f"{one.name}: {off}\n")


if __name__ == "__main__":
    main()
