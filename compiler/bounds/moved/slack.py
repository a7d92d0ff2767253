"""What the roundings of binary32 may add to the bounds of moved formats.

It holds where no number on the way is subnormal in binary32 or overflows.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

from ...format import Format
from ..slack import HALF_ULP

#: Roundings to binary32 between an element and its error, in half ulps of the largest absmax of
#: block, group or tensor. An element less its minimum is at most twice that, and a quotient plus
#: its zero point as well: range 2, scale 2, reciprocal and quotient 6, their sum with a zero or
#: an offset 4, the zero 6, and each of these moves an edge by as much on both sides; mean and
#: inner scale 6, decoding 6.
ROUNDINGS = 48


def moved_slack(fmt: Format, measure: str, bound: Fraction) -> Fraction:
    """What binary32 may add to an element's bound, in the measure's own unit."""
    reach = Fraction(1)
    if measure in ("scale", "least", "self"):
        reach = max(grid.high - grid.low for grid in fmt.grids)
    return ROUNDINGS * HALF_ULP * (reach + bound)


def moved_block_slack(count: int, bound: Fraction) -> Fraction:
    """The same for a sum of squares S of ``count`` elements: as in ``slack.block_slack``."""
    eta = 2 * ROUNDINGS * HALF_ULP
    share = bound / count
    root = Fraction(isqrt(share.numerator * (1 << 60) // share.denominator) + 1, 1 << 30)
    return eta * (bound / root + count * root) + count * eta * eta
