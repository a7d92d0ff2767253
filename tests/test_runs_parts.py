"""The parts of a run: recipes, estimates of time and memory, the journal, the log."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import fmtc
import pytest
from fmtc.runtime.errors import RefusedInput
from fmtc.runtime.grids.options import SearchOptions
from fmtc.runtime.runs import memory
from fmtc.runtime.runs.engines import Waiting
from fmtc.runtime.runs.journal import Entry, Journal
from fmtc.runtime.runs.log import Log
from fmtc.runtime.runs.progress import Meter, Status
from fmtc.runtime.runs.recipe import Recipe
from fmtc.runtime.runs.tasks import Task
from fmtc.runtime.sources import open_source
from run_tools import recipe, write_model

# -- recipes -----------------------------------------------------------------------------------


def test_a_sop_string_says_all_of_a_run() -> None:
    found = Recipe.from_sop("NF4|DD4^16sUE4M3+knap0.10.OPQ.Wr")
    assert found.bpw == Fraction("4.6")
    assert found.corrections == ("OPQ", "Wr")
    assert found.search is not None
    assert (found.search.pair, found.search.block, found.search.scale) == (
        ("NF4", "DD4"),
        16,
        "UE4M3",
    )
    assert len(found.promotions) >= 4
    assert found.uses_norms
    assert not found.is_fixed


def test_a_budget_alone_searches_the_whole_alphabet() -> None:
    found = Recipe.of(bpw="4.7")
    assert found.search == SearchOptions()
    assert found.bpw == Fraction("4.7")
    assert found.corrections == ("OPQ", "Wr")


def test_a_format_alone_is_fixed_and_keeps_its_sides() -> None:
    found = Recipe.of("NF4^64sUE4M4.OPQ")
    assert found.is_fixed
    assert found.base == fmtc.load("NF4^64sUE4M4.OPQ").source
    assert Recipe.of("nf4").uses_norms is False
    assert Recipe.of("NF4sUE4M4.Wr").uses_norms is True


def test_a_learned_pair_without_a_budget_has_all_its_corrections() -> None:
    found = Recipe.of("NF4|DD4sUE4M3.OPQ.Wr")
    assert found.bpw is None
    ((label, text),) = found.candidates(found.base)
    assert label == "base.OPQ.Wr"
    assert [side.kind for side in fmtc.compile_text(text).sides] == ["opq", "wr"]


@pytest.mark.parametrize(
    "made",
    [
        Recipe.of("nf4"),
        Recipe.of(bpw="4.7", search=SearchOptions(shares=(20,), atoms=("NF4", "SH4", "DD4"))),
        recipe(),
    ],
    ids=["fixed", "searched", "budget"],
)
def test_a_recipe_comes_back_from_json(made: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"format_name": "nf4", "bpw": "4.2"}, r"4\.2 bits per weight is below the 4\.5"),
        ({"format_name": "nf4", "bpw": "many"}, "a budget is a number"),
        ({"format_name": "nf4", "promotions": ("int8",)}, "need a budget"),
        ({"format_name": "NF4+E2M3sUE4M4"}, "need a budget"),
        ({"format_name": "nf4", "metric": "taste"}, "no metric 'taste': acos, mse, wmse"),
        ({"format_name": "nf4", "tokens": 10}, "10 tokens in windows of 512"),
        ({"format_name": "nf4", "bpw": "5", "corrections": ("XY",)}, "'XY' is no correction"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_that_cannot_be_is_refused(said: dict, message: str) -> None:
    with pytest.raises(RefusedInput, match=message):
        Recipe.of(said.pop("format_name"), **said)


def test_what_is_no_recipe_is_refused() -> None:
    for said in ({}, {"name": "nf4"}, {**recipe().to_json(), "bpw": "x"}):
        with pytest.raises(RefusedInput, match="no recipe"):
            Recipe.from_json(said)


# -- progress ----------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_estimate_follows_what_was_measured_and_not_the_count_of_tasks() -> None:
    clock, seen = Clock(), []
    meter = Meter(seen.append, clock)
    meter.plan("profile", 1000, times=10, beside=2)
    meter.plan("pack", 1000, beside=2)
    meter.begin("profile")
    assert meter.remaining is None
    meter.advance("profile", 100, 20.0, "a large unit")  # 0.2 s an element, two side by side
    profile = 900 * 0.2 / 2
    assert meter.remaining == pytest.approx(profile + 1000 * 0.2 / 10 * 110 / 90 / 2)
    meter.advance("profile", 900, 180.0, "the others")
    meter.end("profile")
    meter.begin("pack")
    meter.advance("pack", 500, 50.0, "half")
    assert meter.remaining == pytest.approx(500 * 0.1 / 2)
    clock.now = 7.5
    assert meter.end("pack") == 7.5
    assert meter.remaining == 0
    fractions = [status.fraction for status in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert isinstance(seen[-1], Status)
    assert seen[-1].ended


def test_what_an_earlier_session_did_is_done_but_not_as_fast() -> None:
    meter = Meter(clock=Clock())
    meter.plan("pack", 1000)
    meter.begin("pack", known=900)
    assert meter.fraction == 0.9
    assert meter.remaining is None
    meter.advance("pack", 50, 5.0, "")
    assert meter.remaining == pytest.approx(5.0)


# -- memory ------------------------------------------------------------------------------------


def task(index: int, working: int) -> Task:
    from fmtc.runtime.plan.units import Unit

    unit = Unit(f"layers.{index}.weight", (f"layers.{index}.weight",))
    return Task("pack", index, unit, working, working, "model", recipe())


def test_tasks_side_by_side_stay_below_the_bound_and_one_always_runs() -> None:
    tasks = [task(0, 60), task(1, 50), task(2, 30), task(3, 500)]
    waiting = Waiting.of(tasks, 100)
    running: list[Task] = []
    order = []
    while waiting or running:
        while (found := waiting.next_beside(running)) is not None:
            running.append(found)
            assert len(running) == 1 or sum(t.working for t in running) <= 100
        order.append(tuple(t.index for t in running))
        running.pop(0)
    assert order == [(3,), (0, 2), (2, 1), (1,)]


def test_the_largest_layer_counts_as_it_is_computed(tmp_path: Path) -> None:
    source = open_source(write_model(tmp_path / "model.safetensors"))
    elements = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 128 * 64
    assert memory.largest_layer(source) == 4 * elements
    assert memory.bound(source) == memory.FLOOR
    unit = ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")
    one = 128 * 64 * (memory.PER_ELEMENT["pack"] + 2)
    assert memory.working_bytes(source, unit, "pack") == one


def test_a_peak_is_that_since_it_was_forgotten() -> None:
    import mmap

    memory.forget_peak()
    before = memory.peak_bytes()
    with mmap.mmap(-1, 32 << 20) as block:  # pages that nothing in this process has freed before
        for place in range(0, len(block), mmap.PAGESIZE):
            block[place] = 1
        assert memory.peak_bytes() >= before + (30 << 20)
    memory.forget_peak()
    assert memory.peak_bytes() < before + (16 << 20)


# -- journal and log ---------------------------------------------------------------------------


def test_no_altered_byte_of_an_entry_is_believed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", tmp_path / "packed")
    journal.write(Entry("pack-00001", {"label": "base", "number": 0.1}))
    path = tmp_path / "journal" / "pack-00001.json"
    data = path.read_bytes()
    whole, damaged = journal.read()
    assert whole["pack-00001"].body == {"label": "base", "number": 0.1}
    assert damaged == []
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        whole, damaged = journal.read()
        assert whole == {}
        assert len(damaged) == 1
        path.write_bytes(data[:place])
        assert journal.read()[0] == {}
    path.write_bytes(data)
    path.rename(path.with_name("pack-00002.json"))
    assert journal.read()[0] == {}


def test_a_torn_line_is_cut_off_and_lines_go_on_behind_it(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.append({"unit": "a"})
    log.append({"unit": "b"})
    log.path.write_bytes(log.path.read_bytes()[:-3])
    assert list(log.lines()) == [{"unit": "a"}]
    log.mend()
    log.append({"unit": "c"})
    assert list(log.lines()) == [{"unit": "a"}, {"unit": "c"}]
