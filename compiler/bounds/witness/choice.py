"""Witnesses for formats with several trials: the other elements make a block choose one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from ...exact import floor_log2, round_fp32
from ...format import Format
from ..choice.boxes import nearest, trial_signs
from ..choice.places import F64
from ..choice.programs import Found, balanced
from ..coder import Coder, coders_of
from ..proof import Cell, Statement, Witness
from ..slack import element_count
from ..words import words_of
from .build import Idea, best_of, unit

#: How far beside a point a witness may stand, relative to it.
_STEPS = tuple(Fraction(1, 1 << n) for n in (21, 19, 17))

#: How many of the cells with the largest errors are tried, and how near the bound they are.
_CELLS, _NEAR = 12, Fraction(9995, 10000)


def block_witness(fmt: Format, statement: Statement, found: Found) -> Witness | None:
    """The witness that the worst block found makes, at a size where all scales are regular."""
    return best_of(fmt, statement, _block_ideas(fmt, statement, found))


def _block_ideas(fmt: Format, statement: Statement, found: Found) -> Iterator[Idea]:
    size = Fraction(1)
    if statement.domain is not None:
        low, high = statement.domain
        size = Fraction(2) ** ((floor_log2(low) + floor_log2(high)) // 2)
    peak = max(abs(x) for x in found.elements)
    for step in (Fraction(0), *(side * s for s in _STEPS for side in (1, -1))):
        moved = [x * (1 + step) if abs(x) == peak else x for x in found.elements]
        elements = np.array([round_fp32(x * size * unit(fmt)) for x in moved], np.float32)
        yield Idea(elements, None)


def element_witness(fmt: Format, statement: Statement) -> Witness | None:
    """A block whose others make it take the trial under which one element errs most."""
    return best_of(fmt, statement, _element_ideas(fmt, statement))


def _element_ideas(fmt: Format, statement: Statement) -> Iterator[Idea]:
    coders = coders_of(fmt)
    tops = [
        (height, cell, y)
        for cell in statement.cells
        for y, height in cell.points
        if height >= statement.bound * _NEAR
    ]
    tops.sort(key=lambda top: -top[0])
    for step in _STEPS:
        for _, cell, y in tops[:_CELLS]:
            yield from _at_cell(fmt, statement.regime, coders, cell, y, step)


def _at_cell(
    fmt: Format,
    regime: str,
    coders: Sequence[Coder],
    cell: Cell,
    y: Fraction,
    step: Fraction,
) -> Iterator[Idea]:
    coder = coders[cell.trial]
    end = min(coder.ends, key=coder.reach)
    reach = coder.reach(1 if y > 0 else -1)
    inward = 1 if y == cell.start else -1 if y == cell.stop else 0
    ratio = max(cell.ratio, abs(y) / reach)
    for stored, side in _words(fmt, regime, ratio, coder.step):
        asked = stored * ratio * (1 + side * step)
        signs = (1, -1) if fmt.scale.rule == "argmax" else (1,)
        for sign in signs:
            driver = sign * end * asked * coder.reach(end)
            value = y + inward * step * max(abs(y), abs(cell.value) / 16)
            limit = asked * reach
            x = sign * max(-limit, min(limit, value * stored))
            block = _forcing(fmt, coders, cell.trial, driver, x)
            if block is not None:
                size = unit(fmt)
                yield Idea(np.array([round_fp32(v * size) for v in block], np.float32), 1)


def _words(fmt: Format, regime: str, ratio: Fraction, step: int) -> Iterator[tuple[Fraction, int]]:
    """Stored scales that a ratio of asked / stored may lead to, and from which side."""
    words = words_of(fmt)
    if not words:
        yield Fraction(1), 0
        return
    found = []
    for i in range(max(0, -step), len(words) - max(0, step)):
        asked, stored = words[i], words[i + step].value
        if words[i + step].regime == regime and asked.high is not None:
            low, high = asked.low / stored, asked.high / stored
            if low <= ratio <= high:
                found.append((stored, 1 if ratio == low else -1 if ratio == high else 0))
    found.sort(key=lambda pair: abs(floor_log2(pair[0])))
    yield from found[:3]


def _forcing(
    fmt: Format, coders: Sequence[Coder], trial: int, driver: Fraction, x: Fraction
) -> list[Fraction] | None:
    """A block with the driver and x whose other elements make it take a trial; None if none do."""
    count = element_count(fmt) or 64
    grids = _scaled(fmt, coders, driver, x)
    if count < 3 or grids is None:
        return None
    reach = max(abs(driver), abs(x)) * (1 - Fraction(1, 1 << 16))
    cuts = {(a + b) / 2 for grid in grids for a, b in pairwise(grid)}
    values = {v for grid in grids for v in grid}
    points = sorted(p for p in {Fraction(0), *cuts, *values} if abs(p) <= reach)
    gains = _gains(grids, trial, points)
    start = _gains(grids, trial, (driver, x)).sum(axis=1)
    counts = balanced(gains, start, count - 2)
    if counts is None:
        return None
    others = [p for p, n in zip(points, counts, strict=True) for _ in range(n)]
    return [driver, x, *others]


def _gains(grids: Sequence[tuple[Fraction, ...]], trial: int, points: Sequence[Fraction]) -> F64:
    """By how much each other trial errs more than one, [trials - 1, points]."""
    squares = np.array([[float(nearest(grid, p)) ** 2 for p in points] for grid in grids])
    gains: F64 = np.delete(squares, trial, axis=0) - squares[trial]
    return gains


def _scaled(
    fmt: Format, coders: Sequence[Coder], driver: Fraction, x: Fraction
) -> list[tuple[Fraction, ...]] | None:
    """The values of every trial under the scale that it gives a block with these peaks."""
    from ...kernel import wanted_format
    from ...view import view_of

    positive, negative = max(driver, x, Fraction(0)), max(-driver, -x, Fraction(0))
    if fmt.scale.rule == "argmax":
        positive = negative = max(positive, negative)
    trials = view_of(wanted_format(fmt)).trials
    found = []
    for coder, sign, trial in zip(coders, trial_signs(fmt, coders), trials, strict=True):
        sides = ((positive, coder.positive), (negative, coder.negative))
        asked = max((peak / d for peak, d in sides if d), default=Fraction(0))
        stored = _stored(fmt, asked, coder.step)
        if not stored:
            return None
        if fmt.scale.rule == "argmax" and driver < 0:
            stored = -stored
        numbers = fmt.grids[trial.grid].numbers
        found.append(tuple(sorted(v * stored * sign for v in numbers)))
    return found


def _stored(fmt: Format, asked: Fraction, step: int) -> Fraction:
    words = words_of(fmt)
    if not words:
        return asked
    index = next((i for i, w in enumerate(words) if w.high is None or asked <= w.high), 0)
    return words[min(max(index + step, 0), len(words) - 1)].value
