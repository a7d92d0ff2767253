"""What a group works on, and what a peer is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .measure import Contender, Rows

F32 = NDArray[np.float32]

#: What a slow peer is given of the rows; less memory than we are given, which favours it.
FEW = 16


@dataclass(frozen=True, slots=True)
class Work:
    """A task on a matrix.

    Attributes:
        format: the name of fmtc's format.
        x: the numbers, float32 [rows, columns].
        rows: runs work on ranges of rows, and knows the number of threads.
        dtype: what decoding gives: ``float32`` or ``bfloat16``.
    """

    format: str
    x: F32
    rows: Rows
    dtype: str = "float32"

    @property
    def few(self) -> F32:
        """The rows that a slow peer is given."""
        return self.x[: max(1, len(self.x) // FEW)]

    @property
    def vector(self) -> F32:
        """What the matrix is multiplied with: float32 [columns]."""
        row: F32 = self.x[0].copy()
        return row


class Peer:
    """Another library. What it cannot do yields nothing; what this machine lacks raises."""

    #: How it is called.
    name = ""
    #: Whether it uses more than one thread.
    threaded = False

    def decode(self, _work: Work, /) -> Iterator[Contender]:
        """Contenders that decode numbers stored like, or nearly like, those of the format."""
        return iter(())

    def encode(self, _work: Work, /) -> Iterator[Contender]:
        """Contenders that encode to such a format."""
        return iter(())

    def multiply(self, _work: Work, /) -> Iterator[Contender]:
        """Contenders that multiply a matrix, in that format or not, with a vector."""
        return iter(())

    def multiply_integers(self, _work: Work, /) -> Iterator[Contender]:
        """Contenders that round the vector to integers first."""
        return iter(())
