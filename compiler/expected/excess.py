"""By how much one sum of independent errors exceeds another, on average.

Of Z = S1 - S2, a sum of n independent copies of D = e1 - e2 and a constant, with the moment
generating function M, and any c > 0 (Bromwich's integral of exp(sz) / s^2, which is z or 0)

    E max(Z, 0) = 1/(2 pi) * integral over all t of M(c + it) / (c + it)^2 dt.

c is put where the integrand is least along the real line: there the result keeps its relative
accuracy, however rare it is that Z > 0. On that line the trapezoid rule with step 2 pi / L errs by
what lies L above or below, exp(-cL) of the whole. A first grid's error and a second's differ by a
continuous, piecewise linear function of the element, 0 where both have the same value there: the
mass at D = 0 does not fade with t, and is taken out in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .laws import Law
from .ways import Way

F64 = NDArray[np.float64]
C128 = NDArray[np.complex128]

#: Where panels are cut for the density's sake, on both sides.
_LAW_CUTS = np.concatenate([[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0], 5.5 * 1.5 ** np.arange(60)])

#: Nodes of a panel, and the phase, half of it, that they integrate to 1e-8.
_ORDER, _PHASE = 12, 7.5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)

#: Periods of the trapezoid rule: in standard deviations, and in units of 1/c.
_DEVIATIONS, _DECAYS = 16.0, 20.0

#: Steps of t at once, and how many such batches at most.
_BATCH, _MOST_BATCHES = 16, 64

#: What may be left of the integral beyond the last t, relative: for a part of chance 1; at most.
_REST, _MOST_REST = 1e-5, 1e-2

#: A panel of less probability, of one element, is not refined.
_NEGLIGIBLE = 1e-14

#: Newton steps to the best c; exponents below this count as impossible.
_STEPS, _NEVER = 100, -690.0


@dataclass(frozen=True, slots=True)
class Sums:
    """Of a block's sums of squared errors under two ways: E S1, E S2 and E max of both ways round.

    ``plus`` is E max(S1 - S2, 0), ``minus`` is E max(S2 - S1, 0).
    """

    first: float
    second: float
    plus: float
    minus: float


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks that differ in ``count`` free elements, independent in [low, high].

    Attributes:
        scales: the signed scales of the two ways.
        fixed: the elements that are known: the peaks.
        chance: the probability of such blocks; it sets how precise the work has to be.
    """

    low: float
    high: float
    count: int
    scales: tuple[float, float]
    fixed: tuple[float, ...]
    chance: float


def sums(law: Law, ways: tuple[Way, Way], part: Part) -> Sums:
    """The expected sums of squared errors of blocks of one part."""
    element = _Element.of(law, ways, part)
    peaks = np.array(part.fixed)
    known = [float(w.errors(peaks, np.array(s)).sum()) for w, s in _each(ways, part)]
    first = known[0] + part.count * element.mean(element.first)
    second = known[1] + part.count * element.mean(element.second)
    ahead = first - second
    constant = known[0] - known[1]
    if ahead > 0:
        rare = _excess(element.mirrored(), -constant, part.count)
        return Sums(first, second, rare + ahead, rare)
    rare = _excess(element, constant, part.count)
    return Sums(first, second, rare, rare - ahead)


@dataclass(frozen=True, slots=True)
class _Element:
    """One free element as nodes: probabilities (their sum is 1) and errors under both ways."""

    law: Law
    ways: tuple[Way, Way]
    part: Part
    edges: F64
    x: F64
    chance: F64
    first: F64
    second: F64
    sign: float = 1.0

    @classmethod
    def of(cls, law: Law, ways: tuple[Way, Way], part: Part) -> _Element:
        """Panels between the kinks of both errors, as far as the law has any weight."""
        cuts = [np.array([part.low, part.high]), _LAW_CUTS, -_LAW_CUTS]
        cuts += [way.midpoints * scale for way, scale in _each(ways, part)]
        inside = np.unique(np.clip(np.concatenate(cuts), part.low, part.high))
        return cls._over(law, ways, part, inside, 1.0)

    @classmethod
    def _over(
        cls, law: Law, ways: tuple[Way, Way], part: Part, edges: F64, sign: float
    ) -> _Element:
        half = np.diff(edges) / 2
        x = (edges[:-1, None] + half[:, None] * (1 + _NODES)).reshape(-1)
        chance = (half[:, None] * _WEIGHTS).reshape(-1) * law.density(x)
        one, two = (way.errors(x, np.array(scale)) for way, scale in _each(ways, part))
        return cls(law, ways, part, edges, x, chance / chance.sum(), one, two, sign)

    @property
    def lead(self) -> F64:
        """D at the nodes: how much more the first way errs (the second, of a mirrored one)."""
        return self.sign * (self.first - self.second)

    def mean(self, values: F64) -> float:
        """The expectation of a function given at the nodes."""
        return float(self.chance @ values)

    def mirrored(self) -> _Element:
        """The same with the ways exchanged."""
        return _Element(
            self.law, self.ways, self.part, self.edges, self.x, self.chance,
            self.first, self.second, -self.sign,
        )  # fmt: skip

    def slope(self) -> F64:
        """By how much D changes over each panel."""
        ends = [way.errors(self.edges, np.array(s)) for way, s in _each(self.ways, self.part)]
        return np.abs(np.diff(ends[0] - ends[1]))

    def equal(self) -> NDArray[np.bool_]:
        """The nodes where both ways have the same value, so that D is 0 around them."""
        size = max(float(self.first.max()), float(self.second.max()))
        return np.abs(self.first - self.second) <= 1e-14 * size

    def refined(self, t: float, weight: F64) -> _Element:
        """Panels so short that exp(itD) turns little within each that has weight at all."""
        turns = np.where(weight.reshape(-1, _ORDER).sum(axis=1) < _NEGLIGIBLE, 0, self.slope())
        pieces = np.maximum(np.ceil(turns * t / 2 / _PHASE), 1).astype(np.intp)
        starts = np.repeat(self.edges[:-1], pieces)
        step = np.repeat(np.diff(self.edges) / pieces, pieces)
        rank = np.arange(len(starts)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        edges = np.append(starts + rank * step, self.edges[-1])
        return self._over(self.law, self.ways, self.part, edges, self.sign)


def _each(ways: tuple[Way, Way], part: Part) -> tuple[tuple[Way, float], tuple[Way, float]]:
    return (ways[0], part.scales[0]), (ways[1], part.scales[1])


def _excess(element: _Element, constant: float, count: int) -> float:
    """E max(Z, 0) of a Z of mean 0 or less: ``count`` independent leads and a constant."""
    lead = element.lead
    top = float(lead.max())
    spread = math.sqrt(max(element.mean(np.square(lead)) - element.mean(lead) ** 2, 0.0) * count)
    if count * top + constant <= 0 or spread <= 1e-13 * element.mean(element.first) * count:
        return 0.0
    c = _best_line(element, constant, count, math.sqrt(2) / spread)
    weight = element.chance * np.exp(c * (lead - top))
    logarithm = count * (math.log(weight.sum()) + c * top) + constant * c - 2 * math.log(c)
    if logarithm < _NEVER:
        return 0.0
    weight = weight / weight.sum()
    deviation = math.sqrt(max(_variance(weight, lead) * count, 0.0))
    step = 2 * math.pi / max(_DEVIATIONS * deviation, _DECAYS / c)
    total = _line(element, constant, count, c, step)
    never = element.mean(element.equal().astype(np.float64)) ** count
    return math.exp(logarithm) * c * c * step / math.pi * total + never * max(constant, 0.0)


def _best_line(element: _Element, constant: float, count: int, start: float) -> float:
    """The c > 0 where log M(c) - 2 log c is least: its derivative grows with c."""
    lead = element.lead
    top = float(lead.max())
    low, high, c = 0.0, math.inf, start
    for _ in range(_STEPS):
        weight = element.chance * np.exp(c * (lead - top))
        weight = weight / weight.sum()
        slope = count * float(weight @ lead) + constant - 2 / c
        low, high = (c, high) if slope < 0 else (low, c)
        # Newton in log c, kept between the bounds.
        bend = c * (count * _variance(weight, lead) + 2 / c**2)
        moved = c * math.exp(max(-1.5, min(1.5, -slope / bend)))
        if abs(moved - c) < 1e-3 * c:
            break
        if not low < moved < high:
            moved = math.sqrt(max(low, c / 8) * min(high, c * 8))
        c = moved
    return c


def _variance(weight: F64, lead: F64) -> float:
    return float(weight @ np.square(lead - weight @ lead))


def _line(element: _Element, constant: float, count: int, c: float, step: float) -> float:
    """The trapezoid sum of Re M(c + it) / (c + it)^2 over t >= 0, in units of M(c).

    Without the mass where all free elements have D = 0.
    """
    weight = _tilted(element, c)
    rest = min(_REST / max(element.part.chance, 1e-300), _MOST_REST)
    total = resolved = 0.0
    for batch in range(_MOST_BATCHES):
        last = step * _BATCH * (batch + 1)
        if last > resolved:
            resolved = 1.5 * last
            element = element.refined(resolved, weight)
            weight = _tilted(element, c)
            still = element.equal()
            equal = float(weight[still].sum())
            moving = ~still & (weight > _NEGLIGIBLE * weight.max())
            lead = element.lead[moving]
            powers = _powers(np.exp(1j * step * lead))
        turned = weight[moving] * np.exp(1j * (step * _BATCH * batch) * lead)
        t = step * (_BATCH * batch + np.arange(_BATCH))
        free = (np.einsum("kx,x->k", powers, turned) + equal) ** count - equal**count
        terms = free * np.exp(1j * t * constant) / (c + 1j * t) ** 2
        if batch == 0:
            terms[0] /= 2
        total += float(terms.real.sum())
        if float(np.abs(terms[-_BATCH // 2 :]).max()) * last / step < rest * abs(total):
            break
    return total


def _tilted(element: _Element, c: float) -> F64:
    """The probabilities times exp(cD), their sum 1 again."""
    lead = element.lead
    weight = element.chance * np.exp(c * (lead - lead.max()))
    return np.asarray(weight / weight.sum(), np.float64)


def _powers(z: C128) -> C128:
    """z^0 to z^(batch - 1), one a row: [batch, nodes]."""
    rows = np.ones((_BATCH, len(z)), np.complex128)
    for k in range(1, _BATCH):
        rows[k] = rows[k - 1] * z
    return rows
