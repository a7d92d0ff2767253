"""Running the generated Verilog in a real simulator, and linting it with real linters.

A bench counts as passed only if it printed exactly one ``PASS`` line, for its own module, with
the number of vectors that were written for it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...codegen import hardware
from ...codegen.design import Design
from ...codegen.verilog import Bench, benches_of, emit_design, modules_of
from ...compiler.format import Format
from .tools import Done, require, run, side_by_side

SIMULATORS = ("iverilog", "verilator")

#: Seconds that a compiler may take, and that a simulation may take besides its vectors.
COMPILE_SECONDS, LEAST_RUN_SECONDS = 600, 120
#: Slower than any simulator was seen to be, in lanes (a decoder has one) per second.
LANES_PER_SECOND = 2000

_VERDICT = re.compile(r"^(PASS|FAIL) (\S+) (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One test bench: whether it passed, on how many vectors, and what it printed."""

    name: str
    passed: bool
    vectors: int
    seconds: float
    log: str


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """The benches of one design in one simulator."""

    format_name: str
    format_hash: str
    simulator: str
    benches: tuple[BenchResult, ...]

    @property
    def passed(self) -> bool:
        """Whether there were benches and all passed."""
        return bool(self.benches) and all(bench.passed for bench in self.benches)


@dataclass(frozen=True, slots=True)
class LintResult:
    """One linter on one top module: clean means no warning and no error."""

    tool: str
    module: str
    clean: bool
    log: str


@dataclass(frozen=True, slots=True)
class LintReport:
    """All linters on all modules of one design."""

    format_name: str
    results: tuple[LintResult, ...]

    @property
    def passed(self) -> bool:
        """Whether something was linted and all of it was clean."""
        return bool(self.results) and all(result.clean for result in self.results)


def write_rtl(design: Design, directory: Path) -> None:
    """Write the Verilog of a design, and what its benches read, to a directory."""
    for name, text in emit_design(design).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


def write_bench(bench: Bench, directory: Path) -> None:
    """Write a bench, its memory and the modules that it tries to a directory."""
    files = {f"rtl/{module.name}.v": module.text for module in bench.module.closure}
    files |= {f"tb/{bench.top}.v": bench.text, f"tb/{bench.name}.memh": bench.memory}
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(), encoding="ascii")


def simulate(
    fmt: Format,
    workdir: Path | None = None,
    simulator: str = "iverilog",
    parts: Sequence[str] | None = None,
) -> SimulationReport:
    """Generate a format's RTL and golden rows, and run its test benches.

    Args:
        fmt: the format.
        workdir: where the files go and stay; None for a directory that is removed again.
        simulator: ``iverilog``, or ``verilator`` (which takes some 15 s to build a bench).
        parts: the parts whose benches run; None: all.

    Raises:
        BackendUnavailable: the simulator is not installed.
        NotExpressible: the format has no hardware.
        ValueError: there is no such simulator or part.
    """
    _require(simulator)
    design = hardware(fmt)
    with tempfile.TemporaryDirectory(prefix="fmtc-rtl-") as scratch:
        directory = Path(workdir or scratch)
        write_rtl(design, directory)
        return run_benches(design, directory, simulator, parts)


def run_benches(
    design: Design,
    directory: Path,
    simulator: str = "iverilog",
    parts: Sequence[str] | None = None,
) -> SimulationReport:
    """Run the benches on the files that already lie in ``directory``.

    Raises:
        BackendUnavailable: the simulator is not installed.
        ValueError: there is no such simulator or part.
    """
    _require(simulator)
    benches = benches_of(design)
    known = dict.fromkeys(bench.module.part for bench in benches)
    if unknown := [part for part in parts or () if part not in known]:
        raise ValueError(f"no bench for {unknown}; there are {', '.join(known)}")
    wanted = [bench for bench in benches if parts is None or bench.module.part in parts]
    results = tuple(side_by_side(lambda bench: run_bench(bench, directory, simulator), wanted))
    fmt = design.weights.fmt
    return SimulationReport(fmt.name, fmt.content_hash, simulator, results)


def lint(fmt: Format, workdir: Path | None = None) -> LintReport:
    """Lint all modules and benches of a format with ``verilator -Wall`` and ``iverilog -Wall``.

    Raises:
        BackendUnavailable: a linter is not installed.
        NotExpressible: the format has no hardware.
    """
    for tool in SIMULATORS:
        _require(tool)
    design = hardware(fmt)
    with tempfile.TemporaryDirectory(prefix="fmtc-lint-") as scratch:
        directory = Path(workdir or scratch)
        write_rtl(design, directory)
        return LintReport(fmt.name, tuple(_lint_all(design, directory)))


def _lint_all(design: Design, directory: Path) -> list[LintResult]:
    tops = {m.name: [f"rtl/{used.name}.v" for used in m.closure] for m in modules_of(design)}
    tops |= {bench.top: bench_sources(bench) for bench in benches_of(design)}
    jobs = [
        (tool, top, command)
        for top, sources in tops.items()
        for tool, command in (
            ("verilator", _verilator("--lint-only", "-Wall", top, sources)),
            ("iverilog", _iverilog("-tnull", top, sources)),
        )
    ]

    def linted(job: tuple[str, str, list[str]]) -> LintResult:
        tool, top, command = job
        done = run(command, directory, COMPILE_SECONDS)
        return LintResult(tool, top, done.code == 0 and not done.log.strip(), done.log)

    return side_by_side(linted, jobs)


def bench_sources(bench: Bench) -> list[str]:
    """The files that a bench is compiled from."""
    return [*(f"rtl/{m.name}.v" for m in bench.module.closure), f"tb/{bench.top}.v"]


def _verilator(mode: str, warnings: str, top: str, sources: list[str]) -> list[str]:
    language = ["--default-language", "1364-2005", "--timing"]
    return ["verilator", mode, warnings, *language, "--top-module", top, *sources]


def _iverilog(output: str, top: str, sources: list[str]) -> list[str]:
    return ["iverilog", "-g2005", "-Wall", "-s", top, output, *sources]


def run_bench(bench: Bench, directory: Path, simulator: str = "iverilog") -> BenchResult:
    """Compile and run one bench on the files in ``directory``."""
    began = time.perf_counter()
    built, program = _build(bench, directory, simulator)
    log, code = built.log, built.code
    if code == 0:
        limit = LEAST_RUN_SECONDS + bench.vectors * bench.lanes // LANES_PER_SECOND
        done = run(program, directory / "tb", limit)
        log, code = log + done.log, done.code
    ran = _vectors_passed(log, bench.name) if code == 0 else 0
    passed = ran == bench.vectors > 0
    return BenchResult(bench.name, passed, ran, time.perf_counter() - began, log)


def _build(bench: Bench, directory: Path, simulator: str) -> tuple[Done, list[str]]:
    """Compile one bench; the command that runs it in ``tb``."""
    sources = bench_sources(bench)
    if simulator == "iverilog":
        command = _iverilog(f"-otb/{bench.top}.vvp", bench.top, sources)
        return run(command, directory, COMPILE_SECONDS), ["vvp", "-n", f"{bench.top}.vvp"]
    build = directory / f"obj_{bench.name}"
    shutil.rmtree(build, ignore_errors=True)
    # Warnings are lint's business: here they must not stop a simulation.
    command = _verilator("--binary", "-Wno-fatal", bench.top, sources)
    command += ["-Mdir", build.name, "-o", "bench"]
    return run(command, directory, COMPILE_SECONDS), [str(build.resolve() / "bench")]


def _vectors_passed(log: str, name: str) -> int:
    """The vectors that the one verdict line says have passed; 0 for any other outcome."""
    verdicts = _VERDICT.findall(log)
    if len(verdicts) != 1:
        return 0
    verdict, module, rest = verdicts[0]
    count = re.fullmatch(r"(\d+) vectors", rest)
    return int(count[1]) if verdict == "PASS" and module == name and count else 0


def _require(simulator: str) -> None:
    if simulator not in SIMULATORS:
        raise ValueError(f"no simulator '{simulator}'; there are {', '.join(SIMULATORS)}")
    require(*(("iverilog", "vvp") if simulator == "iverilog" else (simulator,)))
