"""What must agree: two engines, an engine and exact rationals, a text and its print.

Each check returns how many cases it tried, or raises ``Mismatch``.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from math import lcm

import numpy as np
from numpy.typing import NDArray

from ...compiler.engine import Engine
from ...compiler.exact import fp32_bits, round_fp32
from ...compiler.format import Format, Stream
from ...compiler.items import stream_items
from ...compiler.kernel import kernel_format
from ...compiler.packing import pack, unpack
from ...compiler.records import to_records
from ...compiler.reference import TensorLevel, calibrate
from ...compiler.resolve import compile_text
from ...compiler.sides import Sparse, to_streams
from ...compiler.streams import RECORDS, stream_shapes
from ...dsl.parser import parse
from ...dsl.printer import print_file
from ..backend import F32, U8, Backend, EngineBackend, ReferenceBackend
from . import inputs, oracle
from .oracle.streams import side_layout

U32 = NDArray[np.uint32]

#: Two trials whose squared errors differ by less than this, relatively, are both right.
SAME_ERROR = float(oracle.SAME_ERROR)


class Mismatch(AssertionError):
    """Two that must agree do not; the message shows the first difference whole."""


# -- the text and the bits -----------------------------------------------------------------


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
    for name, item in stream_items(fmt).items():
        stream = Stream(name, item.bits, "element", item.order)
        rng = np.random.default_rng(0)
        fields = rng.integers(0, 1 << stream.bits, (64, 257), dtype=np.uint64)
        back = unpack(pack(fields, stream), 257, stream)
        if not np.array_equal(back, fields):
            raise Mismatch(f"the stream '{stream.name}' does not unpack to what was packed")
        cases += fields.size
    return cases


def size_is_declared(fmt: Format) -> int:
    """A large tensor stores the declared bits per weight, counted from its bytes.

    What is stored once a row or once a tensor (a scale of that, a second level, a mean) is not
    among them, nor are sides, whose share depends on the tensor.
    """
    rows, length = fmt.tile, _whole(fmt)
    shapes = stream_shapes(fmt, rows, length)
    if fmt.extent == "block":
        counted = [name for name in shapes if name.split(".")[-1] not in ("levels", "center")]
    else:
        counted = ["codes"]
    count = sum(shapes[name][0] * shapes[name][1] for name in counted)
    declared = fmt.exact_bpw - sum((side.bpw(fmt.block) for side in fmt.sides), Fraction(0))
    if Fraction(8 * count, rows * length) != declared:
        raise Mismatch(
            f"a tensor of {rows} x {length} stores {count} bytes, declared are {declared} bits "
            "a weight"
        )
    return 1


def _whole(fmt: Format) -> int:
    """Elements of a row that fill whole bytes in every stream."""
    owners = [owner for owner in (fmt.scale, fmt.zero) if owner is not None]
    inner = [_whole(owner.stored) for owner in owners if owner.stored is not None]
    blocks = lcm(8, *inner)
    return lcm(fmt.block * blocks, fmt.record.elements if fmt.record else 1)


# -- an engine against exact rationals -----------------------------------------------------


def compare_with_oracle(
    fmt: Format, backend: Backend, x: F32, level: TensorLevel, weights: F32 | None = None
) -> int:
    """A back end stores what exact rationals choose, and decodes to what they mean."""
    streams = backend.encode(x, level, weights)
    packed = _octets(streams)
    rows, length = x.shape
    unit = oracle.Level(level.tensor_scale, level.shift)
    counted = None if weights is None else [float(w) for w in weights]
    try:
        seen = oracle.read_streams(fmt, packed, rows, length)
        wanted, kept = oracle.encode_tensor(fmt, _floats(x), unit, counted, seen)
    except oracle.Undecided:
        return 0
    except (ValueError, KeyError) as error:
        raise Mismatch(f"{_shown(x)} is stored in streams that cannot be read: {error}") from error
    _compare_fields(x, seen, wanted)
    for side in fmt.sides:
        shapes = side_layout(side, x.size, len(kept[side.kind].places))
        for name, octets in oracle.write_streams(
            kept[side.kind].fields(side, x.size), shapes
        ).items():
            if packed.get(name) != octets:
                raise Mismatch(
                    f"{_shown(x)}: the stream '{name}' is {packed.get(name)!r}, exactly {octets!r}"
                )
    exact = np.array(oracle.decode_tensor(fmt, wanted, rows, length, unit, kept), np.float32)
    _same(backend.decode(streams, length, level), exact.reshape(x.shape), "what was just encoded")
    return x.size


def _compare_fields(x: F32, seen: oracle.Fields, wanted: oracle.Fields) -> None:
    if seen == wanted:
        return
    for name, rows in wanted.items():
        for i, (theirs, ours) in enumerate(zip(seen[name], rows, strict=True)):
            for j, (a, b) in enumerate(zip(theirs, ours, strict=True)):
                if a != b:
                    raise Mismatch(
                        f"{_shown(x)}: the stream '{name}' has {a:#x} in row {i} at {j}, exactly "
                        f"{b:#x}; scales {seen.get('scales')} and exactly {wanted.get('scales')}"
                    )


def decode_is_exact(fmt: Format, backend: Backend, cases: int = 2000) -> int:
    """Streams of any bits decode to grid times scale, rounded once: by exact rationals."""
    rng = np.random.default_rng(7)
    tried = 0
    level = second_level(fmt)
    unit = oracle.Level(level.tensor_scale, level.shift)
    while tried < cases:
        rows, length = inputs.small_shape(fmt)
        shapes = oracle.layout(fmt, rows, length)
        fields = {
            name: [_any_items(rng, shape) for _ in range(shape.rows)]
            for name, shape in shapes.items()
        }
        streams = {
            name: _matrix(octets) for name, octets in oracle.write_streams(fields, shapes).items()
        }
        if fmt.record is not None:
            streams = {RECORDS: to_records(fmt, streams, rows, length)}
        streams |= _no_sides(fmt, rows * length)
        exact = oracle.decode_tensor(fmt, fields, rows, length, unit)
        found = backend.decode(streams, length, level)
        _same(found, np.array(exact, np.float32).reshape(rows, length), "streams of random bits")
        tried += rows * length
    return tried


def _any_items(rng: np.random.Generator, shape: oracle.Layout) -> list[int]:
    """Random items; those of 32 bits are finite binary32 numbers, of all sizes."""
    if shape.bits < 32:
        return [int(v) for v in rng.integers(0, 1 << shape.bits, shape.count)]
    sizes = rng.standard_normal(shape.count) * np.exp2(rng.integers(-40, 40, shape.count))
    return [fp32_bits(float(np.float32(size))) for size in sizes]


def _no_sides(fmt: Format, elements: int) -> dict[str, U8]:
    """The streams of sides that keep nothing."""
    none = Sparse(np.zeros(0, np.int64), np.zeros(0, np.uint32))
    streams: dict[str, U8] = {}
    for side in fmt.sides:
        streams |= to_streams(side, none, elements)
    return streams


def ties_are_exact(fmt: Format, backend: Backend, limit: int = 4000) -> int:
    """At every tie under given scales, and next to it, codes and values are the exact ones."""
    engine = engine_of(backend)
    kernel = kernel_format(fmt)
    cases = 0
    for given in inputs.given_ties(kernel, limit):
        codes = engine.encode_given(given.x, given.scales, given.selects, given.zeros)
        length = given.x.shape[1]
        found = unpack(codes, length, kernel.streams[0])
        values = engine.decode_given(codes, given.scales, given.selects, given.zeros, length)
        scale, zero = float(given.scales[0, 0]), given.zero
        for x, code, value in zip(given.x[0], found[0].tolist(), values[0], strict=True):
            exact = oracle.code_of(kernel, given.select, float(x), scale, zero)
            decoded = oracle.value_of(kernel, given.select, exact, scale, zero)
            if code != exact or (np.float32(decoded).tobytes() != value.tobytes()):
                raise Mismatch(
                    f"{float(x)!r} under the scale {scale!r}, zero {zero!r}, grid {given.select} "
                    f"is code {code} of {value!r}, exactly code {exact} of {decoded!r}"
                )
        cases += length
    return cases


def codes_return(fmt: Format, backend: Backend) -> int:
    """Every code decodes to a value that encodes to that code, or to its canonical twin.

    Under scales that are powers of two, where every product is exact: there a value lies on its
    grid point. (Under ``offset`` values are cut off, not rounded, and need not come back.)
    """
    kernel, engine = kernel_format(fmt), engine_of(backend)
    if fmt.policies.offset is not None:
        return 0
    count = 1 << fmt.code_bits
    cases = 0
    for given in inputs.given_codes(kernel):
        codes = pack(np.arange(count, dtype=np.uint32)[None], kernel.streams[0])
        rest = (given.scales, given.selects, given.zeros)
        values = engine.decode_given(codes, *rest, count)
        known = np.isfinite(values)
        again = unpack(
            engine.encode_given(np.where(known, values, np.float32(0)), *rest),
            count,
            kernel.streams[0],
        )
        grid = fmt.grids[given.select]
        for code in np.flatnonzero(known[0]).tolist():
            back = int(again[0, code])
            minus = code == grid.negative_zero, back == grid.negative_zero
            dropped = fmt.policies.negative_zero == "drop"
            twin = grid.values[back] == grid.values[code] and (
                minus[0] == minus[1] or dropped or fmt.zero is not None
            )
            # A -0 that is dropped comes back only where the grid has another zero.
            lost = minus[0] and dropped and sum(v == 0 for v in grid.values) == 1
            if not (twin or lost or _is_blurred(fmt, given.select, code)):
                raise Mismatch(
                    f"code {code} of grid {given.select} decodes to {values[0, code]!r} under the "
                    f"scale {float(given.scales[0, 0])!r}, which encodes to code {back}"
                )
            cases += 1
    return cases


def _is_blurred(fmt: Format, index: int, code: int) -> bool:
    """Whether a midpoint, rounded to binary32 for a comparison, lies on this very value."""
    grid = fmt.grids[index]
    numbers = grid.numbers
    middles = {round_fp32((a + b) / 2) for a, b in pairwise(numbers)}
    value = grid.values[code]
    return fmt.policies.compare != "exact" and value is not None and float(value) in middles


# -- a back end against the reference ------------------------------------------------------


def decode_agrees(fmt: Format, backend: Backend) -> int:
    """Every code under every scale word and select decodes to the reference's bits."""
    if not fmt.is_plain:
        return decode_is_exact(fmt, backend)
    level = second_level(fmt)
    words = inputs.every_word(fmt)
    count = 1 << fmt.code_bits
    cases = 0
    step = max(1, (1 << 20) // count)
    for select in range(1 << fmt.select.bits) if fmt.select.place == "field" else (0,):
        for start in range(0, words.size, step):
            streams = inputs.every_code(fmt, words[start : start + step], select)
            expected = ReferenceBackend(fmt).decode(streams, count, level)
            _same(backend.decode(streams, count, level), expected, f"select {select}")
            cases += expected.size
    return cases


def ties_agree(fmt: Format, backend: Backend) -> int:
    """At every tie, and next to it, a back end stores the reference's bytes."""
    if not fmt.is_plain:
        return ties_are_exact(fmt, backend)
    level = second_level(fmt)
    return encode_agrees(fmt, backend, inputs.tie_blocks(fmt, level), level)


def random_agrees(fmt: Format, backend: Backend, count: int) -> int:
    """Random rows of many kinds encode and decode to the reference's bits."""
    cases = 0
    for rows in inputs.random_rows(fmt, count):
        x = np.ascontiguousarray(rows)
        cases += encode_agrees(fmt, backend, x, calibrate(fmt, x))
    return cases


def encode_agrees(
    fmt: Format, backend: Backend, x: F32, level: TensorLevel, weights: F32 | None = None
) -> int:
    """A back end encodes rows to the reference's bytes, and decodes these to its bits."""
    reference = ReferenceBackend(fmt)
    expected = reference.encode(x, level, weights)
    same_bytes(fmt, expected, backend.encode(x, level, weights), x, level)
    length = x.shape[1]
    values = reference.decode(expected, length, level)
    _same(backend.decode(expected, length, level), values, "the reference's streams")
    return x.size


def same_bytes(
    fmt: Format,
    expected: Mapping[str, U8],
    found: Mapping[str, U8],
    x: F32,
    level: TensorLevel,
) -> None:
    """Two encodings are the same bytes, but for blocks where another trial errs as little.

    Only a plain format of several grids has such blocks: its kernels sum errors in an order of
    their own. Of every other format the same code chooses for all back ends.
    """
    for name, one in expected.items():
        two = found.get(name)
        if two is None or (two.dtype, two.shape) != (one.dtype, one.shape):
            raise Mismatch(f"the stream '{name}' is not {one.dtype} {one.shape}")
    different = [name for name, one in expected.items() if not np.array_equal(one, found[name])]
    if not different:
        return
    if not fmt.is_plain or len(fmt.grids) == 1:
        name = different[0]
        place = np.argwhere(expected[name] != found[name])[0].tolist()
        raise Mismatch(f"{_shown(x)}: the stream '{name}' differs from the reference's at {place}")
    _same_choices(fmt, expected, found, x, level)


def _same_choices(
    fmt: Format, expected: Mapping[str, U8], found: Mapping[str, U8], x: F32, level: TensorLevel
) -> None:
    rows, length = x.shape
    reference = ReferenceBackend(fmt)
    a, b = (reference.decode(dict(s), length, level) for s in (expected, found))
    try:
        ours, theirs = (
            oracle.read_streams(fmt, _octets(s), rows, length) for s in (expected, found)
        )
    except ValueError as error:
        raise Mismatch(str(error)) from error
    for row in range(rows):
        for block, start in enumerate(range(0, length, fmt.block)):
            place = slice(start, min(length, start + fmt.block))
            stored = [
                (f["codes"][row][place], [f[n][row][block] for n in f if n != "codes"])
                for f in (ours, theirs)
            ]
            if stored[0] == stored[1]:
                continue
            indices = [oracle.select_at(fmt, f, row, block) for f in (ours, theirs)]
            errors = [_squared_error(x[row, place], y[row, place]) for y in (a, b)]
            if indices[0] == indices[1] or not (
                abs(errors[0] - errors[1]) <= SAME_ERROR * max(errors)
            ):
                raise Mismatch(
                    f"row {row} elements {place.start}..{place.stop}: {x[row, place].tolist()} is "
                    f"stored as {stored[0]} by the reference and as {stored[1]} here"
                )


# -- small things --------------------------------------------------------------------------


def second_level(fmt: Format) -> TensorLevel:
    """A second level with a full significand, so that its rounding is seen."""
    if fmt.scale.tensor == "fp32":
        return TensorLevel(tensor_scale=float(np.float32(0.0123456789)))
    return TensorLevel(shift=3 if fmt.scale.shift is None else fmt.scale.shift)


def engine_of(backend: Backend) -> Engine:
    """What does the elements of a back end."""
    if not isinstance(backend, EngineBackend):
        raise TypeError(f"the back end '{backend.name}' has no engine")
    return backend.engine


def _octets(streams: Mapping[str, U8]) -> dict[str, list[bytes]]:
    return {name: [row.tobytes() for row in rows] for name, rows in streams.items()}


def _matrix(rows: list[bytes]) -> U8:
    return np.array([list(row) for row in rows], np.uint8).reshape(len(rows), -1)


def _floats(x: F32) -> list[list[float]]:
    return [[float(v) for v in row] for row in x]


def _shown(x: F32) -> str:
    text = str(x.tolist())
    return text if len(text) < 400 else f"{text[:400]} ..."


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
