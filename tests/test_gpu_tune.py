"""The autotuner: which candidate is taken, and what is remembered, without a GPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fmtc.runtime.gpu import tune
from fmtc.runtime.gpu.tune import Candidate, Memory, NothingRuns, Remembered, TuneKey, choose

KEY = TuneKey("0123abcd", "gemv half", 4096, 14336, 1, "float16", "NVIDIA Test 1", "torch 2")

#: Cheapest first by cost; the fastest of the first four is "c".
CANDIDATES = [
    Candidate(name, {"rows": rows, "kind": "lut"}, cost)
    for name, rows, cost in (
        ("d", 8, 4.0),
        ("a", 1, 1.0),
        ("c", 4, 3.0),
        ("b", 2, 2.0),
        ("e", 9, 9),
    )
]
SECONDS = {"a": 3e-6, "b": 4e-6, "c": 1e-6, "d": 2e-6, "e": 1e-9}


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FMTC_TUNE", raising=False)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(KEY.device, tmp_path)


class Clock:
    """A measure that counts, and raises where it is told to."""

    def __init__(self, seconds: dict[str, float] = SECONDS, broken: tuple[str, ...] = ()) -> None:
        self.seconds, self.broken = seconds, broken
        self.calls: list[str] = []

    def __call__(self, candidate: Candidate) -> float:
        self.calls.append(candidate.name)
        if candidate.name in self.broken:
            raise RuntimeError(f"out of registers in {candidate.name}\nand a long trace")
        return self.seconds[candidate.name]


# Choosing


def test_the_fastest_of_the_cheapest_few_is_taken_and_the_others_are_not_timed(
    memory: Memory,
) -> None:
    clock = Clock()
    assert choose(KEY, CANDIDATES, clock, memory=memory).name == "c"
    assert set(clock.calls) == {"a", "b", "c", "d"}
    assert (
        choose(KEY, CANDIDATES, Clock(), top=2, memory=Memory("x", memory.path.parent)).name == "a"
    )


def test_candidates_take_turns_and_the_median_counts(memory: Memory) -> None:
    takes = {"a": iter([9e-6, 2e-6, 2e-6]), "b": iter([1e-6, 3e-6, 3e-6])}
    calls: list[str] = []

    def measure(candidate: Candidate) -> float:
        calls.append(candidate.name)
        return next(takes[candidate.name])

    assert choose(KEY, CANDIDATES, measure, top=2, memory=memory).name == "a"
    assert calls == ["a", "b"] * tune.TURNS


def test_what_was_timed_is_remembered_by_this_process_and_by_the_next(memory: Memory) -> None:
    choose(KEY, CANDIDATES, Clock(), memory=memory)
    clock = Clock()
    assert choose(KEY, CANDIDATES, clock, memory=memory).name == "c"
    another = Memory(KEY.device, memory.path.parent)
    assert choose(KEY, CANDIDATES, clock, memory=another).name == "c"
    assert choose(KEY, CANDIDATES, None, memory=another).name == "c"
    assert clock.calls == []
    found = another.get(KEY.text)
    assert found == Remembered("c", {"rows": 4, "kind": "lut"}, 1e-6)


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, format="9"),
        replace(KEY, operation="gemm"),
        replace(KEY, rows=1),
        replace(KEY, length=1),
        replace(KEY, m=2),
        replace(KEY, dtype="bfloat16"),
        replace(KEY, versions="torch 3"),
    ],
    ids=lambda key: key.text,
)
def test_another_key_is_another_choice(memory: Memory, other: TuneKey) -> None:
    choose(KEY, CANDIDATES, Clock(), memory=memory)
    clock = Clock()
    choose(other, CANDIDATES, clock, memory=memory)
    assert clock.calls


def test_another_device_has_a_file_of_its_own(tmp_path: Path) -> None:
    names = ["NVIDIA H200", "nvidia h200", "NVIDIA-H200"]
    paths = {Memory(name, tmp_path).path for name in names}
    assert len(paths) == len(names)
    assert all(path.name.startswith("nvidia-h200-") for path in paths)


def test_without_a_measure_the_cheapest_is_taken_and_nothing_remembered(memory: Memory) -> None:
    assert choose(KEY, CANDIDATES, None, memory=memory).name == "a"
    assert memory.get(KEY.text) is None
    assert not memory.path.exists()


def test_a_single_candidate_is_not_timed(memory: Memory) -> None:
    clock = Clock()
    assert choose(KEY, CANDIDATES, clock, top=1, memory=memory).name == "a"
    assert choose(KEY, CANDIDATES[:1], clock, memory=memory).name == "d"
    assert clock.calls == []


def test_a_candidate_that_raises_is_dropped_and_the_reason_kept(memory: Memory) -> None:
    clock = Clock(broken=("c", "a"))
    assert choose(KEY, CANDIDATES, clock, memory=memory).name == "d"
    assert clock.calls.count("c") == 1
    found = Memory(KEY.device, memory.path.parent).get(KEY.text)
    assert found is not None
    assert found.dropped == {
        "a": "RuntimeError: out of registers in a",
        "c": "RuntimeError: out of registers in c",
    }


@pytest.mark.parametrize("took", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_is_none_drops_the_candidate(memory: Memory, took: float) -> None:
    assert choose(KEY, CANDIDATES, Clock(SECONDS | {"c": took}), memory=memory).name == "d"


def test_if_nothing_runs_every_reason_is_said_and_nothing_remembered(memory: Memory) -> None:
    with pytest.raises(NothingRuns) as caught:
        choose(KEY, CANDIDATES, Clock(broken=tuple("abcd")), memory=memory)
    for name in "abcd":
        assert f"{name}: RuntimeError: out of registers in {name}" in str(caught.value)
    assert "NVIDIA Test 1" in str(caught.value)
    assert memory.get(KEY.text) is None


def test_a_remembered_candidate_that_changed_is_timed_again(memory: Memory) -> None:
    choose(KEY, CANDIDATES, Clock(), memory=memory)
    changed = [replace(c, config={"rows": 99}) if c.name == "c" else c for c in CANDIDATES]
    clock = Clock()
    assert choose(KEY, changed, clock, memory=memory).config == {"rows": 99}
    assert clock.calls
    assert choose(KEY, CANDIDATES[:2], Clock(), memory=memory).name == "d"


def test_a_remembered_candidate_beyond_the_cheapest_few_is_taken(memory: Memory) -> None:
    memory.put(KEY.text, Remembered("e", dict(CANDIDATES[-1].config), 1e-6))
    assert choose(KEY, CANDIDATES, Clock(), memory=memory).name == "e"


@pytest.mark.parametrize("candidates", [[], [CANDIDATES[0], CANDIDATES[0]]])
def test_no_candidates_and_equal_names_are_refused(
    memory: Memory, candidates: list[Candidate]
) -> None:
    with pytest.raises(ValueError, match="candidates"):
        choose(KEY, candidates, Clock(), memory=memory)


# The switch


def test_off_times_nothing_and_asks_nothing(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(KEY, CANDIDATES, Clock(), memory=memory)
    monkeypatch.setenv("FMTC_TUNE", "off")
    clock = Clock()
    assert choose(KEY, CANDIDATES, clock, memory=memory).name == "a"
    assert clock.calls == []


def test_again_times_once_more_in_every_process(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(KEY, CANDIDATES, Clock(), memory=memory)
    monkeypatch.setenv("FMTC_TUNE", "again")
    next_process = Memory(KEY.device, memory.path.parent)
    faster = Clock(SECONDS | {"b": 1e-9})
    assert choose(KEY, CANDIDATES, None, memory=next_process).name == "c"
    assert choose(KEY, CANDIDATES, faster, memory=next_process).name == "b"
    asked = len(faster.calls)
    assert choose(KEY, CANDIDATES, faster, memory=next_process).name == "b"
    assert len(faster.calls) == asked


def test_another_word_is_refused(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMTC_TUNE", "yes")
    with pytest.raises(ValueError, match="FMTC_TUNE is 'yes'; it may be on, off, again"):
        choose(KEY, CANDIDATES, None, memory=memory)


# Keys


def test_rows_of_activations_fall_into_buckets() -> None:
    assert [tune.bucket(m) for m in (1, 2, 3, 4, 5, 64, 65, 512, 513)] == [
        *(1, 2, 4, 4, 8, 64, 128, 512, 1024),
    ]
    assert tune.bucket(10**9) == tune.MOST


def test_a_key_names_what_made_the_kernel() -> None:
    key = tune.key_of("abc", "gemv", (64, 256), 3, "float16", "cpu")
    assert (key.rows, key.length, key.m) == (64, 256, 4)
    assert all(name in key.versions for name in ("torch", "triton", "fmtc"))


# The file


def test_the_file_is_json_for_people_too(memory: Memory) -> None:
    choose(KEY, CANDIDATES, Clock(), memory=memory)
    said = json.loads(memory.path.read_text("utf-8"))
    assert said["device"] == KEY.device
    assert said["tuned"][KEY.text]["name"] == "c"
    assert [p.name for p in memory.path.parent.iterdir() if p.suffix != ".lock"] == [
        memory.path.name
    ]


def test_the_cache_directory_is_that_of_the_compiled_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path))
    assert tune.memory_of("one").path.parent.parent == tmp_path
    assert tune.memory_of("one") is tune.memory_of("one")
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "other"))
    assert tune.memory_of("one").path.parent.parent == tmp_path / "other"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"tuned": []}',
        '{"device": "x"}',
        "\x00\xff",
        "[" * 100_000,
        '{"tuned": null}',
    ],
    ids=range(8),
)
def test_a_damaged_file_is_set_aside_and_said_once(memory: Memory, text: str) -> None:
    memory.path.parent.mkdir(exist_ok=True)
    memory.path.write_text(text, "latin-1")
    with pytest.warns(RuntimeWarning, match="is damaged and now") as said:
        assert choose(KEY, CANDIDATES, Clock(), memory=memory).name == "c"
    assert len(said) == 1
    assert memory.path.with_suffix(".damaged").read_text("latin-1") == text
    assert Memory(KEY.device, memory.path.parent).get(KEY.text) is not None


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 3, {}, {"name": "c"}, {"name": 1, "config": {}, "seconds": 1}),
        {"name": "c", "config": {"rows": [1]}, "seconds": 1e-6},
        {"name": "c", "config": {}, "seconds": "soon"},
    ],
    ids=str,
)
def test_a_damaged_choice_is_forgotten_and_its_neighbours_stay(
    memory: Memory, entry: object
) -> None:
    memory.put("neighbour", Remembered("a", {}, 1e-6))
    said = json.loads(memory.path.read_text("utf-8"))
    said["tuned"][KEY.text] = entry
    memory.path.write_text(json.dumps(said), "utf-8")
    again = Memory(KEY.device, memory.path.parent)
    assert again.get(KEY.text) is None
    assert choose(KEY, CANDIDATES, Clock(), memory=again).name == "c"
    assert again.get("neighbour") == Remembered("a", {}, 1e-6)


def test_what_another_process_wrote_meanwhile_is_seen_and_stays(tmp_path: Path) -> None:
    mine, theirs = (Memory(KEY.device, tmp_path) for _ in range(2))
    assert mine.get("one") is None
    theirs.put("one", Remembered("a", {}, 1.0))
    assert mine.get("one") == Remembered("a", {}, 1.0)
    mine.put("two", Remembered("b", {}, 1.0))
    theirs.put("three", Remembered("c", {}, 1.0))
    assert set(json.loads(mine.path.read_text("utf-8"))["tuned"]) == {"one", "two", "three"}


PUT_MANY = """
import sys
from pathlib import Path
from fmtc.runtime.gpu.tune_memory import Memory, Remembered
device, folder, process, count = sys.argv[1:]
memory = Memory(device, Path(folder))
for i in range(int(count)):
    memory.put(f"{process} {i}", Remembered("a", {"rows": i}, 1.0))
"""


def test_processes_that_write_at_once_lose_nothing_and_nobody_sees_half_a_file(
    tmp_path: Path,
) -> None:
    count, processes = 20, 3
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PUT_MANY, KEY.device, str(tmp_path), str(n), str(count)]
        )
        for n in range(processes)
    ]
    path = Memory(KEY.device, tmp_path).path
    while any(process.poll() is None for process in running):
        if path.exists():
            json.loads(path.read_text("utf-8"))
    assert [process.returncode for process in running] == [0] * processes
    found = json.loads(path.read_text("utf-8"))["tuned"]
    assert set(found) == {f"{n} {i}" for n in range(processes) for i in range(count)}


def test_threads_share_a_memory(memory: Memory) -> None:
    def put(n: int) -> None:
        for i in range(10):
            memory.put(f"{n} {i}", Remembered("a", {}, 1.0))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(memory.path.read_text("utf-8"))["tuned"]) == 40


def test_a_cache_that_cannot_be_written_lasts_as_long_as_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    memory = Memory(KEY.device, tmp_path / "file" / "folder")
    with pytest.warns(RuntimeWarning, match="set FMTC_CACHE"):
        choose(KEY, CANDIDATES, Clock(), memory=memory)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory.put("another", Remembered("a", {}, 1.0))
        clock = Clock()
        assert choose(KEY, CANDIDATES, clock, memory=memory).name == "c"
    assert clock.calls == []


# The device


def test_nothing_is_timed_without_cuda() -> None:
    torch = pytest.importorskip("torch")
    assert tune.measure_on(torch.device("cpu"), lambda _: None) is None
    with pytest.raises(RuntimeError, match="nothing can be timed here"):
        tune.gpu_time(lambda: None, torch.device("cpu"))


class FakeEvent:
    """An event of a device whose clock is the number of calls."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = FakeEvent.now

    def elapsed_time(self, other: FakeEvent) -> float:
        return other.at - self.at


def test_the_cache_is_flushed_before_each_call_and_the_median_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    done: list[str] = []
    takes = iter([100.0, 5.0, 1.0, 3.0])

    def call() -> None:
        done.append("call")
        FakeEvent.now += next(takes)

    class Other:
        def zero_(self) -> None:
            done.append("flush")
            FakeEvent.now += 50

    pretend_cuda(monkeypatch, torch)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: Other())
    seconds = tune.gpu_time(call, torch.device("cuda"), repeats=3)
    assert done == ["call"] + ["flush", "call"] * 3
    assert seconds == pytest.approx(3e-3)


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, torch: object) -> None:
    from contextlib import nullcontext

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cuda, "Event", FakeEvent)
    monkeypatch.setattr(cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(cuda, "synchronize", lambda _: None)


@pytest.mark.parametrize("why", ["capturing", "compiling"])
def test_nothing_is_timed_while_a_graph_is_captured_or_traced(
    monkeypatch: pytest.MonkeyPatch, why: str, memory: Memory
) -> None:
    torch = pytest.importorskip("torch")
    pretend_cuda(monkeypatch, torch)
    run: Callable[[Candidate], object] = pytest.fail
    assert tune.measure_on(torch.device("cuda"), run) is not None
    if why == "capturing":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    else:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    measure = tune.measure_on(torch.device("cuda"), run)
    assert measure is None
    assert choose(KEY, CANDIDATES, measure, memory=memory).name == "a"
    memory.put(KEY.text, Remembered("b", dict(CANDIDATES[3].config), 1e-6))
    assert choose(KEY, CANDIDATES, measure, memory=memory).name == "b"
