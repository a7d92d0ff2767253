"""Grids learned from weights: samples, the exact choice of host points, objectives, recipes."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from fmtc import load
from fmtc.compiler.fitting import (
    Bins,
    Cells,
    HostPoints,
    cluster,
    clustered,
    descend_together,
    errors,
    normalised,
)
from fmtc.compiler.hosts import snap
from fmtc.compiler.learn import RecipeError, derive, host_points
from fmtc.compiler.samples import Samples
from fmtc.formats.files import shipped_formats
from fmtc.runtime.errors import RefusedInput
from fmtc.runtime.grids.learn import (
    FAMILIES,
    Placed,
    gaussian_twin,
    learn_grid,
    learn_grids,
    objective,
    usual_times,
)
from fmtc.runtime.grids.samples import Matrix, chosen_places, sample_blocks, sample_matrices
from hypothesis import given, settings
from hypothesis import strategies as st

NF4 = load("nf4_dd4_ue4m3").grids[0].numbers
E4M3 = np.array([float(point) for point in host_points("e4m3", Fraction(1))])
HIF7 = np.array([float(point) for point in host_points("hif7", Fraction(120))])


def weights_like(seed: int, shape: tuple[int, int], freedom: float = 4) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_t(freedom, shape)
    return drawn.astype(np.float32)


def some_samples(seed: int = 0, blocks: int = 1500, freedom: float = 4) -> Samples:
    c = np.random.default_rng(seed + 99).uniform(0.1, 3, (blocks, 16)).astype(np.float32)
    return Samples(weights_like(seed, (blocks, 16), freedom), c)


# -- samples ----------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.integers(1, 500))
def test_blocks_are_taken_evenly_and_each_once(total: int, limit: int) -> None:
    places = chosen_places(total, limit)
    assert len(places) == min(total, limit)
    assert np.all(np.diff(places) > 0)
    assert not len(places) or (places[0] >= 0 and places[-1] < total)
    if total > limit:
        stretches = np.arange(limit + 1) * total // limit
        assert np.all((stretches[:-1] <= places) & (places < stretches[1:]))


def test_blocks_do_not_keep_step_with_the_rows() -> None:
    columns = chosen_places(1 << 20, 1 << 12) % 64
    assert np.all(np.bincount(columns, minlength=64) > 0)


def test_a_limit_above_the_count_takes_every_whole_block() -> None:
    one, two = weights_like(1, (5, 40)), weights_like(2, (3, 40))
    c = np.arange(1, 41, dtype=np.float32)
    samples = sample_blocks([one, two], c, 16, 1000)
    wanted = np.concatenate([w[:, :32].reshape(-1, 16) for w in (one, two)])
    assert np.array_equal(samples.x, wanted)
    assert np.array_equal(samples.c, np.tile(c[:32].reshape(2, 16), (8, 1)))
    assert samples.x.dtype == samples.c.dtype == np.float32


def test_blocks_of_zeros_are_left_out() -> None:
    w = weights_like(3, (4, 32))
    w[1, :16] = 0
    assert len(sample_blocks([w], None, 16, 100).x) == 7
    with pytest.raises(RefusedInput, match="no whole block of 16"):
        sample_blocks([np.zeros((4, 32), np.float32)], None, 16, 100)


def test_one_matrix_is_in_memory_at_a_time_and_unneeded_ones_never() -> None:
    order: list[str] = []

    def matrix(at: int) -> Matrix:
        def load_it() -> np.ndarray:
            order.append(f"load {at}")
            return weights_like(at, (8, 32))

        return Matrix(f"m{at}", (8, 32) if at != 1 else (8, 8), load_it, lambda: None)

    streamed = sample_matrices([matrix(at) for at in range(4)], 16, 30, order.append)
    assert order == ["m0", "load 0", "m1", "m2", "load 2", "m3", "load 3"]
    whole = sample_blocks([weights_like(at, (8, 32)) for at in (0, 2, 3)], None, 16, 30)
    assert np.array_equal(streamed.x, whole.x)


@pytest.mark.parametrize(("bad", "what"), [("w", "a weight"), ("c", "a channel norm")])
def test_numbers_that_are_not_finite_are_refused_by_name(bad: str, what: str) -> None:
    w, c = weights_like(4, (2, 16)), np.ones(16, np.float32)
    (w[0] if bad == "w" else c)[3] = np.nan
    entry = Matrix("layers.0.up", (2, 16), lambda: w, lambda: c)
    with pytest.raises(RefusedInput, match=f"layers.0.up: {what} is not a finite number"):
        sample_matrices([entry], 16, 10)
    short = Matrix("layers.0.up", (2, 16), lambda: w, lambda: c[:8])
    with pytest.raises(RefusedInput, match="8 channel norms for 16 input channels"):
        sample_matrices([short], 16, 10)


def test_the_digest_names_weights_norms_and_shape() -> None:
    samples = some_samples()
    assert samples.digest == some_samples().digest
    other = samples.c.copy()
    other[7, 7] = np.nextafter(other[7, 7], np.float32(9))
    assert replace(samples, c=other).digest != samples.digest
    wide = Samples(samples.x.reshape(-1, 32), samples.c.reshape(-1, 32))
    assert wide.digest != samples.digest


# -- the exact choice of host points ----------------------------------------------------


@st.composite
def held_clustering(draw: st.DrawFn) -> tuple[Cells, np.ndarray, int, bool, tuple[int, ...]]:
    inside = st.floats(-1, 1, allow_subnormal=False)
    y = np.array(draw(st.lists(inside, min_size=1, max_size=12)))
    weight = np.array(draw(st.lists(st.floats(0, 5), min_size=len(y), max_size=len(y))))
    points = np.sort(draw(st.lists(st.integers(-8, 8), min_size=3, max_size=8, unique=True))) / 8
    ends = draw(st.booleans())
    held = tuple(draw(st.sets(st.integers(0, len(points) - 1), max_size=2)))
    least = max(2, len({*held, *((0, len(points) - 1) if ends else ())}))
    return Cells.of(y, weight), points, draw(st.integers(least, len(points))), ends, held


@settings(deadline=None)
@given(held_clustering())
def test_clustering_with_points_that_must_be_chosen_finds_the_best_of_all(
    case: tuple[Cells, np.ndarray, int, bool, tuple[int, ...]],
) -> None:
    cells, points, count, ends, held = case
    must = {*held, *((0, len(points) - 1) if ends else ())}
    choices = [c for c in combinations(range(len(points)), count) if must <= set(c)]
    found = cluster(cells, points, count, ends, held)
    assert found in choices
    best = min(cells.error(points[list(choice)]) for choice in choices)
    assert cells.error(points[list(found)]) == pytest.approx(best, abs=1e-12)


def test_more_points_than_there_are_cannot_be_chosen() -> None:
    cells = Cells.of(np.array([0.1]), np.array([1.0]))
    for count, held in ((8, ()), (2, (1, 2)), (1, ())):
        with pytest.raises(ValueError, match="cannot be chosen"):
            cluster(cells, np.linspace(-1, 1, 7), count, ends=True, held=held)


@pytest.mark.parametrize("points", [E4M3, HIF7], ids=["e4m3", "hif7"])
@pytest.mark.parametrize("weights", [0, 1, 2])
def test_bins_are_clustered_like_the_samples_in_them(points: np.ndarray, weights: int) -> None:
    samples = some_samples(weights)
    inner = samples.c.astype(np.float64) ** weights
    blocks = normalised(samples.x.astype(np.float64), "absmax", inner)
    bins = Bins.of(blocks.y, blocks.weights(), points)
    chosen = blocks.weight > np.median(blocks.weight)
    for mask in (None, chosen):
        cells = Cells.of_blocks(blocks, mask)
        found = cluster(bins.cells(mask), points, 16, ends=True)
        assert found == cluster(cells, points, 16, ends=True)
        levels = points[list(found)]
        assert bins.cells(mask).error(levels) == pytest.approx(cells.error(levels))


def test_clustering_80_points_of_200_000_samples_takes_milliseconds() -> None:
    blocks = normalised(weights_like(5, (12500, 16)).astype(np.float64), "absmax")
    cells = Cells.of_blocks(blocks)
    took = []
    for _ in range(20):
        start = time.perf_counter()
        cluster(cells, HIF7, 16, ends=True)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.005


# -- the objective ----------------------------------------------------------------------


def never_rises(trace: tuple[float, ...]) -> bool:
    return all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(trace))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(["e4m3", "hif7", "fp32"]),
    st.sampled_from(["none", "c", "c2"]),
    st.sampled_from(["inside", "after"]),
    st.integers(0, 1 << 16),
    st.floats(2, 30),
)
def test_learning_never_raises_its_objective(
    family: str, host: str, weights: str, snap: str, seed: int, freedom: float
) -> None:
    samples = some_samples(seed, 40, freedom)
    if host == "fp32":
        snap = "after"
        if family in ("split87", "dd4"):
            host = "e4m3"
    found = learn_grids(
        family,
        samples,
        beside=NF4 if family in ("po2", "dd4") else None,
        host=host,
        weights=weights,
        rounds=12,
        snap=snap,
    )
    for learned in found:
        assert learned.trace
        assert never_rises(learned.trace)
        assert len(learned.values) == 16


@pytest.mark.parametrize("weights", ["none", "c", "c2"])
@pytest.mark.parametrize("family", ["po2", "mpo2", "split87", "dd4"])
def test_the_objective_is_the_error_of_the_frozen_values(family: str, weights: str) -> None:
    """Inside a host the last objective is that of the numbers which are written."""
    samples = some_samples(3, 400)
    beside = NF4 if family in ("po2", "dd4") else None
    found = learn_grids(family, samples, beside=beside, weights=weights, rounds=15)
    grids = [Placed(each.values) for each in found] + ([Placed(NF4)] if beside else [])
    error = objective(samples, grids, weights=weights)
    assert found[0].trace[-1] == pytest.approx(error, rel=1e-9)
    x = samples.x.astype(np.float64)
    power = samples.c.astype(np.float64) ** {"none": 0, "c": 1, "c2": 2}[weights]
    scale = np.abs(x).max(axis=1)
    lost = []
    for grid in grids:
        levels = np.array([float(v) for v in grid.values])
        levels /= np.abs(levels).max()
        decoded = levels[errors(x / scale[:, None], levels)[0]] * scale[:, None]
        lost.append((power * (x - decoded) ** 2).sum(axis=1))
    assert error == pytest.approx(np.minimum.reduce(lost).sum() / power.sum(), rel=1e-9)


def test_no_single_move_helps_a_pair_after_the_descent() -> None:
    blocks = normalised(some_samples(8, 300).x.astype(np.float64), "absmax")
    host = HostPoints(HIF7, 16, ends=True, held=(int(np.flatnonzero(HIF7 == 0)[0]),))
    start = blocks.weight > np.median(blocks.weight)
    grids, trace = clustered(blocks, host, start, None, 10)
    both = descend_together(blocks, host, grids, None, 100, trace)
    assert never_rises(tuple(trace))
    best = blocks.mean(np.minimum(*(blocks.errors(grid) for grid in both)))
    assert best == pytest.approx(trace[-1])
    for at in (0, 1):
        assert {-1.0, 0.0, 1.0} <= set(both[at].tolist())
        places = np.searchsorted(HIF7, both[at])
        for level in range(1, 15):
            for step in (-1, 1):
                moved = places.copy()
                moved[level] += step
                if both[at][level] == 0 or not np.all(np.diff(moved) > 0):
                    continue
                own = blocks.errors(HIF7[moved])
                assert blocks.mean(np.minimum(own, blocks.errors(both[1 - at]))) >= best


def test_weighted_learning_serves_the_weighted_error() -> None:
    samples = some_samples(11, 3000)
    heavy = replace(samples, c=samples.c * np.where(np.arange(16) < 2, 30, 1).astype(np.float32))
    plain, weighted = (
        learn_grid("dd4", heavy, beside=NF4, weights=weights).values for weights in ("none", "c2")
    )
    assert plain != weighted
    by_c2 = [objective(heavy, [Placed(NF4), Placed(v)], weights="c2") for v in (plain, weighted)]
    by_none = [objective(heavy, [Placed(NF4), Placed(v)]) for v in (plain, weighted)]
    assert by_c2[1] < by_c2[0]
    assert by_none[0] < by_none[1]


def test_split87_has_its_shape_in_every_host() -> None:
    for host in ("e4m3", "hif7", "hif8"):
        learned = learn_grid("split87", some_samples(2), host=host)
        signs = [sum(v < 0 for v in learned.values), sum(v > 0 for v in learned.values)]
        assert (signs, 0 in learned.values) == ([8, 7], True)
        assert learned.values[-1] == -learned.values[0] == usual_times(host, 16)


# -- what is established, on the learner itself -----------------------------------------


def gaussian(blocks: int, block: int = 16, seed: int = 21) -> Samples:
    x = np.random.default_rng(seed).standard_normal((blocks, block)).astype(np.float32)
    return Samples(x, np.ones_like(x))


def test_a_partner_learned_from_gaussian_weights_gains_what_is_published() -> None:
    """Grid Games, arXiv:2605.12327: PO2(NF4) errs 4.636e-3 at blocks of 16, NF4 6.528e-3."""
    learned = learn_grid("po2", gaussian(8192), beside=NF4, host="fp32", target="1", rounds=60)
    fresh = gaussian(30000, seed=22)
    pair = [Placed(NF4, "1"), Placed(learned.values, "1")]
    assert objective(fresh, pair) == pytest.approx(4.636e-3, rel=0.01)
    assert objective(fresh, pair[:1]) == pytest.approx(6.528e-3, rel=0.01)


def test_learning_from_gaussian_weights_gives_the_shipped_grid_but_for_noise() -> None:
    learned = learn_grid("dd4", gaussian(32768), beside=NF4)
    shipped = load("nf4_dd4_ue4m3").grids[1].numbers
    fresh = gaussian(20000, seed=23)
    both = [objective(fresh, [Placed(NF4), Placed(v)]) for v in (learned.values, shipped)]
    assert both[0] == pytest.approx(both[1], rel=0.002)
    assert gaussian_twin(learned, {"base": NF4})[0] == shipped


@pytest.mark.slow
def test_what_the_learner_gains_by_a_second_grid_vanishes_as_blocks_grow() -> None:
    """Grid Games: 16.5 % at blocks of 16, 3.4 % at 256, next to nothing at 4096."""
    gains = {}
    for block in (16, 256, 4096):
        samples, fresh = (gaussian((1 << 18) // block, block, seed) for seed in (31, 32))
        single = learn_grid("lloyd", samples, host="fp32", target="1")
        both = learn_grids("mpo2", samples, host="fp32", target="1", rounds=60)
        one = objective(fresh, [Placed(single.values, "1")])
        gains[block] = 1 - objective(fresh, [Placed(g.values, "1") for g in both]) / one
    assert gains[16] == pytest.approx(0.165, abs=0.02)
    assert gains[256] == pytest.approx(0.034, abs=0.02)
    assert gains[16] > gains[256] > gains[4096]
    assert abs(gains[4096]) < 0.02


# -- recipes ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_recipe_of_data_makes_the_frozen_values_again(family: str) -> None:
    samples = some_samples(5, 300)
    known = {"nf4": NF4} if family in ("po2", "dd4") else {}
    found = learn_grids(
        family, samples, beside=known.get("nf4"), beside_name="nf4", weights="c", rounds=10
    )
    for learned in found:
        assert derive(learned.settings, known, samples) == learned.values
        with pytest.raises(RecipeError, match="it needs these samples of weights"):
            derive(learned.settings, known)
        with pytest.raises(RecipeError, match=f"these samples are {some_samples(6).digest}"):
            derive(learned.settings, known, some_samples(6))
    assert learn_grids(
        family, samples, beside=known.get("nf4"), beside_name="nf4", weights="c", rounds=10
    ) == (found)


def test_a_recipe_that_draws_takes_no_samples() -> None:
    recipe = {"method": "lloyd", "blocks": "300"}
    with pytest.raises(RecipeError, match="draws its own samples"):
        derive(recipe, {}, some_samples())
    with pytest.raises(RecipeError, match="drawn samples have none"):
        derive(recipe | {"weights": "c"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "e9m9"}, "no host is called 'e9m9'"),
        ({"host": "e2m1"}, "too few points|has no 16 points"),
        ({"weights": "c"}, "all channel norms are 0"),
        ({"method": "po2"}, "the grid '' that the recipe is 'beside' is not given"),
        ({"method": "dd4", "host": "fp32"}, "'fp32' has no list of points"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, str], words: str) -> None:
    samples = replace(some_samples(blocks=20), c=np.zeros((20, 16), np.float32))
    given = {"method": "split87", **options}
    with pytest.raises(RefusedInput, match=words):
        learn_grid(given.pop("method"), samples, **given)
    with pytest.raises(ValueError, match="'mpo2' learns 2 grids"):
        learn_grid("mpo2", some_samples(blocks=20), rounds=1)


@pytest.mark.parametrize("name", ["any4", "sh4_dd4", "split87_dd4"])
def test_a_recipe_inside_a_shipped_format_makes_its_frozen_values(name: str) -> None:
    grids = load(name).grids
    learned = [grid for grid in grids if grid.recipe]
    assert learned
    for grid in learned:
        derived = derive(dict(grid.recipe), {each.name: each.numbers for each in grids})
        assert tuple(snap("fp32", value) for value in derived) == grid.numbers


def test_every_recipe_inside_a_shipped_format_is_run() -> None:
    told = {n for n, p in shipped_formats().items() if "learned {" in p.read_text("utf-8")}
    assert told == {"any4", "sh4_dd4", "split87_dd4"}
