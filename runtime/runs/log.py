"""Logs of a run: lines of JSON, appended whole, which outlive a kill in the middle of a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Log:
    """A file with one JSON object a line.

    Attributes:
        path: of the file; it need not be there.
    """

    path: Path

    def mend(self) -> None:
        """Cut off a last line that is not whole."""
        if not self.path.is_file():
            return
        octets = self.path.read_bytes()
        whole = octets[: octets.rfind(b"\n") + 1]
        if len(whole) < len(octets):
            os.truncate(self.path, len(whole))

    def append(self, said: Mapping[str, Any]) -> None:
        """Add a line, in one write."""
        line = json.dumps(said, allow_nan=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        handle = os.open(self.path, flags, 0o666)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every whole line that is a JSON object."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if isinstance(said, dict):
                    yield said
