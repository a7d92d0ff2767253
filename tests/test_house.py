from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import fmtc
import pytest
from fmtc import FormatError, compile_text
from fmtc.compiler.report import CODES
from fmtc.dsl import SYNTAX_CODES

ROOT = Path(fmtc.__file__).parent
FOLDERS = ("dsl", "compiler", "formats", "codegen", "runtime")
#: A module may import from its own rank and from lower ones.
RANK = {folder: rank for rank, folder in enumerate((*FOLDERS, ""))}
#: Root modules that hold plain facts and import nothing.
FACTS = {"_version"}
HEAVY = {"torch", "triton", "transformers", "gguf", "safetensors"}
MODULES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
MODULES += sorted([*ROOT.glob("*.py"), *ROOT.glob("cli/*.py")])
ALL_CODES = SYNTAX_CODES | CODES


def module_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(path: Path) -> set[str]:
    """Dotted names inside the package that a module imports, anywhere in its text."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [a.name.removeprefix("fmtc.") for a in node.names if a.name.startswith("fmtc")]
            found.update(names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            inner = (*base, node.module) if node.module else base
            if inner:
                found.add(".".join(inner))
            else:
                found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fmtc"):
            found.add((node.module or "").removeprefix("fmtc").removeprefix("."))
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_imports_flow_from_left_to_right(path: Path) -> None:
    first = path.relative_to(ROOT).parts[0]
    home = first if first in FOLDERS else ""
    for name in imported_modules(path):
        first = name.split(".")[0]
        if first in FACTS:
            continue
        target = first if first in FOLDERS else ""
        assert RANK[target] <= RANK[home], f"{module_id(path)} imports {name or 'fmtc'}"


def test_the_import_check_sees_imports_inside_functions() -> None:
    assert "runtime.backend" in imported_modules(ROOT / "cli" / "console.py")
    assert "compiler.resolve" in imported_modules(ROOT / "formats" / "__init__.py")
    assert "runtime.quantized" in imported_modules(ROOT / "runtime" / "format.py")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT.parent,
    )


REPORT_MODULES = "sys.stderr.write(' '.join({m.split('.')[0] for m in sys.modules}))"


def test_importing_fmtc_loads_nothing_heavy() -> None:
    done = run_python(f"import sys, fmtc; {REPORT_MODULES}")
    loaded = set(done.stderr.split())
    assert "fmtc" in loaded
    assert not loaded & (HEAVY | {"numpy", "sympy", "lark", "jinja2", "rich", "click"})


@pytest.mark.parametrize(
    ("arguments", "barred"),
    [
        (["--help"], {"numpy", "sympy", "lark", "jinja2", "rich"}),
        (["check", "po2_nf4"], {"rich", "jinja2"}),
        (["check", "--json", "po2_nf4"], {"rich", "jinja2"}),
        (
            ["fmt", "-o", "-", str(ROOT / "formats" / "grid_games" / "po2_nf4.fmt")],
            {"rich", "jinja2"},
        ),
        (["show", "sop_pair"], {"jinja2"}),
        (["show", "sop_pair", "--json"], {"rich", "jinja2"}),
        (["list"], {"jinja2"}),
    ],
    ids=lambda value: "_".join(map(str, value))[:20] if isinstance(value, list) else "",
)
def test_reading_formats_needs_neither_torch_nor_triton(
    arguments: list[str], barred: set[str]
) -> None:
    code = f"import sys\nfrom fmtc.cli import cli\ncli(standalone_mode=False)\n{REPORT_MODULES}"
    done = run_python(code, *arguments)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "fmtc" in loaded
    assert not loaded & (HEAVY | barred)


def test_help_answers_in_less_than_three_tenths_of_a_second() -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = run_python("from fmtc.cli import main; main()", "--help")
        seconds.append(time.perf_counter() - start)
        assert "Usage:" in done.stdout
    assert min(seconds) < 0.3


def test_every_public_name_can_be_fetched() -> None:
    assert set(fmtc.__all__) == {*fmtc._HOMES, "__version__"}
    assert dir(fmtc) == sorted(fmtc.__all__)
    for name in fmtc.__all__:
        assert getattr(fmtc, name) is not None


def test_type_checkers_see_the_same_public_names() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: f".{node.module}"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == fmtc._HOMES


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Fromat'"):
        _ = fmtc.Fromat


def sources() -> list[Path]:
    folders = [ROOT / folder for folder in (*FOLDERS, "tests", "bench")]
    files = [p for folder in folders for p in folder.rglob("*") if "__pycache__" not in p.parts]
    kinds = {".py", ".lark", ".j2", ".fmt"}
    written = [p for p in [*files, *ROOT.glob("*.py")] if p.suffix in kinds]
    return [p for p in written if ROOT / "tests" / "golden" not in p.parents]


def test_no_source_file_is_longer_than_500_lines() -> None:
    lengths = {module_id(p): len(p.read_text(encoding="utf-8").split("\n")) - 1 for p in sources()}
    assert len(lengths) > 60
    assert {name: length for name, length in lengths.items() if length > 500} == {}


@cache
def setuptools_table() -> dict[str, object]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, object] = tomllib.loads(text)["tool"]["setuptools"]
    return table


def packages_of_the_tree() -> dict[str, Path]:
    folders = (*FOLDERS, "cli")
    homes = [ROOT] + [p.parent for folder in folders for p in (ROOT / folder).rglob("__init__.py")]
    return {".".join(("fmtc", *home.relative_to(ROOT).parts)): home for home in homes}


def test_every_package_is_shipped() -> None:
    listed = setuptools_table()["packages"]
    assert isinstance(listed, list)
    assert sorted(listed) == sorted(packages_of_the_tree())


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES}
    assert folders == set(packages_of_the_tree().values())


def test_every_data_file_is_shipped() -> None:
    data = setuptools_table()["package-data"]
    assert isinstance(data, dict)
    packages = packages_of_the_tree()
    shipped = {
        path
        for package, globs in data.items()
        for glob in globs
        for path in packages[package].glob(glob)
        if path.is_file()
    }
    present = {
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert present - shipped == set()
    assert ROOT / "py.typed" in shipped
    for package, globs in data.items():
        for glob in globs:
            assert any(fnmatch(p.name, Path(glob).name) for p in packages[package].glob(glob)), (
                f"'{glob}' of {package} ships nothing"
            )


def rows_of_the_error_index() -> dict[str, tuple[str, str, str]]:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (E\d{4}) \| (.+?) \| `(.+?)` \| (.+?) \|$", text, re.MULTILINE)
    return {code: (meaning, example, mend) for code, meaning, example, mend in rows}


def test_every_error_code_is_explained_in_the_index() -> None:
    rows = rows_of_the_error_index()
    assert {code: row[0] for code, row in rows.items()} == ALL_CODES
    assert all(len(mend) > 15 for _, _, mend in rows.values())


@pytest.mark.parametrize("code", sorted(ALL_CODES))
def test_the_example_of_an_error_code_gives_that_error_alone(code: str) -> None:
    example = rows_of_the_error_index()[code][1]
    if "…" in example:
        example = example.replace("…", "(" * 120 + "16" + ")" * 120)
    with pytest.raises(FormatError) as caught:
        compile_text(example)
    assert [fault.code for fault in caught.value.diagnostics] == [code]


def test_every_error_code_has_a_bad_file_with_its_report() -> None:
    bad = ROOT / "tests" / "bad"
    reported = set()
    for path in bad.glob("*.fmt"):
        expected = path.with_suffix(".expected")
        assert expected.is_file(), f"{path.name} has no report beside it"
        reported.update(
            re.findall(r"^error\[(E\d{4})\]", expected.read_text("utf-8"), re.MULTILINE)
        )
    assert set(ALL_CODES) - reported == set()


def test_a_fault_with_an_unlisted_code_cannot_be_reported() -> None:
    from fmtc.compiler.report import Report
    from fmtc.dsl import NOWHERE

    with pytest.raises(KeyError):
        Report().add("E0999", "no such code", NOWHERE)
