"""torchao's MX and NVFP4 tensors, eager, as they run on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..measure import Contender
from ..work import Peer, Work

#: Format -> the name of torch's element type.
MX = {"mxfp4": "float4_e2m1fn_x2", "mxfp8_e4m3": "float8_e4m3fn"}


class TorchAo(Peer):
    """``MXTensor`` and ``NVFP4Tensor``."""

    name = "torchao"
    threaded = True

    def encode(self, work: Work) -> Iterator[Contender]:
        """``to_mx`` and ``to_nvfp4``."""
        made = _encoder(work)
        if made is not None:
            name, x, encode = made
            yield Contender(name, x.numel(), lambda: encode(x))

    def decode(self, work: Work) -> Iterator[Contender]:
        """``dequantize`` to fp32 or bf16."""
        made = _encoder(work)
        if made is not None:
            import torch

            name, x, encode = made
            packed, dtype = encode(x), getattr(torch, work.dtype)
            yield Contender(name, x.numel(), lambda: packed.dequantize(dtype))


def _encoder(work: Work) -> tuple[str, Any, Any] | None:
    """Name, input and encoder for the format; None where torchao has none."""
    if work.format not in MX and work.format != "nvfp4":
        return None
    import torch

    x = torch.from_numpy(work.few)
    if work.format == "nvfp4":
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

        scale = per_tensor_amax_to_scale(x.abs().max())
        return "torchao NVFP4", x, lambda t: NVFP4Tensor.to_nvfp4(t, per_tensor_scale=scale)
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    kind = getattr(torch, MX[work.format])
    return f"torchao {work.format.upper()}", x, lambda t: MXTensor.to_mx(t, kind, 32)
