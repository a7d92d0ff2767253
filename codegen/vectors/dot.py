"""Cases of the block dot product, and their exact sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

from ...compiler.format import Format, Grid
from ...compiler.hosts import COEFFICIENT_BITS
from ...compiler.view import view_of
from .draws import Draws
from .shapes import ACTIVATION, ACTIVATION_SHIFT_BITS, shapes_of
from .words import decoder_words, select_of

#: Random blocks, and the fewest of them where a block is long.
RANDOM_CASES, FEWEST_RANDOM_CASES = 512, 16
#: Lanes of all random blocks together.
RANDOM_LANES = 200_000
#: Blocks up to this length have every lane tried alone; longer ones the lanes next to
#: powers of two, which tell every bit of a lane's index apart.
SINGLE_LANES = 64

#: Two's-complement coefficient of a HIF8 activation and its shift.
Activation = tuple[int, int]
_MOST, _LEAST = (15, ACTIVATION.max_shift), (-16, ACTIVATION.max_shift)
_NOTHING, _ONE, _MINUS_ONE = (0, ACTIVATION.max_shift), (1, 0), (-1, 0)


@dataclass(frozen=True, slots=True)
class DotCase:
    """One block: its scale word, and a code and an activation for every lane.

    ``select_field`` is the grid index that stands beside the scale word, 0 without one.
    """

    word: int
    select_field: int
    codes: tuple[int, ...]
    activations: tuple[Activation, ...]


@lru_cache(maxsize=8)
def dot_cases(fmt: Format) -> tuple[DotCase, ...]:
    """Extreme and random blocks, the same on every call."""
    return tuple(_cases(fmt))


def _cases(fmt: Format) -> Iterator[DotCase]:
    draws = Draws(1)
    pool = _heads(fmt)
    for select, grid in enumerate(fmt.grids):
        for codes, activations in _extremes(fmt, grid, select):
            yield DotCase(*draws.of(pool[select]), codes, activations)
    for lane in _lanes_alone(fmt.block):
        yield _single(fmt, draws.of(pool[0]), lane)
    for select in range(len(pool)):
        yield from _broken(fmt, draws, pool[select], select)
    for _ in range(random_count(fmt)):
        select = draws.below(len(fmt.grids))
        yield _random(fmt, draws, draws.of(pool[select]), select)


def random_count(fmt: Format) -> int:
    """How many random blocks there are."""
    return max(FEWEST_RANDOM_CASES, min(RANDOM_CASES, RANDOM_LANES // fmt.block))


def exact_sum(fmt: Format, case: DotCase) -> tuple[int, bool]:
    """The block's sum of value * activation in units of 2^unit, and whether it counts.

    From the grid's rationals: a lane whose code is no number, or whose activation is no HIF8
    word, adds nothing and makes the sum count for nothing.
    """
    select = case.select_field if fmt.select.place == "field" else select_of(fmt, case.word)
    tables, divisor = _integers(fmt)
    if select >= len(tables):
        return 0, False
    values = tables[select]
    total, valid = 0, True
    for code, (coefficient, shift) in zip(case.codes, case.activations, strict=True):
        value = values[code]
        if value is None or shift > ACTIVATION.max_shift:
            valid = False
        else:
            total += value * coefficient << shift
    units, rest = divmod(total, divisor)
    if rest:
        raise ValueError(f"a dot product of '{fmt.name}' is no multiple of 2^unit")
    return units, valid


@lru_cache(maxsize=8)
def _integers(fmt: Format) -> tuple[tuple[tuple[int | None, ...], ...], int]:
    """Every grid's values in units of 2^unit, times the divisor that makes all of them whole."""
    unit = Fraction(2) ** shapes_of(fmt).unit
    grids = [[None if v is None else v / unit for v in grid.values] for grid in fmt.grids]
    divisor = lcm(*(v.denominator for values in grids for v in values if v is not None))
    return tuple(
        tuple(None if v is None else int(v * divisor) for v in values) for values in grids
    ), divisor


def _heads(fmt: Format) -> list[list[tuple[int, int]]]:
    """For every select: the (scale word, select field) pairs that say it."""
    words = decoder_words(fmt)
    if fmt.select.place == "field":
        return [[(word, select) for word in words] for select in range(1 << fmt.select.bits)]
    pool: list[list[tuple[int, int]]] = [[] for _ in range(1 << fmt.select.bits)]
    for word in words:
        pool[select_of(fmt, word)].append((word, 0))
    return pool


def _extremes(
    fmt: Format, grid: Grid, select: int
) -> Iterator[tuple[tuple[int, ...], tuple[Activation, ...]]]:
    block = fmt.block
    high, low = grid.values.index(grid.high), grid.values.index(grid.low)
    small = grid.values.index(min((v for v in grid.numbers if v), key=abs))
    zero = view_of(fmt).grids[select].zero_code
    for code in (high, low):
        for activation in (_MOST, _LEAST):
            yield (code,) * block, (activation,) * block
    ends = tuple(high if lane % 2 else low for lane in range(block))
    swing = tuple(_MOST if lane % 2 else _LEAST for lane in range(block))
    yield ends, (_LEAST,) * block
    yield ends, swing
    yield (high,) * block, swing
    yield (zero,) * block, (_LEAST,) * block
    yield (high,) * block, (_NOTHING,) * block
    yield (small,) * block, (_ONE,) * block
    yield (small,) * block, (_MINUS_ONE,) * block


def _lanes_alone(block: int) -> list[int]:
    if block <= SINGLE_LANES:
        return list(range(block))
    powers = [1 << i for i in range((block - 1).bit_length())]
    return sorted({0, block - 1} | {p for p in powers if p < block} | {p - 1 for p in powers})


def _single(fmt: Format, head: tuple[int, int], lane: int) -> DotCase:
    """The largest product in one lane; the others have a large code and nothing to weigh."""
    grid = fmt.grids[0]
    codes = (grid.values.index(grid.absmax_end),) * fmt.block
    activations = tuple(_LEAST if i == lane else _NOTHING for i in range(fmt.block))
    return DotCase(*head, codes, activations)


def _broken(
    fmt: Format, draws: Draws, heads: list[tuple[int, int]], select: int
) -> Iterator[DotCase]:
    """One lane that is no number: a code without a value, a shift that HIF8 has not."""
    values = fmt.grids[select].values if select < len(fmt.grids) else (None,)
    sound = _random(fmt, draws, draws.of(heads), min(select, len(fmt.grids) - 1), strict=True)
    if None in values:
        lane = draws.below(fmt.block)
        codes = list(sound.codes)
        codes[lane] = values.index(None)
        yield DotCase(*draws.of(heads), tuple(codes), sound.activations)
    for shift in range(ACTIVATION.max_shift + 1, 1 << ACTIVATION_SHIFT_BITS):
        lane = draws.below(fmt.block)
        activations = list(sound.activations)
        activations[lane] = (-16, shift)
        yield DotCase(*draws.of(heads), sound.codes, tuple(activations))


def _random(
    fmt: Format, draws: Draws, head: tuple[int, int], select: int, *, strict: bool = False
) -> DotCase:
    """Uniform codes and HIF8 words, the redundant ones too; one in eight takes any bits."""
    anything = draws.below(8) == 0 and not strict
    values = fmt.grids[select].values
    codes = [code for code, value in enumerate(values) if anything or value is not None]
    shifts = 1 << ACTIVATION_SHIFT_BITS if anything else ACTIVATION.max_shift + 1
    half = 1 << (COEFFICIENT_BITS - 1)
    below = draws.below
    return DotCase(
        *head,
        tuple([codes[below(len(codes))] for _ in range(fmt.block)]),
        tuple([(below(2 * half) - half, below(shifts)) for _ in range(fmt.block)]),
    )
