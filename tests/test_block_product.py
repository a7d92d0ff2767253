"""The hardware's product: the definition against a second rounding, tensors against rationals."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import fmtc
import numpy as np
import pytest
from fmtc.codegen.design import hif8_activation
from fmtc.compiler import pipeline
from fmtc.compiler.block_product import (
    NoBlockProduct,
    accumulate,
    block_product,
    block_sums,
    block_words,
    output_scale,
    scaled_accumulate,
)
from fmtc.compiler.datapath.operands import operand_of
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.sides import from_streams
from fmtc.formats import compile_text, load
from fmtc.runtime.block_product import block_product as multiply
from hypothesis import given, settings
from hypothesis import strategies as st

NAN = 0x7FC00000
INFINITY = 0x7F800000

#: Two tensors each: one level and two, no mantissa, 30-bit elements, fp32 words, signed scales,
#: grids chosen by a sign, a metabit or a field, sides, blocks of other lengths.
PAIRS = (
    ("sop_pair", None),
    ("mxfp4", None),
    ("nvfp4", None),
    ("nvfp4", "nvfp4"),
    ("nf4_dd4_ue4m3", None),
    ("e4m3_ue4m6", None),
    ("mxfp8_e5m2", "mxfp8_e5m2"),
    ("nf4", "nf4"),
    ("hif7_s1e5m5", "nvfp4"),
    ("mixfp4", None),
    ("razer_weights", "razer_activations"),
    ("block_dialect", None),
    ("nf4_dd4_opq_wr", None),
    ("nf4_dd4_opq_wr", "nvfp4"),
    ("gguf_nvfp4", None),
)


def bits_of(number: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", number))[0])


def number_of(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def magnitude(bits: int) -> Fraction:
    """The value of a magnitude's bits, 2^128 standing for infinity's."""
    field, mantissa = divmod(bits, 1 << 23)
    return Fraction(mantissa + (bool(field) << 23)) * Fraction(2) ** (max(field, 1) - 150)


def nearest(exact: Fraction) -> int:
    """Round to nearest, ties to even: the neighbours are found among all numbers by bisection."""
    low, high = 0, INFINITY
    size = abs(exact)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if magnitude(middle) <= size else (low, middle)
    if size >= magnitude(high):
        low = high
    above, below = magnitude(high) - size, size - magnitude(low)
    chosen = low if below < above or (below == above and low % 2 == 0) else high
    return chosen | (exact < 0) << 31


any_bits = st.integers(0, 2**32 - 1)
finite_bits = any_bits.filter(lambda bits: bits >> 23 & 0xFF != 0xFF)
totals = st.one_of(
    st.integers(-(2**63), 2**63),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.integers(-5, 5),
    st.integers(0, 62).map(lambda n: 1 << n),
)


# -- one step ------------------------------------------------------------------------------


@given(finite_bits, totals, finite_bits, finite_bits, st.integers(-200, 200))
def test_a_step_is_the_nearest_number(
    accumulator: int, total: int, weight: int, activation: int, exponent: int
) -> None:
    scales = number_of(weight), number_of(activation)
    term = Fraction(total) * Fraction(scales[0]) * Fraction(scales[1]) * Fraction(2) ** exponent
    exact = Fraction(number_of(accumulator)) + term
    found = scaled_accumulate(accumulator, total, *scales, exponent)
    assert found == nearest(exact) or (exact == 0 and found == 0x80000000)


@given(finite_bits, st.integers(-(2**30), 2**30), st.integers(0, 60), st.booleans())
def test_a_tie_goes_to_even(accumulator: int, odd: int, power: int, down: bool) -> None:
    """The product's only bit, or its last one, is half of the accumulator's last."""
    field = accumulator >> 23 & 0xFF
    half = max(field, 1) - 151
    total = (2 * odd + 1) if down else 1 << power
    exponent = half if down else half - power
    exact = Fraction(number_of(accumulator)) + total * Fraction(2) ** exponent
    assert scaled_accumulate(accumulator, total, 1.0, 1.0, exponent) == nearest(exact)


@pytest.mark.parametrize(
    ("accumulator", "total", "weight", "activation", "expected"),
    [
        (0x00000000, 0, 1.0, 1.0, 0x00000000),
        (0x80000000, 0, 1.0, 1.0, 0x00000000),
        (0x80000000, 0, -1.0, 1.0, 0x80000000),
        (0x80000000, 5, -0.0, 1.0, 0x80000000),
        (0x80000000, -5, 0.0, 1.0, 0x80000000),
        (0x80000000, -5, 0.0, -1.0, 0x00000000),
        (0x00000000, 0, -1.0, 1.0, 0x00000000),
        (0x3F800000, -1, 1.0, 1.0, 0x00000000),
        (0xBF800000, 1, 1.0, 1.0, 0x00000000),
        (0x00000000, -1, 2.0**-100, 2.0**-100, 0x80000000),
        (0x00000000, 1, -(2.0**-75), 2.0**-75, 0x80000000),
        (0x00000000, 3, 2.0**-75, 2.0**-75, 0x00000002),
        (0x7F7FFFFF, 1, 2.0**102, 1.0, 0x7F7FFFFF),
        (0x7F7FFFFF, 1, 2.0**103, 1.0, 0x7F800000),
        (0xFF7FFFFF, -1, 2.0**103, 1.0, 0xFF800000),
        (0x7F800000, -7, 2.0, 1.0, 0x7F800000),
        (0xFF800000, 7, 2.0, 1.0, 0xFF800000),
        (0x3F800000, 3, math.inf, -1.0, 0xFF800000),
        (0xFF800000, 3, math.inf, -1.0, 0xFF800000),
        (0x7F800000, 3, math.inf, -1.0, NAN),
        (0x3F800000, 0, math.inf, 1.0, NAN),
        (0x3F800000, 3, math.inf, 0.0, NAN),
        (0x3F800000, 3, math.nan, 1.0, NAN),
        (0x3F800000, 3, 1.0, math.nan, NAN),
        (0x3F800000, None, 1.0, 1.0, NAN),
        (0xFF800001, 3, 1.0, 1.0, NAN),
        (0x7FFFFFFF, 0, 1.0, 1.0, NAN),
    ],
)
def test_zeros_infinities_and_no_numbers(
    accumulator: int, total: int | None, weight: float, activation: float, expected: int
) -> None:
    assert scaled_accumulate(accumulator, total, weight, activation, 0) == expected
    valid = np.array([total is not None])
    with np.errstate(invalid="ignore"):
        scales = np.array([weight]) * np.array([activation])
    y = np.array([accumulator], np.uint32).view(np.float32)
    found = accumulate(y, np.array([total or 0]), valid, scales, 0)
    assert found.view(np.uint32).tolist() == [expected]


steps = st.tuples(any_bits, totals, any_bits, any_bits, st.booleans())


@settings(max_examples=300)
@given(st.lists(steps, min_size=1, max_size=30), st.integers(-150, 150), st.booleans())
def test_arrays_take_the_same_steps(
    cases: list[tuple[int, int, int, int, bool]], exponent: int, long: bool
) -> None:
    """Sums within 64 bits as int64, and longer ones as Python integers."""
    factor = 3**20 if long else 1
    y, sums, weights, activations, valid = zip(*cases, strict=True)
    sums = [(s if long else max(min(s, 2**62), -(2**62))) * factor for s in sums]
    scales = [np.array(bits, np.uint32).view(np.float32) for bits in (weights, activations)]
    with np.errstate(all="ignore"):
        product = scales[0].astype(np.float64) * scales[1]
    found = accumulate(
        np.array(y, np.uint32).view(np.float32),
        np.array(sums, object if long else np.int64),
        np.array(valid),
        product,
        exponent,
    )
    expected = [
        scaled_accumulate(
            accumulator, total if counts else None, number_of(weight), number_of(other), exponent
        )
        for accumulator, total, weight, other, counts in zip(
            y, sums, weights, activations, valid, strict=True
        )
    ]
    assert found.view(np.uint32).tolist() == expected


def test_arrays_cancel_and_tie_like_single_steps() -> None:
    """Accumulators about minus the product, with sums of 53 bits and scales of 24."""
    random = np.random.default_rng(3)
    count = 4000
    sums = random.integers(1, 1 << random.integers(1, 53, count)) * random.choice([-1, 1], count)
    scales = random.integers(1 << 23, 1 << 24, (2, count)) * 2.0 ** random.integers(-50, 0, count)
    short = random.random(count) < 0.5
    scales = np.where(short, 2.0 ** np.round(np.log2(scales)), scales)
    y = -(sums * scales[0] * scales[1])
    shift = 2.0 ** -random.integers(20, 60, count)
    y = (y * (1 + random.integers(-2, 3, count) * shift)).astype(np.float32)
    found = accumulate(y, sums, np.ones(count, np.bool_), scales[0] * scales[1], 0)
    expected = [
        scaled_accumulate(bits, total, *pair, 0)
        for bits, total, pair in zip(
            y.view(np.uint32).tolist(), sums.tolist(), scales.T.tolist(), strict=True
        )
    ]
    assert found.view(np.uint32).tolist() == expected
    assert (np.abs(found) < np.abs(y) / 2**20).sum() > 100


# -- tensors -------------------------------------------------------------------------------


class Tensor:
    """A packed tensor, and what its blocks mean by the format's own tables."""

    def __init__(self, fmt: Format, x: np.ndarray) -> None:
        self.fmt, self.length, self.elements = fmt, x.shape[1], x.size
        values = np.asarray(x, np.float32)
        self.level = calibrate(fmt, values)
        self.streams = pipeline.encode(fmt, values, self.level)

    def rows(self, outliers: dict[int, int]) -> list[list[tuple[list[Fraction], Fraction]]]:
        """Of every row its blocks: exact elements, and the exact stored scale."""
        streams = self.streams
        if self.fmt.record is not None:
            from fmtc.compiler.blockwork import NUMPY

            streams = NUMPY.from_records(self.fmt, streams["records"], self.length)
        blocks = -(-self.length // self.fmt.block)
        fields = {
            s.name: unpack(streams[s.name], self.length if s.per == "element" else blocks, s)
            for s in self.fmt.streams
        }
        found = []
        for row, codes in enumerate(fields["codes"].tolist()):
            of_row = []
            for block in range(blocks):
                word = int(fields["scales"][row, block])
                select = int(fields["select"][row, block]) if "select" in fields else 0
                for position in self.fmt.select.positions:
                    select = 2 * select + (word >> position & 1)
                places = range(block * self.fmt.block, (block + 1) * self.fmt.block)
                elements = [
                    self.fmt.grids[select].values[codes[i]] or Fraction(0)
                    for i in places
                    if i < self.length and row * self.length + i not in outliers
                ]
                of_row.append((elements, scale_of(self.fmt, word)))
            found.append(of_row)
        return found


def scale_of(fmt: Format, word: int) -> Fraction:
    layout = fmt.scale.word
    number = layout.number
    code = word >> layout.magnitude_lsb & ((1 << number.magnitude_bits) - 1)
    value = number.magnitude(code)
    assert value is not None
    signed = layout.sign_bit is not None and fmt.select.place != "scale.sign"
    return -value if signed and word >> (layout.sign_bit or 0) & 1 else value


def expected_product(weights: Tensor, activations: Tensor) -> list[list[int]]:
    """By the definition's words, one output at a time; none of it is zero or infinite."""
    kept = {s.kind: from_streams(s, weights.streams, weights.elements) for s in weights.fmt.sides}
    stored = {side.kind: side.value.number for side in weights.fmt.sides}
    outliers = dict.fromkeys(kept["opq"].index.tolist(), 0) if "opq" in kept else {}
    left, right = weights.rows(outliers), activations.rows({})
    down = Fraction(2) ** -(weights.level.shift + activations.level.shift)
    levels = [
        Fraction(t.level.tensor_scale) if t.fmt.scale.tensor == "fp32" else Fraction(1)
        for t in (weights, activations)
    ]
    found = []
    for x in right:
        found.append([])
        for index, row in enumerate(left):
            y = 0
            for block, (elements, scale) in enumerate(row):
                # Places of outliers are left out on both sides.
                whole = x[block][0]
                if len(elements) != len(whole):
                    start = index * weights.length + block * weights.fmt.block
                    whole = [a for i, a in enumerate(whole) if start + i not in outliers]
                total = sum((w * a for w, a in zip(elements, whole, strict=True)), Fraction(0))
                term = total * scale * x[block][1] * down
                exact = Fraction(number_of(y)) + term
                y = nearest(exact) if exact else y & 0x80000000 if not term else 0
            if "fp32" in (weights.fmt.scale.tensor, activations.fmt.scale.tensor):
                level = Fraction(number_of(nearest(levels[0] * levels[1])))
                y = nearest(Fraction(number_of(y)) * level)
            for kind, sparse in kept.items():
                factor = levels[1]
                if kind == "wr":
                    factor = Fraction(number_of(nearest(Fraction(sparse.scale) * factor)))
                for place, word in zip(sparse.index.tolist(), sparse.words.tolist(), strict=True):
                    row_of, column = divmod(place, weights.length)
                    if row_of != index:
                        continue
                    number = stored[kind]
                    value = number.magnitude(word & ((1 << number.magnitude_bits) - 1))
                    assert value is not None
                    value *= -1 if word >> number.magnitude_bits else 1
                    elements, scale = x[column // activations.fmt.block]
                    element = elements[column % activations.fmt.block]
                    term = value * factor * element * scale
                    exact = Fraction(number_of(y)) + term / 2**activations.level.shift
                    y = nearest(exact) if exact else 0
            found[-1].append(y)
    return found


def format_pair(names: tuple[str, str | None]) -> tuple[Format, Format]:
    weights = load(names[0])
    return weights, hif8_activation(weights.block) if names[1] is None else load(names[1])


@pytest.mark.parametrize("names", PAIRS, ids=[f"{w}-{a or 'hif8'}" for w, a in PAIRS])
def test_tensors_multiply_by_the_definition(names: tuple[str, str | None]) -> None:
    weights, activations = format_pair(names)
    length = 192 if weights.record else 3 * weights.block - 5
    random = np.random.default_rng(4)
    left = Tensor(weights, random.standard_t(3, (3, length)))
    right = Tensor(activations, random.standard_normal((2, length)))
    found = block_product(
        weights, left.streams, left.level, activations, right.streams, right.level, length
    )
    assert found.dtype == np.float32
    assert found.shape == (2, 3)
    assert found.view(np.uint32).tolist() == expected_product(left, right)


def test_sums_of_blocks_are_exact_integers() -> None:
    weights, activations = load("mxfp8_e5m2"), load("mxfp8_e5m2")
    random = np.random.default_rng(5)
    left = Tensor(weights, np.exp2(random.uniform(-20, 10, (2, 64))))
    right = Tensor(activations, np.exp2(random.uniform(-20, 10, (3, 64))))
    words = [block_words(t.fmt, t.streams, 64) for t in (left, right)]
    sums = block_sums(*words)
    unit = Fraction(2) ** (operand_of(weights).unit + operand_of(activations).unit)
    assert sums.shape == (2, 3, 2)
    assert max(abs(int(s)) for s in sums.flat) >= 1 << 53
    for block, m, row in np.ndindex(*sums.shape):
        pairs = zip(left.rows({})[row][block][0], right.rows({})[m][block][0], strict=True)
        assert int(sums[block, m, row]) * unit == sum((w * a for w, a in pairs), Fraction(0))


def test_an_outlier_counts_once_and_in_order() -> None:
    """Its code is no part of the sum, whatever it says, and later additions see earlier ones."""
    fmt = load("nf4_dd4_opq_wr")
    activations = hif8_activation(16)
    x = np.full((1, 32), 0.25, np.float32)
    x[0, [3, 20]] = 2.0**24, -(2.0**24)
    level = calibrate(fmt, x)
    streams = pipeline.encode(fmt, x, level)
    ones = Tensor(activations, np.ones((1, 32), np.float32))
    plain = block_product(fmt, streams, level, activations, ones.streams, ones.level, 32)
    spoilt = {**streams, "codes": streams["codes"].copy()}
    spoilt["codes"][0, 1] ^= 0xF0  # element 3, an outlier
    spoilt["codes"][0, 10] ^= 0x0F  # element 20, another
    found = block_product(fmt, spoilt, level, activations, ones.streams, ones.level, 32)
    assert from_streams(fmt.sides[0], streams, 32).index.tolist() == [3, 20]
    assert found.view(np.uint32).tolist() == plain.view(np.uint32).tolist()
    # What the dense part adds to 2^24 rounds to an even number before that is taken away again.
    dense = block_words(fmt, streams, 32, from_streams(fmt.sides[0], streams, 32))
    assert not any(dense.integers[0, [0, 1], [3, 4]])
    assert float(plain[0, 0]).is_integer()
    assert 4 <= float(plain[0, 0]) <= 10


def test_a_code_that_is_no_number_spoils_its_rows_alone() -> None:
    weights, activations = load("mxfp8_e5m2"), load("mxfp8_e5m2")
    random = np.random.default_rng(6)
    left = Tensor(weights, random.standard_normal((3, 64)))
    right = Tensor(activations, random.standard_normal((2, 64)))
    codes = left.streams["codes"].copy()
    codes[1, 40] = 0x7F
    found = block_product(
        weights,
        {**left.streams, "codes": codes},
        left.level,
        activations,
        right.streams,
        right.level,
        64,
    )
    assert (found[:, 1].view(np.uint32) == NAN).all()
    assert np.isfinite(found[:, [0, 2]]).all()
    words = right.streams["scales"].copy()
    words[1, 0] = 0xFF
    found = block_product(
        weights,
        left.streams,
        left.level,
        activations,
        {**right.streams, "scales": words},
        right.level,
        64,
    )
    assert (found[1].view(np.uint32) == NAN).all()
    assert np.isfinite(found[0]).all()


def test_nothing_times_nothing_is_zero() -> None:
    weights, activations = load("mxfp4"), hif8_activation(32)
    for shape in ((0, 64), (2, 0)):
        left = Tensor(weights, np.zeros(shape, np.float32))
        right = Tensor(activations, np.zeros((3, shape[1]), np.float32))
        found = block_product(
            weights, left.streams, left.level, activations, right.streams, right.level, shape[1]
        )
        assert found.shape == (3, shape[0])
        assert not found.view(np.uint32).any()


def test_second_levels_are_multiplied_first() -> None:
    y = np.array([1.0, np.inf, 0.0, 3e38, 1e-30], np.float32)
    third = np.float32(1 / 3)
    found = output_scale(y, third, third)
    level = np.float32(third * third)
    assert found.tolist() == (y * level).tolist()
    spoilt = output_scale(np.array([np.inf], np.float32), np.float32(0), third)
    assert spoilt.view(np.uint32).tolist() == [NAN]


@pytest.mark.parametrize(
    ("weights", "activations", "why"),
    [
        ("int4_asym_g128", "int4_asym_g128", "zero points"),
        ("e4m3_tile128", "e4m3_tile128", "runs of one row"),
        ("nf4_dq", "nf4_dq", "format of their own"),
        ("nvfp4", "nf4_dd4_opq_wr", "beside the codes of the activations"),
        ("mxfp4", "nvfp4", "32 and 16 elements"),
    ],
)
def test_formats_without_a_product_say_why(weights: str, activations: str, why: str) -> None:
    with pytest.raises(NoBlockProduct, match=why):
        block_product(load(weights), {}, TensorLevel(), load(activations), {}, TensorLevel(), 64)


# -- the public function -------------------------------------------------------------------


def test_quantized_tensors_multiply_in_their_shapes() -> None:
    weights, activations = fmtc.load("nvfp4"), fmtc.load("hif8_ue4m4")
    random = np.random.default_rng(7)
    w, x = random.standard_normal((4, 3, 80)), random.standard_normal((2, 5, 80))
    left, right = weights.quantize(w), activations.quantize(x)
    found = multiply(left, right)
    assert found.shape == (2, 5, 4, 3)
    flat = block_product(
        weights,
        dict(left.streams),
        left.level,
        activations,
        dict(right.streams),
        right.level,
        80,
    )
    assert found.reshape(10, 12).view(np.uint32).tolist() == flat.view(np.uint32).tolist()
    exact = right.dequantize().reshape(10, 80) @ left.dequantize().reshape(12, 80).T
    assert np.allclose(found.reshape(10, 12), exact, rtol=1e-4, atol=1e-4)


def test_the_result_is_in_the_activations_framework() -> None:
    torch = pytest.importorskip("torch")
    left = fmtc.load("mxfp4").quantize(np.ones((4, 64), np.float32))
    right = fmtc.load("mxfp8_e4m3").quantize(torch.ones(2, 64, dtype=torch.bfloat16))
    found = multiply(left, right)
    assert found.dtype == torch.float32
    assert found.tolist() == [[64.0] * 4] * 2


def test_tensors_of_other_lengths_are_refused() -> None:
    fmt = fmtc.load("mxfp4")
    tensors = [fmt.quantize(np.ones((2, n), np.float32)) for n in (64, 96)]
    with pytest.raises(ValueError, match="last axes differ"):
        multiply(*tensors)


def test_scales_of_a_signed_word_turn_their_blocks() -> None:
    fmt = compile_text(
        'format signed_scales "." { block 4  grid i = int 4 { range full }'
        "  scale e4m3 { rule argmax } }"
    )
    left = Tensor(fmt, np.array([[8.0, 1, 0, 0, -8, 1, 0, 0]], np.float32))
    right = Tensor(fmt, np.array([[1.0, 8, 0, 0, 1, 8, 0, 0]], np.float32))
    found = block_product(fmt, left.streams, left.level, fmt, right.streams, right.level, 8)
    assert {float(scale_of(fmt, int(w))) < 0 for w in left.streams["scales"][0]} == {True, False}
    assert found.tolist() == [[float(8 + 8 - 8 + 8)]]
