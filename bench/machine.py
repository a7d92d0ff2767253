"""The machine that figures depend on, and keeping a process to some of its cores."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.compile_cache import find_compiler

#: Vector instruction sets that are named where /proc/cpuinfo has them.
NAMED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vbmi", "avx512_vnni", "asimd")

#: Packages whose versions stand beside the figures.
PACKAGES = ("numpy", "torch", "bitsandbytes", "torchao", "gguf", "ml_dtypes")


def processor() -> str:
    """Model and vector instructions, as the kernel names them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    said = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    flags = (said.get("flags") or said.get("Features") or "").split()
    model = said.get("model name") or platform.machine()
    family = "/".join(said[key] for key in ("cpu family", "model") if key in said)
    named = " ".join(flag for flag in NAMED_FLAGS if flag in flags)
    return f"{model} ({family}; {named})" if family else f"{model} ({named})"


def compiler() -> str:
    """The first line of the compiler's ``--version``, or why there is none."""
    try:
        command = find_compiler()
    except BackendUnavailable as error:
        return str(error)
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n", maxsplit=1)[0]


def description() -> dict[str, str]:
    """What the numbers depend on: processor, cores, compiler, and the versions of all peers."""
    found = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "compiler": compiler(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def pin(threads: int) -> None:
    """Keep this process to the last ``threads`` of its cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(allowed[-threads:]))
