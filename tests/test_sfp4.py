"""SFP4's products are those of E2M1 and a correction per block (Grid Games, arXiv:2605.12327)."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product

import fmtc

HALF = Fraction(1, 2)


def shifts() -> list[Fraction]:
    """What each grid adds to E2M1, in element units: none, half up, half down."""
    grids = fmtc.load("sfp4").grids
    found = []
    for grid in grids:
        steps = {a - b for a, b in zip(grid.values, grids[0].values, strict=True)}
        assert len(steps) == 1
        found.append(steps.pop())
    return found


def test_the_grids_are_e2m1_moved_by_half_a_unit() -> None:
    assert shifts() == [0, HALF, -HALF]


def test_a_block_of_moved_elements_is_the_plain_product_and_a_correction() -> None:
    fmt = fmtc.load("sfp4")
    plain = fmt.grids[0].values
    draw = random.Random(7)
    for one, other in product(range(3), repeat=2):
        for _ in range(20):
            codes = [(draw.randrange(16), draw.randrange(16)) for _ in range(fmt.block)]
            moved = sum(fmt.grids[one].values[w] * fmt.grids[other].values[a] for w, a in codes)
            t, u = (shifts()[i] / HALF for i in (one, other))
            q = [(plain[w], plain[a]) for w, a in codes]
            corrected = (
                sum(w * a for w, a in q)
                + HALF * t * sum(a for _, a in q)
                + HALF * u * sum(w for w, _ in q)
                + fmt.block * HALF * HALF * t * u
            )
            assert moved == corrected
