"""What must be known of a tensor's elements before they are encoded, in one pass.

The C of ``scan.c`` does it at the speed of memory; where there is no compiler, NumPy does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ...compiler.exact import fp32_from_bits
from ..backend import BackendUnavailable
from ..memory import aligned_empty
from . import function

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]

#: Narrow element types that are widened, by their NumPy and torch name.
NARROW = ("bfloat16", "float16")

#: Elements that NumPy looks at at once.
_PIECE = 1 << 17

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)

_SIZE, _POINTER, _WORD = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint64


@dataclass(frozen=True, slots=True)
class Scan:
    """What a tensor holds.

    Attributes:
        absmax: the largest magnitude of its finite elements; 0 where there is none.
        has_nan: whether an element is a NaN.
        has_infinity: whether an element is an infinity.
    """

    absmax: float
    has_nan: bool
    has_infinity: bool

    @property
    def is_finite(self) -> bool:
        """Whether every element is a finite number."""
        return not (self.has_nan or self.has_infinity)


def scan(x: F32) -> Scan:
    """Look at every element once; in C, nothing is allocated.

    Args:
        x: C-contiguous float32 of any shape.
    """
    try:
        call = _function("fmtc_scan", 1)
    except BackendUnavailable:
        return scan_numpy(x)
    return _said(call(x.size, x.ctypes.data))


def widen(narrow: U16, dtype: str) -> tuple[F32, Scan]:
    """The elements of a narrow type as binary32, exactly, and what they are, in one pass.

    Args:
        narrow: C-contiguous uint16 of any shape: the bits of the elements.
        dtype: one of ``NARROW``.

    Returns:
        float32 of the same shape, and the scan of it. A NaN stays a NaN.
    """
    try:
        call = _function(f"fmtc_widen_{dtype}", 2)
    except BackendUnavailable:
        wide = widen_numpy(narrow, dtype)
        return wide, scan_numpy(wide)
    wide = aligned_empty(narrow.shape, np.float32)
    return wide, _said(call(narrow.size, narrow.ctypes.data, wide.ctypes.data))


def scan_numpy(x: F32) -> Scan:
    """``scan`` without C, in pieces."""
    flat = x.reshape(-1).view(np.uint32)
    largest, has_nan, has_infinity = 0, False, False
    for start in range(0, flat.size, _PIECE):
        sizes = flat[start : start + _PIECE] & _MAGNITUDE
        if sizes.max() >= _INFINITY:
            has_nan = has_nan or bool((sizes > _INFINITY).any())
            has_infinity = has_infinity or bool((sizes == _INFINITY).any())
            sizes[sizes >= _INFINITY] = 0
        largest = max(largest, int(sizes.max()))
    return Scan(fp32_from_bits(largest), has_nan, has_infinity)


def widen_numpy(narrow: U16, dtype: str) -> F32:
    """``widen`` without C: the elements alone."""
    if dtype == "float16":
        return narrow.view(np.float16).astype(np.float32)
    return (narrow.astype(np.uint32) << np.uint32(16)).view(np.float32)


@cache
def _function(name: str, arrays: int) -> Callable[..., int]:
    return function(name, [_SIZE, *[_POINTER] * arrays], _WORD)


def _said(word: int) -> Scan:
    """The result word of scan.c: the magnitude's bits, then a bit each for NaN and infinity."""
    return Scan(fp32_from_bits(word & 0xFFFFFFFF), bool(word >> 32 & 1), bool(word >> 33 & 1))
