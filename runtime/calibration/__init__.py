"""Statistics of a model's activations, streamed layer by layer from text."""

from .result import Calibration
from .stream import calibrate
from .texts import default_text, read_texts, text_hash

__all__ = ["Calibration", "calibrate", "default_text", "read_texts", "text_hash"]
