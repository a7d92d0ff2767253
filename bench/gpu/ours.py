"""fmtc's own side: the generated kernels and packed weights, as the bench calls them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fmtc.compiler.engine import Engine, ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import dense_format, kernel_format
from fmtc.compiler.pipeline import encode
from fmtc.compiler.product import Given, given_of
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.thresholds import scale_thresholds
from fmtc.compiler.view import view_of
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.triton_backend import TritonBackend, load_module

from .clock import Call
from .plan import Shape
from .poison import map_tensors

if TYPE_CHECKING:
    from fmtc.runtime.gpu.tune import Candidate
    from fmtc.runtime.gpu.weights import GpuWeights

#: What is decoded to.
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Packed:
    """A packed matrix on the host.

    Attributes:
        format: any.
        streams: as the format stores them, uint8 [stream rows, bytes].
        shape: [rows, columns].
        level: the second level.
    """

    format: Format
    streams: dict[str, Any]
    shape: Shape
    level: TensorLevel

    @property
    def given(self) -> Given:
        """The codes and what their blocks are under."""
        dense = dense_format(self.format)
        return given_of(
            dense, self.streams, self.shape[1], self.level, ReferenceEngine(kernel_format(dense))
        )


def pack(fmt: Format, x: Any) -> Packed:
    """Pack float32 [rows, columns] on the host, whose back ends give the reference's bytes."""
    level = calibrate(fmt, x)
    return Packed(fmt, encode(fmt, x, level, _engine(kernel_format(fmt))), x.shape, level)


@lru_cache(maxsize=64)
def _engine(kernel: Format) -> Engine:
    """The C back end, or where it cannot be built the reference."""
    try:
        return CBackend(kernel)
    except BackendUnavailable:
        return ReferenceEngine(kernel)


def random_rows(shape: Shape, seed: int = 0) -> Any:
    """Normal numbers, float32, with rows of different sizes as a weight has them."""
    x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return np.ldexp(x, (np.arange(shape[0]) % 5 - 2)[:, None]).astype(np.float32)


# Encode and decode


@dataclass(frozen=True)
class Coder:
    """Encodes and decodes one matrix again and again, everything on the device.

    Attributes:
        encode: makes the codes, and what else the kernel makes.
        decode: to one of ``DTYPES``.
        packed: bytes that encoding writes and decoding reads.
    """

    encode: Call
    decode: Any
    packed: int


def coder(fmt: Format, x: torch.Tensor) -> Coder:
    """A coder of a float tensor [rows, columns]; scales are given where the format needs that.

    On CUDA the generated functions are called with tables that are there already, which the
    back end would bring anew.
    """
    dense, device = dense_format(fmt), x.device
    packed = pack(dense, x[:64].float().cpu().numpy())
    backend = TritonBackend(kernel_format(fmt), device)
    if not dense.is_plain:
        return _given_coder(packed, x, backend)
    level, length = packed.level, x.shape[1]
    streams = backend.encode_tensor(x, level)
    size = sum(stream.numel() for stream in streams.values())
    if device.type == "cpu":
        decode = partial(_decoded, backend, streams, length, level)
        return Coder(lambda: backend.encode_tensor(x, level), decode, size)
    encoder, decoder = (load_module(dense, name, False) for name in ("encode", "decode"))
    second = torch.full((1,), level.multiplier, device=device)
    thresholds = torch.from_numpy(scale_thresholds(view_of(dense), level.multiplier)).to(device)

    def decode_there(dtype: str) -> object:
        return decoder.decode(streams, length, second, dtype=getattr(torch, dtype))

    return Coder(lambda: encoder.encode(x, thresholds, second), decode_there, size)


def _decoded(
    backend: TritonBackend,
    streams: dict[str, torch.Tensor],
    length: int,
    level: TensorLevel,
    dtype: str,
) -> object:
    return backend.decode_tensor(streams, length, level, dtype)


def _given_coder(packed: Packed, x: torch.Tensor, backend: TritonBackend) -> Coder:
    given, rows = packed.given, len(x)
    repeats = -(-rows // len(given.codes))

    def there(array: Any) -> Any:
        return None if array is None else _tall(torch.from_numpy(array).to(x.device), repeats, rows)

    scales, selects, zeros = (there(a) for a in (given.scales, given.selects, given.zeros))
    codes = backend.encode_given_tensor(x, scales, selects, zeros)
    size = sum(
        t.numel() * t.element_size() for t in (codes, scales, selects, zeros) if t is not None
    )
    return Coder(
        lambda: backend.encode_given_tensor(x, scales, selects, zeros),
        lambda dtype: backend.decode_given_tensor(codes, scales, selects, zeros, x.shape[1], dtype),
        size,
    )


# Products


def product_module() -> ModuleType:
    """What multiplies packed weights; fetched late, for it needs torch and triton."""
    return import_module("fmtc.runtime.gpu.product")


def device_weights(packed: Packed, device: str) -> GpuWeights:
    """A packed matrix laid out for the product's kernels."""
    from fmtc.runtime.gpu.weights import to_device_weights

    order = product_module().best_order(kernel_format(packed.format), torch.device(device))
    return to_device_weights(
        packed.format, packed.streams, packed.shape, packed.level, order, device
    )


def tall_weights(fmt: Format, shape: Shape, encoded_rows: int, device: str) -> GpuWeights:
    """Random weights of a shape; after some rows they repeat, or encoding would take minutes.

    Raises:
        ValueError: the format has sides, which do not repeat by rows.
    """
    if fmt.sides:
        raise ValueError(f"the rows of '{fmt.name}' cannot repeat: it has sides")
    rows, columns = shape
    few = device_weights(pack(fmt, random_rows((min(rows, encoded_rows), columns))), device)
    repeats = -(-rows // few.rows)
    planes = tuple(_tall(plane, repeats, rows) for plane in few.planes)
    blocks = {name: _tall(block, repeats, rows) for name, block in few.blocks.items()}
    return replace(few, rows=rows, planes=planes, blocks=blocks, kept={})


def copies_of(value: Any, octets: int, cold: int, most: int) -> list[Any]:
    """The value, and so many copies of it that all have ``cold`` bytes; two at least."""
    count = max(2, min(most, -(-cold // max(1, octets))))
    return [value, *(map_tensors(value, torch.clone) for _ in range(count - 1))]


def octets_of(weights: GpuWeights) -> int:
    """Bytes that a product must read of a weight: its codes, and what blocks are under."""
    read = [*weights.planes, *weights.blocks.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in read)


def likely(
    weights: GpuWeights, m: int, dtype: torch.dtype, arithmetic: str, top: int
) -> list[Candidate | None]:
    """The cheapest configurations, and the cheapest of each operation; None if there are none."""
    found: Sequence[Candidate] = product_module().candidates(weights, m, dtype, arithmetic)
    ranked = sorted(found, key=lambda candidate: candidate.cost)
    firsts = {c.config.get("operation"): c for c in reversed(ranked)}.values()
    best: list[Candidate | None] = [
        c for i, c in enumerate(ranked) if i < top or any(c is first for first in firsts)
    ]
    return best or [None]


def multiply(
    weights: GpuWeights,
    x: torch.Tensor,
    config: Candidate | None,
    arithmetic: str = "auto",
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """[m, rows]: x times the weight."""
    product: torch.Tensor = product_module().product(
        weights, x, arithmetic=arithmetic, out_dtype=out_dtype, config=config
    )
    return product


def on(device: str) -> contextlib.AbstractContextManager[object]:
    """Where kernels are launched."""
    return torch.cuda.device(device) if device != "cpu" else contextlib.nullcontext()


def _tall(tensor: torch.Tensor, repeats: int, rows: int) -> torch.Tensor:
    """The tensor's rows again and again, ``rows`` of them."""
    return tensor.repeat(repeats, 1)[:rows].contiguous()
