"""What every part of the model room shares: its errors and the shape of a progress callback."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` after each step of something slow."""


class DemoModelMissingError(FileNotFoundError):
    """The demo's model file is not installed; the message names the line that installs it."""


class BadModelFileError(ValueError):
    """A model file is not GGUF, is cut short, or lacks a field that a model needs."""


class UnsupportedModelError(ValueError):
    """The file or model is sound, but of a kind that this package would only guess at."""
