from __future__ import annotations

import math

import numpy as np
import pytest
from fmtc.runtime.grids.metrics import METRICS, Errors, block_cosines, errors_of
from hypothesis import given, settings
from hypothesis import strategies as st


def by_hand(w: np.ndarray, v: np.ndarray, c: np.ndarray, block: int) -> list[float]:
    """Cosines as the definition has them, in Python's own floats."""
    found = []
    for one, two in zip(w.tolist(), v.tolist(), strict=True):
        for at in range(0, len(one), block):
            a, b, n = one[at : at + block], two[at : at + block], c.tolist()[at : at + block]
            both, first, second = (
                math.fsum(k * x * y for k, x, y in zip(n, p, q, strict=True))
                for p, q in ((a, b), (a, a), (b, b))
            )
            if first == 0 or second == 0:
                found.append(float(first == second))
            else:
                found.append(both / math.sqrt(first * second))
    return found


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 70),
    block=st.sampled_from([1, 4, 16, 64]),
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
)
def test_errors_are_those_of_the_definition(
    rows: int, length: int, block: int, seed: int, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, length)).astype(np.float32)
    v = (w + 0.1 * rng.standard_normal((rows, length))).astype(np.float32)
    v[0, : block // 2] = 0
    w[-1, :block] = 0
    c = np.abs(rng.standard_normal(length)).astype(np.float32)
    norms = c if weighted else None
    counted = c.astype(np.float64) if weighted else np.ones(length)
    found = errors_of(w, v, norms, block)
    lost = w.astype(np.float64) - v
    cosines = by_hand(w, v, counted, block)
    assert found.mse == pytest.approx(np.mean(lost**2), rel=1e-12)
    assert found.weighted == pytest.approx(np.sum((lost * counted) ** 2), rel=1e-12)
    assert found.weighted_energy == pytest.approx(np.sum((w * counted) ** 2), rel=1e-6, abs=1e-30)
    assert found.blocks == len(cosines)
    assert found.acos == pytest.approx(math.fsum(cosines) / len(cosines), abs=1e-12)
    assert block_cosines(w, v, norms, block).ravel() == pytest.approx(cosines, abs=1e-12)


def test_acos_of_a_matrix_with_itself_is_one_and_no_scale_changes_it() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((8, 96)).astype(np.float32)
    v = (w + 0.1 * rng.standard_normal(w.shape)).astype(np.float32)
    c = rng.random(96).astype(np.float32)
    assert errors_of(w, w, c, 16).acos == pytest.approx(1, abs=1e-15)
    plain = errors_of(w, v, c, 16).acos
    assert plain < 1
    assert errors_of(w, 8 * v, c, 16).acos == pytest.approx(plain, abs=1e-15)
    assert errors_of(w, v, 4 * c, 16).acos == pytest.approx(plain, abs=1e-15)
    assert errors_of(w, v, None, 16).acos == errors_of(w, v, np.ones(96, np.float32), 16).acos


def test_a_block_of_zeros_counts_one_beside_zeros_and_none_beside_anything_else() -> None:
    zero, one = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    assert errors_of(zero, zero, None, 4).acos == 1
    assert errors_of(zero, one, None, 4).acos == 0
    assert errors_of(one, zero, None, 4).acos == 0
    assert Errors().acos == 1


def test_errors_of_parts_add_up_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((300, 512)).astype(np.float32)
    v = np.round(w * 4) / 4
    whole = errors_of(w, v, None, 16)
    parts = errors_of(w[:100], v[:100], None, 16) + errors_of(w[100:], v[100:], None, 16)
    assert parts.elements == whole.elements == w.size
    for metric in METRICS:
        assert parts.loss(metric) == pytest.approx(whole.loss(metric), rel=1e-12)
        assert whole.loss(metric) > 0
    assert whole.nmse == pytest.approx(whole.squared / whole.energy)
