"""Whole tensors as JSON lines: the one file of vectors that every format has.

Each line is a small tensor, the bytes of every stream that it becomes, and what they decode to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...compiler.exact import FP32_MAX, fp32_from_bits, round_fp32
from ...compiler.format import Format
from ...compiler.pipeline import decode, encode
from ...compiler.reference import calibrate
from ...compiler.view import NAN_BITS
from .draws import Draws
from .lines import header, json_lines, level_fields

F32 = NDArray[np.float32]

#: Elements of one tensor, about; a larger one, made by large tiles, comes in two cases only.
TENSOR = 1 << 9
LARGE = 1 << 12


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to encode: float32 [rows, n], and weights [n] where the format counts them."""

    name: str
    rows: F32
    weights: F32 | None = None


def tensor_lines(fmt: Format) -> str:
    """The text of ``<fmt>_tensors.jsonl``: a header, then one object per tensor.

    A tensor has its elements' binary32 bits row by row (``x``, hexadecimal), the second level
    that ``fmtc`` calibrates for it, every stream's bytes row by row in hexadecimal, and the
    binary32 bits of what they decode to (every NaN as 7fc00000).
    """
    return json_lines(header(fmt, "tensors"), (_line(fmt, tensor) for tensor in tensors(fmt)))


def tensors(fmt: Format) -> Iterator[Tensor]:
    """Gaussians at several sizes, ties, extremes, zeros, and rows that end in a short block."""
    rows, length = _shape(fmt)
    draws = Draws(5)
    gaussian = draws.gaussian(rows, length)
    yield Tensor("gaussian", gaussian)
    yield Tensor("ties", _ties(fmt, rows, length))
    if gaussian.size > LARGE:
        return
    yield Tensor("small", (gaussian * np.float32(2.0**-12)).astype(np.float32))
    yield Tensor("large", (gaussian * np.float32(2.0**12)).astype(np.float32))
    if fmt.policies.error != "squared" or any(side.kind == "wr" for side in fmt.sides):
        weights = np.abs(draws.gaussian(1, length))[0]
        yield Tensor("weighted", gaussian, weights)
    skewed = np.abs(gaussian) + np.float32(0.25)
    yield Tensor("positive", skewed.astype(np.float32))
    yield Tensor("outliers", np.where(gaussian > 2, gaussian * 20, gaussian).astype(np.float32))
    yield Tensor("extremes", _extremes(rows, length))
    yield Tensor("zeros", np.where(gaussian > 0, np.float32(0), np.float32(-0.0)))
    if fmt.record is None:
        for odd in sorted({1, max(1, fmt.block - 1), fmt.block + 1}):
            yield Tensor("short block", draws.gaussian(min(rows, 3), min(odd, length)))
    if fmt.policies.nan == "propagate":
        broken = gaussian.copy()
        broken[0, -1] = np.nan
        yield Tensor("nan", broken)


def _shape(fmt: Format) -> tuple[int, int]:
    """Rows and elements of a row that make a few whole blocks and records, and a bit more."""
    unit = fmt.record.elements if fmt.record else fmt.block if fmt.extent == "block" else 32
    rows = fmt.tile + 1 if fmt.tile > 1 else 4
    length = unit * max(1, TENSOR // rows // unit)
    return rows, length if fmt.record else length + max(1, unit // 3)


def _ties(fmt: Format, rows: int, length: int) -> F32:
    """Midpoints of all grids and their neighbours at powers of two, led by the grid's end."""
    out = np.zeros((rows, length), np.float32)
    for row in range(rows):
        grid = fmt.grids[row % len(fmt.grids)]
        scale = Fraction(2) ** (row % 5 - 2)
        middles = [(a + b) / 2 for a, b in zip(grid.numbers, grid.numbers[1:], strict=False)]
        exact = np.array([round_fp32(m * scale) for m in middles], np.float32)
        near = [np.nextafter(exact, np.float32(side)) for side in (-np.inf, np.inf)]
        values = np.stack([near[0], exact, near[1]], axis=1).reshape(-1)
        out[row] = np.resize(values, length)
        out[row, :: fmt.block] = round_fp32(min(grid.absmax_end * scale, FP32_MAX))
    return out


def _extremes(rows: int, length: int) -> F32:
    sizes = [fp32_from_bits(bits) for bits in (0x7F7FFFFF, 1, 0x00800000, 0x3F800000)]
    out = np.zeros((rows, length), np.float32)
    for row in range(rows):
        out[row, row % 3 :: 3] = sizes[row % len(sizes)]
        out[row, row % 5 :: 5] *= -1
    return out


def _line(fmt: Format, tensor: Tensor) -> dict[str, object]:
    rows = tensor.rows
    level = calibrate(fmt, rows)
    streams = encode(fmt, rows, level, weights=tensor.weights)
    values = decode(fmt, streams, rows.shape[1], level)
    bits = np.where(np.isnan(values), np.uint32(NAN_BITS), values.view(np.uint32))
    weights = None if tensor.weights is None else _hex(tensor.weights.view(np.uint32))
    return {
        "case": tensor.name,
        "shape": list(rows.shape),
        **level_fields(level),
        **({} if weights is None else {"weights": weights}),
        "x": [_hex(row) for row in rows.view(np.uint32)],
        "streams": {name: [r.tobytes().hex() for r in s] for name, s in sorted(streams.items())},
        "decoded": [_hex(row) for row in bits],
    }


def _hex(bits: NDArray[np.uint32]) -> str:
    """binary32 bit patterns, eight digits each, one after the other."""
    return bits.astype(">u4").tobytes().hex()
