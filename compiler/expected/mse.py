"""The mean squared error that a format makes on random blocks, by quadrature and not by sampling.

A block is g independent elements of a symmetric law of variance 1. Element x asks for the scale
a(x) = x / d+ or -x / d- (0 on a side that does not count), d+ and d- the format's divisors, and
the block takes the largest, s. With F(s) = P(a <= s), the others of a block of scale s follow
the law cut off at -s d- and s d+, and the one that asked for s stands at an end. With

    E(s; A) = integral over -A d- .. A d+ of (x - s Q(x / s))^2 f(x) dx,

a sum over the grid's cells of moments of the law's tails (closed forms, summed by parts so that
what lies far out is small), the error of an element is, under ``exact`` scales,

    integral over s of  F^(g-1) (d+ f(s d+) e(d+) + d- f(s d-) e(-d-)) s^2
                        + (g-1) F^(g-2) F' E(s; s),             e(t) = (t - Q(t))^2,

where all edges move with s, so that the integrand is analytic: the trapezoidal rule over log s
converges exponentially, and is refined until two steps agree. Under rule ``argmax`` d+ = d-, and
the largest element stands at t* whichever its sign was; the others are symmetric as before.

Under ``stored`` scales word k serves the blocks that ask for lo_k < s <= hi_k. That no element
asks for more than hi is a product over elements, so that no integral is left:

    sum over k of  F(hi_k)^(g-1) (E(s_k; hi_k) - E(s_k; lo_k))
                   + (F(hi_k)^(g-1) - F(lo_k)^(g-1)) E(s_k; lo_k).

Under ``argmax`` the largest element differs from this symmetric figure by an integral over its
size, which is smooth between the grid's thresholds: Gauss-Legendre on panels cut at all of them.

What is computed is real arithmetic: that a scale, a threshold and a product are rounded to
binary32 is not in the figures, nor are ties, which have probability 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import mpmath

from ..exact import fp32_from_bits
from ..format import Format
from ..scales import LOG2_RULES
from ..view import View, view_of
from .blocks import Blocks, rounded
from .laws import GAUSSIAN, Law, Mp
from .quadrature import doubling, over_logarithm, panel

#: Digits that are carried beyond the asked ones: 8-bit grids lose six to cancellation.
GUARD_DIGITS = 15
#: The figures are binary64.
MAX_DIGITS = 15


class NotDerivable(ValueError):
    """This format's error is not derived here; the message says why."""


@dataclass(frozen=True, slots=True)
class Expected:
    """An expected squared error per element, in units of the law's variance.

    Attributes:
        value: the figure.
        error: its absolute error, estimated: what the last refinement of the quadratures
            changed, plus bounds of what was cut off and of rounding. Refining squares
            the error, so that what is left is far smaller; it is an estimate all the same and
            no enclosure. Where no integral is left (absmax with stored scales), rounding alone.
        law: the law's name.
        block: elements of a block.
        scales: ``exact`` or ``stored``.
    """

    value: float
    error: float
    law: str
    block: int
    scales: str


def expected_mse(
    fmt: Format,
    law: Law = GAUSSIAN,
    *,
    block: int | None = None,
    scales: str = "exact",
    unit: float = 1.0,
    digits: int = 8,
) -> Expected:
    """The expected squared error per element of blocks of independent elements.

    Args:
        fmt: a format with one way to encode a block: one grid, one target, no search.
        law: of the elements, variance 1.
        block: elements that share a scale; the format's own by default. Where a row or a tensor
            shares one, it must be said.
        scales: ``exact``: a block's scale is the one it asks for: the error of grid and rule
            alone. ``stored``: it is rounded to the format's word. Words that are powers of two
            count as stored always, and fp32 ones as exact.
        unit: what a stored scale of 1 means where the law's deviation is 1: the tensor's second
            level, or 2^-k of a shift chosen per tensor. A fixed shift counts by itself.
        digits: significant digits to settle to.

    Raises:
        NotDerivable: the format chooses among grids or scales, or stores more than codes and
            scales; or a block size is missing.
        ValueError: an argument is out of range.
        Unsettled: the quadrature did not reach the digits.
    """
    if scales not in ("exact", "stored"):
        raise ValueError(f"scales are 'exact' or 'stored', not '{scales}'")
    if not 1 <= digits <= MAX_DIGITS:
        raise ValueError(f"digits go from 1 to {MAX_DIGITS}, not {digits}")
    if not (unit > 0 and math.isfinite(unit)):
        raise ValueError(f"a unit is a positive number, not {unit}")
    reason = _reason(fmt, block)
    if reason:
        raise NotDerivable(f"the expected error of '{fmt.name}' is not derived: {reason}")
    size = _block_of(fmt) if block is None else block
    if size < 1:
        raise ValueError(f"a block has 1 element or more, not {size}")
    view = view_of(fmt)
    stored = not view.scale.is_fp32 and (scales == "stored" or _powers_of_two(view))
    if stored and fmt.scale.codes == "wanted":
        raise NotDerivable(
            f"the expected error of '{fmt.name}' is not derived: elements are rounded under the"
            " wanted scale and decoded under the stored one"
            + (" (scales='exact' is served)" if scales == "stored" else "")
        )
    with mpmath.workdps(digits + GUARD_DIGITS):
        blocks = Blocks(view, law, size, mpmath.mpf(unit), digits)
        value, error = _stored(blocks) if stored else _exact(blocks)
        figure = float(value)
        bound = float(error + abs(value - figure))
        return Expected(figure, bound, str(law), size, "stored" if stored else "exact")


def _reason(fmt: Format, block: int | None) -> str:
    """Why a format's error is not derived here; empty where it is."""
    view = view_of(fmt)
    reasons = {
        "it chooses between grids": len(fmt.grids) > 1,
        "it has a zero point or a minimum": fmt.zero is not None,
        "it keeps some elements in a side stream": bool(fmt.sides),
        "its scales are stored in a format of their own": fmt.scale.stored is not None,
        "it tries several scales for a block": len(view.trials) > 1,
        "its scale follows the block's range": fmt.scale.rule == "range",
        f"a {fmt.extent} shares a scale: say of how many elements (--block N)": (
            fmt.extent != "block" and block is None
        ),
        "its grid has no positive value": view.trials[0].positive_divisor <= 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _block_of(fmt: Format) -> int:
    return fmt.block * fmt.tile


def _powers_of_two(view: View) -> bool:
    """Whether stored scales are powers of two, so that rounding them is part of the rule."""
    scale = view.format.scale
    return scale.rule in LOG2_RULES or scale.word.number.mantissa == 0


# -- exact scales ----------------------------------------------------------------------


def _exact(blocks: Blocks) -> tuple[Mp, Mp]:
    """The error under the scales that blocks ask for, and its error."""
    ends = blocks.end_errors()
    g = blocks.block

    def integrand(reach: Mp) -> tuple[Mp, Mp]:
        """What log s is integrated of, and of the second moment of s alike."""
        at_ends = blocks.densities(reach)
        slope = sum(at_ends)
        rest = blocks.power(reach, g - 1)
        total = rest * mpmath.fdot(at_ends, ends) * reach * reach
        if g > 1:
            others = blocks.error(reach, reach)
            total += (g - 1) * blocks.power(reach, g - 2) * slope * others
        return total * reach, g * rest * slope * reach**3

    value, moment, error = over_logarithm(integrand, _middle(blocks), blocks.digits)
    if blocks.view.scale.is_fp32:
        least = mpmath.mpf(fp32_from_bits(blocks.view.scale.minimum_bits))
        error += blocks.power(least, g) * (2 * least * blocks.span) ** 2
    zero = blocks.all_zero(mpmath.mpf(0))
    return value + zero, error + blocks.rounding(1 + blocks.span**2 * moment)


def _middle(blocks: Blocks) -> float:
    """About the logarithm of the median scale, from which the integral is walked."""
    divisor = float(max(side.divisor for side in blocks.sides))
    low, high = -60.0, 60.0
    wanted = math.log(2) / blocks.block
    while high - low > 1e-3:
        middle = (low + high) / 2
        # (1 - beyond)^g against 1/2, for large blocks as for small ones.
        beyond = float(blocks.law.beyond(math.exp(middle)))
        rare = -math.log1p(-beyond) if beyond < 1 else math.inf
        low, high = (middle, high) if rare > wanted else (low, middle)
    return low - math.log(divisor)


# -- stored scales ---------------------------------------------------------------------


def _stored(blocks: Blocks) -> tuple[Mp, Mp]:
    """The error under the scales that are stored, and its error."""
    power = blocks.block - 1
    cells = _cells(blocks)
    total, error = blocks.all_zero(cells[0][1]), mpmath.mpf(0)
    never = mpmath.mpf(10) ** (-2 * mpmath.mp.dps)
    start = bisect_left(cells, True, key=lambda cell: blocks.power(cell[2], blocks.block) > never)
    count = 0
    for scale, low, high in cells[start:]:
        if low:
            rest = _rest(blocks, low)
            if rest <= total * mpmath.mpf(10) ** (-blocks.digits - 4):
                error += rest
                break
        count += 1
        tails = blocks.tails()
        share = blocks.power(high, power)
        total += share * blocks.shell(scale, low, high, tails)
        fewer = blocks.power(low, power)
        if share - fewer < share / 2:  # both near 1: their difference from what is beyond
            outer, inner = (mpmath.log1p(-blocks.beyond(reach)) for reach in (high, low))
            fewer_by = -share * mpmath.expm1(power * (inner - outer))
        else:
            fewer_by = share - fewer
        total += fewer_by * blocks.error(scale, low, tails)
        if blocks.signed:
            more, uncertain = _at_the_end(blocks, scale, low, high)
            total += more
            error += uncertain
    return total, error + blocks.rounding(count + total)


def _rest(blocks: Blocks, low: Mp) -> Mp:
    """A bound of what blocks make that ask for more than ``low``.

    A stored scale is at most twice the wanted one, and an error at most twice the reach.
    """
    divisor = min(side.divisor for side in blocks.sides if side.divisor)
    second = 2 * blocks.block * blocks.law.mp_tails(low * divisor)[2]
    return (4 * blocks.span) ** 2 * second


def _cells(blocks: Blocks) -> list[tuple[Mp, Mp, Mp]]:
    """Every stored scale, and between which wanted ones it is taken; the last one saturates."""
    view = blocks.view.scale
    one = blocks.effective(1.0)
    edges = [rounded(view.first_point) * one, *(rounded(point) * one for point in view.points)]
    stored = [blocks.effective(fp32_from_bits(view.values_bits[c])) for c in view.ranks[1:]]
    return list(zip(stored, edges, [*edges[1:], mpmath.inf], strict=True))


def _at_the_end(blocks: Blocks, scale: Mp, low: Mp, high: Mp) -> tuple[Mp, Mp]:
    """What rule argmax adds: the largest element is encoded on t*'s side, not on its own.

    With v+ and v- the values of x and -x, half the difference of their squared errors is
    s (v+ + v-) (s (v+ - v-) - 2x) / 2, and the other side's is its negative.
    """
    law, (right_side, left_side) = blocks.law, blocks.sides
    if right_side == left_side or not scale:
        return mpmath.mpf(0), mpmath.mpf(0)
    start, stop = low * right_side.divisor, high * right_side.divisor
    edges = {scale * point for side in blocks.sides for point in side.points}
    cuts = sorted(edge for edge in edges if start < edge < stop)
    total, error = mpmath.mpf(0), mpmath.mpf(0)
    for left, right in pairwise([start, *cuts, stop]):
        middle = (left + right) / 2 if right < mpmath.inf else 2 * left + 1
        value, mirror = right_side.nearest(middle / scale), -left_side.nearest(middle / scale)
        weight, offset = scale * (value + mirror), scale * (value - mirror)
        weight = -weight if blocks.end else weight
        if weight == 0:
            continue

        def integrand(x: Mp, weight: Mp = weight, offset: Mp = offset) -> Mp:
            rest = law.mp_within(x) ** (blocks.block - 1)
            return law.mp_density(x) * rest * weight * (offset - 2 * x)

        for a, b in doubling(left, right):
            more, uncertain = panel(integrand, a, b, blocks.digits)
            total += more
            error += uncertain
    return total, error
