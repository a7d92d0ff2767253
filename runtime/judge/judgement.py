"""What was found about a checkpoint, and the file that it is remembered in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..._version import __version__
from ..atomic import write_atomically
from ..errors import CorruptFile
from ..grids.metrics import Errors
from .errors import FIGURES, Matrix, figure, total
from .intervals import Interval
from .outputs import Outputs

#: The file's name in the run's folder, and its layout.
FILE = "judge.json"
LAYOUT = 1

#: Figures of a judgement, in the order of tables: from outputs, then from weights.
OUTPUT_FIGURES = (
    "reference_perplexity",
    "perplexity",
    "delta_nll",
    "kl",
    "ear",
    "agreement",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was judged and on what, by hashes: two judgements of equal subjects are equal.

    Attributes:
        checkpoint: SHA-256 of the manifest, which holds the hash of every byte.
        reference: SHA-256 of the reference's tensors.
        text: SHA-256 of the text.
        context: tokens a window.
        tokens: the most tokens that were used of the text.
        norms: fingerprint of the calibration whose channel norms weigh; empty: none.
        run: ``dequantized`` or ``packed``: how the quantized model ran.
    """

    checkpoint: str
    reference: str
    text: str
    context: int
    tokens: int
    norms: str = ""
    run: str = "dequantized"

    def difference(self, other: Subject) -> tuple[str, ...]:
        """The names of what differs."""
        mine, theirs = asdict(self), asdict(other)
        return tuple(key for key in mine if mine[key] != theirs[key])


@dataclass(frozen=True)
class Judgement:
    """Everything that `judge` found.

    Attributes:
        subject: of what.
        name: what the checkpoint's folder is called.
        reference: what the reference's file or folder is called.
        text: what the text is called.
        disk_bytes: all that is stored for packed tensors, measured on the files.
        matrices: errors, matrix by matrix.
        outputs: measures on text; None where the model cannot be run.
        missing: why there are no outputs; empty where there are.
        notes: what a reader must know.
    """

    subject: Subject
    name: str
    reference: str
    text: str
    disk_bytes: int
    matrices: tuple[Matrix, ...]
    outputs: Outputs | None
    missing: str = ""
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Elements of the packed matrices."""
        return self.errors.elements

    @property
    def bpw(self) -> float:
        """Bytes on disk * 8 / weights."""
        return 8 * self.disk_bytes / self.weights if self.weights else math.nan

    @cached_property
    def errors(self) -> Errors:
        """The matrices' sums."""
        return total(self.matrices)

    @cached_property
    def figures(self) -> dict[str, Interval]:
        """Every figure that was measured: of outputs (over windows) and weights (over matrices)."""
        found: dict[str, Interval] = {}
        if self.outputs is not None:
            found |= {name: getattr(self.outputs, name) for name in OUTPUT_FIGURES}
        return found | {name: figure(self.matrices, name) for name in FIGURES}

    def values(self) -> dict[str, Any]:
        """JSON-ready values; ``of_values`` gives the judgement back."""
        return {
            "fmtc": __version__,
            "layout": LAYOUT,
            "subject": asdict(self.subject),
            "name": self.name,
            "reference": self.reference,
            "text": self.text,
            "bpw": self.bpw if self.weights else None,
            "weights": self.weights,
            "disk_bytes": self.disk_bytes,
            "figures": {name: found.values() for name, found in self.figures.items()},
            "outputs": None if self.outputs is None else self.outputs.values(),
            "missing": self.missing,
            "notes": list(self.notes),
            "matrices": [matrix.values() for matrix in self.matrices],
        }

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Judgement:
        """The inverse of ``values``; figures are computed anew.

        Raises:
            KeyError, TypeError, ValueError: the values are not of a judgement.
        """
        if values["layout"] != LAYOUT:
            raise ValueError(f"layout {values['layout']!r}")
        outputs = values["outputs"]
        return cls(
            Subject(**values["subject"]),
            values["name"],
            values["reference"],
            values["text"],
            int(values["disk_bytes"]),
            tuple(Matrix.of_values(v) for v in values["matrices"]),
            None if outputs is None else Outputs.of_values(outputs),
            values["missing"],
            tuple(values["notes"]),
        )


def run_folder(out: str | Path) -> Path:
    """The folder of a run, beside its checkpoint."""
    out = Path(out).resolve()
    return out.with_name(out.name + ".run")


def write_judgement(judgement: Judgement, out: str | Path) -> Path:
    """Write the judgement of the checkpoint ``out`` into its run's folder; whole or not at all."""
    path = run_folder(out) / FILE
    text = json.dumps(judgement.values(), indent=1, allow_nan=False)
    write_atomically(path, text.encode())
    return path


def read_judgement(out: str | Path) -> Judgement | None:
    """The remembered judgement of a checkpoint, or of an earlier one there; None: there is none.

    Raises:
        CorruptFile: the file is no judgement.
    """
    path = run_folder(out) / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"'{path}' is damaged: {error}; run `fmtc judge` again") from error
    try:
        return Judgement.of_values(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"'{path}' is no judgement: {error!r}; run `fmtc judge` again") from error
