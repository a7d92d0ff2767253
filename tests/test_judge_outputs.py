from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fmtc import RefusedInput
from fmtc.runtime.judge import outputs
from fmtc.runtime.judge.outputs import (
    Outputs,
    ReferenceLogits,
    Window,
    compare_models,
    measure_outputs,
    token_sums,
    windows_of,
)
from fmtc.runtime.models import perplexity

VOCABULARY = 50


class Bigram(torch.nn.Module):
    """Knows for each token the distribution of the next one."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(logits)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        assert not self.training
        return SimpleNamespace(logits=self.table[input_ids])


def table(seed: int, spread: float = 1.0) -> torch.Tensor:
    maker = torch.Generator().manual_seed(seed)
    return spread * torch.randn(VOCABULARY, VOCABULARY, generator=maker)


def tokens(count: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(1))


def pair(seed: int, spread: float, rows: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two models that differ by noise."""
    maker = torch.Generator().manual_seed(seed)
    p = 3 * torch.randn(rows, VOCABULARY, generator=maker)
    return p, p + spread * torch.randn(rows, VOCABULARY, generator=maker)


def measured(p: torch.Tensor, q: torch.Tensor) -> tuple[float, ...]:
    """Mean nll of both, KL, EAR and agreement, where token 0 always follows."""
    targets = torch.zeros(len(p), dtype=torch.int64)
    return tuple(float(v) / len(p) for v in token_sums(p, q, targets))


# -- identities --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_models_have_a_kl_of_exactly_0_and_an_ear_of_exactly_1(dtype: torch.dtype) -> None:
    p = (20 * torch.randn(64, 4096, generator=torch.Generator().manual_seed(3))).to(dtype).float()
    nll_p, nll_q, kl, ear, agreement = measured(p, p.clone())
    assert nll_p == nll_q
    assert (kl, ear, agreement) == (0.0, 1.0, 1.0)


def test_a_constant_added_to_all_logits_changes_nothing_but_rounding() -> None:
    p, _ = pair(1, 0.0)
    _, _, kl, ear, _ = measured(p, p + 7)
    assert kl < 1e-11
    assert 1 - 1e-6 < ear <= 1


@pytest.mark.parametrize("spread", [0.001, 0.1, 1.0, 10.0])
def test_ear_is_the_sum_of_minima_symmetric_and_within_pinskers_bound(spread: float) -> None:
    p, q = pair(2, spread)
    _, _, kl, ear, _ = measured(p, q)
    direct = torch.minimum(p.double().softmax(-1), q.double().softmax(-1)).sum(-1).mean()
    assert ear == pytest.approx(float(direct), abs=1e-12)
    assert measured(q, p)[3] == ear
    assert 0 < ear < 1
    assert kl > 0
    assert 1 - ear <= math.sqrt(kl / 2)
    for row in range(0, 400, 40):
        _, _, kl, ear, _ = measured(p[row : row + 1], q[row : row + 1])
        assert 1 - ear <= math.sqrt(kl / 2)


def test_kl_and_nll_are_what_their_definitions_say() -> None:
    p, q = pair(4, 0.7)
    nll_p, nll_q, kl, _, agreement = measured(p, q)
    log_p, log_q = (
        x.double().numpy() - np.logaddexp.reduce(x.double().numpy(), axis=1, keepdims=True)
        for x in (p, q)
    )
    assert nll_p == pytest.approx(float(-log_p[:, 0].mean()), rel=1e-12)
    assert nll_q == pytest.approx(float(-log_q[:, 0].mean()), rel=1e-12)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    assert kl == pytest.approx(float(divergence), rel=1e-10)
    same = np.argmax(log_p, axis=1) == np.argmax(log_q, axis=1)
    assert agreement == same.mean()


def test_the_best_coupling_of_two_models_agrees_as_often_as_ear_says() -> None:
    p, q = pair(5, 1.0, rows=1)
    ear = measured(p, q)[3]
    a, b = (x.double().softmax(-1)[0].numpy() for x in (p, q))
    both = np.minimum(a, b)
    rng, count = np.random.default_rng(0), 200_000
    shared = rng.random(count) < both.sum()
    first = rng.choice(VOCABULARY, count, p=(a - both) / (a - both).sum())
    second = rng.choice(VOCABULARY, count, p=(b - both) / (b - both).sum())
    common = rng.choice(VOCABULARY, count, p=both / both.sum())
    drawn_a, drawn_b = np.where(shared, common, first), np.where(shared, common, second)
    assert np.mean(drawn_a == drawn_b) == pytest.approx(ear, abs=4 * math.sqrt(0.25 / count))
    frequencies = np.bincount(drawn_b, minlength=VOCABULARY) / count
    assert np.abs(frequencies - b).max() < 0.005  # the coupling draws from q, too


def test_16_bit_probabilities_would_cap_the_ear_of_equal_models() -> None:
    p = torch.randn(64, 49152, generator=torch.Generator().manual_seed(6))
    rough = p.log_softmax(-1).half().float()
    capped = torch.minimum(rough.exp(), p.softmax(-1)).sum(-1).double().mean()
    assert float(capped) < 0.99995
    assert measured(p, p)[3] == 1.0


def test_tokens_that_the_reference_rules_out_add_nothing() -> None:
    p, q = pair(7, 0.5)
    p[:, 10:] = -math.inf
    _, _, kl, ear, _ = measured(p, q)
    assert math.isfinite(kl)
    assert 0 < ear < 1
    _, _, kl, ear, _ = measured(q, p)
    assert kl == math.inf
    assert 0 < ear < 1


# -- windows -----------------------------------------------------------------------------


def test_models_are_held_against_each_other_window_by_window() -> None:
    p, q = table(1), table(1) + 0.3 * table(2)
    ids = tokens(107)
    found = compare_models(Bigram(p), Bigram(q), ids, context=10)
    assert found.context == 10
    assert len(found.windows) == 10
    assert found.tokens == 90
    assert found.perplexity.value == pytest.approx(perplexity(Bigram(q), ids, 10).ppl, rel=1e-6)
    base = perplexity(Bigram(p), ids, 10)
    assert found.reference_perplexity.value == pytest.approx(base.ppl, rel=1e-6)
    for index, window in enumerate(found.windows):
        ids_here = ids[10 * index : 10 * index + 10]
        sums = token_sums(p[ids_here[:-1]], q[ids_here[:-1]], ids_here[1:]) / 9
        values = (window.reference_nll, window.nll, window.kl, window.ear, window.agreement)
        assert values == pytest.approx(tuple(map(float, sums)), rel=1e-12)


def test_chunks_of_positions_do_not_change_what_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = Bigram(table(1)), Bigram(table(2))
    whole = compare_models(*models, tokens(64), context=16)
    monkeypatch.setattr(outputs, "_CHUNK", 3 * VOCABULARY)
    cut = compare_models(*models, tokens(64), context=16)
    for one, other in zip(whole.windows, cut.windows, strict=True):
        assert one.kl == pytest.approx(other.kl, rel=1e-12)
        assert one.ear == pytest.approx(other.ear, rel=1e-12)
        assert one.agreement == other.agreement


def test_a_difference_is_paired_by_window() -> None:
    hard = [1.0, 5.0, 2.0, 8.0]
    found = Outputs(4, tuple(Window(h, h + 0.1, 0.2, 0.9, 1.0) for h in hard))
    assert found.delta_nll.value == pytest.approx(0.1)
    assert found.delta_nll.high - found.delta_nll.low < 1e-9
    assert found.delta_nll.resolved
    assert found.perplexity.high / found.perplexity.low > 100


def test_reference_logits_are_kept_to_the_last_bit_and_leave_nothing_behind(
    tmp_path: Path,
) -> None:
    model, windows = Bigram(table(3, 1e4)), windows_of(tokens(30), 10)
    with ReferenceLogits(model, windows, tmp_path) as kept:
        for index, window in enumerate(windows):
            assert torch.equal(kept.rows(index, 0, 9), model.table[window[:-1]])
        assert torch.equal(kept.rows(2, 4, 100), model.table[windows[2][4:-1]])
        assert measure_outputs(kept, model).ear.value == 1.0
        assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=1 << 28)
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RefusedInput, match="judge on fewer tokens"):
        ReferenceLogits(Bigram(table(1)), windows_of(tokens(30), 10), tmp_path)


def test_a_model_that_predicts_nan_is_named() -> None:
    broken = table(1)
    broken[:, 3] = math.nan
    with pytest.raises(RefusedInput, match="the quantized model predicts NaN in window 0"):
        compare_models(Bigram(table(1)), Bigram(broken), tokens(30), context=10)
    with pytest.raises(RefusedInput, match="the reference predicts NaN"):
        compare_models(Bigram(broken), Bigram(table(1)), tokens(30), context=10)


def test_another_vocabulary_is_refused() -> None:
    wider = torch.randn(VOCABULARY, VOCABULARY + 14)
    with pytest.raises(RefusedInput, match="50 tokens, the quantized model's 64"):
        compare_models(Bigram(table(1)), Bigram(wider), tokens(30), context=10)


@pytest.mark.parametrize(
    ("ids", "context", "words"),
    [([1], 8, "two tokens"), ([[1, 2]], 8, "one dimension"), ([1, 2, 3], 1, "context of 1")],
)
def test_what_predicts_nothing_is_refused(ids: list[int], context: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        windows_of(ids, context)


def test_outputs_are_the_same_after_json() -> None:
    found = compare_models(Bigram(table(1)), Bigram(table(2)), tokens(64), context=16)
    assert Outputs.of_values(found.values()) == found
    ruled_out = Outputs(4, (Window(1.0, 2.0, math.inf, 0.5, 1.0),) * 2)
    assert Outputs.of_values(ruled_out.values()) == ruled_out
    assert ruled_out.values()["kl"] == [None, None, None]
