"""From packed units to a checkpoint, which is measured before it takes its place.

What is reported is what was measured on the written files: if they take more than the budget, or
decode to other errors than the units were packed with, there is no checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import folder_atomically
from ..checkpoint import Checkpoint, Totals
from ..checkpoint_writer import CheckpointWriter
from ..errors import CorruptFile
from ..grids.metrics import Errors, errors_of
from ..plan.profile import ACOS_BLOCK, errors_from_json
from ..quantized import QuantizedTensor, rebuild
from ..sources import ModelSource, open_source
from .failures import NotAsMeasured
from .journal import Entry
from .tasks import matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

#: Sums of the same numbers may differ by this much: libraries add them in other orders.
TOLERANCE = 1e-9

Step = Callable[[str, str, int], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint is made of.

    Attributes:
        source: the model.
        packed: the folder of packed units.
        units: journal entries of the packed units.
        norms: channel norms of a matrix; None: all 1.
        plan: JSON values for the manifest.
        bpw: stored bits per weight that must not be exceeded; None: no limit.
    """

    source: ModelSource
    packed: Path
    units: Sequence[Entry]
    norms: Callable[[str], F32 | None]
    plan: Mapping[str, Any]
    bpw: Fraction | None


def assemble(parts: Parts, out: Path, step: Step, between: Callable[[], None]) -> Totals:
    """Write a checkpoint folder, measure it, and put it into its place.

    Args:
        parts: what it is made of.
        out: the folder.
        step: is told (stage, tensor, elements) of every tensor that is written or measured.
        between: is called when all is written and nothing is measured yet.

    Raises:
        NotAsMeasured: the files are not what was planned; nothing is left of them.
    """
    with folder_atomically(out) as folder:
        _write(parts, folder, step)
        between()
        return _measured(parts, Checkpoint(folder), step)


def _write(parts: Parts, folder: Path, step: Step) -> None:
    homes = {name: entry for entry in parts.units for name in entry.body["entries"]}
    writer = CheckpointWriter(folder)
    for name in parts.source.names:
        if name in homes:
            writer.add(name, _packed(parts.packed, homes[name], name))
        else:
            writer.keep(name, parts.source.get(name))
        step("assemble", name, math.prod(parts.source.shape(name)))
    writer.finish(parts.source.companions, parts.plan)


def _packed(folder: Path, entry: Entry, name: str) -> QuantizedTensor:
    """A matrix from its unit's file, checked against its hash."""
    from safetensors import SafetensorError, safe_open

    assert entry.file is not None
    path, said = folder / str(entry.file["name"]), entry.body["entries"][name]
    try:
        with safe_open(path, framework="numpy") as file:
            streams = {key: file.get_tensor(f"{name}.{key}") for key in said["streams"]}
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"'{path}' is absent or not whole: {error}") from error
    return rebuild(said["described"], streams, f"{path}: {name}")


def _measured(parts: Parts, checkpoint: Checkpoint, step: Step) -> Totals:
    """Size and errors of a written checkpoint, which must be those that were planned."""
    total = Errors()
    for entry in parts.units:
        # Opened anew for each unit: what a map of a file has shown counts as memory while it is.
        source = open_source(parts.source.path)
        for name, said in entry.body["entries"].items():
            found = _errors(source, checkpoint, name, parts.norms(name))
            _compare(name, found, errors_from_json(said["errors"]))
            total += found
            step("measure", name, found.elements)
    totals = Totals(total.elements, checkpoint.disk_bytes, total.nmse)
    if parts.bpw is not None and Fraction(8 * totals.disk_bytes, totals.weights) > parts.bpw:
        raise NotAsMeasured(
            f"the checkpoint takes {totals.bpw:.6f} bits per weight on disk, and the budget is "
            f"{float(parts.bpw):g}: it is not kept; please report this"
        )
    return totals


def _errors(source: ModelSource, checkpoint: Checkpoint, name: str, norms: F32 | None) -> Errors:
    """How far a written matrix lies from what it stands for; no array outlives this."""
    decoded = checkpoint.quantized(name).to_float32()
    return errors_of(matrix(source, name), decoded, norms, ACOS_BLOCK)


def _compare(name: str, found: Errors, planned: Errors) -> None:
    """Refuse a matrix whose stored bytes decode to something else than what was packed."""
    pairs = zip(astuple(found), astuple(planned), strict=True)
    if not all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-300) for a, b in pairs):
        raise NotAsMeasured(
            f"{name}: the written file has an NMSE of {found.nmse!r}, and it was packed with "
            f"{planned.nmse!r}: the checkpoint is not kept; was the model changed meanwhile?"
        )
