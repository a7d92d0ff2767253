from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import fmtc
import pytest
import torch
from commands import run
from fmtc import CorruptFile, UnknownFormat
from fmtc.runtime.checkpoint import Checkpoint
from fmtc.runtime.judge import Judgement, Reference, read_judgement, run_folder
from fmtc.runtime.judge import compare as comparing
from fmtc.runtime.judge.compare import Comparison, compare_on_model, error_of, pareto_front
from fmtc.runtime.judge.drawings import draw_comparison
from fmtc.runtime.judge.outputs import Outputs, Window
from judge_tools import quantized
from model_tools import TEXT, tiny_llama

SMALL = {"context": 32, "tokens": 400}
NAMES = ("mxfp4", "e2m3_ue4m4", "nvfp4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("compared") / "model", layers=1)


@pytest.fixture(scope="module")
def out(model: Path) -> Path:
    return quantized(model, model.parent / "mine", "nf4")


@pytest.fixture(scope="module")
def work(model: Path) -> Path:
    return model.parent / "work"


@pytest.fixture(scope="module")
def found(model: Path, out: Path, work: Path) -> Comparison:
    with Reference(model, TEXT, room=work, **SMALL) as reference:
        return compare_on_model([out, *NAMES], reference, work=work)


def judgement(bpw: float, kl: float, windows: int = 4) -> Judgement:
    """A judgement of made-up figures."""
    from fmtc.runtime.grids.metrics import Errors
    from fmtc.runtime.judge.errors import Matrix
    from fmtc.runtime.judge.judgement import Subject

    errors = Errors(1000, kl, 1.0, kl, 1.0, 10, 9.0)
    seen = tuple(Window(1.0, 1.0 + kl, kl + 0.01 * i, 1 - kl, 0.9) for i in range(windows))
    matrices = (Matrix("a", "f", "0", 500, errors), Matrix("b", "f", "0", 500, errors))
    size = round(bpw * 2000 / 8)
    return Judgement(
        Subject("c", "r", "t", 8, 32), "x", "/m", "text", size, matrices, Outputs(8, seen)
    )


# -- what is compared --------------------------------------------------------------------


def test_formats_and_checkpoints_are_judged_alike(
    model: Path, out: Path, found: Comparison
) -> None:
    assert found.labels == ("mine", *NAMES)
    assert found.with_outputs
    assert found.judgements[0] == read_judgement(out)
    kl = {
        label: j.figures["kl"].value
        for label, j in zip(found.labels, found.judgements, strict=True)
    }
    assert kl["e2m3_ue4m4"] < kl["mine"] < kl["mxfp4"]
    assert kl["e2m3_ue4m4"] < kl["nvfp4"] < kl["mxfp4"]


def test_checkpoints_of_formats_are_kept_and_found_again(
    model: Path, work: Path, found: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {p.name: p for p in work.iterdir() if not p.name.endswith(".run")}
    assert sorted(name.rpartition("-")[0] for name in made) == sorted(NAMES)
    assert all(len(Checkpoint(p).quantized_names) == 7 for p in made.values())
    monkeypatch.setattr(comparing, "write_checkpoint", pytest.fail)
    with Reference(model, TEXT, **SMALL) as reference:
        again = compare_on_model(NAMES, reference, work=work)
    assert again.judgements == found.judgements[1:]


def test_without_a_place_to_keep_them_nothing_is_left(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing.tempfile, "tempdir", str(tmp_path))
    with Reference(model / "model.safetensors") as reference:
        compared = compare_on_model(["nf4", "nf4"], reference)
    assert compared.labels == ("nf4", "nf4 (2)")
    assert compared.judgements[0].errors == compared.judgements[1].errors
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_resolved_where_the_text_tells_two_apart(found: Comparison) -> None:
    order = {label: place for place, label in enumerate(found.labels)}
    better = found.difference(order["e2m3_ue4m4"], order["mxfp4"])
    assert (better.one, better.other) == ("e2m3_ue4m4", "mxfp4")
    assert better.figures["kl"].resolved
    assert better.figures["kl"].value < 0
    assert better.figures["ear"].resolved
    assert better.figures["ear"].value > 0
    same = found.difference(0, 0)
    assert all(d.values() == [0.0, 0.0, 0.0] for d in same.figures.values())
    assert not any(d.resolved for d in same.figures.values())


def test_pairing_by_window_sees_what_intervals_side_by_side_do_not() -> None:
    hard = [0.1, 0.5, 0.2, 0.8, 0.3]
    one, other = (
        replace(
            judgement(4.0, 0.1),
            outputs=Outputs(8, tuple(Window(1, 2, h + d, 0.9, 1) for h in hard)),
        )
        for d in (0.0, 0.01)
    )
    a, b = one.figures["kl"], other.figures["kl"]
    assert a.high > b.low
    paired = Comparison(("one", "other"), (one, other)).difference(1, 0).figures["kl"]
    assert paired.value == pytest.approx(0.01)
    assert paired.resolved


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(4.0, 1.0), (5.0, 0.5), (4.5, 1.2)], (True, True, False)),
        ([(4.0, 1.0), (4.0, 1.0)], (True, True)),
        ([(4.0, 1.0), (4.0, 0.9), (3.0, 1.0)], (False, True, True)),
        ([], ()),
    ],
)
def test_the_pareto_front(points: list[tuple[float, float]], front: tuple[bool, ...]) -> None:
    assert pareto_front(points) == front


def test_every_point_off_the_front_is_beaten_by_one_on_it() -> None:
    points = [(float(x), float(20 - 4 * x + (3 * y) % 4)) for x, y in product(range(5), range(4))]
    front = pareto_front(points)
    on = [p for p, is_on in zip(points, front, strict=True) if is_on]
    assert 1 < len(set(on)) < len(set(points))
    for point, is_on in zip(points, front, strict=True):
        beaten = any(o[0] <= point[0] and o[1] <= point[1] and o != point for o in on)
        assert beaten is not is_on


def test_an_error_is_less_where_a_figure_is_better() -> None:
    judged = judgement(4.5, 0.1)
    ear = error_of(judged, "1 - ear")
    assert ear.value == pytest.approx(0.1)
    assert ear.low <= ear.value <= ear.high
    assert error_of(judged, "kl") == judged.figures["kl"]
    assert error_of(judged, "1 - acos").value == pytest.approx(0.1)


def test_what_is_neither_checkpoint_nor_format_is_refused(model: Path, tmp_path: Path) -> None:
    with Reference(model / "model.safetensors") as reference:
        with pytest.raises(UnknownFormat):
            compare_on_model(["nf55"], reference)
        with pytest.raises(CorruptFile, match="no fmtc checkpoint"):
            compare_on_model([tmp_path], reference)


def test_the_same_norms_weigh_in_all(model: Path, tmp_path: Path) -> None:
    from fmtc.runtime.calibration import Calibration
    from fmtc.runtime.sources import open_source

    source = open_source(model)
    norms = {n: torch.rand(source.shape(n)[1]) for n in source.linear_names}
    folders = [quantized(model, tmp_path / name, "nf4") for name in ("one", "two")]
    calibration = Calibration(norms, {}, 8, 8, "0" * 64)
    run_folder(folders[1]).mkdir()
    calibration.save(run_folder(folders[1]) / "calibration.safetensors")
    with Reference(model / "model.safetensors") as reference:
        compared = compare_on_model([*folders, "nf4"], reference)
    assert {j.subject.norms for j in compared.judgements} == {calibration.fingerprint}
    one, two, three = (j.figures["wmse"] for j in compared.judgements)
    assert one == two == three
    assert one.value != compared.judgements[0].figures["nmse"].value


@pytest.mark.slow
def test_a_recipe_is_carried_out_and_judged(model: Path, tmp_path: Path) -> None:
    recipe = "NF4|DD4^16sUE4M3.OPQ"
    with Reference(model, TEXT, room=tmp_path, **SMALL) as reference:
        compared = compare_on_model(["nf4", recipe], reference, work=tmp_path)
    assert compared.labels == ("nf4", recipe)
    plain, found = (j.figures["nmse"].value for j in compared.judgements)
    assert found < plain


# -- drawings ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_comparison_gives_the_same_drawing(
    kind: str, found: Comparison, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    one, other = tmp_path / f"one.{kind}", tmp_path / f"other.{kind}"
    draw_comparison(found, one)
    draw_comparison(found, other)
    assert one.read_bytes() == other.read_bytes()
    if kind == "png":
        assert one.read_bytes().startswith(b"\x89PNG")
        return
    text = "".join(ElementTree.fromstring(one.read_text()).itertext())
    for words in (*found.labels, "KL divergence", "stored bits per weight", "NMSE of the weights"):
        assert words in text


def test_a_drawing_of_weights_alone_has_their_errors(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    judged = tuple(replace(judgement(b, 1 / b), outputs=None) for b in (3, 4, 5))
    draw_comparison(Comparison(("a$b", "<b>", "c"), judged), tmp_path / "x.svg")
    text = "".join(ElementTree.fromstring((tmp_path / "x.svg").read_text()).itertext())
    assert "NMSE" in text
    assert "KL" not in text
    assert "a$b" in text
    assert "<b>" in text


# -- fmtc compare ------------------------------------------------------------------------


def test_the_command_shows_figures_differences_and_what_is_resolved(
    model: Path, out: Path, work: Path, found: Comparison, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    line = ["compare", out, *NAMES, "--reference", model, "--work", work]
    options = ["--text", tmp_path / "text.txt", "--context", "32", "--tokens", "400"]
    shown = run(*line, *options)
    assert shown.exit_code == 0, shown.output
    for words in ("mine", *NAMES, "ppl", "KL", "EAR", "ACos", "Pareto", "minus mine, paired"):
        assert words in shown.stdout
    values = json.loads(run(*line, *options, "--json").stdout)
    assert [row["name"] for row in values["rows"]] == list(found.labels)
    assert values["rows"][0]["kl"] == found.judgements[0].figures["kl"].values()
    assert len(values["differences"]) == 6
    first = values["differences"][0]
    assert (first["one"], first["other"]) == ("mine", "mxfp4")
    assert first["resolved"]["kl"] is found.difference(0, 1).figures["kl"].resolved
    assert [row["pareto"] for row in values["rows"]] == list(found.pareto())


def test_the_command_compares_weights_where_no_model_can_be_run(
    model: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "error.svg"
    line = ["compare", "nf4", "mxfp4", "--reference", model / "model.safetensors"]
    result = run(*line, "--plot", plot)
    assert result.exit_code == 0
    assert "only weights are compared" in result.stdout
    assert "paired by window" not in result.stdout
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--plot", "x.svg"], "--reference MODEL"),
        (["--plot", "x.gif", "--reference", "model"], "none of .svg, .png"),
        (["--on", "somewhere", "--reference", "model"], "--on is for formats alone"),
        (["--reference", "absent"], "there is no model"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(extra: list[str], words: str) -> None:
    result = run("compare", "nf4", *extra)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_checkpoint_cannot_be_compared_without_its_model(out: Path) -> None:
    result = run("compare", out, "nf4")
    assert result.exit_code == 2
    assert "is a checkpoint: give the model as well" in result.stderr


def test_a_run_folder_lies_beside_the_checkpoint(out: Path) -> None:
    assert run_folder(out) == out.with_name("mine.run")
    assert fmtc.read_checkpoint(out).quantized_names
