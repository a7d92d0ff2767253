"""Which formats compressed-tensors has, and a packed matrix as the tensors that it stores.

Nothing is quantized again: codes and scales are those of the checkpoint, laid out anew. Source of
the layouts: compressed-tensors 0.20, compressors/{nvfp4,mxfp4,pack_quantized}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.packing import pack, unpack
from ...compiler.records import from_records, to_records
from ..errors import RefusedInput
from ..format import Format
from ..quantized import QuantizedTensor

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

NVFP4 = "nvfp4-pack-quantized"
MXFP4 = "mxfp4-pack-quantized"
INTEGER = "pack-quantized"

_HALVES = (0, 1, 2, 3, 4, 6, 8, 12)
#: Rows that are counted at once, and neighbours of a number that are tried on either side.
_ROWS, _NEIGHBOURS = 1024, 16
#: The value of every code of E2M1, in the order of its bits: sign, exponent, mantissa.
E2M1 = tuple(Fraction(s * h, 2) for s in (1, -1) for h in _HALVES)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How compressed-tensors stores a matrix.

    Attributes:
        format: what it calls the layout.
        bits: of a code.
        strategy: what shares a scale: ``tensor_group``, ``group``, ``channel`` or ``tensor``.
        group: elements of a group; None for the last two.
        symmetric: whether there is no zero point.
    """

    format: str
    bits: int
    strategy: str
    group: int | None
    symmetric: bool = True

    def weights(self) -> dict[str, Any]:
        """The ``weights`` of a config group, as JSON values."""
        words = {NVFP4: "torch.float8_e4m3fn", MXFP4: "torch.uint8", INTEGER: None}
        return {
            "num_bits": self.bits,
            "type": "int" if self.format == INTEGER else "float",
            "symmetric": self.symmetric,
            "strategy": self.strategy,
            "group_size": self.group,
            "block_structure": None,
            "dynamic": False,
            "actorder": None,
            "observer": None,
            "observer_kwargs": {},
            "scale_dtype": words[self.format],
            "zp_dtype": None if self.symmetric else "torch.int8",
        }


def scheme_of(fmt: Format, length: int) -> Scheme | str:
    """The scheme of a matrix with rows of ``length`` elements, or why there is none."""
    why = _foreign(fmt)
    if why:
        return why
    if fmt.extent == "block" and length % fmt.block:
        return f"its rows of {length} do not divide into blocks of {fmt.block}"
    if fmt.grids[0].values == E2M1:
        return _fp4(fmt)
    return _integer(fmt)


def _foreign(fmt: Format) -> str:
    """What a format has that no scheme knows, in words; empty if nothing."""
    if len(fmt.grids) > 1:
        return "it has more than one grid"
    if fmt.sides:
        return "it keeps outliers or residuals beside the codes (side opq, side wr)"
    if fmt.tile > 1:
        return "its scales are of tiles of several rows"
    if fmt.zero is not None and fmt.zero.kind != "point":
        return "it adds a minimum to each block"
    return ""


def _fp4(fmt: Format) -> Scheme | str:
    number, scale = fmt.scale.word.number, fmt.scale
    split = number.exponent, number.mantissa, number.bias, number.top
    plain = fmt.extent == "block" and scale.stored is None and scale.word.container == 8
    if plain and fmt.block == 16 and split == (4, 3, 7, "nan") and scale.tensor != "rows":
        return Scheme(NVFP4, 4, "tensor_group", 16)
    if plain and fmt.block == 32 and split == (8, 0, 127, "nan") and not _has_level(fmt):
        return Scheme(MXFP4, 4, "group", 32)
    return (
        f"E2M1 in blocks of {fmt.block} with {scale.word.name} scales is neither NVFP4 (16, e4m3) "
        "nor MXFP4 (32, e8m0)"
    )


def _has_level(fmt: Format) -> bool:
    return fmt.scale.tensor != "none" or fmt.scale.shift != 0


def _integer(fmt: Format) -> Scheme | str:
    bits, numbers = fmt.code_bits, fmt.grids[0].numbers
    reach = 1 << (bits - 1)
    if bits > 8 or any(n.denominator != 1 or not -reach <= n < reach for n in numbers):
        return f"the grid '{fmt.grids[0].name}' is neither E2M1 nor integers from {-reach} up"
    strategy = {"block": "group", "row": "channel", "tensor": "tensor"}[fmt.extent]
    if fmt.zero is not None and (fmt.zero.stored is not None or strategy == "tensor"):
        return "its zero points are stored in a format of their own, or are of the whole tensor"
    group = fmt.block if strategy == "group" else None
    return Scheme(INTEGER, bits, strategy, group, symmetric=fmt.zero is None)


def tensors_of(q: QuantizedTensor, scheme: Scheme) -> dict[str, torch.Tensor]:
    """A packed matrix as compressed-tensors has it: ``weight_packed``, ``weight_scale`` ...

    Raises:
        RefusedInput: a scale is negative, which NVFP4 has not.
    """
    if scheme.format == INTEGER:
        return _integer_tensors(q, scheme)
    return _fp4_tensors(q, scheme)


def _fp4_tensors(q: QuantizedTensor, scheme: Scheme) -> dict[str, torch.Tensor]:
    import torch

    streams = planar(q)
    codes = unpack(streams["codes"], q.length, q.format.streams[0]).astype(np.uint8)
    found = {"weight_packed": torch.from_numpy(codes[:, 0::2] | codes[:, 1::2] << 4)}
    scales = torch.from_numpy(streams["scales"].copy())
    if scheme.format == MXFP4:
        return found | {"weight_scale": scales}
    if bool((scales > 0x7F).any()):
        raise RefusedInput("a block scale is negative, and those of NVFP4 have no sign")
    inverse = _inverse_level(q, _pairs(streams["scales"], codes))
    return found | {
        "weight_scale": scales.view(torch.float8_e4m3fn),
        "weight_global_scale": torch.tensor([inverse], dtype=torch.float32),
    }


def _pairs(scales: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each scale byte stands with each magnitude: int64 [128, 8]."""
    counts = np.zeros(128 * 8, np.int64)
    for start in range(0, len(codes), _ROWS):
        part = slice(start, start + _ROWS)
        beside = np.repeat(scales[part].astype(np.uint16) << 3, 16, axis=1)
        counts += np.bincount((beside | codes[part] & 7).ravel(), minlength=counts.size)
    return counts.reshape(128, 8)


def _inverse_level(q: QuantizedTensor, pairs: NDArray[np.int64]) -> np.float32:
    """The number by which compressed-tensors divides block scales, near 1 / tensor scale.

    Its quotients are rounded otherwise than our products, which shows where a value lies half-way
    between two numbers of bfloat16. Of the binary32 numbers around 1 / tensor scale it is the one
    under which fewest elements of this matrix differ, and of those the nearest.
    """
    import torch

    level = np.float32(np.ldexp(float(q.level.tensor_scale), q.level.shift))
    scales = torch.arange(128, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    values = torch.tensor(_HALVES, dtype=torch.float32) / 2
    wanted = (scales * torch.tensor([level]))[:, None] * values
    counts = torch.from_numpy(pairs)

    def apart(candidate: np.float32) -> int:
        theirs = (scales / torch.tensor([candidate]))[:, None] * values
        return int(counts[theirs.bfloat16() != wanted.bfloat16()].sum())

    return min(_around(np.float32(1 / np.float64(level))), key=apart)


def _around(middle: np.float32) -> list[np.float32]:
    """A binary32 number and its neighbours, the nearer first."""
    found, below, above = [middle], middle, middle
    for _ in range(_NEIGHBOURS):
        below, above = np.nextafter(below, np.float32(0)), np.nextafter(above, np.float32(np.inf))
        found += [below, above]
    return found


def _integer_tensors(q: QuantizedTensor, scheme: Scheme) -> dict[str, torch.Tensor]:
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    fmt, streams = q.format, planar(q)
    values = np.array([0 if v is None else int(v) for v in fmt.grids[0].values], np.int8)
    codes = unpack(streams["codes"], q.length, fmt.streams[0])
    scales = _unit_scales(q, streams)
    found = {
        "weight_packed": pack_to_int32(torch.from_numpy(values[codes]), scheme.bits),
        "weight_scale": torch.from_numpy(scales),
        "weight_shape": torch.tensor(q.shape, dtype=torch.int64),
    }
    if fmt.zero is not None:
        stream = next(s for s in fmt.streams if s.name == "zeros")
        points = unpack(streams["zeros"].reshape(len(scales), -1), scales.shape[1], stream)
        points = (points.astype(np.int64) + int(fmt.grids[0].low)).astype(np.int8)
        packed = pack_to_int32(torch.from_numpy(points), scheme.bits, packed_dim=0)
        found["weight_zero_point"] = packed
    return found


def _unit_scales(q: QuantizedTensor, streams: Mapping[str, NDArray[np.uint8]]) -> Any:
    """float32 [rows, groups]: what a code of value 1 decodes to, whatever scales are stored as."""
    fmt = q.format
    grid, first = fmt.grids[0], fmt.streams[0]
    ones = np.full((q.shape[0], q.length), grid.values.index(Fraction(1)), np.uint32)
    changed = {**streams, "codes": pack(ones, first)}
    if fmt.zero is not None:
        stream = next(s for s in fmt.streams if s.name == "zeros")
        count = streams["zeros"].shape[1] * 8 // stream.bits
        origin = np.full((len(streams["zeros"]), count), int(-grid.low), np.uint32)
        changed["zeros"] = pack(origin, stream)[:, : streams["zeros"].shape[1]]
    if fmt.record is not None:
        changed = {"records": to_records(fmt, changed, q.shape[0], q.length)}
    unit = dataclasses.replace(q, streams=changed).to_float32()
    if fmt.extent == "tensor":
        return unit[:1, 0].copy()
    return np.ascontiguousarray(unit[:, :1] if fmt.extent == "row" else unit[:, :: fmt.block])


def planar(q: QuantizedTensor) -> dict[str, NDArray[np.uint8]]:
    """The streams of a packed matrix, each by itself, also of a format with records."""
    if q.format.record is None:
        return dict(q.streams)
    return from_records(q.format, q.streams["records"], q.length)
