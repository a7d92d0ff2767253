"""Tensors encoded and decoded where they are, the second level with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...compiler.format import Format
from ...compiler.reference import TensorLevel
from ..interpreting import interpreting
from ..triton_backend import INTERPRETED_TILE, load_module
from .device import is_capturing
from .encode import decode_on_device, encode_on_device, level_of, why_not
from .levels import fixed_level, is_fixed, level_on, thresholds_on

#: What kernels read.
_READ = (torch.float32, torch.float16, torch.bfloat16)


def encodes_there(fmt: Format) -> bool:
    """Whether a tensor is encoded without the host seeing its elements."""
    return fmt.is_blockwise or not why_not(fmt)


def decodes_there(fmt: Format) -> bool:
    """Whether a tensor is decoded without the host seeing its codes."""
    return not fmt.sides


def encode_there(fmt: Format, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The streams of rows, and their level's multiplier.

    Args:
        fmt: a format that ``encodes_there``.
        x: floats [rows, length], admitted (``admit``).

    Returns:
        Stream name -> uint8 [stream rows, bytes]; float32 [1]. Both on the device of x. For a
        blockwise format nothing waits for the device.
    """
    x = x.detach().contiguous()
    x = x if x.dtype in _READ else x.float()
    if not fmt.is_blockwise:
        level = level_of(fmt, x)
        streams = encode_on_device(fmt, x, level, fall_back=False)
        return streams, torch.full((1,), level.multiplier, device=x.device)
    multiplier = level_on(fmt, x)
    thresholds = thresholds_on(fmt, multiplier)
    found: dict[str, torch.Tensor] = _launch(fmt, "encode", x.shape, x, thresholds, multiplier)
    return found, multiplier


def decode_there(
    fmt: Format,
    streams: Mapping[str, torch.Tensor],
    length: int,
    multiplier: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """[rows, length] of ``dtype`` from what ``encode_there`` gave.

    The format is one that ``decodes_there``. Values are rounded once to binary32, then to a
    narrower type.
    """
    narrow = dtype if dtype in _READ else torch.float32
    if not fmt.is_blockwise:
        level = fixed_level(fmt) if is_fixed(fmt) else TensorLevel(float(multiplier))
        name = str(narrow).removeprefix("torch.")
        return decode_on_device(fmt, streams, length, level, name).to(dtype)
    shape = len(streams["codes"]), length
    found: torch.Tensor = _launch(
        fmt, "decode", shape, dict(streams), length, multiplier, dtype=narrow
    )
    return found.to(dtype)


def admit(fmt: Format, x: torch.Tensor) -> torch.Tensor | None:
    """The elements under the NaN and infinity policies; None where they are to be refused.

    So are rows that do not divide into the format's records.

    While a CUDA graph is captured nothing is refused.
    """
    policies, record = fmt.policies, fmt.record
    if record is not None and x.shape[1] % record.elements:
        return None
    x = x if x.dtype in _READ else x.float()
    refused = []
    if policies.nan == "error":
        refused.append(torch.isnan(x).any())
    if policies.inf == "error":
        refused.append(torch.isinf(x).any())
    if refused and not is_capturing(x.device) and bool(torch.stack(refused).any()):
        return None
    if policies.nan == "zero":
        x = torch.where(torch.isnan(x), 0, x)
    if policies.inf == "saturate":
        largest = torch.finfo(torch.float32).max
        x = x.float().clamp(-largest, largest)
    return x


def _launch(fmt: Format, operation: str, shape: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a generated module; in the interpreter, which counts programs, with few of them."""
    device = next(a.device for a in reversed(args) if isinstance(a, torch.Tensor))
    interpreted = device.type == "cpu"
    call = getattr(load_module(fmt, operation, interpreted), operation)
    if not interpreted:
        return call(*args, **kwargs)
    blocks = shape[0] * -(-shape[1] // fmt.block)
    most = max(1, INTERPRETED_TILE // _power_of_two(fmt.block))
    with interpreting():
        return call(*args, blocks=min(_power_of_two(blocks), most), **kwargs)


def _power_of_two(count: int) -> int:
    return 1 << (max(1, count) - 1).bit_length()
