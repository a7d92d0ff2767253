"""Encode and decode at speed, held against a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from fmtc.compiler.kernel import dense_format
from fmtc.formats import load

from . import goals, ours
from .clock import Call, Clock
from .hints import hint_of_coding
from .plan import Plan
from .results import OURS, Result, Roofs


def measure(name: str, plan: Plan, clock: Clock, roofs: Roofs | None) -> Iterator[Result]:
    """Encode from float32, decode to every dtype; the matrix is far larger than the L2 cache."""
    fmt, shape = load(name), plan.coded_shape
    rows = torch.from_numpy(ours.random_rows((min(shape[0], plan.encoded_rows), shape[1])))
    x = rows.to(plan.device).repeat(-(-shape[0] // len(rows)), 1)[: shape[0]]
    coder = ours.coder(fmt, x)
    who = f"{OURS} {name}"
    note = "" if dense_format(fmt).is_plain else "under given scales"
    elements = shape[0] * shape[1]
    timing = clock.time([coder.encode])
    octets = 4 * elements + coder.packed
    result = Result(
        "encode", who, shape, how="float32", seconds=timing.seconds, octets=octets,
        note="; ".join(filter(None, (note, timing.note))),
    )  # fmt: skip
    yield goals.explained(result, roofs, partial(hint_of_coding, coder.encode, "LDG", 4))
    for dtype in ours.DTYPES:
        size = torch.empty((), dtype=getattr(torch, dtype)).element_size()
        call = _decode(coder, dtype)
        timing = clock.time([call])
        result = Result(
            "decode", who, shape, how=dtype, seconds=timing.seconds,
            octets=size * elements + coder.packed,
            note="; ".join(filter(None, (note, timing.note))),
        )  # fmt: skip
        yield goals.explained(result, roofs, partial(hint_of_coding, call, "STG", size))


def _decode(coder: ours.Coder, dtype: str) -> Call:
    return lambda: coder.decode(dtype)
