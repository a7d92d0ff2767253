"""What a back end is: something that encodes and decodes rows with the reference's bits."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..compiler.blockwork import BlockWork
from ..compiler.engine import Engine, ReferenceEngine
from ..compiler.format import Format
from ..compiler.kernel import kernel_format
from ..compiler.narrow import Decoded
from ..compiler.pipeline import decode, encode
from ..compiler.reference import TensorLevel

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class BackendUnavailable(RuntimeError):
    """This machine lacks what a back end needs; the message says what, and how to get it."""


class Backend(Protocol):
    """Encodes and decodes rows of one format, bit for bit like the reference."""

    name: str
    #: Looks for the peaks of blocks, where a tensor's second level asks for them.
    blocks: BlockWork

    def encode(self, x: F32, level: TensorLevel, weights: F32 | None = None) -> dict[str, U8]:
        """Stream name -> uint8 [stream rows, bytes], from C-contiguous float32 [rows, n].

        The caller has dealt with NaN and infinity: what arrives is finite, or NaN where the
        format propagates it. ``weights`` are those of ``compiler.pipeline.encode``.
        """
        ...

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, dtype: str = "float32"
    ) -> Decoded:
        """[rows, length] from the streams that ``encode`` makes.

        Each value is rounded once to binary32, and then to ``dtype``: ``float32``, ``float16``
        or ``bfloat16``, whose bits come as uint16.
        """
        ...


class EngineBackend:
    """Any format, its elements done by an engine built for ``kernel_format(fmt)``."""

    def __init__(self, fmt: Format, engine: Engine, name: str) -> None:
        self.name = name
        self.engine = engine
        self.blocks = engine.blocks
        self._format = fmt

    def encode(self, x: F32, level: TensorLevel, weights: F32 | None = None) -> dict[str, U8]:
        """See ``Backend.encode``."""
        return encode(self._format, x, level, self.engine, weights)

    def decode(
        self, streams: dict[str, U8], length: int, level: TensorLevel, dtype: str = "float32"
    ) -> Decoded:
        """See ``Backend.decode``."""
        return decode(self._format, streams, length, level, self.engine, dtype)


class ReferenceBackend(EngineBackend):
    """The NumPy reference as a back end: always there, and always right."""

    name = "reference"

    def __init__(self, fmt: Format) -> None:
        super().__init__(fmt, ReferenceEngine(kernel_format(fmt)), self.name)
