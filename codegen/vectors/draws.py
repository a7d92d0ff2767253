"""Random draws that are the same on every machine and with every library version.

Only ``random.Random.getrandbits`` and integer arithmetic are used: NumPy's and libm's
results may change between releases, generated files may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

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

    def gaussian(self) -> float:
        """About normal: the sum of twelve uniform numbers, exact in binary64."""
        total = sum(self._random.getrandbits(16) for _ in range(12))
        return (total - 6 * 65535) / 65536

    def float32(self) -> float:
        """A finite binary32 number with uniform bits."""
        exponent = self.below(255)
        return fp32_from_bits(self.below(2) << 31 | exponent << 23 | self.below(1 << 23))
