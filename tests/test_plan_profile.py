from __future__ import annotations

import json
from dataclasses import replace

import fmtc
import numpy as np
import pytest
from fmtc import RefusedInput
from fmtc.compiler.sides import from_streams
from fmtc.compiler.stored import from_word
from fmtc.runtime.errors import CorruptFile
from fmtc.runtime.grids.metrics import Errors, errors_of
from fmtc.runtime.manifest import entry_bound
from fmtc.runtime.plan import (
    CORRECTIONS,
    Choice,
    Unit,
    UnitProfile,
    candidate_texts,
    profile_unit,
    quantize_matrix,
)
from fmtc.runtime.plan.profile import compiled, text_octets
from hypothesis import given
from hypothesis import strategies as st

BASE = fmtc.load("nf4_dd4_ue4m3").source
UNIT = Unit("attn.q_proj+k_proj.weight", ("attn.q_proj.weight", "attn.k_proj.weight"))


def heavy_tailed(seed: int, rows: int = 24, columns: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


WEIGHTS = {name: heavy_tailed(i) for i, name in enumerate(UNIT.members)}
NORMS = np.abs(heavy_tailed(9, 1)[0]) + np.float32(0.1)


@pytest.fixture(scope="module")
def profile() -> UnitProfile:
    candidates = candidate_texts(BASE, ("e2m3_ue4m4",), CORRECTIONS)
    return profile_unit(UNIT, WEIGHTS.__getitem__, NORMS, candidates)


def test_errors_are_those_of_the_decoded_bytes(profile: UnitProfile) -> None:
    assert len(profile.choices) == 8
    for choice in profile.choices:
        fmt = compiled(choice.text)
        total = Errors()
        for w in WEIGHTS.values():
            decoded = fmt.quantize(w, weights=NORMS).dequantize()
            total += errors_of(w, decoded, NORMS, 16)
        assert choice.errors == total, choice.label


def test_octets_are_the_bytes_that_are_stored(profile: UnitProfile) -> None:
    for choice in profile.choices:
        fmt = compiled(choice.text)
        octets = 0
        for name, w in WEIGHTS.items():
            q = fmt.quantize(w, weights=NORMS)
            octets += sum(stream.size for stream in q.streams.values())
            octets += 4  # the shift of the scales
            shapes = {stream: array.shape for stream, array in q.streams.items()}
            octets += entry_bound(name, fmt, shapes)
        assert choice.octets == octets, choice.label
        assert text_octets(choice.text) > len(choice.text.encode())


def test_corrections_take_bytes_and_lessen_the_error(profile: UnitProfile) -> None:
    by_label = {choice.label: choice for choice in profile.choices}
    for name in ("base", "e2m3_ue4m4"):
        plain, kept, worst, both = (by_label[name + end] for end in ("", ".OPQ", ".Wr", ".OPQ.Wr"))
        assert plain.octets < min(kept.octets, worst.octets)
        assert both.octets > max(kept.octets, worst.octets)
        assert kept.errors.squared < plain.errors.squared
        assert worst.errors.weighted < plain.errors.weighted
        assert both.errors.weighted < kept.errors.weighted


def test_one_matrix_is_asked_for_at_a_time_and_once() -> None:
    asked = []

    def load(name: str) -> np.ndarray:
        asked.append(name)
        return WEIGHTS[name]

    found = profile_unit(UNIT, load, None, candidate_texts(BASE, (), CORRECTIONS))
    assert asked == list(UNIT.members)
    assert found.elements == sum(w.size for w in WEIGHTS.values())


def test_a_matrix_is_stored_alike_alone_and_in_a_profile() -> None:
    for _, text in candidate_texts(BASE, (), CORRECTIONS):
        fmt = compiled(text)
        (name, w), *_ = WEIGHTS.items()
        one, other = quantize_matrix(fmt, w, NORMS), fmt.quantize(w, weights=NORMS)
        assert one.format == other.format
        assert one.level == other.level
        assert {k: v.tobytes() for k, v in one.streams.items()} == {
            k: v.tobytes() for k, v in other.streams.items()
        }, name


def test_weighted_choices_count_the_square_of_norms_and_residuals_the_norms() -> None:
    text = BASE.rstrip().removesuffix("}") + "error weighted }"
    plain = compiled(text)
    corrected = compiled(text.rstrip().removesuffix("}") + "side wr { fraction 0.01 } }")
    w = heavy_tailed(3)
    bare = plain.quantize(w, weights=np.square(NORMS))
    assert bare.streams["codes"].tobytes() != plain.quantize(w).streams["codes"].tobytes()
    found = quantize_matrix(corrected, w, NORMS)
    for name in bare.streams:
        assert found.streams[name].tobytes() == bare.streams[name].tobytes()
        assert quantize_matrix(plain, w, NORMS).streams[name].tobytes() == (
            bare.streams[name].tobytes()
        )
    places = from_streams(corrected.sides[0], dict(found.streams), w.size).index
    errors = (np.abs(w - bare.dequantize()) * NORMS.astype(np.float64)).reshape(-1)
    assert sorted(places) == sorted(np.argsort(-errors, kind="stable")[: len(places)])


def test_infinities_are_corrected_as_the_format_has_them() -> None:
    fmt = with_residuals(0.01).source.rstrip().removesuffix("}") + "nan zero inf saturate }"
    w = heavy_tailed(4)
    w[0, 3], w[1, 5] = np.inf, np.nan
    one, other = quantize_matrix(compiled(fmt), w, NORMS), compiled(fmt).quantize(w, weights=NORMS)
    for name, octets in other.streams.items():
        assert one.streams[name].tobytes() == octets.tobytes(), name


def test_outliers_are_kept_bit_for_bit() -> None:
    text = BASE.rstrip().removesuffix("}") + "side opq { quantile 0.5 } }"
    fmt = compiled(text)
    w = (heavy_tailed(5).view(np.uint32) & 0xFFFF0000).view(np.float32)  # bf16 numbers
    q = quantize_matrix(fmt, w, NORMS)
    kept = from_streams(fmt.sides[0], dict(q.streams), w.size)
    assert len(kept.index) > 20
    decoded = q.dequantize().reshape(-1)[kept.index]
    assert decoded.tobytes() == w.reshape(-1)[kept.index].tobytes()
    assert decoded.tobytes() == from_word(fmt.sides[0].value, kept.words).tobytes()


def with_residuals(fraction: float) -> fmtc.Format:
    text = f"format mine {{ block 16 grid e2m1 scale e4m3 side wr {{ fraction {fraction} }} }}"
    return compiled(text)


def test_the_more_residuals_the_less_error() -> None:
    w = heavy_tailed(7)
    errors = [
        errors_of(w, quantize_matrix(with_residuals(share), w).dequantize(), None, 16).squared
        for share in (0.001, 0.003, 0.01, 0.05, 0.2, 0.5, 1)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 100


def test_with_all_residuals_nothing_is_lost_that_they_can_say() -> None:
    random = np.random.default_rng(1)
    grid = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
    missing = np.array([0, 1, -2, 15.5, -15.5, 9.5, 0.25]) / 1024
    w = random.choice(grid[1:-1], (8, 64)) + random.choice(missing, (8, 64))
    w[:, ::16] = 6  # every block has the scale 1
    w[0, 1] = 1 + missing[3]  # and the residuals the unit 1 / 1024
    w = w.astype(np.float32)
    q = quantize_matrix(with_residuals(1), w)
    assert np.array_equal(q.dequantize(), w)
    assert not np.array_equal(quantize_matrix(with_residuals(0.001), w).dequantize(), w)


def test_what_does_not_fit_a_candidate_is_left_out_with_the_reason() -> None:
    candidates = candidate_texts(BASE, ("q4_k",), ())
    found = profile_unit(UNIT, WEIGHTS.__getitem__, None, candidates)
    assert [choice.label for choice in found.choices] == ["base"]
    ((label, reason),) = found.left_out
    assert label == "q4_k"
    assert "100 elements of attn.q_proj.weight do not divide into records of 256" in reason
    with pytest.raises(RefusedInput, match="fits none of the candidates: q4_k: rows of 100"):
        profile_unit(UNIT, WEIGHTS.__getitem__, None, candidates[1:])


def test_a_matrix_that_is_refused_is_named() -> None:
    broken = {**WEIGHTS, UNIT.members[1]: np.full((4, 100), np.nan, np.float32)}
    with pytest.raises(RefusedInput, match=r"^attn\.k_proj\.weight: the input has a NaN"):
        profile_unit(UNIT, broken.__getitem__, None, candidate_texts(BASE))


def test_bad_arguments_are_refused() -> None:
    candidates = candidate_texts(BASE)
    with pytest.raises(ValueError, match="same label"):
        profile_unit(UNIT, WEIGHTS.__getitem__, None, candidates * 2)
    for norms in (NORMS[:7], -NORMS, NORMS * np.float32(np.inf)):
        with pytest.raises(RefusedInput, match=r"q_proj\.weight: channel norms are 100 finite"):
            profile_unit(UNIT, WEIGHTS.__getitem__, norms, candidates)


def test_a_profile_comes_back_from_json_as_it_was(profile: UnitProfile) -> None:
    left = replace(profile, left_out=(("q4_k", "too short"),))
    for one in (profile, left):
        text = json.dumps(one.to_json())
        again = UnitProfile.from_json(json.loads(text))
        assert again == one
        assert json.dumps(again.to_json()) == text


NUMBERS = st.floats(allow_nan=False)


@given(st.builds(Errors, st.integers(0), *[NUMBERS] * 4, st.integers(0), NUMBERS))
def test_no_bit_of_an_error_is_lost_in_json(errors: Errors) -> None:
    choice = Choice("base", BASE, 1, errors)
    assert Choice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


def test_damaged_errors_are_refused() -> None:
    said = Choice("base", BASE, 1, Errors()).to_json()
    for errors in ({"squared": "x"}, {"no": 1}, 3, {"elements": None}):
        with pytest.raises(CorruptFile, match="damaged choice"):
            Choice.from_json({**said, "errors": errors})


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "{}",
        "[]",
        '{"unit": {"name": "a", "members": []}, "elements": 1, "choices": [{}], "left_out": []}',
        '{"unit": 3, "elements": 1, "choices": [], "left_out": []}',
        '{"unit": {"name": "a"}, "elements": 1, "choices": [], "left_out": []}',
    ],
)
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(CorruptFile, match="damaged"):
        UnitProfile.from_json(json.loads(text))
