"""The gain of choosing a grid block by block, and the command that shows it.

References: Grid Games, arXiv:2605.12327 (pairs gain in small blocks and vanish in large ones); the
errors at blocks of 16 on N(0, 1) that ``test_gaussian`` measures through the encoder.
"""

from __future__ import annotations

import json
import math
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from commands import run
from fmtc.compiler.expected import gain as gains
from fmtc.compiler.expected.gain import BreakEven, Gain, break_even, decay, gain_curve
from fmtc.compiler.expected.laws import GAUSSIAN, LAPLACE, Law, law
from fmtc.compiler.expected.mse import expected_mse
from fmtc.compiler.expected.sampling import sample
from fmtc.compiler.expected.ways import ways_of
from fmtc.formats import load
from numpy.typing import NDArray

F64 = NDArray[np.float64]

# -- against sampling ----------------------------------------------------------------------


def nearest_error(x: F64, grid: F64, scale: F64) -> F64:
    """Squared errors of blocks [blocks, g] of the nearest of scale * grid, by trying all."""
    best = np.full(x.shape, np.inf)
    for value in grid:
        np.minimum(best, np.square(x - value * scale[:, None]), out=best)
    return best.sum(axis=1)


def sampled(name: str, x: F64) -> list[F64]:
    """Errors of blocks under both grids of a format, its rule written out again."""
    fmt = load(name)
    found = []
    for grid in fmt.grids:
        values = np.array([float(v) for v in grid.numbers])
        up, down = np.maximum(x.max(axis=1), 0), np.maximum(-x.min(axis=1), 0)
        if fmt.scale.rule == "argmax":
            peak = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
            scale = peak / float(grid.absmax_end)
        elif fmt.scale.targets:
            scale = np.maximum(up, down) / float(fmt.scale.targets[0])
        else:
            scale = np.maximum(up / float(grid.high), down / float(-grid.low))
        found.append(nearest_error(x, values, scale))
    return found


@pytest.mark.parametrize("block", [4, 16, 100])
@pytest.mark.parametrize("name", ["po2_nf4", "nf4_sh4", "po2_sh4", "sop_pair", "razer_activations"])
def test_the_curve_agrees_with_blocks_drawn_at_random(name: str, block: int) -> None:
    x = np.random.default_rng(block).standard_normal((400_000 // block, block))
    one, two = sampled(name, x)
    point = gain_curve(load(name), blocks=(block,))[0]
    assert point.method == "quadrature"
    for errors, mse in zip(
        (one, two, np.minimum(one, two)), (*point.single, point.chosen), strict=True
    ):
        spread = errors.std() / math.sqrt(len(x))
        assert abs(errors.mean() - block * mse) < 4 * spread
    chosen, best = np.minimum(one, two), (one, two)[int(point.single[1] < point.single[0])]
    lead = chosen / best.mean() - best * (chosen.mean() / best.mean() ** 2)
    seen = 1 - chosen.mean() / best.mean()
    assert abs(seen - point.gain) < 4 * lead.std() / math.sqrt(len(x))


@pytest.mark.parametrize("elements", [LAPLACE, law("student:7")], ids=str)
@pytest.mark.parametrize("name", ["nf4_sh4", "if4"])
def test_both_methods_agree_under_other_laws(name: str, elements: Law) -> None:
    fmt = load(name)
    exact = gain_curve(fmt, elements, (32,))[0]
    drawn = sample(elements, ways_of(fmt), 32)
    assert 0 < drawn.error < 3e-3
    assert abs(exact.gain - drawn.gain) < 4 * drawn.error
    assert drawn.single == pytest.approx(exact.single, rel=0.02)


@pytest.mark.parametrize("name", ["sfp4", "razer_weights", "iq4_nl", "block_dialect"])
def test_what_no_quadrature_serves_is_sampled_and_says_so(name: str) -> None:
    fmt = load(name)
    point = gain_curve(fmt, blocks=(16,))[0]
    assert point.method == "sampling"
    assert len(point.single) == len(ways_of(fmt)) > 2
    assert point.gain == pytest.approx(1 - point.chosen / min(point.single))
    assert 1e-5 < point.error < 5e-3
    assert point == gain_curve(fmt, blocks=(16,))[0]


# -- against what is known -----------------------------------------------------------------


@cache
def curve(name: str) -> tuple[Gain, ...]:
    return gain_curve(load(name))


def at(name: str, block: int) -> Gain:
    return next(point for point in curve(name) if point.block == block)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("nf4_sh4", 4.797e-3), ("po2_nf4", 4.636e-3), ("four_six", 7.403e-3), ("if4", 5.961e-3)],
)
def test_blocks_of_16_have_the_known_error(name: str, chosen: float) -> None:
    assert gain_curve(load(name), blocks=(16,))[0].chosen == pytest.approx(chosen, rel=1.5e-3)


def test_each_grid_alone_has_the_known_error() -> None:
    assert at("po2_nf4", 16).single[0] == pytest.approx(6.528e-3, rel=1.5e-3)
    assert at("nf4_sh4", 16).single == pytest.approx((6.528e-3, 5.534e-3), rel=1.5e-3)
    assert at("po2_nf4", 16).single[0] == pytest.approx(at("nf4_sh4", 16).single[0], rel=1e-6)


@pytest.mark.parametrize("block", [4, 64, 65536])
@pytest.mark.parametrize("elements", [GAUSSIAN, LAPLACE, law("student")], ids=str)
def test_each_grid_alone_errs_as_a_quadrature_in_mpmath_finds(elements: Law, block: int) -> None:
    point = gain_curve(load("nf4"), elements, (block,), against=load("sh4"))[0]
    for name, mse in zip(("nf4", "sh4"), point.single, strict=True):
        expected = expected_mse(load(name), elements, block=block, scales="exact").value
        assert mse == pytest.approx(expected, rel=1e-6)


def test_blocks_of_2_gain_what_their_two_elements_say() -> None:
    # The midpoint rule over the larger element and the other one's share of it.
    fmt = load("po2_nf4")
    m = (np.arange(2000) + 0.5) * (8 / 2000)
    share = (np.arange(2000) + 0.5) * (2 / 2000) - 1
    grids = [np.array([float(v) for v in grid.numbers]) for grid in fmt.grids]
    one, two = (nearest_error(share[:, None], grid, np.ones(2000)) for grid in grids)
    ends = [nearest_error(np.array([[1.0], [-1.0]]), grid, np.ones(2)) for grid in grids]
    density = np.exp(-np.square(m) / 2) / math.sqrt(2 * math.pi)
    other = np.exp(-np.square(m[:, None] * share) / 2) / math.sqrt(2 * math.pi) * m[:, None]
    weight = (2 * density * np.square(m) @ other) * (8 / 2000) * (2 / 2000)
    chosen = sum(weight @ np.minimum(one + ends[0][i], two + ends[1][i]) for i in range(2)) / 2
    assert gain_curve(fmt, blocks=(2,))[0].chosen == pytest.approx(chosen, rel=2e-5)


@pytest.mark.parametrize("name", ["po2_nf4", "nf4_sh4"])
def test_the_gain_vanishes_as_blocks_grow(name: str) -> None:
    assert [point.block for point in curve(name)] == [1 << k for k in range(2, 17)]
    shares = [point.gain for point in curve(name)]
    assert all(share >= 0 for share in shares)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.25
    assert shares[-1] < 1e-3
    one, two = curve(name)[-1].single
    assert abs(one - two) > 0.1 * one


def test_between_mirror_images_the_gain_falls_as_the_root_of_the_block() -> None:
    points = gain_curve(load("razer_activations"), blocks=(16384, 32768, 65536))
    for point in points:
        assert point.single[0] == pytest.approx(point.single[1], rel=1e-9)
    exponent = decay(points)
    assert exponent is not None
    assert 0.5 < exponent < 1


def test_a_grid_beside_itself_gains_nothing() -> None:
    for point in gain_curve(load("nf4"), blocks=(4, 16, 4096), against=load("nf4")):
        assert (point.gain, point.certain, point.pays) == (0, 0, False)
        assert point.single[0] == point.single[1] == point.chosen


def test_a_pair_is_the_format_that_has_both_grids() -> None:
    pair = gain_curve(load("nf4"), blocks=(16, 64), against=load("sh4"))
    whole = gain_curve(load("nf4_sh4"), blocks=(16, 64))
    for one, other in zip(pair, whole, strict=True):
        assert one.gain == pytest.approx(other.gain, rel=1e-6)
        assert one.worth == other.worth == 1 - 2 ** (-2 / one.block)


def test_the_stated_error_holds_what_a_finer_step_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    rough = gain_curve(load("po2_sh4"), blocks=(8, 64))
    monkeypatch.setattr(gains, "_STEP", 0.25)
    monkeypatch.setattr(gains, "_START", -4.0)
    for one, other in zip(rough, gain_curve(load("po2_sh4"), blocks=(8, 64)), strict=True):
        assert abs(one.gain - other.gain) <= one.error < 1e-3


def test_block_sizes_have_bounds() -> None:
    for block in (0, 1, gains.LARGEST_BLOCK + 1):
        with pytest.raises(ValueError, match="a block has 2 to"):
            gain_curve(load("po2_nf4"), blocks=(block,))
    two = gain_curve(load("po2_nf4"), blocks=(2,))[0]
    assert two.chosen < min(two.single)


# -- break-even ----------------------------------------------------------------------------


def point(block: int, gain: float, worth: float, error: float = 0.0) -> Gain:
    return Gain(block, (1.0, 2.0), 1 - gain, gain, error, worth, "quadrature")


def power_law(block: int) -> Gain:
    """Gain 8 g^-2 and price 1/g: they meet at blocks of 8."""
    return point(block, 8 / block**2, 1 / block)


def test_break_even_is_interpolated_on_logarithms() -> None:
    even = break_even([power_law(block) for block in (2, 4, 64)])
    assert even.ever
    assert even.begins is None
    assert even.ends == pytest.approx(8)


def test_break_even_is_closed_in_on_where_the_gain_can_be_had_in_between() -> None:
    def steep(block: int) -> Gain:
        return point(block, math.exp(-block / 100), 0.1)

    ends = 100 * math.log(10)
    assert break_even([steep(16), steep(4096)]).ends != pytest.approx(ends, rel=0.1)
    assert break_even([steep(16), steep(4096)], steep).ends == pytest.approx(ends, rel=0.01)


def test_a_choice_may_pay_from_some_size_on() -> None:
    even = break_even([point(4, 0.2, 0.4), point(16, 0.2, 0.1), point(64, 0.2, 0.025)])
    assert even.begins == pytest.approx(8)
    assert even.ends is None


def test_a_choice_may_never_pay_or_pay_to_the_end() -> None:
    assert break_even([point(4, 0.1, 0.3), point(8, 0.05, 0.2)]) == BreakEven(ever=False)
    assert break_even([point(4, 0.4, 0.3), point(8, 0.3, 0.2)]) == BreakEven(ever=True)
    assert break_even([]) == BreakEven(ever=False)


def test_a_gain_below_its_own_error_counts_as_none() -> None:
    lost = point(64, 0.05, 0.02, error=0.06)
    assert (lost.certain, lost.pays) == (0, False)
    even = break_even([point(16, 0.2, 0.1), lost])
    assert even.ends == pytest.approx(32)
    assert decay([point(16, 0.2, 0.1), lost]) is None


def test_the_select_bit_of_po2_nf4_pays_at_its_block_and_not_in_large_ones() -> None:
    assert at("po2_nf4", 16).pays
    ends = break_even(curve("po2_nf4")).ends
    assert ends is not None
    assert 1024 < ends < 2048


# -- the command ---------------------------------------------------------------------------


def test_analyze_prints_the_table_the_bars_and_the_break_even() -> None:
    result = run("analyze", "po2_nf4", "--blocks", "16,1024,4096")
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert "scales are exact" in text
    assert "15.86" in text
    assert "8.30" in text
    assert "<- its block" in text
    assert "break-even: the select bit stops paying at blocks of about 1,1" in text
    assert "free here: it rides in the scale's sign" in text
    assert "large blocks: the gain vanishes" in text
    bars = text[text.index("gain █") :].splitlines()[1:4]
    assert [line.split()[0] for line in bars] == ["16", "1,024", "4,096"]
    lengths = [line.count("█") for line in bars]
    assert lengths[0] > lengths[1] > lengths[2] == 0


def test_analyze_says_what_a_choice_without_a_bit_costs() -> None:
    text = run("analyze", "four_six", "--blocks", "16,32").stdout
    assert "no select bit is stored" in text
    assert "e2m1/4" in text
    assert "┃" not in text


def test_analyze_gives_json() -> None:
    value = json.loads(run("analyze", "po2_nf4", "--blocks", "64, 16,16", "--json").stdout)
    assert set(value) == {
        "format", "ways", "law", "scales", "block", "select", "curve", "break_even", "decay",
    }  # fmt: skip
    assert (value["format"], value["law"], value["scales"]) == ("po2_nf4", "gaussian", "exact")
    assert value["ways"] == ["nf4", "partner"]
    assert value["select"] == {"bits": 1, "place": "scale.sign", "free": True}
    assert value["block"] == 16
    assert value["break_even"] == {"pays": True, "begins": None, "ends": None}
    assert [entry["block"] for entry in value["curve"]] == [16, 64]
    for entry, seen in zip(value["curve"], (at("po2_nf4", 16), at("po2_nf4", 64)), strict=True):
        assert set(entry) == {
            "block", "single", "chosen", "gain", "error", "price", "pays", "method",
        }  # fmt: skip
        assert entry["gain"] == seen.gain
        assert entry["price"] == seen.worth


def test_analyze_pairs_any_two_formats() -> None:
    arguments = ("analyze", "nf4", "--against", "sh4", "--law", "laplace", "--blocks", "16")
    value = json.loads(run(*arguments, "--json").stdout)
    assert (value["format"], value["law"]) == ("nf4 | sh4", "laplace")
    assert value["select"] == {"bits": 1, "place": "pair", "free": False}
    assert "the pair is no format" in run(*arguments).stdout


def test_a_format_without_a_choice_is_refused_with_a_way_out() -> None:
    result = run("analyze", "nf4")
    assert result.exit_code == 2
    assert "'nf4' encodes every block in one way" in result.stderr
    assert "fmtc list" in result.stderr
    assert "--against" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--law", "cauchy"), "cauchy"),
        (("--law", "student:2"), "degrees"),
        (("--blocks", "1,16"), "block sizes"),
        (("--blocks", "16;32"), "block sizes"),
        (("--plot", "curve.pdf"), ".svg"),
        (("--against", "nosuch"), "nosuch"),
    ],
)
def test_bad_options_end_with_status_2(arguments: tuple[str, ...], says: str) -> None:
    result = run("analyze", "po2_nf4", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_plot_without_its_package_names_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("analyze", "po2_nf4", "--plot", tmp_path / "curve.svg")
    assert result.exit_code == 2
    assert "pip install 'fmtc[plot]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="skipped: no matplotlib (extra plot)")
@pytest.mark.parametrize(("suffix", "starts"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_a_plot_is_written_whole_and_the_same_each_time(
    suffix: str, starts: bytes, tmp_path: Path
) -> None:
    files = [tmp_path / f"{turn}{suffix}" for turn in "ab"]
    for file in files:
        result = run("analyze", "po2_nf4", "--blocks", "16,1024,4096", "--plot", file)
        assert result.exit_code == 0, result.output
    assert files[0].read_bytes().startswith(starts)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == files
    if suffix == ".svg":
        text = files[0].read_text()
        assert "elements in a block" in text
        assert "break-even" in text
