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
    """All sums of one matrix.

    Args:
        w: float32 [rows, n].
        decoded: float32 [rows, n].
        norms: float32 [n], not negative; None: all 1.
        block: elements of a block; the last of a row may be shorter.
    """
    lost = np.square(w - decoded, dtype=np.float64).sum(axis=0)
    energy = np.square(w, dtype=np.float64).sum(axis=0)
    power = np.ones(w.shape[1]) if norms is None else np.square(norms, dtype=np.float64)
    cosines = block_cosines(w, decoded, norms, block)
    return Errors(
        w.size,
        float(lost.sum()),
        float(energy.sum()),
        float(lost @ power),
        float(energy @ power),
        cosines.size,
        float(cosines.sum()),
    )


def block_cosines(w: F32, decoded: F32, norms: F32 | None, block: int) -> F64:
    """The cosine of every block, float64 [rows, blocks of a row]; see the module's text."""
    c = np.ones(w.shape[1]) if norms is None else norms.astype(np.float64)
    starts = np.arange(0, w.shape[1], block)
    both = np.add.reduceat(c * w * decoded, starts, axis=1)
    one = np.add.reduceat(c * np.square(w, dtype=np.float64), starts, axis=1)
    two = np.add.reduceat(c * np.square(decoded, dtype=np.float64), starts, axis=1)
    size = np.sqrt(one * two)
    cosines: F64 = np.divide(both, size, out=np.zeros_like(size), where=size > 0)
    cosines[(one == 0) & (two == 0)] = 1.0
    return cosines
