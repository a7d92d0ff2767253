"""Figures with 95 % intervals: of a mean over windows, and of a ratio of sums over matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: How sure an interval is meant to be.
CONFIDENCE = 0.95

#: Of the bootstrap: a fixed seed makes the same data give the same interval.
SEED, RESAMPLES = 0, 9999

#: Numbers drawn at a time, to bound the memory of the bootstrap.
_BATCH = 1 << 20


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and where it lies with 95 % confidence.

    Attributes:
        value: the estimate.
        low: lower end; NaN where nothing is known of it (a single observation).
        high: upper end; likewise.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there are ends."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def resolved(self) -> bool:
        """Whether a difference is told from 0: the interval is known and leaves 0 out."""
        return self.known and (self.low > 0 or self.high < 0)

    def values(self) -> list[float | None]:
        """Value, low, high for JSON; what is not finite is None."""
        return [v if math.isfinite(v) else None for v in (self.value, self.low, self.high)]

    @classmethod
    def of_values(cls, values: Sequence[float | None]) -> Interval:
        """The inverse of ``values``."""
        value, low, high = (math.nan if v is None else float(v) for v in values)
        return cls(value, low, high)

    def clipped(self, least: float, most: float) -> Interval:
        """The same within the bounds that the figure cannot leave."""
        return Interval(
            self.value,
            self.low if math.isnan(self.low) else max(self.low, least),
            self.high if math.isnan(self.high) else min(self.high, most),
        )

    def exp(self) -> Interval:
        """The interval of the exponential: a perplexity, from a mean negative log likelihood."""
        return Interval(*(_exp(v) for v in (self.value, self.low, self.high)))


def mean_interval(values: Sequence[float] | Any) -> Interval:
    """The mean of independent observations with Student's t interval.

    An observation is the mean of a window: tokens within a window depend on each other and are
    never counted singly. With n windows the interval is mean +- t(n - 1) * s / sqrt(n).

    Args:
        values: one number a window, at least one.
    """
    from scipy.stats import t

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2 or not math.isfinite(mean):
        return Interval(mean)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """sum(numerators) / sum(denominators) with a percentile bootstrap over the pairs.

    A pair is what a matrix adds to both sums, so that large matrices weigh more. The interval says
    how far the figure depends on which matrices the model happens to have; the figure of this
    very model is exact. Resampled with a fixed seed.

    Args:
        numerators: one number a matrix.
        denominators: one number a matrix, none negative.
    """
    from scipy.stats import bootstrap

    over, under = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total = math.fsum(under)
    value = math.fsum(over) / total if total else 0.0
    if len(over) < 2 or not total:
        return Interval(value)
    kept = under > 0  # a matrix of zeros adds to neither sum
    if kept.sum() < 2:
        return Interval(value)
    found = bootstrap(
        (over[kept], under[kept]),
        _ratio,
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH // len(over)),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def _ratio(over: Any, under: Any, axis: int = -1) -> Any:
    return over.sum(axis=axis) / under.sum(axis=axis)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
