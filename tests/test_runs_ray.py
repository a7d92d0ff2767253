"""Runs on a Ray cluster of this machine: the same bytes, though a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from fmtc.runtime.errors import RefusedInput, UnusableModel
from fmtc.runtime.runs.log import Log
from run_tools import carried_out, digest, recipe, run, wait_for, write_model

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fmtc[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors", layers=1, width=256)


def kill_a_worker(log: Log, killed: list[int]) -> None:
    """Kill the first worker that has finished a task: it has begun the next one."""
    line = wait_for(lambda: next((x for x in log.lines() if "task" in x), None), 120)
    killed.append(int(line["worker"].split(":")[1]))
    os.kill(killed[0], signal.SIGKILL)


def test_a_cluster_of_which_a_worker_is_killed_makes_the_same_bytes(
    model: Path, tmp_path: Path
) -> None:
    run(model, tmp_path / "here")
    killed: list[int] = []
    log = Log(tmp_path / "out.run" / "tasks.jsonl")
    killer = threading.Thread(target=kill_a_worker, args=(log, killed))
    killer.start()
    run(model, tmp_path / "out", engine="ray", workers=2)
    killer.join()
    assert digest(tmp_path / "out") == digest(tmp_path / "here")
    done = carried_out(tmp_path / "out")
    assert len(done) == len(set(done)) == 2 * 4
    workers = {int(x["worker"].split(":")[1]) for x in log.lines() if "task" in x}
    assert len(workers) >= 3  # one was started in the place of the killed one
    assert os.getpid() not in workers
    assert not ray.is_initialized()


@pytest.mark.slow
def test_an_error_in_a_cluster_is_told_as_everywhere(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model = write_model(tmp_path / "model.safetensors", layers=1)
    tensors = load_file(model)
    tensors["model.layers.0.self_attn.o_proj.weight"][0, 1] = torch.nan
    save_file(tensors, model)
    with pytest.raises(RefusedInput, match=r"layers\.0\.self_attn\.o_proj.*NaN at \[0, 1\]"):
        run(model, tmp_path / "out", recipe(), engine="ray", workers=2)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="the Ray cluster 'ray://localhost:9' cannot be used"):
        run(model, tmp_path / "out", engine="ray://localhost:9")


@pytest.mark.slow
def test_a_node_that_does_not_see_the_model_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmtc.runtime.runs import ray_engine

    monkeypatch.setattr(ray_engine, "_seen", lambda _: ("node7", None))
    with pytest.raises(UnusableModel, match="the Ray worker on node7 sees no model at"):
        run(model, tmp_path / "out", engine="ray", workers=2)
