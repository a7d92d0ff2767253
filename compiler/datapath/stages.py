"""The points of a datapath as finite sets of dyadic numbers: ends, significands and witnesses.

The odd part of a product is the product of the odd parts, and its exponent the sum of the
exponents: where factors are free of each other, extremes of the factors decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Any

from ..exact import FP32_MAX, floor_log2, significant_bits
from ..format import Format
from ..hosts import HifWord
from .accumulators import Bounds, json_integer

#: An activation that leaves the element as it is.
ONE = HifWord(1, 0)


@dataclass(frozen=True, slots=True)
class Precision:
    """A binary float: significand bits, exponent of the least subnormal, largest number."""

    name: str
    bits: int
    least: int
    largest: Fraction


FP32 = Precision("fp32", 24, -149, FP32_MAX)
FP64 = Precision("fp64", 53, -1074, Fraction((1 << 53) - 1) * Fraction(2) ** 971)


@dataclass(frozen=True, slots=True)
class Lane:
    """``count`` lanes with the same code and activation."""

    code: int
    activation: HifWord = ONE
    count: int = 1


@dataclass(frozen=True, slots=True)
class Witness:
    """Stored words that reach a number: the lanes of one block, times scales.

    Attributes:
        select: the block's grid.
        zero: the block's zero point, as the number that is subtracted.
        lanes: of the block; none: the number is of scales alone.
        scales: scale words, their select bits 0.
    """

    select: int = 0
    zero: Fraction = Fraction(0)
    lanes: tuple[Lane, ...] = ()
    scales: tuple[int, ...] = ()

    def value(self, fmt: Format) -> Fraction:
        """The number, from the format's own tables.

        Raises:
            ValueError: a code or a scale word means no number.
        """
        total = Fraction(0) if self.lanes else Fraction(1)
        for lane in self.lanes:
            element = fmt.grids[self.select].values[lane.code]
            if element is None:
                raise ValueError(f"code {lane.code} is no number")
            total += lane.count * (element - self.zero) * lane.activation.value
        for word in self.scales:
            total *= word_value(fmt, word)
        return total

    def scaled(self, other: Witness) -> Witness:
        """This one times the scales of ``other``."""
        return replace(self, scales=self.scales + other.scales)

    def as_json(self) -> dict[str, Any]:
        """Plain values; an activation is its coefficient and shift."""
        lanes = [
            {
                "count": lane.count,
                "code": lane.code,
                "activation": [lane.activation.coefficient, lane.activation.shift],
            }
            for lane in self.lanes
        ]
        shown: dict[str, Any] = {}
        if lanes:
            shown = {"select": self.select, "zero": int(self.zero), "lanes": lanes}
        return shown | ({"scales": list(self.scales)} if self.scales else {})


@dataclass(frozen=True, slots=True)
class End:
    """A number that a stage attains, and words that reach it."""

    value: Fraction
    witness: Witness


@dataclass(frozen=True, slots=True)
class Stage:
    """All that one point of the datapath can carry.

    Attributes:
        name: of the stage.
        unit: exponent of the least significant bit, as a fixed-point word counts.
        low, high: the ends.
        odd: the number of the widest significand.
        fine: the nonzero number of the lowest set bit.
        derivation: how the numbers follow, in a line.
    """

    name: str
    unit: int
    low: End
    high: End
    odd: End
    fine: End
    derivation: str

    @property
    def integers(self) -> Bounds:
        """The range in units of ``2^unit``."""
        unit = Fraction(2) ** self.unit
        return Bounds(int(self.low.value / unit), int(self.high.value / unit))

    @property
    def bits(self) -> int:
        """The two's-complement width of a fixed-point word."""
        return self.integers.bits

    @property
    def significand(self) -> int:
        """The significand bits that hold every number of the stage."""
        return odd_part(self.odd.value).bit_length()

    @property
    def finest(self) -> int:
        """The exponent of the lowest bit that any number sets."""
        return lsb(self.fine.value)

    @property
    def largest(self) -> End:
        """The number of the largest magnitude."""
        return max(self.high, self.low, key=lambda end: abs(end.value))

    def misfit(self, precision: Precision) -> tuple[str, End] | None:
        """Why not every number is exact in ``precision``, and one that is not; None: all are."""
        if self.significand > precision.bits:
            return f"a significand of {self.significand} bits", self.odd
        if self.finest < precision.least:
            return f"a bit of weight 2^{self.finest}", self.fine
        if abs(self.largest.value) > precision.largest:
            return f"a magnitude past 2^{floor_log2(abs(self.largest.value))}", self.largest
        return None

    def in_range(self, precision: Precision) -> bool:
        """Whether every number is zero or of normal size: one rounding is a factor 1 + d."""
        normal = precision.least + precision.bits - 1
        return self.finest >= normal and abs(self.largest.value) <= precision.largest

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; integers past 2^53 as text."""
        integers = self.integers
        return {
            "low": json_integer(integers.low),
            "high": json_integer(integers.high),
            "unit": self.unit,
            "bits": integers.bits,
            "significand": self.significand,
            "finest": self.finest,
            "inexact": {p.name: _misfit_json(self, p) for p in (FP32, FP64)},
            "reached_by": {
                "low": self.low.witness.as_json(),
                "high": self.high.witness.as_json(),
                "significand": self.odd.witness.as_json(),
            },
            "derivation": self.derivation,
        }


def times(name: str, left: Stage, right: Stage) -> Stage:
    """The products of two stages that are free of each other."""
    ends = [
        End(a.value * b.value, a.witness.scaled(b.witness))
        for a, b in product(*((s.low, s.high, s.odd, s.fine) for s in (left, right)))
    ]
    stage = stage_of(name, left.finest + right.finest, ends)
    odd, other = odd_part(left.odd.value), odd_part(right.odd.value)
    note = f"odd parts multiply: {odd} x {other} = {odd * other}, {stage.significand} bits; "
    note += f"exponents add: 2^{left.finest} x 2^{right.finest}"
    return replace(stage, derivation=note)


def stage_of(name: str, unit: int, ends: Iterable[End]) -> Stage:
    """The stage that the extremes of ``ends`` make; its derivation is still to be written."""
    ends = list(ends)
    nonzero = [end for end in ends if end.value]
    return Stage(
        name=name,
        unit=unit,
        low=min(ends, key=value_of),
        high=max(ends, key=value_of),
        odd=max(nonzero, key=lambda end: odd_part(end.value)),
        fine=min(nonzero, key=lambda end: lsb(end.value)),
        derivation="",
    )


def word_value(fmt: Format, word: int) -> Fraction:
    """What a scale word multiplies with; a bit that selects the grid is no sign.

    Raises:
        ValueError: the word is no finite number.
    """
    layout = fmt.scale.word
    number = layout.number
    code = (word >> layout.magnitude_lsb) & ((1 << number.magnitude_bits) - 1)
    magnitude = number.magnitude(code)
    if magnitude is None:
        raise ValueError(f"the scale word {word:#x} is no finite number")
    negative = has_sign(fmt) and word >> (layout.sign_bit or 0) & 1
    return -magnitude if negative else magnitude


def lsb(value: Fraction) -> int:
    """The exponent of the lowest set bit of a dyadic rational other than 0."""
    return floor_log2(abs(value)) - (significant_bits(value) or 1) + 1


def has_sign(fmt: Format) -> bool:
    """Whether a scale word may be negative: its sign bit selects no grid."""
    return fmt.scale.word.number.signed and fmt.select.place != "scale.sign"


def value_of(end: End) -> Fraction:
    """The key that orders ends."""
    return end.value


def odd_part(value: Fraction) -> int:
    """The significand of a dyadic rational as an odd integer; of 0, 0."""
    numerator = abs(value.numerator)
    return numerator // (numerator & -numerator) if numerator else 0


def _misfit_json(stage: Stage, precision: Precision) -> dict[str, Any] | None:
    found = stage.misfit(precision)
    if found is None:
        return None
    why, end = found
    return {"why": why, "reached_by": end.witness.as_json()}
