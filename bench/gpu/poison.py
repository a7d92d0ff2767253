"""Memory that gives away who reads or writes where it should not.

Under ``Poison`` every tensor that torch allocates is filled with bytes of 0xFF, which is NaN in
every float, and lies between two guards of them. A kernel that leaves a place of its output out,
or uses what lies outside of its input, then computes NaN; one that writes outside is found by
``check``. On the CPU it works alike, with Triton's interpreter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

T = TypeVar("T")

#: Bytes before and after a tensor; a multiple of every alignment that kernels may assume.
GUARD = 4096
#: What guards and new tensors are filled with.
FILL = 0xFF

_EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_FILLED = {"zeros", "zeros_like", "new_zeros", "full", "full_like", "new_full", "ones"}


class Overrun(AssertionError):
    """A kernel wrote outside of its memory."""


class Poison(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, new tensors of a device are guarded.

    Args:
        device: ``cuda`` or ``cpu``: tensors elsewhere are left alone.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self._guarded: list[tuple[str, torch.Tensor, int]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See ``TorchDispatchMode``."""
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in _EMPTY | _FILLED or not isinstance(made, torch.Tensor):
            return made
        if made.device.type != self.device or not made.is_contiguous():
            return made
        guarded = self._room(made, f"a new {made.dtype} {list(made.shape)}")
        if name in _FILLED:
            guarded.copy_(made)
        return guarded

    def guard(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor between guards."""
        with _disable_current_modes():
            whole = tensor.contiguous()
            guarded = self._room(whole, f"an input {whole.dtype} {list(whole.shape)}")
            guarded.copy_(whole)
            return guarded

    def check(self) -> int:
        """How many guards stand.

        Raises:
            Overrun: one was written to; the message says beside what, and how far off.
        """
        for what, memory, size in self._guarded:
            for side, guard in (("before", memory[:GUARD]), ("after", memory[GUARD + size :])):
                touched = torch.nonzero(guard != FILL)
                if len(touched):
                    place = int(touched[0])
                    off = GUARD - place if side == "before" else place
                    raise Overrun(f"{off} bytes {side} {what} something was written")
        return 2 * len(self._guarded)

    def _room(self, like: torch.Tensor, what: str) -> torch.Tensor:
        size = like.numel() * like.element_size()
        memory = torch.full((size + 2 * GUARD,), FILL, dtype=torch.uint8, device=like.device)
        self._guarded.append((what, memory, size))
        return memory[GUARD : GUARD + size].view(like.dtype).view(like.shape)


def map_tensors(value: T, function: Callable[[torch.Tensor], torch.Tensor]) -> T:
    """A copy of nested tuples, lists, mappings and dataclasses with other tensors in them."""
    made: Any = value
    if isinstance(value, torch.Tensor):
        made = function(value)
    elif isinstance(value, tuple | list):
        made = type(value)(map_tensors(item, function) for item in value)
    elif isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) for v in value.values()):
        made = {key: map_tensors(item, function) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type) and _has_tensors(value):
        made = copy.copy(value)
        known = {field.name for field in fields(value)}
        for name in set(getattr(made, "__dict__", ())) - known:
            del made.__dict__[name]  # what was worked out from the other tensors
        for field in fields(value):
            changed = map_tensors(getattr(value, field.name), function)
            object.__setattr__(made, field.name, changed)
    result: T = made
    return result


def _has_tensors(value: Any) -> bool:
    """Whether there is a tensor in a dataclass: a format, say, is left as it is."""
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, tuple | list):
        return any(_has_tensors(item) for item in value)
    if isinstance(value, Mapping):
        return any(_has_tensors(item) for item in value.values())
    if is_dataclass(value) and not isinstance(value, type):
        return any(_has_tensors(getattr(value, f.name)) for f in fields(value))
    return False
