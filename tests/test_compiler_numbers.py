"""The numbers that a .fmt text compiles to, against a second formula and the literature."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

import fmtc
import pytest
from fmtc import compile_text
from fmtc.compiler.describe import word_diagram
from fmtc.compiler.floats import TOPS, named_float
from fmtc.compiler.format import Grid
from fmtc.compiler.hosts import HIF7, HIF8, HIF_HOSTS

HERE = Path(__file__).parent

# -- floats -----------------------------------------------------------------------------


def independent_value(code: int, exponent: int, mantissa: int, top: str) -> Fraction | None:
    """IEEE 754's formula over a written-out bit string, with bias 2^(X-1)-1."""
    bits = f"{code:0{exponent + mantissa}b}"
    e, m = bits[:exponent], bits[exponent:]
    fraction = int(m, 2) if m else 0
    if set(e) == {"1"} and (
        top in ("ieee", "reserved") or (top == "nan" and fraction == 2**mantissa - 1)
    ):
        return None
    bias = 2 ** (exponent - 1) - 1
    if set(e) == {"0"}:
        return Fraction(fraction, 2**mantissa) / 2**bias * 2
    return (1 + Fraction(fraction, 2**mantissa)) * Fraction(2) ** (int(e, 2) - bias)


SPLITS = [(x, y) for x, y in product(range(1, 8), range(8)) if x + y <= 10]


@pytest.mark.parametrize(("exponent", "mantissa"), SPLITS)
def test_a_float_of_any_split_has_the_values_of_the_formula(exponent: int, mantissa: int) -> None:
    name = f"e{exponent}m{mantissa}"
    signed, unsigned = named_float(name), named_float(f"u{name}")
    assert signed is not None
    assert unsigned is not None
    size = 1 << (exponent + mantissa)
    wanted = [independent_value(code, exponent, mantissa, signed.top) for code in range(size)]
    assert list(unsigned.values()) == wanted
    assert list(signed.values()) == [*wanted, *[None if v is None else -v for v in wanted]]
    assert named_float(f"s1{name}") == signed
    assert named_float(f"s0{name}") == unsigned
    known = [v for v in wanted if v is not None]
    assert known == sorted(set(known))
    assert signed.largest == known[-1]


@pytest.mark.parametrize("top", TOPS)
def test_top_decides_what_the_all_ones_exponent_means(top: str) -> None:
    grid = compile_text(f"format t {{ block 8  grid g = e4m3 {{ top {top} }}  scale e8m0 }}").grids[
        0
    ]
    half = [independent_value(code, 4, 3, top) for code in range(128)]
    assert list(grid.values[:128]) == half
    assert [float(grid.high)] == [{"finite": 480.0, "nan": 448.0}.get(top, 240.0)]


def test_bias_moves_every_value_by_a_power_of_two() -> None:
    plain = compile_text("format t { block 8  grid g = e3m2  scale e8m0 }").grids[0]
    moved = compile_text("format t { block 8  grid g = e3m2 { bias 11 }  scale e8m0 }").grids[0]
    for one, two in zip(plain.values, moved.values, strict=True):
        assert one is not None
        assert two == one / 2**8


def test_without_subnormals_field_zero_is_an_ordinary_exponent() -> None:
    grid = compile_text("format t { block 8  grid g = e2m1 { subnormals off }  scale e8m0 }").grids[
        0
    ]
    # 2^-1 and 1.5 * 2^-1 instead of 0 and 0.5.
    assert [str(v) for v in grid.values[:4]] == ["1/2", "3/4", "1", "3/2"]
    assert grid.negative_zero is None


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("e2m1", 6),
        ("e2m3", Fraction(15, 2)),
        ("e3m2", 28),
        ("e4m3", 448),
        ("ue4m3", 448),
        ("e5m2", 57344),
        ("ue4m4", 496),
        ("e3m3", 15),
        ("e2m5", Fraction(63, 16)),
        ("e8m0", Fraction(2) ** 127),
        ("s1e5m5", 129024),
    ],
)
def test_named_floats_have_their_published_maximum(name: str, largest: Fraction | int) -> None:
    number = named_float(name)
    assert number is not None
    assert number.largest == largest


@pytest.mark.parametrize("name", ["e2m1", "ue4m3", "e4m3", "e3m3", "e5m2", "e1m2"])
def test_the_nearest_value_of_a_float_is_the_nearest_of_its_list(name: str) -> None:
    number = named_float(name)
    assert number is not None
    values = sorted({value for value in number.values() if value is not None})
    between = [
        low + (high - low) * Fraction(i, 4) for low, high in pairwise(values) for i in range(4)
    ]
    for value in [*between, values[0] - 1, values[-1], values[-1] + 1]:
        assert number.nearest(value) == min(values, key=lambda v: (abs(v - value), v))


@pytest.mark.parametrize("name", ["e4m3", "ue4m3"])
def test_the_magnitude_0x7f_of_e4m3_is_its_only_nan(name: str) -> None:
    number = named_float(name)
    assert number is not None
    assert [code for code, value in enumerate(number.magnitudes()) if value is None] == [0x7F]
    assert number.nan_code == 0x7F


@pytest.mark.parametrize("name", ["ue4m4", "ue4m6", "ue5m3", "s1e5m5", "e5m6"])
def test_sop_scale_words_have_no_code_without_a_number(name: str) -> None:
    number = named_float(name)
    assert number is not None
    assert None not in number.magnitudes()
    assert number.nan_code is None


def test_integers_have_the_ranges_that_their_settings_say() -> None:
    def values(settings: str) -> list[int | None]:
        text = f"format t {{ block 8  grid g = int 4 {settings}  scale e8m0 }}"
        return [None if v is None else int(v) for v in compile_text(text).grids[0].values]

    upper = list(range(8))
    assert values("{ range full }") == [*upper, *range(-8, 0)]
    assert values("{ range symmetric }") == [*upper, None, *range(-7, 0)]
    assert values("{ range unsigned }") == list(range(16))
    assert values("{ range offset }") == list(range(-8, 8))
    assert values("") == values("{ range symmetric }")


# -- scale words ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "container", "select_bits", "diagram"),
    [
        ("e4m3", 8, 0, "s eeee mmm"),
        ("ue4m3", 8, 1, "u eeee mmm"),
        ("ue4m4", 8, 0, "eeee mmmm"),
        ("e5m6", 12, 0, "s eeeee mmmmmm"),
        ("s1e5m5", 12, 1, "s eeeee mmmmm u"),
        ("s0e6m5", 12, 1, "u eeeeee mmmmm"),
        ("s1e5m4", 12, 2, "s eeeee mmmm uu"),
        ("s0e5m5", 12, 2, "u eeeee mmmmm u"),
        ("e8m0", 8, 0, "eeeeeeee"),
        ("fp32", 32, 0, "s eeeeeeee " + "m" * 23),
    ],
)
def test_scale_words_have_the_layout_of_sop(
    word: str, container: int, select_bits: int, diagram: str
) -> None:
    grids = "".join(f"grid g{i} = e2m1  " for i in range(1 << select_bits))
    arms = ", ".join(f"{i}: g{i}" for i in range(1 << select_bits))
    select = f"select {select_bits} bits at scale.meta {{ {arms} }}" if select_bits else ""
    fmt = compile_text(f"format t {{ block 16  {grids} scale {word}  {select} }}")
    assert fmt.scale.word.container == container
    assert fmt.scale.word.meta_count == select_bits
    assert word_diagram(fmt) == diagram


def test_a_select_at_the_sign_takes_the_top_bit_and_the_index_reads_from_the_left() -> None:
    assert word_diagram(fmtc.load("po2_nf4")) == "u eeee mmm"
    assert fmtc.load("po2_nf4").select.positions == (7,)
    assert word_diagram(fmtc.load("sop_pair")) == "s eeeee mmmmm u"
    grids = "".join(f"grid g{i} = e2m1  " for i in range(4))
    fmt = compile_text(
        f"format t {{ block 16  {grids} scale s0e5m5"
        "  select 2 bits at scale.meta { 0: g0, 1: g1, 2: g2, 3: g3 } }"
    )
    assert fmt.select.positions == (11, 0)


@pytest.mark.parametrize(
    ("name", "bpw"),
    [
        ("mxfp4", "17/4"),
        ("nvfp4", "9/2"),
        ("nf4", "9/2"),
        ("e2m3_ue4m4", "13/2"),
        ("po2_nf4", "9/2"),
        ("sop_pair", "19/4"),
    ],
)
def test_shipped_formats_have_their_published_bits_per_weight(name: str, bpw: str) -> None:
    fmt = fmtc.load(name)
    assert fmt.exact_bpw == Fraction(bpw)
    assert fmt.bpw == float(Fraction(bpw))


def test_select_bits_in_a_field_of_their_own_are_counted() -> None:
    grids = "".join(f"grid g{i} = e2m1  " for i in range(3))
    fmt = compile_text(
        f"format t {{ block 16  {grids} scale e4m3"
        "  select 2 bits at field { 0: g0, 1: g1, 2: g2 } }"
    )
    assert fmt.exact_bpw == 4 + Fraction(10, 16)
    assert fmt.streams[2].row_bytes(100, 16) == 2


# -- HIF words --------------------------------------------------------------------------


def test_hif7_has_exactly_80_values_and_hif8_exactly_96() -> None:
    for host, count, low, high in ((HIF7, 80, -128, 120), (HIF8, 96, -256, 240)):
        values = {c * 2**s for c in range(-16, 16) for s in range(host.max_shift + 1)}
        assert len(values) == count
        assert list(host.words()) == sorted(values)
        assert (min(values), max(values)) == (low, high)
        grid = compile_text(f"format t {{ block 16  grid g = {host.name}  scale e8m0 }}").grids[0]
        assert {int(v) for v in grid.values if v is not None} == values


def test_every_hif_word_means_its_value_with_the_smallest_shift() -> None:
    for host in HIF_HOSTS.values():
        for value, word in host.words().items():
            assert word.coefficient * 2**word.shift == value
            assert -16 <= word.coefficient <= 15
            assert word.shift == 0 or not -16 <= value / 2 ** (word.shift - 1) <= 15
            assert word.bits == word.shift * 32 + word.coefficient % 32


def test_hif_grids_decode_canonical_and_redundant_codes_alike() -> None:
    grid = compile_text("format t { block 16  grid g = hif7  scale e8m0 }").grids[0]
    assert len(grid.values) == 128
    for code, value in enumerate(grid.values):
        coefficient = (code % 32) - (32 if code & 16 else 0)
        assert value == coefficient * 2 ** (code // 32)


def test_e2m3_times_eight_is_inside_hif7_and_leaves_seventeen_points_unused() -> None:
    number = named_float("e2m3")
    assert number is not None
    inside = {int(8 * v) for v in number.values() if v is not None}
    hif7 = set(HIF7.words())
    assert inside < hif7
    unused = {s * v for s in (1, -1) for v in range(72, 121, 8)} | {64, -64, -128}
    assert hif7 - inside == unused
    assert len(unused) == 17


def test_hif7_products_and_block_sums_fit_the_published_widths() -> None:
    words = list(HIF7.words().values())
    coefficients = [a.coefficient * b.coefficient for a in words for b in words]
    assert max(abs(c) for c in coefficients) == 256
    assert -(2**9) <= min(coefficients) <= max(coefficients) < 2**9
    weights = set(HIF7.words())
    activations = {c * 2**s for c in range(-16, 16) for s in range(5)}
    products = [w * a for w in weights for a in activations]
    assert (min(products), max(products)) == (-30720, 32768)
    assert -(2**16) <= min(products) <= max(products) < 2**16
    assert -(2**20) <= 16 * min(products) <= 16 * max(products) < 2**20


@pytest.mark.parametrize(
    ("name", "host", "exponent"), [("e2m3_ue4m4", "hif7", -3), ("sop_pair", "hif7", 0)]
)
def test_hosted_grids_are_their_hif_words_times_one_power_of_two(
    name: str, host: str, exponent: int
) -> None:
    fmt = fmtc.load(name)
    hosting = fmt.hosting
    assert hosting is not None
    assert (hosting.host.name, hosting.exponent) == (host, exponent)
    for grid, words in zip(fmt.grids, hosting.words, strict=True):
        for value, word in zip(grid.values, words, strict=True):
            assert word is not None
            assert value == word.value * Fraction(2) ** exponent


def test_codebooks_of_decimals_have_no_hif_host() -> None:
    assert fmtc.load("nf4").hosting is None
    assert fmtc.load("po2_nf4").hosting is None


# -- shipped atoms ----------------------------------------------------------------------


def shipped_atom(file: str, name: str) -> Grid:
    return compile_text(f'import "{file}" format t {{ block 16  grid {name}  scale fp32 }}').grids[
        0
    ]


@pytest.mark.parametrize(
    ("name", "count", "ratio"),
    [
        ("nf4", 16, 12.6),
        ("nf5", 32, 25.2),
        ("sh4", 16, 26.8),
        ("sh5", 32, 75.7),
        ("af4", 16, 23.4),
        ("iq4_nl", 16, 127.0),
        ("split87", 16, 18.3),
        ("lut2", 4, 2.4),
        ("lut3", 8, 4.9),
    ],
)
def test_a_shipped_atom_has_its_published_ratio(name: str, count: int, ratio: float) -> None:
    sizes = [abs(value) for value in shipped_atom(name, name).numbers if value]
    assert len(shipped_atom(name, name).numbers) == count
    assert round(float(max(sizes) / min(sizes)), 1) == ratio


#: arXiv:2501.01144: the last three magnitudes of the 16 dialects, in halves.
DIALECTS = (
    *((6, 11, 15), (6, 9, 15), (6, 11, 14), (6, 9, 14), (6, 10, 13), (6, 8, 13), (6, 10, 12)),
    *((6, 8, 12), (6, 9, 11), (6, 7, 11), (6, 9, 10), (6, 7, 10), (6, 8, 9), (6, 7, 9), (6, 7, 8)),
    (5, 6, 8),
)


@pytest.mark.parametrize("index", range(16))
def test_the_dialects_of_block_dialect_are_the_published_ones(index: int) -> None:
    grid = shipped_atom("block_dialect", f"dialect{index}")
    halves = [0, 1, 2, 3, 4, *DIALECTS[index]]
    assert [2 * value for value in grid.values[:8]] == halves
    assert [-2 * value for value in grid.values[8:]] == halves
    assert grid.negative_zero == 8


def test_the_shifted_grids_of_sfp4_keep_an_exact_zero_and_fifteen_values() -> None:
    up, down = (shipped_atom("sfp4", f"sfp4_{way}") for way in ("up", "down"))
    e2m1 = named_float("e2m1")
    assert e2m1 is not None
    assert list(up.numbers) == sorted({v + Fraction(1, 2) for v in e2m1.values()})
    assert [-value for value in reversed(down.numbers)] == list(up.numbers)
    assert 0 in up.numbers
    assert (len(up.numbers), up.negative_zero) == (15, None)
