"""Operators for torch: encode, decode, fake_quantize and linear, as ``torch.ops.fmtc.*``.

A format is a string, its key (``format_keys.register``). A packed tensor is a list of uint8
tensors: its streams in the order of ``stream_names``, and last its second level. On the CPU the
work is done by the back end that ``quantize`` and ``dequantize`` use. On a GPU kernels do it, to
the same bytes, where the format is one of those that they do (``gpu.streams``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ..compiler.product import ACTIVATIONS
from ..compiler.reference import TensorLevel
from ..compiler.streams import stream_shapes
from .arrays import DTYPES
from .backend import U8
from .format import Format
from .format_keys import format_of, register
from .gpu import ops as _gpu_ops
from .gpu.activations import rounded
from .gpu.device import on_device, prepared, say_that_host_works
from .gpu.streams import admit, decode_there, decodes_there, encode_there, encodes_there
from .quantized import QuantizedTensor

#: x @ W^T with a weight in the layout of a device, and such a weight decoded.
product, unpacked = _gpu_ops.packed_product, _gpu_ops.unpacked

#: The last tensor of a packed one: the second level's multiplier, little-endian binary32 [1, 4].
LEVEL = "level"


@lru_cache(maxsize=256)
def stream_names(key: str) -> tuple[str, ...]:
    """What the tensors of a packed one are called, in their order; ``level`` is the last."""
    fmt = format_of(key)
    return (*stream_shapes(fmt, 0, 0), *_side_shapes(fmt, 0, lambda: 0), LEVEL)


def from_quantized(q: QuantizedTensor) -> tuple[str, list[torch.Tensor]]:
    """The key and the uint8 tensors of a packed tensor, on the CPU; bytes are copied."""
    key = register(q.format)
    return key, [torch.from_numpy(octets.copy()) for octets in _in_order(key, q)]


def named(
    streams: Sequence[torch.Tensor], key: str, shape: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The tensors of a packed one by their names.

    Args:
        streams: uint8 tensors in the order of ``stream_names``.
        key: of the format.
        shape: of the tensor that was encoded.

    Raises:
        UnknownFormat: the format is not known in this process.
        ValueError: the streams are not those of a tensor of this format and shape.
    """
    fmt, expected = format_of(key), stream_names(key)
    if len(streams) != len(expected):
        raise ValueError(
            f"a tensor in '{fmt.name}' is packed in {len(expected)} tensors "
            f"({', '.join(expected)}), here are {len(streams)}"
        )
    shapes = stream_shapes(fmt, *_rows_of(shape)) | {LEVEL: (1, 4)}
    for name, stream in zip(expected, streams, strict=True):
        wanted = shapes.get(name, tuple(stream.shape))
        if stream.dtype != torch.uint8 or tuple(stream.shape) != wanted:
            raise ValueError(
                f"the stream '{name}' of {list(shape)} elements in '{fmt.name}' is uint8 "
                f"{list(wanted)}, not {stream.dtype} {list(stream.shape)}"
            )
    return dict(zip(expected, streams, strict=True))


def to_quantized(
    streams: Sequence[torch.Tensor],
    key: str,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> QuantizedTensor:
    """The packed tensor of what ``encode`` gave; bytes are shared with tensors on the CPU.

    Args:
        streams: see ``named``.
        key: see ``named``.
        shape: see ``named``.
        dtype: what ``dequantize`` is to return.

    Raises: as ``named``.
    """
    fmt, shape = format_of(key), tuple(shape)
    arrays: dict[str, U8] = {
        name: stream.detach().cpu().contiguous().numpy()
        for name, stream in named(streams, key, shape).items()
    }
    level = _level(fmt, arrays.pop(LEVEL))
    name, device = str(dtype).removeprefix("torch."), str(streams[0].device)
    return QuantizedTensor(fmt, shape, name, "torch", level, MappingProxyType(arrays), device)


def lay_out(
    streams: Sequence[torch.Tensor],
    key: str,
    shape: Sequence[int],
    *,
    device: torch.device | str | None = None,
    activations: str = "float32",
) -> tuple[Any, ...]:
    """A packed weight in the layout of a device: what ``product`` takes for it, after x.

    Args:
        streams: see ``named``.
        key: see ``named``.
        shape: of the weight: [out features, in features].
        device: where it shall be; None: where the streams are.
        activations: those that it will be multiplied by.

    Raises: as ``named``.
    """
    rows, length = shape
    parts = named(streams, key, shape)
    multiplier = float(_multiplier(parts.pop(LEVEL)))
    place = streams[0].device if device is None else torch.device(device)
    laid = _gpu_ops.lay_out(parts, key, (rows, length), multiplier, place, activations)
    return _gpu_ops.arguments(*laid)


@torch.library.custom_op(
    "fmtc::encode", mutates_args=(), schema="(Tensor x, str format) -> Tensor[]"
)
def encode(x: torch.Tensor, key: str) -> list[torch.Tensor]:
    """Quantize a float tensor of any shape along its last axis.

    Args:
        x: float16, bfloat16, float32 or float64.
        key: of the format.

    Returns:
        uint8 tensors [stream rows, bytes] on the device of ``x``: those of ``stream_names``.

    Raises:
        UnknownFormat: the format is not known in this process.
        TypeError: ``x`` does not hold floats.
        RefusedInput: ``x`` holds what the format's policies refuse.
    """
    fmt = format_of(key)
    _check_float(x.dtype)
    if on_device(x.device) and encodes_there(fmt):
        rows = admit(fmt, x.detach().reshape(_rows_of(x.shape)))
        if rows is not None:
            return prepared(x.device, ("encode", key, x.dtype), lambda: _encoded(key, rows))
    say_that_host_works(x.device)
    q = fmt.quantize(x)  # which refuses what is to be refused
    return [_own(octets).to(x.device) for octets in _in_order(key, q)]


@encode.register_fake
def _(x: torch.Tensor, key: str) -> list[torch.Tensor]:
    fmt = format_of(key)
    rows, length = _rows_of(x.shape)
    shapes = stream_shapes(fmt, rows, length) | _side_shapes(fmt, rows * length, _unknown_size)
    return [x.new_empty(shape, dtype=torch.uint8) for shape in (*shapes.values(), (1, 4))]


@torch.library.custom_op(
    "fmtc::decode",
    mutates_args=(),
    schema="(Tensor[] streams, str format, SymInt[] shape, ScalarType dtype) -> Tensor",
)
def decode(
    streams: Sequence[torch.Tensor], key: str, shape: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """The tensor that was encoded: grid * scale rounded once to binary32, then to ``dtype``.

    Args:
        streams: what ``encode`` gave.
        key: of the format.
        shape: of the tensor that was encoded.
        dtype: float16, bfloat16, float32 or float64.

    Raises:
        UnknownFormat: the format is not known in this process.
        TypeError: ``dtype`` is none of these.
        ValueError: the streams are not those of a tensor of this format and shape.
    """
    _check_float(dtype)
    fmt, device = format_of(key), streams[0].device
    if on_device(device) and decodes_there(fmt):
        parts = named(streams, key, shape)
        length = _rows_of(shape)[1]
        multiplier = _multiplier(parts.pop(LEVEL))

        def decoded() -> torch.Tensor:
            return decode_there(fmt, parts, length, multiplier, dtype)

        return prepared(device, ("decode", key, dtype), decoded).reshape(shape)
    say_that_host_works(device)
    found: torch.Tensor = to_quantized(streams, key, shape, dtype).dequantize()
    return found


@decode.register_fake
def _(
    streams: Sequence[torch.Tensor], key: str, shape: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    format_of(key)
    return streams[0].new_empty(shape, dtype=dtype)


@torch.library.custom_op(
    "fmtc::fake_quantize", mutates_args=(), schema="(Tensor x, str format) -> Tensor"
)
def fake_quantize(x: torch.Tensor, key: str) -> torch.Tensor:
    """What is left of a tensor in a format: decode(encode(x)), contiguous, in the dtype of ``x``.

    Its gradient is the straight-through one: that of the output, as it is.

    Raises: as ``encode``.
    """
    fmt = format_of(key)
    if on_device(x.device):
        streams = torch.ops.fmtc.encode(x, key)
        there: torch.Tensor = torch.ops.fmtc.decode(streams, key, x.shape, x.dtype)
        return there
    quantized: torch.Tensor = fmt.quantize(x).dequantize()
    return quantized


@fake_quantize.register_fake
def _(x: torch.Tensor, key: str) -> torch.Tensor:
    format_of(key)
    return x.new_empty(x.shape)


def _straight_through(_: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    return gradient, None


fake_quantize.register_autograd(_straight_through)


@torch.library.custom_op(
    "fmtc::linear",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor[] streams, str format, SymInt[] weight_shape, str activations) -> Tensor"
    ),
)
def linear(
    x: torch.Tensor,
    streams: Sequence[torch.Tensor],
    key: str,
    weight_shape: Sequence[int],
    activations: str,
) -> torch.Tensor:
    """X @ W^T with a packed weight W.

    The gradient of ``x`` is that of the output times W, decoded to its dtype; rounding of the
    input counts as straight-through. A packed weight has none.

    On a GPU the weight is decoded to binary32 there, and torch multiplies: ``product``, with the
    weight in the device's layout, is the fast way.

    Args:
        x: floats [..., in features]; taken as binary32.
        streams: what ``encode`` gave for the weight.
        key: of the weight's format.
        weight_shape: [out features, in features].
        activations: what ``x`` is rounded to first (``gpu.activations.format_for``): ``float32``
            leaves it, ``int8`` and ``hif8`` are multiplied as integers on the CPU, of any other
            format the values that it decodes to are.

    Returns:
        [..., out features], on the CPU the bits of ``compiler.product``, rounded to the dtype of
        ``x``.

    Raises:
        UnknownFormat: the format is not known in this process.
        TypeError: ``x`` does not hold floats.
        ValueError: the streams or ``x`` do not fit the weight's shape, there are no such
            activations, or (``NoIntegerProduct``) they cannot be multiplied by this format.
    """
    _check_float(x.dtype)
    if len(weight_shape) != 2 or x.shape[-1:] != torch.Size(weight_shape[1:]):
        raise ValueError(
            f"a weight of {list(weight_shape)} is not [out features, in features] for an input "
            f"of {list(x.shape)}"
        )
    rows = x.detach().reshape(_rows_of(x.shape))
    if on_device(x.device):
        weight = torch.ops.fmtc.decode(streams, key, weight_shape, torch.float32)
        product: torch.Tensor = rounded(rows, activations).float() @ weight.t()
        return product.to(x.dtype).reshape(*x.shape[:-1], weight_shape[0])
    say_that_host_works(x.device)
    packed = to_quantized(streams, key, weight_shape).packed_rows()
    rows = rows.to("cpu", torch.float32)
    if activations not in ACTIVATIONS:
        rows, activations = rounded(rows, activations), "float32"
    factor = np.ascontiguousarray(rows.numpy(force=True))
    y = torch.from_numpy(packed.product(factor, activations))
    return y.to(x).reshape(*x.shape[:-1], weight_shape[0])


@linear.register_fake
def _(
    x: torch.Tensor,
    _streams: Sequence[torch.Tensor],
    key: str,
    weight_shape: Sequence[int],
    _activations: str,
) -> torch.Tensor:
    format_of(key)
    return x.new_empty((*x.shape[:-1], weight_shape[0]))


def _keep_the_weight(ctx: Any, inputs: tuple[Any, ...], **_: torch.Tensor) -> None:
    _, streams, ctx.key, ctx.weight_shape, _ = inputs
    ctx.save_for_backward(*streams)


def _times_the_weight(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    streams = list(ctx.saved_tensors)
    of_x = None
    if ctx.needs_input_grad[0]:
        weight = torch.ops.fmtc.decode(streams, ctx.key, ctx.weight_shape, gradient.dtype)
        of_x = gradient @ weight
    return of_x, [None] * len(streams), None, None, None


linear.register_autograd(_times_the_weight, setup_context=_keep_the_weight)


def _encoded(key: str, x: torch.Tensor) -> list[torch.Tensor]:
    """The packed tensor of rows on a device, encoded there."""
    streams, multiplier = encode_there(format_of(key), x)
    level = multiplier.view(torch.uint8).reshape(1, 4)
    return [level if name == LEVEL else streams[name] for name in stream_names(key)]


def _multiplier(level: torch.Tensor) -> torch.Tensor:
    """float32 [1] of a level's bytes, on their device."""
    octets = level.detach().contiguous().flatten()
    aligned = octets.storage_offset() % 4 == 0
    return (octets if aligned else octets.clone()).view(torch.float32)


def _rows_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and their length, as every tensor is seen."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _side_shapes(fmt: Format, elements: int, kept: Callable[[], int]) -> dict[str, tuple[int, int]]:
    """The shapes of ``sides.to_streams``, where each side keeps ``kept()`` of the elements."""
    shapes = {}
    for side in fmt.sides:
        count = kept()
        shapes[f"{side.kind}.counts"] = (1, 4 * -(-elements // side.segment))
        shapes[f"{side.kind}.index"] = (1, 2 * count)
        shapes[f"{side.kind}.values"] = (1, -(-count * side.value.container // 8))
        if side.kind == "wr":
            shapes[f"{side.kind}.scale"] = (1, 4)
    return shapes


def _in_order(key: str, q: QuantizedTensor) -> list[U8]:
    """The streams of a packed tensor in the order of ``stream_names``, and its level."""
    level = np.array([[q.level.multiplier]], "<f4").view(np.uint8)
    return [level if name == LEVEL else q.streams[name] for name in stream_names(key)]


def _level(fmt: Format, octets: U8) -> TensorLevel:
    """The second level of its multiplier, which is one number or the other by the format.

    Raises:
        ValueError: the format has a shift, and it is no power of two.
    """
    multiplier = float(octets.reshape(-1).view("<f4")[0])
    if fmt.scale.tensor == "fp32":
        return TensorLevel(tensor_scale=multiplier)
    mantissa, exponent = math.frexp(multiplier)
    if mantissa != 0.5:
        raise ValueError(f"the level {multiplier} of a tensor in '{fmt.name}' is no power of two")
    return TensorLevel(shift=1 - exponent)


def _own(octets: U8) -> torch.Tensor:
    """A stream that nobody else holds, as a tensor with the usual strides and without a copy."""
    octets.setflags(write=True)
    return torch.from_numpy(octets.reshape(-1)).view(octets.shape)


def _unknown_size() -> Any:
    """An integer for a fake function, known only when the elements have been seen."""
    return torch.library.get_ctx().new_dynamic_size()


def _check_float(dtype: torch.dtype) -> None:
    if str(dtype).removeprefix("torch.") not in DTYPES:
        raise TypeError(f"fmtc's operators take and give {', '.join(DTYPES)}, not {dtype}")
