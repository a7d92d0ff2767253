"""What the autotuner remembers: a JSON file for each device, shared by all processes.

A file is written beside its place and renamed, under a lock, with what others wrote meanwhile
merged in: it is whole at any time. One that cannot be read is set aside, and said once. Where
the cache directory cannot be written, choices last as long as the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from ..compile_cache import cache_directory

try:
    import fcntl
except ImportError:  # not on Windows: the file is still whole, but the last writer wins
    fcntl = None  # type: ignore[assignment]

#: The folder's name changes when what is in the files does.
FOLDER = "tuned-1"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A choice.

    Attributes:
        name: the candidate's name.
        config: its configuration: a candidate that has another is not the one that was timed.
        seconds: what a call took.
        dropped: candidates that could not run -> what they raised.
    """

    name: str
    config: dict[str, int | str]
    seconds: float
    dropped: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def from_json(said: object) -> Remembered | None:
        """What ``asdict`` made; None where it is something else."""
        if not isinstance(said, dict):
            return None
        name, config, seconds = (said.get(key) for key in ("name", "config", "seconds"))
        if not isinstance(name, str) or not isinstance(config, dict):
            return None
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            return None
        if not all(isinstance(value, int | str) for value in config.values()):
            return None
        dropped = said.get("dropped")
        reasons = dropped if isinstance(dropped, dict) else {}
        return Remembered(name, config, float(seconds), {k: str(v) for k, v in reasons.items()})


class Memory:
    """The choices on one device.

    Args:
        device: its name.
        directory: of all devices' files; None takes the cache directory.
    """

    def __init__(self, device: str, directory: Path | None = None) -> None:
        self.device = device
        # Two names may have the same letters: the digest tells them apart.
        letters = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        digest = hashlib.sha256(device.encode()).hexdigest()[:8]
        folder = directory if directory is not None else cache_directory() / FOLDER
        self.path = folder / f"{letters}-{digest}.json"
        self._known: dict[str, Remembered] = {}
        self._own: set[str] = set()
        self._stamp: tuple[int, int] | None = None
        self._said: set[str] = set()
        self._guard = threading.RLock()

    def get(self, key: str) -> Remembered | None:
        """What is remembered of a key; the file is read again if it has changed."""
        with self._guard:
            if key not in self._known:
                self._refresh()
            return self._known.get(key)

    def put(self, key: str, remembered: Remembered) -> None:
        """Remember a choice, in the file too if that can be written."""
        with self._guard:
            self._own.add(key)
            self._known[key] = remembered
            try:
                with self._locked():
                    found = {**self._read_or_set_aside(), key: remembered}
                    write_atomically(self.path, _text(self.device, found))
                    self._known = {**found, **self._mine()}
                    self._stamp = self._stamp_now()
            except OSError as error:
                self._say(
                    f"what was tuned cannot be kept in '{self.path.parent}' ({error.strerror}); "
                    "set FMTC_CACHE to a directory of your own"
                )

    def is_new(self, key: str) -> bool:
        """Whether this process has remembered the key itself."""
        with self._guard:
            return key in self._own

    def _mine(self) -> dict[str, Remembered]:
        return {key: self._known[key] for key in self._own if key in self._known}

    def _refresh(self) -> None:
        stamp = self._stamp_now()
        if stamp is None or stamp == self._stamp:
            return
        with suppress(OSError):
            found = self._read()
            if found is None:
                with self._locked():
                    found = self._read_or_set_aside()
            self._known = {**found, **self._mine()}
            self._stamp = stamp

    def _read(self) -> dict[str, Remembered] | None:
        """The file's choices; none of a file that is not there, None of a damaged one."""
        try:
            said: Any = json.loads(self.path.read_bytes())
            tuned = said["tuned"]
            found = {key: Remembered.from_json(value) for key, value in tuned.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return {key: value for key, value in found.items() if value is not None}

    def _read_or_set_aside(self) -> dict[str, Remembered]:
        """The file's choices, under the lock: a damaged file makes room for a new one."""
        found = self._read()
        if found is not None:
            return found
        aside = self.path.with_suffix(".damaged")
        self.path.replace(aside)
        self._say(f"'{self.path}' is damaged and now '{aside.name}'; what is needed is timed")
        return {}

    def _stamp_now(self) -> tuple[int, int] | None:
        """What changes when another file is renamed into this one's place; None: no file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that write this file.

        Raises:
            OSError: the folder cannot be made or written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _say(self, words: str) -> None:
        """A warning, once."""
        if words not in self._said:
            self._said.add(words)
            warnings.warn(words, RuntimeWarning, stacklevel=4)


def memory_of(device: str) -> Memory:
    """The memory of a device in the cache directory: one for the process."""
    return _memory_of(device, cache_directory() / FOLDER)


@lru_cache(maxsize=16)
def _memory_of(device: str, directory: Path) -> Memory:
    return Memory(device, directory)


def _text(device: str, found: dict[str, Remembered]) -> bytes:
    tuned = {key: asdict(value) for key, value in sorted(found.items())}
    return (json.dumps({"device": device, "tuned": tuned}, indent=1) + "\n").encode()
