from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import fmtc
import pytest
from commands import GOOD, run, shell
from fmtc import codegen
from fmtc.cli import BACKENDS, TARGETS, cli
from fmtc.compiler.vocabulary import FORMAT_KNOBS
from fmtc.runtime.choose import BACKENDS as RUNTIME_BACKENDS

UNTIDY = "# kept\nformat mine { block 16 grid e2m1 # beside\n scale e4m3 { rule absmax } }\n"


def test_the_vocabularies_of_the_command_line_are_those_of_the_package() -> None:
    assert TARGETS == codegen.TARGETS
    assert set(BACKENDS) == {"auto", *RUNTIME_BACKENDS}


# -- help and version --------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_explains_itself(command: str) -> None:
    for flag in ("--help", "-h"):
        result = run(command, flag)
        assert result.exit_code == 0
        assert result.output.startswith("Usage:")
        assert (cli.commands[command].help or "").split(".")[0].split()[0] in result.output


def test_the_commands_are_those_of_the_documentation() -> None:
    assert sorted(cli.commands) == [
        "analyze", "build", "calibrate", "check", "compare", "convert", "cost", "expect", "export",
        "fmt", "judge", "learn", "list", "new", "prove", "quantize", "report", "rotate", "show",
        "vectors", "verify",
    ]  # fmt: skip


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert fmtc.__version__ in result.output


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["check"], ["show"], ["show", "nf4", "--nosuch"], ["build", "nf4"]]
)
def test_a_wrong_call_is_bad_input(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_the_module_can_be_run() -> None:
    done = shell("fmtc --version")
    assert (done.returncode, done.stderr) == (0, "")


# -- check -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fmtc.names())
def test_check_accepts_every_shipped_format(name: str) -> None:
    by_name, by_path = run("check", name), run("check", fmtc.formats.find(name))
    assert by_name.exit_code == by_path.exit_code == 0
    assert fmtc.load(name).content_hash[:16] in by_name.stdout
    assert by_path.stdout.endswith(by_name.stdout.split(":", 1)[1])


def test_check_reports_every_fault_of_every_file(mine: Path, tmp_path: Path) -> None:
    bad, worse = tmp_path / "bad.fmt", tmp_path / "worse.fmt"
    bad.write_text("format a { blok 16  grid e2m1  scale e4n3 }")
    worse.write_text("format b { block 0  grid nf4  scale e4m3  tie odd }")
    result = run("check", bad, tmp_path / "absent.fmt", mine, worse)
    assert result.exit_code == 2
    codes = re.findall(r"^error\[(E\d{4})\]", result.stderr, re.MULTILINE)
    assert codes == ["E0204", "E0203", "E0302", "E0202", "E0205"]
    assert f"{bad}: 2 faults" in result.stderr
    assert f"{worse}: 3 faults" in result.stderr
    assert "there is no file" in result.stderr
    assert f"--> {worse}:1:18" in result.stderr
    assert result.stdout.startswith(f"{mine}: ok (mine, 4.5 bpw, hash ")


def test_check_gives_faults_as_json(mine: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.fmt"
    bad.write_text("format a {\n  blok 16\n  grid e2m1\n  scale e4m3\n}")
    result = run("check", "--json", bad, mine, tmp_path / "absent.fmt")
    assert result.exit_code == 2
    assert result.stderr == ""
    first, second, third = json.loads(result.stdout)
    assert first == {
        "file": str(bad),
        "ok": False,
        "faults": [
            {
                "code": "E0204",
                "line": 2,
                "column": 3,
                "end_line": 2,
                "end_column": 7,
                "message": "a format has no setting 'blok'",
                "expected": "one of " + ", ".join(FORMAT_KNOBS),
                "hint": "did you mean 'block'?",
            }
        ],
    }
    assert second == {
        "file": str(mine), "ok": True, "name": "mine", "hash": fmtc.load(mine).content_hash,
    }  # fmt: skip
    assert (third["ok"], third["faults"]) == (False, [])
    assert "absent.fmt" in third["error"]


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _: None, "absent.fmt"),
    "folder": (lambda path: path.mkdir(), "folder.fmt"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "is not UTF-8 text"),
    "latin1": (
        lambda path: path.write_bytes(GOOD.replace("own", "öwn").encode("latin-1")),
        "UTF-8",
    ),
    "utf16": (lambda path: path.write_text(GOOD, encoding="utf-16"), "is not UTF-8 text"),
    "huge": (lambda path: path.write_bytes(b"# " * (1 << 20)), "larger than 1 MiB"),
    "empty": (lambda path: path.write_bytes(b""), "there is no format in this file"),
    "zeros": (lambda path: path.write_bytes(bytes(100)), "E0104"),
}


@pytest.mark.parametrize("command", ["check", "fmt", "show", "verify", "compare"])
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_format_is_bad_input(kind: str, command: str, tmp_path: Path) -> None:
    make, words = BAD_FILES[kind]
    path = tmp_path / f"{kind}.fmt"
    make(path)
    result = run(command, path)
    if (command, kind) == ("fmt", "empty"):
        assert (result.exit_code, path.read_bytes()) == (0, b"")
        return
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_a_file_without_permission_is_bad_input(mine: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    mine.chmod(0)
    result = run("check", mine)
    assert result.exit_code == 2
    assert "cannot be read: Permission denied" in result.stderr


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    for command in ("check", "show", "verify", "compare"):
        result = run(command, "po2_nf5")
        assert result.exit_code == 2
        assert "did you mean 'po2_nf4'?" in result.stderr
        assert "fmtc list" in result.stderr


# -- fmt ---------------------------------------------------------------------------------


def test_fmt_rewrites_and_keeps_comments(tmp_path: Path) -> None:
    file = tmp_path / "untidy.fmt"
    file.write_text(UNTIDY)
    file.chmod(0o640)
    before = fmtc.load(file)
    result = run("fmt", file)
    assert (result.exit_code, result.stdout) == (0, f"{file}: rewritten\n")
    text = file.read_text()
    assert text != UNTIDY
    assert "# kept" in text
    assert "# beside" in text
    assert fmtc.load(file) == before
    assert file.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["untidy.fmt"]
    assert run("fmt", file).stdout == ""
    assert file.read_text() == text


def test_fmt_check_changes_nothing(mine: Path, tmp_path: Path) -> None:
    file = tmp_path / "untidy.fmt"
    file.write_text(UNTIDY)
    result = run("fmt", "--check", file, mine)
    assert (result.exit_code, result.stdout) == (1, f"{file}: would be rewritten\n")
    assert file.read_text() == UNTIDY
    assert run("fmt", "--check", mine).exit_code == 0


def test_fmt_can_print_instead(tmp_path: Path) -> None:
    file = tmp_path / "untidy.fmt"
    file.write_text(UNTIDY)
    printed = run("fmt", "-o", "-", file)
    assert printed.exit_code == 0
    assert file.read_text() == UNTIDY
    run("fmt", file)
    assert printed.stdout == file.read_text()


def test_fmt_goes_on_after_a_faulty_file(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.fmt", tmp_path / "good.fmt"
    bad.write_text("format a { block 16; }")
    good.write_text(UNTIDY)
    result = run("fmt", bad, tmp_path / "absent.fmt", good)
    assert result.exit_code == 2
    assert "E0104" in result.stderr
    assert "absent.fmt" in result.stderr
    assert bad.read_text() == "format a { block 16; }"
    assert good.read_text() != UNTIDY


def test_fmt_does_not_lose_a_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "untidy.fmt"
    file.write_text(UNTIDY)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run("fmt", file)
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert file.read_text() == UNTIDY
    assert len(list(tmp_path.iterdir())) == 1


# -- show --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fmtc.names())
def test_show_prints_a_datasheet(name: str) -> None:
    fmt = fmtc.load(name)
    text = run("show", name).stdout
    for part in (fmt.content_hash, fmt.title, f"{fmt.bpw:g} bits per weight", fmt.scale.word.name):
        assert part in text
    for cite in fmt.cites:
        assert cite in text
    for policy in ("tie", "nan", "inf", "scale.rule", "scale.min", "(default)"):
        assert policy in text


@pytest.mark.parametrize("name", fmtc.names())
def test_show_gives_the_datasheet_as_json(name: str) -> None:
    fmt = fmtc.load(name)
    sheet = json.loads(run("show", name, "--json").stdout)
    assert set(sheet) == {
        "name", "title", "use", "check", "cites", "hash", "bpw", "exact_bpw", "extent", "block",
        "tile", "code_bits", "grids", "scale", "zero", "select", "sides", "record", "streams",
        "choices", "hosting", "bounds", "datapath",
    }  # fmt: skip
    assert (sheet["hash"], sheet["bpw"]) == (fmt.content_hash, fmt.bpw)
    table = fmt.decode_table()
    for row, grid in enumerate(sheet["grids"]):
        for entry in grid["codes"]:
            value = table[row, entry["code"]]
            assert entry["value"] == (None if value != value else float(value))
    for choice in sheet["choices"]:
        assert set(choice) == {"knob", "value", "said", "meaning"}


def test_show_takes_a_path_and_says_what_is_said(mine: Path) -> None:
    sheet = json.loads(run("show", mine, "--json").stdout)
    said = {choice["knob"] for choice in sheet["choices"] if choice["said"]}
    assert said == {"block", "scale.rule"}
    assert sheet["name"] == "mine"
    assert "mine: My own" in run("show", mine).stdout


def test_show_as_fmt_prints_a_text_that_means_the_same(mine: Path, tmp_path: Path) -> None:
    for which in ("po2_nf4", "q4_k", "four_six", str(mine)):
        text = run("show", which, "--as", "fmt").stdout
        assert fmtc.compile_text(text) == fmtc.load(which)
    assert run("show", "nf4", "--as", "nosuch").exit_code == 2


def test_show_as_json_is_the_same_as_json() -> None:
    plain = run("show", "nf4", "--as", "json").stdout
    assert plain == run("show", "nf4", "--json").stdout
    assert json.loads(plain)["name"] == "nf4"


def test_a_sop_string_stands_for_a_format(tmp_path: Path) -> None:
    string = "E2M3sUE4M4"
    text = run("show", string, "--as", "fmt").stdout
    file = tmp_path / "same.fmt"
    file.write_text(text)
    assert run("fmt", "--check", file).exit_code == 0
    assert fmtc.load(file) == fmtc.load(string)
    assert run("check", string).stdout.startswith(f"{string}: ok (")
    assert run("build", string, "-o", tmp_path / "out", "--target", "c").exit_code == 0
    assert json.loads(run("compare", string, "mxfp4", "--json").stdout)[0]["bpw"] > 6.5


def test_show_as_fmt_needs_none_of_the_files_that_the_format_names(tmp_path: Path) -> None:
    (tmp_path / "levels.fmt").write_text("atom mine = codebook 2 { -1, 0, 0.5, 1 }\n")
    (tmp_path / "base.fmt").write_text(
        'import "levels.fmt"\nformat base { block 8 grid mine scale e4m3 }\n'
    )
    file = tmp_path / "v.fmt"
    file.write_text('format v "Mine" extends "base.fmt" { block 16 }\n')
    text = run("show", file, "--as", "fmt").stdout
    assert text.startswith("atom mine = codebook 2")
    alone = tmp_path / "alone" / "v.fmt"
    alone.parent.mkdir()
    alone.write_text(text)
    assert fmtc.load(alone) == fmtc.load(file)
    assert run("fmt", "--check", alone).exit_code == 0


def test_show_prints_what_stands_beside_the_codes() -> None:
    text = run("show", "q4_k").stdout
    assert "of which is stored: 6-bit codes, 16-bit fp16 scale a block of 8" in text
    assert "zero minimum: 6-bit codes" in text
    assert "records of 256 elements: scales.scales, zeros.scales" in text
    sheet = json.loads(run("show", "q4_k", "--json").stdout)
    assert [stream["name"] for stream in sheet["streams"]] == [
        "codes", "scales.codes", "scales.scales", "zeros.codes", "zeros.scales",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["fmtc show po2_nf4", "fmtc show po2_nf4 --json", "fmtc list --group fp8 --no-mse"]
)
def test_a_reader_that_stops_early_hears_no_complaint(line: str) -> None:
    for _ in range(3):
        done = shell(f"{line} | head -1")
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_title_that_the_terminal_cannot_show_is_no_crash(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "wide.fmt"
    file.write_text(GOOD.replace("My own", "日本 café"), encoding="utf-8")
    for line in (f"fmtc show {file}", f"fmtc check {file} absent.fmt", f"fmtc show {file} --json"):
        done = shell(line, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C")
        assert done.returncode in (0, 2)
        assert "Traceback" not in done.stderr


# -- build -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_build_writes_what_the_generator_emits(target: str, tmp_path: Path) -> None:
    result = run("build", "mxfp4", "-o", tmp_path / "out", "--target", target, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    fmt = fmtc.load("mxfp4")
    emitted = codegen.emit(fmt, target)
    assert emitted
    assert {row["file"] for row in rows} == {
        str(tmp_path / "out" / target / name) for name in emitted
    }
    for row in rows:
        data = Path(row["file"]).read_bytes()
        assert set(row) == {"target", "file", "bytes"}
        assert row["bytes"] == len(data)
        assert (
            data.decode() == emitted[str(Path(row["file"]).relative_to(tmp_path / "out" / target))]
        )
    assert any(fmt.content_hash in text for text in emitted.values())
    assert fmtc.load(tmp_path / "out" / "mxfp4.fmt") == fmt


def test_build_makes_every_target_unless_told_otherwise(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    result = run("build", mine, "-o", out)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {*TARGETS, "mine.fmt"}
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert run("build", mine, "-o", out).exit_code == 0
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("targets", ["cuda", "c,cuda", "", ",", "c,"])
def test_build_refuses_an_unknown_target_and_writes_nothing(targets: str, tmp_path: Path) -> None:
    result = run("build", "nf4", "-o", tmp_path / "out", "--target", targets)
    assert result.exit_code == 2
    assert "is none of c, triton, verilog, vectors" in result.stderr
    assert not (tmp_path / "out").exists()


def test_build_takes_a_list_of_targets_with_blanks(tmp_path: Path) -> None:
    result = run("build", "nf4", "-o", tmp_path / "out", "--target", "c, vectors,c")
    assert result.exit_code == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"c", "vectors", "nf4.fmt"}
    assert result.stderr == ""


def test_build_into_a_place_that_is_a_file_is_bad_input(mine: Path) -> None:
    result = run("build", "nf4", "-o", mine, "--target", "c")
    assert result.exit_code == 2
    assert "error:" in result.stderr
    assert mine.read_text() == GOOD
