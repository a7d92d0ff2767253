"""The search for an element's rank among its thresholds, as a tree that vectors can walk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ...compiler.exact import fp32_from_bits
from ...compiler.view import GridView, View

#: Bytes of a table that one register of any target holds.
_REGISTER = 16


@dataclass(frozen=True, slots=True)
class Tree:
    """A grid's thresholds by node: node 1 is asked first, 2i lies below node i and 2i + 1 above.

    Attributes:
        midpoints, quotients, inclusive: see ``view.GridView``; entry 0 is no node. Nodes past the
            last threshold hold infinity, which nothing lies above.
        order: what the search ends on, modulo its length -> code.
    """

    midpoints: tuple[float, ...]
    quotients: tuple[float, ...]
    inclusive: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """How the elements of a format find their codes.

    Attributes:
        levels: comparisons, one after the other; ``nodes`` is 2 to this power.
        mirrored: magnitudes are searched for, and the code's top bit is the element's sign.
        identity: a rank is its code.
        order_size: length of the tables from where a search ends to codes.
        trees: one for each grid.
    """

    levels: int
    mirrored: bool
    identity: bool
    order_size: int
    trees: tuple[Tree, ...]

    @property
    def nodes(self) -> int:
        """Entries of a tree."""
        return 1 << self.levels


@dataclass(frozen=True, slots=True)
class _Ladder:
    """Ascending thresholds (midpoint, quotient, tie up) and the codes between them."""

    thresholds: tuple[tuple[Fraction, float, bool], ...]
    codes: tuple[int, ...]


def search_of(view: View) -> Search:
    """The search of a format: over magnitudes where every grid is symmetric."""
    sign = 1 << (view.format.code_bits - 1)
    whole = [_ladder(grid) for grid in view.grids]
    pairs = zip(view.grids, whole, strict=True)
    halves = [half for grid, ladder in pairs if (half := _upper_half(grid, ladder, sign))]
    if len(halves) == len(whole):
        search = _search(halves, mirrored=True)
        # A sign is put beside a code after it is looked up: in a register, or not at all.
        if search.identity or search.order_size == _REGISTER:
            return search
    return _search(whole, mirrored=False)


def _search(ladders: list[_Ladder], *, mirrored: bool) -> Search:
    levels = max(1, *(len(ladder.thresholds).bit_length() for ladder in ladders))
    identity = all(ladder.codes == tuple(range(len(ladder.codes))) for ladder in ladders)
    longest = max(len(ladder.codes) for ladder in ladders)
    size = _REGISTER if longest <= _REGISTER else max(64, 1 << (longest - 1).bit_length())
    trees = tuple(_tree(ladder, levels, size) for ladder in ladders)
    return Search(levels, mirrored, identity, size, trees)


def _ladder(grid: GridView) -> _Ladder:
    """The thresholds but that between -0 and +0, which no comparison of numbers decides."""
    rows = zip(grid.midpoints, grid.quotient_bits, grid.ties_up, strict=True)
    thresholds = tuple(
        (midpoint, fp32_from_bits(bits), up)
        for index, (midpoint, bits, up) in enumerate(rows)
        if index != grid.zero_split
    )
    return _Ladder(thresholds, grid.order)


def _upper_half(grid: GridView, ladder: _Ladder, sign: int) -> _Ladder | None:
    """The thresholds above zero, where those below and their codes are their mirror image."""
    if grid.zero_split is None or len(grid.order) % 2:
        return None
    half = len(grid.order) // 2
    below, above = ladder.thresholds[: half - 1], ladder.thresholds[half - 1 :]
    if grid.zero_split != half - 1 or len(below) != len(above):
        return None
    same = all(
        low[0] == -high[0] and low[2] != high[2]
        for low, high in zip(reversed(below), above, strict=True)
    )
    signs = all(
        low == high | sign and not high & sign
        for low, high in zip(reversed(grid.order[:half]), grid.order[half:], strict=True)
    )
    return _Ladder(above, grid.order[half:]) if same and signs else None


def _tree(ladder: _Ladder, levels: int, order_size: int) -> Tree:
    nodes = 1 << levels
    midpoints, quotients, inclusive = [math.inf] * nodes, [math.inf] * nodes, [0] * nodes
    for node in range(1, nodes):
        place = _place(node, levels)
        if place < len(ladder.thresholds):
            midpoint, quotient, up = ladder.thresholds[place]
            # -0, so that the next number below scale * midpoint is one bit pattern away.
            midpoints[node] = -0.0 if midpoint == 0 and up else float(midpoint)
            quotients[node] = quotient
            inclusive[node] = -int(up)
    order = [0] * order_size
    for rank, code in enumerate(ladder.codes):
        order[(nodes + rank) % order_size] = code
    return Tree(tuple(midpoints), tuple(quotients), tuple(inclusive), tuple(order))


def _place(node: int, levels: int) -> int:
    """Where a node's threshold stands among all of a full tree, in ascending order."""
    depth = node.bit_length() - 1
    step = 1 << (levels - depth)
    return (node - (1 << depth)) * step + step // 2 - 1
