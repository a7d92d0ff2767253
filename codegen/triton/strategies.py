"""How codes become binary16 pairs on a GPU: a strategy for every form that a grid can have.

A strategy turns one word of eight codes (``compiler.physical``) into four pairs: elements
(0, 1), (2, 3) of its low group, then (4, 5), (6, 7) of its high group. Which strategies a format
has follows from its exact grids (``compiler.decoding``); ``cost`` ranks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...compiler.decoding import (
    Base,
    OffsetInteger,
    SignMagnitude,
    base_of,
    e4m3_fields,
    e4m3_table,
    half_fields,
    half_table,
    offset_integer,
    top,
)
from ...compiler.format import Format
from ...compiler.physical import BYTES, NATURAL, PAIRS, PLANES
from .snippets import Operand, Snippet

#: Names of the words of the planes, by their widths.
WORDS = {4: ("nibbles",), 2: ("fields",), 1: ("bits",), 8: ("low_word", "high_word")}

Pairs = tuple[str, str, str, str]

#: Gives the word of a block's own table, from the words of all tables at one place.
Choose = Callable[[Sequence[int]], Operand]


@dataclass(frozen=True, slots=True)
class Cost:
    """Machine instructions a value on sm_90, read from SASS: all, and by the pipe they share.

    A Hopper multiprocessor issues 128 lanes a clock, of which 64 on the integer pipe and 32 on
    the one of memory, shuffles and conversions (facts of the chip, not of this compiler).
    """

    all: float
    integer: float
    memory: float = 0.0

    def plus(self, all_: float, integer: float, memory: float) -> Cost:
        """This and so much more."""
        return Cost(self.all + all_, self.integer + integer, self.memory + memory)

    @property
    def clocks(self) -> float:
        """Clocks of a multiprocessor a value: what the busiest pipe takes."""
        return max(self.all / 128, self.integer / 64, self.memory / 32)


@dataclass(frozen=True)
class Strategy:
    """One way to decode a format's words.

    Attributes:
        name: what the autotuner and the module's name call it.
        bits: of a code.
        order: of the nibbles of a word, see ``compiler.physical``.
        power: value = decoded * 2^power.
        top: every decoded magnitude is at most 2^top.
        exact: whether decoded values are the grid's, not rounded to binary16.
        least_arch: the least CUDA architecture that has its instructions.
        tables: how many tables a block's select bits choose from; 1: none.
        cost: see ``Cost``.
        pairs: writes the decoding of one word.
    """

    name: str
    bits: int
    order: tuple[int, ...]
    power: int
    top: int
    exact: bool
    least_arch: int
    tables: int
    cost: Cost
    pairs: Callable[[Snippet, Sequence[str], Sequence[Choose]], Pairs]

    @property
    def words(self) -> tuple[str, ...]:
        """Names of the words that it reads."""
        return tuple(name for width in PLANES[self.bits] for name in WORDS[width])


@lru_cache(maxsize=256)
def strategies_of(fmt: Format) -> tuple[Strategy, ...]:
    """The strategies of a format that need no table in memory, the cheapest first.

    Raises: nothing; an empty tuple says that values must be looked up in memory.
    """
    base = base_of(fmt)
    found = [*_arithmetic(fmt.code_bits, base), *_permuted(fmt.code_bits, base)]
    return tuple(sorted(found, key=lambda s: (not s.exact, s.cost.clocks, s.least_arch)))


def _arithmetic(bits: int, base: Base) -> list[Strategy]:
    """Shifts, masks and conversions, for one grid alone."""
    if len(base.grids) > 1:
        return []
    grid = base.grids[0]
    found = []
    halves, bytes_, integer = half_fields(grid), e4m3_fields(grid), offset_integer(grid)
    if bytes_ is not None and bits >= 4:
        found.append(_of_bytes(bits, base, bytes_))
    if halves is not None and bits >= 4:
        found.append(_of_fields(bits, base, halves))
    if integer is not None:
        found.append(_of_integers(bits, base, integer))
    return found


def _of_bytes(bits: int, base: Base, moved: SignMagnitude) -> Strategy:
    """Sign and magnitude moved into E4M3 bytes, converted two at a time."""

    def pairs(s: Snippet, words: Sequence[str], _: Sequence[Choose]) -> Pairs:
        low, high = _four_bits_left(s, words[0]) if bits == 4 else _left_bytes(s, bits, words)
        low, high = (_move(s, b, 8, 8 - bits - moved.shift, bits) for b in (low, high))
        return _converted(s, low) + _converted(s, high)

    cost = Cost(1.38, 0.75, 0.5) if bits == 4 else _WIDE["e4m3"][bits]
    return _strategy("e4m3", bits, BYTES, base, moved.power, cost, pairs, least_arch=89)


def _of_fields(bits: int, base: Base, moved: SignMagnitude) -> Strategy:
    """Sign and magnitude moved into binary16."""

    def of_nibbles(s: Snippet, words: Sequence[str], _: Sequence[Choose]) -> Pairs:
        # A pair is the nibbles of both halves at the same place; the top place needs no shift.
        found = []
        word = words[0]
        for place in (3, 2, 1, 0):
            moved_up = s.do("shl", word, 4 * (3 - place)) if place < 3 else word
            found.append(_move(s, moved_up, 16, 12 - moved.shift, 4))
        return found[3], found[2], found[1], found[0]

    def of_bytes(s: Snippet, words: Sequence[str], _: Sequence[Choose]) -> Pairs:
        found = []
        for octets in _left_bytes(s, bits, words):
            for selector in (0x1404, 0x3424):  # a byte on top of each half
                lanes = s.do("prmt", octets, 0, selector)
                found.append(_move(s, lanes, 16, 16 - bits - moved.shift, bits))
        return found[0], found[1], found[2], found[3]

    if bits == 4:
        cost = Cost(1.88, 1.5)
        return _strategy("shift", bits, PAIRS, base, moved.power, cost, of_nibbles)
    cost = _WIDE["shift"][bits]
    return _strategy("shift", bits, BYTES, base, moved.power, cost, of_bytes)


def _of_integers(bits: int, base: Base, integer: OffsetInteger) -> Strategy:
    """The code as the low bits of a binary16 number from 1024 on, then one multiply-add."""
    down = bits + 2  # brings every magnitude to at most 2^-2 and every constant to at most 1

    def scaled(s: Snippet, lanes: str, up: int) -> str:
        factor = _half_pair(2.0 ** -(up + down))
        return s.do("fma2", lanes, factor, _half_pair(-(1024 / 2**up + integer.bias) / 2**down))

    def of_nibbles(s: Snippet, words: Sequence[str], _: Sequence[Choose]) -> Pairs:
        found = []
        for word in (words[0], s.do("shr", words[0], 8)):
            for up in (0, 4):
                mask, start = _twice(15 << up), _twice(0x6400 | integer.flip << up)
                found.append(scaled(s, s.do("and_xor", word, mask, start), up))
        return found[0], found[1], found[2], found[3]

    def of_bytes(s: Snippet, words: Sequence[str], _: Sequence[Choose]) -> Pairs:
        found, up = [], 8 - bits
        for octets in _left_bytes(s, bits, words):
            flip = integer.flip << up
            flipped = s.do("xor", octets, flip * 0x01010101) if flip else octets
            for selector in (0x4140, 0x4342):
                found.append(scaled(s, s.do("prmt", flipped, 0x64646464, selector), up))
        return found[0], found[1], found[2], found[3]

    power = integer.power + down
    if bits == 4:
        return _strategy("integer", bits, PAIRS, base, power, Cost(1.12, 0.62), of_nibbles)
    return _strategy("integer", bits, BYTES, base, power, _WIDE["integer"][bits], of_bytes)


def _permuted(bits: int, base: Base) -> list[Strategy]:
    """Tables in registers, looked up by byte permutation, four codes at a time."""
    if bits > 4:
        return []
    tables = len(base.grids)
    found = []
    halves, bytes_ = half_table(base.grids), e4m3_table(base.grids)
    if bytes_ is not None:
        rows = bytes_.rows

        def converted(s: Snippet, words: Sequence[str], chooses: Sequence[Choose]) -> Pairs:
            low, high = _looked_up(s, bits, words, chooses, [rows])
            return _converted(s, low[0]) + _converted(s, high[0])

        name = "permute_e4m3"
        cost = _permute_cost(name, bits, tables)
        found.append(
            _strategy(name, bits, NATURAL, base, bytes_.power, cost, converted, least_arch=89)
        )
    planes = [tuple(tuple(half >> 8 for half in row) for row in halves.rows)]
    if halves.has_low_bytes:
        planes.insert(0, tuple(tuple(half & 0xFF for half in row) for row in halves.rows))

    def joined(s: Snippet, words: Sequence[str], chooses: Sequence[Choose]) -> Pairs:
        low, high = _looked_up(s, bits, words, chooses, planes)
        return _joined(s, low) + _joined(s, high)

    name = "permute2" if halves.has_low_bytes else "permute1"
    cost = _permute_cost(name, bits, tables)
    found.append(
        _strategy(name, bits, NATURAL, base, halves.power, cost, joined, exact=halves.exact)
    )
    return found


def integer_bytes(
    fmt: Format, values: Sequence[Sequence[int]]
) -> Callable[[Snippet, Sequence[str], Sequence[Choose]], tuple[str, str]]:
    """Writes the decoding of a word of at most 4-bit codes to two words of four int8 each.

    Args:
        fmt: the format.
        values: every grid's integers by code, within [-128, 127].
    """
    rows = tuple(tuple(value & 0xFF for value in row) for row in values)

    def octets(s: Snippet, words: Sequence[str], chooses: Sequence[Choose]) -> tuple[str, str]:
        low, high = _looked_up(s, fmt.code_bits, words, chooses, [rows])
        return low[0], high[0]

    return octets


def _strategy(
    name: str,
    bits: int,
    order: tuple[int, ...],
    base: Base,
    power: int,
    cost: Cost,
    pairs: Callable[[Snippet, Sequence[str], Sequence[Choose]], Pairs],
    exact: bool = True,
    least_arch: int = 80,
) -> Strategy:
    highest = top(base.grids) - power
    return Strategy(
        name, bits, order, power, highest, exact, least_arch, len(base.grids), cost, pairs
    )


def _looked_up(
    s: Snippet,
    bits: int,
    words: Sequence[str],
    chooses: Sequence[Choose],
    planes: Sequence[Sequence[Sequence[int]]],
) -> tuple[list[str], list[str]]:
    """Four looked-up bytes of every plane (bytes by grid and code), of both groups."""
    nibbles = words[0] if bits == 4 else _nibbles(s, bits, words)
    index = s.do("and", nibbles, 0x77777777) if bits == 4 else nibbles
    upper = s.do("and_or", s.do("shr", nibbles, 1), 0x44444444, 0x32103210) if bits == 4 else ""
    found: tuple[list[str], list[str]] = ([], [])
    for group in (0, 1):
        if group:
            index = s.do("shr", index, 16)
            upper = s.do("shr", upper, 16) if upper else ""
        for rows in planes:
            table = [_chosen(rows, i, chooses[group]) for i in range(0, 16, 4)]
            octets = s.do("prmt", table[0], table[1], index)
            if upper:
                octets = s.do("prmt", octets, s.do("prmt", table[2], table[3], index), upper)
            found[group].append(octets)
    return found


def by_select(s: Snippet, select: str) -> Choose:
    """Select bits switch registers: one instruction a word and a further table."""

    def choose(words: Sequence[int]) -> Operand:
        if len(words) == 2:
            return s.do("select", s.do("is_set", select), words[1], words[0])
        chosen: Operand = words[0]
        for index, word in enumerate(words[1:], 1):
            if word != words[0]:
                chosen = s.do("select", s.do("is_equal", select, index), word, chosen)
        return chosen

    return choose


def by_name(s: Snippet, prefix: str, seen: list[tuple[int, ...]]) -> Choose:
    """The words are inputs, which someone has loaded; ``seen`` collects them in their order."""

    def choose(words: Sequence[int]) -> Operand:
        if tuple(words) not in seen:
            seen.append(tuple(words))
        return s.read(f"{prefix}{seen.index(tuple(words))}")

    return choose


def _chosen(rows: Sequence[Sequence[int]], start: int, choose: Choose) -> Operand:
    """Four bytes of the table of a block's grid."""
    words = [_word(row, start) for row in rows]
    alike = len(words) > 1 and len(set(words)) == 1
    return words[0] if alike else choose(words)


def _word(row: Sequence[int], start: int) -> int:
    """Four bytes of a table as a little-endian word; bytes past its end are 0."""
    return sum(octet << 8 * i for i, octet in enumerate(row[start : start + 4]))


def _joined(s: Snippet, planes: Sequence[str]) -> tuple[str, str]:
    """Two pairs from four low bytes and four high ones, or from high ones alone."""
    if len(planes) == 1:
        return s.do("prmt", planes[0], 0, 0x1404), s.do("prmt", planes[0], 0, 0x3424)
    low, high = planes
    return s.do("prmt", low, high, 0x5140), s.do("prmt", low, high, 0x7362)


def _converted(s: Snippet, octets: str) -> tuple[str, str]:
    """Two pairs from four E4M3 bytes."""
    return s.do("e4m3_low", octets), s.do("e4m3_high", octets)


def _move(s: Snippet, lanes: str, width: int, down: int, bits: int) -> str:
    """In lanes with a code on top: keep the sign, and shift the magnitude below it down."""
    repeat = _twice if width == 16 else _four_times
    if down == 0:  # below a nibble are other codes
        top_bits = ((1 << bits) - 1) << (width - bits)
        return s.do("and", lanes, repeat(top_bits)) if bits == 4 else lanes
    magnitude = ((1 << (bits - 1)) - 1) << (width - bits - down)
    shifted = s.do("shr", lanes, down) if down > 0 else s.do("shl", lanes, -down)
    return s.do("and_or", lanes, repeat(1 << (width - 1)), s.do("and", shifted, repeat(magnitude)))


def _four_bits_left(s: Snippet, word: str) -> tuple[str, str]:
    """Bytes with a nibble on top, of the low and of the high group; below it is anything."""
    return s.do("shl", word, 4), word


def _left_bytes(s: Snippet, bits: int, words: Sequence[str]) -> tuple[str, str]:
    """Bytes with a code on top and zeros below, of the low and of the high group."""
    if bits == 8:
        return words[0], words[1]
    named = dict(zip([w for width in PLANES[bits] for w in WORDS[width]], words, strict=True))
    found = []
    for group in (0, 1):
        at, parts = 8 - bits, []
        for width in PLANES[bits]:
            word = named[WORDS[width][0]]
            if width == 4:
                octets = s.do("and", s.do("shr", word, 4) if group else word, 0x0F0F0F0F)
            else:
                octets = _spread(s, s.do("shr", word, 4 * width) if group else word, width)
            parts.append(s.do("shl", octets, at) if at else octets)
            at += width
        octets = parts[0]
        for part in parts[1:]:
            octets = s.do("or", octets, part)
        found.append(octets)
    return found[0], found[1]


def _spread(s: Snippet, word: str, width: int) -> str:
    """Four fields side by side, each to a byte of its own."""
    halves = s.do("or_and", word, s.do("shl", word, 16 - 2 * width), _twice((1 << 2 * width) - 1))
    mask = _four_times((1 << width) - 1)
    return s.do("or_and", halves, s.do("shl", halves, 8 - width), mask)


def _nibbles(s: Snippet, bits: int, words: Sequence[str]) -> str:
    """Codes of 1 to 3 bits, each in a nibble of its own."""
    found = ""
    at = 0
    for width, word in zip(PLANES[bits], words, strict=True):
        spread = word
        # Eight fields side by side move apart: four and four, then two and two, then one by one.
        for count in (4, 2, 1):
            gap = count * (4 - width)
            kept = sum(((1 << count * width) - 1) << 4 * i for i in range(0, 8, count))
            spread = s.do("or_and", spread, s.do("shl", spread, gap), kept)
        spread = s.do("shl", spread, at) if at else spread
        found = s.do("or", found, spread) if found else spread
        at += width
    return found


def _twice(bits: int) -> int:
    return bits * 0x00010001


def _four_times(bits: int) -> int:
    return bits * 0x01010101


def _half_pair(value: float) -> int:
    half = np.float16(value)
    if float(half) != value:
        raise ValueError(f"{value} is no binary16 number")
    return _twice(int(half.view(np.uint16)))


#: Instructions a value of codes that are not of four bits, planes put together included, by
#: strategy and bits; tests hold all costs to the machine code of sm_90.
_WIDE: dict[str, dict[int, Cost]] = {
    "e4m3": {b: Cost(3.5, 2.0, 0.5) for b in (5, 6, 7)} | {8: Cost(0.5, 0.0, 0.5)},
    "shift": {b: Cost(4.25, 3.25) for b in (5, 6, 7)} | {8: Cost(2.0, 2.0)},
    "integer": {b: Cost(4.0, 2.0) for b in (1, 2, 3)}
    | {b: Cost(3.25, 1.75) for b in (5, 6, 7)}
    | {8: Cost(1.0, 0.5)},
    "permute_e4m3": {b: Cost(2.88, 1.25, 0.5) for b in (1, 2, 3)},
    "permute1": {b: Cost(2.88, 1.75) for b in (1, 2, 3)},
    "permute2": {1: Cost(2.25, 1.5), 2: Cost(2.25, 1.5), 3: Cost(3.38, 2.0)},
}

#: Instructions a value of 4-bit codes and tables in registers: one table, two.
_PERMUTE: dict[str, tuple[Cost, Cost]] = {
    "permute_e4m3": (Cost(1.94, 1.38, 0.5), Cost(2.25, 1.56, 0.5)),
    "permute1": (Cost(1.94, 1.88), Cost(2.25, 2.06)),
    "permute2": (Cost(2.87, 2.62), Cost(3.38, 3.19)),
}

#: What a table beyond the second adds, to all instructions and to those on integers.
_FURTHER = 0.2


def _permute_cost(name: str, bits: int, tables: int) -> Cost:
    """What a strategy of byte permutation takes."""
    if bits < 4:
        return _WIDE[name][bits]
    one, two = _PERMUTE[name]
    more = _FURTHER * max(0, tables - 2)
    return one if tables == 1 else two.plus(more, more, 0.0)
