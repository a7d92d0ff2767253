"""A second reading of the language, by brute force in exact rationals.

It goes by docs/language.md alone: it takes every value of a grid, every scale that may be tried
and every bit of a stream one at a time, and knows nothing of views, thresholds or NumPy. It is
slow, and it is what the reference is checked against.

Binary32 numbers are Python floats here, which hold them and the sign of a zero exactly.
"""

from __future__ import annotations

from .blocks import SAME_ERROR, Trial, block_trials, near_best
from .elements import code_of, value_of
from .scales import Block, Level, is_fp32, real_scale, word_value
from .streams import Fields, Layout, layout, read_streams, write_streams
from .tensors import (
    Undecided,
    block_places,
    decode_tensor,
    effective,
    encode_tensor,
    select_at,
    tensor_level,
)

__all__ = [
    "SAME_ERROR",
    "Block",
    "Fields",
    "Layout",
    "Level",
    "Trial",
    "Undecided",
    "block_places",
    "block_trials",
    "code_of",
    "decode_tensor",
    "effective",
    "encode_tensor",
    "is_fp32",
    "layout",
    "near_best",
    "read_streams",
    "real_scale",
    "select_at",
    "tensor_level",
    "value_of",
    "word_value",
    "write_streams",
]
