"""The tables of a format's ``View`` as NumPy arrays, each made once and read-only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .format import Format
from .view import view_of

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]


@lru_cache(maxsize=128)
def scale_values(fmt: Format) -> F32:
    """The value of every magnitude code of the scale word (``ScaleView.values_bits``)."""
    values = np.array(view_of(fmt).scale.values_bits, np.uint32).view(np.float32)
    values.flags.writeable = False
    return values


@lru_cache(maxsize=128)
def scale_ranks(fmt: Format) -> U32:
    """The magnitude code of every rank (``ScaleView.ranks``)."""
    codes = np.array(view_of(fmt).scale.ranks, np.uint32)
    codes.flags.writeable = False
    return codes


@lru_cache(maxsize=128)
def decode_values(fmt: Format) -> F32:
    """The value of every ``select << code_bits | code`` (``View.decode_bits``)."""
    values = np.array(view_of(fmt).decode_bits, np.uint32).view(np.float32)
    values.flags.writeable = False
    return values
