"""Every shipped format: it says where it comes from, when to use it, and what it is checked by.

The figures of a ``check`` line are assertions: its clauses, separated by semicolons, are measured
here, and one that this file cannot measure is named with the test that does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import compatibility
import numpy as np
import pytest
from fmtc import Format
from fmtc import load as load_anew
from fmtc.compiler.format import Grid
from fmtc.dsl.ast import Cite, Setting
from fmtc.dsl.parser import parse
from fmtc.dsl.printer import print_file
from fmtc.formats import compile_text, find, group_of, names
from test_gaussian import BESIDE, POINTS

#: Groups whose check lines hold nothing but figures of the forms below.
FIGURES = ("grid_games", "neighbours", "nvfp4", "ocp_mx", "sop")

#: What a check line's clause may say -> how it is held against the format.
CLAUSES: dict[str, Callable[[Format, re.Match[str]], None]] = {}

Check = Callable[[Format, re.Match[str]], None]


@cache
def load(name: str) -> Format:
    return load_anew(name)


def clause(pattern: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CLAUSES[pattern] = check
        return check

    return register


@clause(r"bpw (?P<value>[\d.]+)")
def bits_per_weight(fmt: Format, said: re.Match[str]) -> None:
    if fmt.sides:  # what a sparse stream takes depends on the data
        assert fmt.bpw == pytest.approx(float(said["value"]), abs=0.02)
    else:
        assert fmt.exact_bpw == Fraction(said["value"])


@clause(r"largest (?P<value>[\d./]+)")
def largest_value(fmt: Format, said: re.Match[str]) -> None:
    assert max(max(g.high, -g.low) for g in fmt.grids) == Fraction(said["value"])


@clause(r"values (?P<value>\d+)")
def different_values(fmt: Format, said: re.Match[str]) -> None:
    assert {len(g.numbers) for g in fmt.grids} == {int(said["value"])}


@clause(r"((?P<grid>\w+) )?max/min (?P<value>[\d.]+)")
def ratio_of_magnitudes(fmt: Format, said: re.Match[str]) -> None:
    grid = next(g for g in fmt.grids if said["grid"] in (None, g.name))
    decimals = len(said["value"].partition(".")[2])
    assert round(magnitude_ratio(grid), decimals) == float(said["value"])


def magnitude_ratio(grid: Grid) -> float:
    sizes = [abs(v) for v in grid.numbers if v]
    return float(max(sizes) / min(sizes))


@clause(r"scale (?P<value>[\d.]+)")
def largest_scale(fmt: Format, said: re.Match[str]) -> None:
    assert fmt.scale.word.number.largest == Fraction(said["value"])


@clause(r"from (?P<low>-\d+) to (?P<high>\d+)")
def ends(fmt: Format, said: re.Match[str]) -> None:
    assert (fmt.grids[0].low, fmt.grids[0].high) == (int(said["low"]), int(said["high"]))


@clause(r"(?P<value>[+-][\d.]+) % error beside (?P<other>\w+)")
def error_beside(fmt: Format, said: re.Match[str]) -> None:
    # Measured by test_gaussian.py.
    assert BESIDE[fmt.name, said["other"]] == float(said["value"])


@clause(r"outliers beyond (?P<value>[\d.]+) sigma")
def outlier_threshold(fmt: Format, said: re.Match[str]) -> None:
    (opq,) = (side for side in fmt.sides if side.kind == "opq")
    assert opq.threshold is not None
    assert float(opq.threshold) == pytest.approx(float(said["value"]), abs=5e-4)


@clause(r"Gaussian MSE (?P<value>[\d.e-]+)")
def gaussian_error(fmt: Format, said: re.Match[str]) -> None:
    # Measured by test_gaussian.py, for the format with fp32 scales.
    assert POINTS[fmt.name] == pytest.approx(1000 * float(said["value"]))


@clause(r"normalised Gaussian error (?P<value>[\d.]+)")
def normalised_gaussian_error(fmt: Format, said: re.Match[str]) -> None:
    # Measured by test_gaussian.py.
    assert (fmt.name, said["value"]) == ("lut3", "0.0211")


@clause(r"bytes of (?P<peer>[\w-]+)")
def bytes_of_a_peer(fmt: Format, said: re.Match[str]) -> None:
    # A row of docs/compatibility.md, and a test of the peer's test_oracles_*.py.
    recipes = {one.recipe for one in compatibility.load_all() if one.peer == said["peer"]}
    assert fmt.name in recipes


def clauses_of(fmt: Format) -> list[str]:
    return [part.strip() for part in fmt.check.split(";")]


@pytest.mark.parametrize("name", [n for n in names() if group_of(n) in FIGURES])
def test_every_figure_of_a_check_line_holds(name: str) -> None:
    fmt = load(name)
    for said in clauses_of(fmt):
        found = [(c, m) for p, c in CLAUSES.items() if (m := re.fullmatch(p, said))]
        assert len(found) == 1, f"{name}: nobody measures '{said}'"
        for check, match in found:
            check(fmt, match)


@pytest.mark.parametrize("name", names())
def test_bits_per_weight_are_what_the_check_line_says(name: str) -> None:
    fmt = load(name)
    said = re.search(r"\bbpw (?P<value>[\d.]+\d)", fmt.check)
    if said:
        bits_per_weight(fmt, said)
    assert 1 < fmt.bpw < 9


def test_there_are_well_over_sixty_formats() -> None:
    assert len(names()) >= 100


@pytest.mark.parametrize("name", names())
def test_a_file_says_its_name_its_source_its_use_and_its_check(name: str) -> None:
    path = find(name)
    text = path.read_text(encoding="utf-8")
    (declared,) = parse(text, str(path)).formats
    assert declared.name.text == path.stem == name
    own = {c.key.text for c in declared.clauses if isinstance(c, Setting)}
    assert {"use", "check"} <= own, f"{path} says neither when to use it nor what checks it"
    assert declared.title
    fmt = load(name)
    assert fmt.cites, f"{path} cites nothing"
    assert declared.base or any(isinstance(c, Cite) for c in declared.clauses)
    for line in (fmt.title, fmt.use, fmt.check, *fmt.cites):
        assert 4 < len(line) < 160
        assert not line.endswith(".")


@pytest.mark.parametrize("name", names())
def test_a_file_is_in_canonical_layout_and_short(name: str) -> None:
    path = find(name)
    text = path.read_text(encoding="utf-8")
    assert print_file(parse(text, str(path))) == text
    assert len(text.splitlines()) <= 40


@pytest.mark.parametrize("name", names())
def test_the_flat_source_compiles_by_itself_to_the_same_format(name: str) -> None:
    fmt = load(name)
    assert "extends" not in fmt.source.split("{")[0]
    assert "import" not in fmt.source.split("{")[0]
    again = compile_text(fmt.source)
    assert again.content_hash == fmt.content_hash


def test_no_two_files_have_one_name_and_no_two_names_are_the_same_format() -> None:
    folder = find("mxfp4").parents[1]
    files = [p for p in folder.rglob("*.fmt") if p.parent.name not in ("atoms", "templates")]
    assert sorted(file.stem for file in files) == list(names())
    hashes = {load(name).content_hash for name in names()}
    assert len(hashes) == len(names())


#: The largest mean squared error of N(0, 1) by bits of a code, whatever the scales.
ROUGHLY = {1: 0.4, 2: 0.25, 3: 0.06, 4: 0.025, 5: 0.01, 6: 0.004, 7: 0.003, 8: 0.003}
#: Rules that let the largest element saturate err twice as much.
SATURATING = ("mxfp4_rfloor", "mxfp8_e4m3_rndlog2")


@pytest.mark.parametrize("name", names())
def test_a_small_tensor_comes_back_close(name: str) -> None:
    fmt = load(name)
    x = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    q = fmt.quantize(x, backend="reference")
    y = q.to_float32(backend="reference")
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    bound = ROUGHLY[fmt.code_bits] * (2 if name in SATURATING else 1)
    assert float(np.square(x - y).mean()) < bound
    assert not np.square(fmt.quantize(0 * x, backend="reference").to_float32()).any()


def test_sop_grids_have_the_ratios_and_sets_of_the_paper() -> None:
    e2m3 = load("e2m3_ue4m4").grids[0]
    hif7, hif8 = (load(f"hif{bits}_ue4m4").grids[0] for bits in (7, 8))
    words = set(hif7.numbers)
    assert {8 * v for v in e2m3.numbers} < words
    assert len(words - {8 * v for v in e2m3.numbers}) == 17
    assert words < set(hif8.numbers)
    assert load("e2m3_ue4m4").scale.word.number.largest == 496
    assert load("e2m5_ue4m6").grids[0].high == Fraction(63, 16)
    assert load("razer_weights").scale.aim is None
    assert load("four_six").scale.aim == 256


def test_block_dialects_are_halves_of_sixteen_integer_tables() -> None:
    grids = load("block_dialect").grids
    assert len(grids) == 16
    tables = {tuple(2 * v for v in g.numbers if v >= 0) for g in grids}
    assert len(tables) == 16
    for table in tables:
        assert table[:5] == (0, 1, 2, 3, 4)
        assert all(v.denominator == 1 and v <= 15 for v in table)
