"""The shipped library as a whole: its folders, names, atoms and templates, and its figures."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import fmtc
import numpy as np
import pytest
from fmtc import formats
from fmtc.compiler.describe import summary
from fmtc.compiler.format import Format
from fmtc.dsl import parse, print_file
from fmtc.formats import UnknownFormat
from fmtc.runtime import gaussian

HOME = Path(formats.__file__).parent
SHIPPED = sorted(HOME.rglob("*.fmt"))
ATOMS = sorted((HOME / "atoms").glob("*.fmt"))
TEMPLATES = sorted((HOME / "templates").glob("*.fmt"))


@cache
def loaded(name: str) -> Format:
    return formats.load(name)


# -- folders and names -----------------------------------------------------------------------


def test_every_file_lies_in_a_group_and_no_name_comes_twice() -> None:
    in_groups = [p for p in SHIPPED if p.parent.name not in ("atoms", "templates")]
    assert all(path.parent.parent == HOME for path in SHIPPED)
    assert sorted(path.stem for path in in_groups) == list(formats.names())
    assert sorted({path.parent.name for path in in_groups}) == list(formats.groups())
    for path in in_groups:
        assert formats.group_of(path.stem) == path.parent.name
        assert formats.find(path.stem) == path


def test_atoms_and_templates_are_no_formats_of_the_list() -> None:
    assert not {"atoms", "templates"} & set(formats.groups())
    assert formats.atoms() == tuple(path.stem for path in ATOMS)
    assert list(formats.template_titles()) == [path.stem for path in TEMPLATES]
    assert not {path.stem for path in TEMPLATES} & set(formats.names())


def test_the_six_first_formats_kept_their_names() -> None:
    first = {"mxfp4", "nvfp4", "nf4", "e2m3_ue4m4", "sop_pair", "po2_nf4"}
    assert first <= set(formats.names())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_file_is_named_for_what_it_holds_and_in_the_canonical_layout(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = parse(text, str(path))
    assert print_file(tree) == text
    if path in ATOMS:
        assert tree.formats == ()
        assert all(atom.title is not None for atom in tree.atoms)
    else:
        assert [declaration.name.text for declaration in tree.formats] == [path.stem]


def test_a_group_is_asked_of_a_shipped_name_only() -> None:
    with pytest.raises(UnknownFormat, match="no shipped format is called 'nosuch'"):
        formats.group_of("nosuch")


# -- what every format says ------------------------------------------------------------------


@pytest.mark.parametrize("name", formats.names())
def test_a_shipped_format_says_what_it_is_and_stands_alone(name: str) -> None:
    fmt = loaded(name)
    assert fmt.name == name
    assert fmt.title
    assert fmt.cites
    assert fmt.use, 'say when to use it: use "..."'
    assert fmt.check, 'give a published figure: check "..."'
    tree = parse(fmt.source)
    assert (tree.imports, tree.formats[0].base) == ((), None)
    again = fmtc.compile_text(fmt.source)
    assert again.content_hash == fmt.content_hash
    assert again.source == fmt.source


@pytest.mark.parametrize("path", ATOMS, ids=lambda path: path.stem)
def test_every_atom_of_a_library_makes_a_grid(path: Path) -> None:
    for atom in parse(path.read_text(encoding="utf-8")).atoms:
        fmt = fmtc.compile_text(
            f'import "{path.stem}"  format f {{ block 16  grid g = {atom.name.text}  scale fp32 }}'
        )
        assert len(fmt.grids[0].numbers) >= 2


def test_remarks_do_not_enter_the_hash() -> None:
    text = "format f {{ block 16  grid e2m1  scale e4m3 {} }}"
    bare = fmtc.compile_text(text.format(""))
    said = fmtc.compile_text(text.format('use "daily"  check "MSE 1"'))
    assert (said.use, said.check) == ("daily", "MSE 1")
    assert said.content_hash == bare.content_hash
    assert fmtc.compile_text(said.source).check == "MSE 1"


# -- SOP strings -----------------------------------------------------------------------------


def test_a_sop_string_is_read_as_a_format_that_stands_alone() -> None:
    fmt = formats.load("NF4|E2M1^16sE4M3")
    assert [grid.name for grid in fmt.grids] == ["nf4", "e2m1"]
    assert (fmt.block, fmt.scale.word.name) == (16, "e4m3")
    assert fmt.grids[0].values == loaded("nf4").grids[0].values
    assert "import" not in fmt.source
    assert fmtc.compile_text(fmt.source).content_hash == fmt.content_hash
    assert fmtc.load("NF4|E2M1^16sE4M3").quantize(np.ones((1, 16), np.float32)).bpw == 4.5 + 2


def test_a_name_and_a_file_come_before_a_sop_string(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "E2M1sE4M3").write_text("format f { block 4  grid e2m1  scale e4m3 }")
    assert formats.load("E2M1sE4M3").name == "f"
    with pytest.raises(UnknownFormat, match="there is no file"):
        formats.find(Path("E2M3sE4M3.fmt"))


def test_a_fault_in_a_sop_string_is_underlined_in_it() -> None:
    with pytest.raises(fmtc.FormatError) as caught:
        formats.load("NF4|XX4^16sE4M3")
    assert "--> NF4|XX4^16sE4M3:1:5" in str(caught.value)


# -- the summary -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ratio", "host"),
    [("mxfp4", 12, "hif7"), ("e2m3_ue4m4", 60, "hif7"), ("sop_pair", 26, "hif7")],
)
def test_the_summary_has_the_ratio_and_the_narrowest_host(
    name: str, ratio: float, host: str
) -> None:
    row = summary(loaded(name))
    assert (row["ratio"], row["host"]) == (ratio, host)


def test_the_summary_names_the_declared_host_where_no_narrow_one_fits() -> None:
    row = summary(loaded("nf4"))
    assert row["host"] == "fp32"
    assert row["ratio"] == pytest.approx(1 / 0.07958029955625534)


def test_a_block_of_a_whole_row_is_called_that() -> None:
    fmt = fmtc.compile_text("format f { block row  grid g = int 8  scale fp32 }")
    assert summary(fmt)["block"] == "row"


# -- the error on Gaussian data --------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_gaussian_error_is_that_of_the_reference(own_cache: Path) -> None:
    fmt = fmtc.load("mxfp4")
    x = np.random.default_rng(gaussian.SEED).standard_normal(gaussian.SHAPE, dtype=np.float32)
    assert x.size == 1 << 18
    decoded = fmt.quantize(x, backend="reference").dequantize(backend="reference")
    expected = float(np.mean(np.square(x - decoded, dtype=np.float64)))
    assert gaussian.gaussian_mse(fmt) == expected
    # Grid Games, arXiv:2605.12327 and others give 0.0132 for MXFP4 in blocks of 32.
    assert expected == pytest.approx(0.0132, rel=0.01)


def test_the_gaussian_error_is_measured_once(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = loaded("nvfp4")
    assert gaussian.known_mse(fmt) is None
    mse = gaussian.gaussian_mse(fmt)
    assert gaussian.known_mse(fmt) == mse
    (file,) = (own_cache / "gaussian").iterdir()
    assert fmt.content_hash in file.name

    def never(*arguments: object, **settings: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(gaussian.Format, "quantize", never)
    assert gaussian.gaussian_mse(fmt) == mse
    other = fmtc.compile_text('format v extends "nvfp4" { tie up }')
    with pytest.raises(AssertionError, match="measured again"):
        gaussian.gaussian_mse(other)


@pytest.mark.parametrize("damage", ["", "{", '"0.1"', "NaN", "[1]", "[" * 100_000])
def test_a_damaged_figure_is_measured_again(own_cache: Path, damage: str) -> None:
    fmt = loaded("nvfp4")
    mse = gaussian.gaussian_mse(fmt)
    (file,) = (own_cache / "gaussian").iterdir()
    file.write_text(damage)
    assert gaussian.gaussian_mse(fmt) == mse
    assert json.loads(file.read_text()) == mse


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "file"))
    assert gaussian.gaussian_mse(loaded("nvfp4")) > 0


# -- templates -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_compiles_and_explains_itself(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    fmt = fmtc.compile_text(text, path.name)
    clauses = len(parse(text).formats[0].clauses)
    assert text.count("#") >= clauses - 1
    x = np.random.default_rng(1).standard_normal((2, 256), dtype=np.float32)
    q = fmtc.Format.of(fmt).quantize(x, backend="reference")
    error = np.mean(np.square(x - q.dequantize(backend="reference")))
    assert error < 0.05


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_format_started_from_a_template_differs_by_its_name_alone(path: Path) -> None:
    text = formats.started("my_own", path.stem)
    assert text == path.read_text("utf-8").replace(f"format {path.stem} ", "format my_own ")
    assert fmtc.compile_text(text).name == "my_own"


@pytest.mark.parametrize("name", ["", "4bit", "a b", "a-b", "é", "../a", "format", "grid", "as"])
def test_a_name_that_no_format_can_have_is_refused(name: str) -> None:
    with pytest.raises(UnknownFormat, match="a format cannot be called"):
        formats.started(name, "minimal")


def test_an_unknown_template_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownFormat, match=r"did you mean 'superblock'.*two_grids"):
        formats.started("mine", "superblok")
