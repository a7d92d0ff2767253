"""Memory that kernels write to."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

#: Bytes of a cache line, and of the widest vector register: streaming stores want it.
ALIGNMENT = 64

T = TypeVar("T", bound=np.generic)


def aligned_empty(shape: tuple[int, ...], dtype: type[T]) -> NDArray[T]:
    """An array that begins on a cache line; its elements are not set.

    NumPy asks for huge pages by itself where the array is large (4 MiB), so that the first
    write to it does not stop at every 4 KiB.

    Args:
        shape: of the array, C-contiguous.
        dtype: of its elements.
    """
    room = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, room, -room.ctypes.data % ALIGNMENT)
