"""bitsandbytes: NF4 in blocks of 64 under fp32 scales, 4.5 bits a weight.

Read: bitsandbytes 0.50.2, functional.py (quantize_4bit, QuantState), autograd/_functions.py
(matmul_4bit: the state's shape is [rows, columns], the packed bytes in any view),
backends/cuda/ops.py (gemm_4bit: its own kernel up to some rows, else decode and cuBLAS).
"""

from __future__ import annotations

from typing import Any

import torch

from .base import Peer, PeerWeight, octets_of


class BitsAndBytes(Peer):
    """``matmul_4bit``, which takes the kernel that it thinks best."""

    name = "bitsandbytes"
    package = "bitsandbytes"
    variants = ("nf4",)

    def pack(self, variant: str, weight: torch.Tensor) -> PeerWeight:
        """See ``Peer.pack``."""
        from bitsandbytes import matmul_4bit
        from bitsandbytes.functional import quantize_4bit

        codes, state = quantize_4bit(weight, blocksize=64, quant_type=variant)

        def product(x: torch.Tensor, packed: Any) -> torch.Tensor:
            result: torch.Tensor = matmul_4bit(x, packed[0], packed[1])
            return result

        return PeerWeight(product, (codes, state), octets_of(codes, state.absmax))
