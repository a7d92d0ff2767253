"""Where work on a tensor is done: on its own device, or on the host."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable, Iterator
from importlib.util import find_spec
from threading import Thread
from typing import TypeVar

import torch

T = TypeVar("T")

_has_triton = find_spec("triton") is not None
_cpu_counts = False
_warned = False

#: What has run once on a device, with all that it keeps there.
_ready: set[Hashable] = set()


def on_device(device: torch.device) -> bool:
    """Whether tensors of a device are worked on there, by kernels: on CUDA, where triton is."""
    return (device.type == "cuda" and _has_triton) or (device.type == "cpu" and _cpu_counts)


@contextlib.contextmanager
def cpu_counts_as_device() -> Iterator[None]:
    """Take the CPU for a device here: kernels run in Triton's interpreter. For tests."""
    global _cpu_counts  # noqa: PLW0603 - torch.compile guards on it as it is
    before, _cpu_counts = _cpu_counts, True
    try:
        yield
    finally:
        _cpu_counts = before


def say_that_host_works(device: torch.device) -> None:
    """One warning that tensors of a GPU go through the host, where triton is missing."""
    global _warned  # noqa: PLW0603
    if device.type == "cuda" and not _has_triton and not _warned:
        _warned = True
        warnings.warn(
            "triton is not installed, so tensors on a GPU go through the CPU: "
            "pip install 'fmtc[gpu]'",
            RuntimeWarning,
            stacklevel=3,
        )


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured: nothing may wait for the device then."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def prepared(device: torch.device, key: Hashable, call: Callable[[], T]) -> T:
    """The result of a call, which has been made once before, apart.

    A first call compiles, measures, and leaves tables on the device. What is left during the
    warm-up of a CUDA graph would lie in the graph's own memory, which torch forbids: there the
    allocator tells threads apart. So the first call on CUDA is made in a thread of its own.

    Args:
        device: where it works.
        key: what it compiles and keeps depends on.
        call: does not change anything that it is given.
    """
    if device.type == "cuda" and (device, key) not in _ready and not is_capturing(device):
        torch.cuda.current_stream(device).synchronize()
        apart(call, device)
        _ready.add((device, key))
    return call()


def apart(call: Callable[[], object], device: torch.device) -> None:
    """Make a call in a thread of its own, and wait for it and for what it launches.

    Raises: what the call raises.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            place = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
            with torch.no_grad(), place:
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            raised.append(error)

    thread = Thread(target=work, name="fmtc-first-call")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
