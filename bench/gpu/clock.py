"""How long calls take on a device: CUDA graphs, so that launches cost nothing, and medians."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from ..measure import reason

Call = Callable[[], object]

#: Seconds that one replay should take: what the clock cannot see is small beside it.
WINDOW = 1e-2
#: Calls of one graph at most, and replays that count.
MOST_CALLS, REPLAYS = 2000, 7


@dataclass(frozen=True, slots=True)
class Timing:
    """What one call takes.

    Attributes:
        seconds: the median over replays.
        note: what was odd: empty, or why there is no CUDA graph.
    """

    seconds: float
    note: str = ""


class Clock(Protocol):
    """Measures calls that do the same work on different memory."""

    def time(self, calls: Sequence[Call]) -> Timing:
        """What one of them takes, all taking turns.

        Args:
            calls: at least one. With copies of a weight that are more than the L2 cache
                together, every call finds its own cold; with a single one it is warm.
        """
        ...


class InventedClock:
    """Does every call once, and says that each took a millionth of a second more than the last."""

    def __init__(self) -> None:
        self.asked = 0

    def time(self, calls: Sequence[Call]) -> Timing:
        """See ``Clock.time``."""
        for call in calls:
            call()
        self.asked += 1
        return Timing(self.asked * 1e-6, "invented")


class DeviceClock:
    """CUDA events around replays of a graph."""

    def time(self, calls: Sequence[Call]) -> Timing:
        """See ``Clock.time``; whatever a call raises is raised here."""
        import torch

        cuda: Any = torch.cuda
        for call in calls:  # compiles, and warms up
            call()
        cuda.synchronize()
        once = _elapsed(cuda, lambda: _all(calls, 1), 1)[0]
        turns = max(1, min(math.ceil(WINDOW / max(once, 1e-7)), MOST_CALLS // len(calls)))
        graph, note = None, ""
        try:
            graph = _captured(cuda, calls, turns)
        except Exception as error:  # noqa: BLE001 - what cannot be captured can still be timed
            note = f"no CUDA graph: {reason(error)}"
            cuda.synchronize()
        run: Call = graph.replay if graph is not None else lambda: _all(calls, turns)
        run()
        took = median(_elapsed(cuda, run, REPLAYS)) / (turns * len(calls))
        if graph is not None:
            graph.reset()
        return Timing(took, note)


def _all(calls: Sequence[Call], turns: int) -> None:
    for _ in range(turns):
        for call in calls:
            call()


def _elapsed(cuda: Any, run: Call, count: int) -> list[float]:
    """Seconds of each of some runs, one after the other on the current stream."""
    events = [
        (cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(count)
    ]
    for before, after in events:
        before.record()
        run()
        after.record()
    cuda.synchronize()
    return [float(before.elapsed_time(after)) * 1e-3 for before, after in events]


def _captured(cuda: Any, calls: Sequence[Call], turns: int) -> Any:
    """A graph of all calls; not ``torch.cuda.graph``, which empties the allocator every time."""
    graph = cuda.CUDAGraph()
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        graph.capture_begin()
        try:
            _all(calls, turns)
        finally:
            graph.capture_end()
    cuda.current_stream().wait_stream(stream)
    return graph
