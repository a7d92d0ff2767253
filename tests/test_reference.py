"""The NumPy reference: exact on the shipped formats, small in memory, sound at the edges."""

from __future__ import annotations

import ast
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import fmtc
import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler import reference
from fmtc.compiler.format import Format
from fmtc.compiler.reference import TensorLevel, calibrate, decode, encode
from fmtc.compiler.view import view_of
from fmtc.runtime.backend import ReferenceBackend
from fmtc.runtime.verify import checks, inputs, oracle, properties
from numpy.typing import NDArray
from representatives import EACH_KIND, PLAIN

F32 = NDArray[np.float32]


def other_level(fmt: Format) -> TensorLevel:
    """A second level that no tensor was calibrated for, with a full significand."""
    if fmt.scale.tensor == "fp32":
        return TensorLevel(tensor_scale=float(np.float32(0.0123456789)))
    return TensorLevel(shift=7 if fmt.scale.shift is None else fmt.scale.shift)


# -- the shipped formats ----------------------------------------------------------------


def exact(fmt: Format, x: F32, level: TensorLevel) -> int:
    """How many elements of x the reference stores and reads as exact rationals say."""
    return checks.compare_with_oracle(fmt, ReferenceBackend(fmt), x, level)


@pytest.mark.parametrize("name", EACH_KIND)
def test_a_shipped_format_agrees_with_exact_rationals(name: str) -> None:
    fmt = fmtc.load(name)
    backend = ReferenceBackend(fmt)
    assert checks.decode_is_exact(fmt, backend, 500) >= 500
    assert checks.ties_are_exact(fmt, backend, 500) > 0
    assert checks.codes_return(fmt, backend) > 0 or fmt.policies.offset is not None
    rows, length = inputs.small_shape(fmt)
    for x in inputs.random_rows(fmt, 600):
        level = calibrate(fmt, x)
        exact(fmt, np.ascontiguousarray(x[:rows, : max(length, fmt.record is not None)]), level)


@pytest.mark.slow
@pytest.mark.parametrize("name", fmtc.names())
def test_every_shipped_format_agrees_with_exact_rationals(name: str) -> None:
    fmt = fmtc.load(name)
    backend = ReferenceBackend(fmt)
    checks.decode_is_exact(fmt, backend, 20_000)
    checks.ties_are_exact(fmt, backend, 10_000)
    assert properties.check(fmt, backend, None, 20) > 0


@pytest.mark.parametrize("prove", properties.PROPERTIES.values(), ids=properties.PROPERTIES)
@pytest.mark.parametrize("name", ["nf4", "sop_pair", "four_six"])
def test_a_shipped_format_has_the_properties(name: str, prove: properties.Property) -> None:
    fmt = fmtc.load(name)
    about = properties.prove(fmt, ReferenceBackend(fmt), prove, 20)
    empty = {
        properties.second_level_is_exact: fmt.scale.tensor == "none" and fmt.scale.shift == 0,
        properties.minus_x_decodes_to_minus: True,
        properties.a_nan_makes_its_block_nan: fmt.policies.nan != "propagate",
        properties.four_times_x_decodes_to_four_times: True,
    }
    assert about > 0 or empty.get(prove, False)


# -- memory and chunks ------------------------------------------------------------------

MEMORY = 64 << 20


def peak_of(work: Callable[[], object]) -> int:
    """The most bytes that were allocated while ``work`` ran, beyond those before it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name",
    ["mxfp4", *(pytest.param(n, marks=pytest.mark.slow) for n in PLAIN if n != "mxfp4")],
)
def test_memory_stays_under_twice_the_input_and_the_output(name: str) -> None:
    fmt = fmtc.load(name)
    x = np.random.default_rng(0).standard_normal((1024, MEMORY // 4096), dtype=np.float32)
    assert x.nbytes == MEMORY
    level = calibrate(fmt, x)
    streams = encode(fmt, x, level)
    packed = sum(octets.nbytes for octets in streams.values())
    # The input is there before: beside it the encoder may hold as much again and its output.
    assert peak_of(lambda: encode(fmt, x, level)) < x.nbytes + packed
    assert peak_of(lambda: decode(fmt, streams, x.shape[1], level)) < 2 * packed + x.nbytes
    assert peak_of(lambda: calibrate(fmt, x)) < x.nbytes


@pytest.mark.parametrize("shape", [(1, 1 << 20), (1 << 20, 1), (3, 123_457)], ids=str)
def test_long_rows_and_short_rows_need_little_memory_too(shape: tuple[int, int]) -> None:
    fmt = compile_text("format m { block 1  grid e2m1  scale e8m0 { rule floor_log2 } }")
    fmt = fmtc.load("mxfp4") if shape[1] > 1 else fmt
    x = np.ones(shape, np.float32)
    packed = sum(octets.nbytes for octets in encode(fmt, x, TensorLevel()).values())
    # Chunks have a size of their own, which a small input does not outweigh.
    overhead = 96 * reference.CHUNK
    assert peak_of(lambda: encode(fmt, x, TensorLevel())) < x.nbytes + packed + overhead


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("shape", [(1, 5000), (7, 333), (100, 9)], ids=str)
def test_the_size_of_a_chunk_changes_no_bit(
    name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = fmtc.load(name)
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    level = calibrate(fmt, x)
    whole = encode(fmt, x, level)
    decoded = decode(fmt, whole, shape[1], level)
    for chunk in (1, 100, 2048):
        monkeypatch.setattr(reference, "CHUNK", chunk)
        assert calibrate(fmt, x) == level
        for stream, octets in encode(fmt, x, level).items():
            assert np.array_equal(octets, whole[stream])
        again = decode(fmt, whole, shape[1], level)
        assert np.array_equal(again.view(np.uint32), decoded.view(np.uint32))


# -- values at the edges ----------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_a_short_last_block_is_a_block_of_its_own(name: str) -> None:
    fmt = fmtc.load(name)
    rng = np.random.default_rng(2)
    level = other_level(fmt)
    for rest in {1, 2, fmt.block // 2 + 1, fmt.block - 1}:
        whole, last = rng.standard_normal((2, fmt.block)), rng.standard_normal((2, rest)) * 1e-3
        x = np.concatenate([whole, last], axis=1).astype(np.float32)
        together = decode(fmt, encode(fmt, x, level), x.shape[1], level)
        for part in (slice(0, fmt.block), slice(fmt.block, None)):
            alone = np.ascontiguousarray(x[:, part])
            one = decode(fmt, encode(fmt, alone, level), alone.shape[1], level)
            assert np.array_equal(one, together[:, part])


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("scale", [2.0**-149, 2.0**-140, 2.0**-126, 2.0**100, 2.0**120])
def test_subnormal_and_huge_rows_agree_with_exact_rationals(name: str, scale: float) -> None:
    fmt = fmtc.load(name)
    x = np.random.default_rng(3).standard_normal((2, fmt.block + 3)) * scale
    x = x.astype(np.float32)
    exact(fmt, x, calibrate(fmt, x))


@pytest.mark.parametrize("name", PLAIN)
def test_the_largest_binary32_number_encodes_and_decodes_finite(name: str) -> None:
    fmt = fmtc.load(name)
    x = np.full((1, fmt.block), np.finfo(np.float32).max, np.float32)
    x[0, ::2] *= -1
    level = calibrate(fmt, x)
    exact(fmt, x, level)
    found = decode(fmt, encode(fmt, x, level), fmt.block, level)
    assert np.isfinite(found).all()
    assert np.array_equal(np.sign(found), np.sign(x))


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "e2m3_ue4m4"])
def test_negative_zero_survives_where_the_grid_has_one(name: str) -> None:
    fmt = fmtc.load(name)
    x = np.array([[-0.0, 0.0, 1.0, -1e-30, 1e-30]], np.float32)
    level = calibrate(fmt, x)
    found = decode(fmt, encode(fmt, x, level), 5, level)
    assert np.signbit(found).tolist() == [[True, False, False, True, False]]
    assert found[0, [0, 1, 3, 4]].tolist() == [0, 0, 0, 0]


def test_a_nan_block_propagates_whole_and_its_neighbours_stay() -> None:
    for text in (
        "format n { block 4  grid e2m1  scale e4m3  nan propagate }",
        "format n { block 4  grid e2m1  scale e5m2 { rule argmax }  nan propagate }",
        (
            "format n { block 4  grid a = e2m1  grid b = int 4  scale fp32  nan propagate"
            "  select 1 bit at scale.sign { 0: a, 1: b } }"
        ),
    ):
        fmt = compile_text(text)
        x = np.array([[1, 2, 3, -4, 5, np.nan, -7, 8, 1, -1, 2]], np.float32)
        streams = encode(fmt, x, TensorLevel())
        found = decode(fmt, streams, x.shape[1], TensorLevel())
        assert np.isnan(found).tolist()[0] == [False] * 4 + [True] * 4 + [False] * 3
        alone = np.delete(x, slice(4, 8), axis=1)
        clean = decode(fmt, encode(fmt, alone, TensorLevel()), 7, TensorLevel())
        assert np.array_equal(np.delete(found, slice(4, 8), axis=1), clean)


def test_the_oracle_knows_nothing_of_views_and_thresholds() -> None:
    allowed = {"exact", "floats", "format"}
    files = list(Path(oracle.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not any("numpy" in alias.name for alias in node.names), file.name
            elif isinstance(node, ast.ImportFrom) and node.level > 1:
                assert (node.module or "").removeprefix("compiler.") in allowed, file.name


def test_the_nearest_grid_value_is_chosen_by_hand_calculation() -> None:
    # absmax 6 asks for scale 1, which E4M3 has: ties 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.
    fmt = compile_text("format h { block 8  grid e2m1  scale e4m3 }")
    x = np.array([[6, 0.25, 0.75, 1.25, -1.75, 2.5, -3.5, 5]], np.float32)
    found = decode(fmt, encode(fmt, x, TensorLevel()), 8, TensorLevel())
    assert found.tolist() == [[6, 0, 1, 1, -2, 2, -4, 4]]
    assert view_of(fmt).grids[0].midpoints[-1] == Fraction(5)


def test_a_block_with_nothing_that_the_grid_can_hold_is_stored_like_one_of_zeros() -> None:
    fmt = compile_text(
        "format one { block 4  grid ue2m2  scale fp32 { rule absmax  zero_block 2 } }"
    )
    x = np.array([[-3.5, -1.0, -0.0, 0.0, -1.0, 2.0, 0.0, 0.0]], np.float32)
    assert exact(fmt, x, TensorLevel()) == x.size
    words = encode(fmt, x, TensorLevel())["scales"].view(np.float32)
    assert words.tolist() == [[2.0, float(np.float32(2) / np.float32(7))]]
