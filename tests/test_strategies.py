"""Every strategy of decoding, for all codes at all places: PTX, twin and exact values agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from fmtc.codegen.triton.products import default_method, default_order
from fmtc.codegen.triton.products.blocks import Blocks
from fmtc.codegen.triton.products.codes import Codes
from fmtc.codegen.triton.products.decoded import Decoded
from fmtc.codegen.triton.products.functions import Function
from fmtc.codegen.triton.products.method import Method, Use
from fmtc.codegen.triton.products.methods import Integers, methods_of
from fmtc.codegen.triton.snippets import Snippet
from fmtc.codegen.triton.strategies import (
    Strategy,
    by_select,
    integer_bytes,
    strategies_of,
)
from fmtc.compiler.decoding import Values, base_of
from fmtc.compiler.format import Format, Grid
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.physical import BYTES, NATURAL, PAIRS, PhysicalLayout, to_physical
from fmtc.formats import load, names
from fmtc.runtime.verify.ptx import run
from gpu_oracle import (
    U32,
    codes_everywhere,
    emulated,
    evaluated,
    evaluated_body,
    fma16,
    halves_of,
    values_of,
    words_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

F16 = NDArray[np.float16]


@cache
def shipped() -> dict[tuple[str, int, tuple[Values, ...]], tuple[str, Format, Strategy]]:
    """The strategies that shipped formats have, each set of grids once."""
    found: dict[tuple[str, int, tuple[Values, ...]], tuple[str, Format, Strategy]] = {}
    for name in names():
        kernel = kernel_format(load(name))
        for strategy in strategies_of(kernel):
            key = (strategy.name, strategy.bits, base_of(kernel).grids)
            found.setdefault(key, (f"{name} {strategy.name}", kernel, strategy))
    return found


SHIPPED = [
    pytest.param(fmt, strategy, id=label.replace(" ", "-"))
    for label, fmt, strategy in shipped().values()
]


def expected(strategy: Strategy, grids: Sequence[Values], codes: NDArray[np.int64], selects: U32):
    """Binary16: the exact values over 2^power, rounded once where they are no such numbers."""
    exact = values_of(grids, codes, selects) * 2.0**-strategy.power
    found = exact.astype(np.float16)
    assert not strategy.exact or np.array_equal(found, exact, equal_nan=True)
    return found


def same(found: F16, wanted: F16) -> None:
    """The same numbers; zeros of either sign are one, and so are NaNs."""
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found.astype(np.float64), wanted.astype(np.float64))


def alike(pairs: Sequence[U32], others: Sequence[U32]) -> None:
    """The same bits of binary16 pairs, whatever the bits of a NaN."""
    found = [halves_of(p) for p in (pairs, others)]
    a, b = (np.where(np.isnan(f), np.uint16(0x7E00), f.view(np.uint16)) for f in found)
    np.testing.assert_array_equal(a, b)


def decodes(strategy: Strategy, found: F16, wanted: F16) -> None:
    """The same numbers; a code of no number, which no encoder stores, stays none.

    But for integers: there it is the one that comes in its place.
    """
    numbers = ~np.isnan(wanted)
    same(np.where(numbers, found, 0), np.where(numbers, wanted, 0))
    assert strategy.name == "integer" or not np.isfinite(found[~numbers]).any()


def selected(strategy: Strategy) -> tuple[Snippet, int]:
    """The decoding of a word whose groups' select bits are inputs."""
    s = Snippet()
    words = [s.read(name) for name in strategy.words]
    several = strategy.tables > 1
    chooses = [by_select(s, s.read(f"select_{g}")) if several else only for g in ("low", "high")]
    s.give(*strategy.pairs(s, words, chooses))
    return s, 2 * several


def only(words: Sequence[int]) -> int:
    (word,) = words
    return word


def check(fmt: Format, strategy: Strategy) -> None:
    """PTX and twin alike, on the values; at most 2^top."""
    grids = base_of(fmt).grids
    codes = codes_everywhere(strategy.bits)
    words = words_of(codes, strategy.bits, strategy.order)
    s, takes = selected(strategy)
    count = strategy.tables
    for low in range(count):
        high = (low * 7 + 3) % count
        selects = [np.full(len(codes), select, np.uint32) for select in (low, high)]
        inputs = [*words, *selects[:takes]]
        pairs = emulated(s, inputs)
        wanted = expected(strategy, grids, codes, np.repeat([low, high], 4)[None, :])
        decodes(strategy, halves_of(pairs), wanted)
        alike(pairs, evaluated(s, inputs))
        assert np.nanmax(np.abs(wanted.astype(np.float64))) <= 2.0**strategy.top


@pytest.mark.parametrize(("fmt", "strategy"), SHIPPED)
def test_all_codes_at_all_places_become_their_values(fmt: Format, strategy: Strategy) -> None:
    check(fmt, strategy)


def use_of(method: Method, operation: str = "gemv", twin: bool = False) -> Use:
    """What a module of a method is made for."""
    fmt = method.fmt
    blocks = Blocks(fmt, method.base, method.power, not fmt.is_plain)
    return Use(operation, blocks, Codes(fmt, method.order or BYTES), twin)


def decoded(fmt: Format, strategy: Strategy) -> Decoded:
    """The method that has a strategy."""
    (found,) = [m for m in methods_of(fmt) if type(m) is Decoded and m.by is strategy]
    assert (found.power, found.top, found.exact) == (strategy.power, strategy.top, strategy.exact)
    assert found.base == base_of(fmt)
    assert found.order == (strategy.order if strategy.bits >= 4 else None)
    return found


@pytest.mark.parametrize(("fmt", "strategy"), SHIPPED)
def test_the_functions_of_a_gemv_decode_alike(fmt: Format, strategy: Strategy) -> None:
    """With the tables that the module loads, for every grid."""
    method = decoded(fmt, strategy)
    blocks = use_of(method).blocks
    function = method.functions(use_of(method))[0]
    codes = codes_everywhere(strategy.bits, more=16)
    words = words_of(codes, strategy.bits, strategy.order)
    size = len(method.words) + len(method.words) % 2
    for low in range(strategy.tables):
        high = (low * 5 + 1) % strategy.tables if len(blocks.groups) > 1 else low
        found = list(words)
        if method.words:
            for grid in (low, high)[: len(method.prefixes(blocks))]:
                table = method.tables["grids"][grid * size :][: len(method.words)]
                found += [np.full(len(codes), word, np.uint32) for word in table]
        else:
            selects = (low, high)[: len(blocks.selects)]
            found += [np.full(len(codes), select, np.uint32) for select in selects]
        assert len(function.arguments) == len(found)
        pairs = run("\n".join(function.asm), function.constraints, found)
        selects = np.repeat([low, high], 4)[None, :]
        wanted = expected(strategy, base_of(fmt).grids, codes, selects)
        decodes(strategy, halves_of(pairs), wanted)


@pytest.mark.parametrize(("fmt", "strategy"), SHIPPED)
@pytest.mark.parametrize("scaled", [False, True], ids=["codes", "weights"])
def test_the_functions_of_a_gemm_decode_and_scale_alike(
    fmt: Format, strategy: Strategy, scaled: bool
) -> None:
    """Word by word: four neighbours of a thread are whichever Triton's layout says."""
    method = decoded(fmt, strategy)
    blocks = use_of(method, "gemm").blocks
    function = method.tile(blocks, scaled=scaled)
    assert (function.pack, len(function.outputs)) == (1, 8)
    codes = codes_everywhere(strategy.bits, more=64)
    named = dict(zip(strategy.words, words_of(codes, strategy.bits, strategy.order), strict=True))
    rng = np.random.default_rng(5)
    count = len(codes)
    for low in range(strategy.tables):
        selects = [low, low if blocks.shared else (low * 5 + 1) % strategy.tables]
        named |= {
            f"select_{group}": np.full(count, select, np.uint32)
            for group, select in zip(("low", "high"), selects, strict=True)
        }
        numbers = {
            name: (rng.standard_normal(count) * 2.0 ** rng.integers(-12, 3, count)).astype("f2")
            for name in blocks.results
            if not name.startswith("select")
        }
        inputs = [numbers[n] if n in numbers else named[n] for n in function.arguments]
        found = run("\n".join(function.asm), function.constraints, inputs)
        halves = np.stack(found, axis=1).view(np.float16)
        plain = expected(strategy, base_of(fmt).grids, codes, np.repeat(selects, 4)[None, :])
        with np.errstate(all="ignore"):
            wanted = weights(blocks, plain, numbers) if scaled else plain
        decodes(strategy, halves, wanted)


def weights(blocks: Blocks, plain: F16, numbers: dict[str, F16]) -> F16:
    """A tile's weights: an offset added, a scale multiplied, each rounded to binary16."""
    parts = []
    for group, columns in (("low", slice(0, 4)), ("high", slice(4, 8))):
        of = "low" if blocks.shared else group
        values, scale = plain[:, columns], numbers[f"scale_{of}"][:, None]
        if blocks.offsets == "after":
            parts.append(fma16(values, scale, numbers[f"offset_{of}"][:, None]))
        elif blocks.offsets == "before":
            parts.append((values + numbers[f"offset_{of}"][:, None]) * scale)
        else:
            parts.append(values * scale)
    return np.concatenate(parts, axis=1)


def test_the_model_of_a_fused_multiply_add_rounds_once() -> None:
    """Where a second rounding would be seen: a product on a tie, and something below it."""
    half = np.float16
    one, ulp = half(1 + 2**-10), half(2.0**-24)
    assert fma16(one, one, half(0)) == half(1 + 2**-9)
    a, b = half(1 + 2**-5), half(1 + 2**-6)  # 1 + 3 * 2^-6 + 2^-11 is a tie
    down, up = half(1 + 3 * 2**-6), half(1 + 3 * 2**-6 + 2**-10)
    assert fma16(a, b, half(0)) == down
    assert (fma16(a, b, ulp), fma16(a, b, -ulp)) == (up, down)
    assert fma16(half(30000), half(3), half(-30000)) == half(60000)
    assert np.isinf(fma16(half(30000), half(3), half(0)))


SPECIAL = np.array([0, 0x8000, 1, 0x83FF, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00])


def random_pairs(seed: int, count: int) -> list[U32]:
    """Registers of binary16 pairs: ordinary ones, and every special one."""
    rng = np.random.default_rng(seed)
    ordinary = rng.standard_normal((count, 2)) * 2.0 ** rng.integers(-14, 8, (count, 2))
    bits = ordinary.astype(np.float16).view(np.uint16)
    special = rng.integers(0, 12, (count, 2)) == 0
    bits = np.where(special, rng.choice(SPECIAL, (count, 2)), bits).astype(np.uint32)
    return bits[:, 0] | bits[:, 1] << 16


@cache
def arithmetic(name: str, twin: bool) -> dict[str, Function]:
    """The functions that multiply and add, by their first lines."""
    fmt = kernel_format(load("nvfp4"))
    (method,) = [m for m in methods_of(fmt) if m.name == name]
    found = method.functions(use_of(method, twin=twin))
    return {f.head.split("(")[0].removeprefix("def "): f for f in found}


def both(method: str, name: str, inputs: Sequence[NDArray]) -> tuple[U32, ...]:
    """What PTX gives, after a look at what the twin gives: the same numbers."""
    function, twin = arithmetic(method, False)[name], arithmetic(method, True)[name]
    found = run("\n".join(function.asm), function.constraints, inputs)
    kind = {"_pair_sum": np.float32, "_multiply_add": np.float16}[name]
    kind = np.uint32 if method == "dp4a" else kind
    for ptx, other in zip(found, evaluated_body(twin, inputs), strict=True):
        same(ptx.view(kind), other.view(kind))
    return found


def test_the_multiply_adds_of_a_gemv_round_once_each() -> None:
    registers = [random_pairs(i, 4000) for i in range(10)]
    p, x, low, high = registers[:4], registers[4:8], registers[8], registers[9]
    wide = [a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32) for a, b in (x[:2], x[2:])]
    found = both("permute1", "_multiply_add", [*p, *wide, low, high])
    h = [r.view(np.float16) for r in registers]
    with np.errstate(invalid="ignore"):
        wanted = [
            fma16(h[1], h[5], fma16(h[0], h[4], h[8])),
            fma16(h[3], h[7], fma16(h[2], h[6], h[9])),
        ]
    for pair, want in zip(found, wanted, strict=True):
        same(pair.view(np.float16), want)
    (total,) = both("permute1", "_pair_sum", [p[0]])
    halves = p[0].view(np.float16).reshape(-1, 2).astype(np.float32)
    with np.errstate(invalid="ignore"):
        same(total.view(np.float32), halves[:, 0] + halves[:, 1])


def test_int8_products_are_exact() -> None:
    rng = np.random.default_rng(3)
    octets = rng.choice([-128, -127, -1, 0, 1, 5, 127], (4, 3000, 4)).astype(np.int8)
    words = [np.ascontiguousarray(part).view(np.uint32)[:, 0] for part in octets]
    sums = rng.integers(-(2**20), 2**20, (2, 3000)).astype(np.int32)
    found = both("dp4a", "_multiply_add", [*words, *sums.view(np.uint32)])
    wide = octets.astype(np.int64)
    for group in (0, 1):
        wanted = (wide[group] * wide[2 + group]).sum(axis=1) + sums[group]
        np.testing.assert_array_equal(found[group].view(np.int32), wanted)


INTEGERS = [
    name for name in names() if any(m.name == "dp4a" for m in methods_of(kernel_format(load(name))))
]


@pytest.mark.parametrize("name", INTEGERS)
def test_codes_become_the_integers_that_their_grids_are(name: str) -> None:
    fmt = kernel_format(load(name))
    (method,) = [m for m in methods_of(fmt) if isinstance(m, Integers)]
    blocks = use_of(method).blocks
    function, twin = (method.functions(use_of(method, twin=twin))[0] for twin in (False, True))
    codes = codes_everywhere(fmt.code_bits, more=32)
    words = words_of(codes, fmt.code_bits, method.order or BYTES)
    grids = [grid.values for grid in fmt.grids]
    for low in range(len(grids)):
        high = (low * 5 + 1) % len(grids) if len(blocks.groups) > 1 else low
        tables = [method.base.of[i] for i in (low, high)][: len(blocks.selects)]
        inputs = [*words, *(np.full(len(codes), table, np.uint32) for table in tables)]
        found = run("\n".join(function.asm), function.constraints, inputs)
        for a, b in zip(found, evaluated_body(twin, inputs), strict=True):
            np.testing.assert_array_equal(a, b)
        integers = np.stack(found, axis=1).view(np.int8).reshape(codes.shape)
        selects = np.repeat([low, high], 4)[None, :]
        units = np.array([float(f) for f in method.base.factors])[
            np.broadcast_to(selects, codes.shape)
        ]
        exact = values_of(grids, codes, selects)
        number = np.isfinite(exact)
        np.testing.assert_array_equal((integers * units)[number], exact[number])


# -- what a word is ---------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("order", [NATURAL, PAIRS, BYTES])
def test_words_here_are_those_of_the_layout(bits: int, order: tuple[int, ...]) -> None:
    layout = PhysicalLayout(bits, order)
    row = np.random.default_rng(bits).integers(0, 1 << bits, 512).astype(np.uint8)
    planes = to_physical(row[None], layout, 0)
    codes = row[layout.columns(512)].astype(np.int64)
    kinds = {8: "<u4", 4: "<u4", 2: "<u2", 1: "u1"}
    read = []
    for width, plane in zip(layout.planes, planes, strict=True):
        words = plane[0].view(kinds[width])
        read += np.split(words, 2) if width == 8 else [words]
    for here, there in zip(words_of(codes, bits, order), read, strict=True):
        np.testing.assert_array_equal(here, there)


# -- which strategies -------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_shipped_format_of_at_most_four_bits_needs_no_table_in_memory(name: str) -> None:
    kernel = kernel_format(load(name))
    found = strategies_of(kernel)
    assert len({s.name for s in found}) == len(found)
    if kernel.code_bits <= 4:
        assert any(s.least_arch == 80 for s in found)
        assert default_method(kernel, "gemm").name == found[0].name
        assert default_order(kernel) == (found[0].order if kernel.code_bits == 4 else BYTES)
    exact = [s.exact for s in found]
    assert exact == sorted(exact, reverse=True)


def test_the_strategies_that_the_issue_names() -> None:
    def of(name: str) -> set[str]:
        return {s.name for s in strategies_of(kernel_format(load(name)))}

    assert of("nvfp4") == of("mxfp4") == {"e4m3", "shift", "permute_e4m3", "permute1"}
    assert of("int4_sym_g128") == {"integer", "permute_e4m3", "permute1"}
    assert of("nf4") == of("po2_nf4") == of("lut3") == {"permute2"}
    assert of("mixfp4") == {"permute_e4m3", "permute1"}
    assert of("mxfp8_e5m2") == {"shift"}
    assert of("hif8_ue4m4") == of("nf5") == of("dynamic8") == set()


# -- generated formats ------------------------------------------------------------------


def with_grids(*grids: Sequence[Fraction | None], block: int = 16) -> Format:
    """A format of a generated set of grids; two or more are chosen by a field's bits."""
    fmt = kernel_format(load("block_dialect" if len(grids) > 1 else "mxfp4"))
    named = [Grid(f"g{i}", "codebook", tuple(values)) for i, values in enumerate(grids)]
    return replace(fmt, name="made", grids=tuple(named), block=block)


numbers = st.one_of(
    st.integers(-40, 40).map(lambda i: Fraction(i, 8)),
    st.floats(width=32, min_value=-8, max_value=8).filter(lambda v: v == 0 or abs(v) > 2**-20),
    st.none(),
).map(lambda v: v if v is None else Fraction(v))


@st.composite
def formats(draw: st.DrawFn) -> Format:
    bits = draw(st.integers(1, 4))
    books = st.lists(numbers, min_size=1 << bits, max_size=1 << bits)
    full = books.filter(lambda book: len({v for v in book if v is not None}) > 1)
    return with_grids(*draw(st.lists(full, min_size=1, max_size=5)))


@settings(max_examples=25, deadline=None)
@given(formats())
def test_generated_codebooks_decode_alike(fmt: Format) -> None:
    for strategy in strategies_of(fmt):
        check(fmt, strategy)


@st.composite
def floats_and_integers(draw: st.DrawFn) -> Format:
    bits = draw(st.integers(1, 8))
    power, half = Fraction(2) ** draw(st.integers(-8, 4)), 1 << (bits - 1)
    if draw(st.booleans()) or bits < 3:
        bias = draw(st.sampled_from([0, half, 1, -3]))
        flip = draw(st.sampled_from([0, half]))
        return with_grids([((code ^ flip) - bias) * power for code in range(1 << bits)])
    mantissa = draw(st.integers(max(0, bits - 6), bits - 2))
    magnitudes = []
    for code in range(half):
        exponent, rest = divmod(code, 1 << mantissa)
        leading = (1 << mantissa) if exponent else 0
        magnitudes.append((leading + rest) * Fraction(2) ** max(exponent, 1) * power)
    return with_grids([*magnitudes, *(-v for v in magnitudes)])


@settings(max_examples=25, deadline=None)
@given(floats_and_integers())
def test_generated_floats_and_integers_decode_alike(fmt: Format) -> None:
    for strategy in strategies_of(fmt):
        check(fmt, strategy)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.data())
def test_integer_bytes_are_looked_up(bits: int, data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(
            st.lists(st.integers(-128, 127), min_size=1 << bits, max_size=1 << bits),
            min_size=1,
            max_size=3,
        )
    )
    fmt = with_grids(*[[Fraction(v) for v in row] for row in rows])
    s = Snippet()
    words = [s.read(name) for name in strategies_of(fmt)[-1].words]
    select = s.read("select")
    s.give(
        *integer_bytes(fmt, rows)(s, words, [by_select(s, select) if len(rows) > 1 else only] * 2)
    )
    codes = codes_everywhere(bits)
    table = np.array(rows)
    for grid in range(len(rows)):
        inputs = [*words_of(codes, bits, NATURAL), np.full(len(codes), grid, np.uint32)]
        for octets in (emulated(s, inputs), evaluated(s, inputs)):
            found = np.stack(octets, axis=1).view(np.int8).reshape(len(codes), 8)
            np.testing.assert_array_equal(found, table[grid][codes])
