"""``fmtc expect``: derived errors, on the command line."""

from __future__ import annotations

import json

import pytest
from commands import run


def test_the_published_errors_are_met_to_four_digits() -> None:
    result = run("expect", "bof4_16", "bof4s_16", "--law", "gaussian", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.output)
    figures = {row["format"]: row["gaussian"] for row in rows}
    assert figures["bof4_16"]["mse"] == pytest.approx(5.5590e-3, abs=5e-8)
    assert figures["bof4s_16"]["mse"] == pytest.approx(5.1322e-3, abs=5e-8)
    assert all(figure["error"] < 1e-10 for figure in figures.values())
    assert {row["method"] for row in rows} == {"quadrature"}


def test_a_pair_of_grids_has_the_error_of_its_choice() -> None:
    result = run("expect", "nf4_sh4", "--law", "gaussian", "--json")
    (row,) = json.loads(result.output)
    assert row["gaussian"]["mse"] == pytest.approx(4.797e-3, rel=1e-3)


def test_a_row_needs_a_length() -> None:
    result = run("expect", "int8_sym_row")
    assert result.exit_code == 2
    assert "--block N" in result.output
    longer = run("expect", "int8_sym_row", "--block", "64", "--law", "laplace", "--json")
    (row,) = json.loads(longer.output)
    assert row["block"] == 64
    assert 0 < row["laplace"]["mse"] < 1e-3


def test_what_is_not_derived_says_why() -> None:
    result = run("expect", "q4_k")
    assert result.exit_code == 2
    assert "a zero point or a minimum" in result.output
    assert run("expect", "nf4", "--law", "cauchy").exit_code == 2
