"""How far a format moves a real model: the divergence of the demo's model from itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...compiler.format import Format
from ..format import Format as Quantizer
from .remember import keep, place, recall

if TYPE_CHECKING:
    import torch

#: Tokens of a window, and how many windows are read.
CONTEXT, WINDOWS = 512, 4

#: Enters the name of what is remembered.
EDITION = 1


def divergence(fmt: Format, step: Callable[[str], None] = lambda _: None) -> float:
    """Kullback-Leibler divergence of next-token distributions, in nats a token.

    All linear layers but the head are quantized as they are published (no rotation), nothing
    else is; the text is the evaluation text's first tokens.

    Args:
        fmt: the weights' format.
        step: hears what is being done.

    Raises:
        DemoModelMissingError: the demo's model is not installed.
        MissingPackage: torch, transformers or gguf is not.
    """
    from ..models import find_demo_model

    path = find_demo_model()
    parts = [EDITION, path.name, path.stat().st_size, CONTEXT, WINDOWS, fmt.content_hash]
    file = place("divergence", parts)
    known = recall(file)
    if isinstance(known, float):
        return known
    step(f"{fmt.name}: divergence of {path.name.split('.')[0]}")
    found = _measured(fmt, str(path))
    keep(file, found)
    return found


def _measured(fmt: Format, path: str) -> float:
    import torch

    from ..models import linear_weights, set_linear_weights

    model, windows, base = _published(path)
    weights = {name: tensor.clone() for name, tensor in linear_weights(model).items()}
    quantizer = Quantizer.of(fmt)
    try:
        set_linear_weights(
            model, {name: quantizer.quantize(w).dequantize() for name, w in weights.items()}
        )
        total = 0.0
        for tokens, expected in zip(windows, base, strict=True):
            with torch.inference_mode():
                logs = model(input_ids=tokens, use_cache=False).logits[0].log_softmax(-1)
            total += float((expected.exp() * (expected - logs)).sum(-1).mean())
        return total / len(windows)
    finally:
        set_linear_weights(model, weights)


@lru_cache(maxsize=1)
def _published(path: str) -> tuple[Any, list[torch.Tensor], list[torch.Tensor]]:
    """The model, windows of tokens, and its log-probabilities on them."""
    import torch

    from ..models import evaluation_text, load_gguf_model

    loaded = load_gguf_model(path)
    tokens = torch.tensor(loaded.encode(evaluation_text())[: CONTEXT * WINDOWS])
    windows = list(tokens.reshape(WINDOWS, 1, CONTEXT))
    with torch.inference_mode():
        base = [
            loaded.model(input_ids=window, use_cache=False).logits[0].log_softmax(-1)
            for window in windows
        ]
    return loaded.model, windows, base
