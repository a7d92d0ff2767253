"""Which back end does the work: the fastest that this machine has, or the one asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

from ..compiler.format import Format
from ..compiler.kernel import kernel_format
from .backend import BackendUnavailable, EngineBackend, ReferenceBackend


def _c(fmt: Format) -> EngineBackend:
    from .c_backend import CBackend

    return EngineBackend(fmt, CBackend(kernel_format(fmt)), "c")


def _numba(fmt: Format) -> EngineBackend:
    from .numba_backend import NumbaEngine

    return EngineBackend(fmt, NumbaEngine(kernel_format(fmt)), "numba")


def _triton(fmt: Format) -> EngineBackend:
    from .triton_backend import BlockwiseBackend, TritonBackend

    try:
        if fmt.is_blockwise and not fmt.is_plain:
            return BlockwiseBackend(fmt)
        return EngineBackend(fmt, TritonBackend(kernel_format(fmt)), "triton")
    except ValueError as reason:  # a format that Triton cannot express
        raise BackendUnavailable(str(reason)) from reason


#: Name -> how to get it. ``reference`` is the arbiter of all others.
BACKENDS: dict[str, Callable[[Format], EngineBackend]] = {
    "reference": ReferenceBackend,
    "c": _c,
    "numba": _numba,
    "triton": _triton,
}

_noticed: set[str] = set()


@lru_cache(maxsize=64)
def _make(fmt: Format, name: str) -> EngineBackend | BackendUnavailable:
    try:
        return BACKENDS[name](fmt)
    except BackendUnavailable as reason:
        return reason


def backend_for(fmt: Format, name: str = "auto") -> EngineBackend:
    """The back end called ``name``; ``auto`` is C, else numba, else the reference.

    Where ``auto`` is not C, one notice says what is missing and how to get it.

    Raises:
        ValueError: there is no back end of that name.
        BackendUnavailable: it is not to be had on this machine.
    """
    if name == "auto":
        made = _make(fmt, "c")
        return _instead_of_c(fmt, made) if isinstance(made, BackendUnavailable) else made
    if name not in BACKENDS:
        raise ValueError(f"no back end '{name}'; there are auto, {', '.join(BACKENDS)}")
    made = _make(fmt, name)
    if isinstance(made, BackendUnavailable):
        raise made
    return made


def _instead_of_c(fmt: Format, reason: BackendUnavailable) -> EngineBackend:
    """The next best back end, after one notice."""
    made = _make(fmt, "numba")
    if isinstance(made, BackendUnavailable):
        _notice(
            f"fmtc works with the slower NumPy reference: {reason}; gcc or clang makes it fast, "
            f"and without one numba does: {made}"
        )
        return ReferenceBackend(fmt)
    _notice(f"fmtc works with numba: {reason}; gcc or clang makes it faster still")
    return made


def _notice(message: str) -> None:
    if message not in _noticed:
        _noticed.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=6)
