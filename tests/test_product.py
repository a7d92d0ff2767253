"""Products of packed rows: the reference against exact rationals, every target against it."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from c_formats import BROAD, EVERY, format_of, targets
from fmtc.codegen.c.targets import Target
from fmtc.compiler import pipeline
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.exact import round_fp32
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.product import (
    ACTIVATION_BLOCK,
    ACTIVATIONS,
    LANES,
    WIDEST,
    NoIntegerProduct,
    activations_format,
    dense_product,
    fma32,
    given_of,
    group_size,
    integer_grids,
    product,
    quantize_activations,
)
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load, names
from fmtc.runtime.backend import F32, U8
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.product import PackedRows, matmul
from representatives import EACH_KIND

#: Between them every way of the C: tables of up to 16 and 32 values, planes, decoding first; plain
#: and given scales; integers by bytes and by words; points and minima; values beside the codes.
COMPILED = (
    "nvfp4",
    "po2_nf4",
    "e2m3_ue4m4",
    "mixfp4",
    "q4_k",
    "point_after",
    "nf4_dd4_opq_wr",
    "five_bits",
)

#: Blocks that are no multiple of 16 have smaller groups.
ODD_BLOCK = compile_text(
    "format odd_block { block 12  grid i = int 3 { range full }  scale ue4m3 }"
)

#: rows, elements and vectors: one whole step and less, tails, more vectors than a pass takes.
SHAPES = ((5, 1536, 1), (4, 256, 3), (6, 777, 2), (1, 7, 2), (9, 64, 18), (1, 4400, 1))


def encoded(
    fmt: Format, rows: int, length: int, seed: int = 0
) -> tuple[dict[str, U8], TensorLevel]:
    x = np.random.default_rng(seed).standard_normal((rows, length)).astype(np.float32)
    level = calibrate(fmt, x)
    return pipeline.encode(fmt, x, level), level


def vectors(m: int, length: int, seed: int = 1) -> F32:
    return np.random.default_rng(seed).standard_normal((m, length)).astype(np.float32)


def admitted(fmt: Format, length: int) -> int:
    """A length near this that the format's records divide."""
    return length if fmt.record is None else -(-length // fmt.record.elements) * fmt.record.elements


@cache
def engine_of(name: str, target: Target) -> CBackend:
    return CBackend(kernel_format(format_of(name)), target=target.name)


def assert_same_bits(found: F32, expected: F32) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    same = found.view(np.uint32) == expected.view(np.uint32)
    assert (same | (np.isnan(found) & np.isnan(expected))).all()


def exact(value: np.floating) -> Fraction:
    return Fraction(float(value))


# -- the reference -------------------------------------------------------------------------


def test_fma_rounds_once() -> None:
    random = np.random.default_rng(2)
    a, b = random.standard_normal((2, 4000)).astype(np.float32)
    near = -(a * b) * (1 + random.integers(-4, 5, 4000) * 2.0**-23)
    c = np.where(random.random(4000) < 0.5, near, random.standard_normal(4000)).astype(np.float32)
    for found, *factors in zip(fma32(a, b, c), a, b, c, strict=True):
        x, y, z = map(exact, factors)
        assert float(found) == round_fp32(x * y + z)


@pytest.mark.parametrize("exponent", [-149, -140, -127, -100, 0, 60, 127])
def test_fma_rounds_once_at_the_ends_of_binary32(exponent: int) -> None:
    random = np.random.default_rng(3)
    bits = random.integers(0, 2**23, (3, 500)).astype(np.uint32) | np.uint32(127 << 23)
    a, b, c = bits.view(np.float32) * np.float32([[1], [-1], [1]])
    a = (a * 2.0 ** (exponent // 2)).astype(np.float32)
    b = (b * 2.0 ** (exponent - exponent // 2)).astype(np.float32)
    c = (c * 2.0 ** max(exponent - 24, -149)).astype(np.float32)
    for found, *factors in zip(fma32(a, b, c), a, b, c, strict=True):
        x, y, z = map(exact, factors)
        assert float(found) == round_fp32(x * y + z)


def test_fma_of_what_is_no_number() -> None:
    infinity, nan = np.float32(np.inf), np.float32(np.nan)
    one, zero = np.float32(1), np.float32(0)
    assert np.isnan(fma32(infinity, zero, one))
    assert np.isnan(fma32(infinity, one, -infinity))
    assert np.isnan(fma32(nan, one, one))
    assert fma32(infinity, one, one) == infinity
    assert np.signbit(fma32(-zero, one, -zero))
    assert not np.signbit(fma32(-one, one, one))


def lane_by_lane(row: F32, x: F32) -> float:
    lanes = [Fraction(0)] * LANES
    for i, (w, v) in enumerate(zip(row, x, strict=True)):
        lanes[i % LANES] = exact(np.float32(round_fp32(exact(w) * exact(v) + lanes[i % LANES])))
    return added(lanes)


def added(lanes: list[Fraction]) -> float:
    for half in (8, 4, 2, 1):
        sums = [lanes[j] + lanes[j + half] for j in range(half)]
        lanes = [Fraction(round_fp32(s)) for s in sums]
    return float(lanes[0])


@pytest.mark.parametrize("length", [1, 15, 16, 17, 95])
def test_a_product_is_sixteen_lanes_of_fused_multiply_adds(length: int) -> None:
    rows, x = vectors(3, length, 4), vectors(2, length, 5)
    found = dense_product(rows, x)
    assert found.shape == (2, 3)
    for j in range(2):
        for r in range(3):
            assert float(found[j, r]) == lane_by_lane(rows[r], x[j])


@pytest.mark.parametrize("activations", ["int8", "hif8"])
@pytest.mark.parametrize("name", ["nvfp4", "int4_asym_g128", "q4_1", "odd_block", "mixfp4"])
def test_an_integer_product_is_exact_sums_of_groups(name: str, activations: str) -> None:
    fmt = ODD_BLOCK if name == "odd_block" else load(name)
    length = admitted(fmt, 90)
    streams, level = encoded(fmt, 2, length)
    x = vectors(2, length)
    found = product(fmt, streams, length, level, x, activations)
    a, given = quantize_activations(x, activations), given_of(fmt, streams, length, level)
    grids, group = integer_grids(fmt), group_size(fmt)
    ones, nothing = np.ones_like(given.scales), np.zeros_like(given.scales)
    # In units of their grids codes decode to the very integers.
    values = ReferenceEngine(kernel_format(fmt)).decode_given(
        given.codes, ones, given.selects, None if given.zeros is None else nothing, length
    )
    kind = view_kind(fmt)
    for j in range(2):
        for r in range(2):
            lanes = [Fraction(0)] * LANES
            for k in range(-(-length // group)):
                here = range(k * group, min((k + 1) * group, length))
                block = k * group // fmt.block
                unit = exact(grids.units[0 if given.selects is None else given.selects[r, block]])
                point = exact(given.zeros[r, block]) if kind == "point" else Fraction(0)
                whole = [(exact(values[r, i]) / unit - point) * int(a.values[j, i]) for i in here]
                assert all(w.denominator == 1 for w in whole)
                under = exact(a.scales[j, k * group // ACTIVATION_BLOCK])
                scale = Fraction(round_fp32(exact(given.scales[r, block]) * unit))
                factor = Fraction(round_fp32(scale * under))
                lane = Fraction(round_fp32(sum(whole) * factor + lanes[k % LANES]))
                if kind == "minimum":
                    least = Fraction(round_fp32(exact(given.zeros[r, block]) * under))
                    total = sum(int(a.values[j, i]) for i in here)
                    lane = Fraction(round_fp32(total * least + lane))
                lanes[k % LANES] = lane
            assert float(found[j, r]) == added(lanes)


def view_kind(fmt: Format) -> str:
    return "none" if fmt.zero is None else fmt.zero.kind


@pytest.mark.parametrize(
    ("activations", "least", "most"), [("int8", -127, 127), ("hif8", -256, 240)]
)
def test_integer_activations_are_the_encoders(activations: str, least: int, most: int) -> None:
    fmt, x = activations_format(activations), vectors(3, 100)
    a = quantize_activations(x, activations)
    assert a.values.shape == (3, 100)
    assert a.scales.shape == (3, 4)
    assert least <= a.values.min() <= a.values.max() <= most
    streams = pipeline.encode(fmt, x, TensorLevel())
    decoded = pipeline.decode(fmt, streams, 100, TensorLevel())
    scales = np.repeat(a.scales, ACTIVATION_BLOCK, axis=1)[:, :100]
    assert np.array_equal(decoded, a.values * scales)


def test_integer_products_come_near_the_true_ones() -> None:
    fmt = load("nvfp4")
    streams, level = encoded(fmt, 8, 4096)
    x = vectors(2, 4096)
    true = product(fmt, streams, 4096, level, x)
    for activations, error in (("int8", 0.01), ("hif8", 0.05)):
        found = product(fmt, streams, 4096, level, x, activations)
        assert np.linalg.norm(found - true) < error * np.linalg.norm(true)


def test_grids_of_integers_are_told_from_others() -> None:
    assert integer_grids(load("nvfp4")).units == np.float32(0.5)
    assert np.abs(integer_grids(load("nvfp4")).values).max() == 12
    refused: list[str] = []
    for name in names():
        fmt = load(name)
        try:
            grids = integer_grids(fmt)
        except NoIntegerProduct:
            refused.append(name)
            continue
        assert np.abs(grids.values).max() <= WIDEST
        for index, grid in enumerate(fmt.grids):
            for code, value in enumerate(grid.values):
                meant = int(grids.values[index, code]) * exact(grids.units[index])
                assert meant == (value or 0)
    assert {"nf4", "po2_nf4", "fp4", "e4m3_row", "nf4_dd4_opq_wr"} <= set(refused)


def test_refusals_say_why() -> None:
    x = vectors(1, 64)
    streams, level = encoded(load("nf4"), 2, 64)
    with pytest.raises(NoIntegerProduct, match="no multiples of one unit up to 4096"):
        product(load("nf4"), streams, 64, level, x, "int8")
    with pytest.raises(NoIntegerProduct, match="values of side opq, wr stand beside the codes"):
        integer_grids(load("nf4_dd4_opq_wr"))
    with pytest.raises(ValueError, match="no activations 'int4'; there are float32, int8, hif8"):
        product(load("nf4"), streams, 64, level, x, "int4")
    with pytest.raises(ValueError, match=r"float32\[1, 63\], not float32 \[m, 64\]"):
        product(load("nf4"), streams, 64, level, x[:, :63])
    x[0, 3] = np.nan
    with pytest.raises(ValueError, match="a NaN or an infinity cannot be made int8"):
        product(load("nvfp4"), streams, 64, level, x, "int8")


# -- the targets ---------------------------------------------------------------------------


def is_integer(fmt: Format) -> bool:
    try:
        integer_grids(fmt)
    except NoIntegerProduct:
        return False
    return True


def hold_against_the_reference(name: str, target: Target) -> None:
    fmt = format_of(name)
    engine = engine_of(name, target)
    for rows, wanted, m in SHAPES:
        length = admitted(fmt, wanted)
        streams, level = encoded(fmt, rows, length)
        packed, x = PackedRows(fmt, streams, length, level, engine, 1), vectors(m, length)
        for activations in ACTIVATIONS:
            if activations != "float32" and not is_integer(fmt):
                with pytest.raises(NoIntegerProduct, match=f"no integer product of '{name}'"):
                    packed.product(x, activations)
                continue
            expected = product(fmt, streams, length, level, x, activations)
            assert_same_bits(packed.product(x, activations), expected)


@pytest.mark.parametrize("name", COMPILED)
def test_the_fastest_target_gives_the_references_bits(name: str) -> None:
    hold_against_the_reference(name, targets()[0])


@pytest.mark.parametrize("name", ["nvfp4", "int4_asym_g128"])
def test_every_target_gives_the_references_bits(name: str) -> None:
    for target in targets()[1:]:
        hold_against_the_reference(name, target)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*EVERY, *EACH_KIND} - {*COMPILED}))
def test_the_fastest_target_gives_the_references_bits_for_every_format(name: str) -> None:
    hold_against_the_reference(name, targets()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*BROAD, *COMPILED}))
def test_every_target_gives_the_references_bits_for_every_feature(name: str) -> None:
    for target in targets()[1:]:
        hold_against_the_reference(name, target)


def test_numbers_of_any_size_multiply_alike() -> None:
    fmt, engine = load("nvfp4"), engine_of("nvfp4", targets()[0])
    random = np.random.default_rng(6)
    streams = {
        stream.name: random.integers(0, 256, (8, stream.row_bytes(400, 16)), np.uint8)
        for stream in fmt.streams
    }
    bits = random.integers(0, 2**32, (4, 400), np.uint64).astype(np.uint32)
    wild = bits.view(np.float32)
    tame = np.where(np.isfinite(wild), wild, 0).astype(np.float32)
    for level in (TensorLevel(), TensorLevel(2.0**-140), TensorLevel(2.0**100)):
        packed = PackedRows(fmt, streams, 400, level, engine, 1)
        for x in (wild, tame):
            assert_same_bits(packed.product(x), product(fmt, streams, 400, level, x))
        for activations in ("int8", "hif8"):
            expected = product(fmt, streams, 400, level, tame, activations)
            assert_same_bits(packed.product(tame, activations), expected)


def test_threads_change_no_bit() -> None:
    fmt, engine = load("mxfp4"), engine_of("mxfp4", targets()[0])
    streams, level = encoded(fmt, 131, 8192)
    x = vectors(2, 8192)
    for activations in ACTIVATIONS:
        one, four = (
            PackedRows(fmt, streams, 8192, level, engine, threads).product(x, activations)
            for threads in (1, 4)
        )
        assert_same_bits(four, one)


def test_streams_may_begin_anywhere() -> None:
    fmt, engine = load("nvfp4"), engine_of("nvfp4", targets()[0])
    streams, level = encoded(fmt, 5, 272)
    moved = {}
    for name, octets in streams.items():
        room = np.zeros(octets.size + 3, np.uint8)
        moved[name] = room[3:].reshape(octets.shape)
        moved[name][...] = octets
    x = vectors(1, 272)
    expected = product(fmt, streams, 272, level, x)
    assert_same_bits(PackedRows(fmt, moved, 272, level, engine, 1).product(x), expected)


@pytest.mark.parametrize(("rows", "length", "m"), [(0, 32, 2), (3, 0, 2), (3, 32, 0)])
def test_nothing_times_nothing(rows: int, length: int, m: int) -> None:
    for name in ("nvfp4", "int4_asym_g128"):
        fmt, engine = load(name), engine_of(name, targets()[0])
        streams, level = encoded(fmt, rows, length)
        for activations in ACTIVATIONS:
            packed = PackedRows(fmt, streams, length, level, engine, 2)
            found = packed.product(vectors(m, length), activations)
            assert np.array_equal(found, np.zeros((m, rows), np.float32))


def test_streams_that_are_too_short_are_refused() -> None:
    fmt, engine = load("nvfp4"), engine_of("nvfp4", targets()[0])
    streams, level = encoded(fmt, 2, 64)
    short = streams | {"codes": streams["codes"][:, :-1]}
    with pytest.raises(ValueError, match=r"'codes' is \[2, 31\], 64 elements need rows of 32"):
        PackedRows(fmt, short, 64, level, engine, 1).product(vectors(1, 64))


def test_other_engines_multiply_by_the_reference() -> None:
    fmt = load("nvfp4")
    streams, level = encoded(fmt, 3, 48)
    x = vectors(2, 48)
    packed = PackedRows(fmt, streams, 48, level, ReferenceEngine(fmt), 1)
    assert_same_bits(packed.product(x, "int8"), product(fmt, streams, 48, level, x, "int8"))


def test_a_product_has_the_axes_and_framework_of_the_activations() -> None:
    fmt, engine = load("nvfp4"), engine_of("nvfp4", targets()[0])
    streams, level = encoded(fmt, 6, 48)
    packed = PackedRows(fmt, streams, 48, level, engine, 1)
    x = vectors(10, 48).reshape(5, 2, 48)
    expected = product(fmt, streams, 48, level, x.reshape(10, 48))
    found = matmul(packed, (2, 3, 48), x, "float32")
    assert found.shape == (5, 2, 2, 3)
    assert_same_bits(found.reshape(10, 6), expected)


def test_bfloat16_activations_are_widened_exactly() -> None:
    torch = pytest.importorskip("torch")
    fmt, engine = load("nvfp4"), engine_of("nvfp4", targets()[0])
    streams, level = encoded(fmt, 6, 48)
    packed = PackedRows(fmt, streams, 48, level, engine, 1)
    x = torch.from_numpy(vectors(3, 48)).bfloat16()
    found = matmul(packed, (6, 48), x, "float32")
    assert found.dtype == torch.float32
    assert_same_bits(found.numpy(), product(fmt, streams, 48, level, x.float().numpy()))
