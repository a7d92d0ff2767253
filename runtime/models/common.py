"""What every part of the model room shares: its errors, progress, and transformers kept quiet."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import missing

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` after each step of something slow."""


class DemoModelMissingError(FileNotFoundError):
    """The demo's model file is not installed; the message names the line that installs it."""


class BadModelFileError(ValueError):
    """A model file is not GGUF, is cut short, or lacks a field that a model needs."""


class UnsupportedModelError(ValueError):
    """The file or model is sound, but of a kind that this package would only guess at."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars, and what it imports from logging."""
    # torchao logs when it is imported, so its loggers come before transformers, which does that.
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR + 1)
    try:
        from transformers.utils import logging as reports

        shown, level = reports.is_progress_bar_enabled(), reports.get_verbosity()
        reports.disable_progress_bar()
        reports.set_verbosity_error()
        try:
            yield
        finally:
            reports.set_verbosity(level)
            if shown:
                reports.enable_progress_bar()
    finally:
        for logger, was in zip(loggers, levels, strict=True):
            logger.setLevel(was)


def of_transformers(name: str) -> Any:
    """A class of transformers, imported without a word.

    Raises:
        MissingPackage: transformers is not installed.
    """
    try:
        with quiet():
            import transformers

            return getattr(transformers, name)
    except ImportError as error:
        raise missing("transformers", "model") from error
