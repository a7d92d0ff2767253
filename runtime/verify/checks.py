"""The checks of ``fmtc verify``. Each returns how many cases it tried, or raises ``Mismatch``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...compiler.exact import fp32_bits
from ...compiler.format import Format
from ...compiler.packing import pack, unpack
from ...compiler.reference import TensorLevel, calibrate, decode, encode
from ...compiler.resolve import compile_text
from ...compiler.view import view_of
from ...dsl.parser import parse
from ...dsl.printer import print_file
from ..backend import F32, U8, Backend
from . import inputs, oracle

U32 = NDArray[np.uint32]

#: Two grids whose squared errors differ by less than this, relatively, are both right.
SAME_ERROR = 1e-6


class Mismatch(AssertionError):
    """Two that must agree do not; the message shows the first difference whole."""


def text_round_trip(fmt: Format) -> int:
    """The canonical text parses to the tree that it is printed from, and means this format."""
    tree = parse(fmt.source)
    if parse(print_file(tree)) != tree:
        raise Mismatch("the printed text parses to another tree")
    again = compile_text(fmt.source)
    if again.content_hash != fmt.content_hash:
        raise Mismatch(f"the printed text compiles to {again.content_hash}")
    return 1


def packing_round_trip(fmt: Format) -> int:
    """Every field value comes back from every position of a byte."""
    cases = 0
    for stream in fmt.streams:
        rng = np.random.default_rng(0)
        fields = rng.integers(0, 1 << stream.bits, (64, 257), dtype=np.uint64)
        back = unpack(pack(fields, stream), 257, stream)
        if not np.array_equal(back, fields):
            raise Mismatch(f"the stream '{stream.name}' does not unpack to what was packed")
        cases += fields.size
    return cases


def decode_is_exact(fmt: Format, limit: int = 40_000) -> int:
    """The reference decodes to grid * scale rounded once, by exact rationals."""
    level = _level(fmt)
    view = view_of(fmt)
    if view.scale.is_fp32:
        return _fp32_decode_is_exact(fmt)
    words = inputs.every_word(fmt)
    codes = 1 << fmt.code_bits
    words = words[:: max(1, words.size * codes // limit)]
    cases = 0
    for select in _field_selects(fmt):
        decoded = decode(fmt, inputs.every_code(fmt, words, select), codes, level)
        for word, row in zip(words.tolist(), decoded, strict=True):
            magnitude = word >> view.scale.magnitude_lsb & ((1 << view.scale.magnitude_bits) - 1)
            chosen = _select_in(fmt, word) if fmt.select.place != "field" else select
            negative = view.scale.sign_bit is not None and word >> view.scale.sign_bit & 1
            for code in range(codes):
                exact = oracle.decode(fmt, chosen, code, magnitude, level.multiplier)
                found = float(row[code])
                wanted = None if exact is None else (-exact if negative else exact)
                if (wanted is None) != (found != found) or (wanted is not None and wanted != found):
                    raise Mismatch(f"word {word:#x} code {code}: {found}, exactly {wanted}")
                cases += 1
    return cases


def _fp32_decode_is_exact(fmt: Format) -> int:
    words = inputs.every_word(fmt)
    codes = 1 << fmt.code_bits
    words = words[:: max(1, words.size * codes // 40_000)]
    mask = np.uint32(0x7FFFFFFF)
    lut = np.array(view_of(fmt).decode_bits, np.uint32).view(np.float32).reshape(-1, codes)
    sign = view_of(fmt).scale.sign_bit
    cases = 0
    for select in _field_selects(fmt):
        decoded = decode(fmt, inputs.every_code(fmt, words, select), codes, TensorLevel())
        for word, row in zip(words, decoded, strict=True):
            scale = (word & mask if sign is None else word).reshape(1).view(np.float32)
            chosen = _select_in(fmt, int(word)) if fmt.select.place != "field" else select
            with np.errstate(all="ignore"):
                # binary64 holds the product of two binary32 numbers exactly: one rounding.
                exact = (lut[chosen].astype(np.float64) * np.float64(scale[0])).astype(np.float32)
            _same(row, exact, f"word {int(word):#x}")
            cases += codes
    return cases


def decode_agrees(fmt: Format, backend: Backend) -> int:
    """Every code under every scale word and select decodes to the reference's bits."""
    level = _level(fmt)
    words = inputs.every_word(fmt)
    count = 1 << fmt.code_bits
    cases = 0
    step = max(1, (1 << 20) // count)
    for select in _field_selects(fmt):
        for start in range(0, words.size, step):
            streams = inputs.every_code(fmt, words[start : start + step], select)
            expected = decode(fmt, streams, count, level)
            _same(backend.decode(streams, count, level), expected, f"select {select}")
            cases += expected.size
    return cases


def ties_are_exact(fmt: Format, limit: int = 400) -> int:
    """At every midpoint the reference's codes are those of exact rationals."""
    blocks = inputs.tie_blocks(fmt, _level(fmt))
    rng = np.random.default_rng(1)
    keep = max(1, limit * 16 // (fmt.block * (1 << fmt.code_bits) // 16 or 1))
    chosen = rng.permutation(len(blocks))[:keep]
    return compare_with_oracle(fmt, blocks[np.sort(chosen)], _level(fmt))


def encode_agrees(fmt: Format, backend: Backend, x: F32, level: TensorLevel) -> int:
    """A back end encodes rows to the reference's bytes."""
    same_bytes(fmt, encode(fmt, x, level), backend.encode(x, level), x, level)
    return x.size


def ties_agree(fmt: Format, backend: Backend) -> int:
    """Every midpoint of every grid and its two neighbours encode to the reference's bytes."""
    return encode_agrees(fmt, backend, inputs.tie_blocks(fmt, _level(fmt)), _level(fmt))


def random_agrees(fmt: Format, backend: Backend, count: int) -> int:
    """Random rows of many kinds encode and decode to the reference's bits."""
    cases = 0
    for rows in inputs.random_rows(fmt, count):
        x = np.ascontiguousarray(rows)
        level = calibrate(fmt, x)
        cases += encode_agrees(fmt, backend, x, level)
        streams = encode(fmt, x, level)
        length = x.shape[1]
        expected = decode(fmt, streams, length, level)
        _same(backend.decode(streams, length, level), expected, "random rows")
    return cases


def compare_with_oracle(fmt: Format, blocks: F32, level: TensorLevel) -> int:
    """The reference stores what exact rationals choose, block by block and word by word."""
    length = blocks.shape[1]
    fields = _fields(fmt, encode(fmt, blocks, level), length)
    cases = 0
    for row, values in enumerate(blocks):
        for b in range(-(-length // fmt.block)):
            place = slice(b * fmt.block, min(length, (b + 1) * fmt.block))
            piece = [float(v) for v in values[place]]
            select = int(fields.selects[row, b])
            trials = oracle.encode_block(fmt, piece, level.multiplier)
            trial = next((t for t in trials if t.select == select), None)
            if trial is None:
                raise Mismatch(f"{piece}: no grid has the select index {select}")
            if trial.error > trials[0].error * (1 + SAME_ERROR):
                raise Mismatch(f"{piece}: grid {select} is not the best, {trials[0].select} is")
            word, wanted = int(fields.words[row, b]), _word_of(fmt, trial)
            found = fields.codes[row, place].tolist()
            if word != wanted or found != list(trial.codes):
                raise Mismatch(
                    f"block {piece} (bits {[f'{fp32_bits(v):08x}' for v in piece]}): scale word "
                    f"{word:#x} codes {found}; exactly {wanted:#x} {list(trial.codes)}"
                )
            cases += len(piece)
    return cases


def _word_of(fmt: Format, trial: oracle.OracleBlock) -> int:
    """The whole scale word of a block: magnitude, sign and select bits, the others zero."""
    scale = view_of(fmt).scale
    magnitude = fp32_bits(trial.magnitude) if scale.is_fp32 else int(trial.magnitude)
    word = magnitude << scale.magnitude_lsb
    if scale.sign_bit is not None:
        word |= trial.negative << scale.sign_bit
    for i, position in enumerate(reversed(fmt.select.positions)):
        word |= (trial.select >> i & 1) << position
    return word


def same_bytes(
    fmt: Format, expected: dict[str, U8], found: dict[str, U8], x: F32, level: TensorLevel
) -> None:
    """Two encodings are the same bytes, but for blocks where another grid errs as little."""
    for stream in fmt.streams:
        one, two = expected[stream.name], found.get(stream.name)
        if two is None or (two.dtype, two.shape) != (one.dtype, one.shape):
            raise Mismatch(f"the stream '{stream.name}' is not {one.dtype} {one.shape}")
    if all(np.array_equal(octets, found[name]) for name, octets in expected.items()):
        return
    length = x.shape[1]
    ours, theirs = _fields(fmt, expected, length), _fields(fmt, found, length)
    a, b = decode(fmt, expected, length, level), decode(fmt, found, length, level)
    starts = np.arange(0, length, fmt.block)
    differ = (ours.words != theirs.words) | (ours.selects != theirs.selects)
    differ |= np.add.reduceat(ours.codes != theirs.codes, starts, axis=1) > 0
    for row, block in np.argwhere(differ):
        place = slice(int(starts[block]), min(length, int(starts[block]) + fmt.block))
        errors = [_squared_error(x[row, place], y[row, place]) for y in (a, b)]
        other_grid = ours.selects[row, block] != theirs.selects[row, block]
        if not other_grid or not abs(errors[0] - errors[1]) <= SAME_ERROR * max(errors):
            raise Mismatch(
                f"row {row} elements {place.start}..{place.stop}: {x[row, place].tolist()} is "
                f"stored as {ours.show(row, block, place)} by the reference and as "
                f"{theirs.show(row, block, place)} here"
            )
    for stream, fields in zip(
        fmt.streams, (theirs.codes, theirs.words, theirs.selects), strict=False
    ):
        if not np.array_equal(pack(fields, stream), found[stream.name]):
            raise Mismatch(f"the stream '{stream.name}' has spare bits that are not zero")


@dataclass(frozen=True, slots=True)
class _Fields:
    """Unpacked streams: codes [rows, n], scale words and select indices [rows, blocks]."""

    codes: U32
    words: U32
    selects: U32

    def show(self, row: int, block: int, place: slice) -> str:
        return (
            f"word {self.words[row, block]:#x} select {self.selects[row, block]} "
            f"codes {self.codes[row, place].tolist()}"
        )


def _fields(fmt: Format, streams: dict[str, U8], length: int) -> _Fields:
    codes, words, *selects = (
        unpack(streams[s.name], length if s.per == "element" else -(-length // fmt.block), s)
        for s in fmt.streams
    )
    return _Fields(codes, words, selects[0] if selects else _selects_in(fmt, words))


def _squared_error(x: F32, y: F32) -> float:
    return float(np.sum(np.square(x.astype(np.float64) - y)))


def _same(found: F32, expected: F32, where: str) -> None:
    both_nan = np.isnan(found) & np.isnan(expected)
    different = (found.view(np.uint32) != expected.view(np.uint32)) & ~both_nan
    if different.any():
        place = tuple(int(i) for i in np.argwhere(different)[0])
        raise Mismatch(
            f"{where}: element {place} of {int(different.sum())} different ones is "
            f"{found[place]!r}, expected {expected[place]!r}"
        )


def _level(fmt: Format) -> TensorLevel:
    """A second level with a full significand, so that its rounding is seen."""
    if fmt.scale.tensor == "fp32":
        return TensorLevel(tensor_scale=float(np.float32(0.0123456789)))
    return TensorLevel(shift=3 if fmt.scale.shift is None else fmt.scale.shift)


def _field_selects(fmt: Format) -> Sequence[int]:
    return range(1 << fmt.select.bits) if fmt.select.place == "field" else (0,)


def _select_in(fmt: Format, word: int) -> int:
    return int(_selects_in(fmt, np.array([word], np.uint32))[0])


def _selects_in(fmt: Format, words: U32) -> U32:
    index = np.zeros_like(words)
    for position in fmt.select.positions:
        index = index << np.uint32(1) | (words >> np.uint32(position) & np.uint32(1))
    return index
