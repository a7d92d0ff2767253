"""Which of the generated C's targets this processor runs."""

from __future__ import annotations

import platform
from functools import cache

from ..codegen.c import emit_probe
from ..codegen.c.targets import TARGETS, Target
from .backend import BackendUnavailable
from .compile_cache import load_library

#: Machine names for which files with a guard are compiled at all.
_MACHINES = {"__x86_64__": {"x86_64", "amd64"}, "__aarch64__": {"aarch64", "arm64"}}


@cache
def fastest_target() -> Target:
    """The first of ``TARGETS`` that this processor runs, as compiled C finds out.

    Raises:
        BackendUnavailable: no compiler, or it cannot build.
    """
    probe = load_library(emit_probe(), native=False)
    return TARGETS[int(probe.fmtc_fastest_target())]


def runnable_targets() -> tuple[Target, ...]:
    """All of ``TARGETS`` that this processor runs: it runs the slower ones of its kind, too.

    Raises:
        BackendUnavailable: no compiler, or it cannot build.
    """
    machine = platform.machine().lower()
    later = TARGETS[TARGETS.index(fastest_target()) :]
    return tuple(t for t in later if not t.guard or machine in _MACHINES[t.guard])


def target_of(name: str) -> Target:
    """The target of a name.

    Raises:
        ValueError: there is none of that name.
        BackendUnavailable: this processor does not run it.
    """
    named = {target.name: target for target in TARGETS}
    if name not in named:
        raise ValueError(f"no target '{name}' of the C back end; there are {', '.join(named)}")
    if named[name] not in runnable_targets():
        raise BackendUnavailable(f"this processor does not run the target '{name}'")
    return named[name]
