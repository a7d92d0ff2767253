"""Block work in loops that numba compiles; what is little work stays NumPy's."""

from __future__ import annotations

import numpy as np

from ..compiler.blockwork import F32, F64, NumpyBlockWork, PiecePeaks
from .loops import blocks
from .numba_tables import fixed
from .threads import over_rows


class NumbaBlockWork(NumpyBlockWork):
    """Does what ``NumpyBlockWork`` does, with the same bits.

    Args:
        threads: at most so many.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def peaks(self, x: F32, unit: int) -> PiecePeaks:
        """See ``BlockWork.peaks``."""
        source, shape = fixed(x), _pieces(x, unit)
        low, high = np.empty(shape, np.float32), np.empty(shape, np.float32)
        negative, broken = np.empty(shape, np.bool_), np.empty(shape, np.bool_)

        def work(top: int, end: int) -> None:
            rows = slice(top, end)
            blocks.peaks(source[rows], unit, low[rows], high[rows], negative[rows], broken[rows])

        over_rows(work, len(x), x.shape[1], self._threads)
        return PiecePeaks(low, high, negative, broken)

    def absmax(self, x: F32, unit: int) -> F32:
        """See ``BlockWork.absmax``."""
        source, found = fixed(x), np.empty(_pieces(x, unit), np.float32)

        def work(top: int, end: int) -> None:
            blocks.absmax(source[top:end], unit, found[top:end])

        over_rows(work, len(x), x.shape[1], self._threads)
        return found

    def errors(self, x: F32, decoded: F32 | None, weights: F32 | None, unit: int) -> F64:
        """See ``BlockWork.errors``."""
        found = np.empty(_pieces(x, unit), np.float64)
        one = fixed(x)
        two = fixed(np.zeros((len(x), 0), np.float32) if decoded is None else decoded)
        counted = fixed(np.zeros(0, np.float32) if weights is None else weights.astype(np.float32))

        def work(top: int, end: int) -> None:
            blocks.errors(one[top:end], two[top:end], counted, unit, found[top:end])

        over_rows(work, len(x), x.shape[1], self._threads)
        return found


def _pieces(x: F32, unit: int) -> tuple[int, int]:
    rows, length = x.shape
    return rows, -(-length // unit)
