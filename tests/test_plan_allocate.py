from __future__ import annotations

import itertools
import math
import time
from fractions import Fraction

import fmtc
import numpy as np
import pytest
from fmtc.runtime.errors import RefusedInput
from fmtc.runtime.grids.metrics import Errors
from fmtc.runtime.plan import (
    BudgetTooSmall,
    Choice,
    Unit,
    UnitProfile,
    allocate,
    capacity,
    exact,
    read_bpw,
)
from fmtc.runtime.plan.exact import Problem, solve
from fmtc.runtime.plan.profile import text_octets
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = fmtc.load("mxfp4").source
ELEMENTS = 1 << 16


def profile(name: str, pairs: list[tuple[int, float]]) -> UnitProfile:
    """A unit whose choices take so many octets and have such a squared error."""
    choices = tuple(
        Choice(f"c{i}", TEXT, octets, Errors(ELEMENTS, squared=loss))
        for i, (octets, loss) in enumerate(pairs)
    )
    return UnitProfile(Unit(name, (name,)), ELEMENTS, choices)


def brute_force(
    profiles: list[UnitProfile], octets: int
) -> tuple[Fraction, int, tuple[int, ...]] | None:
    """The least (loss, octets, choices), the units in the order of their names."""
    ordered = sorted(profiles, key=lambda p: p.unit.name)
    found = []
    for picks in itertools.product(*(range(len(p.choices)) for p in ordered)):
        chosen = [p.choices[i] for p, i in zip(ordered, picks, strict=True)]
        used = sum(choice.octets for choice in chosen)
        if used <= octets:
            found.append((sum(Fraction(c.errors.squared) for c in chosen), used, picks))
    return min(found, default=None)


def shared(profiles: list[UnitProfile]) -> int:
    """What the text of ``profile``'s choices takes: it is stored once."""
    return text_octets(TEXT) if len(profiles) > 1 else 0


def instances(losses: st.SearchStrategy[float]) -> st.SearchStrategy[list[UnitProfile]]:
    pair = st.tuples(st.one_of(st.integers(0, 8), st.integers(0, 10**9)), losses)
    rows = st.lists(st.lists(pair, min_size=1, max_size=4), min_size=2, max_size=5)
    return rows.map(lambda r: [profile(f"u{i}", pairs) for i, pairs in enumerate(r)])


COARSE = st.integers(0, 6).map(float)
FINE = st.integers(0, 2**40).map(lambda n: n / 2**30)


@settings(max_examples=200)
@given(instances(st.one_of(COARSE, FINE)), st.floats(0, 1.1))
def test_the_plan_is_the_one_of_brute_force_ties_and_all(
    profiles: list[UnitProfile], share: float
) -> None:
    least = sum(min(c.octets for c in p.choices) for p in profiles)
    most = sum(max(c.octets for c in p.choices) for p in profiles)
    octets = least + int(share * (most - least)) + shared(profiles)
    plan = allocate(profiles, octets, "mse")
    found = brute_force(profiles, octets - shared(profiles))
    assert found is not None
    loss, used, picks = found
    assert plan.proven
    assert plan.octets - shared(profiles) == used <= octets
    labels = [plan.choices[p.unit.name].label for p in profiles]
    assert labels == [f"c{i}" for i in picks]
    assert plan.value == plan.bound == pytest.approx(float(loss), rel=1e-15)


@settings(max_examples=60)
@given(instances(st.floats(0, 1e30, allow_subnormal=False)), st.floats(0, 1))
def test_losses_of_any_size_are_least_up_to_their_own_rounding(
    profiles: list[UnitProfile], share: float
) -> None:
    least = sum(min(c.octets for c in p.choices) for p in profiles)
    most = sum(max(c.octets for c in p.choices) for p in profiles)
    octets = least + int(share * (most - least)) + shared(profiles)
    plan = allocate(profiles, octets, "mse")
    found = brute_force(profiles, octets - shared(profiles))
    assert found is not None
    whole = sum(max(c.errors.squared for c in p.choices) for p in profiles)
    assert plan.octets <= octets
    assert plan.value - float(found[0]) <= 2**-50 * whole


@given(instances(COARSE), st.floats(0, 1), st.randoms())
def test_the_order_of_the_profiles_does_not_matter(
    profiles: list[UnitProfile], share: float, random: object
) -> None:
    octets = int(share * sum(max(c.octets for c in p.choices) for p in profiles))
    octets += sum(min(c.octets for c in p.choices) for p in profiles) + shared(profiles)
    turned = profiles[::-1]
    one, two = allocate(profiles, octets, "mse"), allocate(turned, octets, "mse")
    assert dict(one.choices) == dict(two.choices)
    assert list(two.choices) == [p.unit.name for p in turned]
    assert one.value == two.value


def model(units: int, choices: int, seed: int, spread: float) -> list[UnitProfile]:
    """Units of a few sizes, each format 4 times better for every bit."""
    random = np.random.default_rng(seed)
    profiles = []
    for unit in range(units):
        size = int(random.choice([331776, 884736, 995328, 1769472]))
        weight = float(np.exp(spread * random.normal())) * size
        pairs = []
        for _ in range(choices // 4):
            bits = 4.5 + 4 * random.random()
            for added, less in ((0, 1), (0.075, 0.97), (0.03, 0.99), (0.105, 0.96)):
                octets = int(size * (bits + added) / 8) + int(random.integers(600))
                loss = weight * 4 ** -(bits - 4.5) * less * (1 + 0.01 * random.normal())
                pairs.append((octets, loss))
        profiles.append(profile(f"layer.{unit}", pairs))
    return profiles


def highs(profiles: list[UnitProfile], octets: int) -> float:
    """What HiGHS finds, as an oracle of its own."""
    from scipy.optimize import LinearConstraint, milp

    rows = [(u, c) for u, p in enumerate(profiles) for c in p.choices]
    ones = np.zeros((len(profiles), len(rows)))
    ones[[u for u, _ in rows], range(len(rows))] = 1
    most = max(c.octets for _, c in rows)
    scale = sum(p.choices[0].errors.squared for p in profiles)
    result = milp(
        np.array([c.errors.squared for _, c in rows]) / scale,
        integrality=np.ones(len(rows)),
        bounds=(0, 1),
        constraints=[
            LinearConstraint(ones, 1, 1),
            LinearConstraint(np.array([[c.octets for _, c in rows]]) / most, 0, octets / most),
        ],
        options={"mip_rel_gap": 1e-7},
    )
    return float(result.fun) * scale


@pytest.mark.parametrize("seed", range(2))
def test_highs_finds_a_plan_as_good_and_none_better(seed: int) -> None:
    profiles = model(24, 12, seed, 1.0)
    octets = int(1.2 * sum(min(c.octets for c in p.choices) for p in profiles))
    plan = allocate(profiles, octets + shared(profiles), "mse")
    assert plan.proven
    assert plan.value == pytest.approx(highs(profiles, octets), rel=1e-5)


@pytest.mark.parametrize("spread", [1.0, pytest.param(0.02, marks=pytest.mark.slow)])
def test_a_thousand_units_of_24_choices_are_planned_at_once(spread: float) -> None:
    profiles = model(1000, 24, 1, spread)
    octets = int(1.1 * sum(min(c.octets for c in p.choices) for p in profiles))
    begun = time.process_time()
    plan = allocate(profiles, octets, "mse")
    assert time.process_time() - begun < 10
    assert plan.proven
    assert octets - 600 < plan.octets <= octets


@given(st.integers(0, 400), st.sampled_from(["acos", "mse", "wmse"]))
def test_a_budget_is_never_exceeded(step: int, metric: str) -> None:
    random = np.random.default_rng(step)
    profiles = [
        UnitProfile(
            Unit(f"u{u}", (f"u{u}",)),
            ELEMENTS,
            tuple(
                Choice(f"c{i}", TEXT, int(random.integers(30000, 60000)),
                       Errors(ELEMENTS, *(float(v) for v in random.random(4)), 4096,
                              4096 * float(random.random())))
                for i in range(6)
            ),
        )
        for u in range(8)
    ]  # fmt: skip
    least = sum(min(c.octets for c in p.choices) for p in profiles) + shared(profiles)
    budget = least + 250 * step
    plan = allocate(profiles, budget, metric)
    assert sum(c.octets for c in plan.choices.values()) + shared(profiles) == plan.octets
    assert plan.octets <= plan.capacity == budget
    total = math.fsum(c.errors.loss(metric) for c in plan.choices.values())
    assert plan.value == total
    assert allocate(profiles, budget + 250, metric).value <= plan.value


def test_the_least_possible_budget_is_named_and_is_enough() -> None:
    profiles = [profile("a", [(40000, 1.0), (50000, 0.5)]), profile("b", [(40001, 1.0)])]
    weights = 2 * ELEMENTS
    least = 80001 + shared(profiles)
    with pytest.raises(BudgetTooSmall, match="too small") as caught:
        allocate(profiles, capacity("4.5", weights, 100), "mse", overhead=100)
    named = str(caught.value).split("--bpw ")[1]
    assert Fraction(named) - Fraction(8 * (least + 100), weights) < Fraction(1, 10000)
    plan = allocate(profiles, capacity(named, weights, 100), "mse")
    assert plan.choices["a"].label == "c0"
    assert plan.octets == least


def test_a_text_that_units_share_is_paid_once_and_another_by_its_unit() -> None:
    other = fmtc.load("nvfp4").source
    one, two = profile("a", [(1000, 1.0)]), profile("b", [(1000, 1.0)])
    own = UnitProfile(Unit("b", ("b",)), ELEMENTS, (Choice("x", other, 1000, Errors(1)),))
    assert allocate([one, two], 10**6, "mse").octets == 2000 + text_octets(TEXT)
    assert allocate([one, own], 10**6, "mse").octets == (
        2000 + text_octets(TEXT) + text_octets(other)
    )


def test_a_plan_says_what_the_next_step_would_cost_and_gain() -> None:
    profiles = [
        profile("a", [(100, 9.0), (200, 4.0), (400, 1.0)]),
        profile("b", [(100, 8.0), (200, 7.0), (300, 0.5)]),
    ]
    plan = allocate(profiles, 500 + shared(profiles), "mse")
    assert {name: choice.label for name, choice in plan.choices.items()} == {"a": "c1", "b": "c2"}
    assert list(plan.steps) == ["a"]
    assert (plan.steps["a"].label, plan.steps["a"].octets, plan.steps["a"].gain) == ("c2", 200, 3.0)
    assert plan.price >= plan.steps["a"].price == 3 / 200
    rich = allocate(profiles, 10**6, "mse")
    assert (rich.price, rich.steps) == (0, {})


def test_what_cannot_be_allocated_is_refused() -> None:
    good = profile("a", [(1, 1.0)])
    with pytest.raises(RefusedInput, match="no unit"):
        allocate([], 10, "mse")
    with pytest.raises(RefusedInput, match="two units are called 'a'"):
        allocate([good, good], 10**6, "mse")
    with pytest.raises(RefusedInput, match="a has no choice"):
        allocate([UnitProfile(good.unit, 1, ())], 10, "mse")
    with pytest.raises(RefusedInput, match="a as c0 loses nan"):
        allocate([profile("a", [(1, math.nan)])], 10**6, "mse")
    with pytest.raises(ValueError, match="no metric 'kl'"):
        allocate([good], 10**6, "kl")


@pytest.mark.parametrize(
    ("text", "bits"), [("4.7", "47/10"), (" 5 ", "5"), (4.7, "47/10"), (".5", "1/2"), (6, "6")]
)
def test_a_budget_is_the_decimal_number_that_is_written(text: str | float, bits: str) -> None:
    assert read_bpw(text) == Fraction(bits)


@pytest.mark.parametrize("wrong", ["", "4,7", "x", "-1", "0", "33", "1e3", "nan", math.inf, -0.5])
def test_what_is_no_budget_is_refused(wrong: str | float) -> None:
    with pytest.raises(RefusedInput, match="budget"):
        read_bpw(wrong)


@given(st.integers(1, 10**12), st.fractions(Fraction(1, 10), 16, max_denominator=1000))
def test_a_capacity_is_all_whole_octets_within_the_budget(weights: int, bpw: Fraction) -> None:
    if bpw * weights < 80:
        return
    octets = capacity(bpw, weights, 3) + 3
    assert Fraction(8 * octets, weights) <= bpw < Fraction(8 * (octets + 1), weights)


def test_what_is_stored_besides_must_leave_something() -> None:
    with pytest.raises(BudgetTooSmall, match="takes 50"):
        capacity("4", 100, 50)
    with pytest.raises(RefusedInput, match="no budget"):
        capacity("4", 0)


def test_a_search_that_grows_too_large_says_what_it_has_not_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(3)
    costs = tuple(tuple(int(v) for v in random.integers(10**6, size=5)) for _ in range(14))
    losses = tuple(tuple(int(v) for v in random.integers(10**6, size=5)) for _ in range(14))
    problem = Problem(costs, losses, sum(min(row) for row in costs) + 10**6)
    proven = solve(problem)
    monkeypatch.setattr(exact, "STATES", (1, 2))
    guess = solve(problem)
    assert proven.gap == 0 < guess.gap
    loss, cost = problem.totals(guess.picks)
    assert cost <= problem.capacity
    assert loss - guess.gap <= problem.totals(proven.picks)[0] <= loss


def test_more_than_the_capacity_is_an_error() -> None:
    with pytest.raises(ValueError, match="least costs"):
        solve(Problem(((5,), (5,)), ((0,), (0,)), 9))
