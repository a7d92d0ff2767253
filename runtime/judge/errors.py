"""Errors of a written checkpoint's matrices against the weights that they stand for.

Everything is decoded from the packed bytes on disk, one matrix at a time. What a matrix adds to
the sums is kept, so that totals are exact and intervals over matrices can be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..backend import F32
from ..checkpoint import Checkpoint
from ..errors import RefusedInput
from ..grids.metrics import Errors, errors_of
from ..plan.profile import ACOS_BLOCK
from ..sources import ModelSource
from .intervals import Interval, ratio_interval

Progress = Callable[[str, int, int], None]

#: Figure -> the sums that it is a ratio of.
FIGURES = {
    "acos": ("cosines", "blocks"),
    "mse": ("squared", "elements"),
    "nmse": ("squared", "energy"),
    "wmse": ("weighted", "weighted_energy"),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix: what it is in, what it takes, how far it is off.

    Attributes:
        name: the weight's.
        format: the name of its format; ``format_hash``: its content hash.
        octets: stored bytes of its streams and its second level.
        errors: sums, from the written file.
    """

    name: str
    format: str
    format_hash: str
    octets: int
    errors: Errors

    @property
    def bpw(self) -> float:
        """Stored bits per weight."""
        return 8 * self.octets / self.errors.elements if self.errors.elements else 0.0

    def values(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Matrix:
        """The inverse of ``values``."""
        return cls(**{**values, "errors": Errors(**values["errors"])})


def checkpoint_errors(
    checkpoint: Checkpoint,
    source: ModelSource,
    norms: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Matrix, ...]:
    """Errors of every packed matrix, in the checkpoint's order.

    ACos takes blocks of 16 elements, whatever blocks a format has, so that formats compare.

    Args:
        checkpoint: the written file; every byte that is read is checked against its hash.
        source: the model that it was made from.
        norms: weight name -> channel norms float32 [in], NumPy or torch; None, or a name that is
            absent: all 1.
        progress: called with what is done, matrices done, matrices in all.

    Raises:
        RefusedInput: the source lacks a matrix, or has it in another shape.
        CorruptFile: the checkpoint is damaged.
    """
    names, found = checkpoint.quantized_names, []
    for index, name in enumerate(names):
        if progress:
            progress("measuring weights", index, len(names))
        w = _original(checkpoint, source, name)
        q = checkpoint.quantized(name)
        decoded = q.to_float32().reshape(w.shape)
        c = None if norms is None or name not in norms else np.asarray(norms[name])
        errors = errors_of(w, decoded, c, ACOS_BLOCK)
        found.append(Matrix(name, q.format.name, q.format.content_hash, q.nbytes, errors))
    return tuple(found)


def _original(checkpoint: Checkpoint, source: ModelSource, name: str) -> F32:
    shape = checkpoint.shape(name)
    if name not in source.tensors:
        raise RefusedInput(
            f"'{source.path}' has no weight {name}: it is not the model that "
            f"'{checkpoint.folder}' was made from"
        )
    if source.shape(name) != shape:
        raise RefusedInput(
            f"{name} has the shape {list(source.shape(name))} in '{source.path}' and "
            f"{list(shape)} in '{checkpoint.folder}': it is not the model that was quantized"
        )
    w: F32 = source.get(name).float().numpy()
    return w.reshape(-1, w.shape[-1]) if w.ndim != 2 else np.ascontiguousarray(w)


def total(matrices: Sequence[Matrix]) -> Errors:
    """All matrices' sums added up."""
    return sum((m.errors for m in matrices), Errors())


def figure(matrices: Sequence[Matrix], name: str) -> Interval:
    """A figure of the whole checkpoint with an interval over matrices.

    Args:
        matrices: of the checkpoint.
        name: ``acos``, ``mse``, ``nmse`` or ``wmse``. Each is a ratio of sums, so that a matrix
            weighs by its elements (blocks, energy); see `ratio_interval`.
    """
    over, under = FIGURES[name]
    return ratio_interval(
        [float(getattr(m.errors, over)) for m in matrices],
        [float(getattr(m.errors, under)) for m in matrices],
    )
