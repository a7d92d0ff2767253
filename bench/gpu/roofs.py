"""What the device's memory gives, measured in the same run: a read-only stream, and a copy.

A product reads its weight and writes next to nothing, so a stream that is only read is its roof;
encode and decode read and write, so a copy is theirs, counted in both directions.
"""

from __future__ import annotations

import contextlib
from functools import partial

import torch
from fmtc.runtime.interpreting import interpreting

from .clock import Clock
from .plan import Plan
from .results import Roofs

#: int32 of a program's step, and steps, that are tried.
READS = ((4096, 16), (8192, 8), (4096, 64))
COPIES = (4096, 8192)
#: int32 of a program in the interpreter.
FEW = 1024


def measure(plan: Plan, clock: Clock) -> Roofs:
    """The best of each."""
    from .kernels import copy, kernel, read

    dry = plan.device == "cpu"
    words = plan.roof_bytes // 4
    data = torch.randint(-(1 << 31), 1 << 31, (words,), dtype=torch.int32, device=plan.device)
    out = torch.empty_like(data)
    reads, copies = [], [words * 8 / clock.time([lambda: out.copy_(data)]).seconds]
    with interpreting() if dry else contextlib.nullcontext():
        for elements, steps in [(FEW, 2)] if dry else READS:
            programs = words // (elements * steps)
            seconds = clock.time(
                [partial(kernel(read, dry)[(programs,)], data, out, elements, steps)]
            ).seconds
            reads.append(programs * elements * steps * 4 / seconds)
        for elements in [FEW] if dry else COPIES:
            programs = words // elements
            seconds = clock.time(
                [partial(kernel(copy, dry)[(programs,)], data, out, elements)]
            ).seconds
            copies.append(programs * elements * 8 / seconds)
    return Roofs(read=max(reads) * 1e-9, copy=max(copies) * 1e-9)
