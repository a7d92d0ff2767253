"""A stand-in for the product of packed weights, for tests of the GPU bench."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import replace

import torch
from fmtc.bench.gpu import ours, plan
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.physical import NATURAL
from fmtc.compiler.pipeline import decode
from fmtc.runtime.gpu.permute import from_planes
from fmtc.runtime.gpu.tune import Candidate
from fmtc.runtime.gpu.weights import GpuWeights, code_stream, to_device_weights

#: Where the product is.
PRODUCT = "fmtc.runtime.gpu.product"
BLOCKS = ("scales", "selects", "zeros")
#: A dry run that is checked with little.
TINY = replace(plan.dry(), check_rows=(1, 9), check_shapes=((17, 200),))


def honest(weights: GpuWeights, x: torch.Tensor, arithmetic: str) -> torch.Tensor:
    """A product in binary64 of what the weight decodes to."""
    del arithmetic
    if weights.given:
        codes = from_planes(
            weights.planes, code_stream(weights.kernel), weights.length, weights.layout
        ).numpy()
        given = [b.numpy() if b is not None else None for b in map(weights.blocks.get, BLOCKS)]
        dense = ReferenceEngine(weights.kernel).decode_given(codes, *given, weights.length)
    else:
        streams = {name: s.numpy() for name, s in weights.to_canonical().items()}
        dense = decode(weights.format, streams, weights.length, weights.level)
    return x.double() @ torch.from_numpy(dense).double().T


def stub() -> types.ModuleType:
    """A module like the product's; its ``of`` may be replaced, and ``asked`` says what was run."""
    module = types.ModuleType(PRODUCT)
    module.of = honest
    module.asked = []

    def candidates(
        weights: GpuWeights, m: int, dtype: torch.dtype, arithmetic: str
    ) -> Sequence[Candidate]:
        del weights, m, dtype, arithmetic
        return [Candidate("slow", {"rows": 1}, 2.0), Candidate("fast", {"rows": 2}, 1.0)]

    def multiply(
        weights: GpuWeights,
        x: torch.Tensor,
        *,
        arithmetic: str = "auto",
        activations: str = "float",
        out_dtype: torch.dtype | None = None,
        config: Candidate | None = None,
    ) -> torch.Tensor:
        assert activations == "float"
        module.asked.append((config.name if config else None, len(x), arithmetic))
        out = torch.empty((len(x), weights.rows), dtype=out_dtype or x.dtype)
        return out.copy_(module.of(weights, x, arithmetic))

    module.candidates, module.product = candidates, multiply
    module.best_order = lambda _, __: NATURAL
    return module


def weights_of(packed: ours.Packed) -> GpuWeights:
    """A packed matrix laid out on the CPU."""
    return to_device_weights(
        packed.format, packed.streams, packed.shape, packed.level, NATURAL, "cpu"
    )
