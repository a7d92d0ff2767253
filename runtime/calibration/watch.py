"""Seeing what a layer's matrices are multiplied with, whichever module holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from ..errors import UnusableModel
from .weights import Piece

#: Rows that are widened to float64 at once.
_ROWS = 32


@dataclass(frozen=True, slots=True)
class Watched:
    """A parameter of a layer, and the stored matrices in it."""

    parameter: torch.Tensor
    pieces: tuple[Piece, ...]

    def matrices(self, weight: torch.Tensor) -> list[str]:
        """The stored matrices that ``weight``, a part of the parameter, consists of.

        Empty if it is neither the whole of a matrix nor one matrix of a stack.
        """
        whole = self.parameter
        if weight.shape == whole.shape and weight.stride() == whole.stride():
            return [piece.name for piece in self.pieces]
        if whole.ndim != 3 or weight.shape != whole.shape[1:]:
            return []
        if weight.stride() != whole.stride()[1:]:
            return []
        expert = (weight.storage_offset() - whole.storage_offset()) // whole.stride(0)
        return [piece.name for piece in self.pieces if piece.expert == expert]


@dataclass(slots=True)
class Inputs:
    """What one window did in one layer.

    Attributes:
        same: weight name -> the first weight of the layer that took the same input.
        counts: weight name -> how many tokens that input had.
        squares: first weight -> sum over tokens of each channel's square, float64 ``[in]``.
    """

    same: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    squares: dict[str, torch.Tensor] = field(default_factory=dict)


Keep = Callable[[str, torch.Tensor], None]


class Watch(TorchFunctionMode):
    """While it is entered, records the inputs of watched parameters in this thread.

    Multiplications are seen where all linear layers make them, `torch.nn.functional.linear`, so
    that routers and stacked experts, which are no ``nn.Linear``, count as well.

    Args:
        watched: address of a parameter's storage -> the parameter.
        keep: called with (weight name, input float32 ``[tokens, in]``) for each new input.
    """

    def __init__(self, watched: Mapping[int, Watched], keep: Keep | None) -> None:
        super().__init__()
        self.inputs = Inputs()
        self._watched = watched
        self._keep = keep
        self._last: tuple[str, torch.Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at the call, then make it."""
        kwargs = kwargs or {}
        if func is linear:
            x = args[0] if args else kwargs["input"]
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            found = self._watched.get(weight.untyped_storage().data_ptr())
            if found is not None:
                self._see(found.matrices(weight), x)
        return func(*args, **kwargs)

    def _see(self, names: list[str], x: torch.Tensor) -> None:
        if not names or not x.numel():
            return
        twice = self.inputs.same.keys() & names
        if twice:
            raise UnusableModel(
                f"the model multiplies with {min(twice)} twice in one layer: such models are not "
                "calibrated"
            )
        rows = x.detach().reshape(-1, x.shape[-1])
        if self._last is None or self._last[1] is not x:
            self._last = (names[0], x)
            self.inputs.squares[names[0]] = _sum_of_squares(rows)
            if self._keep is not None:
                self._keep(names[0], rows)
        for name in names:
            self.inputs.same[name] = self._last[0]
            self.inputs.counts[name] = len(rows)


def _sum_of_squares(rows: torch.Tensor) -> torch.Tensor:
    """Sum over rows of the squares, in float64, always in the same order."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), _ROWS):
        total += rows[start : start + _ROWS].double().square_().sum(0)
    return total
