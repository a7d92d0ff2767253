"""Grids made from other grids: what each transform does, and what is refused."""

from __future__ import annotations

import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from fmtc import FormatError, compile_text
from fmtc.compiler.atoms import resolve_atom
from fmtc.compiler.exact import round_fp32
from fmtc.compiler.floats import named_float
from fmtc.compiler.format import Grid
from fmtc.compiler.hosts import HIF_HOSTS, snap
from fmtc.compiler.report import Report
from fmtc.compiler.transforms import Codes, mirrored, negated, plus, replaced, snapped, times
from fmtc.compiler.vocabulary import TRANSFORM_KNOBS
from fmtc.dsl import parse
from fmtc.dsl.diagnostics import Diagnostic
from hypothesis import given, settings
from hypothesis import strategies as st

BAD = Path(__file__).parent / "bad"
FILES = sorted(BAD.glob("grid_*.fmt"))

ATOMS = """
atom nf2 "a small codebook" = codebook 2 { -1, -1/4, 0.3, 1 }
atom twice = nf2 { times 2 }
atom half = e2m1 { times 1/2 }
"""


def grid(atom: str, before: str = ATOMS, clauses: str = "") -> Grid:
    text = f"{before} format f {{ block 16  {clauses}  grid g = {atom}  scale e4m3 }}"
    return compile_text(text).grids[0]


def faults_of(atom: str, before: str = ATOMS, clauses: str = "") -> tuple[Diagnostic, ...]:
    with pytest.raises(FormatError) as caught:
        grid(atom, before, clauses)
    return caught.value.diagnostics


def floats(made: Grid) -> list[float | None]:
    return [None if value is None else float(value) for value in made.values]


# -- the pure transforms ----------------------------------------------------------------

RATIONALS = st.fractions(min_value=-8, max_value=8, max_denominator=64)
NONZERO = RATIONALS.filter(bool)


@st.composite
def some_codes(draw: st.DrawFn) -> Codes:
    values = draw(st.lists(st.none() | RATIONALS, min_size=2, max_size=16))
    zeros = [code for code, value in enumerate(values) if value == 0]
    return Codes(tuple(values), draw(st.sampled_from([None, *zeros])))


@settings(deadline=None)
@given(some_codes(), NONZERO, NONZERO)
def test_two_factors_are_their_product(codes: Codes, a: Fraction, b: Fraction) -> None:
    assert times(times(codes, a), b) == times(codes, a * b)


@settings(deadline=None)
@given(some_codes(), RATIONALS, RATIONALS)
def test_two_offsets_are_their_sum_but_for_the_lost_sign_of_zero(
    codes: Codes, a: Fraction, b: Fraction
) -> None:
    assert plus(plus(codes, a), b).values == plus(codes, a + b).values
    assert plus(codes, a).negative_zero == (None if a else codes.negative_zero)


@settings(deadline=None)
@given(some_codes())
def test_negating_and_mirroring_twice_change_nothing(codes: Codes) -> None:
    assert negated(negated(codes)) == codes
    assert mirrored(mirrored(codes)) == codes
    assert mirrored(codes).values == negated(codes).values[::-1]
    assert negated(codes) == times(codes, Fraction(-1))


@settings(deadline=None)
@given(some_codes(), RATIONALS)
def test_a_replaced_code_alone_changes(codes: Codes, value: Fraction) -> None:
    for code in range(len(codes.values)):
        changed = replaced(codes, {code: value})
        assert changed.values[code] == value
        assert changed.values[:code] == codes.values[:code]
        assert changed.values[code + 1 :] == codes.values[code + 1 :]
        kept = None if codes.negative_zero == code else codes.negative_zero
        assert changed.negative_zero == kept


HOSTS = [word for word in TRANSFORM_KNOBS["snap"].words if word != "none"]


def numbers_of(host: str) -> list[Fraction]:
    if host in HIF_HOSTS:
        return [Fraction(word) for word in HIF_HOSTS[host].words()]
    number = named_float(host)
    assert number is not None
    return sorted({value for value in number.values() if value is not None})


@pytest.mark.parametrize("host", [host for host in HOSTS if "16" not in host])
def test_snapping_takes_the_nearest_number_of_the_host_and_the_lower_on_a_tie(host: str) -> None:
    numbers = numbers_of(host)
    assert [snap(host, value) for value in numbers] == numbers
    for low, high in pairwise(numbers):
        middle, little = (low + high) / 2, (high - low) / 1000
        assert snap(host, middle) == low
        assert snap(host, middle - little) == low
        assert snap(host, middle + little) == high
    assert snap(host, numbers[-1] * 3) == numbers[-1]
    assert snap(host, numbers[0] * 3) == numbers[0]


@pytest.mark.parametrize("host", ["bf16", "fp16"])
@settings(deadline=None)
@given(value=st.fractions(min_value=-70000, max_value=70000))
def test_snapping_to_sixteen_bits_is_nearest_too(host: str, value: Fraction) -> None:
    number = named_float(host)
    assert number is not None
    found = snap(host, value)
    ulp = Fraction(2) ** -number.mantissa * max(abs(found), number.smallest_normal)
    assert abs(found) == number.largest or abs(found - value) <= ulp / 2
    assert snap(host, found) == found


@settings(deadline=None)
@given(some_codes(), st.sampled_from(HOSTS))
def test_snapping_again_changes_nothing(codes: Codes, host: str) -> None:
    once = snapped(codes, host)
    assert snapped(once, host) == once


# -- in the language --------------------------------------------------------------------


def test_transforms_are_applied_in_their_order_whatever_the_order_of_the_text() -> None:
    settings = ["times 3", "plus -1/2", "order negated", "replace at(0, 0.3)", "snap e2m3"]
    forwards, backwards = (
        grid(f"nf2 {{ {'  '.join(given)} }}") for given in (settings, settings[::-1])
    )
    assert forwards == backwards
    # -1, -1/4, 0.3, 1 -> -3, -3/4, 0.9, 3 -> -3.5, -1.25, 0.4, 2.5 -> negated -> replaced
    assert floats(forwards) == [0.25, 1.25, -0.375, -2.5]


SETTINGS = {
    "times -1/3": lambda codes: times(codes, Fraction(-1, 3)),
    "plus 7/8": lambda codes: plus(codes, Fraction(7, 8)),
    "order negated": negated,
    "order mirrored": mirrored,
    "replace at(0, 7, 1, 1/5)": lambda codes: replaced(codes, {0: Fraction(7), 1: Fraction(1, 5)}),
    "times 8  snap hif8": lambda codes: snapped(times(codes, Fraction(8)), "hif8"),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["e2m1", "int 3", "nf2", "half", "codebook 1 { -1, 1 }"])
def test_a_setting_does_what_its_transform_does(kind: str, settings: str) -> None:
    before = f"{ATOMS} atom base = {kind}"
    plain, made = grid("base", before), grid(f"base {{ {settings} }}", before)
    wanted = SETTINGS[settings](Codes(plain.values, plain.negative_zero))
    assert made.negative_zero == wanted.negative_zero
    assert list(made.values) == [
        None if value is None else Fraction(round_fp32(value)) for value in wanted.values
    ]


def test_values_are_rounded_once_to_fp32_after_all_transforms() -> None:
    third = grid("int 3 { times 1/3 }")
    assert third.values[1] == Fraction(round_fp32(Fraction(1, 3)))
    back = grid("int 3 { times 1/3  plus 2/3 }")
    assert back.values[1] == 1


def test_floats_and_integers_are_transformed_where_they_are_made() -> None:
    int4 = grid("int 4 { times 6/7 }")
    assert int4.values[7] == 6
    assert int4.values[8] is None
    assert floats(grid("int 2 { range unsigned  plus -1 }")) == [-1, 0, 1, 2]
    assert floats(grid("e1m0 { bias 0  times 3 }"))[:2] == [0, 6]


def test_an_atom_or_an_earlier_grid_is_meant_by_its_name() -> None:
    assert floats(grid("nf2")) == floats(grid("codebook 2 { -1, -1/4, 0.3, 1 }"))
    text = (
        f"{ATOMS} format f {{ block 16  grid a = twice {{ plus 1 }}  grid b = a {{ times -1 }}"
        "  scale e4m3 { rule absmax }  select 1 bit at field { 0: a, 1: b } }"
    )
    one, two = compile_text(text).grids
    assert floats(one) == [-1, 0.5, pytest.approx(1.6), 3]
    assert floats(two) == [None if v is None else -v for v in floats(one)]
    assert (one.name, two.name) == ("a", "b")


def test_a_grid_of_an_atoms_name_is_the_atom() -> None:
    text = f"{ATOMS} format f {{ block 16  grid nf2  scale e4m3 }}"
    assert compile_text(text).grids[0].name == "nf2"
    assert floats(compile_text(text).grids[0]) == floats(grid("nf2"))


def test_built_in_kinds_are_not_hidden_by_a_grid_of_the_same_name() -> None:
    text = (
        "format f { block 16  grid e2m1 = e2m1 { times 2 }  grid b = e2m1 { times 3 }"
        "  scale e4m3  select 1 bit at field { 0: e2m1, 1: b } }"
    )
    assert compile_text(text).grids[1].high == 18


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ("times 1", 8),
        ("times -3", 8),
        ("order negated", 8),
        ("order mirrored", 7),
        ("plus 1/2", None),
        ("plus 0", 8),
        ("replace at(8, 5)", None),
        ("replace at(1, 5)", 8),
        ("replace at(8, 0)", None),
        ("snap e4m3", 8),
    ],
)
def test_the_code_of_minus_zero_is_kept_while_it_means_minus_zero(
    settings: str, code: int | None
) -> None:
    assert grid(f"e2m1 {{ {settings} }}").negative_zero == code


def test_one_of_minus_zeros_places_can_become_a_value() -> None:
    special = grid("e2m1 { replace at(8, 5) }")
    assert special.values[8] == 5
    assert 0 in special.numbers
    assert len(special.numbers) == 16


def test_an_offset_integer_counts_up_from_the_lowest_value() -> None:
    assert floats(grid("int 4 { range offset }")) == list(range(-8, 8))
    assert floats(grid("int 1 { range offset  plus 1 }")) == [0, 1]


def test_a_grid_snapped_to_a_hif_host_is_held_by_it() -> None:
    made = grid("nf2 { times 120  snap hif7 }", clauses="host hif7")
    assert floats(made) == [-120, -30, 36, 120]


def test_a_recipe_decides_no_bit_and_is_kept() -> None:
    plain = "codebook 1 { -1, 1 }"
    told = f'{plain} learned {{ method lloyd  source "my data"  block 16  rate 1/2 }}'
    assert grid(told).recipe == (
        ("method", "lloyd"),
        ("source", "my data"),
        ("block", "16"),
        ("rate", "1/2"),
    )
    text = "format f {{ block 16  grid g = {}  scale e4m3 }}"
    assert compile_text(text.format(plain)) == compile_text(text.format(told))


def test_a_recipe_comes_with_the_atom_and_goes_with_a_transform() -> None:
    before = "atom a = codebook 1 { -1, 1 } learned { method lloyd }"
    assert grid("a", before).recipe == (("method", "lloyd"),)
    assert grid("a { times 2 }", before).recipe == ()


# -- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_faulty_grid_gives_the_report_beside_it(path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        compile_text(path.read_text(encoding="utf-8"), path.name)
    golden = path.with_suffix(".expected")
    if os.environ.get("FMTC_REGEN"):
        golden.write_text(f"{caught.value}\n", encoding="utf-8")
    assert f"{caught.value}\n" == golden.read_text(encoding="utf-8")


def test_there_are_faulty_grids() -> None:
    assert len(FILES) >= 8


@pytest.mark.parametrize(
    ("atom", "code", "words"),
    [
        ("nf2 4", "E0205", "neither a width"),
        ("nf2 { 1, 2 }", "E0205", "neither a width"),
        ("nf2 { bias 2 }", "E0204", "has no setting 'bias'"),
        ("nf2 { replace at(4, 1) }", "E0302", "a code cannot be 4"),
        ("nf2 { replace at(1/2, 1) }", "E0302", "a code cannot be 0.5"),
        ("nf2 { replace at(1, 2, 3) }", "E0205", "pairs"),
        ("nf2 { replace at(1, 2, 1, 3) }", "E0208", "replaced twice"),
        ("nf2 { replace 5 }", "E0205", "does not take a number"),
        ("nf2 { replace put(1, 2) }", "E0205", "does not take put"),
        ("nf2 { times 0 }", "E0302", "only one value"),
        ("nf2 { times 1e39 }", "E0303", "fp32 cannot hold"),
        ("nf2 { plus 1/0 }", "E0301", "division by zero"),
        ("nf2 { plus -2 }", "E0408", "no positive value"),
        ("nf2 { snap e9m9 }", "E0205", "does not take 'e9m9'"),
        ("nf2 { snap e4m3  times 1e-9 }", "E0305", "fewer than two values"),
        ("nf3", "E0202", "no atom is called 'nf3'"),
        ("g { times 2 }", "E0202", "no atom is called 'g'"),
        ("e2m1 learned { method lloyd }", "E0205", "is not learned"),
        ("codebook 1 { 0, 1 } learned { a 1  a 2 }", "E0208", "said twice in the recipe"),
        ("lattice 4", "E0202", "no atom is called 'lattice'"),
        ("e8p", "E0202", "no atom is called 'e8p'"),
        ("codebook 1 { vector(0, 1), 1 }", "E0202", "no function is called 'vector'"),
    ],
)
def test_a_faulty_transform_has_one_clear_fault(atom: str, code: str, words: str) -> None:
    found = faults_of(atom)
    assert [fault.code for fault in found] == [code]
    assert words in found[0].message


@pytest.mark.parametrize("atom", ["vq", "vector 4", "lattice 4", "e8p", "codebook 1 { vec(1, 2) }"])
def test_codebooks_of_vectors_are_said_to_be_out_of_scope(atom: str) -> None:
    assert "out of scope" in (faults_of(atom)[0].hint or "")


def test_a_hif_host_refuses_what_is_not_snapped_and_says_how() -> None:
    (fault,) = faults_of("nf2 { times 110 }", clauses="host hif7")
    assert fault.code == "E0303"
    assert "snap hif7" in (fault.hint or "")


def test_a_misspelt_grid_is_answered_with_the_right_one() -> None:
    assert faults_of("twise")[0].hint == "did you mean 'twice'?"


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
def test_atoms_made_of_themselves_are_reported(names: str) -> None:
    following = [*names[1:], names[0]]
    atoms = parse(
        "\n".join(f"atom {a} = {b} {{ times 2 }}" for a, b in zip(names, following, strict=True))
    ).atoms
    report = Report()
    assert resolve_atom(atoms[0], report, {atom.name.text: atom for atom in atoms}) is None
    way = " -> ".join([*names, names[0]])
    assert [(fault.code, fault.message) for fault in report.diagnostics] == [
        ("E0202", f"the atom 'a' is made of itself: {way}")
    ]


def test_a_fault_of_an_atom_is_told_once_however_often_it_is_used() -> None:
    text = (
        "atom a = codebook 1 { 0, 1/0 }\n"
        "format f { block 16  grid p = a  grid q = a { times 2 }  scale e4m3"
        "  select 1 bit at field { 0: p, 1: q } }"
    )
    with pytest.raises(FormatError) as caught:
        compile_text(text)
    assert [fault.code for fault in caught.value.diagnostics] == ["E0301"]
