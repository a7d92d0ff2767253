"""What SymPy decides about a proof, and that it refuses a wrong one."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from fmtc import load
from fmtc.compiler.bounds import lemmas
from fmtc.compiler.bounds.derive import derive, proved


def test_a_proof_carries_every_lemma_that_was_proven() -> None:
    proof = proved(load("nvfp4"))
    assert proof.lemmas == lemmas.lemmas()
    assert len({name for name, _, _ in proof.lemmas}) == 6


def test_a_bound_below_one_of_its_points_is_refused() -> None:
    proof = derive(load("nvfp4"))
    first = proof.statements[0]
    low = replace(first, bound=first.bound * (1 - Fraction(1, 1 << 60)))
    with pytest.raises(lemmas.NotProven, match="absmax/normal/rounding"):
        lemmas.decide(replace(proof, statements=(low, *proof.statements[1:])))


def test_an_objective_with_another_value_is_refused() -> None:
    proof = derive(load("nvfp4"))
    first = proof.statements[0]
    cell = first.cells[0]
    point, height = cell.points[0]
    moved = replace(cell, points=((point, height + Fraction(1, 1 << 60)), *cell.points[1:]))
    wrong = replace(first, cells=(moved, *first.cells[1:]))
    with pytest.raises(lemmas.NotProven, match="not"):
        lemmas.decide(replace(proof, statements=(wrong, *proof.statements[1:])))


@pytest.mark.parametrize("claim", [None, False])
def test_what_sympy_cannot_decide_is_not_proven(claim: bool | None) -> None:
    with pytest.raises(lemmas.NotProven, match="a claim"):
        lemmas._true(claim, "a claim")
