"""The floats of PTX as bits, and arithmetic on them that rounds once.

A value is held in binary64, which has room for the product of any two; a sum is rounded to odd
there, which the rounding that follows cannot tell from the exact sum, since binary64 has at least
two bits more than any target at any magnitude (Boldo and Melquiond, IEEE Transactions on
Computers 57(4), 2008). Types and their special values are those of the PTX ISA, "Alternate
Floating-Point Data Formats". A NaN that is made is the canonical one, every bit set but the sign:
0x7fff of f16 and bf16, 0x7fffffff of f32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Bits = NDArray[Any]
"""Unsigned integers, or booleans."""


@dataclass(frozen=True)
class FloatKind:
    """A binary float: sign, exponent and mantissa, from the highest bit down.

    Attributes:
        exponent: bits of the exponent.
        mantissa: bits of the mantissa.
        bias: of the exponent.
        special: ``ieee``: the highest exponent means infinity and NaN; ``nan``: only the code of
            all ones is a NaN; ``none``: every code is a number.
    """

    exponent: int
    mantissa: int
    bias: int
    special: str = "ieee"

    @property
    def width(self) -> int:
        """Bits of a code."""
        return 1 + self.exponent + self.mantissa

    @property
    def nan(self) -> int:
        """The canonical NaN: all ones but the sign."""
        return (1 << (self.exponent + self.mantissa)) - 1

    @property
    def infinity(self) -> int:
        """The code of infinity, of an ``ieee`` kind."""
        return ((1 << self.exponent) - 1) << self.mantissa

    @property
    def most(self) -> int:
        """The code of the largest finite value."""
        return {"ieee": self.infinity - 1, "nan": self.nan - 1, "none": self.nan}[self.special]

    @property
    def quantum(self) -> int:
        """The power of two that the smallest subnormal value is."""
        return 1 - self.bias - self.mantissa

    @cached_property
    def storage(self) -> np.dtype[Any]:
        """The smallest unsigned integer that holds a code."""
        return np.dtype(f"u{1 << max(0, (self.width - 1).bit_length() - 3)}")


F16 = FloatKind(5, 10, 15)
BF16 = FloatKind(8, 7, 127)
F32 = FloatKind(8, 23, 127)
E4M3 = FloatKind(4, 3, 7, "nan")
E5M2 = FloatKind(5, 2, 15)
E2M1 = FloatKind(2, 1, 1, "none")
E2M3 = FloatKind(2, 3, 1, "none")
E3M2 = FloatKind(3, 2, 3, "none")


def widen(kind: FloatKind, bits: Bits) -> F64:
    """The values of codes; bits above the code are not looked at."""
    code = bits.astype(np.int64)
    magnitude = code & kind.nan
    field = magnitude >> kind.mantissa
    fraction = magnitude & ((1 << kind.mantissa) - 1)
    implicit = np.where(field > 0, 1 << kind.mantissa, 0)
    value: F64 = np.ldexp(
        (fraction + implicit).astype(np.float64), kind.quantum + np.maximum(field, 1) - 1
    )
    if kind.special == "ieee":
        value = np.where(magnitude > kind.infinity, np.nan, value)
        value = np.where(magnitude == kind.infinity, np.inf, value)
    if kind.special == "nan":
        value = np.where(magnitude == kind.nan, np.nan, value)
    negative = code >> (kind.width - 1) & 1 == 1
    return np.where(negative, -value, value)


def narrow(kind: FloatKind, value: F64, *, saturate: bool = False) -> Bits:
    """The codes of values, to the nearest, ties to even.

    Args:
        kind: what to round to.
        value: exact, or rounded to odd.
        saturate: beyond the largest finite value comes that value, not infinity.
    """
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(value), np.abs(value), 0.0)
        _, above = np.frexp(size)
        step = np.maximum(above.astype(np.int64) - 1 - kind.mantissa, kind.quantum)
        step = np.where(size == 0, kind.quantum, step)
        count = np.rint(np.ldexp(size, -step)).astype(np.int64)
        # The implicit bit of a normal count adds one to the exponent that stands above it.
        code = count + ((step - kind.quantum) << kind.mantissa)
    top = kind.most if saturate else kind.infinity
    code = np.where(np.isinf(value), top, np.minimum(code, top))
    code |= np.where(np.signbit(value), 1 << (kind.width - 1), 0)
    code = np.where(np.isnan(value), kind.nan, code)
    return code.astype(kind.storage)


def total(a: F64, b: F64) -> F64:
    """The sum of two values, rounded to odd."""
    with np.errstate(all="ignore"):
        rounded = a + b
        above = rounded - a
        error = (a - (rounded - above)) + (b - above)
        bits = rounded.view(np.int64)
        even = (error != 0) & np.isfinite(rounded) & (bits & 1 == 0)
        step = np.where((error > 0) == (rounded > 0), 1, -1)
        return np.where(even, bits + step, bits).view(np.float64)


def product(a: F64, b: F64) -> F64:
    """The product of two values of at most 24 bits, exact."""
    with np.errstate(all="ignore"):
        return a * b


def larger(kind: FloatKind, a: Bits, b: Bits, *, sign: int = 1, nan: bool = False) -> Bits:
    """The larger of two codes, the smaller for sign -1; +0 is larger than -0.

    Args:
        kind: what both are.
        a: codes.
        b: codes.
        sign: 1 or -1.
        nan: whether one NaN makes a NaN; otherwise only two do.
    """
    x, y = widen(kind, a), widen(kind, b)
    with np.errstate(invalid="ignore"):
        first, second = sign * x > sign * y, sign * x < sign * y
    equal = a & b if sign > 0 else a | b  # codes of equal values differ in the sign of zeros only
    found = np.where(first, a, np.where(second, b, equal))
    found = np.where(np.isnan(x), b, np.where(np.isnan(y), a, found))
    no_number = np.isnan(x) | np.isnan(y) if nan else np.isnan(x) & np.isnan(y)
    return np.where(no_number, kind.nan, found).astype(kind.storage)
