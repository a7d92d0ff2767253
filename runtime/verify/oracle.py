"""A second reading of the definition, by brute force in exact rationals.

It takes every value of the grid, finds the nearest, and knows nothing of views, thresholds or
NumPy. It is slow, and it is what the reference is checked against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from ...compiler.exact import FP32_MAX, floor_log2, round_fp32
from ...compiler.format import Format, Grid


@dataclass(frozen=True, slots=True)
class OracleBlock:
    """One block under one grid: what is stored, what it means, and its squared error."""

    select: int
    magnitude: int | float
    negative: bool
    codes: tuple[int, ...]
    decoded: tuple[float, ...]
    error: Fraction


def encode_block(fmt: Format, block: Sequence[float], multiplier: float) -> list[OracleBlock]:
    """Every grid's encoding of a block of finite binary32 numbers, the best first.

    Blocks that follow with the same error were beaten by a lower select index only.
    """
    trials = [_with_grid(fmt, index, block, multiplier) for index in range(len(fmt.grids))]
    return sorted(trials, key=lambda trial: (trial.error, trial.select))


def decode(fmt: Format, select: int, code: int, magnitude: int, multiplier: float) -> float | None:
    """The value of a code under a positive table-coded scale, or None where it is NaN."""
    scale = fmt.scale.word.number.magnitude(magnitude)
    if scale is None or select >= len(fmt.grids):
        return None
    value = fmt.grids[select].values[code]
    if value is None:
        return None
    effective = round_fp32(scale * Fraction(multiplier))
    if effective == float("inf"):
        return None if value == 0 else effective if value > 0 else -effective
    return round_fp32(value * Fraction(effective))


def _with_grid(fmt: Format, index: int, block: Sequence[float], multiplier: float) -> OracleBlock:
    grid = fmt.grids[index]
    magnitude, negative, scale = _scale(fmt, grid, block, multiplier)
    unit = scale or Fraction(1)
    sign = -1 if negative else 1
    codes = tuple(_code(fmt, grid, sign * x, _sign_of(x) * sign, unit) for x in block)
    decoded = []
    for code in codes:
        value = grid.values[code]
        decoded.append(round_fp32((value or Fraction(0)) * sign * scale))
    finite = all(abs(d) != float("inf") for d in decoded)
    error = (
        sum(
            ((Fraction(x) - Fraction(d)) ** 2 for x, d in zip(block, decoded, strict=True)),
            Fraction(0),
        )
        if finite
        else Fraction(2) ** 512
    )
    return OracleBlock(index, magnitude, negative, codes, tuple(decoded), error)


def _sign_of(x: float) -> int:
    return -1 if str(x).startswith("-") else 1


def _scale(
    fmt: Format, grid: Grid, block: Sequence[float], multiplier: float
) -> tuple[int | float, bool, Fraction]:
    """The stored magnitude (code, or binary32 value), its sign, and the effective scale."""
    number, rule = fmt.scale.word.number, fmt.scale.rule
    wanted, negative = _wanted(fmt, grid, block)
    if number.mantissa == 23:
        stored = _fp32(fmt, wanted)
        return stored, negative, Fraction(stored)
    if wanted is None:
        code = fmt.scale.zero_block
    else:
        target = wanted / Fraction(multiplier)
        legal = _legal_scales(fmt)
        while legal and not _is_finite(legal[-1][0] * Fraction(multiplier), grid.absmax_end):
            legal = legal[:-1]
        rounding = fmt.scale.rounding
        if rule == "floor_log2":
            target, rounding = Fraction(2) ** floor_log2(target), "down"
        # Where no scale keeps the grid in binary32, the block is stored like one of zeros.
        code = _round_scale(legal, target, rounding) if legal else fmt.scale.zero_block
    value = number.magnitude(code) or Fraction(0)
    return code, negative, Fraction(round_fp32(value * Fraction(multiplier)))


def _is_finite(scale: Fraction, end: Fraction) -> bool:
    """Whether the grid's end under this scale decodes to a finite number."""
    effective = round_fp32(scale)
    if abs(effective) == float("inf"):
        return False
    return abs(round_fp32(Fraction(effective) * end)) != float("inf")


@lru_cache(maxsize=8)
def _legal_scales(fmt: Format) -> list[tuple[Fraction, int]]:
    """Every stored scale that a block with a nonzero element may take, with its code."""
    magnitudes = fmt.scale.word.number.magnitudes()
    return [
        (value, code)
        for code, value in enumerate(magnitudes)
        if value is not None and value >= fmt.scale.minimum
    ]


def _wanted(fmt: Format, grid: Grid, block: Sequence[float]) -> tuple[Fraction | None, bool]:
    """The real scale that the rule asks for (None for an all-zero block), and its sign."""
    exact = [Fraction(x) for x in block]
    if fmt.scale.rule == "argmax":
        peak = next(x for x in exact if abs(x) == max(abs(y) for y in exact))
        end = grid.absmax_end
        return (abs(peak / end), peak / end < 0) if peak else (None, False)
    counted = [x for x in exact if x > 0 or grid.low < 0]
    if not any(counted):
        return None, False
    if fmt.scale.rule == "floor_log2":
        # The largest power of two that is at most this, in units of the tensor's own scale.
        unit = Fraction(2) ** floor_log2(abs(grid.absmax_end))
        return max(abs(x) for x in counted) / unit, False
    asked = [x / grid.high for x in counted if x > 0] + [x / grid.low for x in counted if x < 0]
    return max(asked), False


def _fp32(fmt: Format, wanted: Fraction | None) -> float:
    if wanted is None:
        return float(fmt.scale.word.number.magnitude(fmt.scale.zero_block) or 0)
    rounded = min(round_fp32(wanted), float(FP32_MAX))
    return max(rounded, float(fmt.scale.minimum))


def _round_scale(legal: list[tuple[Fraction, int]], target: Fraction, rounding: str) -> int:
    below = [entry for entry in legal if entry[0] <= target]
    above = [entry for entry in legal if entry[0] >= target]
    if not below:
        return min(legal)[1]
    if not above:
        return max(legal)[1]
    low, high = max(below), min(above)
    if rounding != "even":
        return low[1] if rounding == "down" else high[1]
    if target - low[0] != high[0] - target:
        return low[1] if target - low[0] < high[0] - target else high[1]
    return low[1] if low[1] % 2 == 0 or high[1] % 2 == 1 else high[1]


def _code(fmt: Format, grid: Grid, x: float, sign: int, scale: Fraction) -> int:
    """The canonical code of the grid value nearest to x / scale."""
    keep = fmt.policies.negative_zero == "keep" and grid.negative_zero is not None
    canonical: dict[Fraction, int] = {}
    for code, value in enumerate(grid.values):
        if value is not None and code != grid.negative_zero:
            canonical.setdefault(value, code)
    value = _nearest(fmt, grid, canonical, Fraction(x), scale)
    if keep and value == 0 and sign < 0 and grid.negative_zero is not None:
        return grid.negative_zero
    return canonical[value]


def _nearest(
    fmt: Format, grid: Grid, canonical: dict[Fraction, int], x: Fraction, scale: Fraction
) -> Fraction:
    quotient = x / scale
    rounded = fmt.policies.compare != "exact"
    if fmt.policies.compare == "fp32_reciprocal":
        floor = Fraction(round_fp32(Fraction(1, 10**38)))
        quotient = x * Fraction(round_fp32(1 / max(scale, floor)))
    if rounded:
        as_fp32 = round_fp32(quotient)
        quotient = Fraction(as_fp32) if abs(as_fp32) != float("inf") else quotient
    numbers = sorted(canonical)
    for low, high in pairwise(numbers):
        middle = (low + high) / 2
        if rounded:
            middle = Fraction(round_fp32(middle))
        if quotient < middle or (quotient == middle and not _up(fmt, grid, canonical, low, high)):
            return low
    return numbers[-1]


def _up(
    fmt: Format, grid: Grid, canonical: dict[Fraction, int], low: Fraction, high: Fraction
) -> bool:
    """Whether a tie between two neighbours goes to the upper one."""
    middle = (low + high) / 2
    match fmt.policies.tie:
        case "up":
            return True
        case "down":
            return False
        case "toward_zero":
            return middle < 0
        case "away":
            return middle >= 0
        case _:
            # Below zero the neighbour of a signed float's zero is its -0, if it keeps one.
            kept = fmt.policies.negative_zero == "keep" and grid.negative_zero is not None
            high_code = grid.negative_zero if kept and high == 0 else canonical[high]
            low_code = canonical[low]
            return (high_code or 0) % 2 == 0 and low_code % 2 == 1
