"""``fmtc quantize``: what it asks for, what it shows, and how it ends."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from commands import run
from fmtc.cli import cli
from fmtc.runtime.grids.options import SearchOptions
from fmtc.runtime.runs import run as runs
from fmtc.runtime.runs.progress import Status
from fmtc.runtime.runs.recipe import Recipe
from run_tools import UNITS, digest, write_model
from run_tools import run as run_here

#: The package has a command of the module's name.
quantize = importlib.import_module("fmtc.cli.quantize")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


BUDGET = ("-f", "nf4", "--bpw", "8.5", "--promote", "e2m3_ue4m4,int8", "--correct", "Wr")


def test_a_budget_on_the_command_line_makes_what_the_library_makes(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("quantize", model, "-o", out, *BUDGET, "--no-calibration", "--engine", "here")
    assert result.exit_code == 0
    run_here(model, tmp_path / "same")
    assert digest(out) == digest(tmp_path / "same")
    assert "e2m3_ue4m4" in result.stdout
    assert f"next: fmtc judge {out}" in result.stdout
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "profile",
        "pack",
        "assemble",
        "measure",
    ]
    again = run(
        "quantize", model, "-o", out, *BUDGET, "--no-calibration", "--engine", "here", "--json"
    )
    (row,) = json.loads(again.stdout)
    assert row["bpw"] <= 8.5
    assert row["tensors"] == 7 * UNITS // 4
    assert "is finished already, and whole" in again.stderr


def test_another_format_replaces_a_finished_checkpoint(model: Path, tmp_path: Path) -> None:
    for name in ("nf4", "nvfp4"):
        result = run("quantize", model, "-o", tmp_path / "out", "-f", name, "--json")
        assert json.loads(result.stdout)[0]["format"] == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say -f FORMAT, or --bpw NUMBER, or both"),
        (("-f", "nf4", "--bpw", "3"), "is below the 4.5"),
        (("-f", "nf4", "--block", "32"), "--block is for a search"),
        (("--bpw", "5", "--shares", "a,b"), "'a' is no percentage"),
        (("--bpw", "5", "--host", "moon"), "'host' cannot be 'moon'"),
        (("-f", "nf4", "--promote", "int8"), "need a budget"),
        (("-f", "nf4", "--text", "no_such_file.txt"), "no_such_file.txt"),
        (("-f", "nf4", "--text", "a", "--no-calibration"), "give one of"),
        (("-f", "nf4", "--engine", "slurm"), "no engine 'slurm'"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_named_and_nothing_is_written(
    options: tuple[str, ...], message: str, model: Path, tmp_path: Path
) -> None:
    result = run("quantize", model, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.Session, "_pack", interrupt)
    result = run("quantize", model, "-o", tmp_path / "out", "-f", "nf4")
    assert result.exit_code == 130
    assert f"kept in '{tmp_path / 'out'}.run': the same command goes on" in result.stderr
    monkeypatch.undo()


def test_a_run_that_cannot_go_on_is_a_failure_and_no_traceback(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmtc.runtime.runs.failures import NotAsMeasured

    def refuse(*_: object, **__: object) -> None:
        raise NotAsMeasured("the files are not what was planned")

    monkeypatch.setattr(runs.Session, "_assemble", refuse)
    result = run("quantize", model, "-o", tmp_path / "out", "-f", "nf4")
    assert result.exit_code == 1
    assert "error: the files are not what was planned" in result.stderr


def test_the_help_has_its_options_under_headings(model: Path) -> None:
    assert model.exists()
    text = run("quantize", "--help").stdout
    places = [text.index(f"\n{heading}:") for heading in quantize._HEADINGS]
    assert places == sorted(places)
    for option in cli.commands["quantize"].params:
        assert max(option.opts, key=len) in text or option.name == "model"
    assert "    fmtc quantize MODEL -o OUT --bpw 4.7 " in text


def test_a_terminal_sees_a_bar_with_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with quantize._shown(tmp_path / "out") as (show, notice):
        show(Status("profile", "", 0.0, None))
        show(Status("profile", "layers.0", 0.25, 200.0))
        notice("a thing to know")
        show(Status("profile", "", 0.5, 90.0, ended=True, seconds=75.0, note="12 units"))
    said = capsys.readouterr().err
    assert "a thing to know" in said
    assert "profile: 12 units, 75 s" in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (42.4, "42 s"), (200, "3 min 20 s"), (7380, "2 h 03 min")],
)
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert quantize._span(seconds) == text


@pytest.mark.parametrize(
    ("options", "mirrored"),
    [
        (("--scale", "S1E5M5"), True),
        (("--scale", "S1E5M5", "--no-signs"), False),
        (("--scale", "UE4M3"), False),
        (("--scale", "S1E5M5", "--rule", "argmax"), False),
        (("--scale", "E4M3", "--grids", "1"), True),
        (("--scale", "E4M3"), False),
    ],
)
def test_grids_are_mirrored_where_the_scale_word_has_a_sign_to_spare(
    options: tuple[str, ...], mirrored: bool
) -> None:
    asked = quantize.quantize.make_context(
        "quantize", ["model", "-o", "out", "--bpw", "5.5", *options]
    )
    assert quantize._recipe(asked.params).search.signs is mirrored


def test_the_options_default_to_what_the_library_does() -> None:
    asked = quantize.quantize.make_context("quantize", ["model", "-o", "out", "--bpw", "5"])
    assert quantize._recipe(asked.params) == Recipe.of(bpw="5")
    said = {option.name: option.help or "" for option in quantize.quantize.params[2:]}
    for key, value in asdict(SearchOptions()).items():
        if "[default:" in said.get(key, "") and key != "signs":
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert f"[default: {shown}]" in said[key]
