from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import run
from fmtc import CorruptFile, RefusedInput, UnusableModel
from fmtc.runtime.calibration.texts import text_hash
from fmtc.runtime.checkpoint import Checkpoint
from fmtc.runtime.grids.metrics import Errors, errors_of
from fmtc.runtime.judge import Judgement, Reference, judge, judging, read_judgement, run_folder
from fmtc.runtime.judge.errors import total
from fmtc.runtime.sources import open_source
from judge_tools import quantized
from model_tools import TEXT, tiny_llama
from safetensors.torch import save_file

SMALL = {"context": 32, "tokens": 400}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("judged") / "model", layers=2)


@pytest.fixture(scope="module")
def written(model: Path) -> Path:
    return quantized(model, model.parent / "out")


@pytest.fixture(scope="module")
def judged(model: Path, written: Path) -> Judgement:
    return judge(written, model, TEXT, **SMALL)


@pytest.fixture
def out(model: Path, tmp_path: Path) -> Path:
    return quantized(model, tmp_path / "out")


# -- what is found -----------------------------------------------------------------------


def test_errors_of_weights_are_those_of_the_written_file(
    model: Path, written: Path, judged: Judgement
) -> None:
    source, checkpoint = open_source(model), Checkpoint(written)
    sums = Errors()
    for name, matrix in zip(source.linear_names, judged.matrices, strict=True):
        w = source.get(name).float().numpy()
        decoded = checkpoint.tensor(name).float().numpy()
        errors = errors_of(w, decoded, None, 16)
        sums += errors
        assert (matrix.name, matrix.format) == (name, "nvfp4")
        assert matrix.errors.squared == pytest.approx(errors.squared, rel=1e-12)
        assert matrix.errors.acos == pytest.approx(errors.acos, rel=1e-12)
        assert matrix.bpw == pytest.approx(4.5, abs=0.02)
    figures = judged.figures
    assert figures["acos"].value == pytest.approx(sums.acos, rel=1e-12)
    assert figures["mse"].value == pytest.approx(sums.mse, rel=1e-12)
    assert figures["nmse"].value == pytest.approx(checkpoint.totals(source).nmse, rel=1e-6)
    assert figures["wmse"].value == pytest.approx(figures["nmse"].value, rel=1e-12)
    assert total(judged.matrices).elements == judged.weights
    for name in ("acos", "mse", "nmse"):
        assert figures[name].low < figures[name].value < figures[name].high


def test_bits_per_weight_are_the_bytes_on_disk(written: Path, judged: Judgement) -> None:
    files = [*written.glob("quantized-*"), *written.glob("formats/*"), written / "fmtc.json"]
    assert judged.bpw == 8 * sum(f.stat().st_size for f in files) / judged.weights


def test_outputs_come_with_intervals(judged: Judgement) -> None:
    outputs, figures = judged.outputs, judged.figures
    assert outputs is not None
    assert (outputs.context, len(outputs.windows)) == (32, 12)
    assert judged.missing == ""
    assert 0 < figures["kl"].low < figures["kl"].value < figures["kl"].high < 0.01
    assert 0.9 < figures["ear"].low < figures["ear"].high < 1
    assert figures["perplexity"].value > 50
    width = {name: found.high - found.low for name, found in figures.items()}
    assert width["delta_nll"] < width["perplexity"] / figures["perplexity"].value


def test_a_checkpoint_of_its_own_decoded_weights_is_without_loss(
    model: Path, out: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in open_source(model).companions:
        (twin / file.name).write_bytes(file.read_bytes())
    save_file(dict(Checkpoint(out).state_dict()), twin / "model.safetensors", {"format": "pt"})
    found = judge(out, twin, TEXT, **SMALL)
    figures = found.figures
    assert figures["kl"].values() == [0.0, 0.0, 0.0]
    assert figures["ear"].values() == [1.0, 1.0, 1.0]
    assert figures["delta_nll"].value == 0.0
    assert figures["mse"].value == 0.0
    assert figures["acos"].value == pytest.approx(1.0, abs=1e-12)


def test_a_packed_model_is_judged_like_its_decoded_weights(
    model: Path, out: Path, judged: Judgement
) -> None:
    packed = judge(out, model, TEXT, run="packed", **SMALL).figures
    assert packed["kl"].value == pytest.approx(judged.figures["kl"].value, rel=1e-3)
    assert packed["ear"].value == pytest.approx(judged.figures["ear"].value, abs=1e-5)


def test_channel_norms_weigh(model: Path, out: Path, judged: Judgement) -> None:
    rng = np.random.default_rng(0)
    source = open_source(model)
    norms = {n: rng.random(source.shape(n)[1], np.float32) for n in source.linear_names}
    calibration = SimpleNamespace(norms=norms, fingerprint="mine")
    file_only = model / "model.safetensors"
    found = judge(out, file_only, calibration=calibration)
    assert found.subject.norms == "mine"
    name = source.linear_names[0]
    w, decoded = source.get(name).numpy(), Checkpoint(out).quantized(name).to_float32()
    expected = errors_of(w, decoded, norms[name], 16)
    assert found.matrices[0].errors.weighted == pytest.approx(expected.weighted, rel=1e-12)
    assert found.figures["acos"].value != judged.figures["acos"].value
    assert found.figures["mse"] == judged.figures["mse"]


# -- what is remembered ------------------------------------------------------------------


def test_a_judgement_is_the_same_after_json(written: Path, judged: Judgement) -> None:
    assert Judgement.of_values(json.loads(json.dumps(judged.values()))) == judged
    assert read_judgement(written) is not None
    said = json.loads((run_folder(written) / "judge.json").read_text())
    assert said["figures"]["kl"] == judged.figures["kl"].values()
    assert said["subject"]["checkpoint"] == Checkpoint(written).manifest_hash


def test_nothing_is_measured_twice_and_nothing_stale_is_taken(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    measure = judging.checkpoint_errors

    def counting(checkpoint: Checkpoint, *rest: object) -> object:
        measured.append(checkpoint.manifest_hash)
        return measure(checkpoint, *rest)

    monkeypatch.setattr(judging, "checkpoint_errors", counting)
    weights = model / "model.safetensors"
    first = judge(out, weights, TEXT)
    assert judge(out, weights, TEXT) == first
    assert len(measured) == 1
    assert judge(out, weights, TEXT, tokens=100).subject != first.subject
    assert judge(out, weights, TEXT + "!").subject.text != first.subject.text
    assert len(measured) == 3
    quantized(model, out, "nf4")
    again = judge(out, weights, TEXT + "!")
    assert again.figures["mse"] != first.figures["mse"]
    assert judge(out, weights, TEXT + "!", fresh=True) == again
    assert len(measured) == 5


def test_a_damaged_judgement_is_named_and_made_again(model: Path, out: Path) -> None:
    weights = model / "model.safetensors"
    first = judge(out, weights)
    file = run_folder(out) / "judge.json"
    for text in (file.read_text()[:-20], "[]", '{"layout": 1}', '{"layout": 99}'):
        file.write_text(text)
        with pytest.raises(CorruptFile, match=r"judge\.json.*run `fmtc judge` again"):
            read_judgement(out)
        assert judge(out, weights) == first
        assert read_judgement(out) == first


# -- what is refused ---------------------------------------------------------------------


def test_the_text_of_the_calibration_is_refused(model: Path, tmp_path: Path) -> None:
    plan = {"calibration": {"text_sha256": text_hash(TEXT), "tokens": 8}}
    out, weights = quantized(model, tmp_path / "out", plan=plan), model / "model.safetensors"
    with pytest.raises(RefusedInput, match=r"calibrated on this very text.*--text"):
        judge(out, weights, TEXT)
    assert judge(out, weights, "Another text.").notes == ()
    (note,) = judge(out, weights, TEXT, on_calibration_text=True).notes
    assert "its figures flatter" in note


def test_another_model_is_refused_by_the_weight_that_differs(
    model: Path, out: Path, tmp_path: Path
) -> None:
    tensors = {name: open_source(model).get(name) for name in open_source(model).names}
    name = open_source(model).linear_names[-1]
    save_file({**tensors, name: torch.zeros(8, 8)}, tmp_path / "other.safetensors")
    with pytest.raises(RefusedInput, match=f"{name} has the shape"):
        judge(out, tmp_path / "other.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(RefusedInput, match=f"has no weight {name}"):
        judge(out, tmp_path / "other.safetensors")
    assert read_judgement(out) is None


def test_a_damaged_checkpoint_is_refused(model: Path, out: Path) -> None:
    file = next(out.glob("quantized-*"))
    octets = bytearray(file.read_bytes())
    octets[-5] ^= 1
    file.write_bytes(octets)
    with pytest.raises(CorruptFile, match=r"quantized-00001\.safetensors"):
        judge(out, model / "model.safetensors")


def test_what_is_no_model_or_no_text_is_refused(model: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="there is no model"):
        judge(out, tmp_path / "absent")
    with pytest.raises(CorruptFile, match="is no fmtc checkpoint"):
        judge(tmp_path, model)
    with pytest.raises(RefusedInput, match="predict nothing"):
        judge(out, model, context=1)
    with pytest.raises(RefusedInput, match="the text gives 0 tokens"):
        judge(out, model, "")


@pytest.mark.parametrize("what", ["file", "no config", "no model type"])
def test_without_an_architecture_weights_alone_are_judged_and_that_is_said(
    what: str, model: Path, out: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    weights = bare / "model.safetensors"
    weights.write_bytes((model / "model.safetensors").read_bytes())
    if what == "no model type":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (bare / name).write_bytes((model / name).read_bytes())
        (bare / "config.json").write_text("{}")
    found = judge(out, weights if what == "file" else bare, TEXT)
    assert found.outputs is None
    words = {
        "file": "is a safetensors file",
        "no config": "has no config.json",
        "no model type": "names no model_type",
    }
    assert words[what] in found.missing
    assert "kl" not in found.figures
    assert found.figures["acos"].value > 0.99


def test_windows_are_no_longer_than_the_model_takes(model: Path, out: Path) -> None:
    with Reference(model, TEXT, context=512, tokens=600) as reference:
        assert reference.context == 256
        found = reference.judge(out)
    assert found.outputs is not None
    assert found.outputs.context == 256
    assert any("the model takes no more" in note for note in found.notes)
    assert any("2 windows" in note for note in found.notes)


# -- fmtc judge --------------------------------------------------------------------------


def test_the_command_prints_figures_or_json(model: Path, out: Path) -> None:
    weights = model / "model.safetensors"
    shown = run("judge", out, "--reference", weights)
    assert shown.exit_code == 0
    for words in ("out: ", "bits per weight", "ACos", "NMSE", "95 % interval", "matrices"):
        assert words in shown.stdout
    assert "note: " in shown.stdout
    values = json.loads(run("judge", out, "--reference", weights, "--json").stdout)
    assert Judgement.of_values(values) == read_judgement(out)


def test_the_command_reads_text_files(model: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(TEXT)
    line = ["judge", out, "--reference", model, "--text", tmp_path / "one.txt"]
    result = run(*line, "--context", "32", "--tokens", "320", "--json")
    values = json.loads(result.stdout)
    assert values["text"] == "one.txt"
    assert values["outputs"]["tokens"] == 310
    assert values["figures"]["ear"][0] > 0.9
    assert run(*line[:-1], tmp_path / "absent.txt").exit_code == 2


def test_the_command_refuses_bad_input(model: Path, out: Path, tmp_path: Path) -> None:
    assert run("judge", out).exit_code == 2
    result = run("judge", tmp_path, "--reference", model)
    assert result.exit_code == 2
    assert "is no fmtc checkpoint" in result.stderr
    result = run("judge", out, "--reference", tmp_path / "absent")
    assert result.exit_code == 2
    assert "there is no model at" in result.stderr
