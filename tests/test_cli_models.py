from __future__ import annotations

import json
from pathlib import Path

import fmtc
import pytest
import torch
from commands import run, shell
from fmtc.runtime import verify
from safetensors.torch import save_file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    maker = torch.Generator().manual_seed(1)
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {
        "model.embed_tokens.weight": torch.randn(16, 32, generator=maker),
        "model.layers.0.mlp.up_proj.weight": torch.randn(48, 32, generator=maker),
        "model.layers.0.mlp.down_proj.weight": torch.randn(32, 48, generator=maker),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


# -- verify ------------------------------------------------------------------------------

ROW = {"check", "backend", "status", "cases", "seconds", "note"}


def test_verify_runs_every_check_on_a_users_own_format(mine: Path) -> None:
    result = run("verify", mine, "--quick", "--cases", "500", "--json")
    rows = json.loads(result.stdout)
    assert result.exit_code == 0, rows
    assert all(set(row) == ROW for row in rows)
    assert {"dsl", "reference", "c", "triton"} <= {row["backend"] for row in rows}
    assert all(row["cases"] > 0 for row in rows if row["status"] == "passed")
    assert all(row["note"] for row in rows if row["status"] == "skipped")
    assert "verilog" not in {row["backend"] for row in rows}


def stub_verify(
    monkeypatch: pytest.MonkeyPatch, *results: verify.Result
) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = []

    def verify_format(fmt: fmtc.Format, **options: object) -> list[verify.Result]:
        calls.append({"format": fmt.name, **options})
        return list(results)

    monkeypatch.setattr(verify, "verify_format", verify_format)
    return calls


def test_verify_fails_when_one_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_verify(
        monkeypatch,
        verify.Result("decode", "c", "passed", 1200, 0.1),
        verify.Result("encode", "c", "failed", 0, 0.2, "code 3 differs\nx = 0x1p-3"),
        verify.Result("RTL", "verilog", "skipped", 0, 0.0, "no iverilog: apt-get install it"),
    )
    result = run("verify", "nf4")
    assert result.exit_code == 1
    assert "nf4: 1 passed, 1 failed, 1 skipped; 1,200 cases" in result.stdout
    assert "no iverilog: apt-get install it" in result.stdout
    assert "FAILED encode\ncode 3 differs\nx = 0x1p-3" in result.stderr
    as_json = run("verify", "nf4", "--json")
    assert as_json.exit_code == 1
    assert [row["status"] for row in json.loads(as_json.stdout)] == ["passed", "failed", "skipped"]


def test_verify_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stub_verify(monkeypatch, verify.Result("a", "c", "skipped", 0, 0.0, "why"))
    assert run("verify", "nf4", "--cases", "7", "--quick").exit_code == 0
    assert run("verify", "nvfp4").exit_code == 0
    shown = [(c["format"], c["cases"], c["quick"]) for c in calls]
    assert shown == [("nf4", 7, True), ("nvfp4", 100_000, False)]
    for cases in ("0", "-5", "many"):
        assert run("verify", "nf4", "--cases", cases).exit_code == 2


# -- quantize ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_quantize_writes_a_checkpoint_and_says_what_it_holds(
    backend: str, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("quantize", model, "-f", "po2_nf4", "-o", out, "--backend", backend, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert set(row) == {"format", "tensors", "weights", "bpw", "NMSE", "out"}
    assert (row["format"], row["tensors"], row["weights"]) == ("po2_nf4", 2, 2 * 48 * 32)
    stored = [*out.glob("quantized-*"), *out.glob("formats/*"), out / "fmtc.json"]
    octets = sum(p.stat().st_size for p in stored)
    assert row["bpw"] == 8 * octets / row["weights"]
    assert 0.004 < row["NMSE"] < 0.02
    assert len(dict(fmtc.read_checkpoint(out).state_dict())) == 3
    again = run("quantize", model, "-f", "nf4", "-o", out)
    assert again.exit_code == 0
    assert "nf4" in again.stdout


def test_quantize_refuses_to_overwrite_what_is_no_checkpoint(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    for out in (home, home / "thesis.txt", model, model / "model.safetensors"):
        result = run("quantize", model, "-f", "nf4", "-o", out)
        assert result.exit_code == 2
        assert "exists and is no fmtc checkpoint" in result.stderr
    assert (home / "thesis.txt").read_text() == "years of work"
    assert (model / "config.json").exists()


def test_quantize_into_an_empty_folder_is_fine(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("quantize", model, "-f", "nf4", "-o", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("which", ["absent", "mine.fmt", "model/config.json"])
def test_quantize_of_what_is_no_model_is_bad_input(
    which: str, mine: Path, model: Path, tmp_path: Path
) -> None:
    result = run("quantize", tmp_path / which, "-f", "nf4", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "model" in result.stderr
    assert not (tmp_path / "out").exists()


def test_quantize_names_a_weight_that_is_refused(model: Path, tmp_path: Path) -> None:
    bad = torch.ones(4, 32)
    bad[2, 5] = torch.nan
    save_file({"layers.0.fc.weight": bad}, model / "model.safetensors")
    result = run("quantize", model, "-f", "nf4", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "error: layers.0.fc.weight: the input has a NaN at [2, 5]" in result.stderr
    assert not (tmp_path / "out").exists()


def test_quantize_refuses_unknown_options(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("quantize", model, "-f", "nf55", "-o", out).exit_code == 2
    assert run("quantize", model, "-f", "nf4", "-o", out, "--backend", "cuda").exit_code == 2
    assert run("quantize", model, "-o", out).exit_code == 2
    assert not out.exists()


# -- compare -----------------------------------------------------------------------------

COMPARED = {"format", "bpw", "MSE", "NMSE", "SQNR dB"}


def test_compare_on_gaussian_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from fmtc.runtime.judge import compare

    monkeypatch.setattr(compare, "GAUSSIAN_SHAPE", (32, 4096))
    result = run("compare", "nf4", "po2_nf4", "--json")
    rows = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [row["format"] for row in rows] == ["nf4", "po2_nf4"]
    assert all(set(row) == COMPARED for row in rows)
    assert rows[1]["NMSE"] < rows[0]["NMSE"] < 0.012
    assert rows[0]["bpw"] == 4.5
    table = run("compare", "nf4", "--on", "gaussian").stdout
    assert all(key in table for key in COMPARED)


def test_compare_on_a_model(model: Path, mine: Path) -> None:
    result = run("compare", "nf4", mine, "--on", model, "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["format"] for row in rows] == ["nf4", "mine"]
    assert all(set(row) == COMPARED for row in rows)


def test_compare_without_an_error_gives_null_and_not_infinity(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(8, 64)}, tmp_path / "zero.safetensors")
    result = run("compare", "nf4", "--on", tmp_path / "zero.safetensors", "--json")
    (row,) = json.loads(result.stdout, parse_constant=pytest.fail)
    assert (row["NMSE"], row["SQNR dB"]) == (0.0, None)
    assert run("compare", "nf4", "--on", tmp_path / "zero.safetensors").exit_code == 0


def test_compare_on_what_is_no_model_is_bad_input(tmp_path: Path) -> None:
    result = run("compare", "nf4", "--on", tmp_path / "absent")
    assert result.exit_code == 2
    assert "there is no model at" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "sop_pair"], ["check", "nf4"], ["compare", "nf4", "--on", "model"]],
)
def test_a_pipe_gets_no_colours_and_no_progress(arguments: list[str], model: Path) -> None:
    line = " ".join(a if a != "model" else str(model) for a in arguments)
    done = shell(f"fmtc {line}")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
