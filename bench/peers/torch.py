"""torch: products of unpacked matrices, and casts to 8-bit floats."""

from __future__ import annotations

from collections.abc import Iterator

from ..measure import Contender
from ..work import Peer, Work


class Torch(Peer):
    """``torch.mv`` and ``Tensor.to``."""

    name = "torch"
    threaded = True

    def encode(self, work: Work) -> Iterator[Contender]:
        """A cast to E4M3: elements alone, without scales."""
        if work.format == "mxfp8_e4m3":
            import torch

            x = torch.from_numpy(work.few)
            yield Contender(
                "torch E4M3 cast, no scales", x.numel(), lambda: x.to(torch.float8_e4m3fn)
            )

    def decode(self, work: Work) -> Iterator[Contender]:
        """A cast from E4M3."""
        if work.format == "mxfp8_e4m3":
            import torch

            dtype = getattr(torch, work.dtype)
            codes = torch.from_numpy(work.few).to(torch.float8_e4m3fn)
            yield Contender("torch E4M3 cast, no scales", codes.numel(), lambda: codes.to(dtype))

    def multiply(self, work: Work) -> Iterator[Contender]:
        """``torch.mv`` with the matrix in fp32 and in bf16."""
        import torch

        matrix, vector = torch.from_numpy(work.x), torch.from_numpy(work.vector)
        out = torch.empty(len(work.x))
        yield Contender("torch.mv fp32", matrix.numel(), lambda: torch.mv(matrix, vector, out=out))
        half, narrow = matrix.to(torch.bfloat16), vector.to(torch.bfloat16)
        result = torch.empty(len(work.x), dtype=torch.bfloat16)
        yield Contender("torch.mv bf16", half.numel(), lambda: torch.mv(half, narrow, out=result))
