"""How good a written checkpoint is: measured on its file, with intervals, compared and reported."""

from .intervals import Interval
from .judgement import Judgement, read_judgement, run_folder
from .judging import Reference, judge
from .outputs import Outputs, compare_models

__all__ = [
    "Interval",
    "Judgement",
    "Outputs",
    "Reference",
    "compare_models",
    "judge",
    "read_judgement",
    "run_folder",
]
