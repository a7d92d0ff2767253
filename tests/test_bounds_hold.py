"""No block exceeds a proven bound: random ones, and such as are made to."""

from __future__ import annotations

import numpy as np
import pytest
from fmtc import load, names
from fmtc.compiler.bounds.derive import derive
from fmtc.compiler.bounds.measured import Outcome, outcome
from fmtc.compiler.bounds.proof import Proof, Unproven
from fmtc.compiler.bounds.witness import array_of, packed, witnessed
from fmtc.runtime.format import Format
from hostile_blocks import block_elements, checked, excesses, tensors
from representatives import EACH_KIND

#: Blocks of a format in the fast set, and in the slow one; elements that these make up at most.
FEW, MANY, MOST_ELEMENTS = 20_000, 10_000_000, 1 << 28


def proof_of(fmt: Format) -> Proof:
    try:
        return witnessed(fmt, derive(fmt))
    except Unproven as reason:
        pytest.skip(f"skipped: nothing is proven of {fmt.name}, {reason}")


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
    from dataclasses import replace
    from fractions import Fraction

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
    from dataclasses import replace

    return replace(seen, decoded=seen.decoded * np.float32(by))


def test_an_encoder_that_errs_more_than_it_may_is_seen() -> None:
    fmt = load("nvfp4")
    proof = proof_of(fmt)
    block = np.full(16, 5.0, np.float32)
    block[0] = 6.0
    seen = outcome(fmt, array_of(packed(fmt, block)))
    assert checked(seen, proof)[1] == []
    assert checked(spoiled(seen, 1.3), proof)[1] != []
