"""The whole way on a model that is small enough for every run of the tests."""

from __future__ import annotations

from pathlib import Path

import fmtc
import pytest
import torch
from fmtc.runtime.grids.search import SearchOptions
from fmtc.runtime.judge import judge
from fmtc.runtime.models.loading import load_model
from fmtc.runtime.runs.log import Log
from fmtc.runtime.runs.recipe import Recipe
from fmtc.runtime.runs.run import quantize_model
from fmtc.runtime.sources import open_source
from model_tools import TEXT, tiny_llama

#: A model this small has more bytes of names and texts than of weights: the budget is ample.
BPW = "16"
OTHER_TEXT = "\n".join(line[::-1] for line in TEXT.splitlines())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", layers=2)


@pytest.fixture(scope="module")
def out(model: Path) -> Path:
    """Calibrated, searched, planned, packed and measured by two workers."""
    search = SearchOptions(atoms=("NF4", "SH4", "DD4"), sample=256, rounds=2, shares=(50,))
    recipe = Recipe.of(bpw=BPW, search=search, tokens=512, context=64)
    quantize_model(model, model.with_name("out"), recipe, text=TEXT, workers=2)
    return model.with_name("out")


def test_every_group_of_layers_has_a_choice_within_the_budget(model: Path, out: Path) -> None:
    checkpoint = fmtc.read_checkpoint(out)
    totals = checkpoint.totals(open_source(model))
    assert totals.bpw <= float(BPW)
    assert len(checkpoint.quantized_names) == 14
    lines = list(Log(out.with_name("out.run") / "log.jsonl").lines())
    assert len(lines) == 8
    for line in lines:
        formats = {checkpoint.format_of(name).content_hash for name in line["members"]}
        assert len(formats) == 1
    assert checkpoint.plan["recipe"]["bpw"] == BPW


def test_norms_of_the_text_are_kept_and_nothing_else_that_calibration_needed(out: Path) -> None:
    kept = {path.name for path in out.with_name("out.run").iterdir()}
    assert "calibration.safetensors" in kept
    assert not kept & {"calibrating", "packed"}


def test_transformers_loads_what_was_judged(model: Path, out: Path) -> None:
    import fmtc.hf  # noqa: F401
    from transformers import AutoModelForCausalLM

    ids = torch.arange(5, 37)[None]
    with torch.inference_mode():
        packed = load_model(out)(input_ids=ids).logits
        again = AutoModelForCausalLM.from_pretrained(out)(input_ids=ids).logits
        decoded = load_model(out, run="dequantized")(input_ids=ids).logits
    assert torch.equal(packed, again)
    assert torch.allclose(packed, decoded, atol=1e-5)
    found = judge(out, model, OTHER_TEXT, context=64, tokens=512)
    assert found.outputs is not None
    assert 0 < found.outputs.kl.value < 0.1
    assert 0.9 < found.outputs.ear.value < 1
    assert found.bpw == 8 * found.disk_bytes / found.weights


def test_the_text_of_calibration_is_no_text_to_judge_by(model: Path, out: Path) -> None:
    with pytest.raises(fmtc.RefusedInput, match="calibrated on this very text"):
        judge(out, model, TEXT, context=64, tokens=512)
