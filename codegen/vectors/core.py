"""What the core of a design reads, k by k, and the results that it must come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...compiler.block_product import BlockWords, accumulate, block_sums, block_words
from ...compiler.elements import U8
from ...compiler.format import Format
from ...compiler.kernel import dense_format
from ...compiler.packing import pack, unpack
from ...compiler.pipeline import encode
from ...compiler.reference import calibrate
from ...compiler.sides import Sparse
from ...compiler.view import view_of
from ..design import Design, Side
from .draws import Draws

U32 = NDArray[np.uint32]
F32 = NDArray[np.float32]

#: Blocks of the commands of a bench: some as short as can be, one after the other.
BLOCKS = (2, 1, 1, 3, 1, 4, 1)

#: Where blocks are long, no command follows after so many k.
ENOUGH_STEPS = 300


@dataclass(frozen=True, eq=False)
class Lanes:
    """One side of a product: stored fields of some rows.

    Attributes:
        codes: uint32 [lanes, blocks * block].
        words: uint32 [lanes, blocks], scale words.
        selects: uint32 [lanes, blocks], fields beside the scale words; zeros without any.
        masks: bool [lanes, blocks * block], elements that count as 0.
    """

    codes: U32
    words: U32
    selects: U32
    masks: NDArray[np.bool_]

    def take(self, first: int, count: int) -> Lanes:
        """Lanes from ``first`` on; where there are no more, lanes of zeros."""
        lanes = slice(first, first + count)
        missing = ((0, max(0, first + count - len(self.codes))), (0, 0))
        return Lanes(
            np.pad(self.codes[lanes], missing),
            np.pad(self.words[lanes], missing),
            np.pad(self.selects[lanes], missing),
            np.pad(self.masks[lanes], missing),
        )


@dataclass(frozen=True, eq=False)
class Command:
    """One tile: every lane of weights times every lane of activations.

    Attributes:
        weights: one lane for each column.
        activations: one lane for each row.
        exponent_offset: results are multiplied with this power of two.
    """

    weights: Lanes
    activations: Lanes
    exponent_offset: int

    @property
    def blocks(self) -> int:
        """Blocks of a lane."""
        return int(self.weights.words.shape[1])

    @property
    def steps(self) -> int:
        """How many k there are."""
        return int(self.weights.codes.shape[1])


def lanes_of(
    fmt: Format, streams: dict[str, U8], length: int, outliers: Sparse | None = None
) -> Lanes:
    """The fields of packed rows; a short last block fills up with codes of zero.

    Args:
        fmt: their format.
        streams: without records, as ``pipeline.encode`` makes them of a plain format.
        length: elements of a row.
        outliers: elements that are masked.
    """
    blocks = -(-length // fmt.block)
    fields = {
        s.name: unpack(streams[s.name], length if s.per == "element" else blocks, s)
        for s in fmt.streams
    }
    codes, words = fields["codes"], fields["scales"]
    masks = np.zeros(codes.shape, np.bool_)
    if outliers is not None:
        masks.reshape(-1)[outliers.index] = True
    padding = ((0, 0), (0, blocks * fmt.block - length))
    zero = view_of(dense_format(fmt)).grids[0].zero_code
    return Lanes(
        np.pad(codes, padding, constant_values=zero),
        words,
        fields.get("select", np.zeros_like(words)),
        np.pad(masks, padding),
    )


def tiles(
    weights: Lanes, activations: Lanes, rows: int, columns: int, exponent_offset: int
) -> Iterator[Command]:
    """A whole product cut into commands, columns first; the last tiles are filled with zeros."""
    for row in range(0, len(activations.codes), rows):
        for column in range(0, len(weights.codes), columns):
            yield Command(
                weights.take(column, columns), activations.take(row, rows), exponent_offset
            )


def results_of(design: Design, command: Command) -> F32:
    """float32 [rows, columns] by the arbiter, before any fp32 second level."""
    left = _words(design.weights.fmt, command.weights)
    right = _words(design.activations.fmt, command.activations)
    exponent = left.unit + right.unit + command.exponent_offset
    y = np.zeros((len(right.scales), len(left.scales)), np.float32)
    for block, sums in enumerate(block_sums(left, right)):
        valid = right.valid[:, block, None] & left.valid[None, :, block]
        scales = right.scales[:, block, None].astype(np.float64) * left.scales[None, :, block]
        y = accumulate(y, sums, valid, scales, exponent)
    return y


def _words(fmt: Format, lanes: Lanes) -> BlockWords:
    dense = dense_format(fmt)
    fields = {"codes": lanes.codes, "scales": lanes.words, "select": lanes.selects}
    streams = {s.name: pack(fields[s.name], s) for s in dense.streams}
    masked = np.flatnonzero(lanes.masks)
    outliers = Sparse(masked, np.zeros(len(masked), np.uint32)) if len(masked) else None
    return block_words(dense, streams, lanes.codes.shape[1], outliers)


def bench_commands(design: Design, rows: int, columns: int, salt: int = 0) -> tuple[Command, ...]:
    """Commands of encoded Gaussians and of random fields, the same on every call."""
    draws = Draws(20 + salt)
    return tuple(
        Command(
            _drawn(design.weights, draws, columns, blocks, raw=index % 2 == 1),
            _drawn(design.activations, draws, rows, blocks, raw=index % 2 == 1),
            draws.below(1 << 10) - (1 << 9) if index % 3 == 2 else draws.below(8) - 4,
        )
        for index, blocks in enumerate(BLOCKS)
        if index < 2 or sum(BLOCKS[:index]) * design.block < ENOUGH_STEPS
    )


def _drawn(side: Side, draws: Draws, lanes: int, blocks: int, *, raw: bool) -> Lanes:
    """Lanes of encoded Gaussians, or of codes and words at random."""
    fmt = dense_format(side.fmt)
    length = blocks * side.block
    if not raw:
        x = draws.gaussian(lanes, length)
        made = lanes_of(fmt, encode(fmt, x, calibrate(fmt, x)), length)
        return replace(made, masks=_masks(side, draws, made.codes, broken=set()))
    numbers = [{c for c, value in enumerate(g.values) if value is not None} for g in fmt.grids]
    common = sorted(set.intersection(*numbers))
    broken = sorted(set(range(side.codes)).difference(common))

    def code() -> int:
        """About every third block has one that is no number, where there are such codes."""
        return draws.of(broken if broken and draws.below(3 * side.block) == 0 else common)

    codes = _table(code, lanes, length)
    grids = len(fmt.grids) if side.select_is_field else 1
    return Lanes(
        codes,
        _table(lambda: draws.below(1 << side.container), lanes, blocks),
        _table(lambda: draws.below(grids), lanes, blocks),
        _masks(side, draws, codes, broken=set(broken)),
    )


def _masks(side: Side, draws: Draws, codes: U32, *, broken: set[int]) -> NDArray[np.bool_]:
    """One in eight elements, and every other one that is no number."""
    if not any(one.kind == "opq" for one in side.fmt.sides):
        return np.zeros(codes.shape, np.bool_)
    masks = [[draws.below(2 if c in broken else 8) == 0 for c in row] for row in codes.tolist()]
    return np.array(masks, np.bool_)


def _table(draw: Callable[[], int], rows: int, columns: int) -> U32:
    return np.array([[draw() for _ in range(columns)] for _ in range(rows)], np.uint32)
