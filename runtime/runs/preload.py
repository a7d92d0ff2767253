"""What every worker process needs, loaded once by the process that they are forked from."""

from __future__ import annotations

import torch

from ...compiler import resolve
from .. import c_backend, quantized, safetensors_stream, sources
from ..grids import search
from ..native import blocks
from . import tasks

__all__ = [
    "blocks",
    "c_backend",
    "quantized",
    "resolve",
    "safetensors_stream",
    "search",
    "sources",
    "tasks",
    "torch",
]
