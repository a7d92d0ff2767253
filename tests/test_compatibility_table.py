"""docs/compatibility.md is the list of comparisons, row for row."""

from __future__ import annotations

import os

import compatibility
import pytest


def keys_of_the_document() -> list[tuple[str, str, str]]:
    rows = []
    for line in compatibility.DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| peer |"):
            peer, function, recipe, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
            rows.append((peer.rpartition(" ")[0], recipe.strip("`"), function.strip("`")))
    return rows


def measured(one: compatibility.Comparison) -> compatibility.Row | None:
    try:
        return one.run()
    except pytest.skip.Exception as absent:
        print(f"{one}: {absent}")
        return None


def test_the_document_has_a_row_for_every_comparison_in_their_order() -> None:
    # What a row says is asserted where its comparison runs, in the test_oracles_*.py.
    comparisons = compatibility.load_all()
    if os.environ.get("FMTC_REGEN"):
        rows = [row for row in map(measured, comparisons) if row is not None]
        compatibility.DOCUMENT.write_text(compatibility.render(rows), encoding="utf-8")
    documented = keys_of_the_document()
    assert documented == [one.key for one in comparisons if one.key in documented]
    # A peer that could not be imported when the table was made has no rows, nor has it here.
    assert [one for one in comparisons if one.key not in documented and measured(one)] == []


def test_the_document_stands_under_its_header() -> None:
    text = compatibility.DOCUMENT.read_text(encoding="utf-8")
    assert text.startswith(compatibility.HEADER)
    assert text == compatibility.render([]) + text.partition("|--:|---|\n")[2]


def test_a_difference_that_nobody_expected_fails() -> None:
    wrong = compatibility.Comparison("gguf", "f", "r", 0, "m", lambda: (8, 1, "note"))
    compatibility.COMPARISONS[wrong.key] = wrong
    try:
        with pytest.raises(AssertionError, match="1 of 8 differ"):
            wrong.check()
    finally:
        del compatibility.COMPARISONS[wrong.key]
