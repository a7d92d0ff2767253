"""How loops are compiled: at the first call, without the GIL, and kept on disk."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import sys
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
from numba import njit
from numba.core import config

from ..compile_cache import cache_directory

F = TypeVar("F", bound=Callable[..., Any])

#: Arithmetic is IEEE 754's, as written: no fast-math flag is set, so that LLVM neither contracts
#: a product and a sum nor changes an order. A division by zero gives an infinity.
_OPTIONS = {"nogil": True, "error_model": "numpy"}


def jit(function: F) -> F:
    """Compile what loops call, as a part of them."""
    return cast(F, njit(**_OPTIONS)(function))


def loop(function: F) -> F:
    """Compile a function that is called from Python, and keep the code on disk.

    It is kept in a folder of its own for the texts of all loops, for this processor and for these
    versions: numba alone would notice a change of the function's own file and no other. There
    each function has one entry, so that processes that write it at once write the same.
    """
    folder = _folder()
    if folder is None:
        return jit(function)
    mine, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        compiled = njit(cache=True, **_OPTIONS)(function)
    finally:
        config.CACHE_DIR = mine

    @wraps(compiled)
    def call(*arguments: object) -> object:
        try:
            return compiled(*arguments)
        except (EOFError, pickle.UnpicklingError, OSError):
            # What was kept is cut short, or cannot be kept now: no loop has run yet.
            shutil.rmtree(folder, ignore_errors=True)
            return compiled(*arguments)

    return cast(F, call)


@cache
def _folder() -> Path | None:
    """Where compiled loops are kept, or None where nothing can be written."""
    digest = hashlib.sha256()
    versions = sys.version, numba.__version__, llvm.get_host_cpu_name()
    parts = [part.encode() for part in (*versions, llvm.get_host_cpu_features().flatten())]
    parts += [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    folder = cache_directory() / f"loops-{digest.hexdigest()[:32]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "writable").touch()
    except OSError:
        return None
    return folder
