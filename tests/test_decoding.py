"""What ``compiler.decoding`` says of a grid, against number types of NumPy and ml_dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from fmtc.compiler.decoding import (
    TABLE_TOP,
    Values,
    base_of,
    e4m3_fields,
    e4m3_table,
    half_fields,
    half_table,
    offset_integer,
    pad_code,
    top,
)
from fmtc.compiler.format import Format, Grid
from fmtc.compiler.kernel import kernel_format
from fmtc.formats import load, names
from hypothesis import assume, given, settings
from hypothesis import strategies as st


@cache
def numbers_of(dtype: type) -> tuple[Fraction | None, ...]:
    """What every bit pattern of a float type is; None: an infinity or a NaN."""
    width = np.dtype(dtype).itemsize * 8
    bits = np.arange(1 << width, dtype=f"u{width // 8}")
    values = bits.view(dtype).astype(np.float64)
    return tuple(Fraction(float(v)) if np.isfinite(v) else None for v in values)


def half_number(bits: int) -> Fraction | None:
    return numbers_of(np.float16)[bits]


def e4m3_number(bits: int) -> Fraction | None:
    return numbers_of(ml_dtypes.float8_e4m3fn)[bits]


NUMBER = {half_fields: (half_number, 15), e4m3_fields: (e4m3_number, 7)}


def times(values: Values, power: int) -> Values:
    return tuple(None if v is None else v * Fraction(2) ** power for v in values)


def largest(values: Values) -> Fraction:
    return max((abs(v) for v in values if v is not None), default=Fraction(0))


def powers(value: Fraction, unit: Fraction) -> list[int]:
    """The power of two that one number is of another, if it is one."""
    ratio = value / unit if unit else Fraction(0)
    if ratio <= 0:
        return []
    power = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    return [power] if ratio == Fraction(2) ** power else []


def moved(code: int, size: int, shift: int, sign: int) -> int:
    """A code's sign bit on top of a wider word, its other bits ``shift`` bits up."""
    return (code // (size // 2) << sign) | (code % (size // 2) << shift)


def field_forms(values: Values, find: Callable[[Values], object]) -> set[tuple[int, int]]:
    """Every shift and power under which moved fields are the values: by trying all of them."""
    number, sign = NUMBER[find]
    size = len(values)
    found = set()
    for shift in range(sign + 1):
        if (size // 2 - 1) << shift >= 1 << sign:
            continue
        read = tuple(number(moved(code, size, shift, sign)) for code in range(size))
        found |= {
            (shift, p) for p in powers(largest(values), largest(read)) if times(read, p) == values
        }
    return found


def integer_forms(values: Values) -> set[tuple[int, int, int]]:
    """Every flip, bias and power of an integer grid, from its first two neighbours that are."""
    found = set()
    size = len(values)
    for flip in (0, size // 2):
        by_rank = [values[rank ^ flip] for rank in range(size)]
        steps = [b - a for a, b in pairwise(by_rank) if None not in (a, b)]
        if len(set(steps)) != 1 or sum(v is not None for v in by_rank) != len(steps) + 1:
            continue  # unequal steps, or a gap
        for power in powers(steps[0], Fraction(1)):
            rank, value = next((r, v) for r, v in enumerate(by_rank) if v is not None)
            bias = rank - value / Fraction(2) ** power
            if bias.denominator == 1:
                found.add((flip, int(bias), power))
    return found


def check(values: Values) -> None:
    """What is said of one grid holds, and is said wherever it does."""
    for find in NUMBER:
        said, forms = find(values), field_forms(values, find)
        assert (said is not None) == bool(forms and len(values) >= 4), find.__name__
        assert said is None or (said.shift, said.power) in forms
    integer = offset_integer(values)
    forms = integer_forms(values)
    assert (integer is not None) == bool(forms)
    assert integer is None or (integer.flip, integer.bias, integer.power) in forms
    check_half_table((values,))
    check_byte_table((values,))


def check_half_table(grids: tuple[Values, ...]) -> None:
    """Every entry is the value rounded to nearest, the largest is in (2^-4, 2^-3]."""
    table = half_table(grids)
    unit = Fraction(2) ** table.power
    exact = True
    for values, row in zip(grids, table.rows, strict=True):
        for value, bits in zip(values, row, strict=True):
            number = half_number(bits)
            assert (value is None) == (number is None)
            if value is None or number is None:
                continue
            exact = exact and number * unit == value
            error = abs(number * unit - value)
            neighbours = [half_number(bits ^ 0x8000), half_number(bits + 1)]
            neighbours += [half_number(bits - 1)] if bits & 0x7FFF else []
            nearer = [n for n in neighbours if n is not None and abs(n * unit - value) < error]
            assert not nearer
            assert error <= max(Fraction(1, 2**11) * abs(value), Fraction(1, 2**25) * unit)
    assert table.exact == exact
    numbers = [abs(half_number(bits) or 0) for row in table.rows for bits in row]
    assert max(numbers) == 0 or Fraction(1, 16) < max(numbers) <= Fraction(2) ** TABLE_TOP
    assert table.has_low_bytes == any(bits % 256 for row in table.rows for bits in row)


def byte_power(grids: tuple[Values, ...]) -> bool:
    """Whether some power of two makes every value an E4M3 number."""
    numbers = set(numbers_of(ml_dtypes.float8_e4m3fn))
    reach = top(grids)
    tried = (tuple(times(row, -p) for row in grids) for p in range(reach - 10, reach + 11))
    return any(all(v in numbers for row in rows for v in row) for rows in tried)


def check_byte_table(grids: tuple[Values, ...]) -> None:
    table = e4m3_table(grids)
    assert (table is not None) == byte_power(grids)
    if table is not None:
        read = tuple(tuple(e4m3_number(byte) for byte in row) for row in table.rows)
        assert tuple(times(row, table.power) for row in read) == grids


# -- shipped grids ----------------------------------------------------------------------


@cache
def shipped() -> dict[Values, str]:
    """Every grid that kernels of shipped formats have, by its values."""
    return {
        grid.values: f"{name} {grid.name}"
        for name in names()
        for grid in kernel_format(load(name)).grids
    }


@pytest.mark.parametrize("values", shipped(), ids=shipped().values())
def test_what_is_said_of_a_shipped_grid_holds(values: Values) -> None:
    check(values)


@pytest.mark.parametrize("name", names())
def test_a_base_gives_every_grid_of_a_shipped_format(name: str) -> None:
    kernel = kernel_format(load(name))
    check_base(kernel)
    base = base_of(kernel)
    check_half_table(base.grids)
    check_byte_table(base.grids)


def check_base(fmt: Format) -> None:
    """Every grid is a base's image, and no base is another's."""
    base = base_of(fmt)
    places = (base.of, base.factors, base.shifts)
    for grid, of, factor, shift in zip(fmt.grids, *places, strict=True):
        image = [None if v is None else factor * v + shift for v in base.grids[of]]
        assert image == list(grid.values)
    assert set(base.of) == set(range(len(base.grids)))
    for later, values in enumerate(base.grids):
        assert not any(is_image(values, base.grids[earlier]) for earlier in range(later))
    assert base.is_shifted == any(s != 0 for s in base.shifts)
    assert base.is_scaled == any(f != 1 for f in base.factors)


def is_image(values: Values, known: Values) -> bool:
    """Whether one grid is an affine image of another: all their differences are proportional."""
    if [v is None for v in values] != [v is None for v in known]:
        return False
    pairs = [(k, v) for k, v in zip(known, values, strict=True) if k is not None]
    (k0, v0), *rest = pairs
    apart = [(k - k0, v - v0) for k, v in rest]
    pivot = next((pair for pair in apart if pair[0]), None)
    return pivot is not None and all(k * pivot[1] == v * pivot[0] for k, v in apart)


def test_the_forms_that_the_issue_names_are_found() -> None:
    def only(name: str) -> Values:
        (grid,) = kernel_format(load(name)).grids
        return grid.values

    for name in ("mxfp4", "nvfp4", "mxfp6_e2m3"):
        assert half_fields(only(name)) is not None, name
        assert e4m3_fields(only(name)) is not None, name
    assert e4m3_fields(only("mxfp8_e4m3")) is not None
    assert half_fields(only("mxfp8_e4m3")) is None  # its NaN would become a number
    assert half_fields(only("mxfp8_e5m2")) is not None
    assert e4m3_fields(only("mxfp8_e5m2")) is None
    for name in ("int4_sym_g128", "q4_0", "q4_k", "int8_sym_row", "int3_sym_g128", "q5_0"):
        assert offset_integer(only(name)) is not None, name
    for name in ("nf4", "nf5", "hif8_ue4m4", "dynamic8"):
        for find in (half_fields, e4m3_fields, offset_integer):
            assert find(only(name)) is None, name
    assert not half_table((only("nf4"),)).exact
    assert half_table((only("iq4_nl"),)).exact
    sfp4 = base_of(kernel_format(load("sfp4")))
    assert (len(sfp4.grids), sfp4.shifts) == (1, (0, Fraction(1, 2), Fraction(-1, 2)))


# -- generated grids --------------------------------------------------------------------


def minifloat(exponent: int, mantissa: int, power: int, tops: int, subnormal: bool) -> Values:
    """Sign, exponent and mantissa; the last ``tops`` magnitudes are no numbers."""
    size = 1 << (exponent + mantissa)
    magnitudes: list[Fraction | None] = []
    for code in range(size):
        field, rest = divmod(code, 1 << mantissa)
        denormal = field == 0 and subnormal
        leading = 0 if denormal else 1 << mantissa
        magnitudes.append((leading + rest) * Fraction(2) ** (max(field, subnormal) + power))
    for code in range(size - tops, size):
        magnitudes[code] = None
    return (*magnitudes, *(None if v is None else -v for v in magnitudes))


shapes = st.integers(1, 6).flatmap(lambda e: st.tuples(st.just(e), st.integers(0, 7 - e)))


@settings(max_examples=150, deadline=None)
@given(shapes, st.integers(-12, 4), st.integers(0, 3), st.booleans())
def test_minifloats_are_found_where_a_wider_float_holds_their_fields(
    shape: tuple[int, int], power: int, tops: int, subnormal: bool
) -> None:
    exponent, mantissa = shape
    assume(tops < 1 << (exponent + mantissa))
    values = minifloat(exponent, mantissa, power, tops, subnormal)
    assume(any(values))
    check(values)
    if subnormal and tops == 0 and exponent <= 4:
        assert half_fields(values) is not None
    if subnormal and tops == 0 and exponent <= 3 and mantissa <= 3:
        assert e4m3_fields(values) is not None


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(-12, 4), st.data())
def test_one_value_that_is_another_leaves_no_minifloat(
    shape: tuple[int, int], power: int, data: st.DataObject
) -> None:
    values = list(minifloat(*shape, power, 0, subnormal=True))
    place = data.draw(st.integers(0, len(values) - 1))
    factor = data.draw(st.sampled_from([Fraction(0), Fraction(-1), Fraction(3), Fraction(9, 8)]))
    values[place] = data.draw(st.sampled_from([None, values[place] * factor, Fraction(2) ** -30]))
    assume(any(values))
    check(tuple(values))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(-9, 5),
    st.sampled_from(["low", "middle", "two's complement", "shifted", "down"]),
    st.integers(0, 1),
)
def test_integers_are_found_whatever_their_offset(
    bits: int, power: int, kind: str, ends: int
) -> None:
    half, codes = 1 << (bits - 1), range(1 << bits)
    of = {
        "low": lambda code: code,
        "middle": lambda code: code - half,
        "two's complement": lambda code: (code ^ half) - half,
        "shifted": lambda code: code + 5,
        "down": lambda code: -code,
    }[kind]
    values: list[Fraction | None] = [of(code) * Fraction(2) ** power for code in codes]
    if ends and bits > 2:
        values[half if kind == "two's complement" else 0] = None
    check(tuple(values))
    if kind != "down":
        assert offset_integer(tuple(values)) is not None


exact32 = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-64, max_value=64)
codebooks = st.integers(1, 4).flatmap(
    lambda bits: st.lists(
        st.one_of(
            exact32.filter(lambda v: v == 0 or abs(v) > 2**-30).map(Fraction),
            st.integers(-32, 32).map(lambda i: Fraction(i, 16)),
            st.just(None),
        ),
        min_size=1 << bits,
        max_size=1 << bits,
    ).map(tuple)
)


@settings(max_examples=150, deadline=None)
@given(codebooks)
def test_of_any_codebook_is_said_what_holds(values: Values) -> None:
    assume(any(values))
    check(values)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([v for v in numbers_of(ml_dtypes.float8_e4m3fn) if v is not None]),
        min_size=16,
        max_size=16,
    ),
    st.integers(-20, 20),
)
def test_every_codebook_of_e4m3_numbers_is_found(numbers: list[Fraction], power: int) -> None:
    assume(any(numbers))
    assert e4m3_table((times(tuple(numbers), power),)) is not None


def with_grids(*grids: Values) -> Format:
    fmt = kernel_format(load("po2_nf4"))
    named = [Grid(f"g{i}", "codebook", values) for i, values in enumerate(grids)]
    return replace(fmt, grids=tuple(named))


factors = st.sampled_from([Fraction(n, d) for n in (-4, -1, 1, 2, 5) for d in (1, 2, 8)])
shifts = st.sampled_from([Fraction(n, 4) for n in range(-5, 6)])


@settings(max_examples=100, deadline=None)
@given(
    codebooks.filter(lambda values: len({v for v in values if v is not None}) > 1),
    st.lists(st.tuples(factors, shifts), min_size=1, max_size=3),
    st.booleans(),
    st.data(),
)
def test_affine_images_share_a_base_and_nothing_else_does(
    values: Values, images: list[tuple[Fraction, Fraction]], spoilt: bool, data: st.DataObject
) -> None:
    grids = [values]
    for factor, shift in images:
        grids.append(tuple(None if v is None else factor * v + shift for v in values))
    if spoilt:
        place = data.draw(st.integers(0, len(values) - 1))
        last = list(grids[-1])
        last[place] = Fraction(1, 3) if last[place] is None else None
        grids[-1] = tuple(last)
    fmt = with_grids(*grids)
    check_base(fmt)
    assert len(base_of(fmt).grids) == 1 + spoilt


@settings(max_examples=60, deadline=None)
@given(codebooks, st.data())
def test_the_pad_is_a_number_in_every_grid_and_the_smallest(
    values: Values, data: st.DataObject
) -> None:
    other = tuple(data.draw(st.permutations(values)))
    pad = pad_code(with_grids(values, other))
    sizes = {
        code: max(abs(v) for v in pair if v is not None)
        for code, pair in enumerate(zip(values, other, strict=True))
        if None not in pair
    }
    assert pad in range(len(values))
    assert not sizes or sizes[pad] == min(sizes.values())
    assert sizes or pad == 0


@given(st.lists(codebooks, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_top_is_the_least_power_of_two_above_all(grids: list[Values]) -> None:
    most, found = max(map(largest, grids)), top(tuple(grids))
    assert most <= Fraction(2) ** found
    assert most == 0 or most > Fraction(2) ** (found - 1)
