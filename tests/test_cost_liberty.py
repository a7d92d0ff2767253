"""Cell libraries: what is read of a Liberty file, and what is said of a broken one.

Reference: the Liberty Reference Manual, for precedence and units; figures added up by hand.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cells
import numpy as np
import pytest
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.errors import CorruptFile
from fmtc.runtime.rtl import liberty
from fmtc.runtime.rtl.boolean import BadFunction, parse_function
from fmtc.runtime.rtl.liberty import SHIPPED, BadLibrary, Library, load_library


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path: Path) -> Library:
    return load_library(str(cells.write(tmp_path)))


# -- functions -----------------------------------------------------------------------------


#: Text -> its values, C changing fastest and A slowest.
FUNCTIONS = {
    "A": "00001111",
    "!A": "11110000",
    "A'": "11110000",
    "!A'": "00001111",
    "(!(A B))": "11111100",
    "A*B+C": "01010111",
    "A+B C": "00011111",
    "A ^ B & C": "00010100",
    "(A+B)' | C": "11010101",
    "((A^B)^C)": "01101001",
    "(!((C A) + (!C B)))": "11011000",
    "1": "11111111",
    "0 + A": "00001111",
}


@pytest.mark.parametrize("text", FUNCTIONS)
def test_functions_mean_what_liberty_says(text: str) -> None:
    expression = parse_function(text)
    found = ""
    for row in itertools.product((0, 1), repeat=3):
        pins = {name: np.uint64(bit) for name, bit in zip("ABC", row, strict=True)}
        found += str(int(expression.value(pins)) & 1)
    assert found == FUNCTIONS[text]


@pytest.mark.parametrize("text", ["", "A +", "(A", "A)", "+A", "A ? B", "!"])
def test_what_is_no_function_is_refused(text: str) -> None:
    with pytest.raises(BadFunction, match="function"):
        parse_function(text)


# -- a library -----------------------------------------------------------------------------


def test_cells_are_read_with_their_units(tiny: Library) -> None:
    assert tiny.name == "tiny"
    assert tiny.voltage == 2.0
    assert set(tiny.cells) == {"INV", "NAND", "XOR", "DFF"}
    inverter = tiny.cells["INV"]
    assert (inverter.area, inverter.leakage) == (2, pytest.approx(3e-9))
    assert inverter.inputs == {"A": pytest.approx(1e-15)}
    assert tiny.cells["NAND"].inputs["B"] == pytest.approx(3e-15)
    assert tiny.gate_area == 3
    assert tiny.inverter.name == tiny.driver.name == "INV"
    assert tiny.load == pytest.approx(4e-15)


def test_what_remembers_has_no_function(tiny: Library) -> None:
    assert tiny.cells["DFF"].functions == {}


def test_energy_is_the_mean_over_edges_between_the_points_of_tables(tiny: Library) -> None:
    loads = np.array([0.0, 5e-15, 10e-15, 99e-15])
    found = tiny.cells["INV"].energy("Y", loads, tiny.slew)
    rise, fall = np.array([4, 6, 8, 8]), np.array([2, 2, 2, 2])
    assert found == pytest.approx((rise + fall) / 2 * 1e-15)


def test_a_cell_without_tables_takes_no_energy_inside(tiny: Library) -> None:
    assert (tiny.cells["NAND"].energy("Y", np.array([1e-15]), 0.0) == 0).all()


def test_the_slew_is_that_of_a_loaded_inverter(tiny: Library) -> None:
    assert tiny.slew == pytest.approx(0.2e-9)


def test_a_library_is_remembered_by_its_content(
    tmp_path: Path, tiny: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(liberty, "parse", refuse)
    again = load_library(str(tmp_path / "tiny.lib"))
    assert again == tiny
    other = tmp_path / "other.lib"
    other.write_text(cells.TINY.replace("area : 3", "area : 4"))
    with pytest.raises(AssertionError, match="parsed again"):
        load_library(str(other))


BROKEN = {
    "cut short": (cells.TINY[:-30], "ends inside a group"),
    "a comment without an end": ("library (x) { /* ", "does not end"),
    "no library": ("cell (INV) { area : 1; }", "begins with 'cell'"),
    "no cells": (cells.text_of(), "no cells"),
    "no area": (cells.TINY.replace("area : 2;", ""), "cell INV .* has no area"),
    "no inverter": (cells.text_of(cells.NAND), "no inverter"),
    "no gate": (cells.text_of(cells.INVERTER), "no NAND"),
    "no number": (cells.TINY.replace("area : 7", "area : seven"), "'area' of the cell in line"),
    "a short table": (cells.TINY.replace('"4, 4", ', '"4", '), "3 values"),
    "another unit": (cells.TINY.replace('"1ns"', '"1hour"'), "unit '1hour'"),
    "no function": (cells.TINY.replace("A^B", "A^^B"), "function 'A\\^\\^B'"),
    "more behind it": (cells.TINY + "}", "after the end"),
    "a mark": (cells.TINY.replace("cell (NAND) {", "cell (NAND) ] {"), "line"),
    "nothing": ("", "no group|ends"),
    "binary": ("\x00\x01\x02", "neither|ends"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_library_is_refused_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    text, says = BROKEN[name]
    file = cells.write(tmp_path, text)
    with pytest.raises(BadLibrary, match=says) as caught:
        load_library(str(file))
    assert isinstance(caught.value, CorruptFile)
    assert str(file) in str(caught.value)


def test_a_library_that_is_not_there_is_named_with_what_there_is() -> None:
    with pytest.raises(BackendUnavailable, match="osu018, osu035, osu050"):
        load_library("osu019")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_library_that_is_missing_comes_with_its_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liberty, "_SHARE", tmp_path)
    with pytest.raises(BackendUnavailable, match=f"apt-get install .* qflow-tech-{name}"):
        load_library(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_libraries_have_gates_and_energies(name: str) -> None:
    try:
        library = load_library(name)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    gate = library.cells["NAND2X1"]
    assert gate.area == library.gate_area
    assert 1e-15 < gate.inputs["A"] < 1e-13
    assert 1e-15 < gate.energy("Y", np.array([library.load]), library.slew)[0] < 1e-12
    assert 1e-12 < library.slew < 1e-9
