"""Results of slow tools, kept in the cache directory under a hash of all that they follow from."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from ..compile_cache import cache_directory
from .tools import require, run

_VERSION = {"yosys": "-V", "sta": "-version", "nextpnr-ice40": "--version"}


def place(kind: str, parts: object) -> Path:
    """Where a result is kept.

    Args:
        kind: of results; a folder in the cache.
        parts: JSON-ready values: everything that the result follows from.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache_directory() / kind / f"{digest}.json.gz"


def recall(file: Path) -> Any:
    """What ``keep`` kept there; None where there is nothing, or nothing whole."""
    try:
        return json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError, RecursionError):
        return None


def keep(file: Path, value: object) -> None:
    """Keep JSON-ready values; a cache that cannot be written only costs the time to redo them."""
    try:
        write_atomically(file, gzip.compress(json.dumps(value).encode(), 6, mtime=0))
    except OSError:
        return


@lru_cache(maxsize=16)
def version(tool: str) -> str:
    """The version number that a tool prints of itself, or nothing.

    Raises:
        BackendUnavailable: it is missing.
    """
    require(tool)
    found = re.search(r"\d+(\.\d+)+", run([tool, _VERSION[tool]], Path.cwd(), 60).log)
    return found[0] if found else ""
