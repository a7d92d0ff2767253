"""The PTX emulator's floats against exact rationals, NumPy and ml_dtypes."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import ml_dtypes
import numpy as np
import ptx_meanings
import pytest
from fmtc.compiler.product import fma32
from fmtc.runtime.verify.ptx_forms import FORMS
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx_harness import execute
from ptx_meanings import FLOATS, SMALL, rounded

ARITHMETIC = ptx_meanings.arithmetic()

#: f32 bits: every upper half, under lower halves around the ties of f16 and bf16.
SINGLES = (
    np.arange(65536, dtype=np.uint32)[:, None] << 16
    | np.array(
        [0, 1, 0xFFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32
    )
).ravel()
HALVES = np.arange(65536, dtype=np.uint16)


def corners(kind: str) -> list[int]:
    """Zeros, subnormals, ones, the largest, infinity and NaNs, of both signs."""
    _, mantissa, _, nan = FLOATS[kind]
    one, sign = rounded(kind, Fraction(1)), nan + 1
    infinity = nan >> mantissa << mantissa
    least = 1 << mantissa
    positive = [0, 1, 2, least - 1, least, least + 1, one - 1, one, one + 1, one + least // 2]
    positive += [infinity - 1, infinity, infinity + 1, nan]
    return [bits | s for bits in positive for s in (0, sign)]


def sources_of(opcode: str, count: int = 300) -> list[list[int]]:
    random = Random(opcode)
    found = []
    for kind in FORMS[opcode].takes:
        if kind == "pred":
            found.append([random.randrange(2) for _ in range(2 * count)])
            continue
        single = kind.removesuffix("x2")
        some, top = corners(single), 2 * (FLOATS[single][3] + 1)
        rows = [random.choice(some) for _ in range(count)]
        rows += [random.randrange(top) for _ in range(count)]
        if kind.endswith("x2"):
            rows = [low | high << 16 for low, high in zip(rows, rows[::-1], strict=True)]
        found.append(rows)
    return found


@pytest.mark.parametrize("opcode", ARITHMETIC)
def test_arithmetic_is_exact_and_rounded_once(opcode: str) -> None:
    sources = sources_of(opcode)
    expected = [ARITHMETIC[opcode](*row) for row in zip(*sources, strict=True)]
    assert execute(opcode, *sources) == expected


@pytest.mark.parametrize("kind", FLOATS)
def test_a_product_meets_the_sum_before_it_is_rounded(kind: str) -> None:
    """A tie is broken by the least that can be added, 2^126 times smaller than it for f32."""
    _, mantissa, _, nan = FLOATS[kind]
    one = rounded(kind, Fraction(1))
    odd, three_halves = one + 1, one + (1 << (mantissa - 1))
    tie = Fraction(3, 2) * (1 + Fraction(1, 1 << mantissa))
    up, down = (rounded(kind, tie + s * Fraction(1, 1 << (mantissa + 9))) for s in (1, -1))
    assert up == down + 1
    least = [1, 1 | (nan + 1)]
    assert execute(f"fma.rn.{kind}", [odd] * 2, [three_halves] * 2, least) == [up, down]


@pytest.mark.parametrize("kind", FLOATS)
def test_what_a_rounded_product_has_lost_is_found_by_fma(kind: str) -> None:
    random, (_, _, _, nan) = Random(3), FLOATS[kind]
    a, b = ([random.randrange(nan + 1) for _ in range(400)] for _ in "ab")
    lost = [bits ^ (nan + 1) for bits in execute(f"mul.rn.{kind}", a, b)]
    expected = [ptx_meanings.fma(kind, *row) for row in zip(a, b, lost, strict=True)]
    assert execute(f"fma.rn.{kind}", a, b, lost) == expected


@settings(max_examples=300, deadline=None)
@given(*[st.integers(0, 2**32 - 1)] * 3)
def test_fma_of_f32_is_that_of_the_products_of_rows(a: int, b: int, c: int) -> None:
    floats = [np.array([bits], np.uint32).view(np.float32) for bits in (a, b, c)]
    expected = fma32(*floats)
    (found,) = execute("fma.rn.f32", [a], [b], [c])
    same = np.array([found], np.uint32).view(np.float32)
    assert np.array_equal(same, expected, equal_nan=True)
    assert found == 0x7FFFFFFF or np.signbit(same) == np.signbit(expected)


@pytest.mark.parametrize("verb", ["add", "sub", "mul"])
@pytest.mark.parametrize("kind", FLOATS)
def test_sums_and_products_are_those_of_numpy(kind: str, verb: str) -> None:
    """NumPy has f16 and bf16 by way of f32, whose 24 bits round innocuously."""
    dtype, _, _, nan = FLOATS[kind]
    a, b = np.random.default_rng(5).integers(0, 2 * (nan + 1), (2, 20_000), np.uint32)
    bits = "u4" if kind == "f32" else "u2"
    x, y = (side.astype(bits).view(dtype) for side in (a, b))
    with np.errstate(all="ignore"):
        made = {"add": x + y, "sub": x - y, "mul": x * y}[verb]
    expected = np.where(np.isnan(made), nan, made.view(bits))
    assert execute(f"{verb}.rn.{kind}", a, b) == expected.tolist()


def canonical(values: np.ndarray, nan: int) -> np.ndarray:
    bits = values.view(f"u{values.dtype.itemsize}")
    return np.where(np.isnan(values), nan, bits)


def test_every_half_widens_to_its_value() -> None:
    expected = canonical(HALVES.view(np.float16).astype(np.float32), 0x7FFFFFFF)
    assert execute("cvt.f32.f16", HALVES) == expected.tolist()


def test_every_bfloat_widens_to_its_value_and_a_nan_to_itself() -> None:
    found = np.array(execute("cvt.f32.bf16", HALVES), np.uint32)
    assert np.array_equal(found, HALVES.astype(np.uint32) << 16)
    value = HALVES.view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(found.view(np.float32), value, equal_nan=True)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_singles_are_rounded_to_the_nearest_half(kind: str) -> None:
    with np.errstate(all="ignore"):
        made = SINGLES.view(np.float32).astype(FLOATS[kind][0])
    expected = canonical(made, 0x7FFF)
    assert execute(f"cvt.rn.{kind}.f32", SINGLES) == expected.tolist()
    words = expected.astype(np.uint32) << 16 | expected[::-1]
    assert execute(f"cvt.rn.{kind}x2.f32", SINGLES, SINGLES[::-1]) == words.tolist()


def small_values(name: str, words: np.ndarray) -> list[np.ndarray]:
    """Both values of each word, the lower first, as f16."""
    dtype = SMALL[name]
    stride, mask = {"e2m1x2": (4, 15), "e2m3x2": (8, 63), "e3m2x2": (8, 63)}.get(name, (8, 255))
    codes = [(words >> shift & mask).astype(np.uint8) for shift in (0, stride)]
    with np.errstate(invalid="ignore"):
        return [code.view(dtype).astype(np.float16) for code in codes]


@pytest.mark.parametrize("name", SMALL)
def test_every_pair_of_small_floats_widens_to_halves(name: str) -> None:
    words = np.arange(256 if name == "e2m1x2" else 65536, dtype=np.uint16)
    if name in ("e2m3x2", "e3m2x2"):
        words = words[words & 0xC0C0 == 0]  # the ISA pads codes of six bits with zeros
    low, high = (canonical(part, 0x7FFF).astype(np.uint32) for part in small_values(name, words))
    assert execute(f"cvt.rn.f16x2.{name}", words) == (low | high << 16).tolist()


def test_every_pair_of_powers_of_two_widens_to_bfloats() -> None:
    codes = HALVES.view(np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(ml_dtypes.bfloat16)
    expected = canonical(codes, 0x7FFF).astype(np.uint16).view(np.uint32)
    assert execute("cvt.rn.bf16x2.ue8m0x2", HALVES) == expected.tolist()


def saturated(values: np.ndarray, name: str) -> np.ndarray:
    """Codes of one byte, from the largest finite value at most."""
    most = float(ml_dtypes.finfo(SMALL[name]).max)
    with np.errstate(invalid="ignore"):
        made = np.clip(values.astype(np.float32), -most, most).astype(SMALL[name])
    return canonical(made, 0x7F).astype(np.uint32)


@pytest.mark.parametrize("name", ["e4m3x2", "e5m2x2"])
def test_floats_are_rounded_to_bytes_and_saturate(name: str) -> None:
    codes = saturated(SINGLES.view(np.float32), name)
    words = codes << 8 | codes[::-1]
    assert execute(f"cvt.rn.satfinite.{name}.f32", SINGLES, SINGLES[::-1]) == words.tolist()
    halves = saturated(HALVES.view(np.float16), name)
    pairs = HALVES.astype(np.uint32) << 16 | HALVES[::-1]
    words = halves << 8 | halves[::-1]
    assert execute(f"cvt.rn.satfinite.{name}.f16x2", pairs) == words.tolist()


@pytest.mark.parametrize("to", ["f16", "f32"])
@pytest.mark.parametrize("of", ["u8", "s8", "u16", "s16", "u32", "s32"])
def test_integers_are_rounded_to_floats(of: str, to: str) -> None:
    random = np.random.default_rng(9)
    whole = random.integers(0, 2**32, 3000, np.uint32) >> random.integers(0, 32, 3000, np.uint32)
    ties = 1 << np.arange(11, 32, dtype=np.uint32)
    bits = np.concatenate([whole, ~whole, ties + 1, ties + (ties >> 11), ~ties, [0]]).astype("u4")
    held = bits if of[1:] == "32" else bits.astype("u2")  # a register of 16 bits holds a byte too
    expected = [rounded(to, Fraction(ptx_meanings.number(of, int(b)))) for b in held]
    assert execute(f"cvt.rn.{to}.{of}", held) == expected


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_floats_become_the_nearest_integers_within_the_range(kind: str) -> None:
    with np.errstate(invalid="ignore"):
        values = SINGLES.view(np.float32).astype(np.float64)
    least, most = (0, 2**32 - 1) if kind == "u32" else (-(2**31), 2**31 - 1)
    for rounding, rule in (("rni", np.round), ("rzi", np.fix)):
        whole = np.clip(np.nan_to_num(rule(values), nan=0.0), least, most).astype(np.int64)
        assert execute(f"cvt.{rounding}.{kind}.f32", SINGLES) == (whole % 2**32).tolist()


def test_every_conversion_of_floats_is_tried_here() -> None:
    tried = {"cvt.f32.f16", "cvt.f32.bf16", "cvt.rn.bf16x2.ue8m0x2"}
    tried |= {f"cvt.rn.{kind}{pair}.f32" for kind in ("f16", "bf16") for pair in ("", "x2")}
    tried |= {f"cvt.rn.f16x2.{name}" for name in SMALL}
    tried |= {f"cvt.rn.satfinite.{n}.{of}" for n in ("e4m3x2", "e5m2x2") for of in ("f32", "f16x2")}
    tried |= {f"cvt.rn.{to}.{k}{w}" for to in ("f16", "f32") for k in "us" for w in (8, 16, 32)}
    tried |= {
        f"cvt.{rounding}.{kind}.f32" for rounding in ("rni", "rzi") for kind in ("u32", "s32")
    }
    integers = ptx_meanings.integers().keys()
    assert tried == {opcode for opcode in FORMS if opcode.startswith("cvt.")} - integers
