"""Tensors of narrow element types, decoded to them directly."""

from __future__ import annotations

import dataclasses

import fmtc
import ml_dtypes
import numpy as np
import pytest
import torch


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, torch.float16, torch.bfloat16])
def test_narrow_results_are_rounded_from_binary32(dtype: object, backend: str) -> None:
    """Ties to even, NaN stays NaN, and what is past a type's largest number is infinite."""
    fmt = fmtc.load("nvfp4")
    x = np.random.default_rng(9).standard_normal((6, 48)).astype(np.float32)
    x[0] *= 1e9
    x[1] *= 1e-9
    x[2, 5] = np.nan
    q = fmt.quantize(x, backend=backend)
    wide = q.dequantize(backend=backend)
    assert np.abs(wide[0]).max() > np.finfo(np.float16).max
    assert np.isnan(wide[2]).any()
    if isinstance(dtype, torch.dtype):
        given = dataclasses.replace(q, framework="torch", dtype=str(dtype).removeprefix("torch."))
        found = given.dequantize(backend=backend)
        assert found.dtype == dtype
        wanted = torch.from_numpy(wide).to(dtype)
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found.nan_to_num(), wanted.nan_to_num())
        assert found.data_ptr() % 64 == 0 or backend == "reference"
    else:
        found = dataclasses.replace(q, dtype=np.dtype(dtype).name).dequantize(backend=backend)
        with np.errstate(over="ignore"):
            wanted = wide.astype(dtype)
        assert found.dtype == wanted.dtype
        assert np.array_equal(found.astype(np.float32), wanted.astype(np.float32), equal_nan=True)
