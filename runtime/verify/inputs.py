"""The inputs that a format is tried on: every tie and its neighbours, and wild random rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...compiler.format import Format
from ...compiler.packing import pack
from ...compiler.reference import TensorLevel
from ...compiler.thresholds import round_down_fp32
from ...compiler.view import View, view_of
from ..backend import F32, U8

#: Scales that ties are tried at, spread over the word's range when it has more.
TIE_SCALES = 48


def every_word(fmt: Format, limit: int = 1 << 16) -> NDArray[np.uint32]:
    """Every scale word, or for wider words every exponent and sign with edge mantissas."""
    container = fmt.scale.word.container
    if 1 << container <= limit:
        return np.arange(1 << container, dtype=np.uint32)
    number = fmt.scale.word.number
    top = (1 << number.mantissa) - 1
    mantissas = np.array(sorted({0, 1, top // 3, top - 1, top}), np.uint32)
    exponents = np.arange(1 << number.exponent, dtype=np.uint32) << np.uint32(number.mantissa)
    magnitudes = (exponents[:, None] | mantissas).reshape(-1) << np.uint32(
        fmt.scale.word.magnitude_lsb
    )
    sign = fmt.scale.word.sign_bit
    signs = np.array([0] if sign is None else [0, 1 << sign], np.uint32)
    return (magnitudes[:, None] | signs).reshape(-1)


def every_code(fmt: Format, words: NDArray[np.uint32], select: int = 0) -> dict[str, U8]:
    """Streams with a row for every word, which holds every code in order."""
    codes = np.arange(1 << fmt.code_bits, dtype=np.uint32)
    fields = {
        "codes": np.broadcast_to(codes, (len(words), codes.size)),
        "scales": np.repeat(words[:, None], -(-codes.size // fmt.block), axis=1),
        "select": np.full((len(words), -(-codes.size // fmt.block)), select, np.uint32),
    }
    return {stream.name: pack(fields[stream.name], stream) for stream in fmt.streams}


def tie_blocks(fmt: Format, level: TensorLevel) -> F32:
    """Blocks [n, g] that hold every midpoint of every grid at many scales, and its neighbours.

    The first element of a block is the trial's target times the scale, so that the encoder
    arrives at that scale; a block of one element holds a tie alone.
    """
    view = view_of(fmt)
    blocks: list[F32] = []
    for trial in view.trials:
        grid = view.grids[trial.grid]
        middles = np.array([float(m) for m in grid.midpoints], np.float64)
        end = float(max(trial.positive_divisor, trial.negative_divisor))
        end = -end if view.scale.signed_rule and grid.end_is_negative else end
        for scale in _scales(view, level):
            down = round_down_fp32(middles * float(scale))
            with np.errstate(over="ignore", under="ignore"):
                values = np.concatenate(
                    [
                        np.nextafter(down, np.float32(-np.inf)),
                        down,
                        np.nextafter(down, np.float32(np.inf)),
                    ]
                )
                pinned = np.float32(end) * scale
            values = values[np.isfinite(values)]
            if np.isfinite(pinned):
                blocks.append(_fill(values, pinned, fmt.block))
    return np.concatenate(blocks)


def _fill(values: F32, pinned: np.float32, block: int) -> F32:
    if block == 1:
        return values[:, None]
    width = block - 1
    rows = -(-values.size // width)
    filled = np.resize(values, (rows, width))
    return np.concatenate([np.full((rows, 1), pinned, np.float32), filled], axis=1)


def _scales(view: View, level: TensorLevel) -> F32:
    if view.scale.is_fp32:
        exponents = np.linspace(-140, 120, TIE_SCALES)
        return (np.exp2(exponents)).astype(np.float32)
    codes = np.array(view.scale.ranks[1:], np.int64)
    chosen = codes[np.unique(np.linspace(0, codes.size - 1, TIE_SCALES).astype(np.int64))]
    values = np.array(view.scale.values_bits, np.uint32).view(np.float32)[chosen]
    with np.errstate(over="ignore", under="ignore"):
        scaled: F32 = values * np.float32(level.multiplier)
    return scaled[np.isfinite(scaled) & (scaled > 0)]


def small_shape(fmt: Format) -> tuple[int, int]:
    """Rows and columns of a small tensor that the format takes, short blocks among its blocks."""
    if fmt.record is not None:
        return 2, fmt.record.elements * max(1, 64 // fmt.record.elements)
    return max(3, fmt.tile + 1), 2 * min(fmt.block, 256) + min(fmt.block, 256) // 2 + 1


def random_rows(fmt: Format, count: int, seed: int = 0) -> list[F32]:
    """About ``count`` values of many kinds, as matrices whose rows end in short blocks too."""
    rng = np.random.default_rng(seed)
    g = fmt.block if fmt.record is None else fmt.record.elements
    width = max(1, min(8 * g, 1024))
    width += -width % g if fmt.record is not None else 0
    tail = 0 if fmt.record is not None else g // 2 + 1
    share = max(1, count // (6 * width))
    normal = rng.standard_normal((share, width), dtype=np.float32)
    bits = rng.integers(0, 1 << 32, (share, width), dtype=np.uint32).view(np.float32)
    wild = np.where(np.isfinite(bits), bits, np.float32(0))
    sparse = normal * (rng.random((share, width)) < 0.05)
    with np.errstate(under="ignore", over="ignore"):
        tiny = (normal * np.float32(2.0**-140)).astype(np.float32)
        spread = normal * np.exp2(rng.uniform(-30, 30, (share, 1))).astype(np.float32)
    coarse = rng.integers(-24, 25, (share, width + tail)).astype(np.float32) / 4
    constant = np.full((1, g + (tail > 0)), -0.0, np.float32)
    short = normal[:1, : (g - 1 or 1) if tail else g]
    return [normal, wild, sparse, tiny, spread, coarse, constant, np.ascontiguousarray(short)]


@dataclass(frozen=True, slots=True)
class Given:
    """One row of elements under one scale, grid and zero: what an engine is asked."""

    x: F32
    scales: F32
    selects: U8 | None
    zeros: F32 | None

    @property
    def select(self) -> int:
        """The grid's index."""
        return 0 if self.selects is None else int(self.selects[0, 0])

    @property
    def zero(self) -> float:
        """The zero point or the minimum, 0 without one."""
        return 0.0 if self.zeros is None else float(self.zeros[0, 0])


#: Scales that ties are tried under: of all sizes, with full significands among them.
GIVEN_SCALES = (1.0, -0.375, 0.1, 3.0e-39, -1.7e30, 2.0**-149, 0.0, 1.2345678e-5, -65504.0)


def given_ties(kernel: Format, limit: int) -> Iterator[Given]:
    """Every tie of every grid under many scales and zeros, and its neighbours in binary32.

    Args:
        kernel: a kernel format.
        limit: about how many elements.
    """
    view = view_of(kernel)
    count = sum(3 * len(grid.midpoints) for grid in view.grids)
    for scale in GIVEN_SCALES[: max(2, limit // count)]:
        for index, grid in enumerate(view.grids):
            for zero in _zeros(kernel, index):
                shift = zero if view.zero_kind == "point" else 0.0
                middles = np.array([float(m) - shift for m in grid.midpoints]) * (scale or 1.0)
                middles += zero if view.zero_kind == "minimum" else 0.0
                down = round_down_fp32(middles)
                with np.errstate(over="ignore", under="ignore"):
                    x = np.concatenate(
                        [np.nextafter(down, np.float32(s)) for s in (-np.inf, np.inf)]
                    )
                x = np.concatenate([x, down, np.array([0.0, -0.0], np.float32)])
                yield _given(kernel, x[np.isfinite(x)], scale, index, zero)


def given_codes(kernel: Format) -> Iterator[Given]:
    """Rows for every code, under scales and zeros under which every product is exact."""
    count = 1 << kernel.code_bits
    for index in range(len(kernel.grids)):
        for scale in (1.0, 0.125, -4.0):
            for zero in _zeros(kernel, index)[:2] if kernel.zero else (0.0,):
                exact = zero if kernel.zero and kernel.zero.kind == "point" else 0.0
                yield _given(kernel, np.zeros(count, np.float32), scale, index, exact)


def _zeros(kernel: Format, index: int) -> tuple[float, ...]:
    if kernel.zero is None:
        return (0.0,)
    grid = kernel.grids[index]
    if kernel.zero.kind == "point":
        return tuple(sorted({float(grid.low), float(grid.high), 0.0 if grid.low <= 0 else 1.0}))
    return 0.0, -2.5, 0.1


def _given(kernel: Format, x: F32, scale: float, index: int, zero: float) -> Given:
    blocks = (1, -(-x.size // kernel.block))
    return Given(
        np.ascontiguousarray(x[None]),
        np.full(blocks, scale, np.float32),
        np.full(blocks, index, np.uint8) if kernel.select.bits else None,
        np.full(blocks, zero, np.float32) if kernel.zero is not None else None,
    )
