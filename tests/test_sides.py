from __future__ import annotations

from fractions import Fraction
from math import ceil, isqrt

import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler import sides
from fmtc.compiler.exact import round_fp32
from fmtc.compiler.floats import named_float
from fmtc.compiler.format import ScaleWord, Side
from fmtc.compiler.side_clause import outlier_threshold
from fmtc.compiler.sides import (
    Sparse,
    add_residuals,
    from_streams,
    put_outliers,
    residuals,
    take_outliers,
    to_streams,
)
from fmtc.compiler.stored import from_word, to_word
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

SEGMENT = 65536


def word(name: str) -> ScaleWord:
    number = named_float(name)
    return ScaleWord(name, number.bits, number)


def opq(value: str = "bf16", threshold: float = 2.5) -> Side:
    return Side("opq", word(value), threshold=Fraction(threshold))


def wr(value: str = "e3m4", fraction: Fraction = Fraction(1, 4)) -> Side:
    return Side("wr", word(value), fraction=fraction)


def sides_of(clauses: str) -> tuple[Side, ...]:
    return compile_text(f"format mine {{ block 16  grid e2m1  scale e4m3  {clauses} }}").sides


def finite_rows() -> st.SearchStrategy[np.ndarray]:
    shapes = array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=20)
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return arrays(np.float32, shapes, elements=elements)


def nearest_number(value: float, name: str) -> float:
    """RNE of one value to a float, by exact rationals; the largest past it."""
    number = named_float(name)
    step = Fraction(2) ** -(number.bias - 1 + number.mantissa)
    size = abs(Fraction(value))
    while size / step >= 2 ** (number.mantissa + 1):
        step *= 2
    rounded = min(round(size / step) * step, number.largest)
    return float(rounded if value >= 0 else -rounded)


# -- outliers --------------------------------------------------------------------------


def test_the_threshold_of_a_quantile_is_the_published_one() -> None:
    (side,) = sides_of("side opq { quantile 0.92 }")
    assert f"{float(side.threshold):.3f}" == "2.795"
    assert side.quantile == Fraction(23, 25)
    assert side.value.name == "bf16"
    assert sides_of("side opq") == (side,)


@pytest.mark.parametrize("block", [1, 16, 32, 4096])
@pytest.mark.parametrize("quantile", ["0.001", "0.5", "0.92", "0.999999"])
def test_a_threshold_is_the_nearest_fp32_number(quantile: str, block: int) -> None:
    from mpmath import mp

    threshold = outlier_threshold(Fraction(quantile), block)
    assert Fraction(round_fp32(threshold)) == threshold
    below, above = (
        Fraction(float(np.nextafter(np.float32(float(threshold)), np.float32(end))))
        for end in (-np.inf, np.inf)
    )
    with mp.workdps(60):
        share = [
            mp.erf(mp.mpf(m.numerator) / m.denominator / mp.sqrt(2)) ** block
            for m in ((below + threshold) / 2, (threshold + above) / 2)
        ]
        assert share[0] < mp.mpf(quantile) < share[1]


def test_a_said_threshold_is_rounded_to_fp32() -> None:
    (side,) = sides_of("side opq { threshold 3.1  value fp16 }")
    assert side.threshold == Fraction(float(np.float32(3.1)))
    assert side.quantile is None
    assert side.value.name == "fp16"


@given(finite_rows(), st.integers(1, 24), st.sampled_from(["bf16", "fp16", "fp32"]))
@settings(deadline=None)
def test_outliers_come_back_as_their_nearest_numbers(x: np.ndarray, block: int, value: str) -> None:
    side = opq(value, threshold=1.5)
    dense, outliers = take_outliers(side, x, block)
    assert (np.diff(outliers.index) > 0).all()
    taken = np.zeros(x.size, np.bool_)
    taken[outliers.index] = True
    expected = x.reshape(-1).copy()
    expected[taken] = 0
    np.testing.assert_array_equal(dense.reshape(-1).view(np.uint32), expected.view(np.uint32))
    decoded = np.full(x.shape, np.float32(7))
    put_outliers(side, decoded, outliers)
    flat = decoded.reshape(-1)
    assert (flat[~taken] == 7).all()
    for i in outliers.index:
        assert float(flat[i]) == nearest_number(float(x.reshape(-1)[i]), value)


@given(finite_rows(), st.integers(1, 24), st.floats(0.5, 4, width=32))
@settings(deadline=None)
def test_an_outlier_is_above_its_blocks_deviation(
    x: np.ndarray, block: int, threshold: float
) -> None:
    _, outliers = take_outliers(opq(threshold=threshold), x, block)
    found = []
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], block):
            stop = min(start + block, x.shape[1])
            total = 0.0
            for element in x[row, start:stop]:
                total += float(element) * float(element)
            bound = threshold * float(np.sqrt(total / (stop - start)))
            found += [
                row * x.shape[1] + i for i in range(start, stop) if abs(float(x[row, i])) > bound
            ]
    assert outliers.index.tolist() == found


def test_an_element_on_the_threshold_is_no_outlier() -> None:
    x = np.array([[2, 0, 0, 0]], np.float32)  # the deviation is 1
    assert take_outliers(opq(threshold=2.0), x, 4)[1].index.size == 0
    below = float(np.nextafter(np.float32(2), np.float32(0)))
    assert take_outliers(opq(threshold=below), x, 4)[1].index.tolist() == [0]


def test_a_tensor_without_outliers_is_not_copied() -> None:
    x = np.ones((3, 32), np.float32)
    dense, outliers = take_outliers(opq(), x, 16)
    assert dense is x
    assert outliers.index.size == 0


def test_the_input_keeps_its_outliers() -> None:
    x = np.ones((1, 32), np.float32)
    x[0, 5] = 100
    dense, outliers = take_outliers(opq(), x, 32)
    assert (x[0, 5], dense[0, 5], outliers.index.tolist()) == (100, 0, [5])


def test_outliers_past_the_word_saturate() -> None:
    x = np.zeros((1, 16), np.float32)
    x[0, 3], decoded = -1e30, np.zeros((1, 16), np.float32)
    side = opq("fp16")
    put_outliers(side, decoded, take_outliers(side, x, 16)[1])
    assert decoded[0, 3] == -65504


@pytest.mark.parametrize("value", ["e3m4", "e4m3", "bf16", "fp16"])
def test_every_number_of_a_word_is_stored_as_itself(value: str) -> None:
    own = word(value)
    magnitudes = [float(m) for m in own.number.magnitudes() if m is not None]
    numbers = np.array([*magnitudes, *(-m for m in magnitudes)], np.float32)
    words = to_word(own, numbers)
    sign = 1 << own.number.magnitude_bits
    assert words.tolist() == [s + c for s in (0, sign) for c in range(len(magnitudes))]
    np.testing.assert_array_equal(from_word(own, words).view("u4"), numbers.view("u4"))


# -- residuals -------------------------------------------------------------------------


def exact_residual(error: float, scale: float, name: str) -> Fraction:
    """The number of the word for which number * scale is nearest to the error."""
    quotient = Fraction(error) / Fraction(scale)
    number = named_float(name)
    step = Fraction(2) ** -(number.bias - 1 + number.mantissa)
    while abs(quotient) / step >= 2 ** (number.mantissa + 1):
        step *= 2
    sign = -1 if quotient < 0 else 1
    return sign * min(round(abs(quotient) / step) * step, number.largest)


def small_errors() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    shapes = array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=16)
    numbers = st.floats(-4, 4, width=32)
    return shapes.flatmap(
        lambda shape: st.tuples(
            arrays(np.float32, shape, elements=numbers),
            arrays(np.float32, shape, elements=numbers),
        )
    )


@given(small_errors(), st.sampled_from([Fraction(1, 10), Fraction(1, 3), Fraction(1)]))
@settings(deadline=None)
def test_the_largest_errors_are_corrected(
    pair: tuple[np.ndarray, np.ndarray], fraction: Fraction
) -> None:
    x, decoded = pair
    errors = (x - decoded).reshape(-1)
    ranked = sorted(np.flatnonzero(errors), key=lambda i: (-abs(float(errors[i])), i))
    expected = sorted(int(i) for i in ranked[: ceil(fraction * x.size)])
    assert residuals(wr(fraction=fraction), x, decoded).index.tolist() == expected


@given(small_errors(), st.sampled_from(["e3m4", "e4m3", "fp16", "bf16"]))
@settings(deadline=None)
def test_residuals_are_the_nearest_numbers(pair: tuple[np.ndarray, np.ndarray], value: str) -> None:
    x, decoded = pair
    side = wr(value, Fraction(1, 2))
    found = residuals(side, x, decoded)
    errors = (x - decoded).reshape(-1)[found.index]
    numbers = from_word(side.value, found.words)
    for error, number in zip(errors, numbers, strict=True):
        assert Fraction(float(number)) == exact_residual(float(error), found.scale, value)


@given(small_errors())
@settings(deadline=None)
def test_a_correction_leaves_at_most_half_a_step_of_the_word(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    x, decoded = pair
    side = wr(fraction=Fraction(1, 2))
    found = residuals(side, x, decoded)
    corrected = decoded.copy()
    add_residuals(side, corrected, found)
    before = np.abs(x.astype(np.float64) - decoded).reshape(-1)
    after = np.abs(x.astype(np.float64) - corrected).reshape(-1)
    untouched = np.ones(x.size, np.bool_)
    untouched[found.index] = False
    assert (after[untouched] == before[untouched]).all()
    error = before[found.index]
    half_step = np.maximum(error / 32, found.scale * 2.0**-7)  # 4 mantissa bits; subnormals
    rounding = (np.abs(x.reshape(-1)[found.index]).astype(np.float64) + 8) * 2.0**-23
    assert (after[found.index] <= half_step + rounding).all()
    assert (after[found.index] <= error + rounding).all()


def test_equal_errors_go_to_the_lower_index() -> None:
    x = np.array([[1, -2, 2], [0, 2, 1]], np.float32)
    found = residuals(wr(fraction=Fraction(1, 3)), x, np.zeros_like(x))
    assert found.index.tolist() == [1, 2]


def test_elements_without_an_error_are_not_corrected() -> None:
    x = np.array([[1, 2, 3, 4]], np.float32)
    decoded = np.array([[1, 2, 2.5, 4]], np.float32)
    assert residuals(wr(fraction=Fraction(1)), x, decoded).index.tolist() == [2]
    assert residuals(wr(fraction=Fraction(1)), x, x).index.size == 0


def test_weights_of_columns_decide_what_is_corrected() -> None:
    x = np.array([[4, 1, 3, 2]], np.float32)
    weights = np.array([0, 5, 1, 2], np.float32)
    found = residuals(wr(fraction=Fraction(1, 2)), x, np.zeros_like(x), weights)
    assert found.index.tolist() == [1, 3]


@pytest.mark.parametrize("error", [31.0, 3.0, 0.1, 1e-40, 2.0**-149, 3e38])
def test_the_scale_is_the_least_that_keeps_the_largest_residual(error: float) -> None:
    x = np.array([[error, -error / 4]], np.float32)
    scale = residuals(wr(fraction=Fraction(1)), x, np.zeros_like(x)).scale
    below = np.nextafter(np.float32(scale), np.float32(0))
    assert Fraction(scale) * 31 >= Fraction(float(x[0, 0])) > Fraction(float(below)) * 31


def test_the_worst_errors_of_many_pieces_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (37, 53)).astype(np.float32)  # many ties
    decoded = np.zeros_like(x)
    whole = residuals(wr(fraction=Fraction(1, 50)), x, decoded)
    monkeypatch.setattr(sides, "STRIP", 64)
    pieces = residuals(wr(fraction=Fraction(1, 50)), x, decoded)
    np.testing.assert_array_equal(whole.index, pieces.index)
    np.testing.assert_array_equal(whole.words, pieces.words)
    ranked = sorted(range(x.size), key=lambda i: (-abs(x.reshape(-1)[i]), i))
    assert whole.index.tolist() == sorted(ranked[: ceil(x.size / 50)])


@pytest.mark.parametrize("large", ["everywhere", "where it is sampled", "nowhere else"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_sample_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, large: str, weighted: bool
) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((61, 305)).astype(np.float32)
    sampled = np.zeros(x.shape, np.bool_)
    sampled[:, ::61] = True
    x[sampled] *= {"everywhere": 1, "where it is sampled": 1e4, "nowhere else": 1e-4}[large]
    decoded, weights = np.zeros_like(x), rng.random(305).astype(np.float32) if weighted else None
    keys = np.abs(x.astype(np.float64)) * (1 if weights is None else weights)
    ranked = np.argsort(-keys.reshape(-1), kind="stable")
    for size in (1 << 14, 8):  # the tensor is small, and all is looked at; it is large
        monkeypatch.setattr(sides, "SAMPLE", size)
        found = residuals(wr(fraction=Fraction(1, 10)), x, decoded, weights)
        assert found.index.tolist() == sorted(ranked[: ceil(x.size / 10)].tolist())


def test_outliers_of_many_pieces_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_t(2, (11, 100)).astype(np.float32)
    whole = take_outliers(opq(), x, 16)
    monkeypatch.setattr(sides, "STRIP", 300)
    pieces = take_outliers(opq(), x, 16)
    assert whole[1].index.size > 10
    np.testing.assert_array_equal(whole[0], pieces[0])
    np.testing.assert_array_equal(whole[1].index, pieces[1].index)
    np.testing.assert_array_equal(whole[1].words, pieces[1].words)


def test_errors_that_are_no_numbers_are_left_alone() -> None:
    x = np.array([[np.nan, 1, 3e38]], np.float32)
    decoded = np.array([[0, 0, -3e38]], np.float32)
    found = residuals(wr(fraction=Fraction(1)), x, decoded)
    assert found.index.tolist() == [1]


@pytest.mark.parametrize(("value", "bits"), [("e3m4", 4), ("e4m3", 3), ("bf16", 7), ("fp16", 10)])
@pytest.mark.parametrize("size", [2.0**-149, 2.0**-140, 1e-30, 1e-7, 1.0, 3e38])
def test_errors_of_any_size_are_corrected(value: str, bits: int, size: float) -> None:
    x = np.array([[size, -size / 2, 0, 0]], np.float32)
    side, decoded = wr(value, Fraction(1)), np.zeros((1, 4), np.float32)
    add_residuals(side, decoded, residuals(side, x, decoded))
    np.testing.assert_allclose(decoded, x, rtol=2.0 ** -(bits + 1), atol=2e-45)


def test_a_correction_never_leaves_fp32() -> None:
    largest = np.finfo(np.float32).max
    decoded = np.array([[largest]], np.float32)
    side = wr()
    add_residuals(side, decoded, Sparse(np.array([0]), np.array([0x7F], np.uint32), 1e37))
    assert decoded[0, 0] == largest


# -- bytes -----------------------------------------------------------------------------


def sparse_at(index: list[int], side: Side) -> Sparse:
    words = np.arange(len(index)) * 7919 % (1 << min(side.value.container, 31))
    scale = 0.5 if side.kind == "wr" else 1.0
    return Sparse(np.array(index, np.int64), words.astype(np.uint32), scale)


@pytest.mark.parametrize("side", [opq(), opq("fp32"), wr(), wr("fp16")], ids=lambda s: s.kind)
@pytest.mark.parametrize(
    ("elements", "index", "counts"),
    [
        (0, [], []),
        (1, [], [0]),
        (1, [0], [1]),
        (SEGMENT - 1, [0, SEGMENT - 2], [2]),
        (SEGMENT, [0, SEGMENT - 1], [2]),
        (SEGMENT + 1, [SEGMENT - 1, SEGMENT], [1, 1]),
        (2 * SEGMENT, [5, SEGMENT - 1, SEGMENT, 2 * SEGMENT - 1], [2, 2]),
        (3 * SEGMENT, [2 * SEGMENT], [0, 0, 1]),
    ],
)
def test_streams_come_back(side: Side, elements: int, index: list[int], counts: list[int]) -> None:
    sparse = sparse_at(index, side)
    streams = to_streams(side, sparse, elements)
    kind, width = side.kind, side.value.container // 8
    sizes = {name: octets.shape for name, octets in streams.items()}
    expected = {
        f"{kind}.counts": (1, 4 * len(counts)),
        f"{kind}.index": (1, 2 * len(index)),
        f"{kind}.values": (1, width * len(index)),
    }
    assert sizes == expected | ({"wr.scale": (1, 4)} if kind == "wr" else {})
    assert all(octets.dtype == np.uint8 for octets in streams.values())
    assert streams[f"{kind}.counts"].view("<u4").reshape(-1).tolist() == counts
    assert streams[f"{kind}.index"].view("<u2").reshape(-1).tolist() == [i % SEGMENT for i in index]
    back = from_streams(side, streams, elements)
    assert back.index.tolist() == index
    assert back.words.tolist() == sparse.words.tolist()
    assert back.scale == sparse.scale


def test_streams_are_little_endian() -> None:
    side = opq("bf16", threshold=1.0)
    x = np.zeros((1, 0x0302), np.float32)
    x[0, 0x0301] = -1.5  # bf16: bfc0
    streams = to_streams(side, take_outliers(side, x, 0x0302)[1], x.size)
    assert streams["opq.counts"].tolist() == [[1, 0, 0, 0]]
    assert streams["opq.index"].tolist() == [[0x01, 0x03]]
    assert streams["opq.values"].tolist() == [[0xC0, 0xBF]]


def test_the_scale_of_residuals_is_an_fp32_number() -> None:
    x = np.array([[31.0, 0.0]], np.float32)
    streams = to_streams(wr(), residuals(wr(), x, np.zeros_like(x)), 2)
    assert streams["wr.scale"].view("<f4").tolist() == [[1.0]]
    assert streams["wr.values"].tolist() == [[0x7F]]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("counts", lambda s: s[:, :4], "'opq.counts' is damaged: it takes 8 bytes"),
        ("counts", lambda s: s[:, [0, 1, 2, 3, 0, 1, 2, 3]], "'opq.index' is damaged: it takes 8"),
        ("index", lambda s: s[:, :2], "'opq.index' is damaged: it takes 6 bytes"),
        ("values", lambda s: s[:, :4], "'opq.values' is damaged: it takes 6 bytes"),
        ("index", lambda s: s[:, [0, 1, 0, 1, 4, 5]], "ascends inside the tensor"),
        ("index", lambda s: s[:, [0, 1, 2, 3, 2, 3]], "ascends inside the tensor"),
    ],
)
def test_damaged_streams_are_refused(name: str, damage, message: str) -> None:
    side = opq()
    elements = SEGMENT + 3
    streams = to_streams(side, sparse_at([3, 700, SEGMENT + 1], side), elements)
    streams[f"opq.{name}"] = np.ascontiguousarray(damage(streams[f"opq.{name}"]))
    with pytest.raises(ValueError, match=message):
        from_streams(side, streams, elements)


def test_empty_tensors_have_empty_sides() -> None:
    for shape in ((0, 16), (3, 0), (0, 0)):
        x = np.zeros(shape, np.float32)
        dense, outliers = take_outliers(opq(), x, 16)
        assert dense.shape == shape
        found = residuals(wr(), x, x)
        assert (outliers.index.size, found.index.size) == (0, 0)
        put_outliers(opq(), x, outliers)
        add_residuals(wr(), x, found)
        assert to_streams(wr(), found, 0)["wr.counts"].shape == (1, 0)


# -- clauses ---------------------------------------------------------------------------


def test_residuals_take_a_thousandth_in_e3m4_unless_said_otherwise() -> None:
    (side,) = sides_of("side wr")
    assert (side.fraction, side.value.name, side.value.container) == (Fraction(1, 1000), "e3m4", 8)
    (other,) = sides_of("side wr { fraction 2^-7  value bf16 }")
    assert (other.fraction, other.value.name) == (Fraction(1, 128), "bf16")


def test_outliers_come_before_residuals_however_they_are_said() -> None:
    assert [side.kind for side in sides_of("side wr  side opq")] == ["opq", "wr"]
    assert sides_of("side wr  side opq") == sides_of("side opq  side wr")


def test_a_threshold_above_every_block_is_legal() -> None:
    (side,) = sides_of("side opq { threshold 64 }")
    x = np.zeros((1, 1024), np.float32)
    x[0, 0] = 1
    assert float(side.threshold) > isqrt(1024)
    assert take_outliers(side, x, 1024)[1].index.size == 0
