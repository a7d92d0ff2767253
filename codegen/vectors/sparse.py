"""Golden rows of the side path: tiles of results, entries beside them, and what they add up to.

Every entry is one exact scaled accumulate (``compiler.block_product``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...compiler.block_product import scale_values, scaled_accumulate
from ...compiler.exact import fp32_bits, fp32_from_bits
from ...compiler.format import Side as SideStream
from ...compiler.stored import from_word
from ..design import Design
from .draws import Draws
from .scaled import EDGES
from .words import decoder_words, element_words, select_of


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored value: its place, its kind (an index into the format's sides), its word."""

    column: int
    index: int
    kind: int
    word: int


@dataclass(frozen=True, slots=True)
class Tile:
    """Results as 32 bits, [row][column], and the entries that are added."""

    dense: tuple[tuple[int, ...], ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class SparseCommand:
    """Activations of some rows, and tiles of weights.

    Attributes:
        codes: [element][row], stored.
        words, selects: [block][row], stored; selects 0 where the format has no such field.
        offset: power of two of the activations' level.
        factors: the fp32 bits that values of each kind are multiplied with.
        tiles: that follow.
    """

    codes: tuple[tuple[int, ...], ...]
    words: tuple[tuple[int, ...], ...]
    selects: tuple[tuple[int, ...], ...]
    offset: int
    factors: tuple[int, ...]
    tiles: tuple[Tile, ...]


def results_of(design: Design, command: SparseCommand, tile: Tile) -> tuple[tuple[int, ...], ...]:
    """A tile's results with its entries, 32 bits each, [row][column]."""
    fmt, side = design.activations.fmt, design.activations
    table = element_words(fmt)
    results = [list(row) for row in tile.dense]
    for entry in tile.entries:
        block = entry.index // side.block
        value = stored_value(design.weights.fmt.sides[entry.kind], entry.word)
        with np.errstate(all="ignore"):
            value *= fp32_from_bits(command.factors[entry.kind])
        for row, of_row in enumerate(results):
            word = command.words[block][row]
            select = command.selects[block][row] if side.select_is_field else select_of(fmt, word)
            element = table[select << side.code_bits | command.codes[entry.index][row]]
            of_row[entry.column] = scaled_accumulate(
                of_row[entry.column],
                element.word.value if element.valid else None,
                value,
                float(scale_values(fmt, np.array([word], np.uint32))[0]),
                side.operand.unit + command.offset,
            )
    return tuple(map(tuple, results))


def stored_value(side: SideStream, word: int) -> float:
    """The number that a stored word means, exactly; NaN where it means none."""
    return float(from_word(side.value, np.array([word], np.uint32))[0])


def sparse_commands(
    design: Design, rows: int, columns: int, count: int = 2, salt: int = 0
) -> tuple[SparseCommand, ...]:
    """Commands with tiles that have many, few and no entries, on edges and random bits."""
    draws = Draws(71 + salt)
    return tuple(_command(design, draws, rows, columns, plain=i == 0) for i in range(count))


def _command(
    design: Design, draws: Draws, rows: int, columns: int, *, plain: bool
) -> SparseCommand:
    side, kinds = design.activations, design.weights.fmt.sides
    every = decoder_words(side.fmt)
    finite = [w for w in every if np.isfinite(scale_values(side.fmt, np.array([w], np.uint32))[0])]
    # A scale that is no number, now and then.
    words = finite if plain else [*finite[:: max(1, len(finite) // 64)], *every[-1:]]
    table = element_words(side.fmt)
    codes = [code for code in range(side.codes) if table[code].valid]
    codes += [code for code in range(side.codes) if not table[code].valid][: 0 if plain else 1]
    blocks = 2 + draws.below(3)
    length = blocks * side.block - draws.below(side.block)
    level = side.fmt.scale.tensor == "fp32"
    factors = [
        _factor(draws, edge=not plain) if level or kind.kind == "wr" else fp32_bits(1.0)
        for kind in kinds
    ]
    sizes = (24, 1, 0, 60, 7)
    tiles = []
    for size in sizes:
        dense = tuple(tuple(_dense(draws) for _ in range(columns)) for _ in range(rows))
        entries = [_entry(draws, design, columns, length) for _ in range(size)]
        tiles.append(Tile(dense, tuple(entries)))
    return SparseCommand(
        codes=tuple(tuple(draws.of(codes) for _ in range(rows)) for _ in range(length)),
        words=tuple(tuple(draws.of(words) for _ in range(rows)) for _ in range(blocks)),
        selects=tuple(tuple(draws.below(side.selects) for _ in range(rows)) for _ in range(blocks)),
        offset=draws.below(17) - 8,
        factors=tuple(factors),
        tiles=tuple(tiles),
    )


def _factor(draws: Draws, *, edge: bool) -> int:
    if edge and draws.below(2):
        return draws.of(EDGES)
    return (110 + draws.below(24)) << 23 | draws.below(1 << 23)


def _dense(draws: Draws) -> int:
    if draws.below(8) == 0:
        return draws.of(EDGES)
    # Near the sizes that values times activations have.
    return draws.below(2) << 31 | (110 + draws.below(32)) << 23 | draws.below(1 << 23)


def _entry(draws: Draws, design: Design, columns: int, length: int) -> Entry:
    kind = draws.below(len(design.weights.fmt.sides))
    # A few columns often, so that entries meet their predecessors' results.
    column = draws.below(columns) if draws.below(2) else 0
    word = _word(draws, design.weights.fmt.sides[kind])
    return Entry(column, draws.below(length), kind, word)


def _word(draws: Draws, side: SideStream) -> int:
    """A stored value: of any bits now and then, else of a size about 1."""
    anything = draws.below(64) == 0
    while True:
        word = draws.below(1 << side.value.container)
        if anything or 2**-8 < abs(stored_value(side, word)) < 2**8:
            return word
