"""The GPU bench on a machine without a GPU: runs, processes, goals and tables."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from fmtc.bench import bars  # noqa: E402
from fmtc.bench.gpu import (  # noqa: E402
    __main__,
    goals,
    ours,
    plan,
    products,
    roofs,
    tables,
    worker,
)
from fmtc.bench.gpu.clock import InventedClock  # noqa: E402
from fmtc.bench.gpu.peers import PEERS  # noqa: E402
from fmtc.bench.gpu.results import BASE, Report, Result, Roofs  # noqa: E402
from fmtc.bench.gpu.run import CheckFailed, start  # noqa: E402
from fmtc.formats import load  # noqa: E402
from gpu_bench_stub import PRODUCT, TINY, honest, stub  # noqa: E402


@pytest.fixture(autouse=True)
def no_autotuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMTC_TUNE", "off")


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = stub()
    monkeypatch.setitem(sys.modules, PRODUCT, module)
    return module


# A whole run


def test_a_dry_run_does_every_part(
    product: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.json"
    words = [
        "--dry-run",
        "--json",
        "--log",
        str(log),
        "--formats",
        "po2_nf4,q4_0",
        "--budget",
        "10000",
    ]
    assert __main__.main(words) == 0
    done = capsys.readouterr()
    said = json.loads(done.out)
    assert set(said) == set(Report.__dataclass_fields__)
    assert json.loads(log.read_text("utf-8")) == said
    assert "failed" not in done.err
    assert said["dropped"] == []
    assert said["checked"].keys() == {"po2_nf4", "q4_0"}
    results = [Result(**{**r, "shape": tuple(r["shape"])}) for r in said["results"]]
    timed = {(r.part, r.contender, r.m, r.how) for r in results if r.seconds is not None}
    for name in ("po2_nf4", "q4_0"):
        assert ("encode", f"fmtc {name}", 0, "float32") in timed
        assert {("decode", f"fmtc {name}", 0, dtype) for dtype in ours.DTYPES} <= timed
        assert {("product", f"fmtc {name}", m, "cold") for m in (1, 16, 32)} <= timed
        assert ("product", f"fmtc {name}", 1, "warm") in timed
    assert {("product", who, 1, "cold") for who in (BASE, "cuBLAS fp16")} <= timed
    assert ("product", "fmtc po2_nf4, single", 4, "cold") in timed
    assert ("product", f"fmtc po2_nf4, {products.UNPACKED}", 32, "warm") in timed
    for peer in PEERS:
        assert any(r.contender.startswith(peer.name) for r in results), peer.name
    assert all((r.seconds is None) == (r.skipped is not None) for r in results)
    assert {name for name, _, _ in product.asked} == {"fast"}


def test_a_wrong_kernel_stops_the_run_before_anything_is_timed(
    product: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    product.of = lambda weights, x, arithmetic: honest(weights, x, arithmetic) * 1.01
    assert __main__.main(["--dry-run", "--formats", "nvfp4"]) == 1
    said = capsys.readouterr().out
    first = "wrong: nvfp4 [64, 256]: product of 1 rows of float16 in half, fast: "
    assert said.startswith(first)
    assert all(text.startswith("wrong: nvfp4 ") for text in said.splitlines())


def test_without_a_gpu_it_says_so_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert __main__.main([]) == 0
    assert capsys.readouterr().out == "skipped: no CUDA device\n"


def test_a_part_that_fails_leaves_the_others(
    product: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(roofs, "measure", broken)
    monkeypatch.setattr(ours, "tall_weights", broken)
    tiny = replace(TINY.only(("nvfp4",)), coded=(), peers=False)
    lines: list[str] = []
    report = start(tiny, InventedClock(), lines.append).run()
    assert report.roofs is None
    assert "roofs failed: RuntimeError: out of memory" in report.dropped
    skipped = {r.skipped for r in report.results if r.contender == "fmtc nvfp4"}
    assert skipped == {"RuntimeError: out of memory"}
    assert any(r.contender == BASE and r.seconds for r in report.results)
    assert tables.markdown(report)


def test_what_does_not_fit_the_budget_is_named(product: types.ModuleType) -> None:
    tiny = replace(TINY.only(("nvfp4",)), budget=1e-9, peers=False)
    report = start(tiny, InventedClock(), lambda _: None).run()
    assert "encode and decode of nvfp4" in report.dropped
    assert "fmtc nvfp4 96x128 M=1 auto" in report.dropped
    assert not any(r.contender == "fmtc nvfp4" for r in report.results)


def test_a_check_in_a_process_of_its_own_that_fails_stops_the_run(
    product: types.ModuleType,
) -> None:
    low = replace(TINY.only(("nvfp4",)), processes=1, check_shapes=((1, 64),))
    bench = start(low, InventedClock(), lambda _: None)
    with pytest.raises(CheckFailed, match=r"nvfp4 .1, 64.: IndexError: index 2 is out of bounds"):
        bench.run()


def test_a_format_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--dry-run", "--formats", "nvfp4,nonsuch"]) == 2
    assert "nonsuch" in capsys.readouterr().err


# Processes


def results_of(code: str, seconds: float = 30) -> list[dict[str, object]]:
    return list(worker.follow([sys.executable, "-c", code], seconds))


def test_results_come_from_marked_lines_alone() -> None:
    code = f"""print("a library says hello"); print('{worker.MARK}{{"m": 1}}')"""
    assert results_of(code) == [{"m": 1}]


def test_a_process_that_hangs_is_ended_and_what_it_found_is_kept() -> None:
    code = f"""
import time
print('{worker.MARK}{{"m": 1}}', flush=True)
time.sleep(60)
"""
    assert results_of(code, 1.0) == [{"m": 1}, {"failed": "not done after 1 s"}]


def test_a_process_that_crashes_says_its_last_words() -> None:
    found = results_of("import sys; print('illegal address'); sys.exit(3)")
    assert found == [{"failed": "exit status 3: illegal address"}]


@pytest.mark.parametrize("made", [plan.Plan(), plan.quick(), plan.dry()])
def test_a_plan_survives_its_text(made: plan.Plan) -> None:
    assert worker.plan_from_json(json.loads(json.dumps(asdict(made)))) == made


def test_a_worker_does_what_it_is_asked(
    product: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wishes = {"plan": asdict(TINY), "name": "mxfp4", "warm": [[[64, 256], 1], [[64, 256], 16]]}
    monkeypatch.setattr(sys, "argv", ["worker", "check", json.dumps(wishes)])
    worker.main()
    lines = capsys.readouterr().out.splitlines()
    said = [json.loads(text.removeprefix(worker.MARK)) for text in lines]
    assert said[0]["checked"] == "mxfp4"
    assert said[0]["count"] >= 9
    assert said[1:] == [{"compiled": f"mxfp4 (64, 256) {m}"} for m in (1, 16)]
    assert ("fast", 16, "auto") in product.asked


# Plans


def test_every_planned_format_is_in_the_library() -> None:
    for name in {*plan.CHECKED, *plan.CODED, *plan.MULTIPLIED}:
        assert load(name).name == name
    assert not any(load(name).sides for name in plan.MULTIPLIED)


def test_what_is_compiled_ahead_is_what_is_timed_first(product: types.ModuleType) -> None:
    bench = start(plan.dry(), InventedClock(), lambda _: None)
    few = bench._to_compile(plan.MULTIPLIED[0])
    assert few[0] == ((96, 128), 1)
    assert {m for _, m in few} == {1, 16, 32}
    assert bench._to_compile(plan.MULTIPLIED[-1]) == [((96, 128), 1)]
    assert bench._to_compile("nf4_dd4_opq_wr") == []


def test_time_that_is_spent_is_gone() -> None:
    now = iter([0.0, 10.0, 60.0])
    budget = plan.Budget(100, clock=lambda: next(now))
    assert budget.allows("first", until=0.5)
    assert not budget.allows("second", until=0.5)
    assert budget.dropped == ["second"]


# Goals and tables


def a_report() -> Report:
    shape = goals.LARGEST
    small = plan.SHAPES[0]
    weight = 132_120_576
    results = [
        Result("encode", "fmtc nvfp4", shape, how="float32", seconds=1e-3, octets=4 * 10**9),
        Result(
            "encode",
            "fmtc po2_nf4",
            shape,
            how="float32",
            seconds=1e-3,
            octets=2 * 10**9,
            hint="why",
        ),
        Result("decode", "fmtc po2_nf4", shape, how="bfloat16", seconds=1e-3, octets=3 * 10**9),
        Result("product", BASE, shape, 1, "cold", 150e-6, 469_762_048),
        Result("product", BASE, shape, 8, "cold", 150e-6, 469_762_048),
        Result("product", BASE, shape, 2048, "cold", 1.5e-3, 469_762_048),
        Result("product", "fmtc po2_nf4", shape, 1, "cold", 45e-6, weight, note="a | b"),
        Result("product", "fmtc po2_nf4", shape, 1, "warm", 44e-6, weight),
        Result("product", "fmtc po2_nf4", shape, 8, "cold", 75e-6, weight),
        Result("product", "fmtc po2_nf4", shape, 2048, "cold", 2e-3, weight, hint="too many"),
        Result("product", "fmtc po2_nf4, single", shape, 1, "cold", 90e-6, weight),
        Result("product", "fmtc nvfp4", small, 1, "cold", 4e-6, 9_437_184),
        Result("product", "GemLite nvfp4", shape, 1, skipped="not installed"),
        Result("product", "GemLite nvfp4", shape, 8, skipped="not installed"),
    ]
    machine = {"device": "one", "torch": "2", "driver": "1"}
    return Report(
        "2026-01-01", machine, Roofs(4500.0, 4200.0), {"nvfp4": 40}, results, ["the rest"]
    )


def test_goals_are_met_missed_or_not_measured() -> None:
    judged = {bar.what: (bar.bar, bar.measured, bar.met) for bar in goals.judge(a_report())}
    assert judged == {
        "encode fmtc nvfp4, float32": ("85% of the copy roof", "95%", True),
        "encode fmtc po2_nf4, float32": ("60% of the copy roof", "48%", False),
        "decode fmtc po2_nf4, bfloat16": ("85% of the copy roof", "71%", False),
        "M=1, fmtc po2_nf4 8192x28672": ("60% of the read roof", "65%", True),
        "M=2048, fmtc po2_nf4 8192x28672": ("85% of cuBLAS bf16", "75%", False),
    }
    (missing,) = goals.judge(Report("", {}))
    assert missing == bars.Bar("M=1, fmtc po2_nf4 8192x28672", "60% of the read roof", None, None)


def test_a_result_is_explained_only_if_it_falls_short() -> None:
    report = a_report()
    asked: list[str] = []

    def explain() -> str:
        asked.append("why")
        return "int"

    short, enough = report.results[1], report.results[0]
    assert goals.explained(short, report.roofs, explain).hint == "int"
    assert goals.explained(enough, report.roofs, explain) is enough
    assert goals.explained(short, None, explain) is short
    assert goals.explained(report.results[3], report.roofs, explain) is report.results[3]
    slow = report.results[9]
    assert goals.explained(slow, report.roofs, explain, report.base(slow)).hint == "int"
    assert goals.explained(slow, report.roofs, explain) is slow
    assert asked == ["why"] * 2


def test_markdown_has_whole_tables_and_says_what_was_skipped_and_dropped() -> None:
    text = tables.markdown(a_report())
    assert text.startswith("## GPU, 2026-01-01\n\n`make bench-gpu`: one; torch 2, driver 1.\n")
    assert "* Memory: read 4,500 GB/s, copy 4,200 GB/s (read and written)." in text
    assert "| fmtc po2_nf4 | 45.00 | 44.00 | 2,936 | 65% | 3.33 | a \\| b |  |\n" in text, text
    assert "| fmtc po2_nf4 | 45.00 (3.33) | 75.00 (2.00) |" in text
    assert "| fmtc po2_nf4 | 2048 | 2,000.00 | 481 | 75% | too many |" in text
    assert "* Skipped: GemLite nvfp4: not installed (8192x28672 M=1, 8192x28672 M=8)." in text
    assert text.endswith("* Dropped, for want of time: the rest.\n")
    widths: dict[str, set[int]] = {}
    for text_line in text.splitlines():
        if text_line.startswith("### "):
            heading = text_line
        elif text_line.startswith("|"):
            widths.setdefault(heading, set()).add(text_line.replace("\\|", "").count("|"))
    assert len(widths) == 6
    assert all(len(width) == 1 for width in widths.values())


def test_tables_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    tables.show(a_report(), Console(width=200))
    drawn = capsys.readouterr().out
    for words in ("memory: read 4,500 GB/s", "Goals", "fmtc po2_nf4, single", "missed", "Dropped"):
        assert words in drawn


def test_a_run_is_written_between_its_markers_and_a_dry_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, product: types.ModuleType
) -> None:
    results = tmp_path / "RESULTS.md"
    text = __main__.RESULTS.read_text("utf-8")
    assert text.count(f"<!-- {__main__.SECTION}: begin -->") == 1
    assert text.count(f"<!-- {__main__.SECTION}: end -->") == 1
    results.write_text(text, "utf-8")
    monkeypatch.setattr(__main__, "RESULTS", results)

    class Bench:
        def run(self) -> Report:
            return a_report()

    monkeypatch.setattr("fmtc.bench.gpu.run.start", lambda *_: Bench())
    monkeypatch.setattr(__main__, "lacking", lambda _: None)
    __main__.main(["--dry-run", "--write"])
    assert results.read_text("utf-8") == text
    assert __main__.main(["--write"]) == 0
    written = results.read_text("utf-8")
    assert "## GPU, 2026-01-01" in written
    assert (
        written.split("<!-- bench-gpu: begin -->")[0] == text.split("<!-- bench-gpu: begin -->")[0]
    )


def test_the_arguments_make_the_plan() -> None:
    made = __main__.plan_of(__main__.arguments(["--quick", "--formats", "nf4", "--no-peers"]))
    assert (made.multiplied, made.peers, made.device) == (("nf4",), False, "cuda")
    assert __main__.plan_of(__main__.arguments(["--budget", "60"])).budget == 60
    assert __main__.plan_of(__main__.arguments([])) == plan.Plan()
    assert __main__.plan_of(__main__.arguments(["--dry-run"])) == plan.dry()


@pytest.mark.slow
def test_a_dry_run_with_the_product_itself(capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec(PRODUCT) is None:
        pytest.skip(f"there is no {PRODUCT}")
    assert __main__.main(["--dry-run", "--json", "--formats", "nvfp4", "--no-peers"]) == 0
    done = capsys.readouterr()
    assert "failed" not in done.err
    results = [r for r in json.loads(done.out)["results"] if r["contender"] == "fmtc nvfp4"]
    assert results
    assert [r["skipped"] for r in results if r["skipped"]] == []
