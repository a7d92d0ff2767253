"""What the generated C is called with: addresses, and the strides of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from .backend import F32, U8

#: Scales, selects and zeros, one entry for each block.
Blocks = tuple[F32, U8 | None, F32 | None]


def address(array: NDArray[Any], row: int = 0) -> int:
    """The address of a row of a C-contiguous array."""
    return int(array.ctypes.data) + row * array.strides[0]


def given_arguments(given: Blocks, top: int) -> list[int | None]:
    """Pointers to a row of scales, selects and zeros, NULL where there are none; the stride."""
    pointers = [None if array is None else address(array, top) for array in given]
    return [*pointers, given[0].shape[1]]


def stream_arguments(streams: Mapping[str, U8], top: int) -> list[int | None]:
    """Pointer and row stride of codes, scales and select; NULL and 0 where there is none."""
    arguments: list[int | None] = []
    for name in ("codes", "scales", "select"):
        octets = streams.get(name)
        arguments += (None, 0) if octets is None else (address(octets, top), octets.shape[1])
    return arguments
