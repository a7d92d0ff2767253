"""Tasks on a Ray cluster: one on this machine, or one that is there already.

Ray brings a task to another worker when its own dies. What a task fails by itself is told, not
raised, so that Ray does not try it again. Packed units come back to this process, which writes
them: workers need to see the model's path, and nothing else of this machine.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from ..errors import RefusedInput, UnusableModel, missing
from ..sources import ModelSource, open_source
from .engines import ATTEMPTS, Done, Waiting, raise_failure, workers_wanted
from .failures import WorkerDied
from .tasks import Outcome, Task, carry_out

#: Seconds in which every node of a cluster says what it sees of the model.
PATIENCE = 120


@dataclass(frozen=True, slots=True)
class _Brought:
    """What a worker brings back: the outcome and the bytes that the driver writes."""

    outcome: Outcome
    octets: bytes


class RayEngine:
    """Workers of a Ray cluster.

    Args:
        address: ``ray``: a cluster on this machine, started and ended by the run, or
            ``ray://HOST:PORT``.
        workers: tasks side by side; None: one for each processor of the cluster.
        source: the model, which every node must see at the same path.
        packed: where packed units are written.

    Raises:
        MissingPackage: Ray is not installed.
        RefusedInput: there is no such cluster.
        UnusableModel: a node does not see the model, or another one.
    """

    def __init__(
        self, address: str, workers: int | None, source: ModelSource, packed: Path
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise missing("ray", "ray") from error
        self._ray: Any = ray
        self._packed = packed
        self._begin(address, workers)
        try:
            self._check_model(source)
            self.beside = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._carry = ray.remote(_carry).options(num_cpus=1, max_retries=ATTEMPTS - 1)
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Sequence[Task], bound: int, done: Done) -> None:
        """See ``engines.Engine``; the bound holds for the whole cluster."""
        waiting = Waiting.of(tasks, bound)
        running: dict[Any, Task] = {}
        failed: tuple[Task, Outcome] | None = None
        while running or (waiting and failed is None):
            while failed is None and waiting and len(running) < self.beside:
                task = waiting.next_beside(list(running.values()))
                if task is None:
                    break
                running[self._carry.remote(task)] = task
            ready, _ = self._ray.wait(list(running), num_returns=1)
            for reference in ready:
                task = running.pop(reference)
                outcome = self._brought(task, reference)
                if outcome.failure is not None:
                    failed = failed or (task, outcome)
                else:
                    done(task, outcome)
        if failed is not None:
            raise_failure(*failed)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()

    def _begin(self, address: str, workers: int | None) -> None:
        quiet = {"log_to_driver": False, "logging_level": "error"}
        try:
            if address == "ray":
                wanted = workers_wanted(workers)
                self._ray.init(num_cpus=wanted, include_dashboard=False, **quiet)
            else:
                self._ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise RefusedInput(f"the Ray cluster '{address}' cannot be used: {error}") from error

    def _brought(self, task: Task, reference: Any) -> Outcome:
        """A task's outcome; what it packed is written here.

        Raises:
            WorkerDied: workers died at it again and again.
        """
        try:
            brought: _Brought = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(
                f"{task.unit.name} ({task.stage}): {ATTEMPTS} Ray workers died at it, or the "
                f"cluster is gone ({type(error).__name__}: {error}). What is finished is kept: "
                "the same command goes on"
            ) from error
        outcome = brought.outcome
        if outcome.file is not None and outcome.failure is None:
            self._write(brought.octets, outcome.file)
        return outcome

    def _write(self, octets: bytes, file: Mapping[str, Any]) -> None:
        if hashlib.sha256(octets).hexdigest() != file["sha256"]:
            raise WorkerDied(f"{file['name']} was altered on its way from a Ray worker")
        write_atomically(self._packed / str(file["name"]), octets)

    def _check_model(self, source: ModelSource) -> None:
        """Ask every node whether it sees the model."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node["NodeID"] for node in self._ray.nodes() if node["Alive"]]
        path = str(source.path.absolute())
        see = self._ray.remote(_seen)
        asked = {
            see.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(path): node
            for node in nodes
        }
        wanted = _sizes(source)
        for reference in asked:
            host, found = self._ray.get(reference, timeout=PATIENCE)
            if found != wanted:
                what = "no model" if found is None else "another model"
                raise UnusableModel(
                    f"the Ray worker on {host} sees {what} at '{path}': put the model on a file "
                    "system that all workers mount at the same path"
                )


def _carry(task: Task) -> _Brought:
    """Carry out a task in a Ray worker."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fmtc-") as folder:
        outcome = carry_out(task, Path(folder))
        if outcome.file is None:
            return _Brought(outcome, b"")
        return _Brought(outcome, (Path(folder) / str(outcome.file["name"])).read_bytes())


def _seen(path: str) -> tuple[str, list[tuple[str, int]] | None]:
    """This host's name, and the files of the model that it sees with their sizes."""
    import os

    host = os.uname().nodename
    try:
        return host, _sizes(open_source(path))
    except (ValueError, OSError):
        return host, None


def _sizes(source: ModelSource) -> list[tuple[str, int]]:
    return [(file.name, file.stat().st_size) for file in source.files]
