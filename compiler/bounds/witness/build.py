"""Inputs that come near the bounds: built from the place where a bound is attained, then run.

A supremum is often a limit from one side, so that a witness stands a little beside it. Which
side and how little is found by trying a few and encoding them all at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

from ...exact import FP32_MAX, floor_log2, round_fp32
from ...format import Format
from ...reference import calibrate
from ...view import view_of
from ..coder import Coder, coders_of
from ..proof import Cell, Corner, Proof, Statement, Witness
from ..slack import element_count
from ..words import Word, words_of
from .measured import F32, Outcome, Place, outcome, share_reached

#: A witness reaches at least this share of a bound that is attained.
ENOUGH = Fraction(999, 1000)

#: Elements of the row that stands for rows and tensors of any length.
LONG = 4096

#: Inputs that are encoded at once, and how often more are tried.
_BATCH, _ROUNDS = 48, 6

#: How far beside a point a witness may stand, relative to it.
_STEPS = tuple(Fraction(1, 1 << n) for n in (21, 19, 23, 17))


@dataclass(frozen=True, slots=True)
class Idea:
    """A block that may come near a bound: its elements, and the one that is meant."""

    elements: F32
    element: int | None


# -- one block as a tensor -----------------------------------------------------------------


def unit(fmt: Format) -> Fraction:
    """The second level that ``packed`` sees to: a power of two.

    Where rows and tensors are blocks, and so have their own second level, it is only nearly so.
    """
    scale = fmt.scale
    if scale.tensor == "none":
        return Fraction(2) ** -(scale.shift or 0)
    aimed = _aimed(fmt)
    away = floor_log2(aimed)
    return Fraction(2) ** -(away - 100 if away > 100 else away + 100 if away < -100 else 0)


def _aimed(fmt: Format) -> Fraction:
    """The absmax of a tensor whose second level is 1."""
    view = view_of(fmt)
    end = min(d for g in view.grids for d in (g.positive_divisor, g.negative_divisor) if d > 0)
    return end * view.scale.aim / (2 if fmt.scale.rule == "range" else 1)


@lru_cache(maxsize=256)
def _fillers(fmt: Format) -> tuple[float, ...]:
    """Elements of other blocks that fix the second level, one a block."""
    view = view_of(fmt)
    if fmt.scale.tensor != "none":
        return (_level_filler(fmt),)
    if fmt.scale.shift is not None:
        return ()
    # Two at each end of the normal range outvote any one block.
    divisor = max(view.grids[0].positive_divisor, view.grids[0].negative_divisor)
    low = divisor * view.scale.smallest_normal * (1 + Fraction(1, 1 << 10))
    high = min(divisor * view.scale.largest, FP32_MAX) * (1 - Fraction(1, 1 << 10))
    return (round_fp32(low), round_fp32(low), round_fp32(high), round_fp32(high))


def _level_filler(fmt: Format) -> float:
    wanted = unit(fmt)
    nearest = np.float32(round_fp32(_aimed(fmt) * wanted))
    around = [nearest, np.nextafter(nearest, np.float32(np.inf)), np.nextafter(nearest, 0)]
    alone = replace(fmt, scale=replace(fmt.scale, tensor="fp32"), sides=())
    for size in around:
        found = calibrate(alone, np.full((1, 1), size, np.float32)).tensor_scale
        if Fraction(found) == wanted:
            return float(size)
    return float(nearest)


def packed(fmt: Format, block: Sequence[float] | F32, element: int | None = None) -> Witness:
    """One block in a tensor whose second level is ``unit(fmt)``.

    Other blocks fix the second level: one that has the largest scale, or some at the ends of the
    normal range that decide a shift. Where residuals are kept, louder copies have them all.

    Args:
        fmt: the format.
        block: the elements of the block, row after row where it is a tile: as many as it has, or
            any number of them where it is a row or a tensor. They should be binary32 numbers.
        element: the index of the one that is meant, or None.
    """
    elements = np.asarray(block, np.float32).reshape(-1)
    x, places = _laid_out(fmt, [elements])
    return _described(x, places[0], element)


def _laid_out(fmt: Format, blocks: Sequence[F32]) -> tuple[F32, list[Place]]:
    """Blocks below each other, what fixes the second level beside them, and their places."""
    width = fmt.block if fmt.extent == "block" else max(len(block) for block in blocks)
    strips = []
    for block in blocks:
        strip = np.zeros((fmt.tile, width), np.float32)
        strip.reshape(-1)[: len(block)] = block
        if fmt.extent == "block":
            beside = [_filler_block(fmt, value) for value in _fillers(fmt)]
            beside += _louder(fmt, strip)
            strip = np.concatenate([strip, *beside], axis=1)
        strips.append(strip)
    x = np.concatenate(strips)
    spare = 0 if fmt.record is None else -x.shape[1] % fmt.record.elements
    x = np.pad(x, ((0, 0), (0, spare)))
    if fmt.extent == "row" and _fillers(fmt):
        x = np.concatenate([x, np.full((1, x.shape[1]), _fillers(fmt)[0], np.float32)])
    if fmt.extent != "block":
        width = x.shape[1]
    tops = range(0, fmt.tile * len(blocks), fmt.tile)
    return x, [(top, top + fmt.tile, 0, width) for top in tops]


def _filler_block(fmt: Format, value: float) -> F32:
    """Equal elements: none of them is an outlier."""
    return np.full((fmt.tile, fmt.block), value, np.float32)


def _louder(fmt: Format, strip: F32) -> list[F32]:
    """Copies of a block with larger errors, which are corrected in its place."""
    if not any(side.kind == "wr" for side in fmt.sides):
        return []
    size = float(np.abs(strip).max())
    if not size:
        return []
    return [strip * np.float32(2.0**power) for power in (4, 5, 6, 7)]


def _described(x: F32, place: Place, element: int | None) -> Witness:
    where = None
    if element is not None:
        row, column = divmod(element, place[3] - place[2])
        where = (place[0] + row, place[2] + column)
    values = [float(value).hex() for value in x.reshape(-1)]
    runs = tuple((value, len(list(same))) for value, same in groupby(values))
    return Witness((x.shape[0], x.shape[1]), runs, place, where, digest=digest_of(x))


def digest_of(x: F32) -> str:
    """SHA-256 of the elements as binary32, little-endian, row after row, as hex digits."""
    return hashlib.sha256(np.ascontiguousarray(x, "<f4").tobytes()).hexdigest()


def array_of(witness: Witness) -> F32:
    """The input of a witness: float32 [rows, columns].

    Raises:
        ValueError: its runs do not fill its shape, or are not the ones that its digest is of.
    """
    values = np.array([float.fromhex(value) for value, _ in witness.runs], np.float32)
    counts = np.array([count for _, count in witness.runs], np.int64)
    x = np.repeat(values, counts)
    if x.size != witness.shape[0] * witness.shape[1]:
        raise ValueError(f"a witness of shape {witness.shape} has {x.size} elements")
    x = x.reshape(witness.shape)
    if witness.digest and digest_of(x) != witness.digest:
        raise ValueError("a witness is not the one that its digest is of")
    return x


def measured(statement: Statement, witness: Witness, seen: Outcome) -> Fraction:
    """The share of a statement's bound that a witness reaches, exactly."""
    return share_reached(seen, statement, witness.block, witness.element)


# -- ideas ---------------------------------------------------------------------------------


def witnessed(fmt: Format, proof: Proof) -> Proof:
    """The proof with a witness for every statement that has none and that one is known for."""
    statements = [
        statement if statement.witness else replace(statement, witness=witness_of(fmt, statement))
        for statement in proof.statements
    ]
    return replace(proof, statements=tuple(statements))


def witness_of(fmt: Format, statement: Statement) -> Witness | None:
    """The best of a few inputs, or None where none comes anywhere near.

    The list of ideas ends early: as soon as one reaches nearly all of the bound.
    """
    if fmt.zero is not None or fmt.scale.stored is not None:
        from .moved import moved_witness

        return moved_witness(fmt, statement)
    if statement.cells and len(coders_of(fmt)) > 1:
        from .choice import element_witness

        return element_witness(fmt, statement)
    return best_of(fmt, statement, _ideas(fmt, statement))


def best_of(fmt: Format, statement: Statement, ideas: Iterable[Idea]) -> Witness | None:
    """The witness that the best of some ideas makes; it ends at one that is near enough.

    Args:
        fmt: the format.
        statement: what is to be reached.
        ideas: blocks, the most promising first.
    """
    stream = iter(ideas)
    best: tuple[Fraction, Witness] | None = None
    for size in [1, 4, *[_batch(fmt)] * _ROUNDS]:
        batch = list(islice(stream, size))
        if not batch:
            break
        found = _best_of_batch(fmt, statement, batch)
        if best is None or found[0] > best[0]:
            best = found
        if best[0] >= 1 - (1 - ENOUGH) / 10:
            break
    if best is None or not best[0]:
        return None
    return replace(best[1], reached=best[0])


def _batch(fmt: Format) -> int:
    """How many blocks are tried at once."""
    alone = fmt.extent == "tensor" or fmt.sides
    return 1 if alone else max(1, _BATCH * 32 // (fmt.block * fmt.tile))


def _best_of_batch(
    fmt: Format, statement: Statement, batch: Sequence[Idea]
) -> tuple[Fraction, Witness]:
    if _batch(fmt) == 1:
        shares = [shares_of(fmt, statement, [idea])[0] for idea in batch]
    else:
        shares = shares_of(fmt, statement, batch)
    index = max(range(len(batch)), key=lambda i: shares[i])
    witness = packed(fmt, batch[index].elements, batch[index].element)
    # Alone it may fare otherwise than among the others.
    return measured(statement, witness, outcome(fmt, array_of(witness))), witness


def shares_of(fmt: Format, statement: Statement, batch: Sequence[Idea]) -> list[Fraction]:
    """The shares of a bound that blocks reach, all in one tensor: see ``packed``."""
    x, places = _laid_out(fmt, [idea.elements for idea in batch])
    seen = outcome(fmt, x)
    shares = []
    for idea, place in zip(batch, places, strict=True):
        where = _described(x[:0], place, idea.element).element
        shares.append(share_reached(seen, statement, place, where))
    return shares


def _ideas(fmt: Format, statement: Statement) -> Iterator[Idea]:
    if statement.measure == "zero":
        yield Idea(np.zeros(_size(fmt), np.float32), 0)
    if statement.cells:
        yield from _element_ideas(fmt, statement)
    if statement.corners:
        yield from _block_ideas(fmt, statement)


def _size(fmt: Format) -> int:
    return element_count(fmt) or LONG


def _element_ideas(fmt: Format, statement: Statement) -> Iterator[Idea]:
    coders = coders_of(fmt)
    if statement.measure == "least":
        yield from _vanishing(fmt, coders)
    tops = [
        (cell, y)
        for cell in statement.cells
        for y, height in cell.points
        if height == statement.bound
    ]
    for step in _STEPS:
        for cell, y in tops[:8]:
            yield from _at_cell(fmt, statement, coders[cell.trial], cell, y, step)


def _at_cell(
    fmt: Format, statement: Statement, coder: Coder, cell: Cell, y: Fraction, step: Fraction
) -> Iterator[Idea]:
    """Blocks with an element at y of a cell, and one that decides the scale."""
    wanted = fmt.scale.codes == "wanted"
    reach = coder.reach(1 if y > 0 else -1)
    end = min(coder.ends, key=coder.reach)
    inward = 1 if y == cell.start else -1 if y == cell.stop else 0
    ratio = cell.ratio
    if not wanted:
        ratio = max(ratio, abs(y) / reach if reach else Fraction(0))
    for word, ratio_step in _words_at(fmt, statement.regime, ratio, statement.measure):
        asked = word * ratio * (1 + ratio_step * step) * unit(fmt)
        if not asked:
            continue
        scale = asked if wanted else word * unit(fmt)
        for side in dict.fromkeys((inward, 0, -inward)):
            # An element at 0 has its own idea of a little.
            value = y + side * step * max(abs(y), abs(cell.value) / 16)
            limit = asked * reach
            x = max(-limit, min(limit, value * scale))
            yield _pair(fmt, end * asked * coder.reach(end), x)


def _pair(fmt: Format, driver: Fraction, x: Fraction) -> Idea:
    """A block of one element that decides the scale, one that is meant, and others."""
    size = element_count(fmt) or max(2, fmt.record.elements if fmt.record else 2)
    rest = round_fp32(driver) if any(side.kind == "opq" for side in fmt.sides) else 0.0
    elements = np.full(size, rest, np.float32)
    elements[0] = round_fp32(driver)
    if size == 1:
        elements[0] = round_fp32(x)
        return Idea(elements, 0)
    elements[1] = round_fp32(x)
    return Idea(elements, 1)


def _vanishing(fmt: Format, coders: Sequence[Coder]) -> Iterator[Idea]:
    """Blocks just below the least scale, where such are stored as zero."""
    first = words_of(fmt)[0]
    for step in _STEPS if first.low else ():
        for coder in coders:
            for end in coder.ends:
                x = end * coder.reach(end) * first.low * unit(fmt) * (1 - step)
                yield _pair(fmt, x, x)


def _block_ideas(fmt: Format, statement: Statement) -> Iterator[Idea]:
    coders = coders_of(fmt)
    tops = [corner for corner in statement.corners if corner.height == statement.bound]
    for step in _STEPS:
        for corner in tops[:8]:
            yield from _at_corner(fmt, statement, coders[corner.trial], corner, step)


def _at_corner(
    fmt: Format, statement: Statement, coder: Coder, corner: Corner, step: Fraction
) -> Iterator[Idea]:
    """Blocks of one element that decides the scale and all others where most is lost."""
    wanted = fmt.scale.codes == "wanted"
    for word, ratio_step in _words_at(fmt, statement.regime, corner.ratio, "block"):
        asked = word * corner.ratio * (1 + ratio_step * step) * unit(fmt)
        scale = asked if wanted else word * unit(fmt)
        driver = corner.end * asked * coder.reach(corner.end)
        limit = asked * coder.reach(1 if corner.at > 0 else -1)
        for side in (0, 1, -1):
            x = max(-limit, min(limit, corner.at * (1 + side * step) * scale))
            elements = np.full(_size(fmt), round_fp32(x), np.float32)
            elements[0] = round_fp32(driver)
            yield Idea(elements, None)


# -- words ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spans:
    """The words of a regime and between which ratios each of them is taken."""

    words: tuple[Word, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@lru_cache(maxsize=64)
def _spans(fmt: Format, regime: str) -> _Spans:
    words = tuple(w for w in words_of(fmt) if w.regime == regime and w.high is not None)
    # Ordinary sizes first: nothing on the way is then too small or too large for binary32.
    words = tuple(sorted(words, key=lambda w: abs(floor_log2(w.value * unit(fmt)))))
    low = np.array([float(w.low / w.value) for w in words])
    high = np.array([float(w.high / w.value) for w in words if w.high is not None])
    return _Spans(words, low, high)


def _words_at(
    fmt: Format, regime: str, ratio: Fraction, measure: str
) -> Iterator[tuple[Fraction, int]]:
    """Words that a ratio of asked / stored may lead to, and on which side to approach it."""
    if not words_of(fmt):
        yield Fraction(1), 0
        yield Fraction(3, 2), 0
        yield Fraction(5, 4), 0
        return
    spans = _spans(fmt, regime)
    near = float(ratio)
    inside = (spans.low <= near * (1 + 1e-12)) & (near * (1 - 1e-12) <= spans.high)
    found: list[tuple[Fraction, int]] = []
    for index in np.flatnonzero(inside):
        word = spans.words[index]
        low, high = word.low / word.value, (word.high or word.low) / word.value
        if low <= ratio <= high:
            side = 1 if ratio == low else -1 if ratio == high else 0
            found += [(word.value, side)] if side else [(word.value, 0), (word.value, 1)]
        if len(found) >= 12:
            break
    del measure
    yield from found[:6]
    yield from ((value, 0) for value, side in found[:3] if side)
