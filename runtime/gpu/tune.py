"""Which of a kernel's configurations is fastest on a device: measured once, then remembered.

The compiler's estimates rank configurations well, but not surely. So the cheapest few are timed
the first time that a product of some shape is asked for, and the winner is kept in a file of the
cache directory (``$FMTC_CACHE``, see ``compile_cache``), one for each device. Nothing is timed
in the interpreter, while a CUDA graph is captured or while ``torch.compile`` traces: the
remembered configuration is taken there, or else the one that the compiler thinks cheapest.

``$FMTC_TUNE`` says what may be timed: ``on`` (default) what is not remembered; ``again``
everything once more, once a process; ``off`` nothing, and what is remembered is not asked
either, so that the same program always takes the same configurations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from .tune_memory import Memory, Remembered, memory_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "Candidate",
    "Measure",
    "Memory",
    "NothingRuns",
    "Remembered",
    "TuneKey",
    "bucket",
    "choose",
    "gpu_time",
    "key_of",
    "may_measure",
    "measure_on",
    "memory_of",
]

#: What ``$FMTC_TUNE`` may be.
SWITCHES = ("on", "off", "again")

#: How often a candidate is measured; its median counts.
TURNS = 3

#: Rows of activations beyond which all are one bucket.
MOST = 1 << 16

#: Bytes written between two timed calls: more than the second-level cache of any GPU.
FLUSH = 1 << 28


class NothingRuns(RuntimeError):
    """No candidate runs on this device; the message lists what each of them raised."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a kernel.

    Attributes:
        name: short, unique among the candidates of one product.
        config: what the kernel is launched with: tile sizes, warps, strategy.
        cost: what the compiler thinks it takes, in any unit; the least is the best.
    """

    name: str
    config: Mapping[str, int | str] = field(hash=False)
    cost: float


@dataclass(frozen=True, slots=True)
class TuneKey:
    """What a choice depends on.

    Attributes:
        format: the format's content hash.
        operation: ``gemv``, ``gemm half`` or the like.
        rows: of the weights.
        length: of a row of weights.
        m: rows of activations, by ``bucket``.
        dtype: of the activations.
        device: the device's name; ``cpu`` where the interpreter runs.
        versions: of torch, triton and fmtc.
    """

    format: str
    operation: str
    rows: int
    length: int
    m: int
    dtype: str
    device: str
    versions: str

    @property
    def text(self) -> str:
        """The key in a file that is the device's: all but its name."""
        return (
            f"{self.format} {self.operation} {self.rows}x{self.length} m{self.m} {self.dtype} "
            f"({self.versions})"
        )


#: Seconds that a candidate takes; what it raises says that it cannot run.
Measure = Callable[[Candidate], float]


def bucket(m: int) -> int:
    """The least power of two that is at least ``m``, and at most ``MOST``."""
    return min(1 << (max(1, m) - 1).bit_length(), MOST)


def key_of(
    format_hash: str, operation: str, shape: tuple[int, int], m: int, dtype: str, device: str
) -> TuneKey:
    """The key of a product.

    Args:
        format_hash: ``Format.content_hash``.
        operation: what is done, and in which arithmetic.
        shape: of the weights: rows and length.
        m: rows of activations, any number.
        dtype: of the activations.
        device: the device's name.
    """
    return TuneKey(format_hash, operation, *shape, bucket(m), dtype, device, _versions())


def choose(
    key: TuneKey,
    candidates: Sequence[Candidate],
    measure: Measure | None,
    *,
    top: int = 4,
    memory: Memory,
) -> Candidate:
    """The candidate to run.

    Args:
        key: what the choice depends on.
        candidates: at least one, with names that differ, in any order.
        measure: seconds of one call of a candidate; None where nothing can be timed now.
        top: so many of the cheapest are timed.
        memory: where choices are kept.

    Returns:
        The remembered one if it is still among the candidates; else the fastest of the ``top``
        cheapest, which is then remembered; without ``measure`` the cheapest, which is not.
        Of equals the one of the lesser cost, and then the first.

    Raises:
        NothingRuns: each of the ``top`` cheapest raised something.
        ValueError: there are no candidates, or two have the same name.
    """
    if not candidates:
        raise ValueError("there are no candidates to choose from")
    if len({c.name for c in candidates}) < len(candidates):
        raise ValueError(f"candidates share a name: {', '.join(c.name for c in candidates)}")
    ranked = sorted(candidates, key=lambda c: c.cost)
    switch = _switch()
    if switch == "off":
        return ranked[0]
    stale = switch == "again" and measure is not None and not memory.is_new(key.text)
    known = None if stale else _known(ranked, memory.get(key.text))
    if known is not None:
        return known
    few = ranked[: max(1, top)]
    if measure is None or len(few) == 1:
        return few[0]
    seconds, dropped = _measured(few, measure)
    if not seconds:
        reasons = "; ".join(f"{name}: {why}" for name, why in dropped.items())
        raise NothingRuns(f"no candidate runs for {key.text} on {key.device}: {reasons}")
    best = min((c for c in few if c.name in seconds), key=lambda c: seconds[c.name])
    memory.put(key.text, Remembered(best.name, dict(best.config), seconds[best.name], dropped))
    return best


def measure_on(device: torch.device, run: Callable[[Candidate], object]) -> Measure | None:
    """A measure that runs candidates on a CUDA device, or None where nothing may be timed now."""
    if not may_measure(device):
        return None

    def seconds(candidate: Candidate) -> float:
        return gpu_time(lambda: run(candidate), device)

    return seconds


def may_measure(device: torch.device) -> bool:
    """Whether calls can be timed now: on CUDA, outside of a graph's capture and of tracing."""
    if device.type != "cuda":
        return False
    import torch

    return not (torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing())


def gpu_time(
    call: Callable[[], object], device: torch.device, *, repeats: int = 5, warmup: int = 1
) -> float:
    """The median of some calls' seconds on the current stream, each with a cold second-level cache.

    What is written in between also keeps the device busy while the host prepares the next call,
    so that a short kernel's time is not that of its launch.

    Args:
        call: launches work on the device, and does not wait for it.
        device: a CUDA device.
        repeats: calls that count.
        warmup: calls before them that do not: they compile.

    Raises:
        RuntimeError: a graph is being captured, which timing would spoil.
    """
    import torch

    if not may_measure(device):
        raise RuntimeError("nothing can be timed here: no CUDA device, or a graph is captured")
    with torch.cuda.device(device):
        other = torch.empty(FLUSH // 4, dtype=torch.int32, device=device)
        for _ in range(max(1, warmup)):
            call()
        event: Any = partial(torch.cuda.Event, enable_timing=True)
        events = [(event(), event()) for _ in range(repeats)]
        torch.cuda.synchronize(device)
        for before, after in events:
            other.zero_()
            before.record()
            call()
            after.record()
        torch.cuda.synchronize(device)
        milliseconds = [float(before.elapsed_time(after)) for before, after in events]
        return median(milliseconds) * 1e-3


def _switch() -> str:
    switch = os.environ.get("FMTC_TUNE") or "on"
    if switch not in SWITCHES:
        raise ValueError(f"FMTC_TUNE is '{switch}'; it may be {', '.join(SWITCHES)}")
    return switch


def _known(candidates: Sequence[Candidate], remembered: Remembered | None) -> Candidate | None:
    """The remembered candidate if it is still there as it was."""
    if remembered is None:
        return None
    for candidate in candidates:
        if candidate.name == remembered.name and dict(candidate.config) == remembered.config:
            return candidate
    return None


def _measured(
    candidates: Sequence[Candidate], measure: Measure
) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds of those that run, and why the others do not, by name.

    They take turns, so that a device that warms up slows all of them alike.
    """
    times: dict[str, list[float]] = {c.name: [] for c in candidates}
    dropped: dict[str, str] = {}
    for _ in range(TURNS):
        for candidate in candidates:
            if candidate.name in dropped:
                continue
            try:
                took = measure(candidate)
            except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything
                dropped[candidate.name] = _reason(error)
                continue
            if math.isfinite(took) and took > 0:
                times[candidate.name].append(took)
            else:
                dropped[candidate.name] = f"it took {took} s"
    return {name: median(t) for name, t in times.items() if name not in dropped}, dropped


def _reason(error: Exception) -> str:
    """An error in one short line."""
    line = str(error).strip().split("\n", maxsplit=1)[0]
    return f"{type(error).__name__}: {line}"[:200].rstrip(": ")


@lru_cache(maxsize=1)
def _versions() -> str:
    """Versions of what compiles and runs a kernel."""
    found = []
    for package in ("torch", "triton"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} -")
    return ", ".join([*found, f"fmtc {__version__}"])
