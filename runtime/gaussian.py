"""The mean squared error of a format on Gaussian data, measured once and remembered on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from ..compiler import format as compiled
from .atomic import write_atomically
from .compile_cache import cache_directory
from .format import Format

#: The sample: N(0, 1) in rows that all usual blocks divide.
SHAPE = (64, 4096)
SEED = 2026
#: Enters the name of a remembered figure: raise it when the sample or the encoder changes.
EDITION = 1


def known_mse(fmt: compiled.Format) -> float | None:
    """What ``gaussian_mse`` found before, or None."""
    try:
        stated = json.loads(_file(fmt).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return stated if isinstance(stated, float) and math.isfinite(stated) else None


def gaussian_mse(fmt: compiled.Format) -> float:
    """The mean squared error of N(0, 1) elements, by the reference encoder and decoder.

    The figure is kept in the cache directory under the format's content hash. A cache that
    cannot be written only costs the time to measure again.
    """
    known = known_mse(fmt)
    if known is not None:
        return known
    x = np.random.default_rng(SEED).standard_normal(SHAPE, dtype=np.float32)
    decoded = Format.of(fmt).quantize(x, backend="reference").dequantize(backend="reference")
    mse = float(np.mean(np.square(x - decoded, dtype=np.float64)))
    try:
        write_atomically(_file(fmt), json.dumps(mse).encode())
    except OSError:
        return mse
    return mse


def _file(fmt: compiled.Format) -> Path:
    return cache_directory() / "gaussian" / f"{EDITION}-{fmt.content_hash}.json"
