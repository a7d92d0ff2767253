"""Scales and minima as they are stored: rounded to a word, or quantized by their own format."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .blockwork import NUMPY, BlockWork, WordTable
from .elements import U8
from .floats import SmallFloat
from .format import Format, ScaleWord
from .reference import TensorLevel
from .scales import is_fp32_word
from .streams import CENTER
from .thresholds import F32, round_down_fp32

if TYPE_CHECKING:
    from .engine import Engine

U32 = NDArray[np.uint32]


def to_word(
    word: ScaleWord,
    values: F32,
    *,
    magnitude_only: bool = False,
    unit: float = 1.0,
    blocks: BlockWork = NUMPY,
) -> U32:
    """The words nearest to binary32 values, ties to even, at most the largest.

    Words count in a binary32 ``unit``, and the nearest is decided exactly. A word without a sign
    keeps the magnitude, and so does one whose sign is another's (``magnitude_only``). fp32 is its
    own word, in units of 1.
    """
    if is_fp32_word(word):
        return np.ascontiguousarray(values, np.float32).view(np.uint32)
    words = blocks.ranks(np.abs(values), word_thresholds(word.number, unit))
    words <<= np.uint32(word.magnitude_lsb)
    if word.sign_bit is not None and not magnitude_only:
        words |= np.signbit(values).astype(np.uint32) << np.uint32(word.sign_bit)
    return words


def from_word(word: ScaleWord, words: U32, blocks: BlockWork = NUMPY) -> F32:
    """The binary32 values of words; metabits do not count."""
    if is_fp32_word(word):
        return np.ascontiguousarray(words, np.uint32).view(np.float32)
    return blocks.word_values(words, word_table(word), 1.0)


@lru_cache(maxsize=32)
def word_table(word: ScaleWord) -> WordTable:
    """The values of a word's magnitude codes, in ascending order, with the thresholds between."""
    number = word.number
    values = [np.nan if m is None else float(m) for m in number.magnitudes()]
    table = np.array(values, np.float32)
    return WordTable(table, word.magnitude_lsb, number.magnitude_bits, word.sign_bit)


@lru_cache(maxsize=32)
def word_thresholds(number: SmallFloat, unit: float) -> F32:
    """Between neighbours of the finite magnitudes, which begin at code 0; a tie goes to even."""
    finite = np.array([float(m) for m in number.magnitudes() if m is not None])
    midpoints = (finite[:-1] + finite[1:]) / 2 * unit  # exact: at most 17 bits times 24
    upper_is_even = np.arange(len(midpoints)) % 2 == 1
    thresholds = round_down_fp32(midpoints, upper_is_even)
    thresholds.flags.writeable = False
    return thresholds


def store(
    values: F32, inner: Format, flat: bool, center: bool, name: str, engine: Engine
) -> tuple[dict[str, U8], F32]:
    """Quantize a matrix of scales or minima with a format of its own.

    Args:
        values: float32 [rows, columns].
        inner: the format.
        flat: all values are one row.
        center: their mean (in binary64, rounded once) is subtracted first.
        name: prefix of the streams: ``scales`` gives ``scales.codes``.
        engine: does the inner format's elements (``Engine.inner``).

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
    packed = encode(inner, np.ascontiguousarray(matrix, np.float32), TensorLevel(), engine)
    streams |= {f"{name}.{part}": octets for part, octets in packed.items()}
    shape = (values.shape[0], values.shape[1])
    return streams, read_stored(streams, inner, shape, flat, center, name, engine)


def read_stored(
    streams: dict[str, U8],
    inner: Format,
    shape: tuple[int, int],
    flat: bool,
    center: bool,
    name: str,
    engine: Engine,
) -> F32:
    """What ``store`` stored: float32 of ``shape``."""
    from .pipeline import decode

    columns = shape[0] * shape[1] if flat else shape[1]
    prefix = f"{name}."
    own = {key.removeprefix(prefix): s for key, s in streams.items() if key.startswith(prefix)}
    values = decode(inner, own, columns, TensorLevel(), engine)
    if center:
        mean = np.ascontiguousarray(streams[prefix + CENTER]).view("<f4").astype(np.float32)
        most = np.finfo(np.float32).max
        with np.errstate(over="ignore"):
            values = np.clip(values + mean.reshape(1, 1), -most, most)
    return values.reshape(shape)
