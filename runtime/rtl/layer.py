"""One projection of a real model: its weight, and what a forward pass gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def projection(
    model: torch.nn.Module, tokens: Sequence[int], name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight of a linear layer, and its inputs while the model reads a text.

    Args:
        model: called as ``model(input_ids=(1, n) int64, use_cache=False)``.
        tokens: the text, in one window.
        name: of the layer, as in ``model.named_modules()``.

    Returns:
        float32 [n, length] and float32 [tokens, length].

    Raises:
        AttributeError: the model has no such module.
    """
    import torch

    layer: Any = model.get_submodule(name)
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with torch.inference_mode():
            model(input_ids=torch.as_tensor(tokens, dtype=torch.int64)[None], use_cache=False)
    finally:
        hook.remove()
    inputs = seen[0].reshape(-1, seen[0].shape[-1])
    weight = layer.weight.detach()
    return weight.float().numpy().copy(), inputs.float().numpy().copy()
