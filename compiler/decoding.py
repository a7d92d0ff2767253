"""Cheap ways to turn codes into values, derived from the exact grids.

A GPU multiplies binary16 pairs. Each function here says whether a grid has a form that needs no
table, or a small one, and by what power of two the result is off: ``value = decoded * 2^power``
exactly, so that the power can go into the scale. Nothing is looked up by a format's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .exact import floor_log2
from .format import Format

#: binary16 and E4M3 of no number.
HALF_NAN, E4M3_NAN = 0x7E00, 0x7F

#: A table's largest value, as a power of two: eight products with a half below 2^15 stay finite.
TABLE_TOP = -3

#: A grid's values by code; None where a code is no number.
Values = tuple[Fraction | None, ...]


@dataclass(frozen=True, slots=True)
class Base:
    """Grids that are affine images of others: value = factor * base + shift, per select index.

    Attributes:
        grids: the grids that are left, by index.
        of: for every select index, which of them.
        factors, shifts: for every select index.
    """

    grids: tuple[Values, ...]
    of: tuple[int, ...]
    factors: tuple[Fraction, ...]
    shifts: tuple[Fraction, ...]

    @property
    def is_shifted(self) -> bool:
        """Whether some index shifts its grid."""
        return any(self.shifts)

    @property
    def is_scaled(self) -> bool:
        """Whether some index scales its grid."""
        return any(factor != 1 for factor in self.factors)


@dataclass(frozen=True, slots=True)
class HalfTable:
    """Every code's value as binary16: ``rows`` [grids][codes] of bits; NaN for no number.

    ``exact`` says whether value = half * 2^power holds, or only to within 2^-11 of the value and
    2^-22 of the largest.
    """

    rows: tuple[tuple[int, ...], ...]
    power: int
    exact: bool

    @property
    def has_low_bytes(self) -> bool:
        """Whether some value needs more than its upper byte."""
        return any(bits & 0xFF for row in self.rows for bits in row)


@dataclass(frozen=True, slots=True)
class ByteTable:
    """Every code's value as an E4M3 byte, exact: value = byte * 2^power."""

    rows: tuple[tuple[int, ...], ...]
    power: int


@dataclass(frozen=True, slots=True)
class SignMagnitude:
    """Sign bit on top, the rest ``shift`` bits up, is the value in a wider float times 2^power."""

    shift: int
    power: int


@dataclass(frozen=True, slots=True)
class OffsetInteger:
    """value = ((code ^ flip) - bias) * 2^power."""

    flip: int
    bias: int
    power: int


def base_of(fmt: Format) -> Base:
    """Leave out grids that are affine images of an earlier one, code by code."""
    grids: list[Values] = []
    of, factors, shifts = [], [], []
    for grid in fmt.grids:
        found = None
        for index, known in enumerate(grids):
            image = _affine(known, grid.values)
            if image is not None:
                found = (index, *image)
                break
        if found is None:
            grids.append(grid.values)
            found = (len(grids) - 1, Fraction(1), Fraction(0))
        of.append(found[0])
        factors.append(found[1])
        shifts.append(found[2])
    return Base(tuple(grids), tuple(of), tuple(factors), tuple(shifts))


def pad_code(kernel: Format) -> int:
    """The code behind the end of rows: a number in every grid, and the closest to zero in all.

    0 where no code is a number in every grid. The activations there are zero.
    """
    grids = [grid.values for grid in kernel.grids]
    sizes = {}
    for code in range(1 << kernel.code_bits):
        values = [values[code] if code < len(values) else None for values in grids]
        numbers = [abs(value) for value in values if value is not None]
        if len(numbers) == len(values):
            sizes[code] = max(numbers)
    return min(sizes, key=lambda code: (sizes[code], code), default=0)


def half_table(grids: tuple[Values, ...]) -> HalfTable:
    """The values of all grids as binary16 of one power of two, the largest at most 2^-3."""
    power = top(grids) - TABLE_TOP
    unit = Fraction(2) ** power
    rows, exact = [], True
    for values in grids:
        row = []
        for value in values:
            half = np.float16(float((value or Fraction(0)) / unit))
            exact = exact and (value is None or Fraction(float(half)) * unit == value)
            row.append(HALF_NAN if value is None else int(half.view(np.uint16)))
        rows.append(tuple(row))
    return HalfTable(tuple(rows), power, exact)


def e4m3_table(grids: tuple[Values, ...]) -> ByteTable | None:
    """The values of all grids as E4M3 bytes of one power of two, if all are exact."""
    highest = top(grids)
    for reach in (3, 9, 8):  # small numbers first; the largest E4M3 number is 448 = 1.75 * 2^8
        unit = Fraction(2) ** (highest - reach)
        rows = [[_e4m3(value, unit) for value in values] for values in grids]
        if all(byte is not None for row in rows for byte in row):
            found = tuple(tuple(byte or 0 for byte in row) for row in rows)
            return ByteTable(found, highest - reach)
    return None


def half_fields(values: Values) -> SignMagnitude | None:
    """A grid whose codes are a float's sign, exponent and mantissa, moved into binary16."""
    return _fields(values, 15, _half_value)


def e4m3_fields(values: Values) -> SignMagnitude | None:
    """A grid whose codes are a float's fields, moved into an E4M3 byte."""
    return _fields(values, 7, _e4m3_value)


def offset_integer(values: Values) -> OffsetInteger | None:
    """A grid of consecutive integers times a power of two: offset, two's complement, unsigned.

    A code of no number, which no encoder stores, counts as the integer that it would be.
    """
    numbers = sorted({value for value in values if value is not None})
    if len(numbers) < 2:
        return None
    unit = numbers[1] - numbers[0]
    if unit != Fraction(2) ** floor_log2(unit):
        return None
    for flip in (0, len(values) // 2):
        known = next((code, v) for code, v in enumerate(values) if v is not None)
        bias = (known[0] ^ flip) - known[1] / unit
        if bias.denominator == 1 and all(
            value in (None, ((code ^ flip) - bias) * unit) for code, value in enumerate(values)
        ):
            return OffsetInteger(flip, int(bias), floor_log2(unit))
    return None


def top(grids: tuple[Values, ...]) -> int:
    """The least t with every magnitude at most 2^t."""
    largest = max(
        (abs(v) for values in grids for v in values if v is not None), default=Fraction(0)
    )
    if largest == 0:
        return 0
    floor = floor_log2(largest)
    return floor if largest == Fraction(2) ** floor else floor + 1


def _affine(known: Values, values: Values) -> tuple[Fraction, Fraction] | None:
    """(factor, shift) with values = factor * known + shift, if there is such a pair."""
    if [v is None for v in known] != [v is None for v in values]:
        return None
    pairs = [(k, v) for k, v in zip(known, values, strict=True) if k is not None and v is not None]
    low, high = min(pairs), max(pairs)
    if low[0] == high[0]:
        return None
    factor = (high[1] - low[1]) / (high[0] - low[0])
    shift = low[1] - factor * low[0]
    return (factor, shift) if all(v == factor * k + shift for k, v in pairs) else None


def _fields(
    values: Values, sign: int, value_of: Callable[[int], Fraction | None]
) -> SignMagnitude | None:
    """The first shift under which the moved fields are the values, times one power of two."""
    half = len(values) // 2
    if half < 2:
        return None
    room = sign - (half - 1).bit_length()
    for shift in range(room, -1, -1):
        moved = [
            ((code & half > 0) << sign) | ((code & (half - 1)) << shift)
            for code in range(len(values))
        ]
        power = _common_power([value_of(bits) for bits in moved], values)
        if power is not None:
            return SignMagnitude(shift, power)
    return None


def _common_power(decoded: list[Fraction | None], values: Values) -> int | None:
    """P with value = decoded * 2^p for every code; codes of no number are so in both."""
    powers = set()
    for below, above in zip(decoded, values, strict=True):
        if not below or not above:
            if below != above:
                return None
            continue
        ratio = above / below
        if ratio < 0 or ratio != Fraction(2) ** floor_log2(ratio):
            return None
        powers.add(floor_log2(ratio))
    return powers.pop() if len(powers) == 1 else None


def _half_value(bits: int) -> Fraction | None:
    number = np.uint16(bits).view(np.float16)
    return Fraction(float(number)) if np.isfinite(number) else None


def _e4m3_value(byte: int) -> Fraction | None:
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if byte & 0x7F == E4M3_NAN:
        return None
    magnitude = (
        Fraction(mantissa, 512)
        if exponent == 0
        else Fraction(8 + mantissa, 8) * Fraction(2) ** (exponent - 7)
    )
    return -magnitude if byte >> 7 else magnitude


_E4M3_BYTES = {_e4m3_value(byte): byte for byte in (*range(0x81, 0x100), *range(0x80))}


def _e4m3(value: Fraction | None, unit: Fraction) -> int | None:
    return E4M3_NAN if value is None else _E4M3_BYTES.get(value / unit)
