"""Work on rows in several threads: one pool for the process, cuts that depend on nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

#: Below this many elements another thread costs more than it saves.
THREAD_GRAIN = 1 << 18


def processors() -> int:
    """Processors that this process may use: those it may run on, or FMTC_THREADS if fewer."""
    affine = hasattr(os, "sched_getaffinity")
    there = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    said = os.environ.get("FMTC_THREADS", "")
    return min(there, int(said)) if said.isdecimal() and int(said) else there


def over_rows(
    work: Callable[[int, int], None], rows: int, elements_per_row: int, threads: int
) -> None:
    """Do ``work(first row, end row)`` for all rows, in several threads where it pays.

    The cuts depend on the sizes and ``threads`` alone. ``work`` must not call this itself.

    Args:
        work: releases the GIL while it works, and writes to its own rows only.
        rows: how many there are.
        elements_per_row: what a row costs, in elements of a tensor.
        threads: at most so many.
    """
    parts = max(1, min(threads, rows, rows * elements_per_row // THREAD_GRAIN))
    if parts == 1:
        work(0, rows)
        return
    edges = [rows * i // parts for i in range(parts + 1)]
    list(_pool().map(work, edges[:-1], edges[1:]))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(2, processors()), thread_name_prefix="fmtc")


if hasattr(os, "register_at_fork"):
    # The threads of a pool do not live on in a forked child: it makes its own.
    os.register_at_fork(after_in_child=_pool.cache_clear)
