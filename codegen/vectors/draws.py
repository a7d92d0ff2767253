"""Random draws that are the same on every machine and with every library version.

Only ``random.Random.getrandbits`` and integer arithmetic are used: NumPy's draws and libm's
results may change between releases, generated files may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...compiler.exact import fp32_from_bits

#: The seed of every vector file.
SEED = 20260604

_T = TypeVar("_T")


class Draws:
    """A stream of reproducible draws."""

    def __init__(self, salt: int = 0) -> None:
        self._random = Random(SEED + salt)  # noqa: S311 - test vectors, not secrets

    def below(self, count: int) -> int:
        """A uniform integer in 0..count-1."""
        width = (count - 1).bit_length()
        while True:
            value = self._random.getrandbits(width) if width else 0
            if value < count:
                return value

    def of(self, choices: Sequence[_T]) -> _T:
        """One of several."""
        return choices[self.below(len(choices))]

    def gaussian(self, rows: int, length: int) -> NDArray[np.float32]:
        """About normal, float32 [rows, length]: sums of twelve uniform numbers, exact.

        A draw of 16 bits is the upper half of a word of 32, and one of many bits is many words.
        """
        words = 12 * rows * length
        octets = self._random.getrandbits(32 * words).to_bytes(4 * words, "little")
        uniform = np.frombuffer(octets, "<u4").reshape(rows, length, 12) >> 16
        total = uniform.sum(axis=2, dtype=np.int64) - 6 * 65535
        return np.asarray(total / 65536, np.float32)

    def float32(self) -> float:
        """A finite binary32 number with uniform bits."""
        exponent = self.below(255)
        return fp32_from_bits(self.below(2) << 31 | exponent << 23 | self.below(1 << 23))
