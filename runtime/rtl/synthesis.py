"""Logic synthesis: Verilog to cells of a library, with yosys and abc, delay by OpenSTA.

Results are remembered in the cache directory under a hash of the Verilog, the library, the
flow and the tools' versions, so that the same design is mapped once.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend import BackendUnavailable
from .liberty import Library
from .netlist import Netlist, read_yosys
from .remember import keep, place, recall, version
from .tools import require, run

#: Enters the key of a remembered result: raise it when the flow changes.
EDITION = 1

#: Seconds that a tool may take for one design, and characters of a complaint that are repeated.
LIMIT, _COMPLAINT = 900, 600

#: Picoseconds that ask abc for nothing: every path is short enough.
RELAXED = 1_000_000


@dataclass(frozen=True, slots=True)
class Effort:
    """What a synthesis strives for.

    Attributes:
        target: the delay that is asked of abc, in picoseconds.
        script: abc's commands; empty for those that yosys itself gives for a library.
    """

    name: str
    meaning: str
    target: int
    script: str


_CLEAN = "strash; &get -n; &fraig -x; &put; scorr;"
_SIZE = "topo; buffer -c; upsize {D}; dnsize {D}; stime -p"

#: The points of a design's curve of area and delay, the same for all designs.
EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("relaxed", "yosys's own abc script, no delay asked", RELAXED, ""),
        Effort("small", "abc's area mapper (amap)", RELAXED, f"{_CLEAN} dch -f; amap -m; {_SIZE}"),
        Effort(
            "balanced",
            "abc's speedup, then its area mapper",
            1,
            f"strash; dch; map -B 0.9; topo; speedup; strash; dch -f; amap; {_SIZE}",
        ),
        Effort(
            "fast",
            "abc restructured for depth (if -g), mapped for delay",
            1,
            f"strash; if -g; dch -f; map -B 0.9 {{D}}; {_SIZE}",
        ),
    )
}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DELAY = re.compile(r"Delay\s*=\s*([0-9.]+) ps")
_ARRIVAL = re.compile(r"^\s*(-?[0-9.]+)\s+data arrival time", re.MULTILINE)


@dataclass(frozen=True)
class Mapped:
    """A design in cells of a library.

    Attributes:
        area: in the library's unit.
        delay: of the longest path, in seconds; ``delay_by``: ``OpenSTA`` or ``abc``.
        abc_delay: what abc itself says of it.
    """

    top: str
    library: str
    effort: str
    area: float
    delay: float
    delay_by: str
    abc_delay: float
    netlist: Netlist


def synthesize(
    sources: Mapping[str, str],
    top: str,
    library: Library,
    effort: str = "relaxed",
    parameters: Mapping[str, int] | None = None,
    apart: Sequence[str] = (),
) -> Mapped:
    """Map a module to cells, unless the cache has it.

    Args:
        sources: file name -> Verilog; files that ``top`` does not need are left out.
        top: the module.
        library: whose cells are used.
        effort: one of EFFORTS.
        parameters: of the top module, where they are not its own.
        apart: modules that are mapped on their own, so that what surrounds them takes any of
            their outputs: a constant table then stands for one that is loaded.

    Raises:
        BackendUnavailable: yosys is missing, or cannot map the design.
        KeyError: there is no such effort.
    """
    needed = needed_sources(sources, top)
    wanted, settings = EFFORTS[effort], dict(parameters or {})
    require("yosys")
    parts: list[Any] = [EDITION, _versions(), library.digest, wanted.script, wanted.target]
    remembered = place(
        "synthesis", [*parts, top, sorted(settings.items()), list(apart), *needed.values()]
    )
    known = recall(remembered)
    if known is not None:
        return Mapped(**{**known, "netlist": Netlist.restored(known["netlist"])})
    with tempfile.TemporaryDirectory(prefix="fmtc-synthesis-") as scratch:
        design = _Design(needed, top, settings, tuple(apart))
        mapped = _map(Path(scratch), design, library, wanted)
    keep(remembered, _stated(mapped))
    return mapped


def flow(library: Library) -> str:
    """The tools, their versions and the library, in a line."""
    timing = f"OpenSTA {version('sta')}" if shutil.which("sta") else "abc"
    return (
        f"yosys {version('yosys')} + abc, cells of {library.label} "
        f"({library.name}, {library.voltage:g} V), delay by {timing}, no wires"
    )


def needed_sources(sources: Mapping[str, str], top: str) -> dict[str, str]:
    """The files that a module and what it instantiates stand in, without their comments.

    Comments hold versions and hashes, and their lines enter the names that order abc's work: the
    same logic is to give the same cells.

    Raises:
        KeyError: no file has the module.
    """
    bare = {name: _COMMENT.sub(" ", text) for name, text in sources.items()}
    homes = {
        module: name
        for name, text in bare.items()
        for module in re.findall(r"^\s*module\s+(\w+)", text, re.MULTILINE)
    }
    found: dict[str, str] = {}
    waiting = [homes[top]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            lines = (line.rstrip() for line in bare[name].splitlines())
            found[name] = "".join(f"{line}\n" for line in lines if line)
            words = set(re.findall(r"\w+", bare[name]))
            waiting += [homes[word] for word in sorted(words) if word in homes]
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class _Design:
    sources: Mapping[str, str]
    top: str
    parameters: Mapping[str, int]
    apart: tuple[str, ...]


def _map(folder: Path, design: _Design, library: Library, effort: Effort) -> Mapped:
    top = design.top
    (folder / "generic.il").write_text(_generic(folder, design), "utf-8")
    (folder / "library.lib").symlink_to(library.path.resolve())
    (folder / "drive.constr").write_text(
        f"set_driving_cell {library.driver.name}\nset_load {library.load * 1e15:.4f}\n"
    )
    (folder / "abc.script").write_text(effort.script + "\n")
    own = "-script abc.script" if effort.script else ""
    script = (
        "read_rtlil generic.il; dfflibmap -liberty library.lib; "
        f"abc -liberty library.lib -constr drive.constr -D {effort.target} {own}; "
        "setattr -mod -unset keep_hierarchy *; flatten; setundef -zero; opt_clean -purge; "
        "write_verilog -noattr -simple-lhs mapped.v; write_json mapped.json"
    )
    log = _yosys(script, folder, top)
    netlist = read_yosys((folder / "mapped.json").read_text(encoding="utf-8"), top)
    foreign = sorted(cell for cell in netlist.cells if cell not in library.cells)
    if foreign:
        raise BackendUnavailable(
            f"yosys left {', '.join(foreign)} in {top}: {library.path} has no cells for them"
        )
    delays = _DELAY.findall(log)
    # What was mapped apart is on one path at worst.
    abc_delay = sum(map(float, delays if design.apart else delays[-1:])) * 1e-12
    checked = _arrival(folder, top, library) if shutil.which("sta") else None
    return Mapped(
        top=top,
        library=library.label,
        effort=effort.name,
        area=netlist.area(library),
        delay=abc_delay if checked is None else checked,
        delay_by="abc" if checked is None else "OpenSTA",
        abc_delay=abc_delay,
        netlist=netlist,
    )


def _generic(folder: Path, design: _Design) -> str:
    """The design in yosys's own gates, which all efforts and libraries begin with."""
    sources, top = design.sources, design.top
    settings = [f"chparam -set {name} {n} {top}; " for name, n in design.parameters.items()]
    settings += [f"setattr -mod -set keep_hierarchy 1 {name}; " for name in design.apart]
    remembered = place("gates", [EDITION, version("yosys"), top, settings, *sources.values()])
    known = recall(remembered)
    if isinstance(known, str):
        return known
    names = [f"source_{i}.v" for i in range(len(sources))]
    for name, text in zip(names, sources.values(), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    # Without -norom a case table becomes a memory, which abc does not read.
    script = (
        f"read_verilog {' '.join(names)}; {''.join(settings)}hierarchy -check -top {top}; "
        f"proc -norom; check -assert; synth -flatten -top {top}; write_rtlil gates.il"
    )
    _yosys(script, folder, top)
    text = (folder / "gates.il").read_text(encoding="utf-8")
    keep(remembered, text)
    return text


def complaint(log: str) -> str:
    """What a tool's log says went wrong: its errors, else its last words."""
    errors = [line.strip() for line in log.splitlines() if "ERROR" in line]
    return "; ".join(errors)[:_COMPLAINT] or log.strip()[-_COMPLAINT:]


def _yosys(script: str, folder: Path, top: str) -> str:
    done = run(["yosys", "-p", script], folder, LIMIT)
    if done.code:
        raise BackendUnavailable(f"yosys cannot map {top}: {complaint(done.log)}")
    return done.log


def _arrival(folder: Path, top: str, library: Library) -> float | None:
    """The longest path by OpenSTA, in seconds; None where it cannot read the netlist."""
    (folder / "timing.tcl").write_text(
        "read_liberty library.lib\n"
        "set_cmd_units -time ns -capacitance pF\n"
        f"read_verilog mapped.v\nlink_design {top}\n"
        "create_clock -name edge -period 1000\n"
        "set_input_delay 0 -clock edge [all_inputs]\n"
        "set_output_delay 0 -clock edge [all_outputs]\n"
        f"set_driving_cell -lib_cell {library.driver.name} [all_inputs]\n"
        f"set_load {library.load * 1e12:.6f} [all_outputs]\n"
        "report_checks -path_delay max -digits 6\nexit\n"
    )
    found = _ARRIVAL.search(run(["sta", "-no_splash", "-exit", "timing.tcl"], folder, LIMIT).log)
    return float(found[1]) * 1e-9 if found else None


def _versions() -> list[str]:
    return [version("yosys"), version("sta") if shutil.which("sta") else "no sta"]


def _stated(mapped: Mapped) -> dict[str, Any]:
    return {
        "top": mapped.top,
        "library": mapped.library,
        "effort": mapped.effort,
        "area": mapped.area,
        "delay": mapped.delay,
        "delay_by": mapped.delay_by,
        "abc_delay": mapped.abc_delay,
        "netlist": mapped.netlist.stated(),
    }
