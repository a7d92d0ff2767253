"""What the datapath of a format can reach, against every block, word and sum that there is."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from functools import cache
from itertools import product

import fmtc
import fmtc.testing
import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.datapath.accumulators import Accumulator, Bounds
from fmtc.compiler.datapath.derive import datapath
from fmtc.compiler.datapath.stages import FP32, FP64, lsb, odd_part, word_value
from fmtc.compiler.exact import is_fp32, round_fp32
from fmtc.compiler.hosts import HIF7, HIF8, HifHost
from hypothesis import assume, given, settings
from hypothesis import strategies as st

SELECT = "select 1 bit at scale.meta { 0: a, 1: b }"

#: Formats whose whole set of block sums is small enough to be listed.
LISTED = ("hif7_ue4m4", "hif8_ue4m4", "sop_pair", "nf4_hif7", "nvfp4", "mxfp4", "mixfp4", "q8_0")


def load(name):
    """A shipped format, or one whose text is given."""
    return compile_text(name) if " " in name else fmtc.load(name)


@cache
def element_sets(fmt):
    """For every grid and zero point of a block: the exact elements."""
    point = fmt.zero is not None and fmt.zero.kind == "point"
    return tuple(
        {value - zero for value in grid.numbers}
        for grid in fmt.grids
        for zero in (grid.numbers if point else (Fraction(0),))
    )


def product_sets(sets, unit):
    """For every set of elements: all products with activations, as integers of 2^unit."""
    scale = Fraction(2) ** -unit
    for elements in sets:
        integers = [element * scale for element in elements]
        assert all(i.denominator == 1 for i in integers)
        yield {int(i) * a for i in integers for a in HIF8.words()}


def scale_words(fmt):
    """Every scale word of a narrow container that is a finite number."""
    words = []
    for word in range(1 << fmt.scale.word.container):
        try:
            words.append((word, word_value(fmt, word)))
        except ValueError:
            assert fmt.scale.word.number.top != "finite"
    return words


def sumset(left, right):
    """Which sums of two sets of naturals there are; sets are arrays of 0 and 1."""
    size = len(left) + len(right) - 1
    padded = 1 << (size - 1).bit_length()
    counts = np.fft.irfft(np.fft.rfft(left, padded) * np.fft.rfft(right, padded), padded)
    return (counts[:size] > 0.5).astype(np.float64)


def all_sums(products, count):
    """Every sum of ``count`` products, ascending: the sets of longer sums from those of shorter."""
    low = min(products)
    power = np.zeros(max(products) - low + 1)
    power[[p - low for p in products]] = 1
    reached = np.ones(1)
    for bit in range(count.bit_length()):
        if count >> bit & 1:
            reached = sumset(reached, power)
        if count >> (bit + 1):
            power = sumset(power, power)
    return np.flatnonzero(reached) + count * low


def odd_parts(integers):
    integers = np.abs(integers[integers != 0])
    return integers // (integers & -integers)


# -- the published numbers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scaled", "pair"), [("hif7_ue4m4", (10, 9), 10), ("hif7_s1e5m5", (11, 10), 12)]
)
def test_the_published_widths_of_hif7_are_reproduced(name, scaled, pair):
    path = datapath(load(name))
    assert (path.coefficients.high, path.coefficients.bits) == (256, 10)
    assert path.product.integers == Bounds(-30720, 32768)
    assert path.product.bits == 17
    assert path.block_sum.bits == 21
    assert path.scale_product.significand == pair
    # The paper's width of value * scale is one bit more than any pair needs.
    published, needed = scaled
    assert path.scaled_element.significand == needed == published - 1
    for stage in (path.block_sum, path.scaled_element, path.scale_product):
        assert stage.misfit(FP32) is None
    why, end = path.term.misfit(FP32)
    assert why == f"a significand of {path.term.significand} bits"
    assert not is_fp32(end.value)
    assert path.term.misfit(FP64) is None


def test_the_last_bit_of_the_published_21_serves_one_block_alone():
    path = datapath(load("hif7_ue4m4"))
    high = path.block_sum.high
    assert high.value == 524288
    [lane] = high.witness.lanes
    assert (lane.count, lane.activation.value) == (16, -256)
    assert load("hif7_ue4m4").grids[0].values[lane.code] == -128
    assert Bounds(-524288, 524287).bits == 20
    assert "the last bit serves 524288 alone" in path.block_sum.derivation


@pytest.mark.parametrize("name", ["nf4_hif7", "sh4_hif7", "bof4_hif7", "sop_pair", "e2m3_ue4m4"])
def test_hosted_atoms_need_a_bit_less_than_all_of_hif7(name):
    path = datapath(load(name))
    assert path.host == HIF7
    assert path.product.bits <= 16
    assert path.block_sum.bits <= 20


def test_a_term_of_nvfp4_is_exact_in_fp32():
    path = datapath(load("nvfp4"))
    assert path.term.significand == 24
    assert path.term.misfit(FP32) is None


def test_hif7_activations_make_a_narrower_product():
    path = datapath(load("hif7_ue4m4"), HIF7)
    assert path.product.integers == Bounds(-128 * 120, 128 * 128)
    with pytest.raises(ValueError, match="shifts"):
        datapath(load("hif7_ue4m4"), HifHost("tc5", 0))


# -- every product, every block sum, every pair of words -----------------------------------


@pytest.mark.parametrize("name", fmtc.names())
def test_elements_and_products_reach_exactly_the_ends_that_are_said(name):
    fmt = load(name)
    path = datapath(fmt)
    every = set().union(*element_sets(fmt))
    assert (path.element.low.value, path.element.high.value) == (min(every), max(every))
    assert path.element.significand == max(odd_part(v) for v in every).bit_length()
    [products] = product_sets([every], path.unit)
    assert path.product.integers == Bounds(min(products), max(products))
    assert odd_part(path.product.odd.value) == max(odd_part(Fraction(p)) for p in products)
    assert path.product.finest == path.unit + min(lsb(Fraction(p)) for p in products if p)


@pytest.mark.parametrize("name", fmtc.names())
def test_the_words_of_every_end_reach_it(name):
    fmt = load(name)
    path = datapath(fmt)
    assert [s.name for s in path.stages[:2]] == ["element", "product"]
    for stage in path.stages:
        for end in (stage.low, stage.high, stage.odd, stage.fine):
            assert end.witness.value(fmt) == end.value
        for end in (stage.low, stage.high):
            assert (end.value / Fraction(2) ** stage.unit).denominator == 1
        found = stage.misfit(FP32)
        assert found is None or not is_fp32(found[1].value)
    for stage in filter(None, (path.block_sum, path.term)):
        for end in (stage.low, stage.high, stage.odd, stage.fine):
            assert sum(lane.count for lane in end.witness.lanes) == fmt.block


def assert_block_sums_are_said(fmt):
    stage = datapath(fmt).block_sum
    sums = [
        all_sums(products, fmt.block) for products in product_sets(element_sets(fmt), stage.unit)
    ]
    low, high = min(s[0] for s in sums), max(s[-1] for s in sums)
    assert stage.integers == Bounds(low, high)
    assert odd_part(stage.odd.value) == max(odd_parts(s).max() for s in sums)


@pytest.mark.parametrize("name", LISTED)
def test_all_sums_of_a_block_lie_between_the_ends_and_have_no_longer_significand(name):
    assert_block_sums_are_said(load(name))


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "rest",
    [
        "grid g = codebook 1 { -3, 8 }  scale e8m0",
        "grid g = codebook 1 { 4, 12 }  scale e8m0",
        "grid g = codebook 2 { -0.75, 0, 2, 32 }  scale ue4m4",
        "grid g = e3m2  scale ue4m3",
        "grid a = codebook 1 { -1, 64 }  grid b = codebook 1 { 5, 20 }  scale ue4m3  " + SELECT,
        "grid g = int 3 { range full }  scale fp32 { rule range }  zero point",
    ],
)
def test_small_blocks_of_odd_grids_reach_what_is_said(block, rest):
    assert_block_sums_are_said(load(f"format t {{ block {block}  {rest} }}"))


@pytest.mark.parametrize("name", ["hif7_ue4m4", "nvfp4", "mxfp4", "hif7_e4m3", "nvfp4_ue5m3"])
def test_every_pair_of_8_bit_scale_words_decides_the_scale_product(name):
    fmt = load(name)
    path = datapath(fmt)
    values = sorted({value for _, value in scale_words(fmt)})
    assert (path.scale.low.value, path.scale.high.value) == (values[0], values[-1])
    pairs = [a * b for i, a in enumerate(values) for b in values[i:]]
    stage = path.scale_product
    assert (stage.low.value, stage.high.value) == (min(pairs), max(pairs))
    assert stage.significand == max(odd_part(v) for v in pairs).bit_length()
    assert stage.finest == min(lsb(v) for v in pairs if v)
    assert (stage.misfit(FP32) is None) == all(is_fp32(v) for v in pairs)
    scaled = [e * s for e in set().union(*element_sets(fmt)) for s in values]
    assert path.scaled_element.significand == max(odd_part(v) for v in scaled).bit_length()
    assert (path.scaled_element.misfit(FP32) is None) == all(is_fp32(v) for v in scaled)


@pytest.mark.parametrize("name", ["hif7_s1e5m5", "sop_pair", "po2_nf4"])
def test_every_scale_word_of_12_bits_decides_the_scale(name):
    fmt = load(name)
    stage = datapath(fmt).scale
    values = [value for _, value in scale_words(fmt)]
    assert (stage.low.value, stage.high.value) == (min(values), max(values))
    assert odd_part(stage.odd.value) == max(odd_part(v) for v in values)
    assert stage.finest == min(lsb(v) for v in values if v)


def test_a_sign_bit_that_selects_the_grid_is_no_sign():
    rest = "block 4  grid a = e2m1  grid b = int 4  scale e4m3"
    signed = load(f"format t {{ {rest}  select 1 bit at field {{ 0: a, 1: b }} }}")
    select = load(f"format t {{ {rest}  select 1 bit at scale.sign {{ 0: a, 1: b }} }}")
    assert datapath(signed).scale.low.value == -448
    assert datapath(select).scale.low.value == 0


# -- what a format has not -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "absent", "reason"),
    [
        ("e4m3_row", {"block_sum", "term", "exact_sum", "fp32_sum"}, "no blocks"),
        ("int8_tensor", {"block_sum", "term", "exact_sum", "fp32_sum"}, "no blocks"),
        (
            "nf4_dq",
            {"scale", "scaled_element", "scale_product", "term", "exact_sum", "fp32_sum"},
            "format of their own",
        ),
        ("q4_1", {"exact_sum", "fp32_sum"}, "a second term"),
    ],
)
def test_what_is_missing_has_a_reason(name, absent, reason):
    path = datapath(load(name))
    fields = ("block_sum", "scale", "scaled_element", "scale_product", "term")
    fields += ("exact_sum", "fp32_sum")
    assert {field for field in fields if getattr(path, field) is None} == absent
    assert reason in " ".join(path.missing)


def test_nothing_is_missing_of_a_format_with_scale_words():
    for name in ("hif7_ue4m4", "nf4", "nvfp4", "mxfp4", "int4_asym_g128"):
        assert datapath(load(name)).missing == ()
        assert len(datapath(load(name)).stages) == 7


@pytest.mark.parametrize("name", fmtc.names())
def test_the_json_is_plain_and_its_integers_are_safe(name):
    path = datapath(load(name))
    found = json.loads(json.dumps(path.as_json()), parse_int=lambda text: int(float(text)))
    assert found == path.as_json()
    assert all(stage["derivation"] for stage in found["stages"].values())


# -- accumulators --------------------------------------------------------------------------


def wraps(step, count, width):
    """Whether a two's-complement register of ``width`` bits leaves its range on the way."""
    half, total = 1 << (width - 1), 0
    for _ in range(count):
        wrapped = (total + step + half) % (2 * half) - half
        if wrapped != total + step:
            return True
        total = wrapped
    return False


@pytest.mark.parametrize("name", ["hif7_ue4m4", "sop_pair", "nvfp4", "int8_sym_row"])
@pytest.mark.parametrize("rows", [1 << 10, 70_000, 1 << 20])
def test_an_integer_accumulator_wraps_exactly_where_it_is_said_to(name, rows):
    sums = datapath(load(name)).row_sum
    width = sums.width(rows)
    ends = (sums.step.low, sums.step.high)
    assert not any(wraps(step, rows, width) for step in ends)
    assert any(wraps(step, rows, width - 1) for step in ends)


@pytest.mark.parametrize("width", [24, 32])
def test_the_longest_row_of_hif7_is_said_to_the_element(width):
    sums = datapath(load("hif7_ue4m4")).row_sum
    longest = sums.most(width)
    assert longest == {24: 255, 32: 65535}[width]
    assert not wraps(sums.step.high, longest, width)
    assert wraps(sums.step.high, longest + 1, width)


def test_int32_of_a_machine_overflows_at_65536_elements():
    steps = np.full(65536, 32768, np.int32)
    running = np.add.accumulate(steps, dtype=np.int32)
    assert running[65534] == 65535 * 32768
    assert running[65535] == -(2**31)


def test_512_products_are_exact_in_an_fp32_accumulator_and_513_are_not():
    sums = datapath(load("hif7_ue4m4")).row_sum
    assert sums.most_exact() == 512
    assert is_fp32(Fraction(512 * 32768))
    assert not is_fp32(Fraction(512 * 32768 + 1))


@given(
    low=st.integers(-(2**40), 0),
    high=st.integers(0, 2**40),
    steps=st.integers(1, 2**24),
    width=st.integers(1, 80),
)
def test_width_and_most_steps_are_each_others_inverse(low, high, steps, width):
    assume(low < high)
    sums = Accumulator(Bounds(low, high), 0)
    half = 1 << (sums.width(steps) - 1)
    assert -half <= steps * low
    assert steps * high < half
    assert not (-half // 2 <= steps * low and steps * high < half // 2)
    most = sums.most(width)
    assert most == 0 or sums.width(most) <= width
    assert sums.width(most + 1) > width
    form = sums.closed_form.replace("bitlen(", "int.bit_length(").replace(" n", f" * {steps}")
    if low:
        assert eval(form) == sums.width(steps)


@pytest.mark.parametrize("name", ["hif7_ue4m4", "hif7_s1e5m5", "nvfp4", "mxfp4"])
def test_the_exact_accumulator_holds_random_blocks_and_fits_the_extreme_ones(name):
    fmt = load(name)
    path = datapath(fmt)
    sums, draw = path.exact_sum, random.Random(1)
    words, unit = scale_words(fmt), Fraction(2) ** sums.unit
    activations = list(HIF8.words())
    total = Fraction(0)
    for blocks in range(1, 40):
        grid = draw.choice(fmt.grids).numbers
        lanes = [draw.choice(grid) * draw.choice(activations) for _ in range(fmt.block)]
        total += sum(lanes) * draw.choice(words)[1] * draw.choice(words)[1]
        assert (total / unit).denominator == 1
        assert sums.after(blocks).low <= total / unit <= sums.after(blocks).high
    for blocks, width in product((1, 3, 1 << 16), (-1, 0)):
        half = 1 << (sums.width(blocks) + width - 1)
        reached = [
            blocks * end.witness.value(fmt) / unit for end in (path.term.low, path.term.high)
        ]
        assert all(-half <= r < half for r in reached) == (width == 0)
    # The lowest bit is used: no coarser accumulator is exact.
    assert (path.term.fine.witness.value(fmt) / unit) % 2 == 1


# -- one fp32 rounding a block -------------------------------------------------------------


def accumulate(terms):
    """Y = fma(t, s, Y) with exact products: one rounding a block."""
    total = Fraction(0)
    for term in terms:
        total = Fraction(round_fp32(total + term))
    return total


def test_the_fp32_bound_is_nearly_reached_by_blocks_that_are_lost_one_by_one():
    fmt = load("hif7_ue4m4")
    path = datapath(fmt)
    sums = path.fp32_sum
    assert (sums.roundings, sums.underflow, sums.conditions) == (0, 0, ())
    by_value = {value: word for word, value in scale_words(fmt)}
    large = 524288 * word_value(fmt, by_value[256]) ** 2
    small = 2048 * word_value(fmt, by_value[1]) ** 2
    assert small == Fraction(round_fp32(large)) * Fraction(1, 1 << 24)
    for blocks in (2, 100, 4096):
        terms = [large] + [small] * (blocks - 1)
        error = abs(accumulate(terms) - sum(terms))
        bound = sums.bound(blocks, sum(terms))
        assert error == (blocks - 1) * small
        assert Fraction(99, 100) * Fraction(blocks - 1, blocks) * bound < error <= bound


@pytest.mark.parametrize("name", ["hif7_ue4m4", "nvfp4", "sop_pair"])
def test_random_blocks_keep_the_fp32_bound(name):
    fmt = load(name)
    path = datapath(fmt)
    words, draw = [value for _, value in scale_words(fmt)], random.Random(2)
    sums = [path.block_sum.integers.low, path.block_sum.integers.high, 1, -1, 333333 % 2**15]
    unit = Fraction(2) ** path.block_sum.unit
    for _ in range(40):
        blocks = draw.randrange(1, 60)
        terms = [
            draw.choice(sums) * unit * draw.choice(words) * draw.choice(words)
            for _ in range(blocks)
        ]
        error = abs(accumulate(terms) - sum(terms))
        assert error <= path.fp32_sum.bound(blocks, sum(map(abs, terms)))


def test_sums_and_scale_products_that_need_a_rounding_are_counted():
    fmt = load("nf4")
    path = datapath(fmt)
    assert path.fp32_sum.roundings == 2
    assert "scale product" in path.fp32_sum.conditions[0]
    draw, total, exact, size = random.Random(3), Fraction(0), Fraction(0), Fraction(0)
    grid, activations = fmt.grids[0].numbers, list(HIF8.words())
    for _ in range(50):
        block = sum(draw.choice(grid) * draw.choice(activations) for _ in range(fmt.block))
        scales = [Fraction(round_fp32(Fraction(draw.random()))) for _ in range(2)]
        rounded = Fraction(round_fp32(block)) * Fraction(round_fp32(scales[0] * scales[1]))
        total = Fraction(round_fp32(total + rounded))
        exact += block * scales[0] * scales[1]
        size += abs(block * scales[0] * scales[1])
    assert 0 < abs(total - exact) <= path.fp32_sum.bound(50, size)


def test_overflow_and_underflow_are_conditions_where_scales_reach_that_far():
    free, far = datapath(load("hif7_s1e5m5")).fp32_sum, datapath(load("mxfp4")).fp32_sum
    assert free.conditions == ()
    assert free.most_blocks == 2**24 - 1
    assert far.most_blocks == 0
    assert far.conditions[-1] == "no sum overflows fp32"
    assert far.underflow == Fraction(1, 2**150)
    with pytest.raises(ValueError, match="2\\^24"):
        free.gamma(2**24)


# -- any format ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_block_of_any_format_leaves_what_is_said(data):
    fmt = data.draw(fmtc.testing.formats())
    path = datapath(fmt)
    for stage in path.stages:
        for end in (stage.low, stage.high, stage.odd, stage.fine):
            assert end.witness.value(fmt) == end.value
    elements = sorted(data.draw(st.sampled_from(element_sets(fmt))))
    activations = list(HIF8.words())
    lanes = st.tuples(st.sampled_from(elements), st.sampled_from(activations))
    count = fmt.block if path.block_sum else 1
    few = data.draw(st.lists(lanes, min_size=1, max_size=min(count, 8)))
    total = sum((v * a for v, a in few * (count // len(few))), Fraction(0))
    stage = path.block_sum or path.product
    if path.block_sum or len(few) == 1:
        assert stage.low.value <= total <= stage.high.value
        assert odd_part(total).bit_length() <= stage.significand
        assert (total / Fraction(2) ** stage.unit).denominator == 1
        assert stage.misfit(FP32) or is_fp32(total)
    assert path.row_sum.width(1) == path.product.bits
    assert json.dumps(path.as_json())
