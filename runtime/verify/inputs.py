"""The inputs that a format is tried on: every tie and its neighbours, and wild random rows."""

from __future__ import annotations

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

    The first element of a block is the grid's endpoint times the scale, so that the encoder
    arrives at that scale; a block of one element holds a tie alone.
    """
    view = view_of(fmt)
    blocks: list[F32] = []
    for grid in view.grids:
        middles = np.array([float(m) for m in grid.midpoints], np.float64)
        end = float(max(grid.positive_divisor, grid.negative_divisor))
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


def random_rows(fmt: Format, count: int, seed: int = 0) -> list[F32]:
    """About ``count`` values of many kinds, as matrices whose rows end in short blocks too."""
    rng = np.random.default_rng(seed)
    g = fmt.block
    width = max(1, min(8 * g, 1024))
    share = max(1, count // (6 * width))
    normal = rng.standard_normal((share, width), dtype=np.float32)
    bits = rng.integers(0, 1 << 32, (share, width), dtype=np.uint32).view(np.float32)
    wild = np.where(np.isfinite(bits), bits, np.float32(0))
    sparse = normal * (rng.random((share, width)) < 0.05)
    with np.errstate(under="ignore", over="ignore"):
        tiny = (normal * np.float32(2.0**-140)).astype(np.float32)
        spread = normal * np.exp2(rng.uniform(-30, 30, (share, 1))).astype(np.float32)
    coarse = rng.integers(-24, 25, (share, width + g // 2 + 1)).astype(np.float32) / 4
    constant = np.full((1, g + 1), -0.0, np.float32)
    return [normal, wild, sparse, tiny, spread, coarse, constant, normal[:1, : g - 1 or 1]]
