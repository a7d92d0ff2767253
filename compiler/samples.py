"""Samples of real weights that grids are learned from, and their name in a recipe."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

#: Hexadecimal digits of SHA-256 by which a recipe names its samples.
DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Samples:
    """Blocks of weights as they are, with what their input channels weigh.

    Attributes:
        x: float32 [blocks, g], raw weights.
        c: float32 [blocks, g], channel norms c_j = sqrt(E[x_j^2]) of the same elements; 1 where
            there are none.
    """

    x: F32
    c: F32

    @property
    def digest(self) -> str:
        """The first digits of the SHA-256 of the shape, the weights and the norms, as float32."""
        told = hashlib.sha256(repr(self.x.shape).encode())
        for values in (self.x, self.c):
            told.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
        return told.hexdigest()[:DIGEST_DIGITS]
