"""``fmtc list`` and ``fmtc new``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fmtc
import pytest
from commands import run
from fmtc.runtime.gaussian import gaussian_mse

# -- list --------------------------------------------------------------------------------


def test_list_names_every_shipped_format_in_its_group() -> None:
    rows = json.loads(run("list", "--no-mse", "--json").stdout)
    assert [row["name"] for row in rows] == list(fmtc.names())
    for row in rows:
        assert set(row) == {
            "group", "name", "title", "use", "check", "bpw", "block", "grids", "scale", "host",
            "ratio", "mse",
        }  # fmt: skip
        assert row["group"] == fmtc.formats.group_of(row["name"])
        assert row["mse"] is None
    some = next(row for row in rows if row["name"] == "po2_nf4")
    fmt = fmtc.load("po2_nf4")
    assert (some["bpw"], some["title"], some["grids"]) == (fmt.bpw, fmt.title, 2)


def test_list_shows_a_group_under_its_heading_with_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path))
    arguments = ("list", "--group", "grid_games")
    lines = [line.rstrip() for line in run(*arguments).stdout.splitlines() if line.strip()]
    assert lines[0].split() == ["format", "bpw", "MSE", "max/min", "host", "title"]
    assert lines[2].strip() == "grid_games"
    rows = {row["name"]: row for row in json.loads(run(*arguments, "--json").stdout)}
    assert [line.split()[0] for line in lines[3:]] == list(rows)
    for line in lines[3:]:
        name, bpw, mse, ratio, host = line.split()[:5]
        row = rows[name]
        assert float(bpw) == pytest.approx(row["bpw"], rel=1e-3)
        assert float(mse) == pytest.approx(row["mse"], rel=1e-3)
        assert float(ratio) == pytest.approx(row["ratio"], rel=1e-3)
        assert (host, line.endswith(row["title"])) == (row["host"], True)
    assert rows["po2_nf4"]["mse"] == gaussian_mse(fmtc.load("po2_nf4"))


def test_list_knows_its_groups() -> None:
    result = run("list", "--group", "nosuch")
    assert result.exit_code == 2
    assert "grid_games" in result.stderr
    assert run("list", "--group", "atoms").exit_code == 2


# -- new ---------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("template", fmtc.formats.template_titles())
def test_new_writes_a_file_that_compiles(template: str, here: Path) -> None:
    result = run("new", "my_own", "--from", template)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "my_own.fmt: written; next: fmtc check my_own.fmt\n"
    assert [path.name for path in here.iterdir()] == ["my_own.fmt"]
    assert run("check", "my_own.fmt").stdout.startswith("my_own.fmt: ok (my_own, ")
    assert run("fmt", "--check", "my_own.fmt").exit_code == 0
    assert "#" in (here / "my_own.fmt").read_text()


def test_new_starts_from_the_minimal_template() -> None:
    titles = run("new", "--list").stdout
    assert [line.split()[0] for line in titles.splitlines()] == [
        "integer_zero_point", "lut_sop", "minimal", "superblock", "two_grids",
    ]  # fmt: skip
    assert run("new").exit_code == 2
    assert "--list" in run("new").stderr


def test_new_never_overwrites_unless_told_to(here: Path) -> None:
    (here / "mine.fmt").write_text("precious")
    refused = run("new", "mine")
    assert refused.exit_code == 2
    assert "'mine.fmt' is there already; --force writes over it" in refused.stderr
    assert (here / "mine.fmt").read_text() == "precious"
    assert run("new", "mine", "--force").exit_code == 0
    assert fmtc.load("mine.fmt").name == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["../mine"], "a format cannot be called '../mine'"),
        (["mine.fmt"], "a format cannot be called 'mine.fmt'"),
        (["select"], "a format cannot be called 'select'"),
        (["mine", "--from", "nosuch"], "there are integer_zero_point"),
    ],
)
def test_new_refuses_what_it_cannot_write(arguments: list[str], words: str, here: Path) -> None:
    result = run("new", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(here.iterdir()) == []


def test_new_leaves_nothing_behind_when_the_disk_is_full(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run("new", "mine")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert list(here.iterdir()) == []
