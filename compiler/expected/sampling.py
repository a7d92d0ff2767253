"""Blocks drawn at random, encoded in every way: for what no quadrature here serves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .laws import Law
from .ways import F64, Way

#: Elements that are encoded for one block size, times the ways; and the least number of blocks.
_WORK, _LEAST_BLOCKS = 1 << 22, 128

#: Elements of all ways that are worked on at once.
_PIECE = 1 << 17

_SEED = 2605


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sample says: the means of the ways alone and of the better, per element.

    ``gain`` is 1 - chosen / the least single mean, ``error`` its standard error.
    """

    single: tuple[float, ...]
    chosen: float
    gain: float
    error: float


def sample(law: Law, ways: tuple[Way, ...], block: int) -> Sample:
    """Blocks of ``block`` elements, the same ones in every run."""
    rng = np.random.default_rng((_SEED, block))
    work = min(max(_WORK // len(ways), 1 << 18), 1 << 21)
    count = max(work // block, _LEAST_BLOCKS)
    sums = np.concatenate(
        [_sums(ways, draw(law, rng, (rows, block))) for rows in _pieces(count, block)]
    )
    means = sums.mean(axis=0) / block
    best = sums[:, int(means.argmin())]
    chosen = sums.min(axis=1)
    gain = 1 - float(chosen.mean() / best.mean())
    spread = float(np.std(chosen - (1 - gain) * best))
    if gain == 0:
        # No block chose otherwise: that one in so many would, by a usual lead, is not excluded.
        spread = float(np.std(sums - best[:, None], axis=0).max()) / math.sqrt(count)
    error = spread / math.sqrt(count) / float(best.mean())
    return Sample(tuple(means.tolist()), float(chosen.mean()) / block, gain, error)


def draw(law: Law, rng: np.random.Generator, shape: tuple[int, int]) -> F64:
    """Independent elements of a law."""
    if law.name == "laplace":
        return rng.laplace(scale=math.sqrt(0.5), size=shape)
    if law.name == "student" and law.degrees is not None:
        return rng.standard_t(law.degrees, shape) * math.sqrt((law.degrees - 2) / law.degrees)
    return rng.standard_normal(shape)


def _pieces(count: int, block: int) -> Iterator[int]:
    step = max(1, _PIECE // block)
    for start in range(0, count, step):
        yield min(step, count - start)


def _sums(ways: tuple[Way, ...], x: F64) -> F64:
    """Squared errors of blocks [blocks, g] under every way: [blocks, ways]."""
    positive = np.maximum(x.max(axis=1), 0.0)
    negative = np.maximum(-x.min(axis=1), 0.0)
    scaled = (_errors(way, x, positive, negative).sum(axis=1) for way in ways)
    return np.stack(list(scaled), axis=1)


def _errors(way: Way, x: F64, positive: F64, negative: F64) -> F64:
    if way.rule != "range":
        return way.errors(x, way.scales(positive, negative, negative > positive)[:, None])
    low, high = (-negative, positive) if way.spans_zero else (x.min(axis=1), x.max(axis=1))
    scale = (high - low) / way.positive
    if way.zero == "point":
        point = np.clip(np.rint(way.values[0] - low / scale), way.values[0], way.values[-1])
        low = -point * scale
    return way.errors(x - low[:, None], scale[:, None])
