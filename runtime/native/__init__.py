"""Hand-written C that belongs to no format, built into one library at first use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from importlib import resources
from threading import Lock

from ..backend import BackendUnavailable
from ..compile_cache import function_of, load_library

#: What decides whether and how the library is built.
_SURROUNDINGS = ("CC", "PATH", "FMTC_CACHE", "XDG_CACHE_HOME", "HOME")

_lock = Lock()
_loaded: ctypes.CDLL | None = None
#: Why the library was not to be had, and in what surroundings.
_failed: tuple[str, tuple[str | None, ...]] | None = None


def library() -> ctypes.CDLL:
    """The library of all C files of this package, built and loaded once for each process.

    Its functions are called without the GIL. What failed is tried again only where the
    environment says something else.

    Raises:
        BackendUnavailable: no compiler, or it cannot build the library; says why.
    """
    return _loaded or _load()


def _load() -> ctypes.CDLL:
    global _loaded, _failed  # noqa: PLW0603 - one library for the process
    with _lock:
        if _loaded is not None:
            return _loaded
        surroundings = tuple(os.environ.get(name) for name in _SURROUNDINGS)
        if _failed is not None and _failed[1] == surroundings:
            raise BackendUnavailable(_failed[0])
        try:
            _loaded = load_library(sources())
        except BackendUnavailable as reason:
            _failed = str(reason), surroundings
            raise
        return _loaded


def function(name: str, arguments: Sequence[type], result: type | None) -> Callable[..., int]:
    """A function of the library by its C name, with its argument and result types.

    Raises:
        BackendUnavailable: see ``library``.
    """
    return function_of(library(), name, arguments, result)


def sources() -> dict[str, str]:
    """File name -> text of every C file and header of this package."""
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith((".c", ".h"))
    }
