"""Decoded values in a narrower type, each rounded once from binary32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What rows are decoded to, by name, and what NumPy holds it in: bfloat16 as its bits.
NUMBERS: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
}

#: An array of one of these.
Decoded = NDArray[Any]


def narrow(values: NDArray[np.float32], dtype: str) -> Decoded:
    """Round binary32 values to nearest, ties to even; past the largest is infinity.

    A NaN stays a quiet NaN.

    Args:
        values: float32 of any shape.
        dtype: one of ``NUMBERS``.

    Returns:
        ``values`` itself, float16, or uint16 with the bits of bfloat16.

    Raises:
        ValueError: there is no such dtype.
    """
    if dtype not in NUMBERS:
        raise ValueError(f"no numbers '{dtype}' to decode to; there are {', '.join(NUMBERS)}")
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return values.astype(np.float16)
    bits = values.view(np.uint32)
    # Half of the last place that stays, less one where the bit there is 0: a tie goes to even.
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> 16
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
