"""The same codes with a table of other words: what a host's words cost, and what they err.

A grid is scaled by one factor and its values are rounded to the host's numbers; the factor is free
or a power of two. A block's scale undoes it, so only what rounding moves changes the error (SOP,
arXiv:2605.14929, hosts atoms in HIF words this way).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codegen.design import Design
from ...compiler.datapath.accumulators import Bounds
from ...compiler.datapath.operands import Operand
from ...compiler.floats import named_float
from ...compiler.format import Format, Grid
from ...compiler.hosts import HIF7, HIF8, HifWord
from ..gaussian import SEED
from . import analytic, bf16
from .measure import LANES, Bench, Measured, lane_design

F64 = NDArray[np.float64]

#: Blocks of Gaussian elements that errors are taken on.
_BLOCKS = 8192
#: Free factors that are tried, and the last of them again around the best.
_COARSE, _FINE = 96, 24


@dataclass(frozen=True, slots=True)
class Host:
    """Words that a table may hold: a coefficient and a shift.

    Attributes:
        bits: of a word.
        coefficient_bits, max_shift: of its multiplier's operand.
    """

    name: str
    bits: int
    coefficient_bits: int
    max_shift: int
    meaning: str


#: By the names that ``--hosts`` takes.
HOSTS = {
    host.name: host
    for host in (
        Host("hif7", 7, 5, HIF7.max_shift, "5-bit coefficients shifted by 0..3"),
        Host("hif8", 8, 5, HIF8.max_shift, "5-bit coefficients shifted by 0..4"),
        Host("tc6", 8, 6, 3, "6-bit coefficients shifted by 0..3"),
        Host("e2m3", 6, 5, 2, "E2M3: 5-bit signed significands shifted by 0..2"),
        Host("e4m3", 8, 5, 14, "E4M3: 5-bit signed significands shifted by 0..14"),
        Host("bf16", 16, 9, 254, "BF16: 9-bit signed significands, 8-bit exponents"),
    )
}


@dataclass(frozen=True, slots=True)
class Hosted:
    """A format's grids in a host's words.

    Attributes:
        factor: that the grids are multiplied with before they are rounded.
        mse: of Gaussian blocks, under exact scales; ``penalty``: beside the unhosted grids'.
        grids: the rounded values.
    """

    host: Host
    rule: str
    factor: float
    mse: float
    penalty: float
    grids: tuple[Grid, ...]


def hosted(fmt: Format, host: Host) -> tuple[Hosted, Hosted]:
    """A format's grids in a host, with the best power of two and with the best free factor."""
    numbers = _numbers(host)
    sample = _Sample(fmt)
    plain = sample.mse(fmt.grids)

    def trial(rule: str, factor: float) -> Hosted:
        grids = _rounded(fmt, host, numbers, factor)
        mse = sample.mse(grids)
        return Hosted(host, rule, factor, mse, mse / plain - 1, grids)

    most = max(abs(float(v)) for grid in fmt.grids for v in grid.numbers)
    top = float(numbers[-1])
    if host.name == "bf16":
        one = trial("power of two", 1.0)
        return one, replace(one, rule="free")
    power = 2.0 ** np.floor(np.log2(top / most))
    powers = [trial("power of two", power / 2**i) for i in range(3)]
    # Below half the host's range a factor has its like above, but for the lowest bits.
    coarse = [trial("free", top / most * 4 ** (-i / _COARSE)) for i in range(_COARSE + 1)]
    first = min((*powers, *coarse), key=_error)
    near = 4 ** (1 / _COARSE)
    spread = np.geomspace(first.factor / near, first.factor * near, _FINE)
    fine = [trial("free", float(factor)) for factor in spread]
    return min(powers, key=_error), replace(min((first, *fine), key=_error), rule="free")


def hosted_design(fmt: Format, found: Hosted, activation: Format | None = None) -> Design:
    """The dot product of the format's codes through a table of the host's words.

    The multiplier takes any word of the host, so that other codebooks can be loaded.
    """
    host = found.host
    plain = lane_design(replace(fmt, grids=found.grids, host="fp32"), activation)
    operand = _operand(host, plain.weights.operand, found)
    term = operand.value.times(plain.activations.operand.value)
    return replace(
        plain,
        weights=replace(plain.weights, operand=operand),
        product=operand.coefficient.times(plain.activations.operand.coefficient),
        term=term,
        total=term.repeated(plain.block),
    )


def _operand(host: Host, plain: Operand, found: Hosted) -> Operand:
    """The grids as words of the host, the smallest shift that holds each."""
    half = 1 << (host.coefficient_bits - 1)
    words = tuple(
        tuple(None if v is None else _word(int(v), half, host.max_shift) for v in grid.values)
        for grid in found.grids
    )
    span = Bounds(-half if host.name in {"hif7", "hif8", "tc6"} else 1 - half, half - 1)
    reach = Bounds(span.low << host.max_shift, span.high << host.max_shift)
    return replace(
        plain,
        name=host.name,
        unit=0,
        coefficient_bits=host.coefficient_bits,
        max_shift=host.max_shift,
        coefficient=span,
        value=reach,
        words=words,
    )


def _word(integer: int, half: int, most: int) -> HifWord:
    for shift in range(most + 1):
        coefficient, rest = integer >> shift, integer & ((1 << shift) - 1)
        if not rest and -half <= coefficient < half:
            return HifWord(coefficient, shift)
    raise ValueError(f"no word holds {integer}")


@lru_cache(maxsize=16)
def _numbers(host: Host) -> tuple[int, ...]:
    """The host's numbers as integers of its smallest one; ascending. BF16 has none to list."""
    if host.name == "bf16":
        return (1,)
    number, half = named_float(host.name), 1 << (host.coefficient_bits - 1)
    shifts = range(host.max_shift + 1)
    if number is None:
        return tuple(sorted({c << s for c in range(-half, half) for s in shifts}))
    # A float's numbers are its significands shifted, up to where its NaN takes their place.
    most = number.largest / (number.magnitude(1) or 1)
    values = {c << s for c in range(1 - half, half) for s in shifts}
    return tuple(sorted(v for v in values if abs(v) <= most))


def _rounded(fmt: Format, host: Host, numbers: tuple[int, ...], factor: float) -> tuple[Grid, ...]:
    if host.name == "bf16":
        number = named_float("bf16")
        nearest: Callable[[Fraction], Fraction] = number.nearest if number else Fraction
    else:
        points = np.array(numbers)
        middles = (points[1:] + points[:-1]) / 2

        def nearest(value: Fraction) -> Fraction:
            return Fraction(int(points[np.searchsorted(middles, float(value), side="left")]))

    exact = Fraction(factor)
    return tuple(
        replace(
            grid,
            values=tuple(None if v is None else nearest(v * exact) for v in grid.values),
            negative_zero=grid.negative_zero,
        )
        for grid in fmt.grids
    )


class _Sample:
    """Gaussian blocks, and the error of grids on them under exact scales by the format's rule."""

    def __init__(self, fmt: Format) -> None:
        block = fmt.block if fmt.extent == "block" else 256
        count = max(64, _BLOCKS * 16 // block)
        draws = np.random.default_rng(SEED)
        self._x = draws.standard_normal((count, block))
        self._signed = fmt.scale.rule == "argmax"
        self._high = self._x.max(axis=1, keepdims=True)
        self._low = self._x.min(axis=1, keepdims=True)

    def mse(self, grids: tuple[Grid, ...]) -> float:
        """Every block takes the grid that errs less."""
        errors = [self._errors(np.array([float(v) for v in grid.numbers])) for grid in grids]
        return float(np.min(errors, axis=0).mean())

    def _errors(self, values: F64) -> F64:
        if self._signed:
            end = values[0] if -values[0] > values[-1] else values[-1]
            largest = np.where(-self._low > self._high, self._low, self._high)
            scales = largest / end
        else:
            above = self._high / values[-1] if values[-1] > 0 else np.zeros_like(self._high)
            below = self._low / values[0] if values[0] < 0 else np.zeros_like(self._low)
            scales = np.maximum(above, below)
        x = self._x / scales
        found = values[np.searchsorted((values[1:] + values[:-1]) / 2, x)]
        errors: F64 = (np.square(x - found) * np.square(scales)).mean(axis=1)
        return errors


def _error(one: Hosted) -> float:
    return one.mse


def figures(
    fmt: Format, found: Hosted, activation: Format | None, bench: Bench | None
) -> dict[str, Any]:
    """Area, delay and energy of the dot product through a host's table, and what they are by.

    Other factors of BF16 words are BF16 numbers; the model has no such sums.
    """
    if found.host.name == "bf16":
        if bench is None or fmt.block % LANES:
            return {}
        return _measured(bf16.hosted_dot(bench, fmt, found.grids))
    design = hosted_design(fmt, found, activation)
    if bench is None:
        estimate = analytic.estimate(design)
        return {
            "area": estimate.area,
            "delay": estimate.delay,
            "energy": estimate.energy,
            "model": analytic.NAME,
        }
    return _measured(bench.design(design, fmt, activation, loadable=True))


def _measured(one: Measured) -> dict[str, Any]:
    return {
        "area": one.first.area,
        "delay": one.first.delay,
        "energy": None if one.energy is None else one.energy.dynamic,
        "model": "synthesis",
    }
