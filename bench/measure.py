"""Contenders of a task, and how they are timed: by turns, each by its best turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import ParamSpec

P = ParamSpec("P")

#: How our own contenders are called; the first of them leads its group.
OURS = "fmtc"
#: What the name of a roof begins with.
ROOF = "roof: "

#: What a contender raises where this machine, or this contender, lacks something.
LACKS = (
    ImportError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    OSError,
)

#: Characters of a reason in a table.
LONGEST_REASON = 160

#: Every contender gets so many turns, however slow it is, and no more than the other.
FEWEST_TURNS, MOST_TURNS = 3, 300


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that does a task on so many elements whenever it is called."""

    name: str
    elements: int
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A contender that cannot take part, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """A contender's speed, and that of its group's leader over it; or why there is none.

    Attributes:
        task: ``decode``, ``decode bf16``, ``encode`` or ``multiply``.
        subject: the format, for products with the matrix's shape.
        contender: its name.
        threads: how many it was given.
        melem_per_s: millions of elements a second at its best turn.
        fmtc_over_this: speed of fmtc over its speed; for a roof, the share that fmtc reaches.
        skipped: why there are no figures.
    """

    task: str
    subject: str
    contender: str
    threads: int
    melem_per_s: float | None = None
    fmtc_over_this: float | None = None
    skipped: str | None = None


class Rows:
    """Cuts work on rows into as many parts as there are threads, and waits for all."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self, work: Callable[[int, int], object], rows: int, multiple: int = 1) -> None:
        """``work(first row, end row)`` for all rows; edges are multiples of ``multiple``."""
        if self._pool is None:
            work(0, rows)
            return
        groups = rows // multiple
        edges = [groups * i // self.threads * multiple for i in range(self.threads)] + [rows]
        list(self._pool.map(work, edges[:-1], edges[1:]))


def gather(
    name: str,
    contenders: Callable[P, Iterator[Contender]],
    *arguments: P.args,
    **options: P.kwargs,
) -> list[Contender | Skipped]:
    """The contenders that can be made; where one cannot, ``name`` with the reason."""
    found: list[Contender | Skipped] = []
    try:
        found.extend(contenders(*arguments, **options))
    except LACKS as error:
        found.append(Skipped(name, reason(error)))
    return found


def reason(error: BaseException) -> str:
    """An error in one short line."""
    text = f"{type(error).__name__}: {str(error).strip()}".split("\n", maxsplit=1)[0]
    return shorten(text, LONGEST_REASON, placeholder=" ...")


def take_turns(
    contenders: Sequence[Contender], seconds: float, threads: int = 1
) -> dict[str, float | str]:
    """Best Melem/s of each, or why it failed.

    A call that does not count warms up. Then all take turns, so that a busy machine slows
    all of them alike; a contender leaves after ``seconds`` of its own and three turns.
    On one thread the clock is this process's processor time: it stands still while another
    process has the core, and counts every thread that a contender may have started.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    best: dict[str, float | str] = {}
    running = []
    for contender in contenders:
        try:
            contender.run()
        except LACKS as error:
            best[contender.name] = reason(error)
        else:
            running.append(contender)
    fastest = {c.name: float("inf") for c in running}
    spent = dict.fromkeys(fastest, 0.0)
    with _no_collection():
        for turn in range(MOST_TURNS):
            for c in running:
                if turn >= FEWEST_TURNS and spent[c.name] > seconds:
                    continue
                start = clock()
                c.run()
                took = max(clock() - start, 1e-9)
                fastest[c.name] = min(fastest[c.name], took)
                spent[c.name] += took
    return best | {c.name: c.elements / fastest[c.name] / 1e6 for c in running}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which would be counted to whoever has the turn."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def measure(
    task: str,
    subject: str,
    contenders: Sequence[Contender | Skipped],
    threads: int,
    seconds: float,
) -> list[Result]:
    """Time a group; the first contender is its leader, to whom the others are compared."""
    able = [c for c in contenders if isinstance(c, Contender)]
    speeds: dict[str, float | str] = {c.name: c.why for c in contenders if isinstance(c, Skipped)}
    speeds |= take_turns(able, seconds, threads)
    lead = speeds[contenders[0].name]
    results = []
    for contender in contenders:
        speed = speeds[contender.name]
        if isinstance(speed, str):
            results.append(Result(task, subject, contender.name, threads, skipped=speed))
            continue
        ratio = None if isinstance(lead, str) else round(lead / speed, 4)
        results.append(Result(task, subject, contender.name, threads, round(speed, 2), ratio))
    return results
