"""What a run must have in common with the one that it goes on with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..._version import __version__
from ..sources import ModelSource
from .recipe import Recipe

#: Files of a tokenizer, one of which a model must have to be calibrated.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def parts_of(source: ModelSource, recipe: Recipe, text: str) -> dict[str, Any]:
    """The fingerprint, part by part, as JSON values; a part that differs can be named.

    ``plan`` is what nothing before the allocation depends on: units that were profiled for one
    budget serve another one.

    Args:
        source: the model: the bytes of its tensors, and of its configuration and tokenizer.
        recipe: with the meaning of every format that it names.
        text: what identifies the calibration.
    """
    said = recipe.fingerprint()
    plan = {key: said.pop(key) for key in ("bpw", "metric", "name")}
    return {
        "model": source.content_hash(),
        "model_files": {file.name: _hash(file) for file in source.companions},
        "calibration_text": text,
        "recipe": {**said, "has_budget": recipe.bpw is not None},
        "plan": plan,
        "fmtc": __version__,
    }


def can_run(model: Path) -> bool:
    """Whether a model is a folder that transformers may run: a configuration and a tokenizer."""
    if not model.is_dir() or not any((model / name).is_file() for name in _TOKENIZERS):
        return False
    try:
        said = json.loads((model / "config.json").read_text(encoding="utf-8"))
        return "model_type" in said
    except (OSError, ValueError, TypeError):
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
