"""``fmtc.ops``: formats as operators of torch.

>>> import torch
>>> import fmtc.ops
>>> x = torch.randn(4, 64)
>>> y = torch.ops.fmtc.fake_quantize(x, "nvfp4")
>>> torch.equal(y, fmtc.load("nvfp4").quantize(x).dequantize())
True

Importing this module registers ``torch.ops.fmtc.encode``, ``decode``, ``fake_quantize``,
``linear``, ``product`` and ``unpacked``; the functions of these names here are the same.
docs/torch.md has more.
"""

from __future__ import annotations

from .compiler.product import ACTIVATIONS, NoIntegerProduct
from .runtime.errors import missing
from .runtime.format_keys import format_of, register

try:
    from .runtime.torch_ops import (
        decode,
        encode,
        fake_quantize,
        from_quantized,
        lay_out,
        linear,
        named,
        product,
        stream_names,
        to_quantized,
        unpacked,
    )
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise missing("torch", "torch") from error

__all__ = [
    "ACTIVATIONS",
    "NoIntegerProduct",
    "decode",
    "encode",
    "fake_quantize",
    "format_of",
    "from_quantized",
    "lay_out",
    "linear",
    "named",
    "product",
    "register",
    "stream_names",
    "to_quantized",
    "unpacked",
]
