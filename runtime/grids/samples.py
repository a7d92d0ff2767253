"""Samples of a model's weights: whole blocks, the same ones every time, never more than asked for.

Blocks are counted through all matrices, row by row; the count is cut into as many equal stretches
as blocks are wanted, and from every stretch one is taken. Its place in the stretch follows the
golden ratio, so that no stretch falls in step with the rows of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.samples import Samples
from ..errors import RefusedInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    Places = NDArray[np.int64]

__all__ = ["Matrix", "Samples", "chosen_places", "sample_blocks", "sample_matrices"]

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that is loaded when it is its turn.

    Attributes:
        name: of its weights, for messages.
        shape: [rows, n].
        load: gives float32 [rows, n].
        norms: gives float32 [n], or None: all 1.
    """

    name: str
    shape: tuple[int, int]
    load: Callable[[], F32]
    norms: Callable[[], F32 | None]


def chosen_places(total: int, limit: int) -> Places:
    """Which of ``total`` blocks are taken, int64, ascending: all of them, or ``limit``."""
    if total <= limit:
        return np.arange(total, dtype=np.int64)
    stretch = np.arange(limit, dtype=np.int64)
    low, high = stretch * total // limit, (stretch + 1) * total // limit
    inside = np.modf(stretch * _GOLDEN)[0] * (high - low)
    places: Places = low + np.minimum(inside.astype(np.int64), high - low - 1)
    return places


def sample_blocks(weights: Sequence[F32], norms: F32 | None, block: int, limit: int) -> Samples:
    """Blocks of matrices that read the same input.

    Args:
        weights: float32 [rows, n] each, of one n.
        norms: float32 [n], or None: all 1.
        block: elements of a block; what is left at the end of a row is in no block.
        limit: most blocks to take; those of zeros only are left out after that.

    Raises:
        RefusedInput: a weight or a norm is not finite, or no block has a weight but zero.
    """

    def entry(at: int, w: F32) -> Matrix:
        shape = (w.shape[0], w.shape[1])
        return Matrix(f"matrix {at}", shape, lambda: w, lambda: norms)

    return sample_matrices([entry(at, w) for at, w in enumerate(weights)], block, limit)


def sample_matrices(
    matrices: Sequence[Matrix],
    block: int,
    limit: int,
    step: Callable[[str], None] | None = None,
) -> Samples:
    """Blocks of many matrices, of which one is in memory at a time; see ``sample_blocks``.

    Args:
        matrices: in the order in which their blocks are counted.
        block: elements of a block.
        limit: most blocks to take.
        step: is told the name of every matrix before it is read.

    Raises:
        RefusedInput: a weight or a norm is not finite (the message names the matrix), or no block
            has a weight but zero.
    """
    counts = [rows * (n // block) for rows, n in (matrix.shape for matrix in matrices)]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = chosen_places(int(starts[-1]), limit)
    cuts = np.searchsorted(places, starts)
    taken: list[tuple[F32, F32]] = []
    for at, matrix in enumerate(matrices):
        if step is not None:
            step(matrix.name)
        mine = places[cuts[at] : cuts[at + 1]] - starts[at]
        if len(mine):
            taken.append(_taken(matrix, mine, block))
    return _without_zeros(taken, block)


def _taken(matrix: Matrix, places: Places, block: int) -> tuple[F32, F32]:
    """The weights and the norms of these blocks, float32 [places, block] each."""
    across = matrix.shape[1] // block
    w = matrix.load()[:, : across * block].reshape(-1, across, block)
    x = np.ascontiguousarray(w[places // across, places % across], dtype=np.float32)
    norms = matrix.norms()
    c = np.ones_like(x)
    if norms is not None:
        if norms.shape != (matrix.shape[1],):
            raise RefusedInput(
                f"{matrix.name}: {norms.size} channel norms for {matrix.shape[1]} input channels"
            )
        c = norms[: across * block].reshape(across, block)[places % across].astype(np.float32)
    for values, what in ((x, "weight"), (c, "channel norm")):
        if not np.isfinite(values).all():
            raise RefusedInput(f"{matrix.name}: a {what} is not a finite number")
    return x, c


def _without_zeros(taken: Iterable[tuple[F32, F32]], block: int) -> Samples:
    pairs = list(taken)
    none = np.empty((0, block), dtype=np.float32)
    x = np.concatenate([none, *(x for x, _ in pairs)])
    c = np.concatenate([none, *(c for _, c in pairs)])
    kept = x.any(axis=1)
    if not kept.any():
        raise RefusedInput(f"no whole block of {block} has a weight that is not zero")
    return Samples(x[kept], c[kept])
