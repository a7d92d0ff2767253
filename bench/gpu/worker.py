"""Work in a process of its own: a crash, a hang or a poisoned device ends it alone.

    python -m fmtc.bench.gpu.worker TASK JSON

A line of standard output that begins with ``MARK`` is a result; everything else is what the
libraries had to say.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from .plan import Plan, Shape

#: How a result's line begins.
MARK = "result: "


def check(plan: Plan, name: str, warm: list[tuple[Shape, int]]) -> Iterator[dict[str, Any]]:
    """Hold a format against the reference, then compile what will be timed."""
    from .correct import check

    count, wrong = check(name, plan)
    yield {"checked": name, "count": count, "wrong": wrong}
    if wrong:
        return
    yield from _compile(plan, name, warm)


def _compile(plan: Plan, name: str, warm: list[tuple[Shape, int]]) -> Iterator[dict[str, Any]]:
    from dataclasses import replace

    from .clock import InventedClock
    from .products import Weight

    single = replace(plan, most_copies=2, cold=1)
    weights: dict[Shape, Weight] = {}
    for shape, m in warm:
        key = (int(shape[0]), int(shape[1]))
        if key not in weights:
            weights = {key: Weight(name, key, single, InventedClock())}
        weights[key].compile(m)
        yield {"compiled": f"{name} {key} {m}"}


def peer(plan: Plan, name: str, shapes: list[Shape], rows: list[int]) -> Iterator[dict[str, Any]]:
    """Measure one of the other libraries."""
    from .clock import DeviceClock, InventedClock
    from .peers import PEERS
    from .peers.base import measure

    clock = InventedClock() if plan.device == "cpu" else DeviceClock()
    (chosen,) = (one for one in PEERS if one.name == name)
    for shape in shapes:
        for result in measure(chosen, (shape[0], shape[1]), rows, plan, clock):
            yield asdict(result)


#: What a process can be asked for.
TASKS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {"check": check, "peer": peer}


def plan_from_json(said: dict[str, Any]) -> Plan:
    """The plan whose ``asdict`` went through JSON."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    return Plan(**{key: tuples(value) for key, value in said.items()})


def run(
    task: str, plan: Plan, seconds: float, apart: bool = True, **wishes: Any
) -> Iterator[dict[str, Any]]:
    """What a task yields, in this process or in one of its own.

    Args:
        task: one of ``TASKS``.
        plan: of the run.
        seconds: after which a process of its own is ended.
        apart: whether it is to have one.
        wishes: what the task takes.

    Yields:
        Results; at the end of a process that failed, ``{"failed": why}``.
    """
    if not apart:
        yield from TASKS[task](plan, **wishes)
        return
    said = json.dumps({"plan": asdict(plan), **wishes})
    command = [sys.executable, "-m", "fmtc.bench.gpu.worker", task, said]
    yield from follow(command, seconds)


def follow(command: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """The results of a process, as they come; it and its children end when time is up."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(max(0.0, seconds), end)
    timer.start()
    last = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                yield json.loads(line.removeprefix(MARK))
            elif line.strip():
                last = line.strip()
        process.wait()
    finally:
        timer.cancel()
        _end(process)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if late.is_set():
        yield {"failed": f"not done after {seconds:.0f} s"}
    elif process.returncode:
        yield {"failed": f"exit status {process.returncode}: {last[:160]}"}


def _end(process: subprocess.Popen[str]) -> None:
    """End a process of ours and its children, if it is still there."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()


def main() -> None:
    """Do one task, and print what it yields."""
    task, said = sys.argv[1:]
    wishes = json.loads(said)
    plan = plan_from_json(wishes.pop("plan"))
    for found in TASKS[task](plan, **wishes):
        print(f"{MARK}{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
