"""A causal language model of transformers without its weights, taken apart into layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import CorruptFile, UnusableModel
from ..models.common import of_transformers
from .weights import StoredWeights

_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Call:
    """How the model calls one of its layers, besides giving it the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Body:
    """A model whose parameters are on the meta device; what it computes at birth is real.

    Attributes:
        model: with its head, which is never run.
        trunk: the model without its head.
        prefix: what stands before the trunk's names in the model.
        layers: the decoder layers, in order.
        names: the name of each in the model.
    """

    model: nn.Module
    trunk: nn.Module
    prefix: str
    layers: tuple[nn.Module, ...]
    names: tuple[str, ...]


def empty_body(config: Any, folder: Path) -> Body:
    """Build a model's modules without memory for its weights.

    Raises:
        UnusableModel: transformers knows no such language model, or its layers are not found.
    """
    known = of_transformers("AutoModelForCausalLM")

    try:
        # Fused kernels for experts would hide which of them saw which token.
        with _without_weights(), torch.random.fork_rng(devices=[]):
            model = known.from_config(config, dtype=torch.float32, experts_implementation="eager")
    except (ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        raise UnusableModel(f"transformers cannot build the model '{folder}': {error}") from error
    model.eval().requires_grad_(requires_grad=False)
    trunk = model.base_model
    prefix = _name_of(model, trunk)
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    name, layers = _decoder_layers(trunk, count, folder)
    names = tuple(f"{prefix}{name}.{i}" for i in range(len(layers)))
    return Body(model, trunk, prefix, tuple(layers), names)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Modules made here have their parameters on the meta device, and their buffers as always."""

    # torch's own types leave out that a hook may return another parameter.
    def to_meta(_: nn.Module, __: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.device == _META:
            return None
        return nn.Parameter(parameter.to(_META), requires_grad=False)

    hook = register_module_parameter_registration_hook(to_meta)
    try:
        yield
    finally:
        hook.remove()


def _name_of(model: nn.Module, part: nn.Module) -> str:
    for name, module in model.named_modules():
        if module is part:
            return f"{name}." if name else ""
    return ""


def _decoder_layers(trunk: nn.Module, count: Any, folder: Path) -> tuple[str, nn.ModuleList]:
    """The outermost list of as many modules as the configuration says that there are layers."""
    found = [
        (name.count("."), name, module)
        for name, module in trunk.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    found.sort(key=lambda entry: entry[:2])
    if not found or (len(found) > 1 and found[0][0] == found[1][0]):
        raise UnusableModel(
            f"the model '{folder}' has {len(found)} lists of {count} layers, and one is needed: "
            "only models with one row of decoder layers are calibrated"
        )
    return found[0][1], found[0][2]


@contextmanager
def surroundings(body: Body, weights: StoredWeights) -> Iterator[None]:
    """Give the trunk what it has outside its layers, its embedding a few rows at a time."""
    embedding = body.model.get_input_embeddings()  # type: ignore[operator]
    inside = {id(p) for layer in body.layers for p in layer.parameters()}
    inside.add(id(embedding.weight))
    held = []
    for name, parameter in body.model.named_parameters():
        if id(parameter) in inside or not name.startswith(body.prefix):
            continue
        held.append((name, parameter))
        set_parameter(body.model, name, filled(weights, name, parameter))
    table = _name_of(body.model, embedding)[:-1] + ".weight"
    shape, empty = embedding.weight.shape, embedding.weight
    embedding.padding_idx = None  # matters to training alone, and must be a row of the table

    def look_up(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        wanted, places = torch.unique(args[0], return_inverse=True)
        rows = weights.rows(table, shape, wanted)
        module._parameters["weight"] = nn.Parameter(rows, requires_grad=False)
        return (places, *args[1:])

    hook = embedding.register_forward_pre_hook(look_up)
    try:
        yield
    finally:
        hook.remove()
        embedding._parameters["weight"] = empty
        for name, parameter in held:
            set_parameter(body.model, name, parameter)


def filled(weights: StoredWeights, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """A parameter's values from the files, float32."""
    target = torch.empty(parameter.shape, dtype=torch.float32)
    weights.fill(target, weights.pieces(name, parameter.shape))
    return target


def set_parameter(model: nn.Module, name: str, values: torch.Tensor) -> None:
    """Put values into the place of a parameter."""
    home, _, leaf = name.rpartition(".")
    module = model.get_submodule(home)
    if not isinstance(values, nn.Parameter):
        values = nn.Parameter(values, requires_grad=False)
    module._parameters[leaf] = values


def enter(
    body: Body,
    weights: StoredWeights,
    windows: torch.Tensor,
    each: Callable[[int, torch.Tensor], None],
) -> tuple[Call, ...]:
    """Run everything before the layers, and learn how the model calls each of them.

    The trunk itself is run, with layers that only look at what they are given. That they are
    given the same in every window, and the hidden states of the layer before, is checked: a
    model of which this is not true is refused.

    Args:
        body: the model.
        weights: its weights.
        windows: int64 ``[windows, context]``.
        each: called with (window, hidden states ``[1, context, channels]`` before layer 0).

    Raises:
        UnusableModel: the layers are more than a row.
    """
    known: tuple[Call, ...] | None = None
    in_tuple = False
    with surroundings(body, weights), torch.inference_mode():
        for index, window in enumerate(windows):
            if known is None:
                in_tuple = not _passes(body, window)
            hidden, calls = _look(body, window, in_tuple=in_tuple)
            if known is None:
                known = calls
            if not _same(calls, known):
                raise UnusableModel(
                    f"the layers of {type(body.model).__name__} are given other arguments in "
                    "every window: such models are not calibrated"
                )
            if hidden.shape[:-1] != (1, len(window)):
                raise UnusableModel(
                    f"the layers of {type(body.model).__name__} are given {tuple(hidden.shape)} "
                    f"for {len(window)} tokens: such models are not calibrated"
                )
            each(index, hidden)
    assert known is not None
    return known


def _passes(body: Body, window: torch.Tensor) -> bool:
    """Whether layers of this model return the hidden states as such, and in no tuple."""
    try:
        _look(body, window, in_tuple=False)
    except UnusableModel:
        return False
    return True


def _look(
    body: Body, window: torch.Tensor, *, in_tuple: bool
) -> tuple[torch.Tensor, tuple[Call, ...]]:
    """Run the trunk on a window with layers that do nothing; what they were given."""
    calls: list[Call] = []
    seen: list[torch.Tensor] = []
    ordered: list[int] = []

    def standing_in(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not args:
                args = (kwargs.pop("hidden_states"),)
            # A tensor of its own, so that what comes next is known to be this and not that.
            given = args[0].view(args[0].shape)
            ordered.append(index)
            seen.extend((args[0], given))
            calls.append(Call(args[1:], kwargs))
            return (given,) if in_tuple else given

        return forward

    try:
        for index, layer in enumerate(body.layers):
            layer.forward = standing_in(index)
        body.trunk(input_ids=window[None], use_cache=False)
    except (CorruptFile, UnusableModel):
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UnusableModel(f"{type(body.trunk).__name__} cannot be run: {error}") from error
    finally:
        for layer in body.layers:
            layer.__dict__.pop("forward", None)
    passed = all(after is before for before, after in zip(seen[1::2], seen[2::2], strict=False))
    if ordered != list(range(len(body.layers))) or not passed:
        raise UnusableModel(
            f"{type(body.trunk).__name__} does more than run its layers one after another: "
            "such models are not calibrated"
        )
    return seen[0], tuple(calls)


def run_layer(layer: nn.Module, call: Call, hidden: torch.Tensor) -> torch.Tensor:
    """The hidden states after a layer, ``[1, context, channels]``."""
    given = layer(hidden, *call.args, **call.kwargs)
    after: torch.Tensor = given[0] if isinstance(given, tuple) else given
    return after


def _same(a: Any, b: Any) -> bool:
    """Whether two values of plain containers and tensors are equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, Call):
        return isinstance(b, Call) and _same(a.args, b.args) and _same(a.kwargs, b.kwargs)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a is b or bool(a == b)
