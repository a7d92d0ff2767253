"""Products by weights on a device: which kernel, in which configuration, and its launch.

Two arithmetics: ``half`` multiplies binary16 numbers (activations divided by a power of two a
row, grid values as they are or rounded) and adds in binary16 within eight, then in binary32;
``single`` does all in binary32. Each module's text says how far its results are from exact.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from ...codegen.triton.products import methods_of
from ..interpreting import interpreting
from .candidates import (
    ARITHMETICS,
    GEMV_ROWS,
    best_order,
    candidates,
    is_half,
    shortlist,
)
from .modules import product_module
from .sparse import add_sparse
from .tune import Candidate, choose, key_of, measure_on, memory_of
from .weights import GpuWeights

__all__ = [
    "ARITHMETICS",
    "best_order",
    "candidates",
    "chosen",
    "integer_product",
    "is_half",
    "multiplies_integers",
    "product",
    "run",
]

#: The method that multiplies int8 codes and activations.
INTEGER = "dp4a"


def product(
    weights: GpuWeights,
    x: torch.Tensor,
    *,
    arithmetic: str = "auto",
    out_dtype: torch.dtype | None = None,
    config: Candidate | None = None,
) -> torch.Tensor:
    """X @ W^T.

    Args:
        weights: W, [rows, length].
        x: float32, float16 or bfloat16 [m, length] on the device of the weights.
        arithmetic: one of ``ARITHMETICS``.
        out_dtype: of the result; None: that of x.
        config: how to run; None: the autotuner's choice (``tune``).

    Returns:
        [m, rows].

    Raises:
        ValueError: x does not fit, or there is no such arithmetic.
        NothingRuns: no kernel runs on this device.
    """
    _check(weights, x, arithmetic)
    dtype = x.dtype if out_dtype is None else out_dtype
    m = x.shape[0]
    if m == 0 or weights.rows == 0 or weights.length == 0:
        return torch.zeros((m, weights.rows), dtype=dtype, device=x.device)
    candidate = config or chosen(weights, x, arithmetic)
    if weights.sparse is None:
        return run(weights, x, candidate, dtype)
    y = run(weights, x, candidate, torch.float32)
    add_sparse(y, x, weights.sparse)
    return y.to(dtype)


def integer_product(
    weights: GpuWeights,
    values: torch.Tensor,
    scales: torch.Tensor,
    out_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """(values * scales) @ W^T, groups of 16 added exactly as integers.

    Args:
        weights: W, of a format that ``multiplies_integers``.
        values: int8 [m, length] on the device of the weights.
        scales: float32 [m, ceil(length / 32)], of blocks of 32 columns.
        out_dtype: of the result.

    Returns:
        [m, rows].

    Raises:
        ValueError: the weights do not multiply as integers, or are laid out in another order.
    """
    interpreted = weights.device.type != "cuda"
    order = weights.layout.order
    module = product_module(weights.kernel, "gemv", INTEGER, order, interpreted, weights.given)
    if not multiplies_integers(weights):
        raise ValueError(f"weights laid out in the order {order} do not multiply as integers")
    y = torch.empty((len(values), weights.rows), dtype=torch.float32, device=values.device)
    planes, blocks = list(weights.planes), weights.blocks
    multiplier = 1.0 if weights.given else weights.level.multiplier
    with interpreting() if interpreted else contextlib.nullcontext():
        for start in range(0, len(values), GEMV_ROWS):
            rows = slice(start, start + GEMV_ROWS)
            part = values[rows], scales[rows]
            module.gemv(planes, blocks, *part, multiplier, out=y[rows])
    if weights.sparse is not None:
        x = values.float() * scales.repeat_interleave(32, dim=1)[:, : weights.length]
        add_sparse(y, x, weights.sparse)
    return y.to(out_dtype)


def multiplies_integers(weights: GpuWeights) -> bool:
    """Whether there is an integer GEMV of weights laid out like these."""
    return any(
        method.name == INTEGER and method.order in (None, weights.layout.order)
        for method in methods_of(weights.kernel)
    )


def chosen(weights: GpuWeights, x: torch.Tensor, arithmetic: str = "auto") -> Candidate:
    """The autotuner's choice for activations of this shape: remembered, or measured now."""
    found = candidates(weights, x.shape[0], x.dtype, arithmetic)
    device = weights.device
    if len(found) == 1 or device.type != "cuda":
        return min(found, key=lambda c: c.cost)
    return _tuned(weights, x, arithmetic, found)


def run(
    weights: GpuWeights, x: torch.Tensor, candidate: Candidate, dtype: torch.dtype
) -> torch.Tensor:
    """The product with the dense codes in one configuration: [m, rows] of ``dtype``."""
    interpreted = weights.device.type != "cuda"
    operation, method = str(candidate.config["operation"]), str(candidate.config["method"])
    module = product_module(
        weights.kernel,
        "gemv" if operation == "gemv" else "gemm",
        method,
        weights.layout.order,
        interpreted,
        weights.given,
    )
    config = {k: v for k, v in candidate.config.items() if k not in ("operation", "method")}
    multiplier = 1.0 if weights.given else weights.level.multiplier
    out = torch.empty((x.shape[0], weights.rows), dtype=dtype, device=x.device)
    call = _CALLS[operation]
    with interpreting() if interpreted else contextlib.nullcontext():
        return call(module, weights, x, multiplier, config, out)


def _gemv(
    module: ModuleType,
    weights: GpuWeights,
    x: torch.Tensor,
    multiplier: float,
    config: dict[str, Any],
    out: torch.Tensor,
) -> torch.Tensor:
    for start in range(0, x.shape[0], GEMV_ROWS):
        rows = slice(start, start + GEMV_ROWS)
        planes, blocks = list(weights.planes), weights.blocks
        module.gemv(planes, blocks, x[rows], multiplier, out=out[rows], **config)
    return out


def _gemm(
    module: ModuleType,
    weights: GpuWeights,
    x: torch.Tensor,
    multiplier: float,
    config: dict[str, Any],
    out: torch.Tensor,
) -> torch.Tensor:
    exponent = half_exponent(weights, module.SCALE_SHIFT)
    planes, blocks = list(weights.planes), weights.blocks
    y: torch.Tensor = module.gemm(planes, blocks, x, multiplier, exponent, out=out, **config)
    return y


def _expand(
    module: ModuleType,
    weights: GpuWeights,
    x: torch.Tensor,
    multiplier: float,
    config: dict[str, Any],
    out: torch.Tensor,
) -> torch.Tensor:
    exponent = half_exponent(weights, module.SCALE_SHIFT)
    planes, blocks = list(weights.planes), weights.blocks
    dense = module.expand(planes, blocks, weights.length, exponent, **config)
    prepared, factor = module.prepare(x, dense.shape[1] // 8)
    if x.device.type == "cuda":
        y = torch.mm(prepared, dense.t(), out_dtype=torch.float32)
    else:
        y = prepared.float() @ dense.float().t()
    scaled = y * (factor * (multiplier * module.VALUE_POWER * 2.0**-exponent))[:, None]
    return out.copy_(scaled)


_CALLS: dict[str, Callable[..., torch.Tensor]] = {"gemv": _gemv, "gemm": _gemm, "expand": _expand}


def half_exponent(weights: GpuWeights, shift: int) -> int:
    """The power of two that brings the scales of a binary16 product to its upper range.

    A multiple of 8, so that few kernels are compiled for many tensors.
    """
    exponent = weights.exponent + shift
    if weights.minimum > 0:  # a minimum stays below 2^14
        exponent = min(exponent, 13 - math.frexp(weights.minimum)[1])
    return exponent // 8 * 8


def _tuned(
    weights: GpuWeights, x: torch.Tensor, arithmetic: str, found: Sequence[Candidate]
) -> Candidate:
    kind = "half" if is_half(arithmetic, x.dtype) else "single"
    order = "".join(map(str, weights.layout.order))
    name = torch.cuda.get_device_name(weights.device)
    key = key_of(
        weights.kernel.content_hash,
        f"product {kind} {order}",
        (weights.rows, weights.length),
        x.shape[0],
        str(x.dtype).removeprefix("torch."),
        name,
    )
    measure = measure_on(weights.device, lambda c: run(weights, x, c, x.dtype))
    few = shortlist(found)
    return choose(key, few, measure, top=len(few), memory=memory_of(name))


def _check(weights: GpuWeights, x: torch.Tensor, arithmetic: str) -> None:
    if arithmetic not in ARITHMETICS:
        raise ValueError(f"no arithmetic '{arithmetic}'; there are {', '.join(ARITHMETICS)}")
    if x.ndim != 2 or x.shape[1] != weights.length:
        raise ValueError(f"activations are [m, {weights.length}], not {list(x.shape)}")
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"activations are float32, float16 or bfloat16, not {x.dtype}")
    if x.device != weights.device:
        raise ValueError(f"the weights are on {weights.device}, the activations on {x.device}")
