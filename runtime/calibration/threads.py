"""Windows side by side, each on one thread: the same bits whatever the number of threads."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..threads import processors

T = TypeVar("T")
R = TypeVar("R")


class Windows:
    """Runs work in several threads, none of which divides a product of matrices any further."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results in the order of the items; the first error of any is raised."""
        return list(self._pool.map(work, items))


#: glibc: how much free memory stays at a heap's end, and from what size on a block is no part of
#: a heap at all. First what makes freed tensors go back, then what a process arrives at by itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_RETURNED = {_TRIM_THRESHOLD: 1 << 17, _MMAP_THRESHOLD: 1 << 16}
_USUAL = {_TRIM_THRESHOLD: 1 << 26, _MMAP_THRESHOLD: 1 << 25}


@contextmanager
def _freed_memory_returned() -> Iterator[None]:
    """Freed tensors go back to the system, where the C library lets us ask for that.

    Else each thread's heap keeps them: together as much again as a layer's weights.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if option is None:
        yield
        return
    for name, value in _RETURNED.items():
        option(name, value)
    try:
        yield
    finally:
        for name, value in _USUAL.items():
            option(name, value)


@contextmanager
def side_by_side(threads: int | None) -> Iterator[Windows]:
    """Threads for windows.

    torch divides a product among its threads, and sums then depend on how many there are. Here
    each thread computes alone; how many there are decides the time only.

    Args:
        threads: how many, or None for all processors.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        threads or processors(), "fmtc-window", lambda: torch.set_num_threads(1)
    )
    try:
        with pool, _freed_memory_returned():
            yield Windows(pool)
    finally:
        # What a thread sets for itself, torch also gives to those that begin later.
        torch.set_num_threads(before)
