"""Integer formats against compressed-tensors 0.20 and torchao 0.18: codes, scales, zero points.

compressed-tensors divides, ``fp32(x / scale)``, adds the zero point and rounds; where a scale
would be 0 it stores 2^-23. torchao multiplies by ``fp32(1 / scale)``, rounds, and only then adds
the zero point; its scales are at least the ``eps`` that it is given. Both take absmax / 7.5 as the
symmetric INT4 scale, so that the largest positive number saturates at 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from compatibility import (
    Outcome,
    comparison,
    differing_floats,
    differing_rows,
    peer_module,
    run_comparisons,
)
from fmtc import Format, load
from fmtc.compiler.packing import unpack
from numpy.typing import NDArray
from peer_blocks import blocks_for, read, stored, zero_blocks

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]


@dataclass(frozen=True)
class Stored:
    """What a peer or fmtc stores of blocks that are rows: [rows, n] codes, [rows, 1] the rest."""

    codes: I8
    scales: F32
    zeros: I8

    def differing(self, other: Stored) -> int:
        """In how many rows a code, a bit of the scale or a zero point differs."""
        unequal = (self.codes != other.codes).any(axis=1)
        unequal |= (self.scales.view(np.uint32) != other.scales.view(np.uint32)).any(axis=1)
        return int((unequal | (self.zeros != other.zeros).any(axis=1)).sum())
