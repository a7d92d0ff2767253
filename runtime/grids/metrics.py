"""How far decoded weights lie from what they stand for: MSE, weighted MSE and ACos.

ACos is SOP's metric (arXiv:2605.14929): the mean over blocks of the cosine between a block and
its decoded values, in the inner product <a, b>_c = sum_i c_i a_i b_i of the channel norms
c_j = sqrt(E[x_j^2]). A block where both are zero counts 1, one where only one of them is, 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Elements that are worked on at once: they stay in a cache.
STRIP = 1 << 16

#: What a search or an allocation may be decided by.
METRICS = ("acos", "mse", "wmse")


@dataclass(frozen=True, slots=True)
class Errors:
    """Sums over matrices; they add up.

    Attributes:
        elements: how many weights.
        squared: sum of squared errors.
        energy: sum of squared weights.
        weighted: sum of squared errors times c^2: the expected squared error of outputs whose
            inputs have these norms and are not correlated.
        weighted_energy: sum of squared weights times c^2.
        blocks: how many blocks.
        cosines: sum of their cosines.
    """

    elements: int = 0
    squared: float = 0.0
    energy: float = 0.0
    weighted: float = 0.0
    weighted_energy: float = 0.0
    blocks: int = 0
    cosines: float = 0.0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.elements + other.elements,
            self.squared + other.squared,
            self.energy + other.energy,
            self.weighted + other.weighted,
            self.weighted_energy + other.weighted_energy,
            self.blocks + other.blocks,
            self.cosines + other.cosines,
        )

    @property
    def mse(self) -> float:
        """Mean squared error of a weight."""
        return self.squared / self.elements if self.elements else 0.0

    @property
    def nmse(self) -> float:
        """Squared error over energy."""
        return self.squared / self.energy if self.energy else 0.0

    @property
    def wmse(self) -> float:
        """Weighted squared error over weighted energy."""
        return self.weighted / self.weighted_energy if self.weighted_energy else 0.0

    @property
    def acos(self) -> float:
        """Mean cosine of a block; 1 for none."""
        return self.cosines / self.blocks if self.blocks else 1.0

    def loss(self, metric: str) -> float:
        """What an allocation sums up, the less the better.

        ``acos``: elements times the gap of ACos to 1; ``mse``: squared error; ``wmse``: weighted
        squared error.

        Raises:
            KeyError: there is no such metric.
        """
        return {
            "acos": self.elements * (1.0 - self.acos),
            "mse": self.squared,
            "wmse": self.weighted,
        }[metric]


def errors_of(w: F32, decoded: F32, norms: F32 | None, block: int) -> Errors:
    """All sums of one matrix, strip by strip: the temporaries are small, whatever the matrix.

    Args:
        w: float32 [rows, n].
        decoded: float32 [rows, n].
        norms: float32 [n], not negative; None: all 1.
        block: elements of a block; the last of a row may be shorter.
    """
    length = w.shape[1]
    c = np.ones(length) if norms is None else norms.astype(np.float64)
    lost, energy = np.zeros(length), np.zeros(length)
    total, blocks = 0.0, 0
    height = max(1, STRIP // max(1, length))
    for top in range(0, len(w), height):
        one, two = (x[top : top + height].astype(np.float64) for x in (w, decoded))
        lost += np.einsum("ij,ij->j", one - two, one - two)
        energy += np.einsum("ij,ij->j", one, one)
        cosines = _cosines(one, two, c, block)
        total, blocks = total + float(cosines.sum()), blocks + cosines.size
    # np.sum, not a product of vectors, whose order of sums depends on threads.
    power = np.square(c)
    weighted, weighted_energy = float(np.sum(lost * power)), float(np.sum(energy * power))
    return Errors(
        w.size, float(lost.sum()), float(energy.sum()), weighted, weighted_energy, blocks, total
    )


def block_cosines(w: F32, decoded: F32, norms: F32 | None, block: int) -> F64:
    """The cosine of every block, float64 [rows, blocks of a row]; see the module's text."""
    c = np.ones(w.shape[1]) if norms is None else norms.astype(np.float64)
    return _cosines(w.astype(np.float64), decoded.astype(np.float64), c, block)


def _cosines(one: F64, two: F64, c: F64, block: int) -> F64:
    """Of whole blocks, and of the shorter last one of every row."""
    rows, length = one.shape
    whole = length - length % block
    runs = ((0, whole, block), (whole, length, length - whole))
    parts = [
        _aligned(*(x[:, a:b].reshape(rows, -1, size) for x in (one, two, one * c, two * c)))
        for a, b, size in runs
        if a < b
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 0))


def _aligned(one: F64, two: F64, counted: F64, other: F64) -> F64:
    """Cosines of [rows, blocks, g]; ``counted`` and ``other`` are the two times c."""
    both, first, second = (
        np.einsum("ijk,ijk->ij", a, b) for a, b in ((counted, two), (counted, one), (other, two))
    )
    size = np.sqrt(first * second)
    cosines: F64 = np.divide(both, size, out=np.zeros_like(size), where=size > 0)
    cosines[(first == 0) & (second == 0)] = 1.0
    return cosines
