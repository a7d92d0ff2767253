"""Cases of the block dot product, and their exact sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

from ...compiler.format import Grid
from ...compiler.view import view_of
from ..design import Design, Operand
from .draws import Draws
from .words import decoder_words, select_of

#: Random blocks, and the fewest of them where a block is long.
RANDOM_CASES, FEWEST_RANDOM_CASES = 512, 16
#: Lanes of all random blocks together.
RANDOM_LANES = 200_000
#: Blocks up to this length have every lane tried alone; longer ones the lanes next to
#: powers of two, which tell every bit of a lane's index apart.
SINGLE_LANES = 64

#: Two's-complement coefficient of an activation and its shift.
Activation = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DotCase:
    """One block: its scale word, and a code and an activation for every lane.

    ``select_field`` is the grid index that stands beside the scale word, 0 without one.
    """

    word: int
    select_field: int
    codes: tuple[int, ...]
    activations: tuple[Activation, ...]


@dataclass(frozen=True, slots=True)
class _Words:
    """The words that activations are drawn from.

    ``every`` has the format's own words, of HIF8 the redundant ones too.
    """

    every: tuple[Activation, ...]
    most: Activation
    least: Activation
    nothing: Activation
    one: Activation
    minus_one: Activation
    outside: tuple[Activation, ...]


@lru_cache(maxsize=8)
def _words(operand: Operand) -> _Words:
    found = {
        (word.coefficient, word.shift): word.value
        for row in operand.words
        for word in row
        if word is not None
    }
    positive = [word for word, value in found.items() if value > 0]
    negative = [word for word, value in found.items() if value < 0] or [(0, 0)]
    low = operand.coefficients.low
    shifts = range(operand.max_shift + 1, 1 << operand.shift_bits)
    return _Words(
        every=tuple(found),
        most=max(found, key=found.__getitem__),
        least=min(found, key=found.__getitem__),
        nothing=(0, operand.max_shift),
        one=min(positive, key=found.__getitem__),
        minus_one=max(negative, key=lambda word: found.get(word, 0)),
        outside=tuple((low, shift) for shift in shifts),
    )


@lru_cache(maxsize=8)
def dot_cases(design: Design) -> tuple[DotCase, ...]:
    """Extreme and random blocks, the same on every call."""
    return tuple(_cases(design))


def _cases(design: Design) -> Iterator[DotCase]:
    draws, fmt = Draws(1), design.weights.fmt
    pool = _heads(design)
    for select, grid in enumerate(fmt.grids):
        for codes, activations in _extremes(design, grid, select):
            yield DotCase(*draws.of(pool[select]), codes, activations)
    for lane in _lanes_alone(fmt.block):
        yield _single(design, draws.of(pool[0]), lane)
    for select in range(len(pool)):
        yield from _broken(design, draws, pool[select], select)
    for _ in range(random_count(design)):
        select = draws.below(len(fmt.grids))
        yield _random(design, draws, draws.of(pool[select]), select)


def random_count(design: Design) -> int:
    """How many random blocks there are."""
    return max(FEWEST_RANDOM_CASES, min(RANDOM_CASES, RANDOM_LANES // design.block))


def exact_sum(design: Design, case: DotCase) -> tuple[int, bool]:
    """The block's sum of value * activation in units of 2^unit, and whether it counts.

    From the grid's rationals: a lane whose code is no number, or whose activation has a shift
    that its format has not, is left out and makes the sum mean nothing.
    """
    fmt, last = design.weights.fmt, design.activations.operand.max_shift
    select = case.select_field if fmt.select.place == "field" else select_of(fmt, case.word)
    tables, divisor = _integers(design)
    if select >= len(tables):
        return 0, False
    values = tables[select]
    total, valid = 0, True
    for code, (coefficient, shift) in zip(case.codes, case.activations, strict=True):
        value = values[code]
        if value is None or shift > last:
            valid = False
        else:
            total += value * coefficient << shift
    units, rest = divmod(total, divisor)
    if rest:
        raise ValueError(f"a dot product of '{fmt.name}' is no multiple of 2^unit")
    return units, valid


@lru_cache(maxsize=8)
def _integers(design: Design) -> tuple[tuple[tuple[int | None, ...], ...], int]:
    """Every grid's values in units of 2^unit, times the divisor that makes all of them whole."""
    unit = Fraction(2) ** design.weights.operand.unit
    grids = [
        [None if v is None else v / unit for v in grid.values] for grid in design.weights.fmt.grids
    ]
    divisor = lcm(*(v.denominator for values in grids for v in values if v is not None))
    return tuple(
        tuple(None if v is None else int(v * divisor) for v in values) for values in grids
    ), divisor


def _heads(design: Design) -> list[list[tuple[int, int]]]:
    """For every select: the (scale word, select field) pairs that say it."""
    fmt = design.weights.fmt
    words = decoder_words(fmt)
    if fmt.select.place == "field":
        return [[(word, select) for word in words] for select in range(1 << fmt.select.bits)]
    pool: list[list[tuple[int, int]]] = [[] for _ in range(1 << fmt.select.bits)]
    for word in words:
        pool[select_of(fmt, word)].append((word, 0))
    return pool


def _extremes(
    design: Design, grid: Grid, select: int
) -> Iterator[tuple[tuple[int, ...], tuple[Activation, ...]]]:
    block, words = design.block, _words(design.activations.operand)
    high, low = grid.values.index(grid.high), grid.values.index(grid.low)
    small = grid.values.index(min((v for v in grid.numbers if v), key=abs))
    zero = view_of(design.weights.fmt).grids[select].zero_code
    for code in (high, low):
        for activation in (words.most, words.least):
            yield (code,) * block, (activation,) * block
    ends = tuple(high if lane % 2 else low for lane in range(block))
    swing = tuple(words.most if lane % 2 else words.least for lane in range(block))
    yield ends, (words.least,) * block
    yield ends, swing
    yield (high,) * block, swing
    yield (zero,) * block, (words.least,) * block
    yield (high,) * block, (words.nothing,) * block
    yield (small,) * block, (words.one,) * block
    yield (small,) * block, (words.minus_one,) * block


def _lanes_alone(block: int) -> list[int]:
    if block <= SINGLE_LANES:
        return list(range(block))
    powers = [1 << i for i in range((block - 1).bit_length())]
    return sorted({0, block - 1} | {p for p in powers if p < block} | {p - 1 for p in powers})


def _single(design: Design, head: tuple[int, int], lane: int) -> DotCase:
    """The largest product in one lane; the others have a large code and nothing to weigh."""
    grid, words = design.weights.fmt.grids[0], _words(design.activations.operand)
    codes = (grid.values.index(grid.absmax_end),) * design.block
    activations = tuple(words.least if i == lane else words.nothing for i in range(design.block))
    return DotCase(*head, codes, activations)


def _broken(
    design: Design, draws: Draws, heads: list[tuple[int, int]], select: int
) -> Iterator[DotCase]:
    """One lane that is no number: a code without a value, a shift that no activation has."""
    grids = design.weights.fmt.grids
    values = grids[select].values if select < len(grids) else (None,)
    sound = _random(design, draws, draws.of(heads), min(select, len(grids) - 1), strict=True)
    if None in values:
        lane = draws.below(design.block)
        codes = list(sound.codes)
        codes[lane] = values.index(None)
        yield DotCase(*draws.of(heads), tuple(codes), sound.activations)
    for word in _words(design.activations.operand).outside:
        lane = draws.below(design.block)
        activations = list(sound.activations)
        activations[lane] = word
        yield DotCase(*draws.of(heads), sound.codes, tuple(activations))


def _random(
    design: Design, draws: Draws, head: tuple[int, int], select: int, *, strict: bool = False
) -> DotCase:
    """Uniform codes and activations' words; one in eight takes any codes and shifts."""
    anything = draws.below(8) == 0 and not strict
    values = design.weights.fmt.grids[select].values
    codes = [code for code, value in enumerate(values) if anything or value is not None]
    words = _words(design.activations.operand)
    pool = words.every + (words.outside if anything else ())
    below = draws.below
    return DotCase(
        *head,
        tuple([codes[below(len(codes))] for _ in range(design.block)]),
        tuple([pool[below(len(pool))] for _ in range(design.block)]),
    )
