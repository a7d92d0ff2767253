from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import fmtc
import pytest
from fmtc import FormatError, RefusedInput, compile_text
from fmtc.compiler.resolve import compile_text as without_files
from fmtc.runtime.plan import CORRECTIONS, candidate_texts, default_promotions, stated

BASE = fmtc.load("nf4_dd4_ue4m3").source
SOP = "NF4|DD4^16sUE4M3+knap0.10.OPQ.Wr"


def by_label(
    base: str, promotions: tuple[str, ...], corrections: tuple[str, ...] = CORRECTIONS
) -> dict[str, fmtc.Format]:
    return {
        label: compile_text(text) for label, text in candidate_texts(base, promotions, corrections)
    }


def kinds(fmt: fmtc.Format) -> list[str]:
    return [side.kind for side in fmt.sides]


def test_every_format_is_a_candidate_alone_and_with_each_correction_and_with_both() -> None:
    made = by_label(BASE, ("E2M3sUE4M4", "nf4"))
    assert list(made) == [
        f"{name}{end}"
        for name in ("base", "E2M3sUE4M4", "nf4")
        for end in ("", ".OPQ", ".Wr", ".OPQ.Wr")
    ]
    for label, fmt in made.items():
        assert kinds(fmt) == [part.lower() for part in label.split(".")[1:]]
    assert len({fmt.content_hash for fmt in made.values()}) == len(made)


def test_a_correction_changes_nothing_but_the_sides() -> None:
    made = by_label(BASE, ())
    shipped = fmtc.load("nf4_dd4_opq_wr")
    plain = {key: value for key, value in made["base"].semantics().items() if key != "sides"}
    for fmt in made.values():
        assert {key: v for key, v in fmt.semantics().items() if key != "sides"} == plain
    assert made["base.OPQ.Wr"].sides == shipped.sides
    assert made["base"].content_hash == fmtc.load("nf4_dd4_ue4m3").content_hash


def test_texts_are_canonical_and_stand_alone() -> None:
    base = fmtc.load(SOP).source
    assert "promote" in base
    for label, text in candidate_texts(base, ("SH4sUE4M4", "nvfp4"), CORRECTIONS):
        assert without_files(text).source == text, label
        assert "promote" not in text


def test_a_format_keeps_its_own_sides() -> None:
    own = compile_text(BASE.rstrip().removesuffix("}") + "side opq { threshold 3 } }").source
    made = by_label(own, ())
    assert list(made) == ["base", "base.Wr"]
    assert all(fmt.sides[0].threshold == 3 for fmt in made.values())


def test_candidates_of_one_meaning_are_listed_once() -> None:
    text = fmtc.load("E2M3sUE4M4").source
    assert [label for label, _ in candidate_texts(text, ("E2M3sUE4M4",))] == ["base"]


def test_numbers_and_whole_clauses_are_corrections_too() -> None:
    made = by_label(BASE, (), ("OPQ3", "Wr0.002", "side wr { fraction 0.01 value bf16 }"))
    assert list(made) == ["base", "base.OPQ3", "base.Wr0.002", "base.Wr", "base.OPQ3.Wr0.002",
                          "base.OPQ3.Wr"]  # fmt: skip
    assert made["base.OPQ3"].sides[0].threshold == 3
    assert made["base.Wr"].sides[0].value.name == "bf16"


@pytest.mark.parametrize(
    "wrong", ["OQP", "", "OPQ.Wr", "Wr-1", "side zz { }", "side opq { } side wr { }", "OPQ } {"]
)
def test_what_is_no_correction_is_refused(wrong: str) -> None:
    with pytest.raises(RefusedInput, match="correction"):
        candidate_texts(BASE, (), (wrong,))


def test_a_correction_out_of_range_is_a_fault_of_the_text() -> None:
    with pytest.raises(FormatError, match="fraction cannot be 7"):
        candidate_texts(BASE, (), ("Wr7",))


def test_promotions_of_one_name_or_of_none_are_refused() -> None:
    with pytest.raises(RefusedInput, match="'E2M3sUE4M4'"):
        candidate_texts(BASE, ("E2M3sUE4M4", "E2M3sUE4M4"))
    with pytest.raises(fmtc.UnknownFormat):
        candidate_texts(BASE, ("no_such_format",))


def test_a_promotion_may_be_a_file_and_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "mine.fmt"
    for block in (16, 32):
        path.write_text(f"format mine {{ block {block}  grid e2m3  scale ue4m4 }}")
        made = by_label(BASE, (str(path),), ())
        assert made["mine"].block == block


def test_a_sop_string_states_base_budget_and_corrections() -> None:
    said = stated(SOP)
    assert said.bpw == Fraction("4.6")
    assert said.corrections == ("OPQ", "Wr")
    assert said.promotions == ()
    plain = fmtc.load("NF4|DD4^16sUE4M3")
    assert compile_text(said.base).content_hash == plain.content_hash


def test_a_sop_string_may_name_what_is_promoted_to() -> None:
    said = stated("NF4sUE4M3+E2M3sUE4M4.OPQ0.95.Wr0.002")
    assert said.bpw is None
    assert said.promotions == ("E2M3sUE4M4",)
    assert said.corrections == ("OPQ0.95", "Wr0.002")


def test_a_shipped_format_states_its_sides_and_no_budget() -> None:
    said = stated("nf4_dd4_opq_wr")
    assert (said.bpw, said.base_bpw) == (None, Fraction(9, 2))
    assert said.corrections == ("OPQ0.92", "Wr0.001")
    made = by_label(said.base, (), said.corrections)
    assert made["base.OPQ0.92.Wr0.001"].sides == fmtc.load("nf4_dd4_opq_wr").sides


def test_sides_that_sop_has_no_word_for_are_stated_as_clauses(tmp_path: Path) -> None:
    path = tmp_path / "mine.fmt"
    path.write_text(
        "format mine { block 16 grid e2m1 scale e4m3 side opq { quantile 0.9 value fp16 } }"
    )
    said = stated(path)
    assert said.corrections == ("side opq { quantile 0.9 value fp16 }",)
    made = by_label(said.base, (), said.corrections)
    assert made["base.OPQ"].content_hash == fmtc.load(path).content_hash


def test_default_promotions_store_more_than_the_base() -> None:
    names = default_promotions(BASE)
    assert names
    assert all(fmtc.load(name).exact_bpw > fmtc.load("nf4_dd4_ue4m3").exact_bpw for name in names)
    assert not default_promotions(fmtc.load("E2M5sUE4M6").source)
