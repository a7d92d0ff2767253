"""C under given scales and zeros: against exact rationals, the reference and fused encoding."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from c_formats import (
    ALL,
    DTYPES,
    EVERY,
    backend_of,
    backends_of,
    format_of,
    on_targets,
    same_bits,
)
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format, Stream
from fmtc.compiler.narrow import narrow
from fmtc.compiler.packing import pack, unpack
from fmtc.compiler.reference import TensorLevel, block_scales, calibrate, select_of
from fmtc.compiler.view import view_of
from fmtc.runtime.c_backend import CBackend
from given_oracle import code_of, ties_under_every_point, value_of

RNG = np.random.default_rng(20260102)

LARGEST = float(np.finfo(np.float32).max)

#: Effective scales: powers of two, none, both zeros, subnormal, least inverted, and large ones.
SCALES = (1.0, -1.0, 0.0, -0.0, 0.7153, -3.1e-3, 5e-45, 3e-39, -1.1e-38, 2e-20, -4e30, LARGEST)


def codes_stream(fmt: Format) -> Stream:
    return next(stream for stream in fmt.streams if stream.name == "codes")


def blocks_of(fmt: Format, length: int) -> int:
    return -(-length // fmt.block)


def zeros_of(fmt: Format, scale: float) -> list[float]:
    """Zero points from end to end, or minima of either sign and of other sizes than the scale."""
    if fmt.zero is None:
        return [0.0]
    if fmt.zero.kind == "point":
        low, high = int(fmt.grids[0].low), int(fmt.grids[0].high)
        return [float(z) for z in sorted({low, low + 1, 0, (low + high) // 2, high - 1, high})]
    size = abs(scale) or 1.0
    given = [0.0, -0.0, -0.37 * size, -7.3 * size, 1e5 * size, -1.5, 1e-42, -LARGEST]
    return [float(z) for z in np.array(given, np.float64).clip(-LARGEST, LARGEST).astype("f4")]


def critical_points(fmt: Format, select: int, scale: float, zero: float) -> np.ndarray:
    """Every midpoint and value under a scale, its neighbours up to 2 ulp, and the extremes."""
    values = np.array(fmt.grids[select].numbers, np.float64)
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2])
    point = zero if fmt.zero is not None and fmt.zero.kind == "point" else 0.0
    minimum = zero if fmt.zero is not None and fmt.zero.kind == "minimum" else 0.0
    exact = (points - point) * (abs(scale) or 1.0) * math.copysign(1, scale) + minimum
    with np.errstate(over="ignore", under="ignore"):
        steps = [exact.astype(np.float32)]
        for end in (np.inf, -np.inf):
            steps += [one := np.nextafter(steps[0], np.float32(end))]
            steps += [np.nextafter(one, np.float32(end))]
    special = [0.0, -0.0, 1e-45, -1e-45, LARGEST, -LARGEST, 1.5, minimum]
    x = np.concatenate([*steps, np.array(special, np.float32)])
    return np.where(np.isfinite(x), x, np.float32(LARGEST))


def given_cases(fmt: Format, scales: tuple[float, ...]) -> list[tuple[int, float, float]]:
    """Selects, scales and zeros to try together; scales that are binary32 numbers."""
    singles = [float(s) for s in np.array(scales, np.float32)]
    return [
        (select, scale, zero)
        for select, scale in product(range(len(fmt.grids)), singles)
        for zero in zeros_of(fmt, scale)
    ]


def arrays_of(
    fmt: Format, cases: list[tuple[int, float, float]], length: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Scales, selects and zeros of one row per case, the same for all its blocks."""
    shape = (len(cases), blocks_of(fmt, length))
    columns = [np.array(column)[:, None] for column in zip(*cases, strict=True)]
    selects, scales, zeros = (np.broadcast_to(column, shape) for column in columns)
    return (
        scales.astype(np.float32),
        selects.astype(np.uint8) if len(fmt.grids) > 1 else None,
        None if fmt.zero is None else zeros.astype(np.float32),
    )


def unpacked(fmt: Format, codes: np.ndarray, length: int) -> np.ndarray:
    return unpack(codes, length, codes_stream(fmt)).astype(np.uint8)


def assert_codes_are_the_oracles(
    name: str, which: str, cases: list[tuple[int, float, float]], limit: int | None
) -> None:
    fmt = format_of(name)
    points = [critical_points(fmt, *case) for case in cases]
    length = max(map(len, points))
    x = np.stack([np.resize(row, length) for row in points])
    given = arrays_of(fmt, cases, length)
    found = {
        backend.target.name: unpacked(fmt, backend.encode_given(x, *given), length)
        for backend in backends_of(name, which)
    }
    places = np.argwhere(np.ones(x.shape, np.bool_))
    if limit is not None and len(places) > limit:
        places = RNG.choice(places, limit, replace=False)
    for row, column in places:
        select, scale, zero = cases[row]
        wanted = code_of(fmt, select, float(x[row, column]), scale, zero)
        codes = {target: int(of_all[row, column]) for target, of_all in found.items()}
        assert set(codes.values()) == {wanted}, (codes, cases[row], float(x[row, column]).hex())
    first, *others = found.values()
    assert all(np.array_equal(first, other) for other in others), "the targets differ"


@on_targets(EVERY)
def test_midpoints_values_and_their_neighbours_get_the_codes_of_exact_rationals(
    name: str, which: str
) -> None:
    assert_codes_are_the_oracles(name, which, given_cases(format_of(name), SCALES), 1500)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_all_midpoints_and_neighbours_get_the_codes_of_exact_rationals(name: str) -> None:
    fmt = format_of(name)
    scales = (*SCALES, *np.exp2(RNG.uniform(-140, 120, 8)) * RNG.choice([-1, 1], 8))
    cases = given_cases(fmt, scales)
    order = RNG.permutation(len(cases))[: 120 if fmt.code_bits < 7 else 12]
    assert_codes_are_the_oracles(name, "all", [cases[i] for i in order], None)


@on_targets(["point_after", "point_after_reciprocal"])
def test_a_zero_point_added_after_rounding_counts_on_from_the_even_integer(
    name: str, which: str
) -> None:
    fmt = format_of(name)
    x, zeros, wanted = ties_under_every_point(fmt)
    shape = (len(x), blocks_of(fmt, x.shape[1]))
    given = np.ones(shape, np.float32), None, np.broadcast_to(zeros, shape).astype(np.float32)
    reference = ReferenceEngine(fmt).encode_given(x, *given)
    assert np.array_equal(unpacked(fmt, reference, x.shape[1]), wanted)
    for backend in backends_of(name, which):
        assert np.array_equal(backend.encode_given(x, *given), reference), backend.target.name


@on_targets(EVERY)
def test_every_code_decodes_to_the_value_of_exact_rationals(name: str, which: str) -> None:
    fmt = format_of(name)
    cases = given_cases(fmt, SCALES)
    if fmt.code_bits > 6:
        cases = [cases[i] for i in RNG.choice(len(cases), min(12, len(cases)), replace=False)]
    length = -(-(1 << fmt.code_bits) // fmt.block) * fmt.block
    every = np.arange(1 << fmt.code_bits).astype(np.uint8)
    codes = np.tile(np.resize(every, length), (len(cases), 1))
    given = arrays_of(fmt, cases, length)
    wanted = np.array(
        [[value_of(fmt, case[0], int(c), *case[1:]) for c in codes[0]] for case in cases],
        np.float32,
    )
    packed = pack(codes, codes_stream(fmt))
    for backend in backends_of(name, which):
        found = backend.decode_given(packed, *given, length)
        assert same_bits(found, wanted), backend.target.name
        for dtype in DTYPES[1:]:
            narrower = backend.decode_given(packed, *given, length, dtype)
            assert same_bits(narrower, narrow(wanted, dtype)), (backend.target.name, dtype)


def random_given(
    fmt: Format, rows: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Elements of many sizes, and scales, selects and zeros that suit some of them."""
    shape = (rows, blocks_of(fmt, length))
    size = np.exp2(RNG.uniform(-20, 20, (rows, 1)))
    end = float(max(fmt.grids[0].high, -fmt.grids[0].low))
    x = (RNG.standard_normal((rows, length)) * size).astype(np.float32)
    x[RNG.random(x.shape) < 0.05] = -0.0
    sign = RNG.choice([-1, 1], shape) if fmt.zero is None else 1
    scales = (np.exp2(RNG.uniform(-3, 3, shape)) * size / end * sign).astype(np.float32)
    scales[RNG.random(shape) < 0.05] = 0
    selects = RNG.integers(0, len(fmt.grids), shape).astype(np.uint8)
    zeros = None
    if fmt.zero is not None and fmt.zero.kind == "point":
        low, high = int(fmt.grids[0].low), int(fmt.grids[0].high)
        zeros = RNG.integers(low, high + 1, shape).astype(np.float32)
    elif fmt.zero is not None:
        zeros = (RNG.standard_normal(shape) * size).astype(np.float32)
    return x, scales, selects if len(fmt.grids) > 1 else None, zeros


@on_targets(EVERY)
def test_random_blocks_get_the_references_codes_and_values(name: str, which: str) -> None:
    fmt = format_of(name)
    reference = ReferenceEngine(fmt)
    length = 5 * max(fmt.block, 80) + 13
    x, *given = random_given(fmt, 40, length)
    codes = reference.encode_given(x, *given)
    values = reference.decode_given(codes, *given, length)
    for backend in backends_of(name, which):
        assert np.array_equal(backend.encode_given(x, *given), codes), backend.target.name
        for dtype in DTYPES:
            found = backend.decode_given(codes, *given, length, dtype)
            assert same_bits(found, narrow(values, dtype)), (backend.target.name, dtype)


def stored_scales(
    fmt: Format, streams: dict[str, np.ndarray], length: int, level: TensorLevel
) -> tuple[np.ndarray, np.ndarray | None]:
    """Effective scales and grid indices of a plain format's streams."""
    view, blocks = view_of(fmt), blocks_of(fmt, length)
    fields = {s.name: unpack(streams[s.name], blocks, s) for s in fmt.streams[1:]}
    words = fields["scales"]
    scales = block_scales(view, words.ravel(), level.multiplier).reshape(words.shape)
    if fmt.select.place == "none":
        return scales, None
    return scales, fields.get("select", select_of(view, words)).astype(np.uint8)


@on_targets(ALL)
def test_the_scales_that_fused_encoding_stores_give_its_codes_and_values_again(
    name: str, which: str
) -> None:
    for backend, length in product(backends_of(name, which), (1000, 8, 1)):
        fmt = format_of(name)
        x = (RNG.standard_normal((60, length)) * np.exp2(RNG.uniform(-9, 9, (60, 1)))).astype("f4")
        level = calibrate(fmt, x)
        streams = backend.encode(x, level)
        scales, selects = stored_scales(fmt, streams, length, level)
        codes = backend.encode_given(x, scales, selects, None)
        assert np.array_equal(codes, streams["codes"])
        again = backend.decode_given(codes, scales, selects, None, length)
        assert np.array_equal(again, backend.decode(streams, length, level))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 17, 33, 255, 257, 4097])
def test_rows_of_any_length_are_encoded_and_decoded_under_given_scales(length: int) -> None:
    for name in ("mxfp4", "five_bits", "seven", "bytes", "point", "point_after", "minimum_up"):
        reference = ReferenceEngine(format_of(name))
        x, *given = random_given(format_of(name), 3, length)
        codes = reference.encode_given(x, *given)
        values = reference.decode_given(codes, *given, length)
        for backend in backends_of(name):
            assert np.array_equal(backend.encode_given(x, *given), codes)
            assert np.array_equal(backend.decode_given(codes, *given, length), values)


def test_no_rows_have_no_codes() -> None:
    nothing = (np.zeros((0, 2), np.float32), None, np.zeros((0, 2), np.float32))
    codes = backend_of("point").encode_given(np.zeros((0, 20), np.float32), *nothing)
    assert codes.shape == (0, 10)
    assert backend_of("point").decode_given(codes, *nothing, 20).shape == (0, 20)


def test_blocks_without_selects_take_the_first_grid() -> None:
    x, scales, _, _ = random_given(format_of("five_bits"), 4, 100)
    backend = backend_of("five_bits")
    first = np.zeros(scales.shape, np.uint8)
    codes = backend.encode_given(x, scales, None, None)
    assert np.array_equal(codes, backend.encode_given(x, scales, first, None))
    values = backend.decode_given(codes, scales, None, None, 100)
    assert np.array_equal(values, backend.decode_given(codes, scales, first, None, 100))


def test_a_select_that_no_grid_has_decodes_to_nan_and_cannot_be_encoded_with() -> None:
    backend = backend_of("five_bits")  # 3 grids, 2 bits
    x, scales = np.ones((1, 16), np.float32), np.ones((1, 1), np.float32)
    for index, places in ((3, True), (4, False)):
        selects = np.full((1, 1), index, np.uint8)
        with pytest.raises(ValueError, match=f"no grid of 'five_bits' has the index {index}"):
            backend.encode_given(x, scales, selects, None)
        codes = np.zeros((1, 10), np.uint8)
        if places:
            assert np.isnan(backend.decode_given(codes, scales, selects, None, 16)).all()
        else:
            with pytest.raises(ValueError, match="has the index 4"):
                backend.decode_given(codes, scales, selects, None, 16)


def test_given_arrays_that_do_not_fit_are_refused_before_c_reads_them() -> None:
    x, one = np.ones((2, 40), np.float32), np.ones((2, 3), np.float32)
    plain, point = backend_of("nvfp4"), backend_of("point")
    bytes_of_zeros = np.zeros((2, 3), np.uint8)
    faults = {
        r"scales are float32\[2, 2\], not float32\[2, 3\]": (plain, one[:, :2], None, None),
        "scales are float64": (plain, one.astype(np.float64), None, None),
        r"selects are float32\[2, 3\]": (plain, one, one, None),
        "has no zeros": (plain, one, None, one),
        "has a zero for each block": (point, one, None, None),
        r"zeros are uint8\[2, 3\]": (point, one, None, bytes_of_zeros),
    }
    for message, (backend, *given) in faults.items():
        with pytest.raises(ValueError, match=message):
            backend.encode_given(x, *given)
        with pytest.raises(ValueError, match=message):
            backend.decode_given(np.zeros((2, 20), np.uint8), *given, 40)
    with pytest.raises(ValueError, match="two-dimensional"):
        plain.encode_given(x[0], one, None, None)
    with pytest.raises(ValueError, match="40 elements need 20"):
        plain.decode_given(np.zeros((2, 19), np.uint8), one, None, None, 40)
    with pytest.raises(ValueError, match="not writeable contiguous float32"):
        plain.decode_given(np.zeros((2, 20), np.uint8), one, None, None, 40, out=x[:, :39])


def test_strided_arrays_and_an_output_are_taken() -> None:
    x, scales, selects, zeros = random_given(format_of("minimum"), 6, 96)
    backend = backend_of("minimum")
    assert selects is None
    assert zeros is not None
    codes = backend.encode_given(x[::2], scales[::2], None, zeros[::2])
    assert np.array_equal(codes, backend.encode_given(x, scales, None, zeros)[::2])
    out = np.empty((3, 96), np.float32)
    wider = np.pad(codes, ((0, 0), (0, 5)))
    assert backend.decode_given(wider, scales[::2], None, zeros[::2], 96, out=out) is out
    assert np.array_equal(out, backend.decode_given(codes, scales[::2], None, zeros[::2], 96))


def test_any_number_of_threads_gives_the_codes_and_values_of_one() -> None:
    fmt = format_of("point")
    x, *given = random_given(fmt, 1300, 1500)  # 7 times what a thread is worth
    one = CBackend(fmt, threads=1)
    codes = one.encode_given(x, *given)
    values = one.decode_given(codes, *given, 1500)
    for threads in (2, 3, 7):
        several = CBackend(fmt, threads=threads)
        assert np.array_equal(several.encode_given(x, *given), codes)
        assert np.array_equal(several.decode_given(codes, *given, 1500), values)


@pytest.mark.parametrize("name", ["point", "minimum", "wide_word"])
def test_a_format_that_goes_through_the_pipeline_has_nothing_else_in_c(name: str) -> None:
    backend, level = backend_of(name), TensorLevel()
    for call in (
        lambda: backend.encode(np.ones((1, 16), np.float32), level),
        lambda: backend.decode({}, 16, level),
    ):
        with pytest.raises(ValueError, match=f"'{name}' .* goes through the pipeline"):
            call()
