"""Layers for torch whose weights are packed."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from .quantized import QuantizedTensor
from .torch_ops import LEVEL, from_quantized, named, stream_names, to_quantized


class Linear(torch.nn.Module):
    """y = x @ W^T + b with W packed in a format: ``torch.ops.fmtc.linear`` as a layer.

    The weight's streams are buffers of bytes, which ``half()`` and ``to(dtype)`` leave as they
    are; only the bias is a parameter. ``state_dict`` holds the streams, the bias, and the text
    and the hash of the format as bytes (so that safetensors takes it); ``load_state_dict``
    refuses a state of another format.

    Args:
        in_features: elements of an input row.
        out_features: elements of an output row.
        fmt: what ``format_keys.register`` takes: a format, a name, a path or a .fmt text.
        bias: whether there is one.
        activations: what inputs are rounded to before they are multiplied, one of
            ``compiler.product.ACTIVATIONS``.
        streams: the weight, as ``torch.ops.fmtc.encode`` packs it; None: packed zeros.
        device: of streams that are made, and of the bias.
        dtype: of the bias.

    Raises:
        ValueError: the streams are not of such a weight, there are no such activations, or
            (``NoIntegerProduct``) they cannot be multiplied by this format.
    """

    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        fmt: compiled.Format | str | Path,
        bias: bool = True,
        *,
        activations: str = "float32",
        streams: Sequence[torch.Tensor] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activations not in ACTIVATIONS:
            raise ValueError(f"no activations '{activations}'; there are {', '.join(ACTIVATIONS)}")
        self.in_features = in_features
        self.out_features = out_features
        self.activations = activations
        self._key = register(fmt)
        self.format: Format = format_of(self._key)
        if activations != "float32":
            integer_grids(self.format)
        if streams is None:
            zeros = torch.zeros(out_features, in_features, device=device)
            streams = torch.ops.fmtc.encode(zeros, self._key)
        parts = named(streams, self._key, (out_features, in_features))
        self._names = tuple(f"weight_{name.replace('.', '_')}" for name in parts)
        for name, stream in zip(self._names, parts.values(), strict=True):
            self.register_buffer(name, stream)
        empty = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if empty is None else torch.nn.Parameter(empty))

    @classmethod
    def from_linear(
        cls,
        linear: torch.nn.Linear,
        fmt: compiled.Format | str | Path,
        *,
        activations: str = "float32",
    ) -> Linear:
        """The layer in a format: its weight packed, its bias shared."""
        streams = torch.ops.fmtc.encode(linear.weight, register(fmt))
        return cls._of(linear.weight.shape, fmt, streams, linear.bias, activations)

    @classmethod
    def from_quantized(
        cls,
        weight: QuantizedTensor,
        bias: torch.nn.Parameter | None = None,
        *,
        activations: str = "float32",
    ) -> Linear:
        """A layer of a packed weight [out features, in features], such as a checkpoint's."""
        key, streams = from_quantized(weight)
        return cls._of(weight.shape, key, streams, bias, activations)

    @classmethod
    def _of(
        cls,
        shape: Sequence[int],
        fmt: compiled.Format | str | Path,
        streams: Sequence[torch.Tensor],
        bias: torch.nn.Parameter | None,
        activations: str,
    ) -> Linear:
        rows, length = shape
        layer = cls(length, rows, fmt, bias=False, activations=activations, streams=streams)
        layer.bias = bias
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., out features] in the dtype of ``x``, floats [..., in features]."""
        shape = [self.out_features, self.in_features]
        y: torch.Tensor = torch.ops.fmtc.linear(
            x, self._streams(), self._key, shape, self.activations
        )
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def quantized(self) -> QuantizedTensor:
        """The packed weight, its bytes shared with this layer where it is on the CPU."""
        shape = (self.out_features, self.in_features)
        return to_quantized(self._streams(), self._key, shape)

    def extra_repr(self) -> str:
        """What ``print`` shows between the parentheses."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, format={self.format.name}, "
            f"activations={self.activations}"
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
        return [self.get_buffer(name) for name in self._names]

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
        """Before anything is copied: check the format, and make room for sides of another size."""
        state = state_dict.get(f"{prefix}_extra_state")
        try:
            if state is not None:
                self.set_extra_state(state)
        except CorruptFile as error:
            error_msgs.append(f"{prefix}_extra_state: {error}")
            return
        sized = stream_shapes(self.format, self.out_features, self.in_features)
        for name, stream in zip(self._names, stream_names(self._key), strict=True):
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        register(self.format)  # the process may be another one
