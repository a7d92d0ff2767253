from __future__ import annotations

import math

import numpy as np
import pytest
from fmtc.runtime.judge.intervals import Interval, mean_interval, ratio_interval
from fmtc.runtime.judge.wording import octets, seconds, with_reach


def test_the_interval_of_a_mean_is_students() -> None:
    found = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5
    assert found.high - 2.5 == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)
    assert found.low + found.high == pytest.approx(5.0)


def covered(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


@pytest.mark.parametrize("windows", [4, 8, 32])
def test_the_interval_of_a_mean_covers_it_19_times_in_20(windows: int) -> None:
    rng = np.random.default_rng(windows)
    # Means of windows of dependent tokens: a level of the window's own, and noise.
    drawn = 2.0 + 0.5 * rng.standard_normal((2000, windows))
    share = np.mean([covered(mean_interval(row), 2.0) for row in drawn])
    assert 0.935 <= share <= 0.965


def test_the_interval_of_a_skewed_mean_covers_it_nearly_as_often() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.gamma(4.0, 0.25, (2000, 32))  # as skewed as the KL of windows is
    share = np.mean([covered(mean_interval(row), 1.0) for row in drawn])
    assert 0.92 <= share <= 0.965


def test_tokens_counted_singly_would_claim_too_much() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.standard_normal((300, 16, 1)) + rng.standard_normal((300, 16, 64))
    by_window = np.mean([covered(mean_interval(x.mean(axis=1)), 0.0) for x in tokens])
    singly = np.mean([covered(mean_interval(x.ravel()), 0.0) for x in tokens])
    assert by_window > 0.91
    assert singly < 0.5


def test_the_interval_of_a_ratio_covers_it() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(120):
        sizes = rng.choice([1.0, 4.0, 16.0], 100)
        hits += covered(ratio_interval(sizes * rng.gamma(4.0, 0.25, 100), sizes), 1.0)
    assert 0.89 <= hits / 120 <= 0.99


def test_a_ratio_weighs_by_its_denominators() -> None:
    found = ratio_interval([1.0, 30.0], [1.0, 10.0])
    assert found.value == 31 / 11
    assert (found.low, found.high) == (1.0, 3.0)


def test_the_same_data_give_the_same_interval() -> None:
    x = np.random.default_rng(4).random(50)
    assert ratio_interval(x, x + 1) == ratio_interval(x, x + 1)


def test_a_single_observation_has_no_interval() -> None:
    for found in (
        mean_interval([3.0]),
        ratio_interval([6.0], [2.0]),
        ratio_interval([6, 0], [2, 0]),
    ):
        assert found.value == 3.0
        assert not found.known
        assert not found.resolved
        assert found.values() == [3.0, None, None]
    assert ratio_interval([0.0, 0.0], [0.0, 0.0]).value == 0.0


def test_a_difference_is_resolved_where_its_interval_leaves_0_out() -> None:
    assert Interval(1.0, 0.5, 1.5).resolved
    assert Interval(-1.0, -1.5, -0.5).resolved
    assert not Interval(0.1, -0.5, 0.7).resolved
    assert not mean_interval([0.0, 0.0, 0.0]).resolved


def test_an_interval_stays_within_what_is_possible() -> None:
    assert Interval(0.99, 0.97, 1.01).clipped(0.0, 1.0) == Interval(0.99, 0.97, 1.0)
    assert not Interval(0.99).clipped(0.0, 1.0).known


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Interval(27.8262, 22.4454, 33.207), "27.8 +-5.4"),
        (Interval(0.332816, 0.28928, 0.37635), "0.333 +-0.044"),
        (Interval(1.208e-5, 1.167e-5, 1.249e-5), "(1.208 +-0.041)e-5"),
        (Interval(-3.79e-3, -4.24e-3, -3.34e-3), "(-3.79 +-0.45)e-3"),
        (Interval(0.5), "0.5 +-?"),
        (Interval(1.0, 1.0, 1.0), "1.0 +-0.0"),
        (Interval(0.0, 0.0, 0.0), "0.0 +-0.0"),
    ],
)
def test_a_figure_is_written_with_the_digits_that_its_interval_allows(
    found: Interval, words: str
) -> None:
    assert with_reach(found) == words


def test_sizes_and_times_are_written_for_readers() -> None:
    assert [octets(n) for n in (0, 1023, 1536, 3 << 30)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "3.0 GiB",
    ]
    assert [seconds(n) for n in (0.123, 42.3, 754, 7260)] == [
        "0.12 s",
        "42 s",
        "12 min 34 s",
        "2 h 1 min",
    ]
