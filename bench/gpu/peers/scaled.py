"""Triton's own ``tl.dot_scaled`` on MXFP4: what comes for free.

Read: triton 3.6.0, language/core.py (dot_scaled: E2M1 two a byte with the first one low, packed
along k; scales uint8 [n, k / 32], not transposed; fp16 activations have no scale). On sm_90 it is
emulated. The interpreter of 3.6.0 cannot run it: a dry run says so.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .base import Peer, PeerWeight, octets_of
from .gemlite import microscaled

#: (rows of x, of the weight, columns, warps, stages) of a program, by rows of activations.
TILES = {
    16: ((16, 64, 128, 4, 4), (16, 32, 256, 4, 3), (16, 128, 128, 8, 3)),
    64: ((64, 64, 128, 4, 3), (32, 128, 128, 4, 3)),
    1 << 30: ((128, 128, 128, 8, 3), (128, 256, 64, 8, 3)),
}


class DotScaled(Peer):
    """A plain product in Triton; the best of a few tiles."""

    name = "tl.dot_scaled"
    package = "triton"
    variants = ("mxfp4",)

    def pack(self, variant: str, weight: torch.Tensor) -> PeerWeight:
        """See ``Peer.pack``."""
        codes, scales, _ = microscaled(variant, weight)
        best: dict[int, tuple[int, ...]] = {}

        def product(x: torch.Tensor, packed: Any) -> torch.Tensor:
            if len(x) not in best:
                best[len(x)] = _fastest(x, packed)
            return _launch(x, packed, best[len(x)])

        return PeerWeight(product, (codes, scales), octets_of(codes, scales))


def _fastest(x: torch.Tensor, packed: Any) -> tuple[int, ...]:
    from fmtc.runtime.gpu.tune import gpu_time, may_measure

    tiles = next(few for most, few in TILES.items() if len(x) <= most)
    if not may_measure(x.device):
        return tiles[0]
    seconds = {tile: gpu_time(partial(_launch, x, packed, tile), x.device) for tile in tiles}
    return min(seconds, key=lambda tile: seconds[tile])


def _launch(x: torch.Tensor, packed: Any, tile: tuple[int, ...]) -> torch.Tensor:
    from ..kernels import kernel, scaled

    codes, scales = packed
    block_m, block_n, block_k, warps, stages = tile
    rows, columns = len(codes), x.shape[1]
    if rows % block_n or columns % block_k:
        raise ValueError(f"a tile of {block_n} x {block_k} does not divide {rows} x {columns}")
    y = torch.empty((len(x), rows), dtype=x.dtype, device=x.device)
    dry = x.device.type == "cpu"
    options = {} if dry else {"num_warps": warps, "num_stages": stages}
    grid = (rows // block_n, -(-len(x) // block_m))
    kernel(scaled, dry)[grid](
        *(x, codes, scales, y, len(x), rows, columns, "fp16", block_m, block_n, block_k), **options
    )
    return y
