"""Encode vectors as JSON lines: rows of binary32 numbers and the bytes they become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ...compiler.exact import FP32_MAX, fp32_from_bits, round_fp32
from ...compiler.format import Format, Grid
from ...compiler.packing import unpack
from ...compiler.reference import TensorLevel, calibrate, encode
from ...compiler.view import view_of
from .draws import Draws
from .lines import header, json_lines, level_fields, neutral_level
from .words import select_of

F32 = NDArray[np.float32]

#: Elements of the midpoint rows, and of the random rows, of one file.
MOST_ELEMENTS = 1 << 16
MOST_SCALES = 6
RANDOM_ROWS, FEWEST_RANDOM_ROWS = 256, 4


@dataclass(frozen=True, slots=True)
class Case:
    """Rows of equal length, float32 [rows, n], under one second level."""

    name: str
    level: TensorLevel
    rows: F32


def encode_lines(fmt: Format) -> str:
    """The text of ``<fmt>_encode.jsonl``: a header, then one object per row.

    A row has its elements' binary32 bits (``x``), the second level it is encoded under, the
    ``codes``, the stored ``scales`` words and ``selects`` of its blocks, and the packed
    ``bytes`` of every stream in hexadecimal.
    """
    # Rows are encoded one by one: those that can share a call do.
    alike = groupby(encode_cases(fmt), key=lambda case: (case.level, case.rows.shape[1]))
    lines = (line for _, cases in alike for line in _lines(fmt, list(cases)))
    return json_lines(header(fmt, "encode"), lines)


def encode_cases(fmt: Format) -> Iterator[Case]:
    """Midpoints with their neighbours, extremes, zeros, short blocks and random rows."""
    neutral = neutral_level(fmt)
    for grid in fmt.grids:
        for scale in _scales(fmt):
            yield Case(f"midpoints of {grid.name}", neutral, _midpoints(fmt, grid, scale))
    yield Case("extremes", neutral, _extremes(fmt))
    yield Case("zeros", neutral, _zeros(fmt.block))
    if fmt.policies.nan == "propagate":
        yield Case("nan", neutral, _with_nan(fmt.block))
    draws = Draws(2)
    for length in sorted({1, fmt.block - 1, fmt.block + 1, 2 * fmt.block + fmt.block // 2} - {0}):
        yield _calibrated(fmt, "remainder", draws.gaussian(2, length))
    count = max(FEWEST_RANDOM_ROWS, min(RANDOM_ROWS, MOST_ELEMENTS // fmt.block))
    yield _calibrated(fmt, "gaussian", draws.gaussian(count, fmt.block))
    wide = [[draws.float32() for _ in range(fmt.block)] for _ in range(count // 4)]
    yield _calibrated(fmt, "any finite bits", np.array(wide, np.float32))


def _lines(fmt: Format, cases: list[Case]) -> Iterator[dict[str, object]]:
    """The lines of cases under the same level, whose rows have the same length."""
    rows, level = np.concatenate([case.rows for case in cases]), cases[0].level
    names = [case.name for case in cases for _ in case.rows]
    streams = encode(fmt, rows, level)
    length = rows.shape[1]
    blocks = -(-length // fmt.block)
    fields = {
        s.name: unpack(streams[s.name], length if s.per == "element" else blocks, s).tolist()
        for s in fmt.streams
    }
    for row, bits in enumerate(rows.view(np.uint32).tolist()):
        words = fields["scales"][row]
        if "select" in fields:
            selects = fields["select"][row]
        else:
            selects = [select_of(fmt, word) for word in words]
        yield {
            "case": names[row],
            **level_fields(level),
            "x": [f"{b:08x}" for b in bits],
            "codes": fields["codes"][row],
            "scales": words,
            "selects": selects,
            "bytes": {name: octets[row].tobytes().hex() for name, octets in streams.items()},
        }


def _scales(fmt: Format) -> list[Fraction]:
    """Scales from the least to the largest that midpoints are tried at."""
    view = view_of(fmt)
    if view.scale.is_fp32:
        known = [Fraction(round_fp32(Fraction(n, d))) for n, d in _FP32_SCALES]
    else:
        number = fmt.scale.word.number
        known = [m for code in view.scale.ranks[1:] if (m := number.magnitude(code))]
    end = max(abs(grid.absmax_end) for grid in fmt.grids)
    usable = [s / 2 ** neutral_level(fmt).shift for s in known]
    usable = [s for s in usable if s * end <= FP32_MAX]
    steps = max(len(grid.numbers) for grid in fmt.grids) * 3
    cost = len(fmt.grids) * max(fmt.block, steps)
    count = min(len(usable), MOST_SCALES, max(1, MOST_ELEMENTS // cost))
    return [usable[i * (len(usable) - 1) // max(1, count - 1)] for i in range(count)]


_FP32_SCALES = ((1, 1 << 126), (1, 3), (1, 1), (127, 10), (1 << 100, 3))


def _midpoints(fmt: Format, grid: Grid, scale: Fraction) -> F32:
    """Every scale * midpoint between its two neighbours, in blocks led by scale * endpoint."""
    products = [(a + b) / 2 * scale for a, b in zip(grid.numbers, grid.numbers[1:], strict=False)]
    middle = np.array([round_fp32(p) for p in products], np.float32)
    with np.errstate(under="ignore", over="ignore"):
        near = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.stack([near[0], middle, near[1]], axis=1).reshape(-1)
    if fmt.block == 1:
        return values.reshape(-1, 1)
    room = fmt.block - 1 if fmt.block < 4 else (fmt.block - 1) // 3 * 3
    rows = np.zeros((-(-values.size // room), fmt.block), np.float32)
    rows[:, 0] = round_fp32(grid.absmax_end * scale)
    padded = np.zeros(rows.shape[0] * room, np.float32)
    padded[: values.size] = values
    rows[:, 1 : 1 + room] = padded.reshape(-1, room)
    mirrored = -rows if view_of(fmt).scale.signed_rule else rows[:0]
    return np.concatenate([rows, mirrored])


def _extremes(fmt: Format) -> F32:
    largest, subnormal, normal = (fp32_from_bits(b) for b in (0x7F7FFFFF, 1, 0x00800000))
    rows = []
    for value in (largest, subnormal, normal, 1.0):
        row = np.full(fmt.block, value, np.float32)
        swing = row.copy()
        swing[::2] *= -1
        alone = np.zeros(fmt.block, np.float32)
        alone[-1] = value
        rows += [row, -row, swing, alone, -alone]
    mixed = np.full(fmt.block, subnormal, np.float32)
    mixed[0] = largest
    return np.stack([*rows, mixed, -mixed])


def _zeros(block: int) -> F32:
    rows = np.zeros((3, block), np.float32)
    rows[1] = -rows[1]
    rows[2, ::2] = -rows[2, ::2]
    return rows


def _with_nan(block: int) -> F32:
    rows = np.ones((2, block), np.float32)
    rows[0, 0] = rows[1, -1] = np.nan
    return rows


def _calibrated(fmt: Format, name: str, rows: F32) -> Case:
    return Case(name, calibrate(fmt, rows), rows)
