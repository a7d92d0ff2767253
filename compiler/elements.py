"""Elements under given scales, in NumPy: the innermost step of every encoder and decoder.

A block here is a row of a matrix: float32 [blocks, g] with one effective binary32 scale each
(its sign mirrors the grid) and, for a format with a zero, one zero point or minimum each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .exact import fp32_from_bits
from .thresholds import F32, round_down_fp32
from .view import RECIPROCAL_FLOOR, GridView, View
from .view_arrays import decode_values

U8 = NDArray[np.uint8]


def element_codes(view: View, grid: GridView, x: F32, scales: F32, zeros: F32 | None) -> U8:
    """The code of every element: that of the nearest grid value, as the policies say.

    Args:
        view: the format.
        grid: one of its grids.
        x: float32 [blocks, g], finite.
        scales: float32 [blocks], finite; one that is 0 compares as 1.
        zeros: float32 [blocks] of zero points or minima; None where the format has none.

    Returns:
        uint8 [blocks, g].
    """
    points = None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if zeros is not None and view.zero_kind == "point":
            points = zeros
        elif zeros is not None:
            x = np.subtract(x, zeros[:, None], dtype=np.float32)
        negative = np.signbit(scales)
        if negative.any():
            x = np.where(negative[:, None], -x, x)
        ranks = _element_ranks(view, grid, x, np.abs(scales), points)
    return np.array(grid.order, np.uint8)[ranks]


def element_values(
    view: View, codes: U8, scales: F32, selects: NDArray[np.unsignedinteger], zeros: F32 | None
) -> F32:
    """The value of every code, each step rounded once to binary32: float32 [blocks, g].

    ``grid * s``, ``(grid - point) * s`` or ``grid * s + minimum``.
    """
    index = (selects.astype(np.uint32)[:, None] << np.uint32(view.format.code_bits)) | codes
    values: F32 = decode_values(view.format)[index]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if zeros is None:
            return values * scales[:, None]
        if view.zero_kind == "point":
            return (values - zeros[:, None]) * scales[:, None]
        return values * scales[:, None] + zeros[:, None]


def _element_ranks(view: View, grid: GridView, x: F32, scales: F32, points: F32 | None) -> U8:
    """How many thresholds each element lies above."""
    safe = np.where(scales == 0, np.float32(1), scales)
    exact = view.format.policies.compare == "exact"
    if not exact:
        x = _quotient(view, x, safe, points)
    ranks = np.zeros(x.shape, np.uint8)
    wide = safe.astype(np.float64)
    shift = np.zeros(1) if points is None else points.astype(np.float64)
    for i, (midpoint, up) in enumerate(zip(grid.midpoints, grid.ties_up, strict=True)):
        if i == grid.zero_split:
            ranks += ~np.signbit(x)
        elif exact:
            ranks += x > round_down_fp32(wide * (float(midpoint) - shift), up)[:, None]
        else:
            ranks += x > np.float32(fp32_from_bits(grid.quotient_bits[i]))
    return ranks


def _quotient(view: View, x: F32, scales: F32, points: F32 | None) -> F32:
    """X in units of the scale as a peer rounds it, and past the zero point."""
    if view.format.policies.compare == "fp32_quotient":
        y = np.divide(x, scales[:, None], dtype=np.float32)
    else:
        y = np.multiply(x, _reciprocal(scales)[:, None], dtype=np.float32)
    if view.adds_after:
        y = np.rint(y)
    return y if points is None else np.add(y, points[:, None], dtype=np.float32)


def _reciprocal(scales: F32) -> F32:
    """1 / scale, correctly rounded; a scale below RECIPROCAL_FLOOR counts as that."""
    return np.divide(1, np.maximum(scales, np.float32(RECIPROCAL_FLOOR)), dtype=np.float32)
