"""How far a run is, and how long it will still take.

A run has stages whose elements cost differently: a weight that is profiled is quantized in every
candidate, one that is packed only once. The bar is weighted by what elements cost, and the
estimate is made stage by stage: the seconds that this run's own finished tasks took for an
element, times the elements that are left, over the tasks that run side by side. A stage that has
not begun is taken from the usual ratio to those that were measured. What an earlier session
finished counts as done but not as fast. Before a first unit has ended there is no estimate: the
seconds of a calibration say nothing of those that a search will take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Usual seconds for 10^9 elements in one thread: only their ratios count, and only until a stage
#: has been measured itself. ``profile`` is for one candidate.
USUAL = {"calibrate": 60.0, "profile": 90.0, "pack": 110.0, "assemble": 4.0, "measure": 60.0}


@dataclass(frozen=True, slots=True)
class Status:
    """A moment of a run.

    Attributes:
        stage: what is being done.
        what: the matrix or unit that was just finished; empty at the begin and end of a stage.
        fraction: of the whole run, weighted by cost.
        remaining: seconds until the end of the run; None while nothing is measured.
        ended: the stage just ended.
        seconds: since the stage began.
        note: what a reader of the stage's line may want to know.
    """

    stage: str
    what: str
    fraction: float
    remaining: float | None
    ended: bool = False
    seconds: float = 0.0
    note: str = ""


Show = Callable[[Status], None]


@dataclass(slots=True)
class _Stage:
    """One stage: elements in all, done, done in this session; busy seconds for the latter."""

    total: int
    cost: float
    beside: int = 1
    done: int = 0
    worked: int = 0
    busy: float = 0.0
    begun: float | None = None
    seconds: float | None = None


@dataclass(slots=True)
class Meter:
    """Counts elements and seconds of all stages.

    Attributes:
        show: is told of every change; None: nobody is.
        clock: seconds from anywhere.
    """

    show: Show | None = None
    clock: Callable[[], float] = time.monotonic
    _stages: dict[str, _Stage] = field(default_factory=dict)

    def plan(self, stage: str, elements: int, *, times: float = 1.0, beside: int = 1) -> None:
        """Announce a stage.

        Args:
            stage: one of ``USUAL``.
            elements: how many it has.
            times: how many times the usual cost of an element.
            beside: tasks that are carried out side by side.
        """
        self._stages[stage] = _Stage(elements, USUAL[stage] * times, beside)

    def begin(self, stage: str, known: int = 0) -> None:
        """A stage begins; ``known`` of its elements were done in an earlier session."""
        entry = self._stages[stage]
        entry.begun, entry.done = self.clock(), known
        self._tell(stage, "")

    def advance(self, stage: str, elements: int, busy: float, what: str) -> None:
        """A task ended, which took ``busy`` seconds of one worker."""
        entry = self._stages[stage]
        entry.done += elements
        entry.worked += elements
        entry.busy += busy
        self._tell(stage, what)

    def end(self, stage: str, note: str = "") -> float:
        """A stage ended; its seconds."""
        entry = self._stages[stage]
        entry.done = entry.total
        entry.seconds = self._elapsed(entry)
        self._tell(stage, "", ended=True, note=note)
        return entry.seconds

    @property
    def fraction(self) -> float:
        """How much of the run is done, by cost."""
        total = sum(s.total * s.cost for s in self._stages.values())
        done = sum(s.done * s.cost for s in self._stages.values())
        return done / total if total else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds until the end; None while nothing is measured."""
        worked = [s for name, s in self._stages.items() if s.worked and name != "calibrate"]
        if not worked:
            return None
        usual = sum(s.worked * s.cost for s in worked)
        pace = sum(s.busy for s in worked) / usual
        left = 0.0
        for s in self._stages.values():
            each = s.busy / s.worked if s.worked else s.cost * pace
            left += (s.total - s.done) * each / s.beside
        return left

    def _elapsed(self, entry: _Stage) -> float:
        return 0.0 if entry.begun is None else self.clock() - entry.begun

    def _tell(self, stage: str, what: str, *, ended: bool = False, note: str = "") -> None:
        if self.show is not None:
            seconds = self._elapsed(self._stages[stage])
            self.show(Status(stage, what, self.fraction, self.remaining, ended, seconds, note))
