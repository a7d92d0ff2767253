"""One session of a run: the stages in their order, with what earlier sessions finished."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import write_atomically
from ..checkpoint import Totals
from ..errors import CorruptFile, RefusedInput
from ..grids.metrics import Errors
from ..manifest import fixed_bound
from ..plan.budget import capacity
from ..plan.profile import Choice, UnitProfile, compiled, errors_from_json
from ..plan.units import Unit, units_of
from ..sources import ModelSource
from .assemble import Parts, assemble
from .engines import Engine
from .folder import RunFolder
from .journal import Entry, Journal
from .log import Log
from .memory import bound, working_bytes
from .progress import Meter, Show
from .recipe import Recipe
from .tasks import Outcome, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..calibration import Calibration
    from ..plan.allocate import Plan

    F32 = NDArray[np.float32]

#: A search costs as much as this many candidates, about.
SEARCH_COST = 8.0


class Session:
    """Carries a run from where it is to its end.

    Args:
        source: the model.
        folder: of the run, which is locked.
        recipe: what is done.
        engine: who does it.
        show: is told how far it is.
        notice: is told what a user should know.
        backend: for a fixed format.
    """

    def __init__(
        self,
        source: ModelSource,
        folder: RunFolder,
        recipe: Recipe,
        engine: Engine,
        show: Show | None,
        notice: Callable[[str], None],
        backend: str = "auto",
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._source, self._folder, self._recipe = source, folder, recipe
        self._engine, self._notice, self._backend = engine, notice, backend
        self._meter = Meter(show)
        names = source.linear_names
        self._shapes = {name: source.shape(name) for name in names}
        self._units = units_of(names, self._shapes, recipe.fuse)
        self._journal = Journal(folder.journal, folder.packed)
        self._entries: dict[str, Entry] = {}
        self._log, self._executed = Log(folder.log), Log(folder.executed)
        self._calibration: Calibration | None = None

    def run(self, text: str | None, calibration: Calibration | None) -> Totals:
        """All stages; what the written checkpoint measures."""
        self._pick_up()
        self._plan_meter(text is not None and calibration is None)
        self._calibration = calibration if calibration is not None else self._calibrate(text)
        self._check_calibration()
        bases = self._profile()
        choices = self._allocate(bases)
        packed = self._pack(choices)
        return self._assemble(packed, choices)

    # -- what is there -----------------------------------------------------------------------

    def _pick_up(self) -> None:
        """Read the journal; what is damaged is done again, and said so."""
        self._entries, damaged = self._journal.read()
        for what in damaged:
            self._notice(f"{what}: it is done again")
        self._executed.mend()
        self._log.mend()
        known = {u.name for i, u in enumerate(self._units) if f"pack-{i:05d}" in self._entries}
        lines = [line for line in self._log.lines() if line.get("unit") in known]
        once = {line["unit"]: line for line in lines}
        text = "".join(f"{json.dumps(line)}\n" for line in once.values())
        write_atomically(self._log.path, text.encode())
        for index, unit in enumerate(self._units):
            entry = self._entries.get(f"pack-{index:05d}")
            if entry is not None and unit.name not in once:
                self._log.append(entry.body["log"])

    def _elements(self, unit: Unit) -> int:
        return sum(math.prod(self._shapes[name]) for name in unit.members)

    def _plan_meter(self, calibrated: bool) -> None:
        recipe, total = self._recipe, sum(map(self._elements, self._units))
        whole = sum(math.prod(self._source.shape(name)) for name in self._source.names)
        beside = self._engine.beside
        if calibrated and not self._folder.calibration.is_file():
            self._meter.plan("calibrate", whole, times=recipe.tokens / 8192)
        if not recipe.is_fixed:
            times = SEARCH_COST * (recipe.search is not None)
            times += len(recipe.candidates(recipe.base)) * (recipe.bpw is not None)
            self._meter.plan("profile", total, times=times, beside=beside)
        self._meter.plan("pack", total, beside=beside)
        self._meter.plan("assemble", whole)
        self._meter.plan("measure", total)

    # -- calibrate ---------------------------------------------------------------------------

    def _calibrate(self, text: str | None) -> Calibration | None:
        if text is None:
            return None
        from ..calibration import Calibration, calibrate

        path = self._folder.calibration
        if path.is_file():
            try:
                return Calibration.load(path)
            except CorruptFile as error:
                self._notice(f"{error}; the model is calibrated again")
                path.unlink()
                self._plan_meter(True)
        whole = sum(math.prod(self._source.shape(name)) for name in self._source.names)
        self._meter.begin("calibrate")
        reached, since = 0, time.perf_counter()

        def progress(what: str, done: int, total: int) -> None:
            nonlocal reached, since
            now, place = time.perf_counter(), whole * done // max(1, total)
            self._meter.advance("calibrate", place - reached, now - since, what)
            reached, since = place, now

        found = calibrate(
            self._source.path,
            text,
            tokens=self._recipe.tokens,
            context=self._recipe.context,
            work=self._folder.calibrating,
            progress=progress,
        )
        found.save(path)
        self._end("calibrate")
        return found

    def _check_calibration(self) -> None:
        """Say which matrices have no norms, and refuse a calibration of another model."""
        made = self._calibration
        if made is None:
            return
        absent = [name for name in self._shapes if name not in made.norms]
        alien = [
            name
            for name, shape in self._shapes.items()
            if name in made.norms and len(made.norms[name]) != shape[1]
        ]
        if alien or len(absent) == len(self._shapes):
            raise RefusedInput(
                f"the calibration is of another model: it does not fit {(alien or absent)[0]}"
            )
        for names, why in (
            (absent, "lie outside of what is calibrated"),
            ([n for n in made.unseen if n in self._shapes], "got no token of the text"),
        ):
            if names:
                self._notice(
                    f"{len(names)} matrices, such as {names[0]}, {why}: their channels count alike"
                )

    def _norms(self, name: str) -> F32 | None:
        """Channel norms of a matrix's input, float32 [in]; None: all 1."""
        made = self._calibration
        if made is None or name in made.unseen or name not in made.norms:
            return None
        return np.asarray(made.norms[name], dtype=np.float32)

    # -- profile and allocate ----------------------------------------------------------------

    def _profile(self) -> list[Mapping[str, Any]]:
        """For every unit what its profile found."""
        if self._recipe.is_fixed:
            return [{"choice": ["base", self._recipe.base]} for _ in self._units]
        tasks = [self._task("profile", i, unit) for i, unit in enumerate(self._units)]
        self._stage("profile", tasks)
        return [self._entries[task.key].body for task in tasks]

    def _allocate(self, found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Choice | None]]:
        """Label and text for every unit, and what its profile measured of it."""
        if self._recipe.bpw is None:
            return [(*body["choice"], None) for body in found]
        from ..plan.allocate import allocate

        begun = time.perf_counter()
        profiles = [UnitProfile.from_json(body["profile"]) for body in found]
        longest = [max((c.label for c in p.choices), key=len) for p in profiles]
        overhead = fixed_bound(self._plan(longest), self._source)
        weights = sum(profile.elements for profile in profiles)
        room = capacity(self._recipe.bpw, weights, overhead)
        plan = allocate(profiles, room, self._recipe.metric, overhead=overhead)
        self._write_plan(plan)
        self.seconds["allocate"] = time.perf_counter() - begun
        chosen = [plan.choices[unit.name] for unit in self._units]
        return [(choice.label, choice.text, choice) for choice in chosen]

    def _write_plan(self, plan: Plan) -> None:
        """Keep what the allocation found beside the log, for reports."""
        said = {
            "metric": plan.metric,
            "elements": plan.elements,
            "octets": plan.octets,
            "capacity": plan.capacity,
            "value": plan.value,
            "bound": plan.bound,
            "proven": plan.proven,
            "price": plan.price,
            "choices": {name: choice.label for name, choice in plan.choices.items()},
            "next": {
                name: {"label": step.label, "octets": step.octets, "gain": step.gain}
                for name, step in plan.steps.items()
            },
        }
        write_atomically(self._folder.plan, json.dumps(said, indent=1).encode())

    def _plan(self, labels: Sequence[str]) -> dict[str, Any]:
        """What the checkpoint says of how it was made."""
        plan: dict[str, Any] = {"recipe": self._recipe.summary()}
        if self._calibration is not None:
            made = self._calibration
            plan["calibration"] = {
                "text_sha256": made.text_sha256,
                "tokens": made.tokens,
                "context": made.context,
            }
        if not self._recipe.is_fixed:
            names = [unit.name for unit in self._units]
            plan["choices"] = dict(zip(names, labels, strict=True))
        return plan

    # -- pack and assemble -------------------------------------------------------------------

    def _pack(self, choices: Sequence[tuple[str, str, Choice | None]]) -> list[Entry]:
        tasks = []
        for index, (unit, (label, text, _)) in enumerate(zip(self._units, choices, strict=True)):
            task = replace(self._task("pack", index, unit), choice=(label, text))
            known = self._entries.get(task.key)
            if known is not None and known.body["format"] != compiled(text).content_hash:
                del self._entries[task.key]
            tasks.append(task)
        self._stage("pack", tasks, {t.key: c for t, (_, _, c) in zip(tasks, choices, strict=True)})
        return [self._entries[task.key] for task in tasks]

    def _assemble(
        self, packed: Sequence[Entry], choices: Sequence[tuple[str, str, Choice | None]]
    ) -> Totals:
        labels = [label for label, _, _ in choices]
        since = time.perf_counter()

        def step(stage: str, what: str, elements: int) -> None:
            nonlocal since
            now = time.perf_counter()
            self._meter.advance(stage, elements, now - since, what)
            since = now

        def between() -> None:
            self._end("assemble")
            self._meter.begin("measure")

        parts = Parts(
            self._source,
            self._folder.packed,
            packed,
            self._norms,
            self._plan(labels),
            self._recipe.bpw,
        )
        self._meter.begin("assemble")
        totals = assemble(parts, self._folder.out, step, between)
        self._end("measure", f"{totals.bpw:.4f} bpw, NMSE {totals.nmse:.4g}")
        return totals

    # -- tasks -------------------------------------------------------------------------------

    def _task(self, stage: str, index: int, unit: Unit) -> Task:
        return Task(
            stage,
            index,
            unit,
            self._elements(unit),
            working_bytes(self._source, unit.members, stage),
            str(self._source.path.absolute()),
            self._recipe,
            self._norms(unit.members[0]),
            backend=self._backend,
        )

    def _stage(
        self, stage: str, tasks: Sequence[Task], planned: Mapping[str, Choice | None] | None = None
    ) -> None:
        """Carry out those tasks that the journal does not know, and write them into it."""
        open_tasks = [task for task in tasks if task.key not in self._entries]
        known = sum(task.elements for task in tasks if task.key in self._entries)
        self._meter.begin(stage, known)

        def done(task: Task, outcome: Outcome) -> None:
            body = dict(outcome.body)
            if task.stage == "pack":
                choice = (planned or {}).get(task.key)
                body["log"] = self._line(task, outcome, choice)
            entry = Entry(task.key, body, outcome.file)
            self._journal.write(entry)
            self._entries[task.key] = entry
            self._executed.append(_said(task, outcome))
            if task.stage == "pack":
                self._log.append(body["log"])
            self._meter.advance(stage, task.elements, outcome.seconds, task.unit.name)

        if open_tasks:
            self._engine.run(open_tasks, bound(self._source), done)
        repeated = len(tasks) - len(open_tasks)
        kept = f", {repeated} of them finished before" if repeated else ""
        self._end(stage, f"{len(tasks)} units{kept}")

    def _line(self, task: Task, outcome: Outcome, choice: Choice | None) -> dict[str, Any]:
        """What the log says of a unit."""
        entries = outcome.body["entries"].values()
        errors = sum((errors_from_json(entry["errors"]) for entry in entries), Errors())
        octets = sum(int(entry["octets"]) for entry in entries)
        profile = self._entries.get(f"profile-{task.index:05d}")
        found = {} if profile is None else profile.body.get("found", {})
        return {
            "unit": task.unit.name,
            "members": list(task.unit.members),
            "elements": task.elements,
            "choice": task.choice[0],
            "atoms": found.get("atoms"),
            "bpw": 8 * (octets if choice is None else choice.octets) / task.elements,
            "acos": errors.acos,
            "mse": errors.mse,
            "nmse": errors.nmse,
            "wmse": errors.wmse,
            "seconds": outcome.seconds,
            "peak_bytes": outcome.peak_bytes,
            "worker": outcome.worker,
        }

    def _end(self, stage: str, note: str = "") -> None:
        self.seconds[stage] = self._meter.end(stage, note)
        self._executed.append({"stage": stage, "seconds": self.seconds[stage]})


def _said(task: Task, outcome: Outcome) -> dict[str, Any]:
    """The line of a task that was carried out."""
    return {
        "task": task.key,
        "unit": task.unit.name,
        "seconds": outcome.seconds,
        "peak_bytes": outcome.peak_bytes,
        "base_bytes": outcome.base_bytes,
        "working_bytes": task.working,
        "worker": outcome.worker,
    }
