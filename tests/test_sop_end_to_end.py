"""SOP on a trained model, from its folder to a judged checkpoint: the whole way, slow set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import fmtc
import pytest
import torch
from fmtc.bench.models import PEERS, WANTED, Run, compared
from fmtc.runtime.checkpoint import Checkpoint
from fmtc.runtime.judge.compare import Comparison
from fmtc.runtime.models.loading import load_model
from fmtc.runtime.runs.log import Log
from fmtc.runtime.sources import open_source

pytestmark = pytest.mark.slow

TOKENS = 8192


@dataclass(frozen=True)
class Outcome:
    model: Path
    comparison: Comparison
    same: Run
    wanted: Run


@pytest.fixture(scope="module")
def outcome(smollm2_rotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Peers rounded to nearest, a run of their size and one of 4.7 bits, judged on one text."""
    folder = tmp_path_factory.mktemp("compared")
    comparison, (same, wanted) = compared(smollm2_rotated, folder, TOKENS)
    return Outcome(smollm2_rotated, comparison, same, wanted)


def test_a_run_takes_less_than_a_quarter_of_an_hour(outcome: Outcome) -> None:
    for run in (outcome.same, outcome.wanted):
        assert run.seconds < 15 * 60


def test_budgets_are_kept_to_the_byte_and_nearly_used_up(outcome: Outcome) -> None:
    for run, least, most in ((outcome.wanted, 4.68, float(WANTED)), (outcome.same, 4.5, 4.54)):
        checkpoint = Checkpoint(run.out)
        totals = checkpoint.totals(open_source(outcome.model))
        files = [*run.out.glob("quantized-*"), *run.out.glob("formats/*"), run.out / "fmtc.json"]
        assert totals.disk_bytes == sum(file.stat().st_size for file in files)
        assert totals.weights == 106_168_320
        assert totals.bpw == 8 * totals.disk_bytes / totals.weights
        assert least < totals.bpw <= most


@pytest.mark.parametrize("peer", [p for p in PEERS if p != "po2_nf4"])
def test_text_tells_it_from_every_format_of_its_size(outcome: Outcome, peer: str) -> None:
    """KL and EAR, paired by window: the interval of the difference leaves 0 out."""
    labels = outcome.comparison.labels
    ours, theirs = len(PEERS), labels.index(peer)
    one, other = (outcome.comparison.judgements[i] for i in (ours, theirs))
    assert one.bpw <= other.bpw + 0.02
    told = outcome.comparison.difference(ours, theirs).figures
    assert told["kl"].high < 0
    assert told["ear"].low > 0


def test_more_bits_lose_less(outcome: Outcome) -> None:
    count = len(outcome.comparison.labels)
    told = outcome.comparison.difference(count - 1, count - 2).figures
    assert told["kl"].high < 0
    assert told["ear"].low > 0


def test_no_single_pair_wins_every_layer(outcome: Outcome) -> None:
    lines = list(
        Log(outcome.wanted.out.with_name(f"{outcome.wanted.out.name}.run") / "log.jsonl").lines()
    )
    assert len(lines) == 120
    pairs = [tuple(line["atoms"]) for line in lines]
    assert len(set(pairs)) >= 4
    assert max(pairs.count(pair) for pair in set(pairs)) < 0.8 * len(pairs)


def test_the_reloaded_model_gives_the_evaluated_logits(outcome: Outcome) -> None:
    import fmtc.hf  # noqa: F401
    from transformers import AutoModelForCausalLM

    ids = torch.arange(100, 164)[None]
    with torch.inference_mode():
        for run in ("dequantized", "packed"):
            one, two = (load_model(outcome.wanted.out, run=run) for _ in range(2))
            assert torch.equal(one(input_ids=ids).logits, two(input_ids=ids).logits)
        again = AutoModelForCausalLM.from_pretrained(outcome.wanted.out)
        assert torch.equal(two(input_ids=ids).logits, again(input_ids=ids).logits)


def test_what_was_judged_is_what_is_on_disk(outcome: Outcome) -> None:
    """Judged anew from the files alone, what text shows is the same to the last bit."""
    from fmtc.runtime.judge import judge, read_judgement

    first = read_judgement(outcome.wanted.out)
    assert first is not None
    again = judge(outcome.wanted.out, outcome.model, tokens=TOKENS, fresh=True)
    assert again.subject.checkpoint == first.subject.checkpoint
    assert again.outputs == first.outputs
    assert fmtc.read_checkpoint(outcome.wanted.out).manifest_hash == first.subject.checkpoint
