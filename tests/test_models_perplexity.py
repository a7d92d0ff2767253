import math
from types import SimpleNamespace

import pytest
from fmtc.runtime.models import Perplexity, evaluation_text, perplexity

torch = pytest.importorskip("torch", reason="torch is not installed")


VOCABULARY = 50


class Bigram(torch.nn.Module):
    """Knows for each token the distribution of the next one."""

    def __init__(self, logits):
        super().__init__()
        self.table = torch.nn.Parameter(logits)

    def forward(self, input_ids, use_cache):
        assert not use_cache
        assert not self.training
        return SimpleNamespace(logits=self.table[input_ids])


def some_tokens(count=100):
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(1))


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large():
    result = perplexity(Bigram(torch.zeros(VOCABULARY, VOCABULARY)), some_tokens(), context=20)
    assert result.ppl == pytest.approx(VOCABULARY, rel=1e-6)
    assert result.stderr == pytest.approx(0, abs=1e-9)
    assert result.tokens == 5 * 19


def test_perplexity_is_the_mean_loss_of_all_tokens_but_the_first_of_each_window():
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(2))
    ids = some_tokens(47).tolist()
    result = perplexity(Bigram(table), ids, context=10)
    log_p = table.double().log_softmax(1)
    windows = [
        [-float(log_p[ids[i], ids[i + 1]]) for i in range(start, start + 9)]
        for start in (0, 10, 20, 30)
    ]
    means = [sum(w) / 9 for w in windows]
    mean = sum(means) / 4
    assert result.nll == pytest.approx(mean, rel=1e-6)
    assert result.ppl == pytest.approx(math.exp(mean), rel=1e-5)
    assert result.windows == pytest.approx(means, rel=1e-6)
    deviation = math.sqrt(sum((m - mean) ** 2 for m in means) / 3)
    assert result.stderr == pytest.approx(deviation / 2, rel=1e-5)


def test_a_text_shorter_than_the_context_is_one_window():
    result = perplexity(Bigram(torch.zeros(VOCABULARY, VOCABULARY)), some_tokens(7), context=512)
    assert result.tokens == 6
    assert math.isnan(result.stderr)


def test_max_tokens_cuts_the_text():
    model = Bigram(torch.randn(VOCABULARY, VOCABULARY))
    whole, cut = some_tokens(100), some_tokens(100)[:40]
    assert perplexity(model, whole, 10, max_tokens=40) == perplexity(model, cut, 10)


def test_progress_is_reported_for_each_window():
    calls = []
    model = Bigram(torch.zeros(VOCABULARY, VOCABULARY))
    perplexity(model, some_tokens(35), 10, progress=lambda *step: calls.append(step))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("training", [True, False])
def test_perplexity_leaves_the_model_in_its_mode(training):
    model = Bigram(torch.zeros(VOCABULARY, VOCABULARY)).train(training)
    perplexity(model, some_tokens(), 10)
    assert model.training is training


@pytest.mark.parametrize(
    ("ids", "context", "words"),
    [([1], 8, "two tokens"), ([[1, 2]], 8, "one dimension"), ([1, 2, 3], 1, "context of 1")],
)
def test_a_text_or_context_that_predicts_nothing_is_refused(ids, context, words):
    with pytest.raises(ValueError, match=words):
        perplexity(Bigram(torch.zeros(VOCABULARY, VOCABULARY)), ids, context)


def test_two_results_are_compared_window_by_window():
    base = Perplexity(2.0, 0.5, 20, (1.0, 3.0))
    worse = Perplexity(2.2, 0.5, 20, (1.1, 3.3))
    mean, stderr = worse.difference(base)
    assert mean == pytest.approx(0.2)
    assert stderr == pytest.approx(0.1)
    with pytest.raises(ValueError, match="1 against 2"):
        Perplexity(1.0, math.nan, 5, (1.0,)).difference(base)


def test_the_evaluation_text_is_clean_prose():
    text = evaluation_text()
    assert text.startswith("Now it came to pass in the days when the judges ruled")
    assert len(text) == 60158
    assert text.isascii()
    assert not any(character.isdigit() for character in text)
