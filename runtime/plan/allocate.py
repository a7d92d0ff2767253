"""The allocation: one choice for every unit, the least loss that a budget of octets allows.

A multiple-choice knapsack, solved and proven in integers by ``exact.solve``. Octets are integers
as they are. Losses enter as the nearest multiples of a power of two, 2^-60 to 2^-58 of what all
units together can lose: finer than the rounding of the sums that they come from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import RefusedInput
from ..grids.metrics import METRICS
from .budget import check_affordable
from .exact import Problem, solve
from .profile import Choice, UnitProfile, text_octets

#: Bits of an integer loss, over all units.
LOSS_BITS = 60


@dataclass(frozen=True, slots=True)
class Step:
    """The next better choice of a unit, at the best price.

    Attributes:
        label: of that choice.
        octets: what it would add.
        gain: what it would take off the loss.
        price: gain per octet. The plan's own is ``Plan.price``: a unit whose step has the
            higher price is one that just did not fit.
    """

    label: str
    octets: int
    gain: float

    @property
    def price(self) -> float:
        """Gain per octet."""
        return self.gain / self.octets


@dataclass(frozen=True, slots=True)
class Plan:
    """The choice of every unit.

    Attributes:
        choices: unit name -> choice, in the order of the profiles.
        octets: what they take, .fmt texts included (of those that units share, also the
            texts that none of them took in the end); never above ``capacity``.
        value: their loss: the sum of ``choice.errors.loss(metric)``.
        bound: no plan within the capacity loses less. Where ``proven``, it is ``value``.
        capacity: what they may take.
        metric: what the loss is.
        elements: of all units.
        proven: whether ``value`` is proven to be the least.
        price: the shadow price: what another octet would take off the loss, about.
        steps: unit name -> its next better choice; units at their best have none.
    """

    choices: Mapping[str, Choice]
    octets: int
    value: float
    bound: float
    capacity: int
    metric: str
    elements: int
    proven: bool
    price: float
    steps: Mapping[str, Step]

    @property
    def bpw(self) -> float:
        """Octets of the choices * 8 / elements."""
        return 8 * self.octets / self.elements


def allocate(
    profiles: Sequence[UnitProfile], capacity: int, metric: str, *, overhead: int = 0
) -> Plan:
    """The choices that lose least within a capacity.

    Of several plans with the same loss it is the one that takes the fewest octets; of several
    such, the one whose choices stand first in their profiles, unit by unit in the order of
    their names. So the plan does not depend on the order of the profiles.

    A text that several units share is stored once: the texts of all choices that stand in more
    than one profile are taken off the capacity beforehand, that of one unit's choice is part of
    its price.

    Args:
        profiles: of all units, each with another name.
        capacity: octets, from ``budget.capacity``.
        metric: one of ``METRICS``.
        overhead: octets that the capacity was already lessened by, for messages.

    Raises:
        BudgetTooSmall: the cheapest choices do not fit.
        RefusedInput: there are no units, two have one name, a unit has no choice, or a loss is
            not finite.
        ValueError: there is no such metric.
    """
    _check(profiles, metric)
    ordered = sorted(profiles, key=lambda profile: profile.unit.name)
    elements = sum(profile.elements for profile in ordered)
    shared, costs = _costs(ordered)
    check_affordable([shared, *map(min, costs)], capacity, elements, overhead)
    losses = [[choice.errors.loss(metric) for choice in p.choices] for p in ordered]
    counted, unit = _counted(losses)
    solution = solve(Problem(costs, counted, capacity - shared))
    rows = list(zip(ordered, losses, costs, solution.picks, strict=True))
    value = math.fsum(lost[i] for _, lost, _, i in rows)
    picks = {p.unit.name: p.choices[i] for p, _, _, i in rows}
    steps = {p.unit.name: _step(p, lost, cost, i) for p, lost, cost, i in rows}
    names = [profile.unit.name for profile in profiles]
    return Plan(
        choices={name: picks[name] for name in names},
        octets=shared + sum(cost[i] for _, _, cost, i in rows),
        value=value,
        bound=value - float(solution.gap * unit),
        capacity=capacity,
        metric=metric,
        elements=elements,
        proven=solution.gap == 0,
        price=float(solution.price * unit),
        steps={name: step for name in names if (step := steps[name]) is not None},
    )


def _check(profiles: Sequence[UnitProfile], metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"there is no metric '{metric}', only {', '.join(METRICS)}")
    if not profiles:
        raise RefusedInput("there is nothing to allocate: the model has no unit")
    names = [profile.unit.name for profile in profiles]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedInput(f"two units are called '{twice}'")
    for profile in profiles:
        if not profile.choices:
            raise RefusedInput(f"{profile.unit.name} has no choice")
        for choice in profile.choices:
            loss = choice.errors.loss(metric)
            if not (math.isfinite(loss) and choice.octets >= 0):
                raise RefusedInput(
                    f"{profile.unit.name} as {choice.label} loses {loss} at {choice.octets} "
                    "octets: it cannot be compared"
                )


def _costs(profiles: Sequence[UnitProfile]) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """The octets of the texts that units share, and of every choice with its own text."""
    used = Counter(text for p in profiles for text in {choice.text for choice in p.choices})
    shared = sum(text_octets(text) for text, units in used.items() if units > 1)
    own = {text: text_octets(text) if units == 1 else 0 for text, units in used.items()}
    return shared, tuple(tuple(c.octets + own[c.text] for c in p.choices) for p in profiles)


def _counted(losses: Sequence[Sequence[float]]) -> tuple[tuple[tuple[int, ...], ...], Fraction]:
    """Losses above the least of each row as integers, and the unit that these count."""
    above = [[Fraction(loss) - Fraction(min(row)) for loss in row] for row in losses]
    whole = sum((max(row) for row in above), Fraction(0))
    unit = Fraction(1)
    if whole:
        power = whole.numerator.bit_length() - whole.denominator.bit_length() + 1 - LOSS_BITS
        unit = Fraction(2) ** power
    return tuple(tuple(round(loss / unit) for loss in row) for row in above), unit


def _step(
    profile: UnitProfile, losses: Sequence[float], costs: Sequence[int], now: int
) -> Step | None:
    """The choice that gains the most for each octet that it adds."""
    steps = [
        Step(choice.label, costs[i] - costs[now], losses[now] - losses[i])
        for i, choice in enumerate(profile.choices)
        if losses[i] < losses[now] and costs[i] > costs[now]
    ]
    return max(steps, key=lambda step: (step.price, -step.octets, step.label), default=None)
