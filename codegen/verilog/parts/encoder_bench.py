"""Blocks with the reference's codes and scale words, for the benches of the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ....compiler.exact import FP32_MAX, fp32_bits
from ....compiler.format import Format
from ....compiler.reference import TensorLevel, calibrate, encode_blocks
from ....compiler.thresholds import scale_thresholds
from ....compiler.view import view_of
from ...vectors.draws import Draws
from ...vectors.encode import encode_cases
from ..bench import Bench, Row, vector_bench
from ..module import Module
from .encoder import LATENCY, encoder, encoder_bf16, encoder_pipeline
from .encoder_plan import SHIFTS, encoder_plan

F32 = NDArray[np.float32]

#: Blocks and elements of one kind in a bench at most, and cycles of the pipeline's.
MOST_BLOCKS, MOST_ELEMENTS, CYCLES = 512, 1 << 13, 256

#: Shifts that the scale alone is tried under besides the ends of their range.
SHIFTS_TRIED = (0, 1, -1, 40, 8 - SHIFTS)

_MAGNITUDE, _INFINITY = 0x7FFFFFFF, 0x7F800000
_LARGEST = np.float32(float(FP32_MAX))


def encoder_bench(fmt: Format) -> Bench:
    """Midpoints and thresholds with their neighbours, extremes, zeros, no numbers, random bits.

    Raises:
        NotExpressible: there is no encoder.
    """
    module = encoder(fmt)
    rows = [row for blocks, shift in bench_blocks(fmt) for row in encoder_rows(fmt, blocks, shift)]
    least = encoder_plan(fmt).scale.least_offset
    if encoder_plan(fmt).scale.has_offset:
        some = rows[0]["values_i"]
        for offset in (-128, -127, least - 1, 127):
            rows.append({"values_i": some, "exponent_offset_i": offset, "invalid_o": 1})
    return vector_bench(
        module, rows, "Every output is what the reference encoder makes of the block."
    )


def encoder_bf16_bench(fmt: Format) -> Bench:
    """The same kinds of blocks, cut to bfloat16.

    Raises:
        NotExpressible: there is no encoder.
    """
    rows: list[Row] = []
    for blocks, shift in bench_blocks(fmt):
        cut = _thinned(blocks, 128).view(np.uint32) & np.uint32(0xFFFF0000)
        for row, bits in zip(encoder_rows(fmt, cut.view(np.float32), shift), cut, strict=True):
            rows.append({**row, "values_i": _packed((bits >> 16).tolist(), 16)})
    return vector_bench(encoder_bf16(fmt), rows, "As of the encoder, with bfloat16 elements.")


def encoder_pipeline_bench(fmt: Format) -> Bench:
    """Blocks, gaps and stalls in any order: every valid output is that of its block.

    Raises:
        NotExpressible: there is no encoder.
    """
    return vector_bench(
        encoder_pipeline(fmt),
        _cycles(fmt),
        "Blocks, gaps and stalls as drawn; the module is reset in between.",
    )


def encoder_scale_bench(fmt: Format) -> Bench:
    """The scale word of every threshold and its neighbours, of either sign, under some shifts.

    Raises:
        NotExpressible: there is no encoder.
    """
    module = encoder(fmt)
    scale = next(used for used in module.uses if used.part == "encoder_scale")
    plan = encoder_plan(fmt).scale
    shifts = [*SHIFTS_TRIED, -SHIFTS, -plan.least_offset] if plan.has_offset else [plan.shift]
    rows = [row for shift in shifts for row in _scale_rows(fmt, scale, shift)]
    return vector_bench(scale, rows, "The scale word is that of a block with such peaks.")


def _scale_rows(fmt: Format, scale: Module, shift: int) -> Iterator[Row]:
    plan, draws = encoder_plan(fmt).scale, Draws(31)
    peaks = _thresholds(fmt, shift)
    two = len(plan.sides) == 2
    for sign in (0, 1):
        blocks = np.zeros((len(peaks), max(2, fmt.block)), np.float32)
        blocks[:, 0] = -peaks if sign else peaks
        others = [draws.below(1 + int(peak)) if two else 0 for peak in peaks.view(np.uint32)]
        other = np.array(others, np.uint32).view(np.float32)
        blocks[:, 1] = other if sign else -other
        names = {port.name for port in scale.inputs}
        for peak, least, word in zip(peaks, other, _words(fmt, blocks, shift), strict=True):
            sizes = [_peak_bits(float(size), plan.dropped) for size in (peak, least)]
            given = {
                "peak_i": sizes[0],
                "peak_negative_i": sign,
                "positive_peak_i": sizes[1] if sign else sizes[0],
                "negative_peak_i": sizes[0] if sign else sizes[1],
                "nan_i": 0,
            }
            yield word | {name: value for name, value in given.items() if name in names}


def _words(fmt: Format, blocks: F32, shift: int) -> Iterator[dict[str, int]]:
    """The scale words of blocks [n, any]."""
    view, level = view_of(fmt), TensorLevel(shift=shift)
    live = np.ones(blocks.shape, np.bool_)
    words = encode_blocks(view, blocks, live, scale_thresholds(view, level.multiplier), level).words
    offset = {"exponent_offset_i": -shift, "invalid_o": 0} if view.scale.shift is None else {}
    for word in words.tolist():
        yield {"scale_word_o": word} | offset


def _peak_bits(size: float, dropped: int) -> int:
    bits = fp32_bits(size)
    return bits >> dropped << 1 | (bits & ((1 << dropped) - 1) > 0) if dropped else bits


def bench_blocks(fmt: Format) -> Iterator[tuple[F32, int]]:
    """Blocks [n, block] and the tensor's shift that they are encoded under."""
    plan = encoder_plan(fmt).scale
    for case in encode_cases(fmt):
        length = case.rows.shape[1]
        padded = np.pad(case.rows, ((0, 0), (0, -length % fmt.block)))
        if np.isfinite(padded).all() and -case.level.shift >= plan.least_offset:
            yield _thinned(padded.reshape(-1, fmt.block), _most(fmt)), case.level.shift
    draws = Draws(23)
    shifts = [plan.shift]
    if plan.has_offset:
        shifts = [0, 40, -SHIFTS, 8 - SHIFTS, -plan.least_offset, -plan.least_offset - 1]
    for shift in shifts:
        yield _at_thresholds(fmt, shift, draws), shift
        yield _any_bits(fmt, draws, 64), shift
        yield _wide(fmt, draws, shift), shift
    yield _no_numbers(fmt, draws), calibrate(fmt, draws.gaussian(4, fmt.block)).shift


def encoder_rows(fmt: Format, blocks: F32, shift: int) -> Iterator[Row]:
    """The bench rows of blocks [n, block] of any binary32 numbers under a shift."""
    policies, view = fmt.policies, view_of(fmt)
    nan, infinite = np.isnan(blocks), np.isinf(blocks)
    invalid = np.zeros(len(blocks), np.bool_)
    if policies.nan == "error":
        invalid |= nan.any(axis=1)
    if policies.inf == "error":
        invalid |= infinite.any(axis=1)
    admitted = np.where(infinite, np.copysign(_LARGEST, blocks), blocks)
    if policies.nan != "propagate":
        admitted = np.where(nan, np.float32(0), admitted)
    level = TensorLevel(shift=shift)
    live = np.ones(blocks.shape, np.bool_)
    thresholds = scale_thresholds(view, level.multiplier)
    encoded = encode_blocks(view, admitted.astype(np.float32), live, thresholds, level)
    bits = np.ascontiguousarray(blocks, np.float32).view(np.uint32)
    for values, codes, word, refused in zip(
        bits, encoded.codes, encoded.words, invalid, strict=True
    ):
        row = {"values_i": _packed(values.tolist(), 32), "invalid_o": int(refused)}
        if not refused:
            row |= {
                "codes_o": _packed(codes.tolist(), fmt.code_bits),
                "scale_word_o": int(word),
            }
        yield row | ({"exponent_offset_i": -shift} if view.scale.shift is None else {})


def _packed(words: Iterable[int], bits: int) -> int:
    total = 0
    for index, word in enumerate(words):
        total |= word << (index * bits)
    return total


def _most(fmt: Format) -> int:
    """Blocks of one kind."""
    return max(64, min(MOST_BLOCKS, MOST_ELEMENTS // fmt.block))


def _thinned(items: F32, most: int) -> F32:
    """At most so many of them, evenly spread."""
    if len(items) <= most:
        return items
    return items[np.arange(most) * len(items) // most]


def _at_thresholds(fmt: Format, shift: int, draws: Draws) -> F32:
    """Peaks at every threshold of the scale and beside it, of either sign, at any lane."""
    peaks = _thinned(_thresholds(fmt, shift), _most(fmt) // 2)
    blocks = _any_bits(fmt, draws, len(peaks), top=100)
    for index, peak in enumerate(peaks):
        lane = draws.below(fmt.block)
        size = np.abs(blocks[index])
        blocks[index] = np.where(size > peak, np.float32(0), blocks[index])
        blocks[index, lane] = -peak if draws.below(2) else peak
        if draws.below(2):  # a second element of the same size: the first one says the sign
            blocks[index, draws.below(fmt.block)] = -peak if draws.below(2) else peak
    return blocks


def _thresholds(fmt: Format, shift: int) -> F32:
    """Every threshold of a block's peak, with its two neighbours."""
    table = scale_thresholds(view_of(fmt), 2.0**-shift)[0]
    wanted = np.unique(table[np.isfinite(table)])
    near = [np.nextafter(wanted, np.float32(side)) for side in (-np.inf, np.inf)]
    peaks = np.unique(np.concatenate([wanted, *near]))
    kept: F32 = peaks[np.isfinite(peaks) & (peaks >= 0)]
    return kept


def _any_bits(fmt: Format, draws: Draws, count: int, top: int = 255) -> F32:
    """Finite numbers of uniform bits, with exponent fields below ``top``."""
    bits = [
        draws.below(2) << 31 | draws.below(top) << 23 | draws.below(1 << 23)
        for _ in range(count * fmt.block)
    ]
    return np.array(bits, np.uint32).view(np.float32).reshape(count, fmt.block)


def _wide(fmt: Format, draws: Draws, shift: int) -> F32:
    """Blocks about every scale, whose elements spread over all values of the grid."""
    view = view_of(fmt)
    number, end = fmt.scale.word.number, max(abs(n) for n in fmt.grids[0].numbers)
    codes = view.scale.ranks[1:]
    rows = []
    for _ in range(_most(fmt) // 4):
        scale = number.magnitude(draws.of(codes)) or Fraction(1)
        peak = float(min(scale * end / Fraction(2) ** shift, FP32_MAX))
        low = fp32_bits(peak) >> 23
        field = [max(0, low - draws.below(draws.of((2, 4, 12, 24)))) for _ in range(fmt.block)]
        rows.append([draws.below(2) << 31 | f << 23 | draws.below(1 << 23) for f in field])
    blocks: F32 = np.array(rows, np.uint32).view(np.float32)
    return blocks


def _no_numbers(fmt: Format, draws: Draws) -> F32:
    """Blocks with NaN and infinities of either sign, alone and together."""
    blocks = np.concatenate([draws.gaussian(24, fmt.block), _any_bits(fmt, draws, 8)])
    bits = blocks.view(np.uint32)
    for index in range(len(blocks)):
        for _ in range(1 + draws.below(2)):
            fraction = draws.of((0, 0, 1, 1 << 22, (1 << 23) - 1))
            bits[index, draws.below(fmt.block)] = draws.below(2) << 31 | _INFINITY | fraction
    return blocks


def _cycles(fmt: Format) -> Iterator[Row]:
    draws = Draws(29)
    blocks = np.concatenate([draws.gaussian(48, fmt.block), _no_numbers(fmt, draws)])
    rows = list(encoder_rows(fmt, blocks, calibrate(fmt, blocks).shift))
    results = ("codes_o", "scale_word_o", "invalid_o")
    stages: list[Row | None] = [None] * LATENCY
    for cycle in range(CYCLES):
        given, valid, moves = draws.of(rows), draws.below(4) > 0, draws.below(4) > 0
        reset = cycle < 2 or draws.below(64) == 0
        if reset:
            stages = [None] * LATENCY
        row = {name: value for name, value in given.items() if name not in results}
        row |= {"rst_ni": int(not reset), "enable_i": int(moves), "valid_i": int(valid)}
        row["valid_o"] = int(stages[-1] is not None)
        yield row | {name: value for name, value in (stages[-1] or {}).items() if name in results}
        if moves and not reset:
            stages = [given if valid else None, *stages[:-1]]
