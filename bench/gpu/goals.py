"""What kernels shall reach, and what one run says of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

from fmtc.formats import load

from ..bars import Bar
from .plan import SHAPES
from .results import BASE, OURS, Report, Result, Roofs

#: Of the copy roof: encode and decode of one grid; encode of two, which tries each.
CODING, SECOND_GRID = 0.85, 0.60
#: Of the read roof: a product with one row, two grids at 4.5 bits, cold, on the largest shape.
VECTOR = 0.60
LARGEST = max(SHAPES, key=lambda shape: shape[0] * shape[1])
#: Of cuBLAS in bfloat16: products with so many rows.
MATRIX, MATRIX_ROWS = 0.85, 512


@lru_cache(maxsize=64)
def _grids(name: str) -> int:
    return len(load(name).grids)


def goal(result: Result) -> float | None:
    """The share of its roof that a result of ours shall reach; None where there is no goal."""
    name = result.contender.removeprefix(f"{OURS} ")
    if name == result.contender or "," in name or result.skipped is not None:
        return None
    several = _grids(name) > 1
    if result.part == "decode":
        return CODING
    if result.part == "encode":
        return SECOND_GRID if several else CODING
    if result.m == 1 and result.how == "cold":
        return VECTOR
    return MATRIX if result.m >= MATRIX_ROWS else None


def reached(result: Result, roofs: Roofs | None, base: Result | None = None) -> float | None:
    """The share of its roof that a result reaches, if both are known."""
    if result.part in ("encode", "decode"):
        return None if roofs is None else result.share(roofs.copy)
    if result.m >= MATRIX_ROWS:
        if base is None or base.seconds is None or result.seconds is None:
            return None
        return base.seconds / result.seconds
    return None if roofs is None else result.share(roofs.read)


def explained(
    result: Result, roofs: Roofs | None, explain: Callable[[], str], base: Result | None = None
) -> Result:
    """The result; with a hint from its machine code if it falls short of its goal."""
    least, share = goal(result), reached(result, roofs, base)
    if least is None or share is None or share >= least:
        return result
    return replace(result, hint=explain())


def judge(report: Report) -> list[Bar]:
    """Every goal, met or not, or not measured."""
    bars = list(_judged(report))
    wanted = f"M=1, {OURS} po2_nf4 {LARGEST[0]}x{LARGEST[1]}"
    if wanted not in {bar.what for bar in bars}:
        bars.append(Bar(wanted, f"{VECTOR:.0%} of the read roof", None, None))
    return bars


def _judged(report: Report) -> Iterator[Bar]:
    for result in report.results:
        least = goal(result)
        small = result.m == 1 and result.shape != LARGEST
        if least is None or small:
            continue
        shape = f"{result.shape[0]}x{result.shape[1]}"
        if result.part != "product":
            what, roof = f"{result.part} {result.contender}, {result.how}", "the copy roof"
        elif result.m >= MATRIX_ROWS:
            what, roof = f"M={result.m}, {result.contender} {shape}", BASE
        else:
            what, roof = f"M=1, {result.contender} {shape}", "the read roof"
        share = reached(result, report.roofs, report.base(result))
        measured = None if share is None else f"{share:.0%}"
        yield Bar(
            what, f"{least:.0%} of {roof}", measured, None if share is None else share >= least
        )
