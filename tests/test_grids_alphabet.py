"""The atom alphabet: what stands in it, and how a host holds it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from fmtc.compiler.fitting import draw, errors_under_own_ends, normalised
from fmtc.compiler.hosts import HIF7
from fmtc.runtime.errors import RefusedInput
from fmtc.runtime.grids.alphabet import (
    alphabet,
    atom_named,
    atom_names,
    host_points,
    hosted,
    tops_of,
)

BLOCKS = normalised(draw("gaussian", 5, (8192, 16), 7), "absmax")


def lost(values: tuple[Fraction, ...]) -> float:
    levels = np.array([float(value) for value in values])
    return float(BLOCKS.weight @ errors_under_own_ends(BLOCKS, levels / levels.max(), "absmax"))


@pytest.mark.parametrize("host", ["hif7", "e4m3"])
def test_every_value_is_a_point_of_its_host(host: str) -> None:
    points = set(host_points(host))
    for atom in alphabet(atom_names(), host):
        assert set(atom.values) <= points, atom.name
        assert len(atom.values) == 16
        assert list(atom.values) == sorted(atom.values)


def test_hif7_points_are_its_words_but_the_one_without_a_mirror_image() -> None:
    assert len(host_points("hif7")) == 79
    assert set(HIF7.words()) - {int(p) for p in host_points("hif7")} == {-128}
    assert [int(top) for top in tops_of("hif7")] == [120, 112, 104, 96, 88, 80, 72, 64]


def test_a_grid_that_is_its_own_mirror_image_stands_there_once() -> None:
    names = [atom.name for atom in alphabet(atom_names(), "hif7")]
    assert len(names) == len(set(names)) == 20
    assert "E2M1" in names
    assert "-E2M1" not in names
    assert {"NF4", "-NF4", "SH4", "-SH4"} <= set(names)
    grids = [atom.values for atom in alphabet((*atom_names(), "nf4", "-NF4"), "hif7")]
    assert len(grids) == len(set(grids)) == 20


def test_a_negation_is_the_mirror_image_whatever_the_ties() -> None:
    for name in atom_names()[:-1]:
        plain, negated = hosted(name, "hif7"), hosted(f"-{name}", "hif7")
        assert negated.values == tuple(-value for value in reversed(plain.values))
        assert negated.negated == plain


def test_what_a_host_holds_exactly_is_not_changed() -> None:
    halves = (0, 1, 2, 3, 4, 6, 8, 12)
    e2m1 = {Fraction(sign * v, 12) for v in halves for sign in (1, -1)}
    for host in ("hif7", "e4m3"):
        found = hosted("E2M1", host).values
        assert {value / found[-1] for value in found} == e2m1
    assert hosted("INT4", "hif7").values[-3:] == (80, 96, 112)
    assert hosted("SPLIT87", "e4m3").values == hosted("SPLIT87", "fp32").values


#: SOP's atoms in HIF7, arXiv:2605.14929, at the sizes that lose least on Gaussian blocks.
IN_HIF7 = {
    "NF4": (-72, -52, -40, -30, -22, -14, -7, 0, 6, 12, 18, 26, 32, 44, 56, 72),
    "SH4": (-88, -72, -56, -44, -32, -22, -14, -5, 3, 12, 22, 32, 44, 56, 72, 88),
    "BOF4": (-120, -96, -72, -56, -40, -26, -13, 0, 12, 24, 36, 48, 64, 80, 96, 120),
}
#: What they then lose beside the atom itself.
PENALTY = {"NF4": -0.068, "SH4": 0.014, "BOF4": 0.018}


@pytest.mark.parametrize("name", IN_HIF7)
def test_atoms_stand_in_hif7_where_they_lose_least(name: str) -> None:
    chosen = hosted(name, "hif7").values
    assert chosen == IN_HIF7[name]
    found = lost(chosen) / lost(hosted(name, "fp32").values) - 1
    assert found == pytest.approx(PENALTY[name], abs=0.005)


def test_under_argmax_atoms_stand_where_they_lose_least_under_argmax() -> None:
    bof4s = (-88, -72, -56, -44, -32, -20, -10, 0, 10, 20, 30, 40, 52, 64, 80, 96)
    assert hosted("BOF4-S", "hif7", rule="argmax").values == bof4s


def test_other_widths_have_atoms_as_far_as_there_are_any() -> None:
    assert [atom.name for atom in alphabet(atom_names(5), "hif7", bits=5)][:2] == ["NF5", "-NF5"]
    assert all(len(atom.values) == 8 for atom in alphabet(atom_names(3), "hif7", bits=3))
    with pytest.raises(RefusedInput, match="no atoms have 6 bits"):
        atom_names(6)


def test_bof4_is_the_one_of_the_block_length() -> None:
    assert hosted("BOF4", "fp32", block=64).values != hosted("BOF4", "fp32").values


def test_names_are_found_in_any_case_and_what_is_not_there_is_refused() -> None:
    assert atom_named("-sh4") == "-SH4"
    assert atom_named("-dd4") == "DD4"
    with pytest.raises(RefusedInput, match="'split78': there are NF4, SH4"):
        atom_named("split78")
    with pytest.raises(RefusedInput, match="no host is called 'e9m9'"):
        hosted("NF4", "e9m9")
