"""The bench's own kernels: memory read, memory copied, and Triton's product of MXFP4.

They are plain functions, for ``kernel`` to wrap: one process may run them compiled and
interpreted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import triton.language as tl


@lru_cache(maxsize=16)
def kernel(function: Callable[..., Any], interpreted: bool) -> Any:
    """A kernel, for a GPU or for Triton's interpreter."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    return InterpretedFunction(function) if interpreted else JITFunction(function)


def read(data_ptr, out_ptr, elements: tl.constexpr, steps: tl.constexpr):  # type: ignore[no-untyped-def]
    """Read steps * elements int32 a program, and write the exclusive or of its steps."""
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, elements)
    found = tl.full((elements,), 0, tl.int32)
    for step in range(steps):
        found ^= tl.load(data_ptr + (program * steps + step) * elements + lane)
    tl.store(out_ptr + program * elements + lane, found)


def copy(data_ptr, out_ptr, elements: tl.constexpr):  # type: ignore[no-untyped-def]
    """Copy ``elements`` int32 a program."""
    place = tl.program_id(0).to(tl.int64) * elements + tl.arange(0, elements)
    tl.store(out_ptr + place, tl.load(data_ptr + place))


def scaled(  # type: ignore[no-untyped-def]
    x_ptr,
    codes_ptr,
    scales_ptr,
    y_ptr,
    m,
    n,
    k,
    name: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
):
    """y[m, n] = x[m, k] times E2M1 codes, two a byte [n, k / 2], under E8M0 scales [n, k / 32]."""
    row = tl.program_id(1) * block_m + tl.arange(0, block_m)
    column = tl.program_id(0) * block_n + tl.arange(0, block_n)
    inner = tl.arange(0, block_k)
    half = tl.arange(0, block_k // 2)
    group = tl.arange(0, block_k // 32)
    total = tl.full((block_m, block_n), 0.0, tl.float32)
    for start in range(0, k, block_k):
        x = tl.load(
            x_ptr + row[:, None] * k + (start + inner)[None, :], mask=row[:, None] < m, other=0.0
        )
        codes = tl.load(codes_ptr + column[None, :] * (k // 2) + (start // 2 + half)[:, None])
        scales = tl.load(scales_ptr + column[:, None] * (k // 32) + (start // 32 + group)[None, :])
        total = tl.dot_scaled(x, None, name, codes, scales, "e2m1", total)
    place = y_ptr + row[:, None] * n + column[None, :]
    tl.store(place, total.to(y_ptr.dtype.element_ty), mask=row[:, None] < m)
