"""Samples that grids are fitted to: blocks over their largest, and sums over the cells of levels.

Blocks of samples are divided by their largest magnitude (``absmax``) or by their largest element
with its sign (``argmax``), and weigh the square of what they were divided by: sums of squares are
those of the blocks themselves. Everything is float64 NumPy with a stated seed; sums may differ in
the last bits between machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    F64 = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]
    Codes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Normalised samples.

    Attributes:
        y: float64 [blocks, elements], the elements of a block over its largest: -1 to 1.
        weight: float64 [blocks], the squared largest.
        inner: float64 [blocks, elements], what the elements weigh beside that; None: all 1.
    """

    y: F64
    weight: F64
    inner: F64 | None = None

    @property
    def scale_of_error(self) -> float:
        """What turns a weighted sum of squares of ``y`` into a mean squared error of samples."""
        return 1.0 / (self.y.size if self.inner is None else float(self.inner.sum()))

    def weights(self, chosen: Mask | None = None) -> F64:
        """What every element weighs, [blocks, elements]; of all blocks or the chosen ones."""
        weight = self.weight if chosen is None else self.weight[chosen]
        if self.inner is None:
            return np.broadcast_to(weight[:, None], (len(weight), self.y.shape[1]))
        inner = self.inner if chosen is None else self.inner[chosen]
        return weight[:, None] * inner

    def errors(self, levels: F64) -> F64:
        """Every block's squared error under these levels, of elements over its largest."""
        return errors(self.y, levels, self.inner)[1]

    def mean(self, lost: F64) -> float:
        """The mean squared error of the samples, of every block's squared error ([blocks])."""
        return float((self.weight * lost).sum()) * self.scale_of_error


def draw(source: str, freedom: float, shape: tuple[int, int], seed: int) -> F64:
    """Samples, float64 [blocks, elements]: N(0, 1), or for ``student`` Student's t."""
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn: F64 = (
        generator.standard_t(freedom, shape)
        if source == "student"
        else generator.standard_normal(shape)
    )
    return drawn


def normalised(x: F64, rule: str, inner: F64 | None = None) -> Blocks:
    """Blocks over their largest magnitude, or over their largest element (the first of several).

    Args:
        x: float64 [blocks, elements], no block all zero.
        rule: ``absmax`` or ``argmax``.
        inner: float64 [blocks, elements], what the elements weigh, not negative; None: all 1.
    """
    largest = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
    divisor = np.abs(largest) if rule == "absmax" else largest
    return Blocks(x / divisor[:, None], largest * largest, inner)


def errors(y: F64, levels: F64, inner: F64 | None = None) -> tuple[Codes, F64]:
    """The nearest level of every element (the lower on a tie), and every block's squared error.

    Args:
        y: float64 [blocks, elements].
        levels: float64 [n], ascending.
        inner: float64 [blocks, elements], what the elements weigh; None: all 1.

    Returns:
        (indices [blocks, elements], errors float64 [blocks]).
    """
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, y.ravel()).reshape(y.shape)
    lost = levels[codes] - y
    summed: F64 = np.einsum("ij,ij->i", lost, lost if inner is None else lost * inner)
    return codes, summed


def errors_under_own_ends(blocks: Blocks, levels: F64, rule: str) -> F64:
    """Every block's squared error where the grid's ends, not 1, meet the block's, [blocks]."""
    if rule == "argmax":
        largest = levels[0] if -levels[0] > levels[-1] else levels[-1]
        scale = np.full(len(blocks.y), 1.0 / largest)
    else:
        up, down = blocks.y.max(axis=1) / levels[-1], blocks.y.min(axis=1) / levels[0]
        scale = np.maximum(np.maximum(up, down), 0)
    lost: F64 = errors(blocks.y / scale[:, None], levels, blocks.inner)[1] * scale * scale
    return lost


@dataclass(frozen=True, slots=True)
class Cells:
    """Weighted samples of one axis, sorted, with running sums: cells are summed at once."""

    y: F64
    mass: F64
    moment: F64
    square: F64

    @classmethod
    def of(cls, y: F64, weight: F64) -> Cells:
        """From samples and weights of the same shape."""
        order = np.argsort(y, axis=None, kind="stable")
        flat, heavy = y.ravel()[order], weight.ravel()[order]
        sums = [np.concatenate([[0.0], np.cumsum(heavy * flat**power)]) for power in range(3)]
        return cls(flat, *sums)

    @classmethod
    def of_blocks(cls, blocks: Blocks, chosen: Mask | None = None) -> Cells:
        """From all blocks, or the chosen ones ([blocks])."""
        return cls.of(blocks.y if chosen is None else blocks.y[chosen], blocks.weights(chosen))

    def _between(self, levels: F64, sums: F64) -> F64:
        inner = np.searchsorted(self.y, (levels[1:] + levels[:-1]) / 2, side="right")
        found: F64 = np.diff(sums[np.concatenate([[0], inner, [len(self.y)]])])
        return found

    def centroids(self, levels: F64) -> F64:
        """The centre of every cell; a level without samples stays where it is."""
        mass, moment = self._between(levels, self.mass), self._between(levels, self.moment)
        return np.where(mass > 0, moment / np.where(mass > 0, mass, 1), levels)

    def error(self, levels: F64) -> float:
        """The weighted sum of squared distances to the nearest level."""
        mass, moment = self._between(levels, self.mass), self._between(levels, self.moment)
        return float(self.square[-1] + (levels * (levels * mass - 2 * moment)).sum())
