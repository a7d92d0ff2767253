"""Humming: NVFP4 and MXFP4 weights with 16-bit activations, in the manner of Marlin.

Read: humming-kernels 0.1.19, the README's example, layer.py (HummingLayer: load_from_unquantized
packs a weight by the schema, transform lays it out, forward takes [m, columns]), schema/humming.py
(HummingWeightSchema: ``dtype``, ``scale_dtype``, ``group_size``, ``scale_2_type``), dtypes.py
(``float4e2m1``, ``float8e4m3``, ``float8e8m0``), config/enum.py (WeightScale2Type ``tensor``),
utils/weight.py (quantize_weight). Kernels are compiled at the first call with NVRTC or nvcc.
"""

from __future__ import annotations

from importlib import import_module

import torch

from .base import Peer, PeerWeight, octets_of

#: How a weight is packed, in its words.
SCHEMAS = {
    "nvfp4": {
        "dtype": "float4e2m1",
        "scale_dtype": "float8e4m3",
        "group_size": 16,
        "scale_2_type": "tensor",
    },
    "mxfp4": {"dtype": "float4e2m1", "scale_dtype": "float8e8m0", "group_size": 32},
}


class Humming(Peer):
    """``HummingLayer``, tuned by its own heuristics."""

    name = "humming"
    package = "humming-kernels"
    variants = ("nvfp4", "mxfp4")

    def pack(self, variant: str, weight: torch.Tensor) -> PeerWeight:
        """See ``Peer.pack``."""
        layer = (
            import_module("humming.layer")
            .HummingLayer(
                shape_n=weight.shape[0],
                shape_k=weight.shape[1],
                weight_config=dict(SCHEMAS[variant]),
                torch_dtype=torch.float16,
            )
            .cuda()
        )
        layer.load_from_unquantized(weight)
        layer.transform()
        octets = octets_of(layer.weight, getattr(layer, "weight_scale", None))
        return PeerWeight(lambda x, packed: packed(x), layer, octets)
