"""A weight on a device, laid out for kernels once and for all.

Codes become planes (``compiler.physical``). What blocks are under stays as it is stored where
kernels read it (a *plain* format's scale words and select bits); of any other format scales,
grids and zeros are worked out once and *given*. Nothing is lost: ``to_canonical`` has the
streams again, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...compiler.blockwork import BlockWork
from ...compiler.decoding import pad_code
from ...compiler.engine import Engine, ReferenceEngine
from ...compiler.format import Format, Stream
from ...compiler.kernel import dense_format, kernel_format
from ...compiler.physical import PhysicalLayout
from ...compiler.product import Given, given_of
from ...compiler.reference import TensorLevel, block_scales
from ...compiler.streams import RECORDS, stream_shapes
from ...compiler.view import view_of
from ..native.blocks import block_work
from ..threads import processors
from .permute import from_planes, to_planes
from .sparse import Sparse, sparse_of

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

#: The largest |scale| x |grid value| is brought to at least 2^7 and below 2^8: sums of eight such
#: products with activations around 1 stay far below the largest binary16 number.
REACH = 8

#: Scale words that are looked at at once.
STRIP = 1 << 22

#: Scale words up to this width are looked at by their values, of which there are few.
_FEW = 16


@dataclass(frozen=True, eq=False)
class GpuWeights:
    """A weight of [rows, length] elements on a device.

    Attributes:
        format: as the user has it.
        kernel: ``kernel_format(format)``, what kernels see.
        rows: all axes of the tensor but the last.
        length: elements of a row.
        layout: where the bits of codes are.
        planes: uint8 [rows, bytes] each, contiguous: the codes.
        blocks: what blocks are under. Where ``given`` is false: the canonical streams ``scales``
            and, with select bits in a field, ``select``, uint8 [rows, bytes]. Where it is true:
            ``scales``, float32 [rows, blocks], the second level in them; ``selects``, uint8
            [rows, blocks], where there are several grids; ``zeros``, float32 [rows, blocks],
            zero points or minima, where there are any.
        kept: canonical streams that no kernel reads, but ``to_canonical`` needs.
        level: the second level.
        exponent: e, for which 2^e times the largest |scale| of a block times the largest |value|
            of a grid is in [2^7, 2^8); of finite scales, without the second level where
            ``given`` is false; 0 where that product is 0.
        sparse: what stands beside the codes; None for a format without sides.
        minimum: the largest magnitude of ``zeros`` that are minima; 0 where there are none.
    """

    format: Format
    kernel: Format
    rows: int
    length: int
    layout: PhysicalLayout
    planes: tuple[torch.Tensor, ...]
    blocks: dict[str, torch.Tensor]
    kept: dict[str, torch.Tensor]
    level: TensorLevel
    exponent: int
    sparse: Sparse | None
    minimum: float = 0.0

    @property
    def given(self) -> bool:
        """Whether scales are given as numbers, and not in the format's own words."""
        return not dense_format(self.format).is_plain

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        return self.planes[0].device

    def to_canonical(self) -> dict[str, torch.Tensor]:
        """The streams that the weight was made of: uint8 [stream rows, bytes], on its device.

        Those of an interleaved layout are put together on the host.
        """
        codes = from_planes(self.planes, code_stream(self.kernel), self.length, self.layout)
        streams = {"codes": codes, **({} if self.given else self.blocks), **self.kept}
        if self.format.record is None:
            return streams
        sides = {name: streams.pop(name) for name in side_names(self.format)}
        planar = {name: _on_host(octets) for name, octets in streams.items()}
        work = block_work(processors())
        records = work.to_records(self.format, planar, self.rows, self.length)
        return {RECORDS: torch.from_numpy(records).to(self.device), **sides}


def to_device_weights(
    fmt: Format,
    streams: Mapping[str, torch.Tensor | U8],
    shape: tuple[int, ...],
    level: TensorLevel,
    order: tuple[int, ...],
    device: str | torch.device,
    engine: Engine | None = None,
) -> GpuWeights:
    """Lay a packed tensor out for kernels.

    Codes are permuted on the device. What is given for blocks, and records, go through the host.

    Args:
        fmt: any format.
        streams: uint8 [stream rows, bytes], as ``pipeline.encode`` makes them; they are copied.
        shape: of the tensor; its last axis is a row's.
        level: the tensor's second level.
        order: of a 4-bit plane's elements (``PhysicalLayout``).
        device: where the weight shall be.
        engine: for ``kernel_format(fmt)``: reads scales that are stored in a format of their own,
            and what sides stand beside; None: the reference.

    Raises:
        ValueError: a stream is missing, damaged or of another shape.
    """
    *outer, length = shape or (1,)
    rows = math.prod(outer)
    _check(fmt, streams, rows, length)
    kernel, dense = kernel_format(fmt), dense_format(fmt)
    engine = engine or _reference(kernel)
    planar = dict(streams)
    if fmt.record is not None:
        planar |= engine.blocks.from_records(fmt, _on_host(planar.pop(RECORDS)), length)
    given: Given | None = None
    minimum = 0.0
    sparse: Sparse | None = None
    if fmt.sides or not dense.is_plain:
        host = {name: _on_host(octets) for name, octets in planar.items()}
        given = given_of(dense, host, length, level, engine)
        sparse = sparse_of(fmt, host, given, length, engine, device) if fmt.sides else None
    layout = PhysicalLayout(kernel.code_bits, order)
    codes = _to_device(planar.pop("codes"), device)
    planes = to_planes(codes, code_stream(kernel), length, layout, pad_code(kernel))
    if given is None or dense.is_plain:
        names = [stream.name for stream in dense.streams if stream.per == "block"]
        words = {name: planar.pop(name) for name in names}
        blocks = {name: _to_device(octets, device, copied=True) for name, octets in words.items()}
        largest = _largest_scale(dense, _on_host(words["scales"]), length, engine.blocks)
    else:
        blocks = _given_blocks(kernel, given, device)
        largest = _largest(given.scales)
        if kernel.zero is not None and kernel.zero.kind == "minimum" and given.zeros is not None:
            minimum = _largest(given.zeros)
    return GpuWeights(
        format=fmt,
        kernel=kernel,
        rows=rows,
        length=length,
        layout=layout,
        planes=planes,
        blocks=blocks,
        kept={name: _to_device(octets, device, copied=True) for name, octets in planar.items()},
        level=level,
        exponent=_exponent(kernel, largest),
        sparse=sparse,
        minimum=minimum,
    )


def code_stream(kernel: Format) -> Stream:
    """How a format's codes are packed in their canonical stream."""
    return Stream("codes", kernel.code_bits, "element", kernel.order)


def side_names(fmt: Format) -> tuple[str, ...]:
    """The names of a format's side streams."""
    parts = {"opq": ("counts", "index", "values"), "wr": ("counts", "index", "values", "scale")}
    return tuple(f"{side.kind}.{part}" for side in fmt.sides for part in parts[side.kind])


def _check(fmt: Format, streams: Mapping[str, torch.Tensor | U8], rows: int, length: int) -> None:
    if fmt.record is not None and length % fmt.record.elements:
        raise ValueError(
            f"rows of {length} elements do not divide into records of {fmt.record.elements}"
        )
    shapes = stream_shapes(fmt, rows, length)
    wanted = {*shapes, *side_names(fmt)}
    if streams.keys() != wanted:
        raise ValueError(f"'{fmt.name}' has the streams {sorted(wanted)}, not {sorted(streams)}")
    for name, shape in shapes.items():
        if tuple(streams[name].shape) != shape:
            found = list(streams[name].shape)
            raise ValueError(f"the stream '{name}' is {found}, expected {list(shape)}")
    for name, octets in streams.items():
        if str(octets.dtype).removeprefix("torch.") != "uint8":
            raise ValueError(f"the stream '{name}' is {octets.dtype}, expected uint8")


def _reference(kernel: Format) -> ReferenceEngine:
    """The reference, with block work in C where there is a compiler."""
    engine = ReferenceEngine(kernel)
    engine.blocks = block_work(processors())
    return engine


def _on_host(octets: torch.Tensor | U8) -> U8:
    if isinstance(octets, torch.Tensor):
        octets = octets.detach().cpu().numpy()
    return np.ascontiguousarray(octets)


def _to_device(
    octets: torch.Tensor | U8, device: str | torch.device, copied: bool = False
) -> torch.Tensor:
    """Contiguous on the device; ``copied``: in memory of its own."""
    if isinstance(octets, torch.Tensor):
        return octets.detach().to(device, copy=copied).contiguous()
    array = np.ascontiguousarray(octets)
    own = array.copy() if copied or not array.flags.writeable else array
    return torch.from_numpy(own).to(device)


def _given_blocks(
    kernel: Format, given: Given, device: str | torch.device
) -> dict[str, torch.Tensor]:
    found: dict[str, NDArray[np.generic]] = {"scales": given.scales}
    if kernel.select.bits:
        none = np.zeros(given.scales.shape, np.uint8)
        found["selects"] = none if given.selects is None else given.selects
    if given.zeros is not None:
        found["zeros"] = given.zeros
    return {name: torch.from_numpy(np.array(a, order="C")).to(device) for name, a in found.items()}


def _largest_scale(dense: Format, words: U8, length: int, work: BlockWork) -> float:
    """The largest finite |scale| of a plain format's blocks under no second level."""
    stream = next(stream for stream in dense.streams if stream.name == "scales")
    view, count = view_of(dense), -(-length // dense.block)
    height = max(1, STRIP // max(1, count))
    largest = 0.0
    seen = np.zeros(1 << _FEW, np.bool_)
    for top in range(0, len(words) if count else 0, height):
        fields = work.unpack(words[top : top + height], count, stream)
        if stream.bits <= _FEW:
            seen[fields] = True
        else:
            largest = max(largest, _largest(block_scales(view, fields, 1.0, work)))
    few = np.flatnonzero(seen).astype(np.uint32)[None]
    return max(largest, _largest(block_scales(view, few, 1.0, work))) if few.size else largest


def _largest(scales: F32) -> float:
    sizes = np.abs(scales)
    return float(sizes.max(initial=0, where=np.isfinite(sizes)))


def _exponent(kernel: Format, largest: float) -> int:
    """See ``GpuWeights.exponent``; both factors are binary32 numbers, their product is exact."""
    ends = (abs(value) for grid in kernel.grids for value in grid.numbers)
    reach = largest * float(max(ends, default=0))
    return REACH - math.frexp(reach)[1] if reach else 0
