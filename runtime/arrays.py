"""NumPy arrays and torch tensors as rows of binary32, and back."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import F32
from .errors import missing

#: The element types that are taken.
DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor as C-contiguous float32 [rows, n], with what it takes to go back."""

    values: F32
    shape: tuple[int, ...]
    dtype: str
    framework: str
    device: str


def to_rows(x: Any) -> Rows:
    """Any floating array or tensor as rows; values past binary32's range become infinite.

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
    dtype = x.dtype.name
    _check_dtype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        values = np.ascontiguousarray(x.reshape(_rows_shape(x.shape)), dtype=np.float32)
    return Rows(values, x.shape, dtype, "numpy", "cpu")


def _from_torch(x: Any) -> Rows:
    import torch

    dtype = str(x.dtype).removeprefix("torch.")
    _check_dtype(dtype)
    shape = tuple(x.shape)
    flat = x.detach().to(device="cpu", dtype=torch.float32).reshape(_rows_shape(shape))
    return Rows(flat.contiguous().numpy(), shape, dtype, "torch", str(x.device))


def from_rows(
    values: F32, shape: tuple[int, ...], dtype: str, framework: str, device: str = "cpu"
) -> Any:
    """Rows as a tensor of the given shape, dtype and framework.

    Raises:
        MissingPackage: a bfloat16 NumPy array needs ml_dtypes, a torch tensor needs torch.
    """
    if framework == "torch":
        try:
            import torch
        except ImportError as error:
            raise missing("torch", "torch") from error
        tensor = torch.from_numpy(values).reshape(shape)
        return tensor.to(device=device, dtype=getattr(torch, dtype))
    shaped = values.reshape(shape)
    if dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise missing("ml_dtypes", "dev") from error
        return shaped.astype(ml_dtypes.bfloat16)
    with np.errstate(over="ignore", under="ignore"):
        return shaped.astype(dtype, copy=False)


def _rows_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise TypeError(f"quantize takes {', '.join(DTYPES)}; this is {dtype}: convert it first")
