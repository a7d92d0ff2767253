"""Why a run could not go on, beside the errors of a user's input."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """A run stopped; what was finished is kept."""


class WorkerDied(RunFailed):
    """Workers died again and again at one task."""


class TaskFailed(RunFailed):
    """A task failed by an error of its own that is not the input's."""


class NotAsMeasured(RunFailed):
    """The written files are not what was planned: too large, or other errors."""
