"""What the roundings of binary32 may add to a bound that was derived in real arithmetic.

It holds where no number on the way is subnormal in binary32 or overflows.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, isqrt

from ..format import Format
from .words import words_of

#: Half an ulp of 1 in binary32.
HALF_ULP = Fraction(1, 1 << 24)


def roundings(fmt: Format) -> int:
    """How many roundings to binary32, counted in half ulps, may move an error.

    The product of value and scale is one. The scale itself is rounded where it is divided or
    multiplied by a second level: it moves value and reach. A rounded quotient may put an element
    that is near an edge on its wrong side, by twice its own error.
    """
    count = 2
    if not words_of(fmt) or fmt.scale.tensor != "none" or fmt.scale.codes == "wanted":
        count += 3
    count += {"exact": 0, "fp32_quotient": 3, "fp32_reciprocal": 6}[fmt.policies.compare]
    offset = fmt.policies.offset
    return count if offset is None else count + 4 + 2 * ceil(abs(offset))


def slack(fmt: Format, measure: str, bound: Fraction) -> Fraction:
    """What binary32 may add to an element's bound, in the measure's own unit."""
    reach = Fraction(1)
    if measure in ("scale", "least", "zero"):
        reach = max(max(abs(v) for v in grid.numbers) for grid in fmt.grids)
    return roundings(fmt) * HALF_ULP * (reach + bound)


def block_slack(fmt: Format, bound: Fraction) -> Fraction:
    """The same for a block's sum of squares S: (sqrt(S) + sqrt(g) eta)^2 - S, rounded up.

    eta is an element's slack over absmax. sqrt(S g) is at most (S / r + g r) / 2 for any r; the
    best is sqrt(S / g).
    """
    count = element_count(fmt) or 1
    eta = 2 * roundings(fmt) * HALF_ULP
    share = bound / count
    root = Fraction(isqrt(share.numerator * (1 << 60) // share.denominator) + 1, 1 << 30)
    return eta * (bound / root + count * root) + count * eta * eta


def element_count(fmt: Format) -> int | None:
    """The elements of a block, or None for rows and tensors, which have any number."""
    return fmt.block * fmt.tile if fmt.extent == "block" else None
