"""What the tests of the torch operators share."""

from __future__ import annotations

import torch
from torch import Tensor

#: It has its operators once ``fmtc.ops`` is imported.
OPS = torch.ops.fmtc
MINE = "format mine { block 16  grid e2m1  scale e4m3 }"


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    octets = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*octets)


def dense_layer(seed: int = 0, *, out: int = 24, bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(256, out, bias=bias)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, 256, generator=torch.Generator().manual_seed(7))
