"""Rotate a Llama-shaped model without changing what it computes.

A model that was stored in 4 bits lies on that grid: quantizing it to four bits again costs
nothing, and says nothing. Rotating the residual stream by an orthogonal R (QuaRot, Ashkboos et
al., arXiv 2404.00456; SliceGPT's computational invariance, arXiv 2401.15024) keeps the function
and mixes hundreds of old weights into every new one, so the old grid is gone.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from .common import Progress, UnsupportedModelError
from .hadamard import random_orthogonal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch

    Model = TypeVar("Model", bound=torch.nn.Module)

ROTATABLE = ("llama", "mistral", "qwen2", "qwen3")
"""`config.model_type` of the models whose layers are exactly the ones handled here."""


def massive_channels(
    model: torch.nn.Module, tokens: Sequence[int] | torch.Tensor, ratio: float = 3.0
) -> tuple[int, ...]:
    """Return the channels of the residual stream that are far larger than the rest.

    Trained transformers carry a few such channels (Sun et al., "Massive Activations", arXiv
    2402.17762), and switch them off with a tiny norm gain wherever they would do harm. Once the
    gain is folded and the channel is spread over all others, nothing switches off the rounding
    error that it multiplies: so `rotate` can be told to ``keep`` them as they are.

    Args:
        model: of a kind that `rotate` takes.
        tokens: a sample of text, one-dimensional; a few hundred tokens are enough.
        ratio: how far above the root mean square of all channels, over all layers and tokens,
            each token taken to a root mean square of 1 as its norm does.

    Returns:
        Channel numbers, ascending.

    Raises:
        UnsupportedModelError: a model that `rotate` does not take.
    """
    import torch

    _refuse_other_kinds(model)
    body: Any = model.model
    powers: list[torch.Tensor] = []

    def record(_norm: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        squares = inputs[0].double().square()
        powers.append((squares / squares.mean(-1, keepdim=True)).flatten(0, -2).mean(0))

    norms = [
        n for layer in body.layers for n in (layer.input_layernorm, layer.post_attention_layernorm)
    ]
    hooks = [norm.register_forward_pre_hook(record) for norm in norms]
    try:
        with torch.inference_mode():
            body(input_ids=torch.as_tensor(tokens, dtype=torch.int64)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    rms = torch.stack(powers).mean(0).sqrt()
    return tuple(torch.nonzero(rms > ratio).flatten().tolist())


def rotate(
    model: Model, seed: int = 0, keep: Sequence[int] = (), progress: Progress | None = None
) -> Model:
    """Return a copy of ``model`` with rotated weights and the same outputs.

    With x the residual stream as a row vector, x' = x R everywhere:

    - RMSNorm's gain g folds into the layers that read the norm, W' = W diag(g) R, and becomes 1;
      a norm without gain commutes with R.
    - Layers that write the stream turn their output, W' = R^T W (o, down, and the embedding).
    - The output head is untied from the embedding first: it reads the last norm, with its gain.
    - Inside attention every key-value head gets a rotation of its own between v and o.

    The axis between gate * up and down is left alone: SiLU does not commute with a rotation, so
    turning it would take an extra product at run time (the online Hadamard of QuaRot), which a
    weights-only format has not. The same holds for q and k past the rotary embedding. All
    seven matrices of a layer change none the less, as each reads or writes the stream.

    Args:
        model: a transformers causal model with a ``config.model_type`` of `ROTATABLE`, biases
            allowed. It is not changed.
        seed: of the random signs. The same seed gives the same weights.
        keep: channels of the residual stream that R leaves alone (see `massive_channels`).
        progress: called after each layer.

    Returns:
        The rotated copy, in the dtype of ``model``; products are taken in float64.

    Raises:
        UnsupportedModelError: another kind of model.
        ValueError: a channel to keep that the model has not.
    """
    import torch

    _refuse_other_kinds(model)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        rotated = copy.deepcopy(model)
        _rotate_in_place(rotated, rng, keep, progress)
    return rotated


def _refuse_other_kinds(model: torch.nn.Module) -> None:
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ROTATABLE:
        raise UnsupportedModelError(
            f"cannot rotate a model of type {kind!r}: only {', '.join(ROTATABLE)}"
        )


# transformers' classes carry no types, so the model is Any from here to its linear layers.
def _rotate_in_place(
    model: Any, rng: np.random.Generator, keep: Sequence[int], progress: Progress | None
) -> None:
    import torch

    _untie(model)
    embedding = model.model.embed_tokens.weight
    r = torch.from_numpy(_residual_rotation(embedding.shape[1], keep, rng))
    embedding.copy_(embedding.double() @ r)
    _fold_and_turn_inputs([model.lm_head], model.model.norm, r)
    layers = model.model.layers
    for done, layer in enumerate(layers, start=1):
        attention, mlp = layer.self_attn, layer.mlp
        readers = [attention.q_proj, attention.k_proj, attention.v_proj]
        _fold_and_turn_inputs(readers, layer.input_layernorm, r)
        _fold_and_turn_inputs([mlp.gate_proj, mlp.up_proj], layer.post_attention_layernorm, r)
        _turn_outputs(attention.o_proj, r)
        _turn_outputs(mlp.down_proj, r)
        _turn_value_heads(attention.v_proj, attention.o_proj, attention.head_dim, rng)
        if progress is not None:
            progress(done, len(layers))


def _residual_rotation(
    width: int, keep: Sequence[int], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return R: the identity on the channels to keep, a random orthogonal matrix on the rest."""
    if any(not 0 <= channel < width for channel in keep):
        raise ValueError(f"channels to keep {tuple(keep)} are not all below the width {width}")
    rest = np.setdiff1d(np.arange(width), np.asarray(keep, dtype=np.int64))
    r = np.eye(width)
    if len(rest):
        r[np.ix_(rest, rest)] = random_orthogonal(len(rest), rng)
    return r


def _untie(model: Any) -> None:
    """Give the output head a weight of its own, as head and embedding no longer turn alike."""
    import torch

    shared = model.model.embed_tokens.weight
    if model.lm_head.weight is shared:
        model.lm_head.weight = torch.nn.Parameter(shared.clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


def _fold_and_turn_inputs(
    readers: list[torch.nn.Linear], norm: torch.nn.Module, r: torch.Tensor
) -> None:
    """Move the norm's gain into the layers that read it, and turn their input axis by R."""
    gain = cast("torch.Tensor", norm.weight)
    for layer in readers:
        layer.weight.copy_((layer.weight.double() * gain.double()) @ r)
    gain.fill_(1.0)


def _turn_outputs(writer: torch.nn.Linear, r: torch.Tensor) -> None:
    writer.weight.copy_(r.T @ writer.weight.double())
    if writer.bias is not None:
        writer.bias.copy_(writer.bias.double() @ r)


def _turn_value_heads(
    v: torch.nn.Linear, o: torch.nn.Linear, head_dim: int, rng: np.random.Generator
) -> None:
    """Turn each key-value head's output by its own matrix, and undo it where o reads the head.

    Query heads share key-value heads in runs: query head i reads key-value head i // share.
    """
    import torch

    kv_heads = v.out_features // head_dim
    share = o.in_features // v.out_features
    turns = torch.from_numpy(np.stack([random_orthogonal(head_dim, rng) for _ in range(kv_heads)]))

    by_head = v.weight.double().reshape(kv_heads, head_dim, -1)
    v.weight.copy_((turns.mT @ by_head).reshape(v.weight.shape))
    if v.bias is not None:
        bias = v.bias.double().reshape(kv_heads, 1, head_dim)
        v.bias.copy_((bias @ turns).reshape(-1))
    reads = o.weight.double().reshape(-1, kv_heads * share, head_dim)
    undo = turns.repeat_interleave(share, dim=0)
    o.weight.copy_(torch.einsum("nhi,hij->nhj", reads, undo).reshape(o.weight.shape))
