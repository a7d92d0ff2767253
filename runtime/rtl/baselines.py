"""The dot products that formats are held against: BF16, E4M3 with an exact sum, INT8 and NVFP4.

All are made by the same generator, synthesized by the same flow and run on the same weights and
activations; each multiplies its own kind. SOP (arXiv:2605.14929) argues with BF16, E4M3 and INT8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...compiler.format import Format
from ...formats import load
from . import analytic, bf16, hosts
from .energy import Energy
from .measure import LANES, Bench, Measured, Point, lane_design

#: Name -> the format that is multiplied with itself.
SELVES = {"E4M3": "mxfp8_e4m3", "INT8": "mxint8", "NVFP4": "nvfp4"}

#: What HIF7 x HIF8 is to stay below, of a baseline's area, at no more delay.
TARGETS = {"BF16": 0.35, "E4M3": 0.55, "INT8": 0.55}


@dataclass(frozen=True)
class Row:
    """A dot product of 16 elements; ``area_at_delay``: see ``Comparison``."""

    name: str
    what: str
    dot: Measured


@dataclass(frozen=True)
class Comparison:
    """Formats times HIF8, and the baselines.

    Attributes:
        library: of the cells.
        formats, baselines: measured alike.
    """

    library: str
    formats: tuple[Row, ...]
    baselines: tuple[Row, ...]

    def ratios(self, row: Row, base: Row) -> dict[str, float | None]:
        """A format's figures divided by a baseline's.

        ``area`` and ``delay`` are of the first points of both curves. ``area_at_delay`` is the
        least area that is no slower than the baseline's smallest point, by that point's area;
        None: there is none.
        """
        small = min(base.dot.points, key=lambda point: (point.area, point.delay))
        own = row.dot.area_within(small.delay)
        taken, other = row.dot.energy, base.dot.energy
        return {
            "area": row.dot.first.area / base.dot.first.area,
            "delay": row.dot.first.delay / base.dot.first.delay,
            "area_at_delay": None if own is None else own / small.area,
            "energy": None if taken is None or other is None else taken.dynamic / other.dynamic,
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for every dot product, the formats first: figures, and ratios to the baselines."""
        rows = []
        for one in (*self.formats, *self.baselines):
            small = min(one.dot.points, key=lambda point: (point.area, point.delay))
            fast = min(one.dot.points, key=lambda point: point.delay)
            taken = one.dot.energy
            rows.append(
                {
                    "dot product": one.name,
                    "of": one.what,
                    "area": round(one.dot.first.area),
                    "delay ns": _digits(one.dot.first.delay * 1e9),
                    "smallest": f"{small.area:,.0f} / {small.delay * 1e9:.2f}",
                    "fastest": f"{fast.area:,.0f} / {fast.delay * 1e9:.2f}",
                    "energy pJ": None if taken is None else _digits(taken.dynamic * 1e12),
                    "with hazards": None if taken is None else _digits(taken.glitching * 1e12),
                }
            )
        return rows

    def verdicts(self) -> list[str]:
        """A line for every format and baseline: the ratios, and whether a target is met."""
        lines = []
        for row in self.formats:
            for base in self.baselines:
                ratios = self.ratios(row, base)
                text = f"{row.name} / {base.name}: area {ratios['area']:.3f}"
                text += f", delay {ratios['delay']:.3f}"
                equal = ratios["area_at_delay"]
                text += (
                    ", slower at every point"
                    if equal is None
                    else (f", least area at no more delay than its smallest {equal:.3f}")
                )
                if ratios["energy"] is not None:
                    text += f", energy {ratios['energy']:.3f}"
                target = TARGETS.get(base.name)
                if target is not None:
                    met = equal is not None and equal <= target
                    text += f" (target {target:g}: {'met' if met else 'missed'})"
                lines.append(text)
        return lines

    def values(self) -> dict[str, Any]:
        """Everything, as JSON-ready values."""
        return {
            "library": self.library,
            "targets": TARGETS,
            "rows": self.rows(),
            "ratios": [
                {"format": row.name, "baseline": base.name, **self.ratios(row, base)}
                for row in self.formats
                for base in self.baselines
            ],
        }


def compare(formats: Sequence[Format], bench: Bench | None) -> Comparison:
    """Measure formats times HIF8, and the baselines.

    Args:
        formats: whose codes meet HIF8 words.
        bench: measures; None: the analytic model says all, which has no floating-point sums.

    Raises:
        BackendUnavailable: synthesis fails.
    """
    rows = [Row(fmt.name, "codes by table x HIF8", _dot(fmt, None, bench)) for fmt in formats]
    bases = []
    if bench is not None:
        bases.append(Row("BF16", "BF16 x BF16, aligned", bf16.dot(bench)))
        if formats and formats[0].block % LANES == 0:
            bases.append(_from_codes(formats[0], bench))
    for name, own in SELVES.items():
        fmt = load(own)
        bases.append(Row(name, f"{own} x {own}", _dot(fmt, fmt, bench)))
    library = analytic.NAME if bench is None else bench.library.label
    return Comparison(library, tuple(rows), tuple(bases))


def _from_codes(fmt: Format, bench: Bench) -> Row:
    """BF16 as well, but its weights come from the format's codes by a table, as the format's do."""
    found, _ = hosts.hosted(fmt, hosts.HOSTS["bf16"])
    measured = bf16.hosted_dot(bench, fmt, found.grids)
    return Row("BF16 by table", f"{fmt.name}'s codes x BF16", measured)


def _dot(fmt: Format, activation: Format | None, bench: Bench | None) -> Measured:
    design = lane_design(fmt, activation)
    if bench is not None:
        return bench.design(design, fmt, activation)
    guess = analytic.estimate(design)
    point = Point(analytic.NAME, guess.area, guess.delay, analytic.NAME, guess.delay)
    return Measured(f"{fmt.name}_dot", (point,), Energy(guess.energy, math.nan, math.nan, 0))


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
