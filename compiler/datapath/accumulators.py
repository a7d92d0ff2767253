"""Sums of integers and of fp32 numbers: how wide an accumulator must be, and how wrong one gets.

Ranges are closed and attained. Nothing here knows a format: ``datapath`` fills these in.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..exact import FP32_MAX

#: u, half the distance from 1 to the next binary32 number.
UNIT_ROUNDOFF = Fraction(1, 1 << 24)

#: Accumulators whose longest rows are shown.
SHOWN_WIDTHS = (32, 48, 64)

#: JSON readers keep integers up to here.
_JSON_INTEGER = 1 << 53

#: What one rounding to a subnormal binary32 number can cost.
_HALF_SUBNORMAL = Fraction(1, 1 << 150)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed range of integers that a field takes."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"

    @property
    def bits(self) -> int:
        """The least two's-complement width that holds the range."""
        return max(_magnitude_bits(self.low), _magnitude_bits(self.high)) + 1

    def times(self, other: Bounds) -> Bounds:
        """The range of the products."""
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Bounds(min(ends), max(ends))

    def repeated(self, count: int) -> Bounds:
        """The range of the sum of ``count`` such integers."""
        return Bounds(self.low * count, self.high * count)

    def with_zero(self) -> Bounds:
        """The least range that holds this one and 0."""
        return Bounds(min(self.low, 0), max(self.high, 0))


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A two's-complement sum of steps, each an integer of ``step`` in units of ``2^unit``.

    Every step may be 0 and may be either end, and n equal steps reach n times the end: the range
    of every partial sum lies in that of the whole, and both are attained.
    """

    step: Bounds
    unit: int

    def after(self, steps: int) -> Bounds:
        """The range of the sum of ``steps`` steps, both ends attained."""
        return self.step.repeated(steps)

    def width(self, steps: int) -> int:
        """The least width that no sum of ``steps`` steps overflows."""
        return self.after(steps).bits

    def most(self, width: int) -> int:
        """The largest number of steps that can never overflow ``width`` bits."""
        half = 1 << (width - 1)
        limits = [(half - 1) // self.step.high] if self.step.high else []
        limits += [half // -self.step.low] if self.step.low else []
        return min(limits)

    def most_exact(self, significand: int = 24) -> int:
        """The largest number of steps whose sums a float of that significand holds exactly.

        All integers up to 2^24 are binary32 numbers; exponents are not looked at.
        """
        return (1 << significand) // max(self.step.high, -self.step.low)

    @property
    def closed_form(self) -> str:
        """``width`` of n steps as a formula; bitlen(x) is the least b with x < 2^b, for x >= 0."""
        low, high = -self.step.low, self.step.high
        return f"1 + max(bitlen({high} n), bitlen({low} n - 1))"

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "unit": self.unit,
            "step": [json_integer(self.step.low), json_integer(self.step.high)],
            "width_of_one": self.width(1),
            "width_of_n": self.closed_form,
            "most_steps": {str(width): json_integer(self.most(width)) for width in SHOWN_WIDTHS},
        }


@dataclass(frozen=True, slots=True)
class Fp32Sum:
    """``Y = fma(block_sum, s_X * s_W, Y)`` in binary32 from Y = 0, once for every block.

    A term takes part in at most n roundings of n blocks, each a factor 1 + d with |d| <= u, and in
    ``roundings`` more where its block sum or scale product was rounded before. So
    (Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1) with m = n + roundings
    |Y - exact| <= gamma_m * sum |terms|, gamma_m = m u / (1 - m u), in any order of the blocks.

    Attributes:
        largest: the largest magnitude of a term, attained.
        roundings: how many of block sum and scale product need one of their own.
        underflow: what a rounding may add where a sum is subnormal; 0: every term is a whole
            number of 2^-149, so that subnormal sums are exact.
        conditions: what a caller must know of his scales for the bound to hold; none: nothing.
    """

    largest: Fraction
    roundings: int
    underflow: Fraction
    conditions: tuple[str, ...]

    def gamma(self, blocks: int) -> Fraction:
        """The factor of sum |terms|.

        Raises:
            ValueError: for 2^24 roundings and more, where there is no such bound.
        """
        share = (blocks + self.roundings) * UNIT_ROUNDOFF
        if share >= 1:
            raise ValueError(f"no bound holds for {blocks} blocks: 2^24 roundings or more")
        return share / (1 - share)

    def bound(self, blocks: int, magnitudes: Fraction) -> Fraction:
        """The most that Y can miss the exact sum by, where |terms| sum to ``magnitudes``."""
        gamma = self.gamma(blocks)
        return gamma * magnitudes + (1 + gamma) * blocks * self.underflow

    @property
    def most_blocks(self) -> int:
        """How many blocks have the bound and cannot overflow, whatever their words; 0: none."""
        low, high = 0, (1 << 24) - 1 - self.roundings
        while low < high:
            middle = (low + high + 1) // 2
            total = middle * self.largest
            if total + self.bound(middle, total) <= FP32_MAX:
                low = middle
            else:
                high = middle - 1
        return low

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "bound": f"m u / (1 - m u) * sum |terms|, m = blocks + {self.roundings}, u = 2^-24",
            "roundings": self.roundings,
            "underflow_of_a_block": str(self.underflow),
            "most_blocks": self.most_blocks,
            "conditions": list(self.conditions),
        }


def _magnitude_bits(value: int) -> int:
    """The bits beside the sign that two's complement needs."""
    return (value if value >= 0 else ~value).bit_length()


def json_integer(value: int) -> int | str:
    """The integer, as text where JSON readers would round it."""
    return value if abs(value) <= _JSON_INTEGER else str(value)


def subnormal_cost(finest: int) -> Fraction:
    """What a rounding may cost below 2^-126, for terms that are whole numbers of 2^finest."""
    return Fraction(0) if finest >= -149 else _HALF_SUBNORMAL
