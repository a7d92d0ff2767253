"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place, then rename it there.

    A file that stood there keeps its permissions, and a symbolic link keeps leading to it.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well.

    A folder that stood there before is replaced only then, and comes back if that fails.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _take_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _take_place(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    retired = _beside(path)
    path.rename(retired)
    try:
        new.rename(path)
    except BaseException:
        retired.rename(path)
        raise
    shutil.rmtree(retired)


def _beside(path: Path) -> Path:
    """A new hidden name in the same folder, so that a rename stays on one file system."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")
