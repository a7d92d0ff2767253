"""Scales and minima as they are stored: rounded to a word, or quantized by their own format."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .elements import U8
from .floats import SmallFloat
from .format import Format, ScaleWord
from .reference import TensorLevel
from .scales import is_fp32_word
from .streams import CENTER
from .thresholds import F32

U32 = NDArray[np.uint32]


def to_word(
    word: ScaleWord, values: F32, *, magnitude_only: bool = False, unit: float = 1.0
) -> U32:
    """The words nearest to binary32 values, ties to even, at most the largest.

    Words count in a binary32 ``unit``, and the nearest is decided exactly. A word without a sign
    keeps the magnitude, and so does one whose sign is another's (``magnitude_only``). fp32 is its
    own word, in units of 1.
    """
    if is_fp32_word(word):
        return np.ascontiguousarray(values, np.float32).view(np.uint32)
    midpoints = _midpoints(word.number) * unit  # exact: at most 17 bits times 24
    sizes = np.abs(values).astype(np.float64)
    codes = np.searchsorted(midpoints, sizes, side="left").astype(np.uint32)
    inside = codes < len(midpoints)
    tie = inside & (midpoints[np.where(inside, codes, 0)] == sizes)
    codes += (tie & (codes % 2 == 1)).astype(np.uint32)
    words = codes << np.uint32(word.magnitude_lsb)
    if word.sign_bit is not None and not magnitude_only:
        words |= np.signbit(values).astype(np.uint32) << np.uint32(word.sign_bit)
    return words.astype(np.uint32)


def from_word(word: ScaleWord, words: U32) -> F32:
    """The binary32 values of words; metabits do not count."""
    if is_fp32_word(word):
        return np.ascontiguousarray(words, np.uint32).view(np.float32)
    mask = np.uint32((1 << word.number.magnitude_bits) - 1)
    values: F32 = _values(word.number)[(words >> np.uint32(word.magnitude_lsb)) & mask]
    if word.sign_bit is None:
        return values
    negative = (words >> np.uint32(word.sign_bit)) & 1
    return np.asarray(np.where(negative, -values, values), np.float32)


@lru_cache(maxsize=32)
def _values(number: SmallFloat) -> F32:
    return np.array([np.nan if m is None else float(m) for m in number.magnitudes()], np.float32)


@lru_cache(maxsize=32)
def _midpoints(number: SmallFloat) -> NDArray[np.float64]:
    """Between the finite magnitudes, which begin at code 0: exact in binary64."""
    finite = np.array([float(m) for m in number.magnitudes() if m is not None])
    return np.asarray((finite[:-1] + finite[1:]) / 2, np.float64)


def store(
    values: F32, inner: Format, flat: bool, center: bool, name: str
) -> tuple[dict[str, U8], F32]:
    """Quantize a matrix of scales or minima with a format of its own.

    Args:
        values: float32 [rows, columns].
        inner: the format.
        flat: all values are one row.
        center: their mean (in binary64, rounded once) is subtracted first.
        name: prefix of the streams: ``scales`` gives ``scales.codes``.

    Returns:
        The streams, and the float32 [rows, columns] that they decode to.
    """
    from .pipeline import encode

    matrix = values.reshape(1, -1) if flat else values
    streams: dict[str, U8] = {}
    if center:
        mean = np.float32(matrix.mean(dtype=np.float64) if matrix.size else 0)
        matrix = matrix - mean
        streams[f"{name}.{CENTER}"] = np.array([mean], "<f4").view(np.uint8)[None]
    packed = encode(inner, np.ascontiguousarray(matrix, np.float32), TensorLevel())
    streams |= {f"{name}.{part}": octets for part, octets in packed.items()}
    shape = (values.shape[0], values.shape[1])
    return streams, read_stored(streams, inner, shape, flat, center, name)


def read_stored(
    streams: dict[str, U8],
    inner: Format,
    shape: tuple[int, int],
    flat: bool,
    center: bool,
    name: str,
) -> F32:
    """What ``store`` stored: float32 of ``shape``."""
    from .pipeline import decode

    columns = shape[0] * shape[1] if flat else shape[1]
    prefix = f"{name}."
    own = {key.removeprefix(prefix): s for key, s in streams.items() if key.startswith(prefix)}
    values = decode(inner, own, columns, TensorLevel())
    if center:
        mean = np.ascontiguousarray(streams[prefix + CENTER]).view("<f4").astype(np.float32)
        most = np.finfo(np.float32).max
        with np.errstate(over="ignore"):
            values = np.clip(values + mean.reshape(1, 1), -most, most)
    return values.reshape(shape)
