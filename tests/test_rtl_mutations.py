"""The mutation check: wrong hardware is noticed, and the check itself is not fooled."""

from collections import Counter

import pytest
from fmtc import formats
from fmtc.codegen.design import design_of
from fmtc.codegen.verilog import modules_of
from fmtc.runtime.rtl import mutate
from fmtc.runtime.rtl.mutate import (
    BROKEN,
    EQUIVALENT,
    REFUTED,
    SIMULATED,
    SURVIVED,
    mutation_check,
)
from fmtc.runtime.rtl.mutations import Mutation, choose, mutations_of
from rtl_tools import need

#: Mutants of each design: together more than 200 that compile and differ.
COUNTS = {
    "sop_pair": 70,
    "mxfp4": 50,
    "nvfp4": 40,
    "e4m3_ue4m6": 50,
    "mixfp4": 40,
}
#: Modules with claims or cheap benches; those that are clocked have their benches too.
PARTS = (
    "element_decoder",
    "scale_decoder",
    "decoder",
    "multiply",
    "sum",
    "dot",
    "scale_product",
    "align_add",
    "normalize_round",
    "scale_apply",
    "scale_pipeline",
    "output_scale",
    "register",
    "lut_decoder",
)


@pytest.fixture(autouse=True)
def tools():
    need("yosys", "yosys-abc", "iverilog")


@pytest.mark.parametrize("name", COUNTS)
def test_no_wrong_module_survives(name):
    report = mutation_check(design_of(formats.load(name)), COUNTS[name], PARTS, only=PARTS)
    assert [f"{o.mutation.shown()} ({o.by})" for o in report.of(SURVIVED)] == []
    assert report.passed
    assert len(report.outcomes) == COUNTS[name]
    # Few mutants are no Verilog, or mean the same: the rest is at least four in five.
    assert report.tried >= COUNTS[name] * 4 // 5
    kinds = {outcome.mutation.kind for outcome in report.of(SIMULATED, REFUTED)}
    assert kinds >= {"table bit", "constant", "operator", "width", "index", "connection"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf4_dd4_ue4m3", "block_dialect", "sop_pair"])
def test_no_wrong_module_survives_among_many(name):
    report = mutation_check(design_of(formats.load(name)), 400, PARTS, only=PARTS)
    assert [f"{o.mutation.shown()} ({o.by})" for o in report.of(SURVIVED)] == []


def test_the_mutants_are_more_than_two_hundred():
    assert sum(count * 4 // 5 for count in COUNTS.values()) >= 200


TEXT = """module small (
  input  wire [3:0] a_i,
  output wire [3:0] y_o
);

  wire [3:0] b = a_i + 4'd3;  // a constant
  // 4'd9 in a comment
  assign y_o = b[0] ? ~b : {{2{b[3]}}, b[3:2]};

endmodule
"""


def test_mutations_change_one_place_of_the_body_each():
    found = mutations_of("small", TEXT)
    assert {m.line for m in found} == {6, 8}
    kinds = Counter(m.kind for m in found)
    assert set(kinds) == {"constant", "operator", "width", "index", "inversion", "choice", "sign"}
    for mutation in found:
        changed = mutation.of(TEXT).split("\n")
        different = [i for i, line in enumerate(TEXT.split("\n"), 1) if line != changed[i - 1]]
        assert different == [mutation.line]


def test_the_choice_is_the_same_every_time_and_takes_every_kind():
    found = mutations_of("small", TEXT)
    assert choose(found, 5) == choose(list(reversed(found)), 5)
    chosen = choose(found, 7)
    assert len({m.kind for m in chosen}) == 7


def test_a_mutation_of_another_text_is_refused():
    mutation = Mutation("small", "constant", 6, "assign y_o = 1'b0;", "assign y_o = 1'b1;")
    with pytest.raises(ValueError, match="line 6 of small is not"):
        mutation.of(TEXT)


def outcome_of(name, part, old, new, monkeypatch, **more):
    """What becomes of one mutation of our choice."""
    design = design_of(formats.load(name))
    module = next(m for m in modules_of(design) if m.part == part and m.owner.name == name)
    lines = module.text().split("\n")
    line = next(i for i, text in enumerate(lines, 1) if old in text)
    text = lines[line - 1].strip()
    mutation = Mutation(module.name, "own", line, text, text.replace(old, new))
    monkeypatch.setattr(mutate, "_chosen", lambda *_: [(module, mutation)])
    report = mutation_check(design, 1, [part], **more)
    return report, report.outcomes[0]


def test_what_the_benches_see_is_caught_by_simulation(monkeypatch):
    report, outcome = outcome_of(
        "mxfp4", "element_decoder", "4'h7: word = {1'b1", "4'h7: word = {1'b0", monkeypatch,
        only=["decoder"],
    )  # fmt: skip
    assert (outcome.fate, outcome.by) == (SIMULATED, "mxfp4_decoder")
    assert report.passed


def test_what_no_bench_sees_is_left_to_the_proofs(monkeypatch):
    _, outcome = outcome_of(
        "mxfp4", "element_decoder", "4'h7: word = {1'b1", "4'h7: word = {1'b0", monkeypatch, only=[]
    )
    assert outcome.fate == REFUTED


def test_what_means_the_same_is_proven_to_and_does_not_count(monkeypatch):
    report, outcome = outcome_of(
        "mxfp4", "element_decoder", "default: word = 6'd0", "default: word = 6'd1", monkeypatch,
        only=["decoder"],
    )  # fmt: skip
    assert outcome.fate == EQUIVALENT
    assert report.tried == 0
    assert not report.passed


def test_what_is_no_verilog_does_not_count(monkeypatch):
    report, outcome = outcome_of(
        "mxfp4", "element_decoder", "default: word = 6'd0", "default: word = ;", monkeypatch,
        only=["decoder"],
    )  # fmt: skip
    assert outcome.fate == BROKEN
    assert report.tried == 0


def test_a_hole_in_the_checks_is_a_survivor_with_its_name(monkeypatch):
    monkeypatch.setattr(mutate, "claims_of", lambda *_: [])
    report, outcome = outcome_of(
        "mxfp4", "element_decoder", "4'h7: word = {1'b1", "4'h7: word = {1'b0", monkeypatch, only=[]
    )
    assert outcome.fate == SURVIVED
    assert "mxfp4_element_decoder" in outcome.mutation.shown()
    assert not report.passed


def test_a_bench_that_fails_by_itself_is_no_check(monkeypatch):
    monkeypatch.setattr(mutate, "_stop_at_first_error", lambda path: path.write_text("module x;"))
    with pytest.raises(RuntimeError, match="mxfp4_decoder fails without any mutation"):
        mutation_check(design_of(formats.load("mxfp4")), 1, ["element_decoder"], only=["decoder"])
