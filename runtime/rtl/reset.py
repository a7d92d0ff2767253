"""Resets and unknown bits: what a clocked module gives out is known from its first reset on.

Two instances in one bench of random traffic. The first is reset, runs, and is reset again in
mid-flight; the second has seen nothing but unknown inputs until then. Afterwards both must say
the same in every cycle. No output may ever be unknown, or, of a stream's data, none that is
offered; and what a stream does not offer is unknown on the way in.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...codegen.render import render
from ...codegen.verilog.header import header
from ...codegen.verilog.module import Module, Port
from .tools import require, run

#: Cycles of traffic before and after the second reset.
CYCLES = 1200
SEED = 20250711
COMPILE_SECONDS, RUN_SECONDS = 60, 120

#: Ports whose values are kept small: a command of many blocks would never end.
SMALL = {"command_blocks_i": 2}


@dataclass(frozen=True, slots=True)
class ResetResult:
    """One module: whether it passed, the beats that both instances gave out, and the log."""

    module: str
    passed: bool
    beats: int
    log: str


@dataclass(frozen=True, slots=True)
class _Signal:
    """A port in the bench; ``qualifier``: the output that says whether it counts."""

    name: str
    bits: int
    qualifier: str = ""
    counts: bool = False

    @property
    def random(self) -> str:
        """An expression of random bits."""
        if self.name in SMALL:
            return f"{{$random(seed)}} % {SMALL[self.name]} + 1"
        words = ", ".join(["$random(seed)"] * (-(-self.bits // 32)))
        # In one of eight, a bit that enables is 0.
        return f"|({{{words}}} & 32'd7)" if self.name == "enable_i" else f"{{{words}}}"


@dataclass(frozen=True, slots=True)
class _Stream:
    valid: str
    ready: str
    data: tuple[_Signal, ...]


def reset_bench(module: Module, parameters: Mapping[str, int] | None = None) -> str:
    """The bench of a clocked module, as text.

    Args:
        module: with ``clk_i`` and ``rst_ni``; streams are told by ``*_valid_i`` and ``*_valid_o``.
        parameters: of the module, besides its defaults.
    """
    chosen = {p.name: p.default for p in module.parameters} | dict(parameters or {})
    given = [p for p in module.ports if p.name.endswith("_i") and p.name != "clk_i"]
    taken = [p for p in module.ports if p.name.endswith("_o")]
    inputs = [_Signal(p.name, p.width(chosen)) for p in given]
    outputs = _outputs(taken, chosen)
    streams = _streams(inputs, outputs)
    driven = {s.name for stream in streams for s in stream.data} | {s.valid for s in streams}
    return render(
        "verilog",
        "reset_tb.v.j2",
        header=header(module.owner, f"Resets and unknown bits of {module.name}."),
        top=f"{module.name}_reset_tb",
        module=module,
        parameters={name: chosen[name] for name in parameters or {}},
        inputs=inputs,
        outputs=outputs,
        streams=streams,
        free=[signal for signal in inputs if signal.name not in driven],
        cycles=CYCLES,
        seed=SEED,
        width=max(len(f"{signal.name} is unknown") for signal in outputs),
    )


def check_reset(
    module: Module,
    parameters: Mapping[str, int] | None = None,
    text: Mapping[str, str] | None = None,
) -> ResetResult:
    """Run the bench of a clocked module.

    Args:
        module: with ``clk_i`` and ``rst_ni``.
        parameters: of the module, besides its defaults.
        text: by module, what stands for its own text: a mutant.

    Raises:
        BackendUnavailable: iverilog is not installed.
    """
    require("iverilog", "vvp")
    with tempfile.TemporaryDirectory(prefix="fmtc-reset-") as scratch:
        directory = Path(scratch)
        files = {f"{m.name}.v": m.text() for m in module.closure}
        files |= {f"{name}.v": new for name, new in (text or {}).items()}
        top = f"{module.name}_reset_tb"
        files[f"{top}.v"] = reset_bench(module, parameters)
        for name, content in files.items():
            (directory / name).write_text(content, encoding="ascii")
        command = ["iverilog", "-g2005", "-s", top, "-o", "bench.vvp", *sorted(files)]
        done = run(command, directory, COMPILE_SECONDS)
        if done.code == 0:
            done = run(["vvp", "-n", "bench.vvp"], directory, RUN_SECONDS)
    verdict = re.search(rf"^PASS {module.name} (\d+) beats$", done.log, re.MULTILINE)
    beats = int(verdict[1]) if verdict else 0
    return ResetResult(module.name, done.code == 0 and beats > 0, beats, done.log)


def _outputs(ports: list[Port], chosen: Mapping[str, int]) -> list[_Signal]:
    """Outputs, each with the valid of its stream: of the longest name that begins like it."""
    valids = [p.name for p in ports if _is_valid(p.name, "o") and p.width(chosen) == 1]
    signals = []
    for port in ports:
        names = [v for v in valids if v != port.name and port.name.startswith(v[: -len("valid_o")])]
        qualifier = max(names, key=len, default="")
        if _is_valid(port.name, "o") or port.name.endswith("ready_o"):
            qualifier = ""
        counts = port.name in valids or not valids
        signals.append(_Signal(port.name, port.width(chosen), qualifier, counts))
    return signals


def _streams(inputs: list[_Signal], outputs: list[_Signal]) -> list[_Stream]:
    """The streams that are read; a port belongs to the longest name that begins like it."""
    valids = [s.name for s in inputs if _is_valid(s.name, "i") and s.bits == 1]
    valids = [name for name in valids if name != "sum_valid_i"]
    known = {s.name for s in outputs}
    data: dict[str, list[_Signal]] = {name: [] for name in valids}
    for signal in inputs:
        prefixes = [v for v in valids if signal.name.startswith(v[: -len("valid_i")])]
        if signal.name not in valids and prefixes and not _is_control(signal.name):
            data[max(prefixes, key=len)].append(signal)
    streams = []
    for valid, signals in data.items():
        ready = valid.replace("valid_i", "ready_o")
        streams.append(_Stream(valid, ready if ready in known else "", tuple(signals)))
    return streams


def _is_valid(name: str, direction: str) -> bool:
    """Whether a port says that a stream offers something: ``invalid_o`` does not."""
    return f"_{name}".endswith(f"_valid_{direction}")


def _is_control(name: str) -> bool:
    return name == "enable_i" or name.endswith("ready_i")
