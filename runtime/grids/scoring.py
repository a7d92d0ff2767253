"""Sampled blocks as formats really store them, and what each loses by a metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.arrange import Arrangement, Peaks, peaks_of
from ...compiler.blockscale import Chosen, choose
from ...compiler.elements import element_codes, element_values
from ...compiler.general import cosine_gaps
from ...compiler.reference import calibrate
from ...compiler.view import Trial, view_of
from .samples import sample_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...compiler.format import Format

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Losses:
    """What every block loses.

    Attributes:
        counted: float64 [blocks], by the metric that grids are chosen by; they add up to the
            objective: the gap of ACos to 1, or the (weighted) squared error over the energy.
        ranked: float64 [blocks], by the metric that blocks are ranked by; of a squared error,
            over the block's own energy.
    """

    counted: F64
    ranked: F64

    @property
    def total(self) -> float:
        """The objective where every block is encoded so."""
        return float(self.counted.sum())

    def beside(self, other: Losses) -> Losses:
        """Every block by the better of two; the first on a tie."""
        better = other.counted < self.counted
        return Losses(
            np.where(better, other.counted, self.counted),
            np.where(better, other.ranked, self.ranked),
        )


class Scorer:
    """Blocks of the matrices of a unit; each matrix has a second level of its own.

    Args:
        weights: float32 [rows, n] each.
        norms: float32 [n], or None: all 1.
        block: elements of a block.
        limit: most blocks to look at, shared out by size.
        counted, ranked: metrics, see ``Losses``.

    Raises:
        RefusedInput: a weight or a norm is not finite, or a matrix has no weight but zero.
    """

    def __init__(
        self,
        weights: Sequence[F32],
        norms: F32 | None,
        *,
        block: int,
        limit: int,
        counted: str,
        ranked: str,
    ) -> None:
        live = [w for w in weights if w.any()] or list(weights)
        total = max(1, sum(w.size for w in live))
        taken = [sample_blocks([w], norms, block, max(1, limit * w.size // total)) for w in live]
        self.parts = [np.ascontiguousarray(samples.x) for samples in taken]
        self.x = np.concatenate(self.parts)
        self.c = np.concatenate([samples.c for samples in taken]).astype(np.float64)
        self._wide = self.x.astype(np.float64)
        self._metrics = counted, ranked
        self._peaks: list[Peaks] = []
        self._energy = {metric: self._squares(self._wide, metric) for metric in {counted, ranked}}

    def trials(self, fmt: Format) -> Iterator[tuple[Trial, list[Chosen]]]:
        """Every trial of a format, with the scales that it gives the blocks of each matrix.

        Args:
            fmt: plain, or one that tries both signs or neighbouring scales as well.
        """
        view = view_of(fmt)
        if not self._peaks:
            self._peaks = [peaks_of(Arrangement.of(fmt, *x.shape), x) for x in self.parts]
        levels = [calibrate(fmt, x).multiplier for x in self.parts]
        for trial in view.trials:
            parts = zip(self._peaks, levels, strict=True)
            yield trial, [choose(view, trial, peaks, level) for peaks, level in parts]

    def scales(self, fmt: Format) -> list[F32]:
        """The effective scales of all blocks, float32 [blocks], under every trial of a format."""
        return [
            np.concatenate([part.scales[:, 0] for part in chosen]) for _, chosen in self.trials(fmt)
        ]

    def decoded(self, fmt: Format) -> Iterator[tuple[F32, Mask]]:
        """What every trial of a format makes of all blocks, as the reference encodes them.

        Yields:
            Values, float32 [blocks, g], and which blocks have this trial, bool [blocks].
        """
        view = view_of(fmt)
        for trial, chosen in self.trials(fmt):
            values = []
            for x, part in zip(self.parts, chosen, strict=True):
                scale = part.scales[:, 0]
                codes = element_codes(view, view.grids[trial.grid], x, scale, None)
                grids = np.full(len(x), trial.grid, np.uint8)
                values.append(element_values(view, codes, scale, grids, None))
            yield np.concatenate(values), np.concatenate([part.valid[:, 0] for part in chosen])

    def best(self, fmt: Format) -> Losses:
        """What every block loses under the best of the format's trials."""
        nothing = np.full(len(self.x), np.inf)
        found = Losses(nothing, nothing)
        for values, valid in self.decoded(fmt):
            one = self.losses(values)
            counted, ranked = (np.where(valid, lost, np.inf) for lost in (one.counted, one.ranked))
            found = found.beside(Losses(counted, ranked))
        return found

    def losses(self, decoded: F32) -> Losses:
        """What every block loses, decoded to float32 [blocks, g]."""
        counted, ranked = self._metrics
        apart, wide = self._wide - decoded, decoded.astype(np.float64)
        found = {
            metric: self._lost(metric, apart, wide) for metric in dict.fromkeys((counted, ranked))
        }
        blocks = len(self.x)
        whole = blocks if counted == "acos" else float(self._energy[counted].sum())
        own = 1.0 if ranked == "acos" else self._energy[ranked]
        ranks = np.divide(found[ranked], own, out=np.zeros(blocks), where=np.asarray(own) > 0)
        return Losses(found[counted] / (whole or 1.0), ranks)

    def _lost(self, metric: str, apart: F64, decoded: F64) -> F64:
        squares = self._squares(apart, metric)
        if metric != "acos":
            return squares
        return cosine_gaps(squares, self._energy["acos"], self._squares(decoded, "acos"))

    def _squares(self, x: F64, metric: str) -> F64:
        """Sums of squares of every block as a metric weighs them."""
        squares = x * x
        if metric == "acos":
            squares *= self.c
        elif metric == "wmse":
            squares *= self.c
            squares *= self.c
        total: F64 = squares.sum(axis=1)
        return total
