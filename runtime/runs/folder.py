"""The folder of a run, ``OUT.run``: who works in it, what it was begun with, what is left over.

Everything in it can be thrown away; the checkpoint OUT does not depend on it once it is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from ..errors import RefusedInput

#: What stands in ``run.json``; raised when a journal of an older fmtc cannot be gone on with.
LAYOUT = 1


class RunInUse(RefusedInput):
    """Another process works on the same checkpoint."""


class OtherRun(RefusedInput):
    """The folder holds unfinished work of a run that was begun with something else."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps its journal.

    Attributes:
        out: the checkpoint folder that the run makes.
    """

    out: Path

    @property
    def path(self) -> Path:
        """``OUT.run``, beside the checkpoint."""
        return self.out.with_name(self.out.name + ".run")

    @property
    def journal(self) -> Path:
        """Finished tasks, one file each."""
        return self.path / "journal"

    @property
    def packed(self) -> Path:
        """Packed units, until the checkpoint is whole."""
        return self.path / "packed"

    @property
    def calibration(self) -> Path:
        """The channel norms."""
        return self.path / "calibration.safetensors"

    @property
    def calibrating(self) -> Path:
        """What a calibration goes on from: hidden states, and the finished layers' norms."""
        return self.path / "calibrating"

    @property
    def log(self) -> Path:
        """One line for each finished unit."""
        return self.path / "log.jsonl"

    @property
    def plan(self) -> Path:
        """What the allocation found."""
        return self.path / "plan.json"

    @property
    def executed(self) -> Path:
        """One line for each task that was carried out, and each stage that ended."""
        return self.path / "tasks.jsonl"

    @property
    def record(self) -> Path:
        """What the run was begun with, and whether it came to its end."""
        return self.path / "run.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder.

        Raises:
            RunInUse: another process is in it.
        """
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                who = file.read().strip() or "unknown"
                raise RunInUse(
                    f"another process ({who}) is making '{self.out}': wait for it, stop it, "
                    "or give another place with -o"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            yield

    def begin(self, parts: Mapping[str, Any], fresh: bool) -> str:
        """Take the folder for a run with this fingerprint; what a user should know of it.

        A folder without unfinished work is taken over in silence. Where nothing but the plan
        differs, such as the budget, everything before it is kept.

        Raises:
            OtherRun: unfinished work of a run with another fingerprint is there, and not
                ``fresh``.
        """
        self._sweep()
        said, new = self._read(), _plain(parts)
        old = {} if said is None else said["parts"]
        if said is not None and old == new and not fresh:
            return ""
        replanned = {**old, "plan": new["plan"]} == new
        if replanned and not fresh:
            self._drop_packed()
        elif fresh or not self._unfinished(said):
            self._empty()
        else:
            raise OtherRun(self._difference(old, new))
        self._write(parts, None)
        known = replanned and not fresh and self._has_work()
        return f"'{self.path}' has another plan; what comes before it is kept" if known else ""

    def finish(self, parts: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Note that the checkpoint is whole, then drop what it holds as well."""
        self._write(parts, result)
        for folder in (self.packed, self.calibrating):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``finish`` noted; None for a run that has not come to its end."""
        said = self._read()
        result: dict[str, Any] | None = None if said is None else said["result"]
        return result

    def reopen(self, parts: Mapping[str, Any]) -> None:
        """Note that the run goes on: what it made is no longer as it was."""
        self._write(parts, None)

    def _write(self, parts: Mapping[str, Any], result: Mapping[str, Any] | None) -> None:
        said = {"layout": LAYOUT, "parts": parts, "result": result}
        write_atomically(self.record, json.dumps(said, indent=1, sort_keys=True).encode())

    def _read(self) -> dict[str, Any] | None:
        """The record; None where there is none, or none that can be read."""
        try:
            said = json.loads(self.record.read_text(encoding="utf-8"))
            usable = said["layout"] == LAYOUT and isinstance(said["parts"], dict)
            return said if usable and "result" in said else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _unfinished(self, said: Mapping[str, Any] | None) -> bool:
        if said is not None and said["result"] is not None:
            return False
        return self._has_work()

    def _has_work(self) -> bool:
        return self.journal.is_dir() and any(self.journal.glob("*.json"))

    def _drop_packed(self) -> None:
        """Packed units go, with their entries and lines."""
        for entry in self.journal.glob("pack-*.json"):
            entry.unlink()
        shutil.rmtree(self.packed, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def _empty(self) -> None:
        """Everything of an earlier run goes, but the lock."""
        for item in sorted(self.path.iterdir()):
            if item.is_dir():
                shutil.rmtree(item)
            elif item.name != "lock":
                item.unlink()

    def _sweep(self) -> None:
        """Remove what a killed process left half-written, in the folder and beside OUT."""
        ours = re.compile(rf"\.{re.escape(self.out.name)}\.[0-9a-f]{{12}}")
        for item in self.out.parent.iterdir():
            if item.is_dir() and ours.fullmatch(item.name):
                shutil.rmtree(item, ignore_errors=True)
        for folder in (self.path, self.journal, self.packed):
            if folder.is_dir():
                for item in folder.iterdir():
                    if item.name.startswith(".") and item.is_file():
                        item.unlink()

    def _difference(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        """Which parts differ, both values of each, and the way out."""
        lines = [
            f"  {path}: begun with {_short(was)}, now {_short(now)}"
            for path, was, now in _differences(old, new)
        ]
        return "\n".join(
            [
                f"'{self.path}' holds unfinished work of another run; this differs:",
                *(lines or ["  its record cannot be read"]),
                "give the same as then to go on with it, --fresh to throw it away, or another -o",
            ]
        )


def _plain(parts: Mapping[str, Any]) -> Any:
    """Values as JSON gives them back."""
    return json.loads(json.dumps(parts))


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: the path, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else key
            yield from _differences(old.get(key), new.get(key), inner)
    elif old != new:
        yield path, old, new


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 72 else f"{text[:56]} ... {text[-12:]}"
