"""``fmtc cost``: its rows, what it says where tools are missing, hosts, baselines and drawings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cells
import click
import pytest
from click.testing import CliRunner, Result
from fmtc.cli.console import user_errors
from fmtc.cli.cost import cost, pareto
from fmtc.formats import compile_text, load
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.rtl import activity, analytic, baselines, hosts, liberty, tools
from fmtc.runtime.rtl.baselines import Comparison, Row
from fmtc.runtime.rtl.energy import Energy
from fmtc.runtime.rtl.measure import Measured, Point, block_design, lane_design


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cost, [str(a) for a in arguments])


def values(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda _: None)


@pytest.fixture
def synthesis() -> None:
    try:
        tools.require("yosys")
        liberty.find_library("osu018")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


# -- the model, where tools are missing ----------------------------------------------------


@pytest.mark.usefixtures("no_tools")
def test_a_missing_tool_gives_the_model_by_its_name() -> None:
    found = values("nvfp4", "sop_pair")
    assert [row["model"] for row in found["costs"]] == [analytic.NAME] * 2
    assert "apt-get install -y --no-install-recommends yosys" in found["notes"][0]
    assert any(analytic.NAME in note for note in found["notes"])
    assert all(row["area"] > 0 and row["delay"] > 0 for row in found["costs"])


@pytest.mark.usefixtures("no_tools")
def test_the_table_names_the_model_in_every_row() -> None:
    result = run("nvfp4", "sop_pair", "--hosts", "hif7,e4m3")
    assert result.exit_code == 0
    rows = [
        line for line in result.stdout.splitlines() if line.startswith((" nvfp4 ", " sop_pair "))
    ]
    assert len(rows) == 2 + 4
    assert all(analytic.NAME in row for row in rows)


def test_a_missing_library_gives_the_model_and_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, synthesis: None
) -> None:
    monkeypatch.setattr(liberty, "_SHARE", tmp_path)
    found = values("nvfp4")
    assert found["costs"][0]["model"] == analytic.NAME
    assert "qflow-tech-osu018" in found["notes"][0]


def test_the_model_can_be_asked_for() -> None:
    row = values("nvfp4", "--analytic")["costs"][0]
    assert row["model"] == analytic.NAME
    assert row["library"] == analytic.CALIBRATED_ON
    assert sum(row["parts"].values()) == pytest.approx(row["area"])


# -- storage -------------------------------------------------------------------------------


def test_storage_and_bandwidth_follow_from_the_bits() -> None:
    row = values("nvfp4", "--analytic", "--tile", "8x32")["costs"][0]
    fmt, activations = load("nvfp4"), load("hif8_ue4m4")
    assert row["bytes_per_weight"] == fmt.bpw / 8
    assert row["bits_per_cycle"] == 32 * fmt.bpw + 8 * activations.bpw
    other = values("nvfp4", "--analytic", "--activations", "mxint8")["costs"][0]
    assert other["bits_per_cycle"] == 16 * fmt.bpw + 16 * load("mxint8").bpw
    assert other["activations"] == "mxint8"


@pytest.mark.parametrize(
    ("block", "lanes"), [(4, 4), (8, 8), (16, 16), (24, 24), (32, 16), (128, 16)]
)
def test_formats_are_compared_by_sixteen_lanes(block: int, lanes: int) -> None:
    fmt = compile_text(f'format mine extends "nvfp4" {{ block {block}  check "" }}', "mine")
    assert lane_design(fmt).block == lanes
    own = block_design(fmt)
    assert own is not None
    assert own.block == fmt.block


# -- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a format"),
        (["nvfp4", "--tile", "16"], "no size such as 16x16"),
        (["nvfp4", "--tile", "0x4"], "no size such as 16x16"),
        (["nvfp4", "--hosts", "hif9"], "'hif9' is no host; there are hif7"),
        (["nvfp4", "--plot", "x.pdf"], "ends in none of"),
        (["nvfp4", "--against", "delay"], "--against"),
    ],
)
def test_wrong_words_are_refused(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_mistyped_name_comes_with_a_suggestion() -> None:
    result = run("nvfp5", "--analytic")
    assert isinstance(result.exception, user_errors())
    assert "nvfp4" in str(result.exception)


def test_a_format_without_such_hardware_is_named_and_the_others_shown() -> None:
    result = run("int4_asym_g128", "nvfp4", "--analytic", "--json")
    assert result.exit_code == 2
    assert "int4_asym_g128" in result.stderr
    assert [row["format"] for row in json.loads(result.stdout)["costs"]] == ["nvfp4"]


def test_a_library_of_the_user_that_is_broken_is_an_error(synthesis: None, tmp_path: Path) -> None:
    file = cells.write(tmp_path, cells.TINY[:-20])
    result = run("nvfp4", "--library", file)
    assert isinstance(result.exception, user_errors())
    assert str(file) in str(result.exception)


def test_a_library_of_the_user_that_is_not_there_is_an_error(synthesis: None) -> None:
    result = run("nvfp4", "--library", "none.lib")
    assert isinstance(result.exception, user_errors())
    assert "neither a file nor one of osu018" in str(result.exception)


# -- synthesis -----------------------------------------------------------------------------


def test_a_row_of_synthesis_says_what_it_rests_on(
    synthesis: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "data", activity.gaussian_data)
    found = values("nvfp4", "--no-fpga", "--relaxed")
    row = found["costs"][0]
    assert row["model"] == "synthesis"
    assert row["library"] == "osu018"
    assert row["data"].startswith("Gaussian")
    assert row["fpga"] is None
    assert {"scale_decoder", "multiply", "scale_apply"} <= row["parts"].keys()
    assert row["area"] > 8 * row["parts"]["multiply"]["points"][0]["area"]
    assert 0 < row["energy"] < row["dot"]["energy"]["unit_delay"]
    assert any("osu018" in note and "yosys" in note for note in found["notes"])
    assert any("without delays" in note for note in found["notes"])


# -- hosts ---------------------------------------------------------------------------------


#: SOP, arXiv:2605.14929: grids in HIF7 words and their penalties in per cent, blocks of 16.
PUBLISHED = {
    "bof4_16": ("120 96 72 56 40 26 13 0 12 24 36 48 64 80 96 120", 7, 1.8),
    "sh4": ("88 72 56 44 32 22 14 5 3 12 22 32 44 56 72 88", 8, 1.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_hosted_grids_are_the_published_ones(name: str) -> None:
    text, negative, penalty = PUBLISHED[name]
    magnitudes = [int(word) for word in text.split()]
    expected = [-v for v in magnitudes[:negative]] + magnitudes[negative:]
    _, free = hosts.hosted(load(name), hosts.HOSTS["hif7"])
    assert [int(v) for v in free.grids[0].numbers] == expected
    assert 100 * free.penalty == pytest.approx(penalty, abs=0.1)


@pytest.mark.parametrize("host", hosts.HOSTS.values(), ids=str)
def test_a_hosted_grid_is_made_of_the_hosts_numbers(host: hosts.Host) -> None:
    for found in hosts.hosted(load("sop_pair"), host):
        assert len(found.grids) == 2
        assert found.penalty > -0.5
    if host.name == "bf16":
        return
    design = hosts.hosted_design(load("sop_pair"), found)
    operand = design.weights.operand
    assert (operand.coefficient_bits, operand.max_shift) == (
        host.coefficient_bits,
        host.max_shift,
    )
    for grid, words in zip(found.grids, operand.words, strict=True):
        assert [word.value for word in words if word] == [v for v in grid.values if v is not None]


def test_a_free_factor_errs_no_more_than_a_power_of_two() -> None:
    for host in hosts.HOSTS.values():
        power, free = hosts.hosted(load("nf4_kbit"), host)
        assert free.mse <= power.mse


def test_a_wider_host_errs_less() -> None:
    errors = {
        name: hosts.hosted(load("sh4"), hosts.HOSTS[name])[1].mse
        for name in ("hif7", "tc6", "bf16")
    }
    assert errors["bf16"] < errors["tc6"] < errors["hif7"]


def test_hosts_have_rows_with_both_penalties() -> None:
    found = values("sh4", "--analytic", "--hosts", "all")["hosts"]
    assert [row["host"] for row in found] == list(hosts.HOSTS)
    areas = {row["host"]: row["area"] for row in found}
    assert areas["e2m3"] < areas["hif7"] < areas["tc6"] < areas["e4m3"]
    assert all(row["penalty free"] <= row["penalty 2^k"] for row in found)


# -- baselines -----------------------------------------------------------------------------


def made(*points: tuple[float, float], energy: float = 1.0) -> Measured:
    taken = Energy(energy, 2 * energy, 0.0, 2)
    return Measured("m", tuple(Point("e", a, d, "abc", d) for a, d in points), taken)


def test_area_at_no_more_delay_is_of_the_points_that_are_no_slower() -> None:
    own = Row("mine", "", made((50, 4), (60, 3), (80, 2), energy=3))
    base = Row("INT8", "", made((120, 2), (100, 3), energy=4))
    found = Comparison("x", (own,), (base,))
    assert found.ratios(own, base) == {
        "area": 50 / 120,
        "delay": 2.0,
        "area_at_delay": 0.6,
        "energy": 0.75,
    }
    assert "target 0.55: missed" in found.verdicts()[0]
    assert found.ratios(base, own)["area_at_delay"] == 100 / 50


def test_a_target_is_met_only_at_no_more_delay() -> None:
    base = Row("INT8", "", made((100, 3)))
    fast, slow = Row("f", "", made((50, 3))), Row("s", "", made((50, 4)))
    found = Comparison("x", (fast, slow), (base,)).verdicts()
    assert "(target 0.55: met)" in found[0]
    assert "slower at every point" in found[1]
    assert "missed" in found[1]


def test_baselines_are_shown_beside_a_format() -> None:
    found = values("--baselines", "--analytic")["baselines"]
    names = [row["dot product"] for row in found["rows"]]
    assert names[0] == "nf4_hif7"
    assert set(baselines.SELVES) <= set(names)
    ratios = {row["baseline"]: row["area"] for row in found["ratios"]}
    assert ratios["INT8"] < 1 < ratios["NVFP4"]
    assert ratios["E4M3"] < 1


# -- a drawing -----------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["area", "energy", "bpw"])
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_plot_is_written_the_same_each_time(tmp_path: Path, against: str, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for file in files:
        result = run(
            "nvfp4", "sh4", "--analytic", "--hosts", "hif7", "--plot", file, "--against", against
        )
        assert result.exit_code == 0, result.output
    first, second = (file.read_bytes() for file in files)
    assert first == second
    if suffix == ".svg":
        assert "sh4 in hif7" in first.decode()
        assert analytic.NAME in first.decode()


def test_the_front_is_what_nothing_betters() -> None:
    points = [(1, 5), (2, 3), (3, 3), (4, 1), (5, 2), (1, 5)]
    assert pareto(points) == [0, 1, 3, 5]


def test_the_command_has_help_for_every_option() -> None:
    options = [p for p in cost.params if isinstance(p, click.Option)]
    assert len(options) > 10
    assert all(option.help for option in options)
