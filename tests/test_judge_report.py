from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from commands import run
from fmtc import CorruptFile
from fmtc.runtime.calibration.texts import text_hash
from fmtc.runtime.checkpoint import Checkpoint
from fmtc.runtime.judge import drawings, judge, read_judgement, run_folder
from fmtc.runtime.judge.report import gather, units_of, write_report
from fmtc.runtime.sources import open_source
from judge_tools import quantized
from safetensors.torch import save_file

HOSTILE = "<script>alert(1)</script>&\"'"
VOID = {"meta", "link", "br", "hr", "img", "input", "use", "path"}


class Page(HTMLParser):
    """A page's tags, checked for balance, with what they refer to and what they say."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}
        self.references += [str(value) for key, value in attrs if key in named]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def model(tmp_path: Path) -> Path:
    maker = torch.Generator().manual_seed(1)
    tensors = {"model.embed_tokens.weight": torch.randn(16, 32, generator=maker)}
    for layer in (0, 1, 10):
        for kind in ("up", "down"):
            name = f"model.layers.{layer}.mlp.{kind}_proj.weight"
            tensors[name] = torch.randn(32, 32, generator=maker)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def out(model: Path, tmp_path: Path) -> Path:
    plan = {"recipe": {"name": "mine", "bpw": "47/10"}, "calibration": {"tokens": 8192}}
    return quantized(model, tmp_path / "out", plan=plan)


def log(out: Path, model: Path, **changes: object) -> None:
    """What a run writes: a line for each unit, and one for each task."""
    judged = judge(out, model)
    folder = run_folder(out)
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "unit": m.name,
            "members": [m.name],
            "elements": m.errors.elements,
            "choice": "base.OPQ" if "down" in m.name else "base",
            "atoms": None,
            "bpw": 4.6,
            "acos": m.errors.acos,
            "mse": m.errors.mse,
            "nmse": m.errors.nmse,
            "wmse": m.errors.wmse,
            "seconds": 0.5,
            "peak_bytes": 1 << 20,
            "worker": "here:1",
            **changes,
        }
        for m in judged.matrices
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "log.jsonl").write_text(text + '{"unit": "half a li')
    tasks = [
        {"task": f"{stage}-{i}", "unit": line["unit"], "seconds": 1.5, "peak_bytes": 2 << 20}
        for stage in ("profile", "pack")
        for i, line in enumerate(lines)
    ]
    said = [*tasks, {"stage": "profile", "seconds": 125.0}]
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in said))


def page_of(out: Path) -> tuple[str, Page]:
    text = write_report(out).read_text(encoding="utf-8")
    return text, Page(text)


def check_offline(text: str, page: Page) -> None:
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert "url(http" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    for anchor in {r[1:] for r in page.references}:
        assert f'id="{anchor}"' in text


# -- what it shows -----------------------------------------------------------------------


def test_a_page_shows_the_plan_the_errors_the_run_and_the_judgement(model: Path, out: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    log(out, model)
    text, page = page_of(out)
    check_offline(text, page)
    assert page.tags.count("svg") == 4
    checkpoint = Checkpoint(out)
    judged = read_judgement(out)
    assert judged is not None
    for words in (
        f"{judged.bpw:.4f}",
        "of a budget of 4.7",
        "base.OPQ",
        "2 min 5 s",
        "3.00",  # seconds of both tasks of a unit
        "2.0 MiB",
        checkpoint.manifest_hash,
        judged.subject.reference,
        "All 6 units have on disk the errors that they were packed with.",
        "format nvfp4",
        "recipe: bpw",
    ):
        assert words in page.text, words
    for name in checkpoint.quantized_names:
        assert name in page.text
    assert "There is no log" not in page.text
    assert "There is no judgement" not in page.text


def test_units_come_in_the_order_of_layers_with_the_errors_of_the_written_file(
    model: Path, out: Path
) -> None:
    log(out, model, nmse=0.5, acos=0.5)
    units = units_of(gather(out))
    layers = [int(re.findall(r"\d+", unit["name"])[0]) for unit in units]
    assert layers == [0, 0, 1, 1, 10, 10]
    judged = read_judgement(out)
    assert judged is not None
    errors = {m.name: m.errors for m in judged.matrices}
    for unit in units:
        assert unit["nmse"] == errors[unit["name"]].nmse
        assert unit["bpw"] == 8 * Checkpoint(out).octets(unit["name"]) / unit["elements"]
    assert "other errors than the run packed" in page_of(out)[1].text


def test_fused_matrices_are_one_unit(model: Path, out: Path) -> None:
    log(out, model)
    path = run_folder(out) / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
    members = [m for line in lines[:2] for m in line["members"]]
    fused = {**lines[0], "unit": "both", "members": members, "elements": 2048}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (fused, *lines[2:])))
    units = {unit["name"]: unit for unit in units_of(gather(out))}
    assert len(units) == 5
    assert units["both"]["elements"] == 2048
    judged = read_judgement(out)
    assert judged is not None
    errors = {m.name: m.errors for m in judged.matrices}
    assert units["both"]["nmse"] == (errors[members[0]] + errors[members[1]]).nmse


# -- what is missing ---------------------------------------------------------------------


def test_a_page_is_made_of_a_checkpoint_alone_and_says_what_is_missing(out: Path) -> None:
    text, page = page_of(out)
    check_offline(text, page)
    assert "There is no log of a run" in page.text
    assert "There is no judgement: `fmtc judge OUT --reference MODEL`" in page.text
    assert f"{8 * Checkpoint(out).disk_bytes / (6 * 1024):.4f}" in page.text
    assert "nvfp4" in page.text


def test_a_judgement_of_an_earlier_checkpoint_is_left_out(model: Path, out: Path) -> None:
    log(out, model)
    quantized(model, out, "nf4")
    _, page = page_of(out)
    assert "of an earlier checkpoint and is left out" in page.text
    assert gather(out).judgement is None


def test_a_damaged_judgement_is_named(model: Path, out: Path) -> None:
    log(out, model)
    (run_folder(out) / "judge.json").write_text("{")
    _, page = page_of(out)
    assert "The judgement cannot be read" in page.text
    assert "base.OPQ" in page.text


def test_without_the_drawing_library_there_are_no_plots(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(out, model)

    def absent(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(drawings, "import_module", absent)
    text, page = page_of(out)
    check_offline(text, page)
    assert "svg" not in page.tags
    assert "pip install 'fmtc[plot]'" in page.text


def test_what_is_no_checkpoint_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="no fmtc checkpoint"):
        write_report(tmp_path)
    assert run("report", tmp_path).exit_code == 2
    assert not run_folder(tmp_path).exists()


# -- what must not get through -----------------------------------------------------------


def test_names_and_texts_of_others_are_shown_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.safetensors"
    names = [f"layers.{i}.{HOSTILE}.weight" for i in range(2)]
    save_file({name: torch.randn(16, 32) for name in names}, model)
    plan = {"recipe": {HOSTILE: HOSTILE}, "calibration": {"text_sha256": text_hash(HOSTILE)}}
    fmt = tmp_path / "bad.fmt"
    fmt.write_text(
        'format bad "</pre><script>alert(1)</script>" {\n'
        "  block 16\n  grid  e2m1\n  scale e4m3 { rule absmax }\n}\n"
    )
    out = quantized(model, tmp_path / "<b>out", str(fmt), plan)
    log(out, model, choice=HOSTILE, atoms=[HOSTILE, "-x"], worker=HOSTILE)
    path = run_folder(out) / "judge.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "text": HOSTILE, "notes": [HOSTILE]}))
    text, page = page_of(out)
    check_offline(text, page)
    assert text.count("<script>") == 1
    assert "alert(1)</script>" not in text
    assert HOSTILE in page.text
    assert "</pre><script>alert(1)</script>" in page.text
    assert set(open_source(model).linear_names) == set(names)


def test_the_command_says_where_the_page_is(out: Path) -> None:
    result = run("report", out)
    assert result.exit_code == 0
    path = Path(result.stdout.strip())
    assert path == run_folder(out) / "report.html"
    assert path.read_text().startswith("<!doctype html>")
