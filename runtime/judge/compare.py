"""Formats, recipes and checkpoints side by side: on plain data, or judged on a model."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._version import __version__
from ..backend import F32
from ..checkpoint import Checkpoint
from ..checkpoint_writer import write_checkpoint
from ..errors import CorruptFile, RefusedInput, UnusableModel
from ..format import Format, load
from ..manifest import MANIFEST
from ..sources import open_source
from .intervals import Interval, mean_interval
from .judgement import Judgement, run_folder
from .judging import CONTEXT, Reference

if TYPE_CHECKING:
    from ..runs.recipe import Recipe

Progress = Callable[[str, int, int], None]

#: Shape and seed of the Gaussian sample: 2^21 values, in rows that all shipped blocks divide.
GAUSSIAN_SHAPE = (512, 4096)
GAUSSIAN_SEED = 0

#: What is taken of a pair of checkpoints, window against window.
PAIRED = ("delta_nll", "kl", "ear")


def compare_formats(
    formats: Sequence[Format], data: str, *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Bits per weight and error of every format.

    Args:
        formats: the formats.
        data: ``gaussian`` for N(0, 1), or the path of a model, whose linear weights are taken.
        progress: called with what is done, steps done, steps in all.

    Returns:
        One row a format: bpw (stored bits / elements), mse, nmse (squared error / squares)
        and SQNR in dB.

    Raises:
        UnusableModel: ``data`` is neither.
        RefusedInput: a weight holds a NaN or an infinity that a format refuses.
    """
    weights = [0] * len(formats)
    octets = [0] * len(formats)
    errors = [0.0] * len(formats)
    energy = 0.0
    for what, done, total, x in _pieces(data):
        energy += float(np.sum(np.square(x, dtype=np.float64)))
        for index, fmt in enumerate(formats):
            if progress:
                step = done * len(formats) + index
                progress(f"{what} in {fmt.name}", step, total * len(formats))
            try:
                q = fmt.quantize(x)
            except RefusedInput as error:
                raise RefusedInput(f"{what}: {error}") from error
            errors[index] += float(np.sum(np.square(x - q.to_float32(), dtype=np.float64)))
            weights[index] += x.size
            octets[index] += q.nbytes
    if not weights[0]:
        raise UnusableModel(f"'{data}' has no linear weight to compare on")
    return [
        {
            "format": fmt.name,
            "bpw": 8 * octets[index] / weights[index],
            "MSE": errors[index] / weights[index],
            "NMSE": errors[index] / energy if energy else 0.0,
            "SQNR dB": 10 * float(np.log10(energy / errors[index])) if errors[index] else None,
        }
        for index, fmt in enumerate(formats)
    ]


def _pieces(data: str) -> Iterator[tuple[str, int, int, F32]]:
    if data == "gaussian":
        rng = np.random.default_rng(GAUSSIAN_SEED)
        yield "gaussian", 0, 1, rng.standard_normal(GAUSSIAN_SHAPE, dtype=np.float32)
        return
    source = open_source(data)
    names = source.linear_names
    for done, name in enumerate(names):
        yield name, done, len(names), source.get(name).float().numpy()


# -- on a model ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One checkpoint minus another, paired by window of the same text.

    Attributes:
        one: label of the first.
        other: label of the second.
        figures: ``delta_nll``, ``kl`` and ``ear``: the first's minus the second's. A difference
            whose interval holds 0 is not resolved: the text is too short to tell the two apart.
    """

    one: str
    other: str
    figures: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Judgements on the same model and text.

    Attributes:
        labels: what the entries are called, in the order that they were given in.
        judgements: one a label.
    """

    labels: tuple[str, ...]
    judgements: tuple[Judgement, ...]

    @property
    def with_outputs(self) -> bool:
        """Whether all models could be run."""
        return all(j.outputs is not None for j in self.judgements)

    @property
    def measure(self) -> str:
        """What the Pareto front is taken by: ``kl``, or ``nmse`` where a model could not be run."""
        return "kl" if self.with_outputs else "nmse"

    def points(self, measure: str) -> list[tuple[float, float]]:
        """(bits per weight, error) of every entry; see `error_of`."""
        return [(j.bpw, error_of(j, measure).value) for j in self.judgements]

    def pareto(self, measure: str | None = None) -> tuple[bool, ...]:
        """Which entries no other beats in one of bpw and error without losing in the other."""
        return pareto_front(self.points(measure or self.measure))

    def difference(self, one: int, other: int) -> Difference:
        """The first entry minus the second, by their places.

        Raises:
            ValueError: a model could not be run, so that there are no windows.
        """
        a, b = self.judgements[one].outputs, self.judgements[other].outputs
        if a is None or b is None:
            raise ValueError("without outputs there are no windows to pair")
        found = {
            name: mean_interval(
                [x - y for x, y in zip(a.column(name), b.column(name), strict=True)]
            )
            for name in PAIRED
        }
        return Difference(self.labels[one], self.labels[other], found)

    def values(self) -> dict[str, Any]:
        """JSON-ready values: every figure with its interval, every pair with its difference."""
        front = self.pareto()
        rows = [
            {
                "name": label,
                "bpw": judged.bpw,
                "weights": judged.weights,
                "pareto": on_front,
                **{name: found.values() for name, found in judged.figures.items()},
                "missing": judged.missing,
                "notes": list(judged.notes),
            }
            for label, judged, on_front in zip(self.labels, self.judgements, front, strict=True)
        ]
        pairs = combinations(range(len(self.labels)), 2) if self.with_outputs else ()
        differences = [self.difference(i, j) for i, j in pairs]
        return {
            "reference": self.judgements[0].reference,
            "text": self.judgements[0].text,
            "pareto_by": self.measure,
            "rows": rows,
            "differences": [
                {
                    "one": d.one,
                    "other": d.other,
                    **{name: found.values() for name, found in d.figures.items()},
                    "resolved": {name: found.resolved for name, found in d.figures.items()},
                }
                for d in differences
            ],
        }


def error_of(judgement: Judgement, measure: str) -> Interval:
    """A figure as an error, the less the better: 1 - EAR, 1 - ACos, others as they are.

    Args:
        judgement: of the checkpoint.
        measure: ``kl``, ``delta_nll``, ``nmse``, ``mse``, ``wmse``, ``1 - ear`` or ``1 - acos``.
    """
    if measure.startswith("1 - "):
        found = judgement.figures[measure.removeprefix("1 - ")]
        return Interval(1 - found.value, 1 - found.high, 1 - found.low)
    return judgement.figures[measure]


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Which points no other beats: one that is no larger in both and smaller in one."""
    return tuple(
        not any(
            other[0] <= point[0] and other[1] <= point[1] and other != point for other in points
        )
        for point in points
    )


def is_checkpoint(subject: str | Path) -> bool:
    """Whether a thing to compare is a written checkpoint, rather than a format or a recipe."""
    return (Path(subject) / MANIFEST).is_file()


def compare_on_model(
    subjects: Sequence[str | Path],
    reference: Reference,
    *,
    work: Path | None = None,
    calibration_text: str | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Judge checkpoints, formats and recipes on the same model and text.

    The same channel norms weigh in all: those of the reference, or of the first checkpoint's run.
    A checkpoint's own ``judge.json`` is taken where it is of this model, text and options. A format
    or recipe is quantized into a checkpoint of its own first and judged from its file alike.

    Args:
        subjects: folders of checkpoints; names, .fmt files or SOP strings of formats; SOP
            strings with ``+knap``, which are recipes.
        reference: the model and the text, opened.
        work: where checkpoints of formats are kept and found again; None: they are let go.
        calibration_text: what recipes are calibrated on; None: they are not.
        fresh: measure again what is remembered.
        progress: called with what is done, steps done, steps in all.

    Raises:
        RefusedInput, CorruptFile, UnusableModel: see ``Reference.judge``.
        FormatError, UnknownFormat: a subject is neither a checkpoint nor a format.
    """
    planned = [_plan(subject, reference, calibration_text) for subject in subjects]
    reference.settle_calibration([made for _, made in planned if isinstance(made, Path)])
    judged: list[Judgement] = []
    for label, make in planned:
        if progress:
            progress(label, len(judged), len(planned))
        if isinstance(make, Path):
            judged.append(reference.judge(make, fresh=fresh))
            continue
        with _room(work, label, make.fingerprint) as out:
            if not _is_whole(out):
                make.write(out)
            judged.append(reference.judge(out, fresh=fresh))
    return Comparison(_unlike([label for label, _ in planned]), tuple(judged))


@dataclass(frozen=True, slots=True)
class _Made:
    """A checkpoint to be written: how, and what decides its bytes."""

    fingerprint: str
    write: Callable[[Path], object]


def _plan(subject: str | Path, reference: Reference, text: str | None) -> tuple[str, Path | _Made]:
    """What to call a subject, and its folder or how to make it."""
    if is_checkpoint(subject) or Path(subject).is_dir():
        folder = Path(subject)
        Checkpoint(folder)  # what is no checkpoint is refused before anything is measured
        return folder.resolve().name, folder
    recipe = _recipe(subject, reference.at_most(CONTEXT))
    if recipe is not None:
        return str(subject), _by_recipe(recipe, reference, text)
    fmt = load(subject)
    fingerprint = _fingerprint(reference, fmt.content_hash)
    return fmt.name, _Made(fingerprint, lambda out: write_checkpoint(reference.source, fmt, out))


def _recipe(subject: str | Path, context: int) -> Recipe | None:
    """The recipe that a subject is; None where it is a format and nothing beside."""
    from ..runs.recipe import Recipe

    recipe = Recipe.of(subject, context=context)
    return None if recipe.is_fixed else recipe


def _by_recipe(recipe: Recipe, reference: Reference, text: str | None) -> _Made:
    from ..runs.run import quantize_model

    fingerprint = _fingerprint(reference, str(recipe.to_json()), text or "")
    return _Made(fingerprint, lambda out: quantize_model(reference.path, out, recipe, text=text))


def _fingerprint(reference: Reference, *parts: str) -> str:
    said = "\0".join((__version__, reference.hash, *parts))
    return hashlib.sha256(said.encode()).hexdigest()


@contextmanager
def _room(work: Path | None, label: str, fingerprint: str) -> Iterator[Path]:
    """The folder of a checkpoint that is made here; its name tells what decides its bytes."""
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in label)
    name = f"{plain}-{fingerprint[:16]}"
    if work is not None:
        yield work / name
        return
    with tempfile.TemporaryDirectory(prefix="fmtc-compare-") as folder:
        out = Path(folder) / name
        yield out
        shutil.rmtree(run_folder(out), ignore_errors=True)


def _is_whole(out: Path) -> bool:
    try:
        Checkpoint(out)
    except CorruptFile:
        return False
    return True


def _unlike(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that are told apart: one that came before gets a number."""
    seen: dict[str, int] = {}
    told = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        told.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return tuple(told)
