"""Inputs that come near the bounds of moved formats.

A witness tensor is one group: the block that is meant stands first, and what the others are for
is to be the largest of the group, or to make the mean. A supremum is a limit from one side, so
that a few blocks just beside the critical point are encoded, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, product

import numpy as np
from numpy.typing import NDArray

from ...exact import floor_log2, round_fp32
from ...format import Format, ScaleWord
from ...pipeline import decode, encode
from ...reference import TensorLevel
from ...scales import is_fp32_word
from ..coder import coders_of
from ..moved.minima import inner_cells, numbers_of
from ..moved.points import Piece, Share, Window
from ..moved.shares import corners_of
from ..proof import Statement, Witness
from ..single import CLIPPING, ROUNDING
from ..slack import element_count
from ..words import LEAST, NORMAL, Word, words_of

F32 = NDArray[np.float32]

#: A share of the bound that is near enough to stop at.
ENOUGH = Fraction(9995, 10000)

#: How far beside a critical point a witness may stand, relative to it.
NUDGES = tuple(Fraction(n, 1 << 22) for n in (0, 3, -3, 24, -24))

#: Elements that stand for a row of any length, blocks that stand for a tensor's mean.
_LONG, _MANY = 1024, 256

HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Try:
    """Blocks of a group, the one that is meant first, and its element, or None for all."""

    blocks: tuple[tuple[Fraction, ...], ...]
    element: int | None


def moved_witness(fmt: Format, statement: Statement) -> Witness | None:
    """The best of a few inputs, with the share of the bound that it reaches; None: none found."""
    best: tuple[Fraction, Witness] | None = None
    for guess in _tries(fmt, statement):
        x = _laid_out(fmt, guess)
        share = reached(fmt, statement, x, _decoded(fmt, x), guess.element)
        if best is None or share > best[0]:
            width = fmt.block if fmt.extent == "block" else x.shape[1]
            where = None if guess.element is None else (0, guess.element)
            best = share, _described(x, (0, 1, 0, width), where)
        if best[0] >= ENOUGH:
            break
    return replace(best[1], reached=best[0]) if best and best[0] else None


def _described(
    x: F32, place: tuple[int, int, int, int], element: tuple[int, int] | None
) -> Witness:
    from .build import digest_of

    values = [float(value).hex() for value in x.reshape(-1)]
    runs = tuple((value, len(list(same))) for value, same in groupby(values))
    return Witness((x.shape[0], x.shape[1]), runs, place, element, digest=digest_of(x))


def _decoded(fmt: Format, x: F32) -> F32:
    level = TensorLevel()
    return decode(fmt, encode(fmt, x, level), x.shape[1], level)


def _laid_out(fmt: Format, guess: Try) -> F32:
    """One row: block after block, filled up with zeros."""
    width = fmt.block if fmt.extent == "block" else len(guess.blocks[0])
    row = np.zeros(width * len(guess.blocks), np.float32)
    for i, block in enumerate(guess.blocks):
        row[i * width : i * width + len(block)] = [round_fp32(value) for value in block]
    spare = 0 if fmt.record is None else -len(row) % fmt.record.elements
    return np.pad(row, (0, spare))[None]


def reached(
    fmt: Format, statement: Statement, x: F32, decoded: F32, element: int | None
) -> Fraction:
    """The share of the bound that one group reaches whose first block is meant, exactly."""
    if statement.bound == 0:
        return Fraction(int(not decoded.any()))
    width = fmt.block if fmt.extent == "block" else x.shape[1]
    block = x[0, :width]
    pairs = zip(block, decoded[0, :width], strict=True)
    if element is None:
        count = 1 if element_count(fmt) else width
        squares = sum(((_exact(a) - _exact(b)) ** 2 for a, b in pairs), Fraction(0)) / count
        whole = block if statement.measure == "block" else x
        return squares / _exact(np.abs(whole).max()) ** 2 / statement.bound
    error = abs(_exact(block[element]) - _exact(decoded[0, element]))
    match statement.measure:
        case "absmax":
            unit = _exact(np.abs(block).max())
        case "self":
            unit = abs(_exact(block[element]))
        case "scale":
            unit = asked_scale(fmt, block)
        case "least":
            unit = words_of(fmt.scale.stored or fmt)[0].value
        case _:
            unit = _exact(np.abs(x).max())
    return error / unit / statement.bound


def asked_scale(fmt: Format, block: F32) -> Fraction:
    """The exact scale that rule ``range`` asks for, with zero in the range."""
    top, bottom = max(_exact(block.max()), Fraction(0)), min(_exact(block.min()), Fraction(0))
    return (top - bottom) / coders_of(fmt)[0].positive


def _exact(value: np.float32) -> Fraction:
    return Fraction(float(value))


def _tries(fmt: Format, statement: Statement) -> Iterator[Try]:
    if statement.measure == "zero":
        yield Try(((Fraction(0),) * min(_size(fmt), _LONG),), 0)
        return
    if statement.cells:
        yield from _cell_tries(fmt, statement)
        return
    top = max(statement.moved, key=lambda point: point.height)
    if isinstance(top, Window):
        yield from _window_tries(fmt, statement.regime, top)
    elif isinstance(top, Piece):
        if statement.measure in ("absmax", "block"):
            yield from _piece_tries(fmt, statement, top)
        else:
            yield from _group_tries(fmt, statement, top)
    elif isinstance(top, Share):
        if fmt.scale.center:
            yield from _centred_tries(fmt, statement, top)
        else:
            yield from _share_tries(fmt, statement, top)


def _size(fmt: Format) -> int:
    return element_count(fmt) or _LONG


def _aside(value: Fraction, nudges: Sequence[Fraction] = NUDGES) -> list[Fraction]:
    return [value * (1 + nudge) for nudge in nudges]


def _word_scales(
    fmt: Format, regime: str, ratio: Fraction
) -> Sequence[tuple[Fraction, Word | None]]:
    """Scales that are asked for at a ratio of asked / stored, of ordinary sizes first."""
    words = words_of(fmt)
    if not words:
        return [(Fraction(1), None), (Fraction(5, 4), None)]
    found = []
    for word in sorted(words, key=lambda word: abs(floor_log2(word.value))):
        if word.regime != regime or word.high is None:
            continue
        if word.low <= ratio * word.value <= word.high:
            found.append((ratio * word.value, word))
    return found[:2]


def _sided(scale: Fraction, word: Word | None) -> list[Fraction]:
    """A scale, just inside the interval of its word."""
    if word is None:
        return [scale]
    inside = Fraction(1, 1 << 21)
    if scale == word.low:
        return [scale, scale * (1 + inside)]
    return [scale, scale * (1 - inside)] if scale == word.high else [scale]


# -- zero points ---------------------------------------------------------------------------


def _cell_tries(fmt: Format, statement: Statement) -> Iterator[Try]:
    tops = [
        (cell, y)
        for cell in statement.cells
        for y, height in cell.points
        if height == statement.bound
    ]
    if not tops:
        # Stored as zero: an element is its own error.
        scale = words_of(fmt)[0].low * (1 - Fraction(1, 1 << 20))
        span = coders_of(fmt)[0].positive
        yield Try(((span * scale,),), 0)
        return
    wanted = fmt.scale.codes == "wanted"
    least = statement.regime == LEAST
    for cell, y in tops[:3]:
        span = coders_of(fmt)[0].positive
        whole = span if wanted else cell.ratio * span
        # Cells count in the scale that codes are chosen under, or under ``least`` in the word.
        unit = cell.ratio if wanted and least else Fraction(1)
        at = y / unit
        for base, word in _word_scales(fmt, statement.regime, cell.ratio):
            for asked in _sided(base, word):
                step = asked if wanted else asked / cell.ratio
                yield from _point_blocks(fmt, statement, at, whole, step)


def _point_blocks(
    fmt: Format, statement: Statement, at: Fraction, whole: Fraction, step: Fraction
) -> Iterator[Try]:
    """Blocks of one element at ``at`` and one or two that make the range ``whole``."""
    largest = max(at, whole / 2)
    if statement.kind != ROUNDING:
        for place in _aside(at):
            yield Try(_range_block(fmt, place, whole, step, [place]), 0)
    if statement.kind == CLIPPING:
        return
    for top in [*_aside(largest), whole]:
        for place in _aside(at):
            if place <= top <= whole:
                yield Try(_range_block(fmt, top, whole, step, [place]), 2)


def _range_block(
    fmt: Format, top: Fraction, whole: Fraction, step: Fraction, others: Sequence[Fraction]
) -> tuple[tuple[Fraction, ...], ...]:
    """The largest element, the least, and others, which fill the block."""
    top = min(top, whole)
    rest = list(others) * (_size(fmt) if len(others) == 1 else 1)
    block = [top, top - whole, *rest][: _size(fmt)]
    return (tuple(y * step for y in block),)


def _window_tries(fmt: Format, regime: str, window: Window) -> Iterator[Try]:
    wanted = fmt.scale.codes == "wanted"
    span = coders_of(fmt)[0].positive
    whole = span if wanted else window.ratio * span
    unit = window.ratio if wanted else Fraction(1)
    for base, word in _word_scales(fmt, regime, window.ratio):
        for asked, top in product(_sided(base, word), _aside(window.largest)):
            step = asked if wanted else asked / window.ratio
            places = _worst_places(window, span, whole, unit)
            for place in [q for p in places for q in _aside(p)]:
                block = _range_block(fmt, top, whole, step, [place])[0]
                if window.drivers == 1:
                    block = (block[0], *block[2:], place * step)
                yield Try((block,), None)


def _worst_places(
    window: Window, span: Fraction, whole: Fraction, unit: Fraction
) -> list[Fraction]:
    """Half-integers whose error is the window's largest."""
    codes = range(-window.below, int(span) - window.below + 1)
    found = [
        y
        for k in codes
        for y in (k - HALF, k + HALF)
        if (y - k / unit) ** 2 == window.most and window.largest - whole <= y <= window.largest
    ]
    return found[:4]


# -- minima --------------------------------------------------------------------------------


def _piece_tries(fmt: Format, statement: Statement, piece: Piece) -> Iterator[Try]:
    """Minima and scales that words miss by as much as they can, of nearly the piece's absmax."""
    zero = fmt.zero
    if zero is None or zero.word is None:
        return
    span = coders_of(fmt)[piece.trial].positive
    level = Fraction(1)
    if statement.regime == NORMAL:
        # From this binade on both words are normal.
        normal = max(zero.word.number.smallest_normal, fmt.scale.word.number.smallest_normal)
        level = Fraction(2) ** max(0, floor_log2(normal) + 1)
    sizes = _halves(zero.word, piece.absmax * level)
    found = []
    for size in sizes:
        for scale in _halves_below(fmt, 2 * size / span):
            loss = abs(2 * size / span - scale) / scale
            found.append((loss, size, scale))
    found.sort()
    for _, size, scale in found[:24]:
        for a, b in product((1, -1), (1, -1)):
            lowest = -size * (1 + a * Fraction(1, 1 << 21))
            step = scale * (1 + b * Fraction(1, 1 << 21))
            for nudge in (Fraction(1, 1 << 18), -Fraction(1, 1 << 18)):
                at = piece.at + nudge
                rest = [lowest + at * step] * (_size(fmt) - 2)
                block = (lowest, lowest + span * step, *rest)
                yield Try((block,), None if statement.measure == "block" else 2)


def _halves(word: ScaleWord, size: Fraction) -> list[Fraction]:
    """Numbers half-way between those of a word, from a size on."""
    if is_fp32_word(word):
        return [size]
    least = word.number.magnitude(1) or Fraction(0)
    step = max(Fraction(2) ** (floor_log2(size) - word.number.mantissa), least)
    first = size // step * step + step / 2
    return [first + i * step for i in range(24)]


def _halves_below(fmt: Format, size: Fraction) -> list[Fraction]:
    words = words_of(fmt)
    if not words:
        return [size]
    edges = [word.low for word in words if size * Fraction(9, 10) <= word.low <= size]
    return edges[-2:]


def _group_tries(fmt: Format, statement: Statement, piece: Piece) -> Iterator[Try]:
    """The largest block of a group, and one whose scale and minimum are missed by the most."""
    inner, lost = fmt.scale.stored, fmt.zero.stored if fmt.zero else None
    if inner is None or lost is None:
        return
    span = coders_of(fmt)[piece.trial].positive
    divisor, other = (max(max(c.positive, c.negative) for c in coders_of(f)) for f in (inner, lost))
    if statement.kind != ROUNDING:
        # Under a scale of scales that is stored as too small the largest scale is cut off.
        for high in _high_ends(inner, statement.regime):
            size = high * (1 - Fraction(1, 1 << 21)) * divisor * span / 2
            block = (-size, *[size] * (fmt.block - 1))
            yield Try((block,), 1 if statement.kind == CLIPPING else None)
    for word in _low_words(inner, statement.regime):
        most = word.low * (1 + Fraction(1, 1 << 21)) * divisor
        size = most * span / 2
        if statement.kind == ROUNDING:
            yield from _edge_blocks(fmt, piece, (most, size), (most, size), 2)
            continue
        scales, minima = (
            _stored(f, [Fraction(0), top])[1] / d
            for f, top, d in ((inner, most, divisor), (lost, size, other))
        )
        near = (1 + Fraction(1, 1 << 19), 1 - Fraction(1, 1 << 19))
        for a, b in product(near, near):
            missed = (divisor - HALF) * scales * a, (other - HALF) * minima * b
            if statement.kind == CLIPPING:
                yield from _edge_blocks(fmt, piece, missed, (most, size), 1)
            else:
                yield from _edge_blocks(fmt, piece, missed, (most, size), None)


def _high_ends(inner: Format, regime: str) -> list[Fraction]:
    """The largest scales that two words are stored for, those that lose most by it."""
    ends = [(w.high / w.value, w.high) for w in words_of(inner) if w.regime == regime and w.high]
    return [high for _, high in sorted(ends, key=lambda end: (-end[0], end[1]))[:2]]


def _low_words(inner: Format, regime: str) -> list[Word]:
    """Words that are stored for much less than they are, as far as that goes in a regime."""
    words = [w for w in words_of(inner) if w.regime == regime and w.high is not None]
    words.sort(key=lambda w: (w.low / w.value, abs(floor_log2(w.value))))
    return words[:3]


def _stored(inner: Format, numbers: Sequence[Fraction]) -> list[Fraction]:
    """What a group of numbers is stored as."""
    row = np.array([round_fp32(number) for number in numbers], np.float32)[None]
    return [_exact(value) for value in _decoded(inner, row)[0]]


def _edge_blocks(
    fmt: Format,
    piece: Piece,
    own: tuple[Fraction, Fraction],
    most: tuple[Fraction, Fraction],
    element: int | None,
) -> Iterator[Try]:
    """A block of a scale and a minimum, its elements half-way between values, and the largest."""
    inner, lost = fmt.scale.stored, fmt.zero.stored if fmt.zero else None
    if inner is None or lost is None:
        return
    span = coders_of(fmt)[piece.trial].positive
    scale = _stored(inner, [own[0], most[0]])[0]
    low = -_stored(lost, [own[1], most[1]])[0]
    for nudge in NUDGES[1:]:
        rest = [low + (7 + HALF) * scale * (1 + nudge)] * (fmt.block - 2)
        block = (-own[1], span * own[0] - own[1], *rest)
        yield Try((block, (-most[1], most[1])), element)


# -- inner scales --------------------------------------------------------------------------


def _share_tries(fmt: Format, statement: Statement, share: Share) -> Iterator[Try]:
    """The block of a share, and one with the group's largest scale."""
    inner = fmt.scale.stored
    if inner is None:
        return
    coder = coders_of(fmt)[share.trial]
    end = coder.ends[0]
    block = statement.measure.endswith("block")
    for unit in _inner_units(inner, statement.regime, share):
        for nudge in NUDGES:
            asked = share.asked * (1 + nudge) * unit
            driver = end * coder.reach(end) * asked
            largest = end * coder.reach(end) * share.group * unit
            for at in _aside(share.at * unit):
                rest = [at] * (_size(fmt) - 1)
                beside = ((largest,),) if share.group > share.asked else ()
                yield Try(((driver, *rest), *beside), None if block else 1)


def _inner_units(inner: Format, regime: str, share: Share) -> list[Fraction]:
    """Inner stored scales of a regime under which the group's largest scale fits the share."""
    words = words_of(inner)
    if not words:
        return [Fraction(1)]
    if regime == LEAST:
        return [words[0].value]
    divisor = max(max(c.positive, c.negative) for c in coders_of(inner))
    ratio = share.group / divisor
    found = [
        word.value
        for word in sorted(words, key=lambda word: abs(floor_log2(word.value)))
        if word.regime == regime
        and word.high is not None
        and word.low <= ratio * word.value <= word.high
    ]
    return [value * (1 + n) for value in found[:1] for n in (Fraction(0), Fraction(1, 1 << 22))]


def _centred_tries(fmt: Format, statement: Statement, share: Share) -> Iterator[Try]:
    """A tensor of one inner block: the scales' mean, their spread, and the block that is meant."""
    inner = fmt.scale.stored
    if inner is None:
        return
    coder = coders_of(fmt)[share.trial]
    block = statement.measure.endswith("block")
    for mean, size in _means(inner, statement.regime, share):
        for nudge in NUDGES:
            centre = mean * (1 + nudge)
            # One scale asked for as ``share.asked``, one at the spread, the others for the mean.
            far = centre - size if size <= centre else Fraction(1)
            others = (centre * _MANY - share.asked - far) / (_MANY - 2)
            if not 0 <= others <= 1:
                continue
            for at in _aside(share.at):
                rest = [at] * (_size(fmt) - 1)
                first = (coder.reach(1) * share.asked, *rest)
                blocks = (first, (far,), *[(others,)] * (_MANY - 2))
                yield Try(blocks, None if block else 1)


def _means(inner: Format, regime: str, share: Share) -> Iterator[tuple[Fraction, Fraction]]:
    """Means and spreads at which a scale is asked for and stored as the share says."""
    for cell in inner_cells(inner, (regime,), True):
        for number in numbers_of(cell, True):
            spread = max(abs(number), cell.floor)
            t, miss = number / spread, (cell.value - number) / spread
            for size, asked in corners_of(t):
                if asked == share.asked and asked + miss * size == share.stored:
                    yield asked - t * size, size
