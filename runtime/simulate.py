"""Running the generated Verilog in a real simulator, and linting it with real linters.

A bench counts as passed only if it printed exactly one ``PASS`` line, for its own module, with
the number of vectors that were written for it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..codegen import verilog
from ..codegen.vectors.memory import decoder_count, decoder_memory, dot_count, dot_memory
from ..compiler.format import Format
from .backend import BackendUnavailable

SIMULATORS = ("iverilog", "verilator")

#: The first Verilator that simulates the delays of a bench.
VERILATOR_MAJOR = 5

#: The modules that have a bench.
UNITS = ("decoder", "dot")

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
    """The benches of one format in one simulator."""

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
    """All linters on all modules of one format."""

    format_name: str
    results: tuple[LintResult, ...]

    @property
    def passed(self) -> bool:
        """Whether something was linted and all of it was clean."""
        return bool(self.results) and all(result.clean for result in self.results)


def write_rtl(fmt: Format, directory: Path) -> None:
    """Write the Verilog of a format, and the vectors that its benches read, to a directory."""
    memories = {
        f"{fmt.name}_decoder.memh": decoder_memory(fmt),
        f"{fmt.name}_dot.memh": dot_memory(fmt),
    }
    _write(verilog.emit(fmt) | memories, directory)


def _write(files: dict[str, str], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="ascii")


def simulate(
    fmt: Format,
    workdir: Path | None = None,
    simulator: str = "iverilog",
    units: Sequence[str] = UNITS,
) -> SimulationReport:
    """Generate a format's RTL and vectors, and run its test benches.

    Args:
        fmt: the format.
        workdir: where the files go and stay; None for a directory that is removed again.
        simulator: ``iverilog``, or ``verilator`` (which takes some 15 s to build a bench).
        units: which benches, of UNITS.

    Raises:
        BackendUnavailable: the simulator is not installed.
        ValueError: there is no such simulator or unit.
    """
    _require(simulator)
    with tempfile.TemporaryDirectory(prefix="fmtc-rtl-") as scratch:
        directory = Path(workdir or scratch)
        write_rtl(fmt, directory)
        return run_benches(fmt, directory, simulator, units)


def run_benches(
    fmt: Format, directory: Path, simulator: str = "iverilog", units: Sequence[str] = UNITS
) -> SimulationReport:
    """Run the benches on the files that already lie in ``directory``.

    Raises:
        BackendUnavailable: the simulator is not installed.
        ValueError: there is no such simulator or unit.
    """
    _require(simulator)
    if unknown := [unit for unit in units if unit not in UNITS]:
        raise ValueError(f"no bench for {unknown}; there are {', '.join(UNITS)}")
    benches = tuple(_run_bench(fmt, directory, simulator, unit) for unit in units)
    return SimulationReport(fmt.name, fmt.content_hash, simulator, benches)


def lint(fmt: Format, workdir: Path | None = None) -> LintReport:
    """Lint all modules and benches of a format with ``verilator -Wall`` and ``iverilog -Wall``.

    Raises:
        BackendUnavailable: a linter is not installed.
    """
    for tool in SIMULATORS:
        _require(tool)
    with tempfile.TemporaryDirectory(prefix="fmtc-lint-") as scratch:
        directory = Path(workdir or scratch)
        _write(verilog.emit(fmt), directory)
        return LintReport(fmt.name, tuple(_lint_all(fmt, directory)))


def _lint_all(fmt: Format, directory: Path) -> list[LintResult]:
    results = []
    for unit in UNITS:
        for suffix, bench in (("", False), ("_tb", True)):
            top = f"{fmt.name}_{unit}{suffix}"
            sources = _sources(fmt, unit, bench=bench)
            results += [
                _lint_one(
                    "verilator", top, _verilator("--lint-only", "-Wall", top, sources), directory
                ),
                _lint_one("iverilog", top, _iverilog("-tnull", top, sources), directory),
            ]
    return results


def _lint_one(tool: str, top: str, command: list[str], directory: Path) -> LintResult:
    done = _run(command, directory, COMPILE_SECONDS)
    return LintResult(tool, top, done.code == 0 and not done.log.strip(), done.log)


def _sources(fmt: Format, unit: str, *, bench: bool) -> list[str]:
    parts = ["scale_decoder", "element_decoder", unit, *([f"{unit}_tb"] if bench else [])]
    return [f"{fmt.name}_{part}.v" for part in parts]


def _verilator(mode: str, warnings: str, top: str, sources: list[str]) -> list[str]:
    language = ["--default-language", "1364-2005", "--timing"]
    return ["verilator", mode, warnings, *language, "--top-module", top, *sources]


def _iverilog(output: str, top: str, sources: list[str]) -> list[str]:
    return ["iverilog", "-g2005", "-Wall", "-s", top, output, *sources]


def _run_bench(fmt: Format, directory: Path, simulator: str, unit: str) -> BenchResult:
    count, lanes = {
        "decoder": (decoder_count, 1),
        "dot": (dot_count, fmt.block),
    }[unit]
    expected = count(fmt)
    began = time.perf_counter()
    built, program = _build(fmt, directory, simulator, unit)
    log = built.log
    if built.code == 0:
        limit = LEAST_RUN_SECONDS + expected * lanes // LANES_PER_SECOND
        done = _run(program, directory, limit)
        log += done.log
    name = f"{fmt.name}_{unit}"
    ran = _vectors_passed(log, name) if built.code == 0 and done.code == 0 else 0
    return BenchResult(name, ran == expected > 0, ran, time.perf_counter() - began, log)


def _build(fmt: Format, directory: Path, simulator: str, unit: str) -> tuple[_Done, list[str]]:
    """Compile one bench; the command that runs it."""
    top = f"{fmt.name}_{unit}_tb"
    sources = _sources(fmt, unit, bench=True)
    if simulator == "iverilog":
        command = _iverilog(f"-o{top}.vvp", top, sources)
        return _run(command, directory, COMPILE_SECONDS), ["vvp", "-n", f"{top}.vvp"]
    build = directory / f"obj_{unit}"
    shutil.rmtree(build, ignore_errors=True)
    # Warnings are lint's business: here they must not stop a simulation.
    command = _verilator("--binary", "-Wno-fatal", top, sources)
    command += ["-Mdir", build.name, "-o", "bench"]
    return _run(command, directory, COMPILE_SECONDS), [str(build.resolve() / "bench")]


def _vectors_passed(log: str, name: str) -> int:
    """The vectors that the one verdict line says have passed; 0 for any other outcome."""
    verdicts = _VERDICT.findall(log)
    if len(verdicts) != 1:
        return 0
    verdict, module, rest = verdicts[0]
    count = re.fullmatch(r"(\d+) vectors", rest)
    return int(count[1]) if verdict == "PASS" and module == name and count else 0


@dataclass(frozen=True, slots=True)
class _Done:
    code: int
    log: str


def _run(command: list[str], directory: Path, limit: float) -> _Done:
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Done(-1, f"{command[0]} did not end within {limit:g} s\n")
    return _Done(done.returncode, done.stdout + done.stderr)


def _require(tool: str) -> None:
    if tool not in SIMULATORS:
        raise ValueError(f"no simulator '{tool}'; there are {', '.join(SIMULATORS)}")
    programs = ("iverilog", "vvp") if tool == "iverilog" else (tool,)
    if any(shutil.which(program) is None for program in programs):
        raise BackendUnavailable(
            f"{tool} is not installed: apt-get install -y --no-install-recommends {tool}"
            + (" g++ make" if tool == "verilator" else "")
        )
    if tool == "verilator":
        version = _run(["verilator", "--version"], Path.cwd(), LEAST_RUN_SECONDS).log
        number = re.search(r"Verilator (\d+)\.", version)
        if number is None or int(number[1]) < VERILATOR_MAJOR:
            raise BackendUnavailable(
                f"the benches need verilator {VERILATOR_MAJOR} or newer (--timing), "
                f"here is: {version.strip() or 'one that does not run'}"
            )
