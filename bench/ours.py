"""fmtc's own contenders: generated C, and the NumPy reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.runtime.backend import EngineBackend, ReferenceBackend
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.product import PackedRows
from numpy.typing import NDArray

from .measure import OURS, Contender
from .roofs import aligned
from .work import F32, Work

U8 = NDArray[np.uint8]

REFERENCE = f"{OURS} reference (NumPy)"
UNPACKED = f"{OURS} decode, then torch.mv fp32"
HIF8 = f"{OURS}, HIF8 activations"
#: How a decoded element is stored: bfloat16 as its bits.
STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
}


class Packed:
    """A matrix in a format, and the back end that works on it."""

    def __init__(self, fmt: Format, x: F32, threads: int) -> None:
        self.format = fmt
        self.threads = threads
        self.x = x
        self.level: TensorLevel = calibrate(fmt, x)
        self.kernels = CBackend(kernel_format(fmt), threads=threads)
        self.backend = EngineBackend(fmt, self.kernels, "c")

    def encode(self) -> dict[str, U8]:
        """Pack the matrix."""
        return self.backend.encode(self.x, self.level)

    def nbytes(self, streams: dict[str, U8]) -> int:
        """Bytes that a decoder reads."""
        return sum(octets.nbytes for octets in streams.values())


def encoders(packed: Packed) -> Iterator[Contender]:
    """Our C, from the numbers to all streams."""
    yield Contender(OURS, packed.x.size, packed.encode)


def decoders(packed: Packed, streams: dict[str, U8], work: Work, out: U8) -> Iterator[Contender]:
    """Our C; a kernel that does all of a format's work writes to the given output."""
    length, level, size = packed.x.shape[1], packed.level, packed.x.size
    if packed.format.is_plain:
        target = out.view(STORED[work.dtype]).reshape(packed.x.shape)
        yield Contender(
            OURS,
            size,
            lambda: packed.kernels.decode(streams, length, level, dtype=work.dtype, out=target),
        )
    else:
        yield Contender(
            OURS, size, lambda: packed.backend.decode(streams, length, level, dtype=work.dtype)
        )


def reference(fmt: Format, work: Work, task: str) -> Iterator[Contender]:
    """The NumPy reference, on some of the rows."""
    few, level = work.few, calibrate(fmt, work.few)
    backend = ReferenceBackend(fmt)
    if task == "encode":
        yield Contender(REFERENCE, few.size, lambda: backend.encode(few, level))
    else:
        streams, length = backend.encode(few, level), few.shape[1]
        yield Contender(REFERENCE, few.size, lambda: backend.decode(streams, length, level))


def multipliers(
    packed: Packed, streams: dict[str, U8], vector: F32, activations: str
) -> Iterator[Contender]:
    """Our product with one row of activations, which are rounded first unless ``float32``."""
    one, length = vector.reshape(1, -1), packed.x.shape[1]
    rows = PackedRows(packed.format, streams, length, packed.level, packed.kernels, packed.threads)
    name = HIF8 if activations == "hif8" else OURS
    yield Contender(name, packed.x.size, lambda: rows.product(one, activations))


def decode_then_multiply(packed: Packed, streams: dict[str, U8], work: Work) -> Iterator[Contender]:
    """What a product costs without a kernel of its own."""
    import torch

    out = aligned(4 * packed.x.size)
    matrix = torch.from_numpy(out.view(np.float32).reshape(packed.x.shape))
    vector = torch.from_numpy(work.vector)
    (decode,) = decoders(packed, streams, work, out)

    def run() -> None:
        decode.run()
        torch.mv(matrix, vector)

    yield Contender(UNPACKED, packed.x.size, run)
