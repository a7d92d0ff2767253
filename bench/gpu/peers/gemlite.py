"""GemLite: NVFP4 and MXFP4 weights, and integers in groups of 128 with a zero point.

Read: gemlite 0.6.0.post2, helper.py (A16W4_NVFP and A16W4_MXFP .from_packed_weights: nibbles of
neighbouring columns, the first low; NVFP4's ``meta_scale`` divides; A16W4_HQQ_INT.from_weights:
codes unpacked, (code - zero) * scale), core.py (GemLiteLinearTriton.pack, forward_functional,
load_config: configurations by shape, else autotuning at the first call), configs/h100.json.

An H200 is not among the devices that it has configurations for; those of the H100, which has the
same processor, are loaded, and it tunes what is not in them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from fmtc.formats import load

from .. import ours
from .base import Peer, PeerWeight, octets_of

#: Columns under one scale of the integers.
GROUP = 128


class GemLite(Peer):
    """Its layers; the kernel is chosen by the number of rows."""

    name = "GemLite"
    package = "gemlite"
    variants = ("nvfp4", "mxfp4", "int4_g128")

    def pack(self, variant: str, weight: torch.Tensor) -> PeerWeight:
        """See ``Peer.pack``."""
        gemlite, helper = import_module("gemlite"), import_module("gemlite.helper")
        note = _configurations(gemlite)
        options = {"device": str(weight.device), "dtype": torch.float16}
        if variant == "int4_g128":
            layer = helper.A16W4_HQQ_INT(**options).from_weights(*integers(weight))
        else:
            codes, scales, level = microscaled(variant, weight)
            if variant == "nvfp4":
                meta = torch.tensor(1.0 / level, dtype=torch.float32, device=weight.device)
                layer = helper.A16W4_NVFP(**options).from_packed_weights(
                    codes, scales=scales, meta_scale=meta
                )
            else:
                layer = helper.A16W4_MXFP(**options).from_packed_weights(
                    codes, scales.view(torch.float8_e8m0fnu)
                )
        octets = octets_of(layer.W_q, layer.scales, layer.zeros)
        return PeerWeight(lambda x, packed: packed(x), layer, octets, note)


def microscaled(variant: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Codes uint8 [rows, columns / 2] and scales uint8 [rows, blocks] of our encoder; the level.

    Rows of ``weight`` may repeat after 256: then only those are encoded.
    """
    rows = len(weight)
    few = weight[:256].float().cpu().numpy()
    packed = ours.pack(load(variant), few)
    repeats = -(-rows // len(few))
    codes, scales = (
        torch.from_numpy(packed.streams[name].copy())
        .to(weight.device)
        .repeat(repeats, 1)[:rows]
        .contiguous()
        for name in ("codes", "scales")
    )
    return codes, scales, packed.level.multiplier


def integers(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes uint8 [rows, columns], scales and zero points float16 [rows, columns / 128]."""
    groups = weight.float().reshape(len(weight), -1, GROUP)
    scales = groups.abs().amax(dim=2).clamp_min(1e-8) / 7
    codes = (torch.round(groups / scales[..., None]) + 8).clamp_(0, 15).to(torch.uint8)
    zeros = torch.full_like(scales, 8.0)
    return codes.reshape(weight.shape), scales.to(torch.float16), zeros.to(torch.float16)


def _configurations(gemlite: Any) -> str:
    """Load those of the H100 on an H200, once; what to say of it."""
    path = Path(gemlite.__file__).parent / "configs" / "h100.json"
    if "H200" not in torch.cuda.get_device_name() or not path.is_file():
        return ""
    gemlite.load_config(str(path))
    return "configured for H100"
