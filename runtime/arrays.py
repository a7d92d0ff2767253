"""NumPy arrays and torch tensors as rows of binary32, and back."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..compiler.narrow import NUMBERS, Decoded
from .backend import F32
from .errors import missing
from .native.scan import NARROW, Scan, scan, widen

#: The element types that are taken.
DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor as C-contiguous float32 [rows, n], with what it takes to go back.

    ``seen`` is what the values hold; ``shared`` says that they lie in the tensor's own memory.
    """

    values: F32
    seen: Scan
    shared: bool
    shape: tuple[int, ...]
    dtype: str
    framework: str
    device: str


def to_rows(x: Any) -> Rows:
    """Any floating array or tensor as rows; values past binary32's range become infinite.

    The elements are gone through once, to widen them and to see what they hold. Binary32
    values are not copied where they lie in order.

    Raises:
        TypeError: it is neither, or its elements are no floats.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _from_torch(x)
    if not isinstance(x, np.ndarray):
        raise TypeError(
            f"quantize takes a NumPy array or a torch tensor, not {type(x).__name__}: "
            "wrap lists in numpy.asarray(..., dtype=numpy.float32)"
        )
    dtype = _name(x.dtype)
    _check_dtype(dtype)
    values, seen = _widened(x, dtype)
    shared = dtype == "float32" and np.may_share_memory(values, x)
    return Rows(_rows(values), seen, shared, x.shape, dtype, "numpy", "cpu")


def _widened(x: np.ndarray[Any, Any], dtype: str) -> tuple[F32, Scan]:
    """The elements as C-contiguous float32 of any shape, and what they hold."""
    if dtype in NARROW and x.dtype.isnative:
        return widen(np.ascontiguousarray(x).view(np.uint16), dtype)
    if dtype == "float32":
        values = np.ascontiguousarray(x, np.float32)
    else:
        with np.errstate(over="ignore", under="ignore"):
            values = np.ascontiguousarray(x, np.float32)
    return values, scan(values)


def _from_torch(x: Any) -> Rows:
    import torch

    dtype = str(x.dtype).removeprefix("torch.")
    _check_dtype(dtype)
    flat = x.detach().resolve_neg()
    if dtype in NARROW:
        bits = flat.cpu().contiguous().view(torch.int16).numpy().view(np.uint16)
        values, seen = widen(bits, dtype)
    else:
        values = flat.to(device="cpu", dtype=torch.float32).contiguous().numpy()
        seen = scan(values)
    shared = dtype == "float32" and values.ctypes.data == x.data_ptr()
    return Rows(_rows(values), seen, shared, tuple(x.shape), dtype, "torch", str(x.device))


@lru_cache(maxsize=64)
def _name(dtype: np.dtype[Any]) -> str:
    """The name of an element type, kept: NumPy makes it anew at every call."""
    return dtype.name


def decoded_type(dtype: str) -> str:
    """What to decode to for a tensor of this element type: itself, or what is widened to it."""
    return dtype if dtype in NUMBERS else "float32"


def from_rows(
    values: Decoded, shape: tuple[int, ...], dtype: str, framework: str, device: str = "cpu"
) -> Any:
    """Rows as a tensor of the given shape, dtype and framework, in the same memory on a CPU.

    Args:
        values: [rows, n], decoded to ``decoded_type(dtype)``.
        shape: of the tensor.
        dtype: of its elements; float64 is widened to.
        framework: ``numpy`` or ``torch``.
        device: of a torch tensor.

    Raises:
        MissingPackage: a bfloat16 NumPy array needs ml_dtypes, a torch tensor needs torch.
    """
    shaped = values.reshape(shape)
    if framework == "torch":
        try:
            import torch
        except ImportError as error:
            raise missing("torch", "torch") from error
        if dtype == "bfloat16":
            return torch.from_numpy(shaped.view(np.int16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(shaped).to(device=device, dtype=getattr(torch, dtype))
    if dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise missing("ml_dtypes", "dev") from error
        return shaped.view(ml_dtypes.bfloat16)
    return shaped.astype(dtype, copy=False)


def _rows(values: F32) -> F32:
    """All axes but the last as one."""
    shape = values.shape
    return values.reshape((math.prod(shape[:-1]), shape[-1]) if shape else (1, 1))


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise TypeError(f"quantize takes {', '.join(DTYPES)}; this is {dtype}: convert it first")
