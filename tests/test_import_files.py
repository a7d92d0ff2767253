"""Files that a .fmt file names: which may be read, and what is said of one that may not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import fmtc
import pytest
from fmtc import FormatError, formats
from fmtc.compiler.format import Format
from fmtc.compiler.report import CODES
from fmtc.dsl import Diagnostic

BAD = Path(__file__).parent / "bad"
FILES = sorted([*BAD.glob("import_*.fmt"), *BAD.glob("extends_*.fmt")])

PAIR = "codebook 2 { -1, 0, 0.5, 1 }"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """mine/ with a library in a folder of its own, and a secret outside."""
    (tmp_path / "mine" / "near").mkdir(parents=True)
    (tmp_path / "secret.fmt").write_text(f"atom secret = {PAIR}")
    (tmp_path / "mine" / "near" / "lib.fmt").write_text(f"atom level = {PAIR}")
    return tmp_path / "mine"


def load_text(tree: Path, text: str, name: str = "entry.fmt") -> Format:
    (tree / name).write_text(text)
    return formats.load(tree / name)


def disk_fault(tree: Path, text: str, name: str = "entry.fmt") -> Diagnostic:
    with pytest.raises(FormatError) as caught:
        load_text(tree, text, name)
    assert len(caught.value.diagnostics) == 1, str(caught.value)
    return caught.value.diagnostics[0]


USES = "  format f { block 8  grid g = level  scale e4m3 }"


def test_a_path_is_relative_to_the_file_that_names_it(tree: Path) -> None:
    (tree / "near" / "more.fmt").write_text('import "lib.fmt"  atom more = level')
    (tree / "near" / "up.fmt").write_text('import "../top.fmt"  atom up = top')
    (tree / "top.fmt").write_text(f"atom top = {PAIR}")
    plain = load_text(tree, 'import "near/lib.fmt"' + USES)
    for library, atom in (("near/more.fmt", "more"), ("near/up.fmt", "up")):
        fmt = load_text(tree, f'import "{library}"' + USES.replace("level", atom))
        assert fmt.content_hash == plain.content_hash


def test_a_base_may_be_a_file_beside(tree: Path) -> None:
    (tree / "near" / "base.fmt").write_text('import "lib.fmt"' + USES)
    fmt = load_text(tree, 'format v extends "near/base.fmt" { block 4 }')
    assert (fmt.name, fmt.block, float(fmt.grids[0].high)) == ("v", 4, 1)


def test_a_relative_name_works_from_any_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_text(tree, 'import "near/lib.fmt"' + USES)
    monkeypatch.chdir(tree)
    assert formats.load("entry.fmt") == expected
    monkeypatch.chdir(tree / "near")
    assert formats.load("../entry.fmt") == expected


def test_shipped_names_work_from_any_file(tree: Path) -> None:
    fmt = load_text(tree, 'format v extends "mxfp4" { }')
    assert fmt.grids[0].values == formats.load("mxfp4").grids[0].values
    assert fmtc.compile_text('format v extends "mxfp4" { }') == fmt


@pytest.mark.parametrize(
    "reference",
    [
        "../secret.fmt", "near/../../secret.fmt", "../mine/near/lib.fmt", "/etc/passwd.fmt",
        "C:/secret.fmt", "near\\\\lib.fmt", "..\\\\secret.fmt",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder_of_the_entry_file(tree: Path, reference: str) -> None:
    for text in (f'import "{reference}"' + USES, f'format f extends "{reference}" {{ }}'):
        fault = disk_fault(tree, text)
        assert fault.code == "E0502"
        assert fault.span.line == 1


def test_a_library_cannot_lead_out_either(tree: Path) -> None:
    (tree / "near" / "sly.fmt").write_text('import "../../secret.fmt"  atom sly = secret')
    fault = disk_fault(tree, 'import "near/sly.fmt"' + USES)
    assert fault.code == "E0502"
    assert fault.message.startswith(f"{tree / 'near' / 'sly.fmt'}:1:8: ")


def test_a_symbolic_link_leads_nowhere_else(tree: Path) -> None:
    (tree / "link.fmt").symlink_to(tree.parent / "secret.fmt")
    (tree / "folder").symlink_to(tree.parent)
    for reference in ("link.fmt", "folder/secret.fmt"):
        assert disk_fault(tree, f'import "{reference}"' + USES).code == "E0502"
    (tree / "inside.fmt").symlink_to(tree / "near" / "lib.fmt")
    assert load_text(tree, 'import "inside.fmt"' + USES).block == 8
    (tree / "loop.fmt").symlink_to(tree / "loop.fmt")
    assert disk_fault(tree, 'import "loop.fmt"' + USES).code == "E0501"


def test_a_linked_entry_file_reads_beside_the_link(tree: Path) -> None:
    (tree.parent / "elsewhere").mkdir()
    (tree.parent / "elsewhere" / "real.fmt").write_text('import "near/lib.fmt"' + USES)
    (tree / "entry.fmt").symlink_to(tree.parent / "elsewhere" / "real.fmt")
    assert formats.load(tree / "entry.fmt").block == 8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "does not exist"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not UTF-8 text"),
        (lambda path: path.write_bytes(b"# " * (1 << 20)), "larger than 1 MiB"),
        (os.mkfifo, "is no file"),
    ],
    ids=["missing", "folder", "bytes", "huge", "pipe"],
)
def test_a_file_that_cannot_be_read_is_a_fault_of_the_import(
    make: Callable[[Path], object], words: str, tree: Path
) -> None:
    make(tree / "x.fmt")
    fault = disk_fault(tree, 'import "x.fmt"' + USES)
    assert (fault.code, fault.span.column) == ("E0501", 8)
    assert words in fault.message


def test_a_path_too_long_for_the_disk_is_a_fault_of_the_import(tree: Path) -> None:
    assert disk_fault(tree, f'import "{"x" * 5000}.fmt"' + USES).code == "E0501"


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("near/libs.fmt", 'did you mean "near/lib.fmt"?'),
        ("near/lib", 'a path ends in .fmt: "near/lib.fmt"'),
    ],
)
def test_a_misspelt_path_is_answered_with_the_nearest(
    tree: Path, reference: str, hint: str
) -> None:
    fault = disk_fault(tree, f'import "{reference}"' + USES)
    assert (fault.code, fault.hint) == ("E0501", hint)


def test_a_misspelt_shipped_name_is_answered_with_the_nearest(tree: Path) -> None:
    fault = disk_fault(tree, 'format v extends "mxfp5" { }')
    assert fault.hint == "did you mean 'mxfp4'?"
    fault = disk_fault(tree, 'import "mxfp4"  format v { }')
    assert fault.hint == 'it is a format; write: extends "mxfp4"'


def test_a_file_that_extends_itself_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_fault(tree, 'format f extends "entry.fmt" { }').code == "E0503"
    (tree / "near" / "back.fmt").write_text('format b extends "../entry.fmt" { }')
    monkeypatch.chdir(tree)
    fault = disk_fault(Path(), 'format f extends "near/back.fmt" { }')
    assert fault.code == "E0503"
    assert "entry.fmt -> near/back.fmt -> entry.fmt" in fault.message


# -- reports -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_faulty_file_gives_the_report_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(FormatError) as caught:
        formats.load(path.name)
    report = f"{caught.value}\n"
    golden = path.with_suffix(".expected")
    if os.environ.get("FMTC_REGEN"):
        golden.write_text(report, encoding="utf-8")
    assert report == golden.read_text(encoding="utf-8")


def test_every_code_about_files_has_a_bad_file() -> None:
    reports = "".join(path.with_suffix(".expected").read_text("utf-8") for path in FILES)
    assert [code for code in CODES if code.startswith("E05") and code not in reports] == []
