"""The journal of a run: one file for each finished task, which appears whole and is checked.

A file holds what the task found, as JSON, under its own SHA-256, and the name, the size and the
SHA-256 of the packed file that the task wrote, if it wrote one. What does not match is never
trusted: the task is done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_atomically


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished task.

    Attributes:
        key: the task's, such as ``pack-00012``.
        body: what it found, JSON values.
        file: the packed file that it wrote: name, size, sha256; None for none.
    """

    key: str
    body: Mapping[str, Any]
    file: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Journal:
    """Finished tasks on disk.

    Attributes:
        folder: of the entries.
        packed: of the files that tasks wrote.
    """

    folder: Path
    packed: Path

    def read(self) -> tuple[dict[str, Entry], list[str]]:
        """Every entry that is whole, by its key, and what is wrong with the others."""
        whole: dict[str, Entry] = {}
        damaged: list[str] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                whole[path.stem] = self._checked(path)
            except Damaged as error:
                damaged.append(f"'{path}' {error}")
        return whole, damaged

    def write(self, entry: Entry) -> None:
        """Add a finished task; its packed file is there already."""
        said = {"key": entry.key, "body": entry.body, "file": entry.file}
        said["sha256"] = _digest(said)
        octets = json.dumps(said, sort_keys=True).encode()
        write_atomically(self.folder / f"{entry.key}.json", octets)

    def _checked(self, path: Path) -> Entry:
        try:
            said = json.loads(path.read_bytes())
            stated = said.pop("sha256")
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise Damaged(f"cannot be read ({type(error).__name__})") from error
        if _digest(said) != stated or said.get("key") != path.stem:
            raise Damaged("does not match its SHA-256")
        if said["file"] is not None:
            self._check_file(said["file"])
        return Entry(said["key"], said["body"], said["file"])

    def _check_file(self, file: Mapping[str, Any]) -> None:
        place = self.packed / Path(file["name"]).name
        try:
            with place.open("rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
        except OSError as error:
            raise Damaged(f"names '{place}', which cannot be read") from error
        if found != file["sha256"]:
            raise Damaged(f"names '{place}', which does not match its SHA-256")


class Damaged(Exception):
    """An entry, or the packed file that it names, is not what was written."""


def _digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def file_entry(path: Path) -> dict[str, Any]:
    """What an entry says of a packed file."""
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest}
