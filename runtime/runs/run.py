"""A run: a model, a recipe, and a folder where every finished step is kept.

Calibrate, profile, allocate, pack, assemble, measure. Killed at any moment, the same call goes on
where it was and ends with the same bytes; nothing that was finished is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint import Checkpoint, Totals
from ..checkpoint_writer import refuse_bad_places
from ..errors import CorruptFile, RefusedInput, UnusableModel
from ..sources import ModelSource, open_source
from .engines import Engine, InThisProcess, LocalEngine, workers_wanted
from .fingerprint import can_run, parts_of
from .folder import RunFolder
from .memory import bound, working_bytes
from .progress import Show
from .recipe import Recipe
from .session import Session

if TYPE_CHECKING:
    from ..calibration import Calibration

#: A model with no more weights than this is rounded to a fixed format in this process.
SMALL = 1 << 22

Notice = Callable[[str], None]


def _silent(_: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made.

    Attributes:
        checkpoint: the folder.
        totals: measured on its files.
        log: one line a unit.
        seconds: of each stage, in this session.
    """

    checkpoint: Checkpoint
    totals: Totals
    log: Path
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Asked:
    """What channel norms a run shall have: at most one of the two is given.

    Attributes:
        text: to run the model on.
        calibration: norms that were found before.
        none: all channels count alike, whatever the recipe uses.
    """

    text: str | None = None
    calibration: Calibration | None = None
    none: bool = False


def quantize_model(
    model: str | Path,
    out: str | Path,
    recipe: Recipe,
    *,
    text: str | None = None,
    calibration: Calibration | None = None,
    norms: bool = True,
    workers: int | None = None,
    engine: str = "local",
    backend: str = "auto",
    progress: Show | None = None,
    notice: Notice = _silent,
    fresh: bool = False,
) -> Result:
    """Quantize a model by a recipe, or go on with a run that was killed.

    Args:
        model: a Hugging Face folder, a .safetensors file or a .gguf file.
        out: the checkpoint folder; ``OUT.run`` beside it holds the journal and the log.
        recipe: what is done.
        text: what channel norms are taken from; None: a text that every Python has.
        calibration: norms that were found before, instead of a text.
        norms: False: all channels count alike.
        workers: processes; None: one for each processor. Results do not depend on it.
        engine: ``local``; ``here``: in this process, one task after the other; ``ray``: a
            cluster on this machine; or ``ray://host:port``.
        backend: which back end quantizes to a fixed format; all give the same bytes.
        progress: is told how far the run is.
        notice: is told what a user should know and no result says.
        fresh: throw away unfinished work of an earlier run.

    Raises:
        UnusableModel: there is no model, or none that can be quantized, or calibrated.
        RefusedInput: a weight, an option or a budget cannot be; another run's unfinished work is
            in the folder (``OtherRun``), or another process (``RunInUse``).
        FileExistsError: something stands at ``out`` that is no checkpoint.
        WorkerDied, TaskFailed, NotAsMeasured: the run cannot go on.
    """
    source, place = open_source(model), Path(out).absolute()
    refuse_bad_places(source, place)
    if not source.linear_names:
        raise UnusableModel(f"'{source.path}' has no linear weight to quantize")
    asked = _asked(source, recipe, Asked(text, calibration, not norms), notice)
    _check_backend(recipe, backend, asked)
    folder = RunFolder(place)
    with folder.locked():
        parts = parts_of(source, recipe, _identity(asked))
        said = folder.begin(parts, fresh)
        if said:
            notice(said)
        done = _finished(folder, notice)
        if done is not None:
            return done
        folder.reopen(parts)
        worker = _engine(engine, workers, recipe, source, folder)
        try:
            session = Session(source, folder, recipe, worker, progress, notice, backend)
            totals = session.run(asked.text, asked.calibration)
        finally:
            worker.close()
        checkpoint = Checkpoint(place)
        folder.finish(
            parts,
            {
                "manifest": checkpoint.manifest_hash,
                "weights": totals.weights,
                "disk_bytes": totals.disk_bytes,
                "nmse": totals.nmse,
            },
        )
        return Result(checkpoint, totals, folder.log, session.seconds)


def _asked(source: ModelSource, recipe: Recipe, asked: Asked, notice: Notice) -> Asked:
    """What the run is calibrated on: nothing where no byte depends on it and nothing is given."""
    if asked.none:
        return Asked(none=True)
    if asked.calibration is not None:
        return asked
    if can_run(source.path):
        if asked.text is None and recipe.uses_norms:
            from ..calibration import default_text

            return Asked(default_text())
        return asked
    if asked.text is not None:
        raise UnusableModel(
            f"'{source.path}' cannot be calibrated on a text: that runs the model, and needs a "
            f"Hugging Face folder with its configuration and tokenizer{_way_out(source)}"
        )
    if recipe.uses_norms:
        notice(
            f"'{source.path}' is no folder that transformers can run: there is no calibration, "
            f"and all channels count alike{_way_out(source)}"
        )
    return Asked(none=True)


def _way_out(source: ModelSource) -> str:
    """What makes a model that can be run of one that cannot."""
    if source.path.suffix != ".gguf":
        return ""
    return f"; `fmtc convert {source.path} -o FOLDER` makes such a folder of it"


def _identity(asked: Asked) -> str:
    """What stands for the calibration in the fingerprint."""
    if asked.calibration is not None:
        return asked.calibration.fingerprint
    if asked.text is None:
        return "none"
    from ..calibration import text_hash

    return text_hash(asked.text)


def _check_backend(recipe: Recipe, backend: str, asked: Asked) -> None:
    if backend == "auto":
        return
    if not recipe.is_fixed or asked.text is not None or asked.calibration is not None:
        raise RefusedInput(
            f"--backend {backend} is for one fixed format without calibration: leave it out"
        )


def _finished(folder: RunFolder, notice: Notice) -> Result | None:
    """The result of the same run, if it came to its end and the checkpoint is still whole."""
    said = folder.result
    if said is None:
        return None
    try:
        checkpoint = Checkpoint(folder.out)
        checkpoint.check_files()
    except CorruptFile as error:
        notice(f"{error}; what was found out is kept, and it is packed again")
        return None
    if checkpoint.manifest_hash != said["manifest"]:
        notice(f"'{folder.out}' holds something else by now: it is made again")
        return None
    totals = Totals(said["weights"], said["disk_bytes"], said["nmse"])
    notice(f"'{folder.out}' is finished already, and whole")
    return Result(checkpoint, totals, folder.log, {})


def _engine(
    name: str, workers: int | None, recipe: Recipe, source: ModelSource, folder: RunFolder
) -> Engine:
    """Who carries out the tasks.

    Raises:
        RefusedInput: there is no such engine.
        MissingPackage: Ray is asked for and not installed.
    """
    if name == "ray" or name.startswith("ray://"):
        from .ray_engine import RayEngine

        return RayEngine(name, workers, source, folder.packed)
    if name not in ("local", "here"):
        raise RefusedInput(f"there is no engine '{name}': local, here, ray or ray://HOST:PORT")
    weights = sum(rows * columns for rows, columns in map(source.shape, source.linear_names))
    if name == "here" or (workers is None and recipe.is_fixed and weights <= SMALL):
        return InThisProcess(folder.packed)
    largest = max(working_bytes(source, [name], "profile") for name in source.linear_names)
    return LocalEngine(workers_wanted(workers), folder.packed, max(1, bound(source) // largest))
