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
    sparse = np.where(rng.random((64, width)) < 0.1, normal[:64], 0)
    parts = [normal, spread, heavy, one_sided, -one_sided, far, -far, constant, -constant, sparse]
    random = [np.clip(part, -(2.0**high), 2.0**high).astype(np.float32) for part in parts]
    return np.concatenate([*random, edge_blocks(fmt, width, low, high, seed)])


def edge_blocks(fmt: Format, width: int, low: float, high: float, seed: int = 0) -> F32:
    """Blocks whose peaks are round numbers and their neighbours, filled with midpoints."""
    rng = np.random.default_rng(seed + 1)
    grid = view_of(fmt).grids[0]
    midpoints = np.array([float(m) for m in grid.midpoints])
    largest = max(float(grid.positive_divisor), float(grid.negative_divisor))
    exponents = [
        e for e in (-140, -126, -60, -20, -9, -1, 0, 1, 5, 12, 60, 120) if low <= e <= high
    ]
    rows = []
    for exponent in exponents:
        for mantissa in (1.0, 1.25, 1.5, 1.75, 1.9375, *rng.uniform(1, 2, 3)):
            for peak in around([mantissa * 2.0**exponent]):
                near = around(midpoints * (float(peak) / largest))
                near = np.where(np.abs(near) > peak, np.float32(0), near)
                signed = np.where(rng.random(near.size) < 0.5, near, -near)
                fill = np.resize(rng.permutation(signed), (-(-near.size // (width - 1)), width - 1))
                ends = rng.choice([-1, 1], (len(fill), 1)).astype(np.float32) * peak
                block = np.concatenate([ends, fill], axis=1)
                rows.append(rng.permuted(block, axis=1))
    return np.concatenate(rows).astype(np.float32)


def zero_blocks(width: int) -> F32:
    """Blocks of +0, of -0 and of both."""
    zeros = np.zeros((3, width), np.float32)
    zeros[1] = -0.0
    zeros[2, 1::2] = -0.0
    return zeros
