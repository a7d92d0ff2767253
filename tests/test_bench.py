"""The bench's own logic. No figure is judged here: they are the machine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from fmtc import load
from fmtc.bench import bars, cpu, ggml, ours, overhead, plan, roofs, tables, tasks
from fmtc.bench.library import Share
from fmtc.bench.measure import (
    FEWEST_TURNS,
    MOST_TURNS,
    OURS,
    Contender,
    Result,
    Rows,
    Skipped,
    gather,
    measure,
    take_turns,
)
from fmtc.bench.peers import PEERS
from fmtc.bench.work import Peer, Work
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.compile_cache import find_compiler


@pytest.fixture
def compiler() -> None:
    try:
        find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))


def counting(name: str, calls: list[str], elements: int = 10) -> Contender:
    return Contender(name, elements, lambda: calls.append(name))


# Turns


def test_contenders_take_turns_after_a_call_that_does_not_count() -> None:
    calls: list[str] = []
    speeds = take_turns([counting(name, calls) for name in "abc"], seconds=0)
    assert "".join(calls) == "abc" * (1 + FEWEST_TURNS)
    assert all(isinstance(speed, float) and speed > 0 for speed in speeds.values())


def test_patience_gives_more_turns_but_not_without_end() -> None:
    calls: list[str] = []
    take_turns([counting("a", calls)], seconds=60)
    assert len(calls) == 1 + MOST_TURNS


def test_on_one_thread_waiting_does_not_count_and_on_two_it_does() -> None:
    wall = 1000 / 0.02 / 1e6
    sleeper = [Contender("sleeper", 1000, lambda: time.sleep(0.02))]
    assert take_turns(sleeper, 0, threads=1)["sleeper"] > wall
    assert take_turns(sleeper, 0, threads=2)["sleeper"] <= wall


def test_a_contender_that_fails_says_why_and_the_others_go_on() -> None:
    def fail() -> None:
        raise NotImplementedError("no kernel\nand a long list of places")

    calls: list[str] = []
    speeds = take_turns([Contender("broken", 1, fail), counting("fine", calls)], seconds=0)
    assert speeds["broken"] == "NotImplementedError: no kernel"
    assert isinstance(speeds["fine"], float)


def test_a_ratio_is_the_leader_over_the_other() -> None:
    group = [counting(OURS, []), counting("other", [], elements=1), Skipped("absent", "no wheel")]
    lead, other, absent = measure("decode", "nvfp4", group, threads=1, seconds=0)
    assert (lead.contender, lead.fmtc_over_this) == (OURS, 1.0)
    assert other.melem_per_s
    assert other.fmtc_over_this
    assert absent.skipped == "no wheel"
    assert absent.melem_per_s is None


def test_without_a_leader_there_are_speeds_and_no_ratios() -> None:
    group = [Skipped(OURS, "not built"), counting("other", [])]
    ours_result, other = measure("multiply", "nvfp4", group, threads=1, seconds=0)
    assert ours_result.skipped == "not built"
    assert other.melem_per_s
    assert other.fmtc_over_this is None


def test_what_a_peer_gave_before_it_failed_is_kept() -> None:
    def contenders() -> Iterator[Contender]:
        yield counting("first", [])
        raise ImportError("no second")

    first, second = gather("peer", contenders)
    assert first.name == "first"
    assert second == Skipped("peer", "ImportError: no second")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("rows", "multiple"), [(1, 1), (7, 1), (64, 8), (65, 8), (3, 8)])
def test_threads_share_rows_without_gap_or_overlap(threads: int, rows: int, multiple: int) -> None:
    parts: list[tuple[int, int]] = []
    Rows(threads)(lambda a, b: parts.append((a, b)), rows, multiple)
    covered = sorted(i for a, b in parts for i in range(a, b))
    assert covered == list(range(rows))
    assert all(a % multiple == 0 for a, b in parts if a < b)


# Roofs


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [64, 8192, 64 * 1001])
def test_roofs_fill_every_byte(threads: int, size: int) -> None:
    out, data = roofs.aligned(size), roofs.aligned(size // 8 + 5)
    assert out.ctypes.data % roofs.LINE == 0
    for run in (lambda: roofs.fill(out, Rows(threads)), lambda: both(data, out, threads)):
        out[:] = 0
        run()
        assert (out != 0).reshape(-1, 4).any(axis=1).all()


def both(data: roofs.U8, out: roofs.U8, threads: int) -> None:
    roofs.read_and_fill(data, out, Rows(threads))


@pytest.mark.usefixtures("compiler")
def test_a_read_sees_every_word() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 63, 1001, dtype=np.uint64)
    found = roofs._library().roof_read(words.ctypes.data, words.nbytes)
    assert found == int(np.bitwise_xor.reduce(words))


@pytest.mark.usefixtures("compiler")
def test_copies_are_whole() -> None:
    data = np.random.default_rng(0).integers(0, 255, 1000, dtype=np.uint8)
    out = np.zeros_like(data)
    roofs.copy(data, out, Rows(2))
    assert (out == data).all()


@pytest.mark.usefixtures("compiler")
def test_every_roof_has_a_speed() -> None:
    speeds = roofs.gigabytes_per_second(1 << 20, Rows(1), 0.001)
    assert set(speeds) == {"fill", "read", "memcpy"}
    assert min(speeds.values()) > 0


# ggml


@pytest.mark.parametrize("kind", ["q4_0", "iq4_nl", "mxfp4"])
def test_rows_are_repacked_in_the_order_of_ggml(kind: str) -> None:
    of = ggml.KINDS[kind]
    rows, blocks, scale = 16, 3, of.octets - of.block // 2
    packed = np.random.default_rng(1).integers(0, 256, (rows, blocks * of.octets), dtype=np.uint8)
    expected = bytearray()
    for group in range(0, rows, 8):
        for b in range(blocks):
            eight = [packed[group + r, b * of.octets : (b + 1) * of.octets] for r in range(8)]
            for block in eight:
                expected += bytes(block[:scale])
            for turn in range(scale, of.octets, 8):
                for block in eight:
                    expected += bytes(block[turn : turn + 8] ^ (0x88 if kind == "q4_0" else 0))
    assert ggml.repack8(kind, packed).tobytes() == bytes(expected)


def test_ggml_refuses_a_row_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="rows of 100 elements do not divide into ggml's 256"):
        ggml.row_bytes("q4_K", 100)


def test_without_a_compiler_ggml_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ggml.GgmlUnavailable, match="no-such-compiler"):
        ggml.build()


@pytest.mark.usefixtures("compiler")
def test_without_a_network_ggml_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ggml.GgmlUnavailable, match="pip cannot download ggml's source: ERROR"):
        ggml.build()
    assert not list((tmp_path / "bench").iterdir())


@pytest.fixture
def built_ggml() -> None:
    try:
        ggml.library()
    except ggml.GgmlUnavailable as error:
        pytest.skip(f"ggml cannot be built here: {error}")


@pytest.mark.slow
@pytest.mark.usefixtures("built_ggml")
@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "iq4_nl", "mxfp4", "nvfp4", "q4_K", "q6_K"])
def test_the_built_ggml_decodes_like_gguf_py(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    x = np.random.default_rng(2).standard_normal((4, 512), dtype=np.float32)
    packed = np.empty((4, ggml.row_bytes(kind, 512)), np.uint8)
    ggml.quantize(kind, x, packed)
    out = np.empty_like(x)
    ggml.dequantize(kind, packed, out)
    of = gguf.GGMLQuantizationType[kind.upper()]
    assert (out == gguf.quants.dequantize(packed, of)).all()


@pytest.mark.slow
@pytest.mark.usefixtures("built_ggml")
@pytest.mark.parametrize("kind", ["nvfp4", "iq4_nl", "q4_0", "mxfp4", "q8_0"])
def test_the_built_ggml_multiplies(kind: str) -> None:
    x = np.random.default_rng(3).standard_normal((16, 512), dtype=np.float32)
    vector = np.random.default_rng(4).standard_normal(512, dtype=np.float32)
    packed = np.empty((16, ggml.row_bytes(kind, 512)), np.uint8)
    ggml.quantize(kind, x, packed)
    weights = np.empty_like(x)
    ggml.dequantize(kind, packed, weights)
    activations = np.empty(ggml.row_bytes("q8_0", 512), np.uint8)
    ggml.quantize_activations(vector, activations)
    rounded = np.empty_like(vector)
    ggml.dequantize("q8_0", activations, rounded)
    expected = weights.astype(np.float64) @ rounded
    out = np.full(16, np.nan, np.float32)
    Rows(2)(lambda a, b: ggml.dot_rows(f"{kind}_q8_0", packed, activations, out, a, b), 16)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-3)
    if kind in ("iq4_nl", "q4_0", "mxfp4") and ggml.has_repacked():
        eight = ggml.repack8(kind, packed)
        again = np.full(16, np.nan, np.float32)
        Rows(2)(lambda a, b: ggml.multiply_repacked(kind, eight, activations, again, a, b), 16, 8)
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-3)


# Peers and tasks


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_without_its_package_says_so(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"bitsandbytes": "bitsandbytes", "torchao": "torch", "torch": "torch"}
    modules |= {"gguf-py": "gguf", "ml_dtypes": "ml_dtypes"}
    if peer.name == "ggml":
        monkeypatch.setenv("CC", "no-such-compiler")
        ggml.library.cache_clear()
    else:
        monkeypatch.setitem(sys.modules, modules[peer.name], None)
    x = np.ones((8, 256), np.float32)
    reasons = [
        entry.why
        for name in ("nf4", "mxfp4", "mxfp8_e4m3")
        for entry in gather(peer.name, peer.decode, Work(name, x, Rows(1)))
        if isinstance(entry, Skipped)
    ]
    assert reasons
    assert all(": " in why for why in reasons)


def test_a_peer_takes_no_part_where_it_has_no_such_numbers() -> None:
    work = Work("e4m3_row", np.ones((8, 256), np.float32), Rows(1))
    for peer in PEERS:
        assert gather(peer.name, peer.decode, work) == []
        assert gather(peer.name, peer.encode, work) == []


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["nvfp4", "four_six", "q4_0"])
def test_our_contenders_do_the_whole_task(name: str) -> None:
    fmt, x = load(name), tasks.numbers(16, 256)
    packed = ours.Packed(fmt, x, threads=1)
    (encoder,) = ours.encoders(packed)
    streams = encoder.run()
    stored = fmt.quantize(x)
    assert {k: v.tobytes() for k, v in streams.items()} == {
        k: v.tobytes() for k, v in stored.streams.items()
    }
    out = roofs.aligned(4 * x.size)
    (decoder,) = ours.decoders(packed, streams, Work(name, x, Rows(1)), out)
    assert (decoder.run() == stored.dequantize()).all()
    assert decoder.elements == encoder.elements == x.size


def test_numbers_repeat_after_some_rows() -> None:
    x = tasks.numbers(600, 8)
    assert x.shape == (600, 8)
    assert x.dtype == np.float32
    assert (x[256:512] == x[:256]).all()


# Plans, bars and tables


def test_a_plan_survives_its_text() -> None:
    for made in (
        plan.full(1, library=True),
        plan.full(2, library=False),
        plan.quick(1, library=True),
    ):
        assert plan.Plan.from_json(made.to_json()) == made


def test_every_planned_format_is_in_the_library() -> None:
    made = plan.full(1, library=False)
    for name in {*made.decode, *made.bfloat16, *made.encode, *made.multiply}:
        assert load(name).name == name


def some_results() -> list[Result]:
    return [
        Result("decode", "nvfp4", OURS, 1, 950.0, 1.0),
        Result("decode", "nvfp4", roofs.FILL, 1, 1000.0, 0.95),
        Result("decode", "nvfp4", "ggml NVFP4", 1, 100.0, 9.5),
        Result("decode", "nvfp4", "bitsandbytes", 1, skipped="ImportError: no | module"),
        Result("encode", "mxfp4", OURS, 1, 600.0, 1.0),
        Result("multiply", "nvfp4 4096x14336", OURS, 1, skipped="not there"),
        Result("multiply", "nvfp4 4096x14336", "torch.mv fp32", 1, 7000.0),
        Result("decode", "nvfp4", OURS, 2, 1800.0, 1.0),
    ]


def a_report() -> tables.Report:
    costs = [
        overhead.Overhead("quantize 256 elements, mxfp4", 150.0, 1.0, "us"),
        overhead.Overhead("fmtc build po2_nf4, cold", 1.5, None, "s"),
    ]
    shares = [Share("nvfp4", 900.0, 0.9, 100.0, 0.01), Share("odd", skipped="ValueError: why")]
    judged = bars.judge(some_results(), costs, shares)
    machine = {"processor": "one", "cores": "2", "compiler": "cc 1", "python": "3.11", "gguf": "0"}
    speeds = {1: {"fill": 20.0, "read": 30.0}}
    return tables.Report("2026-01-01", machine, speeds, some_results(), costs, shares, judged)


def test_bars_are_met_missed_or_not_measured() -> None:
    verdicts = {(bar.what, bar.bar): (bar.measured, bar.met) for bar in a_report().bars}
    assert verdicts["decode nvfp4", "90% of the non-temporal fill roof"] == ("95%", True)
    assert verdicts["encode mxfp4", "1,200 Melem/s"] == ("600", False)
    assert verdicts["multiply nvfp4 4096x14336", "2.0x torch.mv fp32"] == (None, None)
    assert verdicts["decode nf4", "90% of the non-temporal fill roof"] == (None, None)
    assert verdicts["dearest call", "100 us"] == ("149 us (quantize 256 elements, mxfp4)", False)
    assert verdicts["fmtc build po2_nf4, cold", "2 s"] == ("1.50 s", True)
    assert verdicts["decode of every format of the library (1)", "30% of its roof"] == (
        "90% (nvfp4)",
        True,
    )


def test_markdown_has_whole_tables_and_says_what_was_skipped() -> None:
    text = tables.markdown(a_report())
    assert text.startswith("## CPU, 2026-01-01\n")
    assert "Peers: gguf 0." in text
    assert "* Memory, one thread: fill 20.0 GB/s, read 30.0 GB/s." in text
    assert "| nvfp4 | 950 | 95% non-temporal fill | 9.5x ggml NVFP4 |" in text
    assert "| nvfp4 4096x14336 | skipped |  | torch.mv fp32 (7,000) |" in text
    assert "### Decode to fp32, 2 threads" in text
    assert "* Skipped: bitsandbytes: ImportError: no | module (decode nvfp4)" in text
    widths = {}
    for line in text.splitlines():
        if line.startswith("### "):
            heading = line
        elif line.startswith("|"):
            widths.setdefault(heading, set()).add(line.replace("\\|", "").count("|"))
    assert len(widths) == 7
    assert all(len(width) == 1 for width in widths.values())


def test_a_section_is_replaced_whole_and_nothing_else_is_touched() -> None:
    before = "# Results\n\n## Proofs\n\nproven\n"
    first = tables.replace_section(before, "bench-cpu", "## CPU\n\nold \\1\n")
    assert first.startswith(before)
    text = first + "\n## GPU\n\nnone\n"
    second = tables.replace_section(text, "bench-cpu", "## CPU\n\nnew\n")
    assert second == text.replace("old \\1", "new")
    assert tables.replace_section(second, "bench-cpu", "## CPU\n\nnew\n") == second


def test_the_results_file_has_the_section_that_is_replaced() -> None:
    text = cpu.RESULTS.read_text(encoding="utf-8")
    replaced = tables.replace_section(text, cpu.SECTION, "new")
    assert replaced.index("new\n<!--") < replaced.index("## Model")
    assert replaced.count("<!-- bench-cpu:") == 2


def test_the_arguments_make_the_plans() -> None:
    both_plans = cpu.plans(cpu.arguments(["--threads", "1,2", "--all"]))
    assert [p.threads for p in both_plans] == [1, 2]
    assert [p.library for p in both_plans] == [True, False]
    (one,) = cpu.plans(
        cpu.arguments(["--quick", "--formats", "nf4", "--rows", "16", "--columns", "256"])
    )
    assert one.decode == one.encode == one.multiply == ("nf4",)
    assert one.decoded == one.encoded == (16, 256)
    assert one.shapes == ((16, 256),)


@pytest.mark.usefixtures("compiler")
def test_a_tiny_run_of_one_format_prints_json() -> None:
    pytest.importorskip("torch")
    size = ["--rows", "16", "--columns", "256", "--seconds", "0.001"]
    command = [sys.executable, "-m", "fmtc.bench.cpu", "--quick", "--formats", "nvfp4", "--json"]
    done = subprocess.run(
        [*command, *size],
        env={**os.environ, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {f.name for f in tables.Report.__dataclass_fields__.values()}
    assert said["machine"]["compiler"]
    assert set(said["roofs"]["1"]) == {"fill", "read", "memcpy"}
    results = [Result(**r) for r in said["results"]]
    assert [asdict(r) for r in results] == said["results"]
    groups = {(r.task, r.subject) for r in results}
    assert groups == {
        ("decode", "nvfp4"),
        ("decode bf16", "nvfp4"),
        ("encode", "nvfp4"),
        ("multiply", "nvfp4 16x256"),
        ("multiply int8", "nvfp4 16x256"),
    }
    for r in results:
        assert (r.skipped is None) == (r.melem_per_s is not None)
        assert r.skipped != ""
    assert {r.contender for r in results} >= {OURS, roofs.FILL, roofs.PASS, roofs.READ}
