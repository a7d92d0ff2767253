"""``fmtc.nn``: layers for torch whose weights are packed.

>>> import torch
>>> import fmtc.nn
>>> layer = fmtc.nn.Linear.from_linear(torch.nn.Linear(64, 32), "nvfp4")
>>> layer(torch.randn(4, 64)).shape
torch.Size([4, 32])

docs/torch.md has more.
"""

from __future__ import annotations

from .runtime.errors import missing

try:
    from .runtime.nn import Linear, replace_linears
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise missing("torch", "torch") from error

__all__ = ["Linear", "replace_linears"]
