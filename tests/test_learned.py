"""Learned grids: what the fitting promises, and recipes that make the frozen values again."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.fitting import (
    Blocks,
    Cells,
    cluster,
    descend,
    draw,
    errors,
    errors_under_own_ends,
    lloyd,
    normalised,
    pair,
    partner,
    start_levels,
)
from fmtc.compiler.format import Grid
from fmtc.compiler.learn import RecipeError, derive, host_points
from fmtc.formats.files import shipped_atoms
from hypothesis import given, settings
from hypothesis import strategies as st


def atom(name: str, file: str | None = None) -> Grid:
    text = f'import "{file or name}" format t {{ block 16  grid {name}  scale fp32 }}'
    return compile_text(text).grids[0]


def levels_of(name: str) -> np.ndarray:
    return np.array([float(value) for value in atom(name).numbers])


def gaussian(count: int = 4096, block: int = 16, rule: str = "absmax") -> Blocks:
    return normalised(draw("gaussian", 0, (count, block), 7), rule)


# -- the parts --------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["gaussian", "student"])
def test_the_same_seed_draws_the_same_blocks(source: str) -> None:
    one, two, other = (draw(source, 5, (8, 4), seed) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_normalised_block_has_one_as_its_largest() -> None:
    x = draw("gaussian", 0, (500, 9), 3)
    absolute, signed = normalised(x, "absmax"), normalised(x, "argmax")
    assert np.all(np.abs(absolute.y).max(axis=1) == 1)
    assert np.all(signed.y.max(axis=1) == 1)
    assert np.array_equal(absolute.weight, np.abs(x).max(axis=1) ** 2)
    assert np.allclose(absolute.y * np.sqrt(absolute.weight)[:, None], x, rtol=1e-15)


def test_an_element_goes_to_its_nearest_level() -> None:
    y = gaussian(50).y
    levels = np.array([-1, -0.3, 0.1, 0.4, 1.0])
    codes, lost = errors(y, levels)
    distances = np.abs(y[:, :, None] - levels)
    assert np.array_equal(codes, distances.argmin(axis=2))
    assert np.allclose(lost, (distances.min(axis=2) ** 2).sum(axis=1))


def test_a_grids_own_ends_meet_the_ends_of_the_block() -> None:
    blocks = gaussian(200)
    levels = np.array([-0.5, -0.1, 0.2, 2.0])
    wanted = []
    for block in blocks.y:
        scale = max(block.max() / 2.0, -block.min() / 0.5)
        wanted.append(errors(block[None] / scale, levels)[1][0] * scale**2)
    assert np.allclose(errors_under_own_ends(blocks, levels, "absmax"), wanted)
    assert np.all(np.array(wanted) >= 0)


def test_sorted_cells_give_the_same_sums_as_the_samples() -> None:
    blocks = gaussian(300)
    cells = Cells.of_blocks(blocks)
    levels = np.linspace(-1, 1, 7)
    codes, lost = errors(blocks.y, levels)
    assert cells.error(levels) == pytest.approx(float(blocks.weight @ lost))
    weight = np.broadcast_to(blocks.weight[:, None], blocks.y.shape)
    for code, centre in enumerate(cells.centroids(levels)):
        mine = codes == code
        assert centre == pytest.approx(np.average(blocks.y[mine], weights=weight[mine]))


def never_rises(trace: list[float]) -> bool:
    return all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(trace))


def test_lloyds_iteration_never_raises_the_error() -> None:
    start = start_levels(16, zero=True)
    held = np.isin(start, [-1, 0, 1])
    found, trace = lloyd(Cells.of_blocks(gaussian()), start, held, 200)
    assert never_rises(trace)
    assert trace[-1] < trace[0] / 1.1
    assert np.array_equal(found[held], start[held])
    assert np.all(np.diff(found) > 0)


@pytest.mark.parametrize("held_ends", [True, False])
def test_learning_a_partner_never_raises_the_error(held_ends: bool) -> None:
    blocks, nf4 = gaussian(), levels_of("nf4")
    base = errors(blocks.y, nf4)[1]
    held = np.isin(nf4, [-1, 1]) & held_ends
    found, trace = partner(blocks, base, nf4, held, 40)
    alone = float(blocks.weight @ base) / blocks.y.size
    assert never_rises(trace)
    assert trace[-1] < 0.75 * alone
    assert np.array_equal(found[held], nf4[held])


def test_learning_a_pair_never_raises_the_error_and_beats_a_partner() -> None:
    blocks, nf4 = gaussian(), levels_of("nf4")
    held = np.isin(nf4, [-1, 1])
    _, beside_nf4 = partner(blocks, errors(blocks.y, nf4)[1], nf4, held, 60)
    (one, two), trace = pair(blocks, (nf4, -nf4[::-1]), held, 60)
    assert never_rises(trace)
    assert trace[-1] < beside_nf4[-1]
    assert not np.allclose(one, two, atol=0.02)


@st.composite
def some_clustering(draw: st.DrawFn) -> tuple[Cells, np.ndarray, int, bool]:
    inside = st.floats(-1, 1, allow_subnormal=False)
    y = np.array(draw(st.lists(inside, min_size=1, max_size=12)))
    weight = np.array(draw(st.lists(st.integers(0, 5), min_size=len(y), max_size=len(y))), float)
    points = draw(st.lists(st.integers(-8, 8), min_size=3, max_size=7, unique=True))
    count = draw(st.integers(2, len(points)))
    return Cells.of(y, weight), np.sort(np.array(points) / 8), count, draw(st.booleans())


@settings(deadline=None)
@given(some_clustering())
def test_clustering_finds_the_best_of_all_choices(
    case: tuple[Cells, np.ndarray, int, bool],
) -> None:
    cells, points, count, ends = case
    found = cluster(cells, points, count, ends)
    last = len(points) - 1
    choices = [
        choice
        for choice in combinations(range(len(points)), count)
        if not ends or (choice[0] == 0 and choice[-1] == last)
    ]
    best = min(cells.error(points[list(choice)]) for choice in choices)
    assert found in choices
    assert cells.error(points[list(found)]) == pytest.approx(best, abs=1e-12)


def test_a_histogram_is_clustered_like_the_samples_that_it_counts() -> None:
    bins = np.linspace(-1, 1, 41)
    counts = np.random.default_rng(5).integers(0, 30, 41)
    samples = np.repeat(bins, counts)
    points = np.linspace(-1, 1, 17)
    of_bins = cluster(Cells.of(bins, counts.astype(float)), points, 6, ends=True)
    assert of_bins == cluster(Cells.of(samples, np.ones(len(samples))), points, 6, ends=True)


def test_after_coordinate_descent_no_single_move_helps() -> None:
    cells = Cells.of_blocks(gaussian(1000))
    points = np.array([float(point) for point in host_points("e4m3", Fraction(1))])
    held = np.array([True] + [False] * 6 + [True])
    start = [0, 20, 30, 40, 70, 80, 90, len(points) - 1]
    found = descend(cells, start, points, held)
    best = cells.error(points[list(found)])
    assert best < cells.error(points[start])
    for i, step in [(i, step) for i in range(1, 7) for step in (-1, 1)]:
        moved = [*found[:i], found[i] + step, *found[i + 1 :]]
        assert cells.error(points[moved]) >= best


def test_points_of_a_host_reach_from_minus_one_to_one() -> None:
    e4m3 = host_points("e4m3", Fraction(1))
    assert (e4m3[0], e4m3[-1], len(e4m3)) == (-1, 1, 113)
    hif7 = host_points("hif7", Fraction(120))
    assert (hif7[0], hif7[-1], len(hif7)) == (-1, 1, 79)


# -- published errors -------------------------------------------------------------------


def test_gaussian_blocks_of_16_have_the_published_errors() -> None:
    """Exact scales, absmax at the grid's ends; the published figures are from sampling too."""
    blocks = gaussian(40000)

    def error_of(*names: str) -> float:
        each = [errors_under_own_ends(blocks, levels_of(name), "absmax") for name in names]
        return float(blocks.weight @ np.minimum.reduce(each)) / blocks.y.size

    assert error_of("nf4") == pytest.approx(6.528e-3, rel=0.01)
    assert error_of("af4") == pytest.approx(7.005e-3, rel=0.01)
    assert error_of("sh4") == pytest.approx(5.534e-3, rel=0.01)
    assert error_of("bof4") == pytest.approx(5.559e-3, rel=0.01)
    assert error_of("iq4_nl") == pytest.approx(5.600e-3, rel=0.01)
    assert error_of("nf4", "sh4") == pytest.approx(4.797e-3, rel=0.01)
    assert error_of("nf4", "dd4") < error_of("nf4", "sh4")


def test_nf4_and_its_partner_have_the_published_error_where_the_largest_meets_one() -> None:
    blocks = gaussian(40000)
    each = [errors(blocks.y, levels_of(name))[1] for name in ("nf4", "po2_nf4_partner")]
    found = float(blocks.weight @ np.minimum(*each)) / blocks.y.size
    assert found == pytest.approx(4.636e-3, rel=0.01)


# -- recipes ----------------------------------------------------------------------------


def rerun(grid: Grid) -> tuple[Fraction, ...]:
    recipe = dict(grid.recipe)
    beside = recipe.get("beside")
    return derive(recipe, {beside: atom(beside).numbers} if beside else {})


@pytest.mark.parametrize("name", ["split87", "dd4"])
def test_a_recipe_makes_the_frozen_values(name: str) -> None:
    assert rerun(atom(name)) == atom(name).numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mpo2_a", "mpo2"),
        ("mpo2_b", "mpo2"),
        ("po2_nf4_partner", None),
        ("po2_sh4_partner", None),
        ("po2_split87_partner", None),
        ("bof4", None),
        ("bof4s", None),
        *((f"bof4{s}_i{block}", None) for s in ("", "s") for block in (8, 16, 32, 64, 128)),
    ],
)
def test_a_long_recipe_makes_the_frozen_values(name: str, file: str | None) -> None:
    grid = atom(name, file)
    frozen = tuple(Fraction(float(np.float32(float(value)))) for value in rerun(grid))
    assert frozen == grid.numbers


def test_every_shipped_recipe_is_run_by_a_test() -> None:
    told = {
        name for name, path in shipped_atoms().items() if "learned {" in path.read_text("utf-8")
    }
    run = {"split87", "dd4", "mpo2", "po2_nf4_partner", "po2_sh4_partner", "po2_split87_partner"}
    run |= {f"bof4{s}_i{block}" for s in ("", "s") for block in (8, 16, 32, 64, 128)}
    assert told == run


def ratio(*grids: Grid) -> Fraction:
    sizes = [abs(value) for grid in grids for value in grid.numbers if value]
    return max(sizes) / min(sizes)


def test_split87_has_the_published_shape_and_ratio() -> None:
    numbers = atom("split87").numbers
    assert [sum(value < 0 for value in numbers), sum(value > 0 for value in numbers)] == [8, 7]
    assert 0 in numbers
    assert min(abs(value) for value in numbers if value) == Fraction("0.0546875")
    assert round(float(ratio(atom("split87"))), 1) == 18.3
    assert set(numbers) <= set(host_points("e4m3", Fraction(1)))


def test_mpo2_has_the_published_ratio() -> None:
    both = atom("mpo2_a", "mpo2"), atom("mpo2_b", "mpo2")
    assert ratio(*both) == 64
    assert min(abs(value) for grid in both for value in grid.numbers) == Fraction(1, 64)
    assert all(grid.high == 1 == -grid.low for grid in both)


def test_a_recipe_gives_the_same_values_every_time() -> None:
    recipe = {"method": "lloyd", "blocks": "500", "origin": "held", "digits": "6"}
    assert derive(recipe) == derive(recipe)
    assert derive(recipe) != derive(recipe | {"seed": "1"})


@pytest.mark.parametrize(
    ("recipe", "check"),
    [
        ({"method": "lloyd"}, lambda v: (v[0], v[-1]) == (-1, 1)),
        ({"method": "lloyd", "target": "1"}, lambda v: v[0] > -1 and v[-1] < 1),
        ({"method": "lloyd", "rule": "argmax"}, lambda v: v[0] > -1 and v[-1] == 1),
        ({"method": "lloyd", "origin": "held"}, lambda v: v[8] == 0),
        ({"method": "lloyd", "levels": "8"}, lambda v: len(v) == 8),
        (
            {"method": "lloyd", "host": "hif7", "times": "120"},
            lambda v: v[-1] == 120 and all(x.denominator == 1 for x in v),
        ),
        ({"method": "clustering", "host": "hif7", "times": "96"}, lambda v: v[-1] == 96),
        ({"method": "block_optimal", "levels": "3"}, lambda v: v == (-1, 0, 1)),
    ],
)
def test_settings_of_a_recipe_mean_what_they_say(
    recipe: dict[str, str], check: Callable[[tuple[Fraction, ...]], bool]
) -> None:
    drawn = {} if recipe["method"] == "block_optimal" else {"blocks": "300"}
    assert check(derive(recipe | drawn))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, "no method is called ''"),
        ({"method": "guess"}, "no method is called 'guess'"),
        ({"method": "lloyd", "colour": "blue"}, "no recipe has the setting 'colour'"),
        ({"method": "lloyd", "source": "my weights"}, "'source' cannot be 'my weights'"),
        ({"method": "lloyd", "blocks": "1e9"}, "'blocks' cannot be '1e9'"),
        ({"method": "lloyd", "blocks": "99999999"}, "an integer, 2 to 1048576"),
        ({"method": "lloyd", "freedom": "0"}, "'freedom' cannot be '0'"),
        ({"method": "lloyd", "host": "e9m9", "blocks": "9"}, "no host is called 'e9m9'"),
        ({"method": "descent", "blocks": "9"}, "'fp32' has no list of points"),
        (
            {"method": "partner", "beside": "nf4", "blocks": "9"},
            "'nf4' that the recipe is 'beside'",
        ),
    ],
)
def test_a_recipe_that_cannot_be_run_says_why(recipe: dict[str, str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        derive(recipe)
