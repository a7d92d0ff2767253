"""``torch.ops.fmtc.product`` and ``unpacked``: a weight in its device layout, multiplied, decoded.

The weight comes as plain tensors and numbers (``Laid``), so that ``torch.compile``, CUDA graphs
and autograd see all there is. Nothing here waits for the device, but the first call for a
weight's format and shape, which compiles and measures. On the CPU the kernels run in Triton's
interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ...codegen.triton.products import GROUP, methods_of
from ...compiler.format import Format
from ...compiler.kernel import dense_format, kernel_format
from ...compiler.physical import PhysicalLayout
from ...compiler.product import activations_format
from ...compiler.reference import TensorLevel
from ..format_keys import format_of
from ..triton_backend import TritonBackend
from .activations import rounded
from .candidates import ARITHMETICS, GEMV_ROWS, best_order, is_half
from .device import prepared
from .permute import from_planes
from .product import INTEGER, chosen, integer_product, multiplies_integers, product
from .sparse import Sparse
from .streams import decode_there, encode_there
from .tune import Candidate, bucket, may_measure
from .weights import GpuWeights, code_stream, to_device_weights

#: Types that products read and write; others are taken as binary32.
_READ = (torch.float32, torch.float16, torch.bfloat16)

#: The configurations that were chosen, of products that were measured or remembered.
_chosen: dict[tuple[Any, ...], Candidate] = {}


@dataclass(frozen=True)
class Laid:
    """What is said of a weight in the device layout, beside its tensors; plain data.

    Attributes:
        key: of the format.
        shape: of the weight: rows, length.
        order: of a 4-bit plane's elements.
        exponent: see ``GpuWeights.exponent``.
        multiplier: the second level.
        minimum: the largest |minimum| of a block, of a format with minima; else 0.
        blocks: names of the tensors of blocks, in their order.
        kept: names of the canonical streams that only ``to_canonical`` needs.
    """

    key: str
    shape: tuple[int, int]
    order: tuple[int, ...]
    exponent: int
    multiplier: float
    minimum: float
    blocks: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LaidTensors:
    """The tensors of a weight in the device layout; see ``GpuWeights``.

    ``blocks`` and ``kept`` are in the order of the names in ``Laid``. ``sides`` has none, or
    the starts, columns and deltas of ``Sparse``.
    """

    planes: tuple[torch.Tensor, ...]
    blocks: tuple[torch.Tensor, ...]
    sides: tuple[torch.Tensor, ...]
    kept: tuple[torch.Tensor, ...] = ()


@lru_cache(maxsize=256)
def has_product(key: str) -> bool:
    """Whether kernels multiply by a format: its blocks are whole groups of columns."""
    return kernel_format(format_of(key)).block % GROUP == 0


def lay_out(
    streams: Mapping[str, torch.Tensor],
    key: str,
    shape: tuple[int, int],
    multiplier: float,
    device: torch.device,
    activations: str = "float32",
) -> tuple[Laid, LaidTensors]:
    """A packed weight in the layout that a device's kernels read.

    Args:
        streams: canonical streams by name, without the level; they are copied.
        key: of the format.
        shape: of the weight: rows, length.
        multiplier: the second level.
        device: where it shall be.
        activations: that it will be multiplied by: integers ask for another order.

    Raises:
        ValueError: a stream is missing, damaged or of another shape.
    """
    fmt = format_of(key)
    order = _order_for(kernel_format(fmt), device, activations)
    weights = to_device_weights(fmt, streams, shape, _level(multiplier), order, device)
    sparse = weights.sparse
    sides = () if sparse is None else (sparse.starts, sparse.columns, sparse.deltas)
    laid = Laid(
        key,
        shape,
        tuple(order),
        weights.exponent,
        multiplier,
        weights.minimum,
        _block_names(key),
        tuple(weights.kept),
    )
    blocks = tuple(weights.blocks[name] for name in laid.blocks)
    return laid, LaidTensors(weights.planes, blocks, sides, tuple(weights.kept.values()))


def put_together(laid: Laid, tensors: LaidTensors) -> GpuWeights:
    """The weight of its parts; nothing is copied, and nothing waits for the device."""
    fmt = format_of(laid.key)
    kernel = kernel_format(fmt)
    sparse = None
    if tensors.sides:
        starts, columns, deltas = tensors.sides
        sparse = Sparse(starts, columns, deltas, laid.shape[1])
    return GpuWeights(
        format=fmt,
        kernel=kernel,
        rows=laid.shape[0],
        length=laid.shape[1],
        layout=_layout(kernel.code_bits, laid.order),
        planes=tensors.planes,
        blocks=dict(zip(laid.blocks, tensors.blocks, strict=True)),
        kept=dict(zip(laid.kept, tensors.kept, strict=False)),
        level=_level(laid.multiplier),
        exponent=laid.exponent,
        sparse=sparse,
        minimum=laid.minimum,
    )


_WEIGHT = (
    "Tensor[] planes, Tensor[] blocks, Tensor[] sides, str format, SymInt[] shape, int[] order, "
    "int exponent, float multiplier, float minimum"
)


def arguments(laid: Laid, tensors: LaidTensors) -> tuple[Any, ...]:
    """What ``product`` takes after x, up to ``arithmetic``."""
    return (
        list(tensors.planes),
        list(tensors.blocks),
        list(tensors.sides),
        laid.key,
        list(laid.shape),
        list(laid.order),
        laid.exponent,
        laid.multiplier,
        laid.minimum,
    )


@torch.library.custom_op(
    "fmtc::product",
    mutates_args=(),
    schema=f"(Tensor x, {_WEIGHT}, str arithmetic, str activations) -> Tensor",
)
def packed_product(
    x: torch.Tensor,
    planes: Sequence[torch.Tensor],
    blocks: Sequence[torch.Tensor],
    sides: Sequence[torch.Tensor],
    key: str,
    shape: Sequence[int],
    order: Sequence[int],
    exponent: int,
    multiplier: float,
    minimum: float,
    arithmetic: str,
    activations: str,
) -> torch.Tensor:
    """X @ W^T with a weight in the device layout.

    The gradient of ``x`` is that of the output times W, decoded to its dtype; rounding of the
    input counts as straight-through.

    Args:
        x: floats [..., length], on the weight's device.
        planes: the codes.
        blocks: what blocks are under, in the order of ``Laid.blocks``.
        sides: none, or three.
        key: of the format.
        shape: rows, length.
        order: see ``Laid``, as the next three.
        exponent: of the largest weight.
        multiplier: the second level.
        minimum: the largest.
        arithmetic: one of ``product.ARITHMETICS``; ``auto`` goes by the dtype of x.
        activations: what x is rounded to first (``activations.format_for``).

    Returns:
        [..., rows] in the dtype of x.

    Raises:
        UnknownFormat: the format is not known in this process.
        TypeError: x does not hold floats.
        ValueError: x does not fit, or there is no such arithmetic, or no such activations.
    """
    laid, tensors = _parts(planes, blocks, sides, key, shape, order, exponent, multiplier, minimum)
    _check(x, laid, arithmetic)
    rows = x.detach().reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()
    # By the dtype that x has, whatever it is rounded to.
    arithmetic = "half" if is_half(arithmetic, _read(x.dtype)) else "single"
    place = (key, tuple(shape), tuple(order), bucket(len(rows)), x.dtype, arithmetic, activations)

    def multiply() -> torch.Tensor:
        return _multiply(put_together(laid, tensors), rows, arithmetic, activations, place)

    y = prepared(x.device, place, multiply)
    return y.reshape(*x.shape[:-1], shape[0])


@packed_product.register_fake
def _(x: torch.Tensor, *weight: Any) -> torch.Tensor:
    _, _, _, key, shape, *_ = weight
    format_of(key)
    return x.new_empty((*x.shape[:-1], shape[0]))


@torch.library.custom_op(
    "fmtc::unpacked", mutates_args=(), schema=f"({_WEIGHT}, ScalarType dtype) -> Tensor"
)
def unpacked(
    planes: Sequence[torch.Tensor],
    blocks: Sequence[torch.Tensor],
    sides: Sequence[torch.Tensor],
    key: str,
    shape: Sequence[int],
    order: Sequence[int],
    exponent: int,
    multiplier: float,
    minimum: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """A weight in the device layout decoded: [rows, length] of ``dtype``.

    The values are those of ``decode``; but elements that sides change are those to within one
    rounding to binary32.
    """
    laid, tensors = _parts(planes, blocks, sides, key, shape, order, exponent, multiplier, minimum)
    weights = put_together(laid, tensors)
    place = ("unpacked", key, tuple(shape), tuple(order), dtype)
    return prepared(weights.device, place, lambda: _decoded(weights, dtype))


@unpacked.register_fake
def _(planes: Sequence[torch.Tensor], *weight: Any) -> torch.Tensor:
    _, _, key, shape, *_, dtype = weight
    format_of(key)
    return planes[0].new_empty(shape, dtype=dtype)


def _keep_the_weight(ctx: Any, inputs: tuple[Any, ...], **_: torch.Tensor) -> None:
    _, planes, blocks, sides, *ctx.said, _, _ = inputs
    ctx.counts = len(planes), len(blocks), len(sides)
    ctx.save_for_backward(*planes, *blocks, *sides)


def _times_the_weight(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    of_x, none, saved = None, [], list(ctx.saved_tensors)
    lists = []
    for count in ctx.counts:
        lists.append(saved[:count])
        none.append([None] * count)
        del saved[:count]
    if ctx.needs_input_grad[0]:
        of_x = gradient @ torch.ops.fmtc.unpacked(*lists, *ctx.said, gradient.dtype)
    return of_x, *none, *[None] * (len(ctx.said) + 2)


packed_product.register_autograd(_times_the_weight, setup_context=_keep_the_weight)


def _multiply(
    weights: GpuWeights,
    x: torch.Tensor,
    arithmetic: str,
    activations: str,
    place: tuple[Any, ...],
) -> torch.Tensor:
    dtype = x.dtype
    if activations == "int8" and 0 < len(x) <= GEMV_ROWS and multiplies_integers(weights):
        return _integers(weights, x).to(dtype)
    x = rounded(x, activations)
    x = x if x.dtype in _READ else x.float()
    out_dtype = _read(dtype)
    config = None
    if x.numel() and weights.rows and x.device.type == "cuda":
        config = _chosen.get((x.device, *place))
        if config is None:
            config = chosen(weights, x, arithmetic)
            if may_measure(x.device):
                _chosen[x.device, *place] = config
    y = product(weights, x, arithmetic=arithmetic, out_dtype=out_dtype, config=config)
    return y.to(dtype)


def _integers(weights: GpuWeights, x: torch.Tensor) -> torch.Tensor:
    """The product with int8 activations, a few rows, groups of 16 added as integers: float32."""
    finite = torch.isfinite(x)
    streams, _ = encode_there(activations_format("int8"), torch.where(finite, x, 0))
    values, scales = streams["codes"].view(torch.int8), streams["scales"].view(torch.float32)
    y = integer_product(weights, values, scales)
    return torch.where(finite.all(1, keepdim=True), y, torch.nan)


def _order_for(kernel: Format, device: torch.device, activations: str) -> tuple[int, ...]:
    """The order of nibbles that the best method for these activations reads."""
    if activations == "int8":
        orders = [m.order for m in methods_of(kernel) if m.name == INTEGER]
        if orders and orders[0] is not None:
            return orders[0]
    return best_order(kernel, device)


def _decoded(weights: GpuWeights, dtype: torch.dtype) -> torch.Tensor:
    streams = {
        "codes": from_planes(
            weights.planes, code_stream(weights.kernel), weights.length, weights.layout
        )
    }
    narrow = torch.float32 if weights.sparse is not None else _read(dtype)
    if weights.given:
        backend = TritonBackend(weights.kernel, weights.device)
        name, blocks = str(narrow).removeprefix("torch."), weights.blocks
        selects, zeros = blocks.get("selects"), blocks.get("zeros")
        values = backend.decode_given_tensor(
            streams["codes"], blocks["scales"], selects, zeros, weights.length, name
        )
    else:
        multiplier = torch.full((1,), weights.level.multiplier, device=weights.device)
        values = decode_there(
            weights.kernel, streams | weights.blocks, weights.length, multiplier, narrow
        )
    if weights.sparse is not None:
        _put_sides(values, weights.sparse)
    return values.to(dtype)


def _put_sides(values: torch.Tensor, sparse: Sparse) -> None:
    """Add what stands beside the codes, in place; a place is there once."""
    counts = sparse.starts.diff().long()
    rows = torch.arange(sparse.rows, device=values.device)
    rows = rows.repeat_interleave(counts, output_size=len(sparse.deltas))
    places = rows * sparse.length + sparse.columns
    flat = values.view(-1)
    flat[places] = flat[places] + sparse.deltas


def _parts(
    planes: Sequence[torch.Tensor],
    blocks: Sequence[torch.Tensor],
    sides: Sequence[torch.Tensor],
    key: str,
    shape: Sequence[int],
    order: Sequence[int],
    exponent: int,
    multiplier: float,
    minimum: float,
) -> tuple[Laid, LaidTensors]:
    rows, length = shape
    names = _block_names(key)
    if len(blocks) != len(names) or len(sides) not in (0, 3):
        raise ValueError(
            f"a weight in '{format_of(key).name}' has the tensors {', '.join(names)} for its "
            f"blocks and none or three for its sides, not {len(blocks)} and {len(sides)}"
        )
    laid = Laid(key, (rows, length), tuple(order), exponent, multiplier, minimum, names, ())
    return laid, LaidTensors(tuple(planes), tuple(blocks), tuple(sides))


def _check(x: torch.Tensor, laid: Laid, arithmetic: str) -> None:
    if not x.dtype.is_floating_point:
        raise TypeError(f"a product takes floats, not {x.dtype}")
    if arithmetic not in ARITHMETICS:
        raise ValueError(f"no arithmetic '{arithmetic}'; there are {', '.join(ARITHMETICS)}")
    if x.shape[-1:] != torch.Size(laid.shape[1:]):
        raise ValueError(
            f"a weight of {list(laid.shape)} is not [out features, in features] for an input of "
            f"{list(x.shape)}"
        )


def _read(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in _READ else torch.float32


def _level(multiplier: float) -> TensorLevel:
    """A level of this multiplier: kernels ask for no more."""
    return TensorLevel(tensor_scale=multiplier)


@lru_cache(maxsize=256)
def _block_names(key: str) -> tuple[str, ...]:
    """The names of a weight's tensors for blocks; see ``GpuWeights.blocks``."""
    fmt = format_of(key)
    dense, kernel = dense_format(fmt), kernel_format(fmt)
    if dense.is_plain:
        return tuple(stream.name for stream in dense.streams if stream.per == "block")
    names = {"scales": True, "selects": kernel.select.bits > 0, "zeros": kernel.zero is not None}
    return tuple(name for name, there in names.items() if there)


@lru_cache(maxsize=256)
def _layout(bits: int, order: tuple[int, ...]) -> PhysicalLayout:
    return PhysicalLayout(bits, order)
