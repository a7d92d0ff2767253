"""The tasks: decode, encode, and the product of a packed matrix with a vector."""

from __future__ import annotations

import sys
from typing import Protocol

import numpy as np
from fmtc import load

from . import ours
from .measure import LACKS, OURS, Result, Rows, gather, measure, reason
from .peers import PEERS
from .plan import Plan
from .roofs import aligned, decode_roofs, read_roof
from .work import F32, Peer, Work


class Task(Protocol):
    """A function that measures one group."""

    __name__: str

    def __call__(self, work: Work, plan: Plan) -> list[Result]:
        """The results of all contenders."""
        ...


def numbers(rows: int, columns: int) -> F32:
    """Normal numbers, float32 [rows, columns]; after 256 rows they repeat."""
    few = np.random.default_rng(0).standard_normal((min(rows, 256), columns), dtype=np.float32)
    return np.resize(few, (rows, columns))


def run(plan: Plan) -> list[Result]:
    """All groups of the plan, one after the other."""
    rows = Rows(plan.threads)
    results: list[Result] = []
    x = numbers(*plan.decoded)
    for name in plan.decode:
        results += _attempt(decode, Work(name, x, rows), plan)
    for name in plan.bfloat16:
        results += _attempt(decode, Work(name, x, rows, "bfloat16"), plan)
    x = numbers(*plan.encoded)
    for name in plan.encode:
        results += _attempt(encode, Work(name, x, rows), plan)
    for number, shape in enumerate(plan.shapes if plan.multiply else ()):
        x = numbers(*shape)
        for name in plan.multiply if number == 0 else plan.multiply[:1]:
            results += _attempt(multiply, Work(name, x, rows), plan)
    return results


def _attempt(task: Task, work: Work, plan: Plan) -> list[Result]:
    """The group's results, or one that says why fmtc cannot even begin."""
    what = task.__name__ + (" bf16" if work.dtype == "bfloat16" else "")
    print(f"{what} {work.format}, threads: {plan.threads}", file=sys.stderr)
    try:
        return task(work, plan)
    except LACKS as error:
        return [Result(what, work.format, OURS, plan.threads, skipped=reason(error))]


def decode(work: Work, plan: Plan) -> list[Result]:
    """One format to fp32 or bf16, under the roofs of its output and of its traffic."""
    fmt, size = load(work.format), work.x.size
    task = "decode" if work.dtype == "float32" else "decode bf16"
    out = aligned(size * ours.STORED[work.dtype].itemsize)
    packed = ours.Packed(fmt, work.x, plan.threads)
    streams = packed.encode()
    group = gather(OURS, ours.decoders, packed, streams, work, out)
    group += decode_roofs(packed.nbytes(streams), out, size, work.rows)
    if plan.threads == 1 and work.dtype == "float32":
        group += gather(ours.REFERENCE, ours.reference, fmt, work, "decode")
    for peer in _peers(plan):
        group += gather(peer.name, peer.decode, work)
    return measure(task, work.format, group, plan.threads, plan.seconds)


def encode(work: Work, plan: Plan) -> list[Result]:
    """One format from fp32, under the roof of reading its input."""
    fmt = load(work.format)
    packed = ours.Packed(fmt, work.x, plan.threads)
    group = gather(OURS, ours.encoders, packed)
    group += read_roof(work.x.reshape(-1).view(np.uint8), work.x.size, work.rows)
    if plan.threads == 1:
        group += gather(ours.REFERENCE, ours.reference, fmt, work, "encode")
    for peer in _peers(plan):
        group += gather(peer.name, peer.encode, work)
    return measure("encode", work.format, group, plan.threads, plan.seconds)


def multiply(work: Work, plan: Plan) -> list[Result]:
    """A packed matrix times a vector: exact in fp32, then with the vector rounded to int8."""
    rows, columns = work.x.shape
    subject = f"{work.format} {rows}x{columns}"
    packed = ours.Packed(load(work.format), work.x, plan.threads)
    streams, vector = packed.encode(), work.vector
    exact = gather(OURS, ours.multipliers, packed, streams, vector, "float32")
    exact += gather(ours.UNPACKED, ours.decode_then_multiply, packed, streams, work)
    integer = gather(OURS, ours.multipliers, packed, streams, vector, "int8")
    integer += gather(ours.HIF8, ours.multipliers, packed, streams, vector, "hif8")
    data = aligned(packed.nbytes(streams))
    exact += read_roof(data, work.x.size, work.rows)
    integer += read_roof(data, work.x.size, work.rows)
    for peer in _peers(plan):
        exact += gather(peer.name, peer.multiply, work)
        integer += gather(peer.name, peer.multiply_integers, work)
    results = measure("multiply", subject, exact, plan.threads, plan.seconds)
    return results + measure("multiply int8", subject, integer, plan.threads, plan.seconds)


def _peers(plan: Plan) -> list[Peer]:
    """Those that use as many threads as they are given."""
    return [peer for peer in PEERS if peer.threaded or plan.threads == 1]
