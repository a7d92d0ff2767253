"""What a multiplier takes of a format: words of exact values, without idle bits."""

from fractions import Fraction

import pytest
from fmtc import compile_text, formats
from fmtc.codegen import NotExpressible, hardware
from fmtc.codegen.design import design_of, side_of
from fmtc.compiler.datapath.operands import operand_of
from fmtc.compiler.hosts import HIF_HOSTS, HifWord
from representatives import with_hardware

NAMES = with_hardware()


def own_words(operand):
    return [word for row in operand.words for word in row if word is not None]


@pytest.mark.parametrize("name", NAMES)
def test_every_word_is_the_exact_value_of_its_code(name):
    fmt = formats.load(name)
    operand = operand_of(fmt)
    unit = Fraction(2) ** operand.unit
    for grid, row in zip(fmt.grids, operand.words, strict=True):
        for value, word in zip(grid.values, row, strict=True):
            assert (None if word is None else word.value * unit) == value


@pytest.mark.parametrize("name", NAMES)
def test_every_word_fits_its_fields_and_its_ranges(name):
    operand = operand_of(formats.load(name))
    for word in own_words(operand):
        assert operand.coefficients.low <= word.coefficient <= operand.coefficients.high
        assert operand.coefficient.low <= word.coefficient <= operand.coefficient.high
        assert operand.value.low <= word.value <= operand.value.high
        assert 0 <= word.shift <= operand.max_shift


@pytest.mark.parametrize("name", NAMES)
def test_no_bit_of_a_field_is_idle(name):
    fmt = formats.load(name)
    operand = operand_of(fmt)
    if fmt.host in HIF_HOSTS:
        return  # any codebook of the host has to fit
    assert operand.coefficient.bits == operand.coefficient_bits
    assert max(word.shift for word in own_words(operand)) == operand.max_shift


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("sop_pair", "5-bit coefficients shifted by 0..3, of 2^0"),
        ("hif8_ue4m4", "5-bit coefficients shifted by 0..4, of 2^0"),
        ("nvfp4", "3-bit coefficients shifted by 0..2, of 2^-1"),
        ("e4m3_ue4m6", "5-bit coefficients shifted by 0..14, of 2^-9"),
        ("mxfp6_e3m2", "4-bit coefficients shifted by 0..6, of 2^-4"),
        ("mxint8_full", "8-bit integers of 2^-6"),
        ("q4_0", "4-bit integers of 2^0"),
        ("nf4", "29-bit integers of 2^-27"),
    ],
)
def test_the_multipliers_operands_are_as_narrow_as_the_atoms(name, form):
    assert operand_of(formats.load(name)).form == form


def test_a_declared_host_is_taken_whole():
    operand = operand_of(formats.load("nf4_hif7"))
    assert (operand.value.low, operand.value.high) == (-128, 120)
    assert max(abs(word.value) for word in own_words(operand)) == 72


def test_codes_that_are_hif_words_are_taken_as_they_stand():
    [row] = operand_of(formats.load("hif8_ue4m4")).words
    for code, word in enumerate(row):
        assert word in (None, HifWord.of_bits(code))
    assert sum(word is None for word in row) == 96  # shifts 5 to 7


def test_other_words_are_symmetric_where_they_can_be():
    words = own_words(operand_of(formats.load("sop_pair")))
    assert {abs(word.coefficient) for word in words} <= set(range(16))
    assert HifWord(-8, 3) in words  # -64, not -16 << 2


def test_a_design_multiplies_the_ranges_of_both_sides():
    design = design_of(formats.load("e4m3_ue4m6"), formats.load("e4m3_ue4m6"))
    assert (design.term.high, design.unit, design.max_shift) == (229376**2, -18, 28)
    assert design.total.high == 16 * design.term.high


def test_the_usual_activations_come_in_blocks_of_any_length():
    for block in (4, 16, 32, 100):
        fmt = compile_text(f"format any {{ block {block}  grid e2m1  scale e8m0 }}")
        design = design_of(fmt)
        assert design.activations.block == block
        assert design.activations.operand.name == "hif8"


def test_blocks_of_different_lengths_do_not_meet():
    with pytest.raises(NotExpressible, match=r"a block of 16 and one of 32 .* blocks of 16"):
        hardware(formats.load("nvfp4"), formats.load("mxfp4"))
    with pytest.raises(ValueError, match="takes one scale of each"):
        design_of(formats.load("nvfp4"), formats.load("mxfp4"))


def test_a_side_tells_where_its_grid_is_selected():
    inside, beside = side_of(formats.load("sop_pair")), side_of(formats.load("sfp4"))
    assert (inside.select_in_word, inside.selects) == (True, 1)
    assert (beside.select_in_word, beside.selects) == (False, 4)
