"""Formal proofs about generated Verilog: two modules are equal for every input.

Yosys reads both modules and writes them as and-inverter graphs, ``yosys-abc cec`` compares the
graphs. A verdict counts only as its exact line, from files of this very run; a module that is
not equal is shown by an input, and what both modules answer to it in a simulator.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from .graphs import Case, Meant, bit_names, cofactor
from .tools import Done, require, run

#: What a proof can come to.
PROVEN, REFUTED, UNFINISHED = "proven", "refuted", "unfinished"

#: Seconds for the comparison of two graphs, and for making them.
LIMIT, PREPARE_SECONDS = 120, 300
#: Seconds past the limit after which yosys-abc is ended: it looks at its clock now and then.
_GRACE = 5
#: Conflicts of a single SAT query: only the time limits a proof.
_CONFLICTS = 2_000_000_000

#: The registers of Yosys, with the ports that each has besides D and Q.
_REGISTERS = {
    "dff": ("CLK",),
    "dffe": ("CLK", "EN"),
    "adff": ("CLK", "ARST"),
    "adffe": ("CLK", "ARST", "EN"),
    "sdff": ("CLK", "SRST"),
    "sdffe": ("CLK", "SRST", "EN"),
    "sdffce": ("CLK", "SRST", "EN"),
}
_SETTINGS = ("CLK", "EN", "ARST", "SRST")

#: Multiplication as rows of additions. Yosys' own has another order of rows each time, and no two
#: multipliers are harder to compare than two that are almost the same.
_PRODUCTS = """
(* techmap_celltype = "$mul" *)
module product (A, B, Y);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire [Y_WIDTH+A_WIDTH-1:0] a = {{Y_WIDTH{A_SIGNED && A[A_WIDTH-1]}}, A};
  wire [Y_WIDTH+B_WIDTH-1:0] b = {{Y_WIDTH{B_SIGNED && B[B_WIDTH-1]}}, B};
  wire [Y_WIDTH*(Y_WIDTH+1)-1:0] sums;
  assign sums[0 +: Y_WIDTH] = {Y_WIDTH{1'b0}};
  genvar i;
  generate
    for (i = 0; i < Y_WIDTH; i = i + 1) begin : g_row
      wire [Y_WIDTH-1:0] row = a[Y_WIDTH-1:0] << i;
      assign sums[(i+1)*Y_WIDTH +: Y_WIDTH] =
        sums[i*Y_WIDTH +: Y_WIDTH] + (row & {Y_WIDTH{b[i]}});
    end
  endgenerate
  assign Y = sums[Y_WIDTH*Y_WIDTH +: Y_WIDTH];
endmodule
"""

_EQUAL = re.compile(
    r"^Networks are equivalent( after structural hashing| after SAT)?\.", re.MULTILINE
)
_DIFFERENT = re.compile(r"^Networks are NOT EQUIVALENT", re.MULTILINE)
_UNDECIDED = re.compile(r"^Networks are UNDECIDED", re.MULTILINE)
_PATTERN = re.compile(r"^Input pattern:(.*)$", re.MULTILINE)
_BIT = re.compile(r"(\S+?)(?:\[(\d+)\])?=([01])(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Claim:
    """That ``made`` and ``meant`` are equal for every input.

    Attributes:
        subject: the module that the claim is about.
        statement: what is claimed, in a line.
        inputs, outputs: (port, bits) of both.
        files: file name -> Verilog text, of both modules and all that they use.
        made: the top module of what was generated.
        meant: the top module of what it should be, or that as a graph; None: the cases say.
        cases: claims about the module with some inputs fixed, in place of ``meant``.
        transparent: the registers of ``made`` count as wires (a pipeline's function).
    """

    subject: str
    statement: str
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    files: Mapping[str, str] = field(repr=False)
    made: str
    meant: str | Meant | None = None
    cases: tuple[Case, ...] = field(default=(), repr=False)
    transparent: bool = False


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of a claim.

    Attributes:
        status: ``proven``, ``refuted`` or ``unfinished``.
        inputs: of a refuted claim, an input by port; else empty.
        made, meant: what the two modules answer to it, by port.
        detail: why a proof is not finished, or what tools said.
    """

    subject: str
    statement: str
    status: str
    seconds: float
    inputs: Mapping[str, int] = field(default_factory=dict)
    made: Mapping[str, int | None] = field(default_factory=dict)
    meant: Mapping[str, int | None] = field(default_factory=dict)
    detail: str = ""

    @property
    def proven(self) -> bool:
        """Whether the claim holds for every input."""
        return self.status == PROVEN

    def row(self) -> dict[str, Any]:
        """The proof as a table row."""
        return {
            "module": self.subject,
            "claim": self.statement,
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "note": self.counterexample() or self.detail[:200],
        }

    def counterexample(self) -> str:
        """The refuting input with both answers, ports that differ alone; empty without one."""
        if self.status != REFUTED:
            return ""
        shown = " ".join(f"{name}={value:#x}" for name, value in self.inputs.items())
        different = [name for name in self.meant if self.made.get(name) != self.meant[name]]
        answers = ", ".join(
            f"{name} is {_hex(self.made.get(name))}, should be {_hex(self.meant[name])}"
            for name in different
        )
        return f"{shown}: {answers}" if answers else shown


def prove(claim: Claim, limit: float = LIMIT) -> Proof:
    """Prove or refute a claim.

    Args:
        claim: what to prove.
        limit: seconds for the comparison.

    Raises:
        BackendUnavailable: yosys (or iverilog, to show a refuting input) is not installed.
    """
    require("yosys", "yosys-abc")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fmtc-proof-") as scratch:
        directory = Path(scratch)
        for name, text in claim.files.items():
            (directory / name).write_text(text, encoding="ascii")
        status, detail, found = _decide(claim, directory, limit)
        inputs: dict[str, int] = {}
        made: dict[str, int | None] = {}
        meant: dict[str, int | None] = {}
        # Bits that are not shown may matter all the same: of one graph alone.
        for pattern, rest in product(found, (0, -1)):
            inputs = {
                name: _filled(pattern.get(name, (0, 0)), rest, bits) for name, bits in claim.inputs
            }
            made, meant = _answers(claim, directory, inputs)
            if claim.transparent or made != meant:
                break
        if status == REFUTED and made == meant and not claim.transparent:
            # A refutation that no simulator confirms is a fault of the tools, not a verdict.
            status, detail, inputs = UNFINISHED, "the refuting input shows no difference", {}
    seconds = time.perf_counter() - began
    return Proof(
        claim.subject, claim.statement, status, seconds, inputs, made, meant, detail=detail
    )


#: By port, bits of an input that refutes, and which of its bits these are.
_Pattern = dict[str, tuple[int, int]]

#: A verdict, why there is none, and inputs that may refute.
_Verdict = tuple[str, str, list[_Pattern]]


def _filled(shown: tuple[int, int], rest: int, bits: int) -> int:
    """A port's value: the bits that are shown, and all others as in ``rest``."""
    value, known = shown
    return (value & known | rest & ~known) & (1 << bits) - 1


def _decide(claim: Claim, directory: Path, limit: float) -> _Verdict:
    graphs = ["made.aig", "meant.aig"]
    built = _graphs(claim, directory)
    missing = [g for g in graphs[: 1 if claim.cases else 2] if not (directory / g).is_file()]
    if built.code or missing:
        return UNFINISHED, f"yosys: {built.log.strip()[-1500:]}", []
    if not claim.cases:
        return _compare(directory, "made.aig", "meant.aig", limit)
    made = (directory / "made.aig").read_bytes()
    widths = dict(claim.inputs)
    for case in claim.cases:
        bits = {
            name: value >> i & 1
            for port, value in case.fixed.items()
            for i, name in enumerate(bit_names(port, widths[port]))
        }
        (directory / "case.aig").write_bytes(cofactor(made, bits))
        (directory / "meant.aig").write_bytes(case.meant.graph())
        status, detail, found = _compare(directory, "case.aig", "meant.aig", limit, "-s ")
        if status != PROVEN:
            unsigned = {p: (v & (1 << widths[p]) - 1, -1) for p, v in case.fixed.items()}
            where = ", ".join(f"{port}={value}" for port, value in case.fixed.items())
            return status, f"{detail} where {where}".strip(), [one | unsigned for one in found]
    return PROVEN, f"{len(claim.cases)} cases", []


def _compare(directory: Path, made: str, meant: str, limit: float, how: str = "") -> _Verdict:
    """The verdict about two graphs.

    ``how``: ``-s`` asks a SAT solver alone. It is faster where the graphs have little in common.
    """
    interfaces = [_interface(directory / graph) for graph in (made, meant)]
    if interfaces[0] != interfaces[1]:
        # Inputs that one side lacks would be matched with nothing in silence.
        odd = sorted(interfaces[0] ^ interfaces[1])
        return UNFINISHED, f"ports or registers differ: {', '.join(odd)[:300]}", []
    command = f"cec {how}-T {int(limit)} -C {_CONFLICTS} {made} {meant}"
    done = run(["yosys-abc", "-c", command], directory, limit + _GRACE)
    log = done.log
    equal, different = _EQUAL.search(log), _DIFFERENT.search(log)
    if done.code == 0 and equal and not different:
        return PROVEN, "", []
    if different and not equal:
        # It shows the inputs of the first graph's output alone: the other order shows the others.
        command = f"cec {how}-T {int(limit)} -C {_CONFLICTS} {meant} {made}"
        other = run(["yosys-abc", "-c", command], directory, limit + _GRACE)
        return REFUTED, "", [_inputs(log), _inputs(other.log)]
    if _UNDECIDED.search(log) or done.code == -1:
        return UNFINISHED, f"no verdict within {limit:g} s", []
    if not how and done.code:
        # Its sweep stops in an assertion of its own now and then; the SAT solver alone has none.
        return _compare(directory, made, meant, limit, "-s ")
    return UNFINISHED, f"yosys-abc: {log.strip()[-500:]}", []


def _graphs(claim: Claim, directory: Path) -> Done:
    """Write made.aig and, if it is one for all inputs, meant.aig."""
    (directory / "registers.v").write_text(_transparent(), encoding="ascii")
    (directory / "products.v").write_text(_PRODUCTS, encoding="ascii")
    # Modules become gates once, for both tops: what both instantiate is the same in both graphs.
    script = [
        f"read_verilog {' '.join(sorted(claim.files))}",
        "hierarchy -check",
        "proc",
        # A case statement of constants has become a ROM: back to gates.
        "memory_collect",
        "memory_map",
        *(["opt_dff", "techmap -map registers.v"] if claim.transparent else []),
        "setundef -zero -undriven",
        "opt_expr -fine",
        "opt_merge",
        "opt_clean -purge",
        "simplemap",
        "techmap -map products.v",
        "techmap",
        "opt_expr",
        "setundef -zero",
        "opt_clean -purge",
        "aigmap",
        "design -save gates",
        *_writing(claim.made, "made.aig"),
    ]
    if isinstance(claim.meant, str):
        script += ["design -load gates", *_writing(claim.meant, "meant.aig")]
    elif claim.meant is not None:
        (directory / "meant.aig").write_bytes(claim.meant.graph())
    (directory / "graphs.ys").write_text("\n".join(script) + "\n", encoding="ascii")
    return run(["yosys", "-q", "graphs.ys"], directory, PREPARE_SECONDS)


def _writing(top: str, graph: str) -> list[str]:
    """The commands that write a module of gates as one graph."""
    return [
        f"hierarchy -check -top {top}",
        "flatten",
        "opt_clean -purge",
        f"write_aiger -symbols {graph}",
    ]


def _transparent() -> str:
    """Registers as wires: what is left is what a pipeline without feedback computes."""
    modules = []
    for kind, controls in _REGISTERS.items():
        values = [f"{c}_POLARITY = 0" for c in _SETTINGS] + ["ARST_VALUE = 0", "SRST_VALUE = 0"]
        modules += [
            f'(* techmap_celltype = "${kind}" *)',
            f"module {kind} ({', '.join((*controls, 'D', 'Q'))});",
            *[f"  parameter {setting};" for setting in ("WIDTH = 0", *values)],
            f"  input {', '.join(controls)};",
            "  input [WIDTH-1:0] D;",
            "  output [WIDTH-1:0] Q;",
            "  assign Q = D;",
            "endmodule",
        ]
    return "\n".join(modules) + "\n"


def _interface(graph: Path) -> set[str]:
    """The names of a graph's inputs, outputs and registers, with what they are."""
    symbols = graph.read_bytes().rsplit(b"\nc\n", 1)[0].rstrip(b"\n").split(b"\n")
    names = set()
    for line in reversed(symbols):
        # The first one stands right behind the gates, which are no text.
        found = re.search(rb"([ilo])\d+ ([\w.\[\]\\]+)$", line)
        if found is None:
            break
        names.add(f"{found[1].decode()} {found[2].decode()}")
        if found[0] != line:
            break
    return names


def _inputs(log: str) -> _Pattern:
    """The pattern that yosys-abc shows, by port."""
    found = _PATTERN.search(log)
    ports: _Pattern = {}
    for name, bit, value in _BIT.findall(found[1] if found else ""):
        known, place = ports.get(name, (0, 0)), int(bit or 0)
        ports[name] = known[0] | int(value) << place, known[1] | 1 << place
    return dict(sorted(ports.items()))


# -- what two modules answer ---------------------------------------------------------------


def _answers(
    claim: Claim, directory: Path, inputs: Mapping[str, int]
) -> tuple[dict[str, int | None], dict[str, int | None]]:
    """What both answer to an input."""
    made = _simulated(claim, directory, claim.made, inputs)
    if isinstance(claim.meant, str):
        return made, _simulated(claim, directory, claim.meant, inputs)
    answer = _meant_for(claim, inputs).answer(inputs)
    return made, {name: answer[name] & ((1 << bits) - 1) for name, bits in claim.outputs}


def _meant_for(claim: Claim, inputs: Mapping[str, int]) -> Meant:
    """The graph that says what a module should answer to an input."""
    if claim.meant is not None and not isinstance(claim.meant, str):
        return claim.meant
    widths = dict(claim.inputs)
    return next(
        case.meant
        for case in claim.cases
        if all(inputs[p] == v & (1 << widths[p]) - 1 for p, v in case.fixed.items())
    )


def _simulated(
    claim: Claim, directory: Path, top: str, inputs: Mapping[str, int]
) -> dict[str, int | None]:
    """A module's outputs by simulation; None for one with unknown bits."""
    require("iverilog", "vvp")
    lines = ["module answers;"]
    lines += [f"  reg [{b - 1}:0] {name} = {b}'h{inputs[name]:x};" for name, b in claim.inputs]
    lines += [f"  wire [{b - 1}:0] {name};" for name, b in claim.outputs]
    connected = ", ".join(f".{name}({name})" for name, _ in (*claim.inputs, *claim.outputs))
    lines += [f"  {top} dut ({connected});", "  initial begin", "    #1;"]
    lines += [f'    $display("{name} %h", {name});' for name, _ in claim.outputs]
    lines += ["  end", "endmodule", ""]
    (directory / "answers.v").write_text("\n".join(lines), encoding="ascii")
    sources = ["answers.v", *sorted(claim.files)]
    command = ["iverilog", "-g2005", "-s", "answers", "-o", "answers.vvp", *sources]
    if run(command, directory, PREPARE_SECONDS).code:
        return {}
    done = run(["vvp", "-n", "answers.vvp"], directory, PREPARE_SECONDS)
    pairs = [line.split(" ") for line in done.log.split("\n") if line.count(" ") == 1]
    return {name: None if set(bits) & set("xzXZ") else int(bits, 16) for name, bits in pairs}


def _hex(value: int | None) -> str:
    return "unknown" if value is None else f"{value:#x}"
