"""``fmtc learn``: files with learned grids, from a tensor, a layer or a model, and back."""

from __future__ import annotations

import json
from pathlib import Path

import fmtc
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from fmtc.cli import cli
from fmtc.dsl.parser import parse
from fmtc.dsl.printer import print_file
from fmtc.runtime.calibration import Calibration
from fmtc.runtime.grids.learned_file import given_grid, grids_of
from safetensors.torch import save_file

NAMES = ("model.layers.0.up.weight", "model.layers.0.down.weight", "model.layers.1.up.weight")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three matrices and a norm; the first is float16."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    generator = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(96, 128, generator=generator) for name in NAMES}
    tensors[NAMES[0]] = tensors[NAMES[0]].to(torch.float16)
    save_file(tensors | {"model.norm.weight": torch.ones(128)}, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["learn", *map(str, arguments)])


def said(result: Result) -> str:
    return " ".join((result.output + str(result.exception)).split())


@pytest.fixture
def few_gaussian_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmtc.runtime.grids.learn.GAUSSIAN_ELEMENTS", 1 << 12)


@pytest.mark.usefixtures("few_gaussian_blocks")
@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ("po2 --beside nf4 --host e4m3", None),
        ("po2 --beside nf4 --host e4m3", "e4m3"),
        ("po2 --beside nf4 --host e4m3", "ue4m3"),
        ("po2 --beside nf4 --host e4m3", "ue4m4"),
        ("po2 --beside nf4", "fp32"),
        ("po2 --beside sh4 --snap after --host hif7", None),
        ("po2 --beside sh4 --snap after --host hif7", "s1e5m5"),
        ("po2 --beside e2m1 --rounds 9", "e4m3"),
        ("mpo2 --rounds 9", None),
        ("mpo2 --rounds 9", "ue4m3"),
        ("split87 --host hif7", None),
        ("split87 --host hif7", "e4m3"),
        ("dd4", "e4m3"),
        ("dd4 --beside nf5 --host e4m3", "e4m3"),
        (f"dd4 --beside mpo2_a --tensor {NAMES[1]}", "ue4m3"),
        ("dd4 --beside nf4 --layer model.layers.0 --host hif8", "ue4m3"),
    ],
)
def test_what_is_learned_is_written_compiles_and_is_learned_again(
    model: Path, tmp_path: Path, options: str, scale: str | None
) -> None:
    out = tmp_path / "mine.fmt"
    family, *others = options.split()
    arguments = (family, model, *others, "-o", out, "--blocks", "300")
    if scale is not None:
        arguments += ("--format", scale)
    result = run(*arguments)
    assert result.exit_code == 0, said(result)
    text = out.read_text("utf-8")
    assert print_file(parse(text)) == text
    learned = [grid for grid in grids_of(out) if ("source", "data") in grid.recipe]
    assert len(learned) == (2 if family == "mpo2" else 1)
    if scale is not None:
        fmt = fmtc.load(out)
        w = np.random.default_rng(1).standard_normal((4, 64), dtype=np.float32)
        decoded = fmt.quantize(w, backend="reference").to_float32(backend="reference")
        assert np.square(w - decoded).mean() < 0.02
    checked = run("--check", out, model, "--json")
    assert checked.exit_code == 0, said(checked)
    assert [row["same"] for row in json.loads(checked.stdout)] == [True] * len(learned)
    again = tmp_path / "again" / "mine.fmt"
    assert run(*(again if each is out else each for each in arguments)).exit_code == 0
    assert again.read_text("utf-8") == text


@pytest.mark.usefixtures("few_gaussian_blocks")
def test_a_changed_value_is_found_and_another_model_refused(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.fmt"
    assert run("dd4", model, "-o", out).exit_code == 0
    text = out.read_text("utf-8")
    out.write_text(text.replace("-1, -0.8125", "-1, -0.875"), "utf-8")
    assert out.read_text("utf-8") != text
    result = run("--check", out, model)
    assert result.exit_code == 1
    assert "-0.875 is -0.8125" in said(result)
    out.write_text(text, "utf-8")
    other = tmp_path / "other.safetensors"
    save_file({NAMES[0]: torch.randn(96, 128)}, other)
    result = run("--check", out, other)
    assert result.exit_code == 2
    assert "the recipe is of data" in said(result)


def test_the_table_says_what_was_gained(model: Path, tmp_path: Path) -> None:
    result = run("po2", model, "--beside", "nf4", "-o", tmp_path / "p.fmt", "--json")
    assert result.exit_code == 0, said(result)
    rows = {row["grids"]: row["MSE"] for row in json.loads(result.stdout)["grids"]}
    assert list(rows) == [
        "nf4 alone",
        "po2_nf4, as shipped",
        "nf4|partner, Gaussian, fp32",
        "nf4|partner, learned, fp32",
    ]
    alone, shipped, gaussian, learned = rows.values()
    assert learned < shipped < 0.75 * alone
    assert gaussian == pytest.approx(shipped, rel=1e-6)


@pytest.mark.usefixtures("few_gaussian_blocks")
def test_channel_norms_weigh_the_errors(model: Path, tmp_path: Path) -> None:
    norms = {name: torch.linspace(0.01, 5, 128) for name in NAMES}
    told, fewer = tmp_path / "c.safetensors", tmp_path / "fewer.safetensors"
    Calibration(norms, {}, 512, 64, "0" * 64).save(told)
    Calibration({name: norms[name] for name in NAMES[:2]}, {}, 512, 64, "0" * 64).save(fewer)
    out = tmp_path / "weighed.fmt"
    result = run("dd4", model, "--weights", told, "--power", "c2", "-o", out)
    assert result.exit_code == 0, said(result)
    assert dict(grids_of(out)[0].recipe)["weights"] == "c2"
    assert run("--check", out, model, "--weights", told).exit_code == 0
    bare = run("--check", out, model)
    assert bare.exit_code == 2
    assert "learned with channel norms: give --weights" in said(bare)
    result = run("dd4", model, "--weights", fewer, "-o", out)
    assert f"no channel norms of '{NAMES[2]}'" in said(result)


@pytest.mark.usefixtures("few_gaussian_blocks")
def test_a_grid_of_a_file_may_be_beside(model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.fmt", tmp_path / "second.fmt"
    assert run("split87", model, "-o", first).exit_code == 0
    arguments = ("--beside", f"{first}:first", "-o", second, "--format", "e4m3")
    result = run("po2", model, *arguments)
    assert result.exit_code == 0, said(result)
    fmt = fmtc.load(second)
    assert [grid.name for grid in fmt.grids] == ["first", "partner"]
    assert fmt.grids[0].numbers == given_grid(str(first)).numbers
    assert run("--check", second, model).exit_code == 0


@pytest.mark.usefixtures("few_gaussian_blocks")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("po2", "--tensor", "model.layers.0.upp.weight"), f"did you mean '{NAMES[0]}'?"),
        (("po2", "--layer", "model.layer.1"), "did you mean 'model.layers.1'?"),
        (("po2", "--tensor", "model.norm.weight"), "is no matrix of floats"),
        (("po2", "--beside", "nf44"), "did you mean 'nf4'?"),
        (("po2", "--beside", "no_such.fmt"), "no_such.fmt"),
        (("po2", "--host", "e9m9"), "no host is called 'e9m9'"),
        (("po2", "--format", "e99"), "no scale word is called 'e99'"),
        (("dd4", "--host", "e2m1"), "has no 16 points"),
        (("mpo2", "--beside", "nf4"), "mpo2 is learned beside no grid"),
        (("dd4", "--snap", "after"), "--snap is of po2 and mpo2"),
        (("dd4", "--power", "c2"), "give --weights"),
        (("dd4", "--tensor", NAMES[0], "--layer", "model.layers.0"), "one of --tensor and --layer"),
        (("lloyd",), "po2|mpo2|split87|dd4 MODEL"),
        (("dd4", "--times", "0"), "'0' is no number above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_learned_is_refused_by_name(
    model: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "out.fmt"
    result = run(arguments[0], model, *arguments[1:], "-o", out)
    assert result.exit_code == 2
    assert words in said(result)
    assert not out.exists()


def test_a_file_without_grids_of_data_cannot_be_checked(model: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.fmt"
    plain.write_text("atom a = codebook 1 { -1, 1 } learned { method lloyd  blocks 300 }\n")
    result = run("--check", plain, model)
    assert result.exit_code == 2
    assert "was learned from data" in said(result)
    assert run("--check", plain).exit_code == 2
    assert run("po2", model).exit_code == 2
