"""One block: everything that may be tried for it, in order, and what each comes to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ....compiler.exact import round_fp32
from ....compiler.format import Format, Grid
from .binary32 import clipped, divided, is_negative, plus, whole
from .elements import code_of, value_of
from .scales import (
    Block,
    is_fp32,
    magnitude,
    nearest_word,
    real_scale,
    stored_codes,
    wanted_fp32,
    word_value,
)

#: Two trials whose squared errors differ by less than this, relatively, are both right: errors
#: are summed in binary64 where they are decided, and exactly here.
SAME_ERROR = Fraction(1, 10**6)
#: So are two whose cosines do by this: what they lack to 1 may be nothing.
SAME_COSINE = Fraction(1, 10**12)

_HUGE = Fraction(2) ** 600


@dataclass(frozen=True, slots=True)
class Trial:
    """One encoding of a block.

    Attributes:
        select: the grid's index.
        word: the whole scale word, with sign and select bits; None where scales are stored in a
            format of their own.
        scale: the effective scale that elements are tried under, signed.
        zero_word: the stored zero point or minimum; None without one, or where minima are
            stored in a format of their own.
        zero: the zero point or minimum that elements are tried under.
        codes, decoded: of the elements, in order.
        error: the sum of (weighted) squared errors; under ``error cosine`` 1 - cos * |cos|.
        doubt: how much more may be as little, beside ``SAME_ERROR``.
    """

    select: int
    word: int | None
    scale: float
    zero_word: int | None
    zero: float
    codes: tuple[int, ...]
    decoded: tuple[float, ...]
    error: Fraction
    doubt: Fraction = Fraction(0)

    @property
    def stored(self) -> tuple[int, int | None, int | None, tuple[int, ...]]:
        """What is stored of the block itself."""
        return self.select, self.word, self.zero_word, self.codes


def block_trials(
    fmt: Format, block: Sequence[float], unit: Fraction, weights: Sequence[float] | None = None
) -> list[Trial]:
    """Every trial of a block of binary32 numbers, in the order in which the first of equals wins.

    Args:
        fmt: the format.
        block: its elements in order. With a NaN among them (which the format propagates) there
            is one trial, of the scale's NaN.
        unit: what stored scales are multiplied by (``Level.unit``).
        weights: of the elements, or None.
    """
    if any(math.isnan(x) for x in block):
        return [_broken(fmt, len(block))]
    low, high = _range(fmt, block)
    # Rule range scales RNE32(high - low), which saturates.
    span = Fraction(clipped(plus(high, -low)))
    seen = Block(tuple(map(Fraction, block)), span, is_negative(block[0]))
    # Which of several zeros is the least element is not said: either will do.
    twins = low == 0 and any(x == 0 and is_negative(x) for x in block) and _is_kept(fmt)
    trials = []
    for index, grid in enumerate(fmt.grids):
        for target in fmt.scale.targets or (None,):
            for mirrored in (False, True) if fmt.scale.both_signs else (False,):
                asked, negative = real_scale(fmt, grid, target, mirrored, seen, unit)
                for word, scale in _scales(fmt, grid, index, asked, negative, unit):
                    trials.append(_trial(fmt, index, block, word, scale, low, weights))
                    if twins:
                        trials.append(_trial(fmt, index, block, word, scale, -0.0, weights))
    return trials


def near_best(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that may win: the first of the least error, and those hardly worse."""
    best = min(trials, key=lambda trial: trial.error)
    near = [t for t in trials if t.error <= best.error * (1 + SAME_ERROR) + t.doubt]
    return [best, *(trial for trial in near if trial is not best)]


def _range(fmt: Format, block: Sequence[float]) -> tuple[float, float]:
    """Lo and hi of the table of zeros; a -0 counts as +0."""
    low, high = min(block) + 0.0, max(block) + 0.0
    return (low, high) if _is_kept(fmt) else (min(low, 0.0), max(high, 0.0))


def _is_kept(fmt: Format) -> bool:
    return fmt.zero is not None and fmt.zero.kind == "minimum" and not fmt.zero.negated


def _scales(
    fmt: Format, grid: Grid, index: int, asked: Fraction, negative: bool, unit: Fraction
) -> Iterator[tuple[int | None, float]]:
    """Scale words with what they mean: the rule's, then those that a search tries."""
    scale, word = fmt.scale, fmt.scale.word
    sign = -1.0 if negative else 1.0
    if scale.stored is not None or scale.codes == "wanted":
        wanted = math.copysign(wanted_fp32(fmt, grid, asked), sign)
        stored = None
        if scale.stored is None:
            own_sign = fmt.select.place != "scale.sign"
            stored = nearest_word(word, wanted, signed=own_sign) | select_bits(fmt, index)
        yield stored, wanted
        return
    bits = select_bits(fmt, index)
    if word.sign_bit is not None and negative:
        bits |= 1 << word.sign_bit
    if is_fp32(word):
        value = wanted_fp32(fmt, grid, asked)
        yield nearest_word(word, value, signed=False) | bits, math.copysign(value, sign)
        return
    for code in stored_codes(fmt, grid, asked, unit):
        effective = round_fp32(magnitude(word.number, code) * unit)
        yield code << word.magnitude_lsb | bits, math.copysign(effective, sign)


def select_bits(fmt: Format, index: int) -> int:
    """The bits of a scale word that say the grid's index, its top bit at the first position."""
    positions = fmt.select.positions
    return sum(1 << p for i, p in enumerate(reversed(positions)) if index >> i & 1)


def _trial(
    fmt: Format,
    index: int,
    block: Sequence[float],
    word: int | None,
    scale: float,
    low: float,
    weights: Sequence[float] | None,
) -> Trial:
    zero_word, zero = _zero(fmt, index, scale, low)
    # An infinite scale, of a second level that is not the tensor's own, decodes no element.
    usable = scale if math.isfinite(scale) else 0.0
    codes = tuple(code_of(fmt, index, x, usable, zero) for x in block)
    decoded = tuple(value_of(fmt, index, code, scale, zero) for code in codes)
    by = fmt.policies.error
    error = _error(block, decoded, None if by == "squared" else weights, by == "cosine")
    doubt = SAME_COSINE if by == "cosine" else Fraction(0)
    return Trial(index, word, scale, zero_word, zero, codes, decoded, error, doubt)


def _zero(fmt: Format, index: int, scale: float, low: float) -> tuple[int | None, float]:
    """The stored word of a zero, and what elements are tried under."""
    zero, grid = fmt.zero, fmt.grids[index]
    if zero is None:
        return None, 0.0
    if zero.kind == "point":
        lowest = float(grid.low)
        quotient = divided(low, scale or 1.0)
        exact = plus(lowest, -(whole(quotient) if zero.add == "after" else quotient))
        point = round(Fraction(clipped(exact)))
        point = max(int(grid.low), min(int(grid.high), point))
        return point - int(grid.low), float(point)
    sign = -1.0 if zero.negated else 1.0
    wanted = -low + 0.0 if zero.negated else low
    if zero.word is None:
        return None, low
    word = nearest_word(zero.word, wanted)
    return word, low if fmt.scale.codes == "wanted" else word_value(zero.word, word) * sign


def _error(
    block: Sequence[float],
    decoded: Sequence[float],
    weights: Sequence[float] | None,
    cosine: bool,
) -> Fraction:
    if not all(map(math.isfinite, decoded)):
        return _HUGE
    w = [Fraction(1)] * len(block) if weights is None else [Fraction(v) for v in weights]
    x, y = [Fraction(v) for v in block], [Fraction(v) for v in decoded]
    if not cosine:
        return _inner(w, [a - b for a, b in zip(x, y, strict=True)])
    lengths = _inner(w, x), _inner(w, y)
    if not all(lengths):
        return Fraction(any(lengths))
    # The square of the cosine with its sign orders like the cosine, and is rational.
    both = sum((a * b * c for a, b, c in zip(w, x, y, strict=True)), Fraction(0))
    return 1 - both * abs(both) / (lengths[0] * lengths[1])


def _inner(weights: Sequence[Fraction], x: Sequence[Fraction]) -> Fraction:
    """The weighted sum of squares."""
    return sum((w * a * a for w, a in zip(weights, x, strict=True)), Fraction(0))


def _broken(fmt: Format, count: int) -> Trial:
    """A block that a NaN makes NaN: the scale's NaN, and the first grid's codes of +0."""
    word, nan = fmt.scale.word, fmt.scale.word.number.nan_code
    if nan is None:
        raise ValueError("the format has no NaN to propagate")
    code = code_of(fmt, 0, 0.0, 1.0)
    return Trial(
        0, nan << word.magnitude_lsb, math.nan, None, 0.0, (code,) * count, (), Fraction(0)
    )
