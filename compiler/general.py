"""Blocks of any shape under scales that are searched for, stored twice, or moved off zero.

Scales and zeros are chosen here in NumPy; an engine does the elements under them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .arrange import Arrangement, Peaks, peaks_of
from .blockscale import Chosen, block_range, choose, zero_points
from .blockwork import BlockWork
from .elements import U8
from .engine import Engine
from .format import Format, Stream, Zero
from .kernel import wanted_format
from .narrow import Decoded, narrow
from .reference import TensorLevel, block_scales, calibrate, select_bits, select_of
from .stored import from_word, read_stored, store, to_word
from .streams import LEVELS
from .thresholds import F32
from .view import Trial, View, view_of

U32 = NDArray[np.uint32]
F64 = NDArray[np.float64]

#: Elements for which scales are chosen at once: enough that what is done block by block counts
#: little, and few enough for a cache.
STRIP = 1 << 20


@dataclass
class _Blocks:
    """What has been decided for the blocks, arrays [block rows, block columns]."""

    words: U32
    scales: F32
    selects: U8
    zeros: F32 | None

    def take(self, better: NDArray[np.bool_], other: _Blocks) -> None:
        """Take the other's choice where it is better."""
        self.words = np.where(better, other.words, self.words)
        self.scales = np.where(better, other.scales, self.scales)
        self.selects = np.where(better, other.selects, self.selects)
        if self.zeros is not None and other.zeros is not None:
            self.zeros = np.where(better, other.zeros, self.zeros)


def encode_general(
    fmt: Format, x: F32, level: TensorLevel, engine: Engine, weights: F32 | None
) -> dict[str, U8]:
    """Encode rows of a format without sides and record; see ``pipeline.encode``."""
    rows, length = x.shape
    arrangement = Arrangement.of(fmt, rows, length)
    streams: dict[str, U8] = {}
    levels = np.full(rows, level.multiplier, np.float32)
    if fmt.scale.tensor == "rows":
        levels = _row_levels(fmt, x)
        streams[LEVELS] = levels.astype("<f4").view(np.uint8).reshape(rows, 4)
    blocks = _empty(fmt, arrangement)
    clean = x
    for place in _strips(arrangement):
        strip = x[place]
        chosen, cleaned = _choose_strip(fmt, strip, levels[place], engine, weights)
        if cleaned is not strip:
            clean = x.copy() if clean is x else clean
            clean[place] = cleaned
        _put(blocks, chosen, place, arrangement)
    streams |= _store_scales(fmt, blocks, engine)
    streams |= _store_zeros(fmt, blocks, engine)
    if fmt.select.place == "field":
        streams["select"] = engine.blocks.pack(blocks.selects, _block_stream("select", fmt))
    return {"codes": _codes(fmt, clean, arrangement, blocks, engine)} | streams


def decode_general(
    fmt: Format,
    streams: dict[str, U8],
    length: int,
    level: TensorLevel,
    engine: Engine,
    dtype: str = "float32",
) -> Decoded:
    """Decode rows of a format without sides and record; see ``pipeline.decode``."""
    rows = streams["codes"].shape[0]
    arrangement = Arrangement.of(fmt, rows, length)
    if 0 in (rows, length):
        return narrow(np.zeros((rows, length), np.float32), dtype)
    levels = np.full(rows, level.multiplier, np.float32)
    if fmt.scale.tensor == "rows":
        levels = np.ascontiguousarray(streams[LEVELS]).view("<f4").reshape(rows).astype(np.float32)
    scales, selects = _read_scales(fmt, streams, arrangement, levels, engine)
    if fmt.select.place == "field":
        columns = arrangement.block_shape[1]
        stream = _block_stream("select", fmt)
        selects = engine.blocks.unpack(streams["select"], columns, stream).astype(np.uint8)
    zeros = _read_zeros(fmt, streams, arrangement, selects, engine)
    return engine.decode_given(
        np.ascontiguousarray(streams["codes"]),
        np.ascontiguousarray(arrangement.expand(scales)),
        np.ascontiguousarray(arrangement.expand(selects)) if fmt.select.bits else None,
        None if zeros is None else np.ascontiguousarray(arrangement.expand(zeros)),
        length,
        dtype,
    )


# -- choosing ------------------------------------------------------------------------------


def _empty(fmt: Format, arrangement: Arrangement) -> _Blocks:
    shape = arrangement.block_shape
    zeros = None if fmt.zero is None else np.zeros(shape, np.float32)
    return _Blocks(
        np.zeros(shape, np.uint32), np.zeros(shape, np.float32), np.zeros(shape, np.uint8), zeros
    )


def _strips(arrangement: Arrangement) -> Iterator[slice]:
    """Rows that are worked on together: whole blocks, about STRIP elements."""
    rows, length = arrangement.rows, arrangement.length
    if 0 in (rows, length):
        return
    height = max(1, STRIP // length // arrangement.tile) * arrangement.tile
    height = rows if arrangement.extent == "tensor" else height
    for top in range(0, rows, height):
        yield slice(top, min(rows, top + height))


def _put(blocks: _Blocks, strip: _Blocks, place: slice, arrangement: Arrangement) -> None:
    tall = arrangement.extent == "tensor"
    top = 0 if tall else place.start // arrangement.tile
    rows = slice(top, top + strip.words.shape[0])
    blocks.words[rows] = strip.words
    blocks.scales[rows] = strip.scales
    blocks.selects[rows] = strip.selects
    if blocks.zeros is not None and strip.zeros is not None:
        blocks.zeros[rows] = strip.zeros


def _row_levels(fmt: Format, x: F32) -> F32:
    """The second level of every row, as a tensor of its own would have it."""
    alone = replace(fmt, scale=replace(fmt.scale, tensor="fp32"))
    return np.array([calibrate(alone, row[None]).multiplier for row in x], np.float32)


def _choose_strip(
    fmt: Format, x: F32, levels: F32, engine: Engine, weights: F32 | None
) -> tuple[_Blocks, F32]:
    """The best trial of every block, and x with zeros in place of blocks that hold a NaN.

    Without such blocks that is ``x`` itself.
    """
    view = view_of(wanted_format(fmt))
    arrangement = Arrangement.of(fmt, *x.shape)
    peaks = peaks_of(arrangement, x, engine.blocks, view.scale.signed_rule)
    if peaks.broken.any():
        if view.scale.nan_magnitude is None or fmt.policies.nan != "propagate":
            raise ValueError("the format has no NaN to propagate")
        broken = np.repeat(arrangement.expand(peaks.broken), arrangement.unit, axis=1)
        x = np.where(broken[:, : x.shape[1]], np.float32(0), x)
    best: _Blocks | None = None
    least = np.zeros(arrangement.block_shape)
    for trial in view.trials:
        blocks, valid = _try(fmt, view, trial, peaks, levels, engine.blocks)
        if len(view.trials) == 1:
            return blocks, x
        error = _error(fmt, x, arrangement, blocks, engine, weights)
        error = np.where(valid, error, np.inf)
        if best is None:
            best, least = blocks, error
            continue
        better = error < least
        best.take(better, blocks)
        least = np.where(better, error, least)
    if best is None:
        raise ValueError(f"the format '{fmt.name}' has no grid")
    return best, x


def _try(
    fmt: Format, view: View, trial: Trial, peaks: Peaks, levels: F32, blocks: BlockWork
) -> tuple[_Blocks, NDArray[np.bool_]]:
    """What a trial chooses for every block, and where it has a choice to offer."""
    if fmt.scale.tensor == "rows":
        rows = [
            choose(view, trial, peaks.row(i), float(level), blocks)
            for i, level in enumerate(levels)
        ]
        chosen = Chosen(
            np.concatenate([r.words for r in rows]),
            np.concatenate([r.scales for r in rows]),
            np.concatenate([r.valid for r in rows]),
        )
    else:
        chosen = choose(view, trial, peaks, float(levels[0]), blocks)
    zeros = None
    if fmt.zero is not None:
        low, _ = block_range(fmt.zero, peaks)
        # The stored minimum counts, except where elements are coded before it is stored.
        zeros = (
            low if fmt.zero.kind == "minimum" else zero_points(view, trial.grid, chosen.scales, low)
        )
        if fmt.scale.codes == "stored":
            zeros = _rounded_minimum(fmt.zero, zeros, blocks)
    selects = np.full(chosen.words.shape, trial.grid, np.uint8)
    return _Blocks(chosen.words, chosen.scales, selects, zeros), chosen.valid


def _error(
    fmt: Format,
    x: F32,
    arrangement: Arrangement,
    blocks: _Blocks,
    engine: Engine,
    weights: F32 | None,
) -> F64:
    """What every block errs by, as ``error`` says: sums in element order, in binary64."""
    codes = _codes(fmt, x, arrangement, blocks, engine)
    decoded = engine.decode_given(codes, *_given(fmt, arrangement, blocks), x.shape[1])
    counted = None if fmt.policies.error == "squared" else weights

    def squares(one: F32, other: F32 | None) -> F64:
        pieces = engine.blocks.errors(one, other, counted, arrangement.unit)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(arrangement.reduce(np.add, pieces), np.float64)

    error = squares(x, decoded)
    if fmt.policies.error == "cosine":
        return cosine_gaps(error, squares(x, None), squares(decoded, None))
    return error


def cosine_gaps(error: F64, energy: F64, decoded: F64) -> F64:
    """What the cosine of two vectors lacks to 1, without cancellation.

    With X and Y their lengths and E the square of their difference it is
    (E - (X - Y)^2) / 2XY, where X - Y = (X^2 - Y^2) / (X + Y): 0 where both are zero, 1 where one
    is, infinite where the second is not finite.

    Args:
        error: E, float64 of any shape.
        energy: X^2, float64 of that shape.
        decoded: Y^2, float64 of that shape.

    Returns:
        float64 of that shape.
    """
    one, two = np.sqrt(energy), np.sqrt(decoded)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        apart = (energy - decoded) / (one + two)
        gaps = (error - apart * apart) / (2 * one * two)
    gaps = np.where((energy == 0) | (decoded == 0), np.where(energy == decoded, 0.0, 1.0), gaps)
    return np.where(np.isfinite(decoded), gaps, np.inf)


def _codes(fmt: Format, x: F32, arrangement: Arrangement, blocks: _Blocks, engine: Engine) -> U8:
    scales, selects, zeros = _given(fmt, arrangement, blocks)
    usable = np.where(np.isfinite(scales), scales, np.float32(0))
    return engine.encode_given(x, usable, selects, zeros)


def _given(
    fmt: Format, arrangement: Arrangement, blocks: _Blocks
) -> tuple[F32, U8 | None, F32 | None]:
    """What an engine is given for every piece."""
    zeros = blocks.zeros
    return (
        np.ascontiguousarray(arrangement.expand(blocks.scales)),
        np.ascontiguousarray(arrangement.expand(blocks.selects)) if fmt.select.bits else None,
        None if zeros is None else np.ascontiguousarray(arrangement.expand(zeros)),
    )


# -- storing -------------------------------------------------------------------------------


def _block_stream(name: str, fmt: Format) -> Stream:
    """The stream of that name, as one whose items belong to blocks of any shape."""
    return next(stream for stream in fmt.streams if stream.name == name)


def _store_scales(fmt: Format, blocks: _Blocks, engine: Engine) -> dict[str, U8]:
    """The scales' streams; ``blocks.scales`` becomes what they decode to, where that counts."""
    scale = fmt.scale
    wanted = blocks.scales
    if scale.stored is not None:
        inner = engine.inner(scale.stored)
        streams, effective = store(wanted, scale.stored, scale.flat, scale.center, "scales", inner)
    elif scale.codes == "wanted":
        unsigned = fmt.select.place == "scale.sign"
        words = to_word(scale.word, wanted, magnitude_only=unsigned, blocks=engine.blocks)
        words |= _select_words(fmt, blocks)
        streams, effective = _pack_words(fmt, "scales", words, engine), wanted
    else:
        return _pack_words(fmt, "scales", blocks.words, engine)
    if scale.codes == "stored":
        blocks.scales = effective
    return streams


def _select_words(fmt: Format, blocks: _Blocks) -> U32 | np.uint32:
    view = view_of(fmt)
    bits = np.array([select_bits(view, index) for index in range(len(fmt.grids))], np.uint32)
    return bits[blocks.selects] if bits.any() else np.uint32(0)


def _pack_words(fmt: Format, name: str, words: U32, engine: Engine) -> dict[str, U8]:
    return {name: engine.blocks.pack(words, _block_stream(name, fmt))}


def _rounded_minimum(zero: Zero, minimum: F32, blocks: BlockWork) -> F32:
    if zero.kind == "point" or zero.word is None:
        return minimum
    sign = np.float32(-1 if zero.negated else 1)
    words = to_word(zero.word, _as_stored(zero, minimum), blocks=blocks)
    return from_word(zero.word, words, blocks) * sign


def _as_stored(zero: Zero, minimum: F32) -> F32:
    """The minimum or what is left of its sign; a zero is +0, but in a word of its own."""
    if zero.stored is None and not zero.negated:
        return minimum
    return (-minimum if zero.negated else minimum) + np.float32(0)


def _lowest(fmt: Format, selects: U8) -> F32 | np.float32:
    """The least value of every block's grid; of the last one where no grid has the index."""
    if len(fmt.grids) == 1:
        return np.float32(float(fmt.grids[0].low))
    lows = np.array([float(grid.low) for grid in fmt.grids], np.float32)
    return lows[np.minimum(selects, len(lows) - 1)]


def _store_zeros(fmt: Format, blocks: _Blocks, engine: Engine) -> dict[str, U8]:
    zero = fmt.zero
    if zero is None or blocks.zeros is None:
        return {}
    if zero.kind == "point":
        words = (blocks.zeros - _lowest(fmt, blocks.selects)).astype(np.uint32)
        return _pack_words(fmt, "zeros", words, engine)
    wanted = _as_stored(zero, blocks.zeros)
    if zero.stored is None:
        if zero.word is None:
            raise ValueError("a minimum is stored in a word or in a format")
        words = to_word(zero.word, wanted, blocks=engine.blocks)
        return _pack_words(fmt, "zeros", words, engine)
    inner = engine.inner(zero.stored)
    streams, effective = store(wanted, zero.stored, zero.flat, zero.center, "zeros", inner)
    if fmt.scale.codes == "stored":
        blocks.zeros = -effective if zero.negated else effective
    return streams


def _read_scales(
    fmt: Format, streams: dict[str, U8], arrangement: Arrangement, levels: F32, engine: Engine
) -> tuple[F32, U8]:
    scale, shape, blocks = fmt.scale, arrangement.block_shape, engine.blocks
    if scale.stored is not None:
        inner = engine.inner(scale.stored)
        scales = read_stored(
            streams, scale.stored, shape, scale.flat, scale.center, "scales", inner
        )
        return scales, np.zeros(shape, np.uint8)
    words = blocks.unpack(streams["scales"], shape[1], _block_stream("scales", fmt))
    view = view_of(fmt)
    if scale.tensor == "rows":
        rows = [block_scales(view, w, float(m), blocks) for w, m in zip(words, levels, strict=True)]
        scales = np.stack(rows)
    else:
        scales = block_scales(view, words, float(levels[0]), blocks)
    selects = select_of(view, words) if fmt.select.positions else np.zeros(shape, np.uint8)
    return scales, selects.astype(np.uint8)


def _read_zeros(
    fmt: Format, streams: dict[str, U8], arrangement: Arrangement, selects: U8, engine: Engine
) -> F32 | None:
    zero, shape = fmt.zero, arrangement.block_shape
    if zero is None:
        return None
    sign = np.float32(-1 if zero.negated else 1)
    if zero.stored is not None:
        inner = engine.inner(zero.stored)
        return sign * read_stored(
            streams, zero.stored, shape, zero.flat, zero.center, "zeros", inner
        )
    words = engine.blocks.unpack(streams["zeros"], shape[1], _block_stream("zeros", fmt))
    if zero.word is None:
        return words.astype(np.float32) + _lowest(fmt, selects)
    return sign * from_word(zero.word, words, engine.blocks)
