"""Grids that an element's code can be computed on: minifloats and integers of 6 to 8 bits.

Their elements are divided by the scale and rounded as numbers, where a search among some
hundred thresholds would take longer. What decides is the same exact quotient.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ...compiler.exact import floor_log2
from ...compiler.view import GridView, View
from .search import Search

#: Narrower codes are found faster among thresholds.
_LEAST_BITS = 6


@dataclass(frozen=True, slots=True)
class FloatRounding:
    """Magnitude codes are those of a float with subnormals, and the top bit is the sign.

    Attributes:
        mantissa: bits of the mantissa.
        offset: what a binary32 number's leading bits exceed the code by.
        least_normal: the smallest number whose code has an exponent, a power of two.
        magic: a number in whose last place subnormals count, so that adding it rounds them.
        last: the largest magnitude code.
        least_threshold: the smallest number that is not rounded to zero, or near it.
    """

    mantissa: int
    offset: int
    least_normal: float
    magic: float
    last: int
    least_threshold: Fraction
    kind: str = "float"


@dataclass(frozen=True, slots=True)
class IntegerRounding:
    """Codes count the values, which are whole numbers of steps.

    Attributes:
        factor: 1 / step, a power of two.
        low, high: the ends, in steps.
        start: the code of a value is its steps less these, modulo 2^bits.
        least_threshold: half a step.
    """

    factor: float
    low: int
    high: int
    start: int
    least_threshold: Fraction
    kind: str = "integer"


def least_scale(rounding: FloatRounding | IntegerRounding) -> float:
    """The scale, a power of two, from which on no remainder that counts is lost to underflow.

    The remainder of a quotient q under a scale s is a multiple of ulp(q) * ulp(s), which
    binary32 must hold for every q from half the least threshold on.
    """
    quotient = floor_log2(rounding.least_threshold) - 1
    return 2.0 ** max(-80, -149 + 23 + 23 - quotient)


def rounding_of(view: View, search: Search) -> FloatRounding | IntegerRounding | None:
    """How elements are rounded to the one grid of a format; None where they are searched for."""
    fmt = view.format
    exact = fmt.policies.compare == "exact"
    if fmt.code_bits < _LEAST_BITS or len(view.grids) > 1 or fmt.policies.offset is not None:
        return None
    if exact and view.zero_kind == "point":  # what is rounded is no quotient of binary32 numbers
        return None
    grid = view.grids[0]
    values = [fmt.grids[0].values[code] or Fraction(0) for code in grid.order]
    if search.mirrored and search.identity and view.zero_kind != "point":
        half = len(values) // 2
        return _float(values[half:], grid.ties_up[half:])
    return _integer(values, grid, fmt.code_bits)


def _float(values: list[Fraction], ties_up: tuple[bool, ...]) -> FloatRounding | None:
    if any(up != (code % 2 == 1) for code, up in enumerate(ties_up)):
        return None
    for mantissa in range(1, 8):
        least = floor_log2(values[1]) + mantissa
        if all(v == _float_value(code, mantissa, least) for code, v in enumerate(values)):
            return FloatRounding(
                mantissa=mantissa,
                offset=(126 + least) << mantissa,
                least_normal=2.0**least,
                magic=2.0 ** (least - mantissa + 23),
                last=len(values) - 1,
                least_threshold=values[1] / 2,
            )
    return None


def _float_value(code: int, mantissa: int, least: int) -> Fraction:
    """The magnitude of a code whose exponent field 1 means 2^least."""
    field, fraction = divmod(code, 1 << mantissa)
    whole = fraction + ((1 << mantissa) if field else 0)
    return whole * Fraction(2) ** (least - mantissa + max(field - 1, 0))


def _integer(values: list[Fraction], grid: GridView, bits: int) -> IntegerRounding | None:
    step = values[1] - values[0]
    if step <= 0 or step != Fraction(2) ** floor_log2(step) or (values[0] / step).denominator != 1:
        return None
    low = int(values[0] / step)
    if any(v != step * (low + rank) for rank, v in enumerate(values)):
        return None
    if any(up != ((low + rank) % 2 == 1) for rank, up in enumerate(grid.ties_up)):
        return None
    for start in (0, low):
        if all(code == (low + rank - start) % (1 << bits) for rank, code in enumerate(grid.order)):
            high = low + len(values) - 1
            return IntegerRounding(float(1 / step), low, high, start, step / 2)
    return None
