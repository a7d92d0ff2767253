"""Small floats of any split: E2M1, E4M3, UE5M3, E8M0 and their like, as exact values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import floor

from .exact import floor_log2

#: What the all-ones exponent means. ``finite``: ordinary numbers; ``nan``: ordinary, but the
#: all-ones code is NaN (OCP's E4M3); ``ieee``: infinities and NaNs; ``reserved``: not used.
TOPS = ("finite", "nan", "ieee", "reserved")

#: Names of the field that are not of the form eXmY.
ALIASES = {"fp32": "e8m23", "bf16": "e8m7", "fp16": "e5m10"}

_NAME = re.compile(r"(s0|s1|u|)e(\d{1,2})m(\d{1,2})\Z")

#: Conventions that a published format fixes: OCP MX 1.0 and OFP8 (E4M3, E5M2, E8M0),
#: NVFP4 (UE4M3), SOP section on atoms (E3M3 and E2M5 keep the top exponent free).
_TOP = {
    (4, 3): "nan",
    (8, 0): "nan",
    (5, 2): "ieee",
    (5, 10): "ieee",
    (8, 7): "ieee",
    (8, 23): "ieee",
    (3, 3): "reserved",
    (2, 5): "reserved",
}


@dataclass(frozen=True, slots=True)
class SmallFloat:
    """A float of ``exponent`` and ``mantissa`` bits, with or without a sign bit above them.

    ``subnormals`` false means that exponent field 0 is an ordinary exponent, so the
    format has no zero (E8M0).
    """

    exponent: int
    mantissa: int
    signed: bool
    bias: int
    top: str
    subnormals: bool

    @property
    def magnitude_bits(self) -> int:
        """Exponent and mantissa bits together."""
        return self.exponent + self.mantissa

    @property
    def bits(self) -> int:
        """All bits, the sign included."""
        return self.magnitude_bits + self.signed

    def magnitude(self, code: int) -> Fraction | None:
        """The value of a code without its sign bit; None where it is no finite number."""
        field, fraction = divmod(code, 1 << self.mantissa)
        if field == (1 << self.exponent) - 1:
            all_ones = fraction == (1 << self.mantissa) - 1
            if self.top in ("ieee", "reserved") or (self.top == "nan" and all_ones):
                return None
        if field == 0 and self.subnormals:
            return _scaled(fraction, 1 - self.bias - self.mantissa)
        return _scaled((1 << self.mantissa) + fraction, field - self.bias - self.mantissa)

    def magnitudes(self) -> tuple[Fraction | None, ...]:
        """The value of every code without a sign, in code order."""
        return _magnitudes(self)

    def values(self) -> tuple[Fraction | None, ...]:
        """The value of every code, sign bit on top; code of -0 gives 0."""
        magnitudes = self.magnitudes()
        if not self.signed:
            return magnitudes
        return magnitudes + tuple(None if m is None else -m for m in magnitudes)

    @property
    def largest(self) -> Fraction:
        """The largest finite value."""
        last = (1 << self.magnitude_bits) - 1
        if self.top == "nan":
            last -= 1
        elif self.top in ("ieee", "reserved"):
            last -= 1 << self.mantissa
        value = self.magnitude(last)
        return Fraction(0) if value is None else value

    @property
    def smallest_normal(self) -> Fraction:
        """The least value with a full significand."""
        return Fraction(2) ** ((1 if self.subnormals else 0) - self.bias)

    def nearest(self, value: Fraction) -> Fraction:
        """The finite value nearest to ``value``, the lower one on a tie; saturating.

        For floats that have a zero: all but E8M0.
        """
        if not self.signed and value < 0:
            return Fraction(0)
        if abs(value) >= self.largest:
            return self.largest if value > 0 else -self.largest
        binade = floor_log2(self.smallest_normal) if value == 0 else floor_log2(abs(value))
        ulp = Fraction(2) ** (max(binade, floor_log2(self.smallest_normal)) - self.mantissa)
        low = floor(value / ulp) * ulp
        return low if value - low <= low + ulp - value else low + ulp

    @property
    def nan_code(self) -> int | None:
        """The magnitude code of the canonical NaN, or None."""
        if self.top == "nan":
            return (1 << self.magnitude_bits) - 1
        if self.top == "ieee" and self.mantissa:
            half = 1 << (self.mantissa - 1)
            return (((1 << self.exponent) - 1) << self.mantissa) | half
        return None


@lru_cache(maxsize=32)
def _magnitudes(number: SmallFloat) -> tuple[Fraction | None, ...]:
    """A table of up to 2^16 values, which many ask for: made once."""
    return tuple(number.magnitude(code) for code in range(1 << number.magnitude_bits))


def _scaled(integer: int, exponent: int) -> Fraction:
    """An integer times 2^exponent, exactly."""
    if exponent >= 0:
        return Fraction(integer << exponent)
    return Fraction(integer, 1 << -exponent)


def named_float(name: str) -> SmallFloat | None:
    """The float that a name such as ``e2m1``, ``ue4m4``, ``s1e5m5`` or ``bf16`` stands for.

    Bias 2^(X-1)-1; a bare name is signed, except the exponent-only E8M0 (OCP MX 1.0,
    section 5.4). None when the name is not of this form or has no or too many bits.
    """
    match = _NAME.match(ALIASES.get(name, name))
    if match is None:
        return None
    exponent, mantissa = int(match[2]), int(match[3])
    if not 1 <= exponent <= 8 or not 0 <= mantissa <= 23:
        return None
    only_exponent = (exponent, mantissa) == (8, 0)
    return SmallFloat(
        exponent=exponent,
        mantissa=mantissa,
        signed=match[1] in ("", "s1") and not only_exponent,
        bias=(1 << (exponent - 1)) - 1,
        top=_TOP.get((exponent, mantissa), "finite"),
        subnormals=not only_exponent,
    )
