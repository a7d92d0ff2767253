"""What workers do: find a unit's pair and profile its candidates, or pack it in the chosen one.

A task depends on nothing but what it carries and the model's files; its result does not depend
on who carries it out, or when. One matrix of the unit is in memory at a time.
"""

from __future__ import annotations

import os
import secrets
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RefusedInput, UnusableModel
from ..grids.metrics import errors_of
from ..plan.profile import (
    ACOS_BLOCK,
    compiled,
    errors_to_json,
    profile_unit,
    quantize_matrix,
)
from ..plan.units import Unit
from ..quantized import QuantizedTensor, describe_tensor
from ..safetensors_stream import SafetensorsWriter
from ..sources import ModelSource, open_source
from .journal import file_entry
from .memory import forget_peak, peak_bytes, resident_bytes
from .recipe import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

#: Of each sampled block that a search looks at, so many are read: those of every k-th row.
ROWS_SPARE = 8


@dataclass(frozen=True, slots=True)
class Task:
    """A unit of a model, and what is to be done with it.

    Attributes:
        stage: ``profile`` or ``pack``.
        index: of the unit.
        unit: its matrices.
        elements: of all of them.
        working: estimated bytes of memory.
        model: path of the model, as the workers see it.
        recipe: what is done.
        norms: channel norms of its input, float32 [in]; None: all 1.
        choice: label and .fmt text that it is packed in.
        backend: which back end quantizes; all give the same bytes.
    """

    stage: str
    index: int
    unit: Unit
    elements: int
    working: int
    model: str
    recipe: Recipe
    norms: F32 | None = None
    choice: tuple[str, str] = ("", "")
    backend: str = "auto"

    @property
    def key(self) -> str:
        """What the journal calls it."""
        return f"{self.stage}-{self.index:05d}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task could not be done: the error's class, its message, and where it came from."""

    kind: str
    message: str
    trace: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task found.

    Attributes:
        body: JSON values for the journal.
        file: what the journal says of the packed file; None if there is none.
        seconds: that it took.
        peak_bytes: most resident memory of the worker meanwhile.
        base_bytes: resident memory of the worker before.
        worker: host and process.
        failure: why it could not be done; None if it was.
    """

    body: Mapping[str, Any] = field(default_factory=dict)
    file: Mapping[str, Any] | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    base_bytes: int = 0
    worker: str = ""
    failure: Failure | None = None


def carry_out(task: Task, packed: Path) -> Outcome:
    """Do a task; an error of its own is told, not raised: it has to cross to another process.

    Args:
        task: what to do.
        packed: the folder that packed units are written to.
    """
    forget_peak()
    before = resident_bytes()
    begun = time.perf_counter()
    worker = f"{os.uname().nodename}:{os.getpid()}"
    try:
        body, file = _WORK[task.stage](task, packed)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run's process raises it
        return Outcome(worker=worker, failure=_failure(error))
    seconds = time.perf_counter() - begun
    return Outcome(body, file, seconds, peak_bytes(), before, worker)


def _failure(error: Exception) -> Failure:
    from .. import errors

    known = [c.__name__ for c in type(error).__mro__ if c.__module__ == errors.__name__]
    kind = known[0] if known else "OSError" if isinstance(error, OSError) else "other"
    message = str(error) if kind != "other" else f"{type(error).__name__}: {error}"
    return Failure(kind, message, "".join(traceback.format_exception(error)))


def matrix(source: ModelSource, name: str) -> F32:
    """A matrix as binary32 numbers, float32 [out, in]."""
    values: F32 = source.get(name).float().numpy()
    return values


def _alone(model: str, name: str) -> F32:
    """A matrix whose file is closed again: what was seen of a mapped file counts as memory."""
    return matrix(open_source(model), name)


# -- profile -------------------------------------------------------------------------------


def _profile(task: Task, _packed: Path) -> tuple[dict[str, Any], None]:
    source, recipe = open_source(task.model), task.recipe
    body: dict[str, Any] = {}
    base = recipe.base
    if recipe.search is not None:
        base, body["found"] = _found(task, source)
    candidates = recipe.candidates(base)
    if recipe.bpw is None:
        body["choice"] = list(candidates[0])
        return body, None
    profile = profile_unit(task.unit, lambda name: _alone(task.model, name), task.norms, candidates)
    body["profile"] = profile.to_json()
    return body, None


def _found(task: Task, source: ModelSource) -> tuple[str, dict[str, Any]]:
    """The .fmt text of the unit's own pair, and how it was found."""
    from ..grids.search import search_pair

    options = task.recipe.search
    assert options is not None
    sampled = [
        _some_rows(source, name, task, options.sample * options.block) for name in task.unit.members
    ]
    try:
        found = search_pair(sampled, task.norms, options)
    except RefusedInput as error:
        raise RefusedInput(f"{task.unit.name}: {error}") from error
    trace = [float(value) for value in found.trace]
    said = {"atoms": list(found.atoms), "score": float(found.score), "tried": found.tried}
    return found.text, {**said, "trace": trace}


def _some_rows(source: ModelSource, name: str, task: Task, wanted: int) -> F32:
    """Rows of a matrix for a search: all, or every k-th where that is many more than it looks at.

    Args:
        source: the model.
        name: the matrix.
        task: whose unit it belongs to.
        wanted: elements that the search looks at, of the whole unit.
    """
    rows, _ = source.shape(name)
    stride = max(1, task.elements // (ROWS_SPARE * wanted))
    if stride == 1:
        return matrix(source, name)
    picked = [source.rows(name, i, i + 1).float().numpy() for i in range(0, rows, stride)]
    return np.concatenate(picked)


# -- pack ----------------------------------------------------------------------------------


def _pack(task: Task, packed: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    source = open_source(task.model)
    fmt = compiled(task.choice[1])
    packed.mkdir(parents=True, exist_ok=True)
    temporary = packed / f".{task.key}.{secrets.token_hex(6)}"
    writer = SafetensorsWriter(temporary)
    entries = {}
    try:
        for name in task.unit.members:
            q = _quantized(task, source, name)
            entries[name] = _entry(q, matrix(source, name), task.norms)
            for stream, octets in q.streams.items():
                data = np.ascontiguousarray(octets)
                writer.add(f"{name}.{stream}", "U8", data.shape, data.data)
        writer.close()
        _flush(temporary)
        path = packed / f"{task.key}.safetensors"
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        temporary.with_name(f"{temporary.name}.part").unlink(missing_ok=True)
    body = {"label": task.choice[0], "format": fmt.content_hash, "entries": entries}
    return body, file_entry(path)


def _quantized(task: Task, source: ModelSource, name: str) -> QuantizedTensor:
    fmt = compiled(task.choice[1])
    tensor = source.get(name)
    try:
        if task.backend != "auto":
            return fmt.quantize(tensor, backend=task.backend)
        return quantize_matrix(fmt, tensor, task.norms)
    except RefusedInput as error:
        raise RefusedInput(f"{name}: {error}") from error
    except TypeError as error:
        raise UnusableModel(f"'{source.path}', {name}: {error}") from error


def _entry(q: QuantizedTensor, w: F32, norms: F32 | None) -> dict[str, Any]:
    """What must stand beside a packed matrix, and how far it lies from what it stands for."""
    errors = errors_of(w, q.to_float32(), norms, ACOS_BLOCK)
    return {
        "described": describe_tensor(q),
        "streams": list(q.streams),
        "errors": errors_to_json(errors),
        "octets": q.nbytes,
    }


def _flush(path: Path) -> None:
    """Put a file's bytes on the disk before it gets its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


_WORK: dict[str, Callable[[Task, Path], tuple[dict[str, Any], dict[str, Any] | None]]] = {
    "profile": _profile,
    "pack": _pack,
}
