"""The ladder of a grid: thresholds in ascending order, each with the code above it."""

from __future__ import annotations

from dataclasses import dataclass

from ...compiler.exact import fp32_from_bits
from ...compiler.view import NEGATIVE_ZERO_BITS, GridView

#: Tie modes of a threshold, the last column of ``Threshold``.
TIE_DOWN, TIE_UP, TIE_UP_AT_ZERO = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Threshold:
    """One step of a grid's ladder: above it an element takes ``code``.

    ``kind`` is ``product`` (scale * midpoint), ``zero`` (the midpoint is zero), ``split``
    (between -0 and +0) or ``quotient`` (a constant key). ``key`` is a constant key, or 0.
    """

    kind: str
    midpoint: float
    tie: int
    key: int
    code: int

    @property
    def text(self) -> str:
        """The midpoint as a literal that reads back exactly."""
        return repr(self.midpoint).replace("e+", "e")

    @property
    def label(self) -> str:
        """The value that a quotient is compared with, for a comment."""
        return f"{fp32_from_bits(_bits_of_key(self.key)):.9g}"


def total_order_key(bits: int) -> int:
    """The signed 32-bit key of binary32 bits: ascending like the numbers, -0 below +0."""
    return bits if bits < NEGATIVE_ZERO_BITS else NEGATIVE_ZERO_BITS - 1 - bits


def _bits_of_key(key: int) -> int:
    return key if key >= 0 else NEGATIVE_ZERO_BITS - 1 - key


def ladder_of(grid: GridView, exact: bool, moved: bool) -> tuple[Threshold, ...]:
    """The grid's thresholds in ascending order, each with the code above it.

    The last threshold below x decides, which is the count of those below it as they ascend.
    Two quotients may round to the same number and swap places: sorted, the count stays.
    ``moved``: exact midpoints are taken less a zero point, so that no threshold is constant.
    """
    if not exact:
        keys = sorted(total_order_key(bits) for bits in grid.quotient_bits)
        return tuple(
            Threshold("quotient", 0.0, TIE_DOWN, key, code)
            for key, code in zip(keys, grid.order[1:], strict=True)
        )
    steps = []
    for index, (middle, up) in enumerate(zip(grid.midpoints, grid.ties_up, strict=True)):
        code = grid.order[index + 1]
        if moved:
            tie = TIE_UP if up or index == grid.zero_split else TIE_DOWN
            steps.append(Threshold("product", float(middle), tie, 0, code))
        elif index == grid.zero_split:
            steps.append(Threshold("split", 0.0, TIE_UP, -1, code))
        elif middle == 0:
            tie = TIE_UP_AT_ZERO if up else TIE_DOWN
            steps.append(Threshold("zero", 0.0, tie, -tie, code))
        else:
            tie = TIE_UP if up else TIE_DOWN
            steps.append(Threshold("product", float(middle), tie, 0, code))
    return tuple(steps)


def sign_of(grid: GridView, ladder: tuple[Threshold, ...]) -> int:
    """The bit that mirrors a code, where -x takes the code of x but for it; else 0."""
    half = len(ladder) // 2
    if half == 0 or len(ladder) % 2 == 0 or grid.zero_split != half:
        return 0
    below, above = reversed(ladder[:half]), ladder[half + 1 :]
    for low, high in zip(below, above, strict=True):
        # Above a threshold -x lies not: where x is at most it, or below it if ties go up.
        if high.kind == "product":
            mirrored = low.midpoint == -high.midpoint and {low.tie, high.tie} == {TIE_DOWN, TIE_UP}
        else:
            mirrored = high.kind == "quotient" and low.key == -high.key - 2
        if low.kind != high.kind or not mirrored:
            return 0
    sign = grid.order[half] ^ grid.order[half + 1]
    pairs = zip(reversed(grid.order[: half + 1]), grid.order[half + 1 :], strict=True)
    alike = all(high & sign == 0 and low == high | sign for low, high in pairs)
    return sign if alike and sign.bit_count() == 1 else 0
