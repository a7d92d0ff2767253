"""Every format of the library under the roof of the bytes that it must move."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from fmtc import load
from fmtc.formats import names

from . import ours
from .measure import OURS, Contender, Rows, gather, take_turns
from .overhead import best
from .plan import Plan
from .roofs import PASS, READ, aligned, decode_roofs, read_roof
from .tasks import numbers
from .work import Work

#: Below this share of its roof a format is flagged.
LEAST = 0.30
#: Seconds that one call should take: a slower format is given fewer rows.
PATIENCE = 0.15


@dataclass(frozen=True, slots=True)
class Share:
    """Speeds of one format in Melem/s, and their shares of the roofs; or why there are none."""

    format: str
    decode: float | None = None
    decode_share: float | None = None
    encode: float | None = None
    encode_share: float | None = None
    skipped: str | None = None


def measure(plan: Plan) -> list[Share]:
    """All formats, in the order of their names."""
    rows = Rows(plan.threads)
    whole = numbers(*plan.decoded)
    shares = []
    for name in names():
        print(f"library {name}", file=sys.stderr)
        work = Work(name, whole, rows)
        shares.append(_share(work, plan))
    return shares


def _share(work: Work, plan: Plan) -> Share:
    speeds: list[float] = []
    for contenders, roof in ((_decoders, PASS), (_encoders, READ)):
        few = len(work.x) // 64
        (trial, *_) = gather(OURS, contenders, _piece(work, few), plan)
        if not isinstance(trial, Contender):
            return Share(work.format, skipped=trial.why)
        fitting = int(few * PATIENCE / best(trial.run, 1))
        piece = _piece(work, min(len(work.x), max(few, fitting // few * few)))
        pair = [c for c in contenders(piece, plan) if c.name in (OURS, roof)]
        found = take_turns(pair, plan.seconds, plan.threads)
        mine, bound = found[OURS], found[roof]
        if isinstance(mine, str) or isinstance(bound, str):
            return Share(work.format, skipped=str(mine))
        speeds += [round(mine, 1), round(mine / bound, 4)]
    decode, decode_share, encode, encode_share = speeds
    return Share(work.format, decode, decode_share, encode, encode_share)


def _piece(work: Work, rows: int) -> Work:
    return Work(work.format, work.x[:rows], work.rows)


def _encoders(work: Work, plan: Plan) -> Iterator[Contender]:
    packed = ours.Packed(load(work.format), work.x, plan.threads)
    yield from ours.encoders(packed)
    yield from read_roof(work.x.reshape(-1).view(np.uint8), work.x.size, work.rows)


def _decoders(work: Work, plan: Plan) -> Iterator[Contender]:
    out = aligned(4 * work.x.size)
    packed = ours.Packed(load(work.format), work.x, plan.threads)
    streams = packed.encode()
    yield from ours.decoders(packed, streams, work, out)
    yield from decode_roofs(packed.nbytes(streams), out, work.x.size, work.rows)
