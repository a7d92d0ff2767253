"""GPU kernels: checked, timed, and held against memory, cuBLAS and other libraries.

    make bench-gpu
    python -m fmtc.bench.gpu [--quick] [--formats nvfp4,nf4] [--budget 480] [--json] [--write]

Without a CUDA device this says so, and ends well. --dry-run does every step once on tiny
matrices in Triton's interpreter; its figures are invented.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

from fmtc.formats import UnknownFormat, load
from fmtc.runtime.atomic import write_atomically
from rich.console import Console

from ..tables import replace_section
from .clock import Clock, DeviceClock, InventedClock
from .plan import Plan, dry, quick

RESULTS = Path(__file__).parent.with_name("RESULTS.md")
SECTION = "bench-gpu"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="fmtc.bench.gpu", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--quick", action="store_true", help="a look, in two minutes or so")
    parser.add_argument("--formats", help="these alone: names, with commas")
    parser.add_argument("--budget", type=float, help="seconds; what does not fit is dropped")
    parser.add_argument("--no-peers", action="store_true", help="cuBLAS is the only other")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--log", type=Path, help="a file for all that was measured, as JSON")
    parser.add_argument("--write", action="store_true", help=f"write to {RESULTS.name}")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU; figures invented")
    return parser.parse_args(words)


def plan_of(chosen: argparse.Namespace) -> Plan:
    """The plan that the arguments ask for.

    Raises:
        UnknownFormat: a format is not there.
    """
    plan = dry() if chosen.dry_run else quick() if chosen.quick else Plan()
    if chosen.formats:
        names = tuple(chosen.formats.split(","))
        for name in names:
            load(name)
        plan = plan.only(names)
    if chosen.budget is not None:
        plan = replace(plan, budget=chosen.budget)
    return replace(plan, peers=plan.peers and not chosen.no_peers)


def lacking(plan: Plan) -> str | None:
    """Why nothing can be measured here; None if it can."""
    for module in ("torch", "triton"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    import torch

    if plan.device != "cpu" and not torch.cuda.is_available():
        return "no CUDA device"
    return None


def main(words: list[str] | None = None) -> int:
    """Check, measure, print, write; 0 if done or skipped, 1 if a kernel is wrong, 2 if misused."""
    chosen = arguments(words)
    try:
        plan = plan_of(chosen)
    except UnknownFormat as error:
        print(error, file=sys.stderr)
        return 2
    why = lacking(plan)
    if why is not None:
        print(f"skipped: {why}")
        return 0
    from .run import CheckFailed, start
    from .tables import markdown, show

    clock: Clock = InventedClock() if chosen.dry_run else DeviceClock()
    bench = start(plan, clock, lambda text: print(text, file=sys.stderr, flush=True))
    try:
        report = bench.run()
    except CheckFailed as failure:
        print("\n".join(f"wrong: {line}" for line in str(failure).splitlines()))
        return 1
    except KeyboardInterrupt:
        report = bench.report
        report.dropped.append("all that was left when the run was interrupted")
    said = json.dumps(asdict(report), indent=1)
    if chosen.log is not None:
        write_atomically(chosen.log, said.encode())
    if chosen.json:
        print(said)
    else:
        show(report, Console(width=None if sys.stdout.isatty() else 200))
    if chosen.write and not chosen.dry_run:
        given = shlex.join(sys.argv[1:] if words is None else words)
        command = f"make bench-gpu ARGS='{given}'"
        text = replace_section(
            RESULTS.read_text(encoding="utf-8"), SECTION, markdown(report, command)
        )
        write_atomically(RESULTS, text.encode("utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
