"""What activations are rounded to before they are multiplied: on any device.

They stay as they are (``float32``), or are what a format makes of them: ``int8`` and ``hif8``
(see ``compiler.product``), ``fp8`` (E4M3 in blocks of 32 under an fp32 scale), or any other
format by its key. On the CPU the first two are multiplied as integers; everywhere else, and on a
device also these, the values that they decode to are multiplied.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from ...compiler import format as compiled
from ...compiler.product import ACTIVATIONS, activations_format
from ...formats import UnknownFormat, compile_text
from ..format import Format
from ..format_keys import format_of, register
from .device import on_device
from .streams import decode_there, decodes_there, encode_there, encodes_there

#: Activations that have a name of their own.
NAMED = (*ACTIVATIONS, "fp8")

_FP8 = """
format fp8_activations "E4M3 activations, one fp32 scale for 32" {
  block 32
  grid  e4m3
  scale fp32 { rule absmax }
}
"""


def activations_key(activations: compiled.Format | str | Path) -> str:
    """What operators call these activations: a name of ``NAMED``, or a format's key.

    Args:
        activations: one of ``NAMED``, or what ``format_keys.register`` takes.

    Raises:
        ValueError: there are no such activations.
        FormatError: a text has faults.
    """
    if isinstance(activations, str) and activations in NAMED:
        return activations
    try:
        return register(activations)
    except UnknownFormat as error:
        raise ValueError(
            f"no activations '{activations}'; there are {', '.join(NAMED)}, and every format"
        ) from error


@lru_cache(maxsize=64)
def format_for(activations: str) -> Format | None:
    """The format that activations of this key are rounded to; None: they stay as they are.

    Raises:
        ValueError: no format of this process has the key.
    """
    if activations == "float32":
        return None
    if activations == "fp8":
        return Format.of(compile_text(_FP8, "fp8 activations"))
    if activations in ACTIVATIONS:
        return Format.of(activations_format(activations))
    try:
        return format_of(activations)
    except UnknownFormat as error:
        raise ValueError(
            f"no activations '{activations}'; there are {', '.join(NAMED)}, and the keys of formats"
        ) from error


def rounded(x: torch.Tensor, activations: str) -> torch.Tensor:
    """What activations are rounded to: x itself, or float32 of its shape, on its device.

    On a device a NaN or an infinity stays what it is, and makes its products so: nothing there
    waits to refuse it. On the CPU the format's policies hold.

    Args:
        x: floats [m, length].
        activations: see ``format_for``.

    Raises:
        ValueError: there are no such activations.
        RefusedInput: a format on the CPU refuses what x holds.
    """
    fmt = format_for(activations)
    if fmt is None or not x.numel():
        return x
    if not (on_device(x.device) and encodes_there(fmt) and decodes_there(fmt)):
        found: torch.Tensor = fmt.quantize(x.detach().float()).dequantize()
        return found
    finite = torch.isfinite(x)
    streams, multiplier = encode_there(fmt, torch.where(finite, x, 0))
    decoded = decode_there(fmt, streams, x.shape[1], multiplier)
    return torch.where(finite, decoded, x.float())
