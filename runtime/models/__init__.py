"""Real models: load one, rotate it off its old grid, and measure its perplexity.

Importing this package loads neither torch nor transformers; the functions do when called.
"""

from .common import BadModelFileError, DemoModelMissingError, Progress, UnsupportedModelError
from .gguf_source import LoadedModel, find_demo_model, load_gguf_model
from .hadamard import hadamard, random_orthogonal
from .perplexity import Perplexity, evaluation_text, perplexity
from .rotation import massive_channels, rotate
from .weights import linear_weights, set_linear_weights

__all__ = [
    "BadModelFileError",
    "DemoModelMissingError",
    "LoadedModel",
    "Perplexity",
    "Progress",
    "UnsupportedModelError",
    "evaluation_text",
    "find_demo_model",
    "hadamard",
    "linear_weights",
    "load_gguf_model",
    "massive_channels",
    "perplexity",
    "random_orthogonal",
    "rotate",
    "set_linear_weights",
]
