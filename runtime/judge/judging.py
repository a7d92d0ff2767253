"""Judging written checkpoints: what is on disk against the model that it was made from."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..calibration.texts import text_hash
from ..checkpoint import Checkpoint
from ..errors import CorruptFile, RefusedInput, UnusableModel
from ..models.common import of_transformers, quiet
from ..models.perplexity import windows_of
from ..sources import ModelSource, open_source
from .errors import checkpoint_errors
from .judgement import Judgement, Subject, read_judgement, run_folder, write_judgement
from .outputs import Outputs, ReferenceLogits, measure_outputs

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

#: Tokens a window, and tokens of the text that are used, unless said otherwise.
CONTEXT, TOKENS = 512, 16384

#: Fewer windows than this give intervals that say little.
_FEW_WINDOWS = 8

#: The channel norms of a run, in its folder.
CALIBRATION = "calibration.safetensors"

#: What the text that comes with the package is called.
BUILT_IN = "the built-in text (King James Bible)"


class Norms(Protocol):
    """A calibration, as far as judging needs it."""

    @property
    def norms(self) -> Mapping[str, Any]:
        """Weight name -> channel norms: float32 [in], NumPy or torch."""

    @property
    def fingerprint(self) -> str:
        """What tells calibrations apart."""


class Reference:
    """A model that checkpoints are held against, opened once for all of them.

    Its weights are read one at a time. Its logits on the text are computed when they are first
    needed, kept on disk (see `ReferenceLogits`), and its model is let go before a quantized one
    is loaded. To be closed, or used in a ``with`` statement.
    """

    def __init__(
        self,
        model: str | Path,
        text: str | None = None,
        *,
        text_name: str = "",
        context: int = CONTEXT,
        tokens: int = TOKENS,
        calibration: Norms | None = None,
        run: str = "dequantized",
        on_calibration_text: bool = False,
        room: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Open the model; nothing of it is run yet.

        Args:
            model: a Hugging Face folder, or a file whose weights alone can be compared.
            text: what both models read; None: the text that comes with the package.
            text_name: what to call it.
            context: tokens a window.
            tokens: the most tokens of the text that are used.
            calibration: whose channel norms weigh in ACos and wMSE; None: that of the run which
                made the checkpoint, if it is there, else all 1.
            run: how the quantized model runs: ``dequantized`` or ``packed``.
            on_calibration_text: take a text that a checkpoint was calibrated on all the same.
            room: the folder that the logits lie in; None: the judged checkpoint's own run.
            progress: called with what is done, steps done, steps in all.

        Raises:
            UnusableModel, CorruptFile: there is no such model.
            RefusedInput: numbers that make no window.
        """
        from ..models import evaluation_text

        if context < 2 or tokens < 2:
            raise RefusedInput(
                f"a context of {context} and {tokens} tokens predict nothing: take 2 or more"
            )
        self.source: ModelSource = open_source(model)
        self.hash = self.source.content_hash()
        self.text = evaluation_text() if text is None else text
        self.text_hash = text_hash(self.text)
        self.text_name = text_name or (BUILT_IN if text is None else "a text of the caller")
        self._asked, self._tokens = context, tokens
        self.calibration, self._settled = calibration, False
        self._run = run
        self._on_calibration_text = on_calibration_text
        self._room, self._progress = room, progress
        self._logits: ReferenceLogits | None = None

    @property
    def path(self) -> Path:
        """Where the model lies."""
        return self.source.path

    @cached_property
    def missing(self) -> str:
        """Why the model cannot be run; empty where it can."""
        if not self.path.is_dir():
            kind = "a GGUF file" if self.path.suffix == ".gguf" else "a safetensors file"
            return (
                f"'{self.path}' is {kind}, which says nothing that transformers builds a model "
                "from: only weights are compared; give a Hugging Face folder for the rest"
            )
        absent = [f for f in ("config.json", "tokenizer.json") if not (self.path / f).is_file()]
        if "config.json" in absent or not any(self.path.glob("tokenizer*")):
            return f"'{self.path}' has no {absent[0]}: only weights are compared"
        if "model_type" not in self._config:
            return f"'{self.path / 'config.json'}' names no model_type: only weights are compared"
        return ""

    @cached_property
    def context(self) -> int:
        """Tokens a window: what was asked for, and no more than the model takes."""
        return self.at_most(self._asked)

    def at_most(self, context: int) -> int:
        """``context``, or the positions that the model has if they are fewer."""
        most = self._config.get("max_position_embeddings")
        return min(context, most) if isinstance(most, int) and most >= 2 else context

    @cached_property
    def _config(self) -> dict[str, Any]:
        file = self.path / "config.json"
        if not file.is_file():
            return {}
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise CorruptFile(f"'{file}' is no configuration of a model: {error}") from error

    def settle_calibration(self, folders: Sequence[Path]) -> None:
        """Let the same norms weigh in all that is judged from now on, so that figures compare.

        Args:
            folders: checkpoints; the first whose run has a calibration gives it, unless one was
                given to begin with. Where none has, all norms are 1.
        """
        found = (self.calibration_of(folder) for folder in folders)
        self.calibration = self.calibration or next((c for c in found if c is not None), None)
        self._settled = True

    def calibration_of(self, folder: Path) -> Norms | None:
        """Whose norms weigh when a checkpoint is judged: see ``calibration`` of ``__init__``."""
        kept = run_folder(folder) / CALIBRATION
        if self._settled or self.calibration is not None or not kept.is_file():
            return self.calibration
        from ..calibration import Calibration

        found: Norms = Calibration.load(kept)
        return found

    def subject(self, checkpoint: Checkpoint, calibration: Norms | None) -> Subject:
        """What a judgement of ``checkpoint`` here is of."""
        return Subject(
            checkpoint.manifest_hash,
            self.hash,
            self.text_hash,
            self.context,
            self._tokens,
            "" if calibration is None else calibration.fingerprint,
            self._run,
        )

    def judge(self, folder: str | Path, *, fresh: bool = False) -> Judgement:
        """Judge a checkpoint, or take what ``judge.json`` remembers of the very same subject.

        Args:
            folder: the checkpoint.
            fresh: measure again whatever is remembered.

        Raises:
            RefusedInput: it was made from another model, or calibrated on this text.
            CorruptFile: it is damaged.
        """
        checkpoint = Checkpoint(folder)
        checkpoint.check_files()
        notes = self._notes(checkpoint)
        calibration = self.calibration_of(checkpoint.folder)
        subject = self.subject(checkpoint, calibration)
        known = None if fresh else _remembered(folder)
        if known is not None and known.subject == subject:
            return known
        norms = _weighing(calibration)
        matrices = checkpoint_errors(checkpoint, self.source, norms, self._progress)
        outputs, reason = self._outputs(checkpoint)
        if outputs is not None and len(outputs.windows) < _FEW_WINDOWS:
            notes.append(
                f"{len(outputs.windows)} windows of {outputs.context} tokens: intervals this "
                "small a sample gives are wide; judge on more text"
            )
        judgement = Judgement(
            subject,
            Path(folder).resolve().name,
            str(self.path),
            self.text_name,
            checkpoint.disk_bytes,
            matrices,
            outputs,
            reason,
            tuple(notes),
        )
        write_judgement(judgement, folder)
        return judgement

    def _notes(self, checkpoint: Checkpoint) -> list[str]:
        notes = []
        if self.context < self._asked:
            notes.append(f"windows have {self.context} tokens: the model takes no more")
        if self.text_hash in set(_text_hashes(checkpoint.plan)):
            where = f"'{checkpoint.folder}' was calibrated on this very text"
            if not self._on_calibration_text:
                raise RefusedInput(
                    f"{where}: what is measured on it flatters; give another with --text, or "
                    "take it all the same with --on-calibration-text"
                )
            notes.append(f"{where}: its figures flatter")
        return notes

    def _outputs(self, checkpoint: Checkpoint) -> tuple[Outputs | None, str]:
        """What text shows, or why it shows nothing."""
        if self.missing:
            return None, self.missing
        if self._logits is None:
            self._logits = self._reference_logits(self._room or run_folder(checkpoint.folder))
        if self._progress:
            self._progress("loading the quantized model", 0, 1)
        held = [_load_quantized(checkpoint, self._run)]
        try:
            return measure_outputs(self._logits, held[0], self._progress), ""
        except RefusedInput as error:
            return None, str(error)
        finally:
            _let_go(held)

    def _reference_logits(self, room: Path) -> ReferenceLogits:
        if self._progress:
            self._progress("loading the reference", 0, 1)
        windows = windows_of(_encode(self.path, self.text), self.context, self._tokens)
        held = [_load_reference(self.path)]
        try:
            return ReferenceLogits(held[0], windows, room, self._progress)
        finally:
            _let_go(held)

    def close(self) -> None:
        """Give back the room that logits take."""
        if self._logits is not None:
            self._logits.close()
            self._logits = None

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def judge(
    folder: str | Path,
    reference: str | Path,
    text: str | None = None,
    *,
    text_name: str = "",
    context: int = CONTEXT,
    tokens: int = TOKENS,
    calibration: Norms | None = None,
    run: str = "dequantized",
    on_calibration_text: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Judgement:
    """Judge a written checkpoint against the model that it was made from.

    Perplexity, KL and EAR are taken on text, with 95 % intervals over windows; ACos and MSE from
    the packed bytes, with intervals over matrices. The judgement is written to
    ``FOLDER.run/judge.json``; one that is there for the same checkpoint, model, text and options is
    returned without measuring. One model is in memory at a time.

    Args:
        folder: the checkpoint.
        reference: the model; a GGUF or safetensors file gives the errors of weights alone.
        text: what both read; None: the text that comes with the package.
        text_name: what to call it.
        context: tokens a window.
        tokens: the most tokens of the text that are used.
        calibration: whose channel norms weigh in ACos and wMSE; None: that of the run which made
            the checkpoint, if it is there, else all 1.
        run: how the quantized model runs: ``dequantized`` or ``packed``.
        on_calibration_text: take a text that the checkpoint was calibrated on all the same.
        fresh: measure again whatever is remembered.
        progress: called with what is done, steps done, steps in all.

    Raises:
        RefusedInput: the checkpoint is of another model, or was calibrated on this text.
        CorruptFile: a file is damaged.
        UnusableModel: there is no such model.
        MissingPackage: transformers is not installed.
    """
    with Reference(
        reference,
        text,
        text_name=text_name,
        context=context,
        tokens=tokens,
        calibration=calibration,
        run=run,
        on_calibration_text=on_calibration_text,
        progress=progress,
    ) as opened:
        return opened.judge(folder, fresh=fresh)


def _let_go(held: list[torch.nn.Module]) -> None:
    """Free a model that nobody else has, before another takes its room."""
    alive = weakref.ref(held.pop())
    if alive() is not None:  # its parts refer to each other
        gc.collect()


def _weighing(calibration: Norms | None) -> dict[str, Any] | None:
    """Norms by weight name, but of experts that no token reached: they say nothing."""
    if calibration is None:
        return None
    unseen = set(getattr(calibration, "unseen", ()))
    return {name: values for name, values in calibration.norms.items() if name not in unseen}


def _remembered(folder: str | Path) -> Judgement | None:
    """What is remembered, if it can be read: a damaged judgement is simply made again."""
    try:
        return read_judgement(folder)
    except CorruptFile:
        return None


def _text_hashes(plan: Any) -> Iterator[str]:
    """Every SHA-256 of a text that a plan states, wherever it does."""
    if isinstance(plan, Mapping):
        for key, value in plan.items():
            if key == "text_sha256" and isinstance(value, str):
                yield value
            else:
                yield from _text_hashes(value)


def _encode(folder: Path, text: str) -> list[int]:
    """Token ids of a text, no special token added."""
    known = of_transformers("AutoTokenizer")
    try:
        tokenizer = known.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UnusableModel(f"'{folder}' has no tokenizer that transformers reads") from error
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise RefusedInput(f"the text gives {len(ids)} tokens: at least two are needed")
    return ids


def _load_reference(folder: Path) -> torch.nn.Module:
    import torch

    known = of_transformers("AutoModelForCausalLM")
    try:
        with quiet():
            model: torch.nn.Module = known.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            )
    except (OSError, ValueError) as error:
        raise UnusableModel(
            f"transformers cannot build the model of '{folder}': {error}"
        ) from error
    return model.eval()


def _load_quantized(checkpoint: Checkpoint, run: str) -> torch.nn.Module:
    """The checkpoint as a model; in float32 like the reference, so that formats alone differ."""
    import torch

    from ..models.loading import load_model

    model: torch.nn.Module = load_model(checkpoint.folder, run=run, dtype=torch.float32)
    return model
