"""A run takes no more memory than 1.5 of the model's largest layer, beside its processes' own."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from fmtc.runtime.runs import memory
from fmtc.runtime.runs.log import Log
from fmtc.runtime.runs.run import quantize_model
from fmtc.runtime.sources import open_source
from run_tools import recipe, run, write_model


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is no file's: what a file's map has shown can be dropped."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line.split() for line in text.splitlines() if line.startswith("RssAnon")]
    return int(lines[0][1]) << 10 if lines else 0


def children_of(pid: int) -> list[int]:
    found = []
    for folder in Path(f"/proc/{pid}/task").iterdir():
        for child in (folder / "children").read_text().split():
            found += [int(child), *children_of(int(child))]
    return found


class Watcher(threading.Thread):
    """Looks at this process and at all that it started, every few milliseconds."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.ended = pid, threading.Event()
        self.before, self.driver, self.workers = anonymous_bytes(pid), 0, 0

    def run(self) -> None:
        while not self.ended.wait(0.005):
            try:
                children = children_of(self.pid)
            except OSError:
                continue
            self.driver = max(self.driver, anonymous_bytes(self.pid))
            self.workers = max(self.workers, sum(map(anonymous_bytes, children)))


def watched(model: Path, out: Path, bpw: str, workers: int) -> Watcher:
    watcher = Watcher(os.getpid())
    watcher.start()
    wanted = recipe(bpw=bpw, promotions=("e2m3_ue4m4",))
    quantize_model(model, out, wanted, norms=False, workers=workers)
    watcher.ended.set()
    watcher.join()
    return watcher


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_stays_below_one_and_a_half_layers(workers: int, tmp_path: Path) -> None:
    small = write_model(tmp_path / "small.safetensors")
    run(small, tmp_path / "warm", recipe(promotions=("e2m3_ue4m4",)))
    # What the processes take by themselves: they do the same with next to no weights.
    base = watched(small, tmp_path / "base", "8.5", workers)
    large = write_model(tmp_path / "large.safetensors", layers=2, width=2048)
    layer = memory.largest_layer(open_source(large))
    found = watched(large, tmp_path / "out", "5.5", workers)
    beyond = found.workers - base.workers, found.driver - found.before
    print(
        f"layer {layer >> 20} MiB; beyond their own: workers {beyond[0] >> 20} MiB, driver "
        f"{beyond[1] >> 20} MiB"
    )
    assert beyond[0] < 1.5 * layer
    assert beyond[1] < 1.5 * layer
    lines = [x for x in Log(tmp_path / "out.run" / "tasks.jsonl").lines() if "task" in x]
    assert len(lines) == 16
