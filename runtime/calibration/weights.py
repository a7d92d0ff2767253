"""A model's stored tensors, copied a piece at a time into the parameters that need them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CorruptFile, UnusableModel
from ..sources import ModelSource

#: Bytes of a file that are mapped at once: what is mapped counts as memory until it is closed.
_PIECE = 1 << 21

#: Rows of an embedding that are read at once: each may bring in 64 KiB of the file.
_ROWS = 64

#: Names of a block of experts: in transformers, and in files.
_BLOCKS = ((".mlp.", ".block_sparse_moe."),)

#: Matrices of an expert that transformers keeps side by side: gate and up, and down.
_STACKED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one stored tensor lies in a parameter.

    Attributes:
        name: of the stored tensor.
        expert: which matrix of a stack it belongs to; None for a parameter that is no stack.
        start: its first row there.
    """

    name: str
    expert: int | None = None
    start: int = 0


class StoredWeights:
    """The tensors of a model's folder, read without keeping any of it in memory.

    Args:
        source: the folder, opened.
        prefix: what transformers puts before the names of a model without a head, such as
            ``model.``; files may lack it.
    """

    def __init__(self, source: ModelSource, prefix: str) -> None:
        self._source = source
        self._prefix = prefix
        self._homes: dict[str, Path] = {}
        for file in source.files:
            with _opened(file) as handle:
                self._homes.update(dict.fromkeys(handle.keys(), file))

    def pieces(self, parameter: str, shape: torch.Size) -> tuple[Piece, ...]:
        """The stored tensors that make up a parameter.

        Raises:
            UnusableModel: the folder has no such tensors, or of another shape.
        """
        for name in self._spellings(parameter):
            if name in self._homes:
                if self._source.shape(name) != tuple(shape):
                    stored = self._source.shape(name)
                    raise UnusableModel(f"{name} is {stored}, the model wants {tuple(shape)}")
                return (Piece(name),)
            stacked = self._stack(name, shape)
            if stacked:
                return stacked
        raise UnusableModel(
            f"'{self._source.path}' has no tensor for the model's {parameter} {tuple(shape)}; "
            "layers whose weights are stored in another arrangement are not calibrated"
        )

    def has(self, parameter: str) -> bool:
        """Whether a tensor of that name is stored."""
        return any(name in self._homes for name in self._spellings(parameter))

    def fill(self, target: torch.Tensor, pieces: tuple[Piece, ...]) -> None:
        """Copy stored tensors into a float32 parameter, a few megabytes at a time."""
        for piece in pieces:
            part = target if piece.expert is None else target[piece.expert]
            shape = self._source.shape(piece.name)
            if not shape:
                part.copy_(self._source.get(piece.name))
                continue
            row = max(1, part[0].numel() * 4)
            step = max(1, _PIECE // row)
            for start in range(0, shape[0], step):
                stop = min(start + step, shape[0])
                with _opened(self._homes[piece.name]) as handle:
                    rows = handle.get_slice(piece.name)[start:stop]
                    part[piece.start + start : piece.start + stop].copy_(rows)
                    del rows

    def rows(self, parameter: str, shape: torch.Size, wanted: torch.Tensor) -> torch.Tensor:
        """Some rows of a table, float32; only these are read."""
        (piece,) = self.pieces(parameter, shape)
        table = torch.empty((len(wanted), *shape[1:]), dtype=torch.float32)
        for begin in range(0, len(wanted), _ROWS):
            with _opened(self._homes[piece.name]) as handle:
                stored = handle.get_slice(piece.name)
                for at, row in enumerate(wanted[begin : begin + _ROWS].tolist(), start=begin):
                    table[at].copy_(stored[row : row + 1][0])
        return table

    def _spellings(self, parameter: str) -> Iterator[str]:
        names = [parameter]
        if parameter.startswith(self._prefix):
            names.append(parameter.removeprefix(self._prefix))
        for name in names:
            yield name
            for ours, theirs in _BLOCKS:
                if ours in name:
                    yield name.replace(ours, theirs)

    def _stack(self, name: str, shape: torch.Size) -> tuple[Piece, ...]:
        """The matrices of all experts that a parameter [experts, rows, columns] stacks."""
        home, _, leaf = name.rpartition(".")
        if leaf not in _STACKED or len(shape) != 3 or not home.endswith("experts"):
            return ()
        for matrices in _STACKED[leaf]:
            parts = [
                (expert, f"{home}.{expert}.{matrix}.weight")
                for expert in range(shape[0])
                for matrix in matrices
            ]
            rows = shape[1] // len(matrices)
            if all(
                part in self._homes and self._source.shape(part) == (rows, shape[2])
                for _, part in parts
            ):
                return tuple(
                    Piece(part, expert, rows * (i % len(matrices)))
                    for i, (expert, part) in enumerate(parts)
                )
        return ()


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"'{file}' is no whole safetensors file: {error}") from error
