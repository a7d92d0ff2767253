"""bitsandbytes on a CPU: NF4 in blocks of 64 and dynamic 8-bit numbers in blocks of 256."""

from __future__ import annotations

from collections.abc import Iterator

from ..measure import Contender
from ..work import Peer, Work

BLOCKS = {"nf4": 64, "dynamic8": 256}


class BitsAndBytes(Peer):
    """Its functions ``quantize_4bit``, ``quantize_blockwise`` and the like."""

    name = "bitsandbytes"
    threaded = True

    def encode(self, work: Work) -> Iterator[Contender]:
        """``quantize_4bit`` or ``quantize_blockwise``."""
        if work.format not in BLOCKS:
            return
        import bitsandbytes.functional as bnb
        import torch

        block = BLOCKS[work.format]
        x = torch.from_numpy(work.few)
        if work.format == "nf4":
            yield Contender(
                "bitsandbytes NF4",
                x.numel(),
                lambda: bnb.quantize_4bit(x, blocksize=block, quant_type="nf4"),
            )
        else:
            yield Contender(
                "bitsandbytes dynamic 8 bits",
                x.numel(),
                lambda: bnb.quantize_blockwise(x, blocksize=block),
            )

    def decode(self, work: Work) -> Iterator[Contender]:
        """``dequantize_4bit`` or ``dequantize_blockwise``, to the dtype that was encoded."""
        if work.format not in BLOCKS:
            return
        import bitsandbytes.functional as bnb
        import torch

        block = BLOCKS[work.format]
        x = torch.from_numpy(work.x).to(getattr(torch, work.dtype))
        if work.format == "nf4":
            packed, state = bnb.quantize_4bit(x, blocksize=block, quant_type="nf4")
            yield Contender(
                "bitsandbytes NF4", x.numel(), lambda: bnb.dequantize_4bit(packed, state)
            )
        elif work.dtype == "float32":
            packed, state = bnb.quantize_blockwise(x, blocksize=block)
            yield Contender(
                "bitsandbytes dynamic 8 bits",
                x.numel(),
                lambda: bnb.dequantize_blockwise(packed, state),
            )

    def multiply(self, work: Work) -> Iterator[Contender]:
        """``matmul_4bit`` with one row of activations."""
        if work.format != "nf4":
            return
        import bitsandbytes as bnb
        import torch
        from bitsandbytes.functional import quantize_4bit

        few = torch.from_numpy(work.few)
        packed, state = quantize_4bit(few, blocksize=BLOCKS["nf4"], quant_type="nf4")
        one = torch.from_numpy(work.vector).reshape(1, -1)
        yield Contender(
            "bitsandbytes NF4", few.numel(), lambda: bnb.matmul_4bit(one, packed.t(), state)
        )
