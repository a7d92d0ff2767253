"""Place and route on a small FPGA (Lattice iCE40 HX8K): LUTs, and the fastest clock."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend import BackendUnavailable
from .remember import keep, place, recall, version
from .synthesis import LIMIT, complaint, needed_sources
from .tools import require, run

#: Enters the key of a remembered result.
EDITION = 1

DEVICE = "iCE40 HX8K"
_ARGUMENTS = ("--hx8k", "--package", "ct256", "--seed", "1", "--timing-allow-fail")

_FASTEST = re.compile(r"Max frequency for clock[^:]*: ([0-9.]+) MHz")
_TOO_LARGE = re.compile(r"Unable to (?:place|find a placement)|too (?:large|many)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Placed:
    """A design on the FPGA.

    Attributes:
        luts: 4-input tables of the module itself.
        mhz: the fastest clock with registers around it; None: it does not fit.
    """

    luts: int
    mhz: float | None


def place_and_route(sources: Mapping[str, str], top: str) -> Placed:
    """LUTs and clock of a combinational module between registers, unless the cache has them.

    Args:
        sources: file name -> Verilog.
        top: the module.

    Raises:
        BackendUnavailable: yosys or nextpnr-ice40 is missing, or fails.
    """
    needed = needed_sources(sources, top)
    require("yosys", "nextpnr-ice40")
    versions = [version("yosys"), version("nextpnr-ice40")]
    remembered = place("fpga", [EDITION, versions, _ARGUMENTS, top, *needed.values()])
    known = recall(remembered)
    if known is None:
        with tempfile.TemporaryDirectory(prefix="fmtc-fpga-") as scratch:
            known = _place(Path(scratch), needed, top)
        keep(remembered, known)
    return Placed(**known)


def flow() -> str:
    """The tools and the device, in a line."""
    return (
        f"yosys {version('yosys')} synth_ice40, nextpnr {version('nextpnr-ice40')}, {DEVICE}, "
        "registers around the combinational module"
    )


def _place(folder: Path, sources: Mapping[str, str], top: str) -> dict[str, Any]:
    names = [f"source_{i}.v" for i in range(len(sources))]
    for name, text in zip(names, sources.values(), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    read = f"read_verilog {' '.join(names)}; "
    # Small products stay logic: the device has no multipliers, and others' would hide the cost.
    _yosys(folder, f"{read}synth_ice40 -top {top} -json core.json", top)
    module = json.loads((folder / "core.json").read_text(encoding="utf-8"))["modules"][top]
    luts = sum(cell["type"] == "SB_LUT4" for cell in module["cells"].values())
    (folder / "around.v").write_text(_around(top, module["ports"]), encoding="utf-8")
    _yosys(folder, f"{read}read_verilog around.v; synth_ice40 -top around -json around.json", top)
    done = run(["nextpnr-ice40", *_ARGUMENTS, "--json", "around.json"], folder, LIMIT)
    found = _FASTEST.findall(done.log)
    if not found and not _TOO_LARGE.search(done.log):
        raise BackendUnavailable(f"nextpnr-ice40 cannot place {top}: {complaint(done.log)}")
    return {"luts": luts, "mhz": float(found[-1]) if found else None}


def _yosys(folder: Path, script: str, top: str) -> None:
    done = run(["yosys", "-q", "-p", script], folder, LIMIT)
    if done.code:
        raise BackendUnavailable(f"yosys cannot map {top}: {complaint(done.log)}")


def _around(top: str, ports: Mapping[str, Any]) -> str:
    """A module of one clock, one data input and one output: the device has few pins."""
    given = {name: len(p["bits"]) for name, p in ports.items() if p["direction"] == "input"}
    found = {name: len(p["bits"]) for name, p in ports.items() if p["direction"] == "output"}
    wide, out = sum(given.values()), sum(found.values())
    connections, at = [], 0
    for name, bits in given.items():
        connections.append(f"    .{name}(given_q[{at + bits - 1}:{at}])")
        at += bits
    at = 0
    for name, bits in found.items():
        connections.append(f"    .{name}(found[{at + bits - 1}:{at}])")
        at += bits
    return "\n".join(
        [
            "module around (input wire clk_i, input wire data_i, output reg data_o);",
            f"  reg [{wide - 1}:0] given_q;",
            f"  reg [{out - 1}:0] found_q;",
            f"  wire [{out - 1}:0] found;",
            f"  {top} core (",
            ",\n".join(connections),
            "  );",
            "  always @(posedge clk_i) begin",
            f"    given_q <= {{given_q[{wide - 2}:0], data_i}};",
            "    found_q <= found;",
            "    data_o <= ^found_q;",
            "  end",
            "endmodule",
            "",
        ]
    )
