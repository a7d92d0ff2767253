"""What choosing between grids block by block gains, as blocks grow.

A block of g independent elements takes the way (a grid and its scale) that errs less. The gain is

    1 - E min(S1, S2) / min(E S1, E S2),   E min(S1, S2) = E S1 - E max(S1 - S2, 0).

Given the block's largest magnitude m and, where the two sides of a grid have divisors of their
own, the other side's largest one, the scales are known and the other elements are independent:
``excess`` has their expectation, and what is left is an integral over the peaks. With the law's
P(|X| <= m)^g = exp(-exp(-v)) it is a smooth function of v that fades on both sides, and the
trapezoid rule is exact to many digits.

For independent elements the mean squared error of a block tends to a constant under each grid as
g grows, so that one grid wins everywhere: the gain vanishes (Grid Games, arXiv:2605.12327). Each
bit of the choice costs 1/g bits a weight, which as resolution would take 6.02 dB a bit off the
error: where the gain falls below that, the choice no longer pays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..format import Format
from .excess import Part, Sums, sums
from .laws import GAUSSIAN, Law
from .sampling import sample
from .ways import F64, Way, ways_of

#: The block sizes of a curve: 4 to 65536.
BLOCKS = tuple(1 << k for k in range(2, 17))
LARGEST_BLOCK = 1 << 20

#: Of v: where the integral begins, and the step of the trapezoid rule.
_START, _STEP = -3.0, 0.5

#: The rest of the integral that is left out, relative.
_REST = 1e-7

#: What the quadratures inside may err, relative to the gain.
_INNER = 1e-5

#: The logarithm of the ratio of two sizes that are near enough to interpolate between.
_NEAR = 0.1

#: Nodes for the other side's peak, and the panel that they serve, as a share of the peak.
_SIDE_ORDER, _SIDE_PANEL = 6, 0.2


class NotServed(ValueError):
    """The format leaves nothing to choose; the message says what to try."""


@dataclass(frozen=True, slots=True)
class Gain:
    """At one block size, the choice between grids and its price. Errors are per element.

    Attributes:
        block: elements in a block.
        single: mean squared error of every way alone.
        chosen: mean squared error where every block takes the better.
        gain: 1 - chosen / the least of ``single``.
        error: of ``gain``: a bound seen by halving the step, or a standard error.
        worth: what the select bits would take off the error, spent on resolution.
        method: ``quadrature`` or ``sampling``.
    """

    block: int
    single: tuple[float, ...]
    chosen: float
    gain: float
    error: float
    worth: float
    method: str

    @property
    def certain(self) -> float:
        """The gain; 0 where it does not stand out from its error."""
        return self.gain if self.gain > self.error else 0.0

    @property
    def pays(self) -> bool:
        """Whether the choice takes more off the error than its bits would elsewhere."""
        return self.certain > self.worth


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Between which block sizes a choice pays; both None and ``ever``: at all of them.

    Attributes:
        ever: whether it pays at any.
        begins: where it begins to, None where it does so at the smallest.
        ends: where it stops paying, None where it still pays at the largest.
    """

    ever: bool
    begins: float | None = None
    ends: float | None = None


def gain_curve(
    fmt: Format,
    law: Law = GAUSSIAN,
    blocks: Sequence[int] = BLOCKS,
    against: Format | None = None,
) -> tuple[Gain, ...]:
    """The gain of a format's choice at every block size.

    Args:
        fmt: a format that tries several grids or targets; its own block size does not enter.
        law: of the elements, which are independent.
        blocks: sizes from 2 to ``LARGEST_BLOCK``.
        against: a format whose first grid is paired with the first of ``fmt``, for one bit.

    Raises:
        NotServed: there is nothing to choose.
        ValueError: a block size is out of range.
    """
    ways, bits = choice(fmt, against)
    for block in blocks:
        if not 2 <= block <= LARGEST_BLOCK:
            raise ValueError(f"a block has 2 to {LARGEST_BLOCK} elements, not {block}")
    return tuple(_gain(ways, bits, law, block) for block in blocks)


def choice(fmt: Format, against: Format | None = None) -> tuple[tuple[Way, ...], int]:
    """The ways that a block may take, and the bits that say which it took.

    Raises:
        NotServed: there are fewer than two.
    """
    if against is not None:
        return (ways_of(fmt)[0], ways_of(against)[0]), 1
    ways = ways_of(fmt)
    if len(ways) < 2:
        raise NotServed(
            f"'{fmt.name}' encodes every block in one way, so there is no choice whose gain to "
            "show; name a format with several grids or targets, such as po2_nf4 (`fmtc list` has "
            "all), or pair it with another: --against OTHER"
        )
    return ways, fmt.select.bits


def break_even(curve: Sequence[Gain], between: Callable[[int], Gain] | None = None) -> BreakEven:
    """Where a choice begins and where it stops to pay.

    Args:
        curve: in ascending order of block sizes.
        between: the gain at any other size, to close in on a crossing. What is left between two
            sizes is interpolated: the logarithm of gain / price is linear in that of the size.
    """
    paying = [index for index, point in enumerate(curve) if point.pays]
    if not paying:
        return BreakEven(ever=False)
    first, last = paying[0], paying[-1]
    begins = _crossing(curve[first], curve[first - 1], between) if first else None
    goes_on = last + 1 == len(curve)
    ends = None if goes_on else _crossing(curve[last], curve[last + 1], between)
    return BreakEven(ever=True, begins=begins, ends=ends)


def decay(curve: Sequence[Gain]) -> float | None:
    """The exponent a of a gain that falls as block^-a over the last two sizes, if it is seen."""
    if len(curve) < 2 or not (curve[-1].certain and curve[-2].certain):
        return None
    fall = math.log(curve[-2].gain / curve[-1].gain)
    return fall / math.log(curve[-1].block / curve[-2].block)


def _crossing(paying: Gain, other: Gain, between: Callable[[int], Gain] | None) -> float:
    """The block size between two where gain = price."""
    while between and abs(math.log(paying.block / other.block)) > _NEAR:
        middle = round(math.sqrt(paying.block * other.block))
        if middle in (paying.block, other.block):
            break
        point = between(middle)
        paying, other = (point, other) if point.pays else (paying, point)
    if not (other.certain and paying.worth and other.worth):
        return math.sqrt(paying.block * other.block)
    above = math.log(paying.gain / paying.worth)
    below = math.log(other.gain / other.worth)
    share = above / (above - below)
    return paying.block * math.pow(other.block / paying.block, share)


def _gain(ways: tuple[Way, ...], bits: int, law: Law, block: int) -> Gain:
    worth = 1 - 2 ** (-2 * bits / block)
    if _served(ways):
        fine, coarse = _integrals(law, (ways[0], ways[1]), block)
        single = (fine.first / block, fine.second / block)
        gain = _share(fine)
        error = abs(gain - _share(coarse)) + _INNER * gain
        chosen = min(single) * (1 - gain)
        return Gain(block, single, chosen, gain, error, worth, "quadrature")
    seen = sample(law, ways, block)
    return Gain(block, seen.single, seen.chosen, seen.gain, seen.error, worth, "sampling")


def _served(ways: tuple[Way, ...]) -> bool:
    """Whether the quadrature serves these: scales smooth in the peaks, which are never 0."""
    return len(ways) == 2 and all(
        way.rule == "argmax" or (way.rule == "absmax" and way.negative > 0) for way in ways
    )


def _share(found: Sums) -> float:
    """The gain over the better way alone."""
    if found.first <= found.second:
        return found.plus / found.first
    return found.minus / found.second


def _integrals(law: Law, ways: tuple[Way, Way], block: int) -> tuple[Sums, Sums]:
    """The integral over the blocks' peaks, and the same with twice the step."""
    fine, coarse = np.zeros(4), np.zeros(4)
    index = 0
    while True:
        v = _START + _STEP * index
        peak = _peak(law, -math.expm1(-math.exp(-v) / block))
        chance = math.exp(-v - math.exp(-v)) * _STEP
        term = np.zeros(4)
        for part in _parts(law, ways, block, peak, chance):
            term += part.chance * _array(sums(law, ways, part))
        fine += term
        coarse += 2 * term * (index % 2 == 0)
        index += 1
        if v > 3 and bool(np.all(term <= _REST * fine)):
            return Sums(*fine.tolist()), Sums(*coarse.tolist())


def _array(found: Sums) -> F64:
    return np.array([found.first, found.second, found.plus, found.minus])


def _peak(law: Law, chance: float) -> float:
    """The x with P(|X| > x) = chance, by bisection of its logarithm."""
    low, high = -60.0, 60.0
    while high - low > 1e-14:
        middle = (low + high) / 2
        above = float(law.beyond(np.array(math.exp(middle)))) > chance
        low, high = (middle, high) if above else (low, middle)
        if middle in (low, high) and high - low < 4e-16 * abs(middle):
            break
    return math.exp((low + high) / 2)


def _parts(
    law: Law, ways: tuple[Way, Way], block: int, peak: float, chance: float
) -> Iterator[Part]:
    """Blocks whose largest magnitude is ``peak``, by its sign and the other side's peak."""
    if all(way.is_even for way in ways):
        yield from _parts_of_sign(law, ways, block, peak, chance, negative=False)
        return
    for negative in (False, True):
        yield from _parts_of_sign(law, ways, block, peak, chance / 2, negative=negative)


def _parts_of_sign(
    law: Law, ways: tuple[Way, Way], block: int, peak: float, chance: float, *, negative: bool
) -> Iterator[Part]:
    breaks = {share for way in ways for share in way.breaks(peak_is_negative=negative)}
    cuts = [share * peak for share in sorted(breaks)]
    # Up to the first cut the other side's peak decides nothing, and is one of the free elements.
    first = cuts[0] if cuts else peak
    share = _reaches(law, first, peak) ** (block - 1)
    yield _part(ways, block - 1, chance * share, peak, first, negative=negative)
    nodes, weights = np.polynomial.legendre.leggauss(_SIDE_ORDER)
    whole = float(law.within(np.array(peak)))
    for low, high in pairwise([*cuts, peak] if cuts else []):
        panels = math.ceil((high - low) / (_SIDE_PANEL * peak))
        for start, stop in pairwise(np.linspace(low, high, panels + 1).tolist()):
            half = (stop - start) / 2
            others = start + half * (1 + nodes)
            shares = half * weights * (block - 1) * law.density(others) / whole
            for other, share in zip(others.tolist(), shares.tolist(), strict=True):
                all_of_it = chance * share * _reaches(law, other, peak) ** (block - 2)
                yield _part(ways, block - 2, all_of_it, peak, other, other, negative=negative)


def _reaches(law: Law, other: float, peak: float) -> float:
    """P(X >= -other) for an element whose magnitude is at most ``peak``."""
    ends = law.beyond(np.array([other, peak]))
    return 1 - float(ends[0] - ends[1]) / (2 * float(law.within(np.array(peak))))


def _part(
    ways: tuple[Way, Way],
    count: int,
    chance: float,
    peak: float,
    reach: float,
    other: float = 0.0,
    *,
    negative: bool,
) -> Part:
    """Elements from ``-reach`` to ``peak``, all of it mirrored where the peak is negative.

    ``other`` is the other side's peak; 0 where that is one of the free elements.
    """
    fixed = (peak, -other) if other else (peak,)
    sides = np.array([peak, other])[:, None]
    positive, below = sides[::-1] if negative else sides
    one, two = (float(way.scales(positive, below, np.array([negative]))[0]) for way in ways)
    if negative:
        return Part(-peak, reach, count, (one, two), tuple(-x for x in fixed), chance)
    return Part(-reach, peak, count, (one, two), fixed, chance)
