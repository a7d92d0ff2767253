"""Runs: the same bytes whoever does the work, and nothing that was not planned."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import fmtc
import pytest
import torch
from fmtc.runtime.checkpoint import Checkpoint
from fmtc.runtime.errors import RefusedInput, UnusableModel
from fmtc.runtime.plan.budget import BudgetTooSmall
from fmtc.runtime.runs import assemble, engines, session
from fmtc.runtime.runs.failures import NotAsMeasured, TaskFailed
from fmtc.runtime.runs.folder import OtherRun, RunInUse
from fmtc.runtime.runs.log import Log
from fmtc.runtime.runs.recipe import Recipe
from fmtc.runtime.sources import open_source
from run_tools import UNITS, carried_out, digest, recipe, run, write_model
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def made(model: Path) -> Path:
    out = model.parent / "made"
    run(model, out)
    return out


# -- what comes out --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2, 4])
def test_any_number_of_workers_makes_the_same_bytes(
    workers: int, model: Path, made: Path, tmp_path: Path
) -> None:
    run(model, tmp_path / "out", engine="local", workers=workers)
    processes = {
        line["worker"]
        for line in Log(tmp_path / "out.run" / "tasks.jsonl").lines()
        if "task" in line
    }
    assert 1 <= len(processes) <= workers
    assert not any(name.endswith(f":{os.getpid()}") for name in processes)
    assert digest(tmp_path / "out") == digest(made)


def test_the_budget_counts_every_file_and_is_never_exceeded(
    model: Path, made: Path, tmp_path: Path
) -> None:
    weights = sum(t.numel() for n, t in load_file(model).items() if "layers" in n)
    sizes = {}
    for budget in ("8.2", "10"):
        out = tmp_path / budget
        result = run(model, out, recipe(bpw=budget))
        files = [p for p in out.rglob("*") if p.is_file() and "kept" not in p.name]
        octets = sum(p.stat().st_size for p in files if p.name != "model.safetensors.index.json")
        assert result.totals.disk_bytes == octets
        assert Fraction(8 * octets, weights) <= Fraction(budget)
        sizes[budget] = (octets, result.totals.nmse)
    assert sizes["8.2"][0] < sizes["10"][0]
    assert sizes["8.2"][1] > sizes["10"][1]


def test_every_matrix_is_stored_in_what_the_plan_says(model: Path, made: Path) -> None:
    checkpoint = Checkpoint(made)
    source = open_source(model)
    plan = checkpoint.plan
    assert plan["recipe"]["bpw"] == "17/2"
    assert len(plan["choices"]) == UNITS
    assert len(set(plan["choices"].values())) > 1
    for line in Log(made.with_name("made.run") / "log.jsonl").lines():
        assert plan["choices"][line["unit"]] == line["choice"]
        label = line["choice"]
        error = energy = 0.0
        for name in line["members"]:
            fmt = checkpoint.format_of(name)
            assert ("wr" in [side.kind for side in fmt.sides]) == label.endswith(".Wr")
            assert fmt.name in label.replace("base", "nf4")
            w = source.get(name).double()
            decoded = torch.from_numpy(checkpoint.quantized(name).to_float32())
            error += float(((decoded - w) ** 2).sum())
            energy += float((w**2).sum())
        assert line["nmse"] == pytest.approx(error / energy, rel=1e-9)


def test_a_fixed_format_gives_the_tensors_of_a_plain_checkpoint(
    model: Path, tmp_path: Path
) -> None:
    result = run(model, tmp_path / "out", Recipe.of("nvfp4"))
    plain = fmtc.load("nvfp4")
    for name, tensor in load_file(model).items():
        stored = result.checkpoint.tensor(name)
        expected = plain.quantize(tensor).dequantize() if "layers" in name else tensor
        assert torch.equal(stored, expected)
    assert (tmp_path / "out.run" / "log.jsonl").read_text().count("\n") == UNITS


def test_the_log_has_a_line_for_each_unit(made: Path) -> None:
    lines = list(Log(made.with_name("made.run") / "log.jsonl").lines())
    assert len(lines) == UNITS
    assert len({line["unit"] for line in lines}) == UNITS
    for line in lines:
        assert set(line) >= {"members", "choice", "bpw", "acos", "mse", "wmse", "worker"}
        assert line["seconds"] > 0
        assert line["peak_bytes"] > 1 << 20
        assert 0.9 < line["acos"] < 1
        assert 4 < line["bpw"] < 11


# -- going on ----------------------------------------------------------------------------------


def test_what_is_finished_is_not_done_again(
    model: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(session, "assemble", crash)
    with pytest.raises(OSError, match="disk is full"):
        run(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    before = carried_out(tmp_path / "out")
    assert len(before) == 2 * UNITS
    run(model, tmp_path / "out")
    assert carried_out(tmp_path / "out") == before
    assert digest(tmp_path / "out") == digest(made)
    assert not (tmp_path / "out.run" / "packed").exists()


def test_a_finished_run_is_not_carried_out_again(model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = run(model, tmp_path / "out", Recipe.of("nf4"))
    again = run(model, tmp_path / "out", Recipe.of("nf4"), notice=said.append)
    assert said == [f"'{tmp_path / 'out'}' is finished already, and whole"]
    assert again.totals == first.totals
    assert len(carried_out(tmp_path / "out")) == UNITS


def test_an_altered_checkpoint_is_packed_again_from_what_was_found_out(
    model: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(model, out)
    (out / "fmtc.json").write_text("{}")
    said: list[str] = []
    run(model, out, notice=said.append)
    assert any("fmtc.json" in line for line in said)
    assert digest(out) == digest(made)
    done = carried_out(out)
    assert sum(task.startswith("profile") for task in done) == UNITS


def test_another_budget_goes_on_from_the_same_profiles(
    model: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(BudgetTooSmall, match="the least that is possible is --bpw"):
        run(model, out, recipe(bpw="4.6"))
    assert len(carried_out(out)) == UNITS
    run(model, out)
    assert digest(out) == digest(made)
    assert sum(task.startswith("profile") for task in carried_out(out)) == UNITS


@pytest.mark.parametrize("kind", ["profile", "pack"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_entry_is_named_and_done_again(
    kind: str, damage: str, unfinished: Path, model: Path, made: Path
) -> None:
    out = unfinished
    entry = out.with_name("out.run") / "journal" / f"{kind}-00003.json"
    data = entry.read_bytes()
    place = data.index(b'"elements": ') + 12 if kind == "profile" else data.index(b'"nmse": ') + 9
    altered = data[:place] + (b"7" if data[place : place + 1] != b"7" else b"8") + data[place + 1 :]
    entry.write_bytes({"truncated": data[:-9], "altered": altered, "empty": b""}[damage])
    said: list[str] = []
    run(model, out, notice=said.append)
    assert len(said) == 1
    assert f"{kind}-00003.json" in said[0]
    assert digest(out) == digest(made)
    assert carried_out(out).count(f"{kind}-00003") == 2
    assert len(carried_out(out)) == 2 * UNITS + 1


def test_a_damaged_packed_file_is_named_and_made_again(
    unfinished: Path, model: Path, made: Path
) -> None:
    packed = unfinished.with_name("out.run") / "packed"
    first, second = (packed / f"pack-0000{i}.safetensors" for i in (1, 2))
    first.write_bytes(first.read_bytes()[:-1] + b"\x55")
    second.unlink()
    said: list[str] = []
    run(model, unfinished, notice=said.append)
    assert [first.name in said[0], second.name in said[1], len(said)] == [True, True, 2]
    assert digest(unfinished) == digest(made)


@pytest.fixture(scope="module")
def lost(model: Path) -> Path:
    """A run that has packed all units and then lost its machine."""

    def crash(*_: object, **__: object) -> None:
        raise OSError("power failure")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "assemble", crash)
        with pytest.raises(OSError, match="power failure"):
            run(model, model.parent / "lost")
    return model.parent / "lost.run"


@pytest.fixture
def unfinished(lost: Path, tmp_path: Path) -> Path:
    """A copy of it, under another name."""
    shutil.copytree(lost, tmp_path / "out.run")
    return tmp_path / "out"


def test_a_log_that_was_torn_is_mended(unfinished: Path, model: Path) -> None:
    log = unfinished.with_name("out.run") / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    run(model, unfinished)
    found = list(Log(log).lines())
    assert len(found) == len({line["unit"] for line in found}) == UNITS
    assert found[:5] == [json.loads(line) for line in lines[:5]]


# -- what is refused ---------------------------------------------------------------------------


def test_unfinished_work_of_another_run_is_refused_by_name(
    unfinished: Path, model: Path, made: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(OtherRun, match=r"(?s)  model: begun with .*--fresh"):
        run(other, unfinished)
    with pytest.raises(OtherRun, match=r"recipe.promotions: begun with .*e2m3.*, now \[\"int8\"\]"):
        run(model, unfinished, recipe(promotions=("int8",)))
    with pytest.raises(OtherRun, match=r"recipe\.fuse: begun with true, now false"):
        run(model, unfinished, recipe(fuse=False))
    run(model, unfinished)
    assert digest(unfinished) == digest(made)


def test_fresh_throws_unfinished_work_away(unfinished: Path, model: Path, tmp_path: Path) -> None:
    run(model, unfinished, Recipe.of("nf4"), fresh=True)
    run(model, tmp_path / "plain", Recipe.of("nf4"))
    assert digest(unfinished) == digest(tmp_path / "plain")


def test_two_processes_cannot_make_the_same_checkpoint(model: Path, tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "out.run"
    folder.mkdir()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunInUse, match="another process"):
            run(model, tmp_path / "out", Recipe.of("nf4"))
    run(model, tmp_path / "out", Recipe.of("nf4"))


def test_a_task_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.safetensors")
    tensors = load_file(model)
    name = "model.layers.1.self_attn.o_proj.weight"
    sound = tensors[name].clone()
    tensors[name][3, 5] = torch.inf
    save_file(tensors, model)
    with pytest.raises(RefusedInput, match=rf"{name}: the input has an infinity at \[3, 5\]"):
        run(model, tmp_path / "out")
    assert 0 < len(carried_out(tmp_path / "out")) < UNITS
    tensors[name] = sound
    save_file(tensors, model)
    with pytest.raises(OtherRun, match="  model: begun with"):
        run(model, tmp_path / "out")


def test_an_error_that_is_not_the_inputs_comes_with_its_place(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmtc.runtime.runs import tasks

    def crash(*_: object) -> None:
        raise ZeroDivisionError("in the middle")

    monkeypatch.setitem(tasks._WORK, "pack", crash)
    with pytest.raises(
        TaskFailed, match=r"(?s)weight \(pack\) failed on .*in the middle.*in crash"
    ):
        run(model, tmp_path / "out", Recipe.of("nf4"))


def test_a_checkpoint_that_is_not_as_measured_does_not_appear(
    unfinished: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors_of = assemble.errors_of

    def other(w: object, decoded: object, *rest: object) -> object:
        return errors_of(w, decoded * 1.0001, *rest)

    monkeypatch.setattr(assemble, "errors_of", other)
    with pytest.raises(NotAsMeasured, match=r"layers\.0.*was the model changed meanwhile"):
        run(model, unfinished)
    assert not unfinished.exists()
    monkeypatch.undo()
    monkeypatch.setattr(Checkpoint, "disk_bytes", 10**6)
    with pytest.raises(NotAsMeasured, match=r"and the budget is 8\.5"):
        run(model, unfinished)
    assert not unfinished.exists()
    assert [p.name for p in unfinished.parent.iterdir() if p.name.startswith(".")] == []


def test_what_is_no_engine_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="no engine 'slurm'"):
        run(model, tmp_path / "out", engine="slurm")
    with pytest.raises(RefusedInput, match="0 workers"):
        engines.workers_wanted(0)
    with pytest.raises(RefusedInput, match="--backend c is for one fixed format"):
        run(model, tmp_path / "out", backend="c")


def test_a_text_needs_a_model_that_can_be_run(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="cannot be calibrated on a text"):
        run(model, tmp_path / "out", text="some words", norms=True)
    said: list[str] = []
    run(model, tmp_path / "out", notice=said.append, norms=True)
    assert len(said) == 1
    assert "all channels count alike" in said[0]
