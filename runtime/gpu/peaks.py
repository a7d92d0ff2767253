"""What the elements of each block reach, and how blocks of any shape fall on a tensor, in torch.

The twin of ``compiler.arrange`` on a device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...compiler.arrange import Arrangement

_MAGNITUDE = 0x7FFFFFFF

#: Above every place of an element.
_NOWHERE = 1 << 62


@dataclass(frozen=True, slots=True)
class DevicePeaks:
    """See ``compiler.arrange.Peaks``; tensors [block rows, block columns].

    Attributes:
        low, high: float32, the least and the largest element, -0 below +0; NaN in a broken block.
        first_negative: whether the first element of largest magnitude is negative.
        broken: whether the block holds a NaN.
    """

    low: torch.Tensor
    high: torch.Tensor
    first_negative: torch.Tensor
    broken: torch.Tensor

    @property
    def positive(self) -> torch.Tensor:
        """The largest max(x, 0)."""
        return torch.clamp(self.high, min=0)

    @property
    def negative(self) -> torch.Tensor:
        """The largest max(-x, 0)."""
        return torch.clamp(-self.low, min=0)

    @property
    def largest(self) -> torch.Tensor:
        """The largest magnitude."""
        return torch.maximum(self.positive, self.negative)


def device_peaks(arrangement: Arrangement, x: torch.Tensor, signed: bool) -> DevicePeaks:
    """The peaks of every block.

    Args:
        arrangement: how the elements fall into blocks.
        x: float32, float16 or bfloat16 [rows, length], not empty.
        signed: whether ``first_negative`` counts; else it says nothing.
    """
    blocks = _in_blocks(arrangement, x.float())
    broken = torch.isnan(blocks).any(dim=3).any(dim=1)
    bits = blocks.view(torch.int32)
    order = bits ^ ((bits >> 31) & _MAGNITUDE)  # ascends with the numbers, -0 below +0
    low, high = _numbers(order.amin(dim=(1, 3))), _numbers(order.amax(dim=(1, 3)))
    negative = torch.zeros_like(broken)
    if signed:
        sizes = bits & _MAGNITUDE
        most = sizes.amax(dim=(1, 3), keepdim=True)
        _, tall, columns, wide = blocks.shape
        # Row by row: of elements that are there twice, for short blocks, the first is the true one.
        down = torch.arange(tall, device=x.device)[None, :, None, None]
        along = torch.arange(wide, device=x.device)[None, None, None, :]
        place = (down * (columns * wide) + along) * 2 + (bits < 0)
        first = torch.where(sizes == most, place, _NOWHERE).amin(dim=(1, 3))
        negative = (first & 1).bool() & ~broken
    nan = torch.full_like(low, torch.nan)
    return DevicePeaks(
        torch.where(broken, nan, low), torch.where(broken, nan, high), negative, broken
    )


def expand(arrangement: Arrangement, values: torch.Tensor) -> torch.Tensor:
    """Values of blocks to values of the pieces that they are made of: [rows, pieces]."""
    rows, pieces = arrangement.rows, arrangement.pieces
    if arrangement.extent != "block":
        return values.expand(rows, pieces).contiguous()
    if arrangement.tile == 1:
        return values
    return values.repeat_interleave(arrangement.tile, dim=0)[:rows].contiguous()


def _in_blocks(arrangement: Arrangement, x: torch.Tensor) -> torch.Tensor:
    """[block rows, rows of a block, block columns, columns of a block]; the last repeats itself."""
    rows, length = x.shape
    if arrangement.extent == "row":
        return x.contiguous().reshape(rows, 1, 1, length)
    if arrangement.extent == "tensor":
        return x.contiguous().reshape(1, rows, 1, length)
    tall, wide = arrangement.tile, arrangement.unit
    if length % wide:
        x = torch.cat([x, x[:, -1:].expand(rows, -length % wide)], dim=1)
    if rows % tall:
        x = torch.cat([x, x[-1:].expand(-rows % tall, x.shape[1])], dim=0)
    return x.contiguous().reshape(-(-rows // tall), tall, -(-length // wide), wide)


def _numbers(order: torch.Tensor) -> torch.Tensor:
    """The binary32 numbers of their order."""
    return (order ^ ((order >> 31) & _MAGNITUDE)).contiguous().view(torch.float32)
