"""The numbers that go through fmtc and a peer, and fmtc's two ways between numbers and bytes.

``blocks_for`` makes float32 blocks in which everything that an encoder decides is on edge: the
format's midpoints under scales at, above and below round numbers, their binary32 neighbours, zeros
of both signs, blocks of one sign, subnormal and huge ones, and random ones between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from fmtc.compiler.format import Format
from fmtc.compiler.view import view_of
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

UP, DOWN = np.float32(np.inf), np.float32(-np.inf)


def stored(fmt: Format, x: F32) -> dict[str, U8]:
    """The streams that fmtc stores for rows [rows, n]."""
    return dict(fmt.quantize(x, backend="reference").streams)


def read(fmt: Format, streams: Mapping[str, U8], shape: tuple[int, int]) -> F32:
    """What fmtc reads from a peer's bytes: float32 of ``shape``."""
    empty = fmt.quantize(np.zeros(shape, np.float32), backend="reference")
    missing = {name: octets for name, octets in empty.streams.items() if name not in streams}
    return replace(empty, streams={**missing, **streams}).to_float32(backend="reference")


def around(values: NDArray[np.floating]) -> F32:
    """Every value as binary32, with the number below and the number above it."""
    middle = np.asarray(values, np.float32)
    return np.concatenate([np.nextafter(middle, DOWN), middle, np.nextafter(middle, UP)])


def blocks_for(
    fmt: Format,
    width: int,
    *,
    low: float = -100,
    high: float = 100,
    count: int = 2000,
    seed: int = 0,
) -> F32:
    """float32 [blocks, width] whose peaks lie between 2^low and 2^high; see the module."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((count, width))
    spread = normal * np.exp2(rng.uniform(low + 3, high - 3, (count, 1)))
    heavy = rng.standard_t(3, (count // 4, width)).clip(-50, 50)
    one_sided = np.abs(normal[: count // 4]) * np.exp2(rng.uniform(-8, 8, (count // 4, 1)))
    far = one_sided[: count // 8] + np.exp2(rng.uniform(0, 8, (count // 8, 1)))
    constant = np.repeat(np.exp2(rng.uniform(-9, 9, (32, 1))), width, axis=1)
    sparse = np.where(rng.random((count // 8, width)) < 0.1, normal[: count // 8], 0)
    parts = [normal, spread, heavy, one_sided, -one_sided, far, -far, constant, -constant, sparse]
    random = [np.clip(part, -(2.0**high), 2.0**high).astype(np.float32) for part in parts]
    return np.concatenate([*random, edge_blocks(fmt, width, low, high, seed)])


def edge_blocks(fmt: Format, width: int, low: float, high: float, seed: int = 0) -> F32:
    """Blocks whose peaks are round numbers and their neighbours, filled with midpoints."""
    rng = np.random.default_rng(seed + 1)
    grid = view_of(fmt).grids[0]
    midpoints = np.array([float(m) for m in grid.midpoints])
    largest = max(float(grid.positive_divisor), float(grid.negative_divisor))
    rows = []
    for exponent in (e for e in EXPONENTS if low <= e <= high):
        for mantissa in (1.0, 1.25, 1.5, 1.75, 1.9375, *rng.uniform(1, 2, 3)):
            for peak in around([mantissa * 2.0**exponent]):
                near = around(midpoints * (float(peak) / largest))
                near = np.where(np.abs(near) > peak, np.float32(0), near)
                signed = np.where(rng.random(near.size) < 0.5, near, -near)
                end = peak * rng.choice([-1, 1])
                rows.append(_with_ends(rng, signed, end, end, width))
    if fmt.zero is not None:
        rows += _range_blocks(fmt, width, low, high, rng)
    return np.concatenate(rows).astype(np.float32)


#: Of the peaks on edge.
EXPONENTS = (-140, -126, -60, -20, -9, -1, 0, 1, 5, 12, 60, 120)


def _range_blocks(
    fmt: Format, width: int, low: float, high: float, rng: np.random.Generator
) -> list[F32]:
    """Blocks from a to b steps of a short scale, filled with half steps: ties of any zero."""
    grid = fmt.grids[0]
    steps = int(grid.high - grid.low)
    bits = steps.bit_length()
    rows = []
    for exponent in (e for e in EXPONENTS if low + bits + 2 <= e <= high - bits - 2):
        for mantissa in (1.0, 1.25, 1.5, 1.75):
            scale = mantissa * 2.0**exponent
            for first in (-steps, 0, *rng.integers(-steps, 1, 2)):
                halves = around(scale * (first + 0.5 + np.arange(steps)))
                ends = scale * float(first), scale * float(first + steps)
                rows.append(_with_ends(rng, halves, *ends, width))
    return rows


def _with_ends(rng: np.random.Generator, values: F32, one: float, other: float, width: int) -> F32:
    """All values, in blocks of ``width`` that hold both ends as well, in any order."""
    fill = np.resize(rng.permutation(values), (-(-values.size // (width - 2)), width - 2))
    ends = np.broadcast_to(np.array([one, other], np.float32), (len(fill), 2))
    return rng.permuted(np.concatenate([ends, fill], axis=1), axis=1)


def zero_blocks(width: int) -> F32:
    """Blocks of +0, of -0 and of both."""
    zeros = np.zeros((3, width), np.float32)
    zeros[1] = -0.0
    zeros[2, 1::2] = -0.0
    return zeros
