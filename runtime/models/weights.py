"""The weights that quantization applies to: every linear layer but the output head."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch


def linear_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of all linear layers but the output head, in the model's order.

    Args:
        model: any module; one with ``get_output_embeddings`` (transformers) has its head left
            out, whatever that is called.

    Returns:
        Parameter name, such as ``model.layers.0.self_attn.q_proj.weight``, to the live weight of
        shape (out features, in features), detached: writing to it changes the model.
    """
    return {name: layer.weight.detach() for name, layer in _linear_layers(model)}


def set_linear_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy ``weights`` into the model's linear layers, in place, converted to their dtype.

    Args:
        model: the model that `linear_weights` named the weights of.
        weights: any part of those names; tensors of the same shapes.

    Raises:
        KeyError: a name is not a linear layer's weight of this model.
        ValueError: a shape differs. Nothing is changed in either case.
    """
    own = linear_weights(model)
    for name, weight in weights.items():
        if name not in own:
            raise KeyError(f"the model has no linear weight called {name!r}")
        if weight.shape != own[name].shape:
            raise ValueError(
                f"{name} has the shape {tuple(own[name].shape)}, not {tuple(weight.shape)}"
            )
    for name, weight in weights.items():
        own[name].copy_(weight)


def _linear_layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    import torch

    find_head = getattr(model, "get_output_embeddings", None)
    head = find_head() if callable(find_head) else None
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            yield f"{name}.weight", module
