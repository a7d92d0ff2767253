"""CPU speed beside memory and peers, on one thread and on two, in one run.

    make bench-cpu
    python -m fmtc.bench.cpu [--quick] [--all] [--formats nvfp4,nf4] [--json] [--write]

Read the ratios: all contenders of a group take turns and each shows its best turn, while
Melem/s depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.compile_cache import find_compiler
from rich.console import Console

from .bars import judge
from .library import Share
from .machine import description
from .measure import Result
from .overhead import Overhead
from .plan import Plan, full, only, quick
from .tables import Report, markdown, replace_section, show

RESULTS = Path(__file__).with_name("RESULTS.md")
SECTION = "bench-cpu"


def environment(threads: int) -> dict[str, str]:
    """What must be set before a process that measures starts.

    So many threads for everyone; and freed memory is used again instead of being given back,
    else large results cost more in page faults than in arithmetic (glibc maps every allocation
    of 32 MiB afresh).
    """
    counts = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
    )
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    return {**os.environ, **counts, **keep}


def follow(plan: Plan) -> dict[str, Any]:
    """What a process of its own measures by this plan.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why on standard error.
    """
    command = [sys.executable, "-m", "fmtc.bench.worker", plan.to_json()]
    done = subprocess.run(
        command, env=environment(plan.threads), stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(plans: list[Plan]) -> Report:
    """All plans, one process after the other."""
    found = [follow(plan) for plan in plans]
    results = [Result(**r) for part in found for r in part["results"]]
    overheads = [Overhead(**r) for part in found for r in part.get("overheads", [])]
    shares = [Share(**r) for part in found for r in part.get("library", [])]
    return Report(
        datetime.now(UTC).date().isoformat(),
        description(),
        {part["threads"]: part["roofs_gb_per_s"] for part in found},
        results,
        overheads,
        shares,
        judge(results, overheads, shares),
    )


def plans(chosen: argparse.Namespace) -> list[Plan]:
    """The plan of each thread count that the arguments ask for."""
    made = []
    for threads in chosen.threads:
        plan = (quick if chosen.quick else full)(threads, library=chosen.all)
        if chosen.formats:
            plan = only(plan, tuple(chosen.formats.split(",")))
        if chosen.seconds is not None:
            plan = replace(plan, seconds=chosen.seconds)
        if chosen.rows is not None:
            shape = (chosen.rows, chosen.columns)
            plan = replace(plan, decoded=shape, encoded=shape, shapes=(shape,))
        made.append(plan)
    return made


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="a look, in less than a minute")
    parser.add_argument("--all", action="store_true", help="every format of the library too")
    parser.add_argument("--formats", help="these alone: names, with commas")
    parser.add_argument("--threads", help="default: 1,2; --quick: 1")
    parser.add_argument("--seconds", type=float, help="for each contender of a group")
    parser.add_argument("--rows", type=int, help="of one matrix for all tasks")
    parser.add_argument("--columns", type=int, default=4096, help="of that matrix")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help=f"write to {RESULTS.name}")
    chosen = parser.parse_args(words)
    counts = chosen.threads or ("1" if chosen.quick or (os.cpu_count() or 1) == 1 else "1,2")
    chosen.threads = [int(count) for count in counts.split(",")]
    return chosen


def main(words: list[str] | None = None) -> None:
    """Measure, print, and write what was found where that is asked for."""
    chosen = arguments(words)
    try:
        find_compiler()
    except BackendUnavailable as error:
        sys.exit(f"skipped: {error}")
    report = measure(plans(chosen))
    if chosen.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        show(report, Console(width=None if sys.stdout.isatty() else 160))
    if chosen.write:
        text = replace_section(RESULTS.read_text(encoding="utf-8"), SECTION, markdown(report))
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
