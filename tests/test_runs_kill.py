"""Runs that are killed, whole or in part, at any moment: they end as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from fmtc.runtime.runs.log import Log
from run_tools import (
    UNITS,
    carried_out,
    digest,
    kill_after,
    recipe,
    run,
    start,
    wait_for,
    write_model,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def made(model: Path) -> Path:
    out = model.parent / "made"
    run(model, out)
    return out


def killed_and_resumed(model: Path, out: Path, kills: int, seed: int, **options: object) -> int:
    """Kill a run at random moments and go on with it, until it has been killed so often."""
    begun = time.monotonic()
    first = start(model, out.with_name("timed"), **options)
    first.join()
    whole = time.monotonic() - begun
    moments = random.Random(seed)
    killed = 0
    for _ in range(3 * kills):
        if kill_after(start(model, out, **options), moments.uniform(0.02, 1.1) * whole):
            killed += 1
        elif killed < kills:  # it ended: there is nothing left to kill
            return killed
        if killed == kills:
            break
    last = start(model, out, **options)
    last.join()
    assert last.exitcode == 0
    return killed


def check_nothing_is_lost_or_done_twice(out: Path, made: Path) -> None:
    assert digest(out) == digest(made)
    done = Counter(carried_out(out))
    assert [task for task, times in done.items() if times > 1] == []
    lines = list(Log(out.with_name(f"{out.name}.run") / "log.jsonl").lines())
    assert Counter(line["unit"] for line in lines).most_common(1)[0][1] == 1
    assert len(lines) == UNITS
    leavings = [p.name for p in out.parent.iterdir() if p.name.startswith(".")]
    assert leavings == []


def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bytes(
    model: Path, made: Path, tmp_path: Path
) -> None:
    assert killed_and_resumed(model, tmp_path / "out", 4, seed=1) >= 1
    check_nothing_is_lost_or_done_twice(tmp_path / "out", made)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["here", "local"])
def test_fifty_kills_lose_nothing(engine: str, model: Path, made: Path, tmp_path: Path) -> None:
    killed = 0
    for seed in range(100):
        out = tmp_path / str(seed) / "out"
        out.parent.mkdir()
        killed += killed_and_resumed(model, out, 5, seed, engine=engine, workers=2)
        check_nothing_is_lost_or_done_twice(out, made)
        if killed >= 50:
            break
    assert killed >= 50


@pytest.mark.parametrize("stage", ["profile", "pack", "assemble"])
def test_a_run_that_is_killed_in_a_stage_goes_on_from_there(
    stage: str, model: Path, made: Path, tmp_path: Path
) -> None:
    """What stands there is given: a journal up to the stage, and what a kill leaves half-made."""
    out, folder = tmp_path / "out", tmp_path / "out.run"
    process = start(model, out)
    if stage == "assemble":
        wait_for(lambda: any(p.name.startswith(".out.") for p in tmp_path.iterdir()))
    else:
        wait_for(lambda: len(list((folder / "journal").glob(f"{stage}-*.json"))) >= 2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / ".out.0123456789ab").mkdir(exist_ok=True)
    (tmp_path / ".out.0123456789ab" / "quantized-00001.safetensors.part").write_bytes(b"half")
    (folder / "journal" / ".pack-00001.json.0123456789ab").write_bytes(b"{")
    before = set(carried_out(out))
    run(model, out)
    check_nothing_is_lost_or_done_twice(out, made)
    assert before < set(carried_out(out)) or stage == "assemble"
    assert not list((folder / "journal").glob(".*"))


def test_a_worker_that_is_killed_is_noticed_and_its_task_done_again(
    model: Path, made: Path, tmp_path: Path
) -> None:
    process = start(model, tmp_path / "out", engine="local", workers=2)
    log = Log(tmp_path / "out.run" / "tasks.jsonl")
    line = wait_for(lambda: next(log.lines(), None))
    os.kill(int(line["worker"].split(":")[1]), signal.SIGKILL)
    process.join()
    assert process.exitcode == 0
    check_nothing_is_lost_or_done_twice(tmp_path / "out", made)
    workers = {line["worker"] for line in log.lines() if "task" in line}
    assert len(workers) >= 2


def test_workers_do_not_outlive_a_killed_run(model: Path, tmp_path: Path) -> None:
    process = start(model, tmp_path / "out", engine="local", workers=2)
    log = Log(tmp_path / "out.run" / "tasks.jsonl")
    line = wait_for(lambda: next(log.lines(), None))
    worker = Path("/proc") / line["worker"].split(":")[1]
    assert worker.is_dir()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_for(lambda: not worker.is_dir() or ") Z " in (worker / "stat").read_text())


def test_a_task_that_kills_its_workers_again_and_again_is_named(
    model: Path, tmp_path: Path
) -> None:
    from fmtc.runtime.runs.engines import ATTEMPTS, LocalEngine
    from fmtc.runtime.runs.failures import WorkerDied
    from fmtc.runtime.runs.tasks import Task

    class Deadly(Task):
        """Kills whoever unpacks it."""

        def __reduce__(self) -> tuple[object, ...]:
            return os._exit, (3,)

    from fmtc.runtime.plan.units import Unit

    unit = Unit("layers.7.mlp.down_proj.weight", ("layers.7.mlp.down_proj.weight",))
    task = Deadly("pack", 7, unit, 10, 10, str(model), recipe())
    engine = LocalEngine(2, tmp_path)
    try:
        with pytest.raises(WorkerDied, match=rf"layers\.7\S+ \(pack\): {ATTEMPTS} worker"):
            engine.run([task], 1 << 30, lambda *_: None)
    finally:
        engine.close()
