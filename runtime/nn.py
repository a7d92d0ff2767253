"""Layers for torch whose weights are packed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from ..compiler import format as compiled
from ..compiler.product import ACTIVATIONS, integer_grids
from ..compiler.streams import stream_shapes
from ..dsl.diagnostics import FormatError
from ..formats import compile_text
from .errors import CorruptFile
from .format import Format
from .format_keys import format_of, register
from .gpu.activations import NAMED, activations_key, format_for
from .gpu.candidates import ARITHMETICS
from .gpu.device import on_device
from .gpu.ops import Laid, LaidTensors, arguments, has_product, lay_out, put_together
from .quantized import QuantizedTensor
from .torch_ops import LEVEL, from_quantized, named, to_quantized

#: The buffers of a group of ``LaidTensors``, and which of them hold floats.
_Group = tuple[tuple[str, bool], ...]


class Linear(torch.nn.Module):
    """y = x @ W^T + b with W packed in a format.

    The weight is buffers of integers, which ``half()`` and ``to(dtype)`` leave as they are; only
    the bias is a parameter. On the CPU they are the weight's streams, multiplied by
    ``torch.ops.fmtc.linear``. On a GPU they are what its kernels read, the only copy, multiplied
    by ``torch.ops.fmtc.product``: the weight is laid out when the layer comes to the device, or
    else when it is first used there. A format whose blocks no kernel multiplies by (not of a
    multiple of 16 columns) stays in streams.

    ``state_dict`` holds the streams wherever the layer is, the bias, and the text and the hash
    of the format as bytes (so that safetensors takes it); ``load_state_dict`` refuses a state of
    another format.

    Args:
        in_features: elements of an input row.
        out_features: elements of an output row.
        fmt: what ``format_keys.register`` takes: a format, a name, a path or a .fmt text.
        bias: whether there is one.
        activations: what inputs are rounded to before they are multiplied: ``float32`` (they
            are left), ``int8``, ``hif8``, ``fp8``, or what ``fmt`` may be.
        arithmetic: of products on a GPU: ``half``, ``single``, or ``auto``, which is ``single``
            for binary32 inputs and ``half`` else. The CPU's is always binary32.
        streams: the weight, as ``torch.ops.fmtc.encode`` packs it; None: packed zeros.
        device: of streams that are made, and of the bias.
        dtype: of the bias.

    Raises:
        ValueError: the streams are not of such a weight, there is no such arithmetic, there are
            no such activations, or (``NoIntegerProduct``) they cannot be multiplied as integers
            by this format.
    """

    bias: torch.nn.Parameter | None
    weight_level: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        fmt: compiled.Format | str | Path,
        bias: bool = True,
        *,
        activations: compiled.Format | str | Path = "float32",
        arithmetic: str = "auto",
        streams: Sequence[torch.Tensor] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if arithmetic not in ARITHMETICS:
            raise ValueError(f"no arithmetic '{arithmetic}'; there are {', '.join(ARITHMETICS)}")
        self.in_features = in_features
        self.out_features = out_features
        self.activations = activations_key(activations)
        self.activations_format = format_for(self.activations)
        self.arithmetic = arithmetic
        self._key = register(fmt)
        self.format: Format = format_of(self._key)
        self._laid: Laid | None = None
        self._has_product = has_product(self._key)
        self._laid_buffers: tuple[_Group, ...] = ()
        if self.activations in ACTIVATIONS and self.activations != "float32":
            integer_grids(self.format)
        if streams is None:
            zeros = torch.zeros(out_features, in_features, device=device)
            streams = torch.ops.fmtc.encode(zeros, self._key)
        parts = named(streams, self._key, (out_features, in_features))
        self._stream_names = tuple(parts)
        for name, stream in parts.items():
            self.register_buffer(_buffer_name(name), stream)
        empty = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if empty is None else torch.nn.Parameter(empty))
        self._follow_device()

    @classmethod
    def from_linear(
        cls,
        linear: torch.nn.Linear,
        fmt: compiled.Format | str | Path,
        *,
        activations: compiled.Format | str | Path = "float32",
        arithmetic: str = "auto",
    ) -> Linear:
        """The layer in a format: its weight packed where it is, its bias shared."""
        streams = torch.ops.fmtc.encode(linear.weight, register(fmt))
        said = activations, arithmetic
        layer = cls._of(linear.weight.shape, fmt, streams, linear.bias, *said)
        return layer.train(linear.training)

    @classmethod
    def from_quantized(
        cls,
        weight: QuantizedTensor,
        bias: torch.nn.Parameter | None = None,
        *,
        activations: compiled.Format | str | Path = "float32",
        arithmetic: str = "auto",
    ) -> Linear:
        """A layer of a packed weight [out features, in features], such as a checkpoint's."""
        key, streams = from_quantized(weight)
        return cls._of(weight.shape, key, streams, bias, activations, arithmetic)

    @classmethod
    def _of(
        cls,
        shape: Sequence[int],
        fmt: compiled.Format | str | Path,
        streams: Sequence[torch.Tensor],
        bias: torch.nn.Parameter | None,
        activations: compiled.Format | str | Path,
        arithmetic: str,
    ) -> Linear:
        rows, length = shape
        layer = cls(
            length,
            rows,
            fmt,
            bias=False,
            activations=activations,
            arithmetic=arithmetic,
            streams=streams,
        )
        layer.bias = bias
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., out features] in the dtype of ``x``, floats [..., in features]."""
        laid = self._laid
        if (laid is not None) != (self._has_product and on_device(self.weight_level.device)):
            # It loads much, so not before.
            torch.compiler.disable(self._follow_device)()  # type: ignore[no-untyped-call]
            laid = self._laid
        y: torch.Tensor
        if laid is None:
            shape = [self.out_features, self.in_features]
            y = torch.ops.fmtc.linear(x, self._streams(), self._key, shape, self.activations)
        else:
            weight = arguments(laid, self._laid_tensors())
            y = torch.ops.fmtc.product(x, *weight, self.arithmetic, self.activations)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def quantized(self) -> QuantizedTensor:
        """The packed weight, its bytes shared with this layer where it is on the CPU."""
        shape = (self.out_features, self.in_features)
        return to_quantized(self._streams(), self._key, shape)

    def extra_repr(self) -> str:
        """What ``print`` shows between the parentheses."""
        rounded_to, shown = self.activations_format, self.activations
        if rounded_to is not None and shown not in NAMED:
            shown = rounded_to.name
        arithmetic = "" if self.arithmetic == "auto" else f", arithmetic={self.arithmetic}"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, format={self.format.name}, "
            f"activations={shown}{arithmetic}"
        )

    def get_extra_state(self) -> torch.Tensor:
        """The format's name, hash and text: JSON, as uint8 [bytes]."""
        fmt = self.format
        said = {"format": fmt.name, "hash": fmt.content_hash, "text": fmt.source}
        return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Check that a saved state is of this layer's format.

        Raises:
            CorruptFile: it is of another, or its text does not mean what its hash says.
        """
        try:
            said = json.loads(bytes(state.tolist()))
            text, stated = said["text"], said["hash"]
            same = text == self.format.source
            meant = self.format if same else compile_text(text, "saved .fmt text")
        except (ValueError, KeyError, TypeError, AttributeError, FormatError) as error:
            raise CorruptFile(f"the saved format is damaged: {error}") from error
        if meant.content_hash != stated:
            raise CorruptFile(
                f"the saved .fmt text means {meant.content_hash}, its hash says {stated}: it was "
                "altered, or written by another version of fmtc"
            )
        if meant != self.format:
            raise CorruptFile(
                f"the saved weight is in '{meant.name}' ({stated[:16]}), this layer is of "
                f"'{self.format.name}' ({self.format.content_hash[:16]}): make it with the "
                "saved format"
            )

    def _streams(self) -> list[torch.Tensor]:
        """The canonical streams in their order, and the level; made where they are laid out."""
        canonical = self._canonical()
        return [canonical[name] for name in self._stream_names]

    def _canonical(self) -> dict[str, torch.Tensor]:
        """The canonical streams and the level, by their names."""
        names, laid = self._stream_names, self._laid
        if laid is None:
            return {name: self.get_buffer(_buffer_name(name)) for name in names}
        level = {LEVEL: self.weight_level}
        tensors = self._laid_tensors()
        if not self.weight_level.is_meta:
            return put_together(laid, tensors).to_canonical() | level
        shapes = stream_shapes(self.format, self.out_features, self.in_features)
        kept = {name: tuple(t.shape) for name, t in zip(laid.kept, tensors.kept, strict=True)}
        empty = {name: shapes.get(name, kept.get(name, ())) for name in names if name != LEVEL}
        return {n: self.weight_level.new_empty(size) for n, size in empty.items()} | level

    def _laid_tensors(self) -> LaidTensors:
        """What kernels read, as it lies in the buffers."""
        groups = []
        for group in self._laid_buffers:
            tensors = []
            for name, is_float in group:
                tensor = self.get_buffer(name)
                tensors.append(tensor.view(torch.float32) if is_float else tensor)
            groups.append(tuple(tensors))
        return LaidTensors(*groups)

    def _follow_device(self) -> None:
        """Lay the weight out where kernels read it, and only there.

        Raises:
            ValueError: the streams are damaged.
        """
        device = self.weight_level.device
        wanted = self._has_product and on_device(device)
        if device.type == "meta" or (self._laid is not None) == wanted:
            return
        canonical = self._canonical()
        level = canonical.pop(LEVEL)
        if self._laid is None:
            multiplier = float(level.cpu().flatten().view(torch.float32))
            shape = self.out_features, self.in_features
            laid, tensors = lay_out(
                canonical, self._key, shape, multiplier, device, self.activations
            )
            self._hold(_as_buffers(laid, tensors), laid)
        else:
            self._take_apart(canonical)

    def _follow_if_whole(self) -> None:
        """As ``_follow_device``; what ``to_empty`` left waits for what is to be loaded."""
        with suppress(ValueError):
            self._follow_device()

    def _take_apart(self, canonical: dict[str, torch.Tensor] | None = None) -> None:
        """Hold the canonical streams, and no layout."""
        if self._laid is None:
            return
        streams = self._canonical() if canonical is None else canonical
        found = {_buffer_name(name): octets for name, octets in streams.items() if name != LEVEL}
        self._hold([found], None)

    def _hold(self, groups: Sequence[dict[str, torch.Tensor]], laid: Laid | None) -> None:
        """Hold the weight in these buffers instead; a state has them where nothing is laid out.

        ``half()`` would round floats, so those of a layout lie in buffers of integers.
        """
        for name in [name for name in self._buffers if name != _buffer_name(LEVEL)]:
            delattr(self, name)
        for name, tensor in (item for group in groups for item in group.items()):
            held = tensor.view(torch.int32) if tensor.is_floating_point() else tensor
            self.register_buffer(name, held, persistent=laid is None)
        self._laid = laid
        self._laid_buffers = tuple(
            tuple((name, tensor.is_floating_point()) for name, tensor in group.items())
            for group in (groups if laid is not None else ())
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Linear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._follow_if_whole()
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        if self._laid is not None:
            for name, octets in self._canonical().items():
                destination[prefix + _buffer_name(name)] = octets
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Before anything is copied: check the format, and make room for sides of another size.

        A weight that is laid out is loaded as streams, and laid out again.
        """
        state = state_dict.get(f"{prefix}_extra_state")
        try:
            if state is not None:
                self.set_extra_state(state)
        except CorruptFile as error:
            error_msgs.append(f"{prefix}_extra_state: {error}")
            return
        self._take_apart()
        sized = stream_shapes(self.format, self.out_features, self.in_features)
        for stream in self._stream_names:
            name = _buffer_name(stream)
            saved = state_dict.get(prefix + name)
            if saved is not None and stream != LEVEL and stream not in sized:
                room = torch.empty_like(saved, device=self.get_buffer(name).device)
                self.register_buffer(name, room)
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        self._follow_if_whole()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        register(self.format)  # the process may be another one
        if self.activations_format is not None and self.activations not in NAMED:
            register(self.activations_format)


def replace_linears(
    model: torch.nn.Module,
    fmt: compiled.Format | str | Path,
    *,
    skip: Iterable[str] = (),
    activations: compiled.Format | str | Path = "float32",
    arithmetic: str = "auto",
) -> torch.nn.Module:
    """Put a packed layer in the place of every ``torch.nn.Linear`` of a model.

    Weights are packed one by one, where they are. What is left as it is: subclasses of
    ``torch.nn.Linear``, whose forward may be another; layers whose weight belongs to another
    module too, such as an output layer that is tied to an embedding; and what is skipped.

    Args:
        model: it is changed.
        fmt: what ``Linear`` takes, as the next two.
        skip: names of layers, in full or without what is before their last dot, as
            ``fnmatch`` patterns: ``lm_head``, ``layers.0.*``.
        activations: what inputs are rounded to first.
        arithmetic: of products on a GPU.

    Returns:
        The model; a new layer where it is a linear one itself.

    Raises:
        RefusedInput, ValueError: a weight does not fit the format; a note names the layer.
    """
    patterns, owners = tuple(skip), _owners(model)
    made: dict[torch.nn.Module, Linear] = {}
    places = list(model.named_modules(remove_duplicate=False))
    for name, module in places:
        parts = name, name.rpartition(".")[2]
        skipped = any(fnmatchcase(part, pattern) for part in parts for pattern in patterns)
        if type(module) is not torch.nn.Linear or skipped or owners[id(module.weight)] > 1:
            continue
        if module not in made:
            try:
                made[module] = Linear.from_linear(
                    module, fmt, activations=activations, arithmetic=arithmetic
                )
            except ValueError as error:
                error.add_note(f"in the layer '{name}'")
                raise
        if module is model:
            return made[module]
        model.set_submodule(name, made[module])
    return model


def _owners(model: torch.nn.Module) -> Counter[int]:
    """How many modules each parameter belongs to, by its id."""
    return Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )


def _buffer_name(stream: str) -> str:
    return f"weight_{stream.replace('.', '_')}"


def _as_buffers(laid: Laid, tensors: LaidTensors) -> list[dict[str, torch.Tensor]]:
    """The groups of ``LaidTensors``, each tensor under its buffer's name."""
    sides = ("starts", "columns", "deltas")[: len(tensors.sides)]
    names = range(len(tensors.planes)), laid.blocks, sides, laid.kept
    groups = tensors.planes, tensors.blocks, tensors.sides, tensors.kept
    return [
        {
            f"laid_{kind}_{str(name).replace('.', '_')}": tensor
            for name, tensor in zip(its_names, group, strict=True)
        }
        for kind, its_names, group in zip(
            ("plane", "block", "side", "kept"), names, groups, strict=True
        )
    ]
