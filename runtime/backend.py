"""What a back end is: something that encodes and decodes rows with the reference's bits."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..compiler.format import Format
from ..compiler.reference import TensorLevel, decode, encode

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class BackendUnavailable(RuntimeError):
    """This machine lacks what a back end needs; the message says what, and how to get it."""


class Backend(Protocol):
    """Encodes and decodes rows of one format, bit for bit like the reference."""

    name: str

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """Stream name -> uint8 [rows, bytes], from C-contiguous float32 [rows, n].

        The caller has dealt with NaN and infinity: what arrives is finite, or NaN where the
        format propagates it.
        """
        ...

    def decode(self, streams: dict[str, U8], length: int, level: TensorLevel) -> F32:
        """float32 [rows, length] from the streams that ``encode`` makes."""
        ...


class ReferenceBackend:
    """The NumPy reference as a back end: always there, and always right."""

    name = "reference"

    def __init__(self, fmt: Format) -> None:
        self._format = fmt

    def encode(self, x: F32, level: TensorLevel) -> dict[str, U8]:
        """See ``Backend.encode``."""
        return encode(self._format, x, level)

    def decode(self, streams: dict[str, U8], length: int, level: TensorLevel) -> F32:
        """See ``Backend.decode``."""
        return decode(self._format, streams, length, level)
