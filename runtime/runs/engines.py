"""Who carries out tasks: this process, or worker processes on this machine.

An engine gives no order to what is found, and no result depends on it. A worker process that dies
is noticed and what it worked on is done again, alone at first: if memory ran short, there is more
of it then, and if the task is at fault, it is known which one is.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import RefusedInput
from ..threads import processors
from .failures import TaskFailed, WorkerDied
from .tasks import Outcome, Task, carry_out

#: How often a task is begun before its workers' deaths are its own fault.
ATTEMPTS = 4

#: What would start threads of its own in every worker.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

Done = Callable[[Task, Outcome], None]


class Engine(Protocol):
    """Carries out tasks."""

    @property
    def beside(self) -> int:
        """How many tasks it carries out side by side, if memory allows it."""

    def run(self, tasks: Sequence[Task], bound: int, done: Done) -> None:
        """Carry out tasks in any order, and call ``done`` with each as it ends, in this thread.

        Args:
            tasks: not one of them depends on another.
            bound: bytes; estimates of tasks that are carried out at once stay below it together.
            done: is told of every task once.
        """

    def close(self) -> None:
        """End the workers."""


@dataclass(slots=True)
class InThisProcess:
    """No workers: one task after the other, here."""

    packed: Path
    beside: int = 1

    def run(self, tasks: Sequence[Task], bound: int, done: Done) -> None:  # noqa: ARG002
        """See ``Engine``."""
        for task in tasks:
            outcome = carry_out(task, self.packed)
            raise_failure(task, outcome)
            done(task, outcome)

    def close(self) -> None:
        """Nothing to end."""


@dataclass(slots=True)
class Waiting:
    """Tasks that are not begun yet, the largest first: none of them is left for the end."""

    bound: int
    tasks: deque[Task] = field(default_factory=deque)
    alone: deque[Task] = field(default_factory=deque)

    @staticmethod
    def of(tasks: Sequence[Task], bound: int) -> Waiting:
        """In the order in which they are begun."""
        return Waiting(bound, deque(sorted(tasks, key=lambda t: (-t.elements, t.index))))

    def __bool__(self) -> bool:
        return bool(self.tasks or self.alone)

    def next_beside(self, running: Sequence[Task]) -> Task | None:
        """The next task that may begin beside those that run; None: wait for one of them."""
        if self.alone:
            return None if running else self.alone.popleft()
        room = self.bound - sum(task.working for task in running)
        for task in self.tasks:
            if not running or task.working <= room:
                self.tasks.remove(task)
                return task
        return None


class LocalEngine:
    """Worker processes on this machine.

    Args:
        workers: how many.
        packed: where they write.
        large: how many of the largest tasks memory has room for; if that is fewer than there are
            workers, each has more than its share of the processors.
    """

    def __init__(self, workers: int, packed: Path, large: int | None = None) -> None:
        self._workers = self.beside = max(1, workers)
        self._share = share(max(1, min(self._workers, large or self._workers)))
        self._packed = packed
        self._pool: ProcessPoolExecutor | None = None
        self._attempts: dict[str, int] = {}

    def run(self, tasks: Sequence[Task], bound: int, done: Done) -> None:
        """See ``Engine``."""
        waiting = Waiting.of(tasks, bound)
        running: dict[Future[Outcome], Task] = {}
        failed: tuple[Task, Outcome] | None = None
        while running or (waiting and failed is None):
            if failed is None:
                self._begin(waiting, running)
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            lost = []
            for future in ended:
                task = running.pop(future)
                outcome = _outcome(future)
                if outcome is None:
                    lost.append(task)
                elif outcome.failure is not None:
                    failed = failed or (task, outcome)
                else:
                    done(task, outcome)
            if lost:
                self._again([*lost, *running.values()], waiting)
                running.clear()
        if failed is not None:
            raise_failure(*failed)

    def close(self) -> None:
        """End the workers at once: what they work on is not waited for."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, waiting: Waiting, running: dict[Future[Outcome], Task]) -> None:
        """Give every free worker a task, as far as memory goes."""
        while waiting and len(running) < self._workers:
            task = waiting.next_beside(list(running.values()))
            if task is None:
                return
            self._attempts[task.key] = self._attempts.get(task.key, 0) + 1
            running[self._submit(task)] = task

    def _submit(self, task: Task) -> Future[Outcome]:
        if self._pool is None:
            self._pool = _pool(self._workers, self._share)
        try:
            with _workers_environment(self._share):
                return self._pool.submit(carry_out, task, self._packed)
        except BrokenProcessPool as error:  # it broke while nothing was asked of it
            future: Future[Outcome] = Future()
            future.set_exception(error)
            return future

    def _again(self, lost: Sequence[Task], waiting: Waiting) -> None:
        """The pool is broken: a new one does again, one by one, what was being worked on."""
        self.close()
        for task in lost:
            if self._attempts[task.key] >= ATTEMPTS:
                raise WorkerDied(
                    f"{task.unit.name} ({task.stage}): {ATTEMPTS} worker processes died at it; "
                    "was memory short? What is finished is kept: the same command goes on. "
                    "(A script that starts a run does so under `if __name__ == '__main__':`)"
                )
        waiting.alone.extend(sorted(lost, key=lambda task: task.index))


def _outcome(future: Future[Outcome]) -> Outcome | None:
    """What a task found; None: its worker, or one beside it, has died."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None


def raise_failure(task: Task, outcome: Outcome) -> None:
    """Raise what a task failed by, in this process.

    Raises:
        RefusedInput: and the other errors of a user's input, as the task raised them.
        TaskFailed: any other; the worker's traceback is in the message.
    """
    from .. import errors

    failure = outcome.failure
    if failure is None:
        return
    known: Any = getattr(errors, failure.kind, None)
    if known is not None:
        raise known(failure.message)
    if failure.kind == "OSError":
        raise OSError(failure.message)
    raise TaskFailed(
        f"{task.unit.name} ({task.stage}) failed on {outcome.worker}: {failure.message}\n"
        f"{failure.trace}"
    )


def _pool(workers: int, threads: int) -> ProcessPoolExecutor:
    """Worker processes, forked from a server that has loaded what all of them need."""
    import multiprocessing as mp

    methods = mp.get_all_start_methods()
    context = mp.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        context.set_forkserver_preload([f"{__package__}.preload"])
        with _workers_environment(threads):
            forkserver.ensure_running()
    return ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(threads,))


@contextmanager
def _workers_environment(threads: int) -> Iterator[None]:
    """The environment that worker processes are born into."""
    wanted = dict.fromkeys(_ONE_THREAD, "1") | {"FMTC_THREADS": str(threads)}
    # Else the C library keeps what a matrix took, so as to have it at hand for the next one.
    wanted["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def share(workers: int) -> int:
    """Processors for each of so many workers."""
    return max(1, processors() // workers)


def _begin_worker(threads: int) -> None:
    """One thread for libraries, a share of the processors for us, and an end with the parent."""
    import torch

    os.environ["FMTC_THREADS"] = str(threads)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker outlives a killed parent by nothing: it would wait for tasks forever."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def workers_wanted(workers: int | None) -> int:
    """How many worker processes there shall be: one for each processor unless said.

    Raises:
        RefusedInput: less than one is asked for.
    """
    if workers is not None and workers < 1:
        raise RefusedInput(f"{workers} workers cannot work: give 1 or more, or leave it out")
    return workers if workers is not None else processors()
