"""No block exceeds a proven bound: random ones, and such as are made to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
from fmtc import load, names
from fmtc.compiler.bounds.derive import derive
from fmtc.compiler.bounds.proof import Proof, Statement
from fmtc.compiler.bounds.witness.build import Idea, array_of, packed, shares_of, witnessed
from fmtc.compiler.bounds.witness.measured import Outcome, outcome
from fmtc.runtime.format import Format
from hostile_blocks import block_elements, checked, excesses, tensors
from representatives import EACH_KIND

#: Blocks of a format in the fast set, and in the slow one; elements that these make up at most.
FEW, MANY, MOST_ELEMENTS = 20_000, 10_000_000, 1 << 28


@lru_cache(maxsize=16)
def proof_of(fmt: Format) -> Proof:
    return witnessed(fmt, derive(fmt))


def worst_excess(fmt: Format, blocks: int, seed: int) -> tuple[int, dict[str, float]]:
    """How many blocks were tried, and by how much which bounds are exceeded."""
    proof = proof_of(fmt)
    worst: dict[str, float] = {}
    count = 0
    for x in tensors(fmt, proof, blocks, seed):
        tried, found = excesses(fmt, proof, x)
        count += tried
        for excess in found:
            worst[excess.name] = max(excess.share, worst.get(excess.name, 0.0))
    return count, worst


@pytest.mark.parametrize("name", EACH_KIND)
def test_no_block_exceeds_a_bound(name: str) -> None:
    fmt = load(name)
    count, worst = worst_excess(fmt, min(FEW, FEW * 64 // block_elements(fmt)), 11)
    assert worst == {}
    assert count > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_no_block_of_ten_million_exceeds_a_bound(name: str) -> None:
    fmt = load(name)
    blocks = min(MANY, MOST_ELEMENTS // block_elements(fmt))
    _, worst = worst_excess(fmt, blocks, 12)
    assert worst == {}


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "nf4", "sop_pair", "e4m3_row", "q4_0"])
def test_the_check_sees_a_bound_that_is_a_thousandth_too_low(name: str) -> None:
    fmt = load(name)
    proof = proof_of(fmt)
    lower = [
        replace(s, bound=s.bound * Fraction(998, 1000), slack=Fraction(0))
        for s in proof.statements
        if s.measure in ("absmax", "block") and s.kind != "clipping" and s.witness
    ]
    for statement in lower:
        assert statement.witness is not None
        if statement.witness.reached < Fraction(999, 1000):
            continue
        seen = outcome(fmt, array_of(statement.witness))
        _, found = checked(seen, replace(proof, statements=(statement,)))
        assert found, statement.name
        assert 1 < found[0].share < 1.0021


def spoiled(seen: Outcome, by: float) -> Outcome:
    return replace(seen, decoded=seen.decoded * np.float32(by))


def test_an_encoder_that_errs_more_than_it_may_is_seen() -> None:
    fmt = load("nvfp4")
    proof = proof_of(fmt)
    block = np.full(16, 5.0, np.float32)
    block[0] = 6.0
    seen = outcome(fmt, array_of(packed(fmt, block)))
    assert checked(seen, proof)[1] == []
    assert checked(spoiled(seen, 1.3), proof)[1] != []


def mutants(block: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Neighbours of a block: elements moved by little, by much, swapped, or all scaled."""
    x = np.repeat(block[None].astype(np.float64), count, axis=0)
    x *= 1 + rng.normal(size=(count, 1)) * rng.choice([0, 2.0**-22, 2.0**-16, 2.0**-6], (count, 1))
    moved = rng.random(x.shape) < rng.choice([1 / block.size, 0.3], (count, 1))
    step = rng.choice([2.0**-22, 2.0**-14, 2.0**-8, 2.0**-3], (count, 1))
    x = np.where(moved, x * (1 + rng.normal(size=x.shape) * step), x)
    swapped = rng.random(x.shape) < 1 / block.size
    return np.where(swapped, rng.permuted(x, axis=1), x).astype(np.float32)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "nf4", "hif7_s1e5m5", "four_six", "q4_0"])
def test_climbing_from_a_witness_leads_to_no_excess(name: str) -> None:
    fmt = load(name)
    rng = np.random.default_rng(5)
    for statement in proof_of(fmt).statements:
        if statement.witness is None or statement.bound == 0 or statement.witness.reached == 0:
            continue
        reached = climbed(fmt, statement, rng)
        assert reached <= 1 + statement.slack / statement.bound, statement.name
        assert reached >= statement.witness.reached


def climbed(fmt: Format, statement: Statement, rng: np.random.Generator) -> Fraction:
    """The share of a bound that the best of some generations reaches."""
    witness = statement.witness
    assert witness is not None
    top, bottom, left, right = witness.block
    best = array_of(witness)[top:bottom, left:right].reshape(-1)
    element = None
    if witness.element is not None:
        element = (witness.element[0] - top) * (right - left) + witness.element[1] - left
    share = witness.reached
    for _ in range(4):
        ideas = [Idea(mutant, element) for mutant in mutants(best, rng, 20)]
        found = shares_of(fmt, statement, ideas)
        index = max(range(len(found)), key=found.__getitem__)
        if found[index] > share:
            best, share = ideas[index].elements, found[index]
    return share
