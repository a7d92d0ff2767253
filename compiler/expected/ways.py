"""The ways that a format may encode a block, under real scales that nothing rounds.

A stored scale is the real one rounded to a scale word; here it is left as it is, so that what is
seen is the grids' doing. What a nudge of a stored scale (``search``) tries is left out with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..floats import named_float
from ..format import Format
from ..view import Trial, view_of

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Way:
    """A grid and the rule that finds its scale: a trial of a format (``view.Trial``).

    Attributes:
        name: of the grid, and of what tells this trial from others of the same grid.
        values: the grid, ascending.
        rule: as in ``format.Scale``; of powers of two, or ``absmax``, ``argmax``, ``range``.
        positive, negative: divisors of the two sides; a side of divisor 0 does not count.
        flip: the grid is mirrored.
        end_is_negative: the end that rule argmax maps the largest element to.
        step: the part of a power of two by which ``even_log2`` rounds up early.
        zero: ``none``, ``point`` or ``minimum``; ``spans_zero``: the range reaches to zero.
    """

    name: str
    values: tuple[float, ...]
    rule: str
    positive: float
    negative: float
    flip: bool = False
    end_is_negative: bool = False
    step: float = 0.0
    zero: str = "none"
    spans_zero: bool = True

    @property
    def midpoints(self) -> F64:
        """Where the nearest value changes, in units of the scale: [values - 1]."""
        grid: F64 = np.array(self.values)
        return np.asarray((grid[1:] + grid[:-1]) / 2, np.float64)

    def scales(self, positive: F64, negative: F64, peak_is_negative: Mask) -> F64:
        """Signed scales from the largest positive and negative magnitudes of blocks.

        A negative scale mirrors the grid. Not for rule ``range``.
        """
        if self.rule == "argmax":
            size = np.maximum(positive, negative) / self.positive
            return np.where(peak_is_negative == self.end_is_negative, size, -size)
        up, down = (negative, positive) if self.flip else (positive, negative)
        size = up / self.positive
        if self.negative:
            size = np.maximum(size, down / self.negative)
        if self.rule != "absmax":
            size = _power(self.rule, size, self.step)
        return -size if self.flip else size

    def breaks(self, *, peak_is_negative: bool) -> tuple[float, ...]:
        """From which share of the largest magnitude on the other side's largest one counts."""
        if self.rule == "argmax" or self.negative == 0:
            return ()
        share = self.negative / self.positive
        share = 1 / share if peak_is_negative != self.flip else share
        return (share,) if share < 1 else ()

    def errors(self, x: F64, scale: F64) -> F64:
        """Squared errors of the nearest values, ``scale`` broadcast against ``x``."""
        safe = np.where(scale == 0, 1.0, scale)
        rank = np.searchsorted(self.midpoints, x / safe)
        return np.square(x - np.array(self.values)[rank] * scale)

    @property
    def is_even(self) -> bool:
        """Whether a block and its mirror image are encoded alike."""
        mirrored = tuple(-value for value in reversed(self.values))
        return self.rule == "argmax" or (
            self.positive == self.negative and mirrored == self.values and self.zero == "none"
        )


def ways_of(fmt: Format) -> tuple[Way, ...]:
    """The ways that a format chooses among, each once, in its order of preference."""
    trials = [trial for trial in view_of(fmt).trials if trial.step == 0]
    targets = max(1, len(fmt.scale.targets))
    ways: dict[Way, None] = {}
    for index, trial in enumerate(trials):
        ways.setdefault(_way(fmt, trial, _name(fmt, trial, index, targets)))
    return tuple(ways)


def _way(fmt: Format, trial: Trial, name: str) -> Way:
    grid = fmt.grids[trial.grid]
    number = named_float(fmt.grids[0].atom)
    zero = fmt.zero
    return Way(
        name=name,
        values=tuple(float(value) for value in grid.numbers),
        rule=fmt.scale.rule,
        positive=float(trial.positive_divisor),
        negative=float(trial.negative_divisor),
        flip=trial.flip,
        end_is_negative=grid.absmax_end < 0,
        step=0.25 / (1 << (0 if number is None else number.mantissa)),
        zero="none" if zero is None else zero.kind,
        spans_zero=zero is None or zero.kind == "point" or zero.negated,
    )


def _name(fmt: Format, trial: Trial, index: int, targets: int) -> str:
    signs = 2 if fmt.scale.both_signs else 1
    name = fmt.grids[trial.grid].name
    if targets > 1:
        name += f"/{float(fmt.scale.targets[index // signs % targets]):g}"
    return f"{'-' * trial.flip}{name}"


def _power(rule: str, size: F64, step: float) -> F64:
    """The power of two that a rule takes for a real scale."""
    with np.errstate(divide="ignore"):
        log = np.log2(size)
    match rule:
        case "floor_log2":
            rank = np.floor(log)
        case "ceil_log2":
            rank = np.ceil(log)
        case "even_log2":
            rank = np.floor(log - np.log2(1 - step))
        case _:
            rank = np.ceil(log - 0.5)
    return np.exp2(rank)
