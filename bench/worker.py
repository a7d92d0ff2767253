"""The process that measures: follows one plan on one number of threads, and prints JSON."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict

from .machine import pin
from .plan import Plan


def follow(plan: Plan) -> dict[str, object]:
    """Everything that a plan asks for, as what JSON can say."""
    from . import library, overhead, roofs, tasks
    from .measure import Rows

    _limit_torch(plan.threads)
    size = 4 * plan.decoded[0] * plan.decoded[1]
    found: dict[str, object] = {
        "threads": plan.threads,
        "roofs_gb_per_s": roofs.gigabytes_per_second(size, Rows(plan.threads), plan.seconds),
        "results": [asdict(r) for r in tasks.run(plan)],
    }
    if plan.overhead:
        found["overheads"] = [asdict(r) for r in overhead.measure()]
    if plan.library:
        found["library"] = [asdict(r) for r in library.measure(plan)]
    return found


def _limit_torch(threads: int) -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)


def main() -> None:
    """Follow the plan of the first argument; progress goes to standard error."""
    plan = Plan.from_json(sys.argv[1])
    warnings.simplefilter("ignore")
    if plan.pinned:
        pin(plan.threads)
    json.dump(follow(plan), sys.stdout)


if __name__ == "__main__":
    main()
