"""What was measured, as tables on a terminal and as a section of RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rich.console import Console
from rich.table import Table

from .bars import Bar
from .library import LEAST, Share
from .measure import OURS, ROOF, Result
from .overhead import Overhead

#: Task -> heading.
HEADINGS = {
    "decode": "Decode to fp32",
    "decode bf16": "Decode to bf16",
    "encode": "Encode from fp32",
    "multiply": "Packed matrix times vector, fp32 activations",
    "multiply int8": "Packed matrix times vector, activations rounded to int8",
}


#: Columns; those whose name ends in a space are set to the right.
_BARS = ("", "bar", "measured", "")
_SPEEDS = ("", "Melem/s ", "of the roof", "times as fast as")
_COSTS = ("", "took ", "beside the kernel ")
_LIBRARY = ("format", "decode ", "of its roof ", "encode ", "of reading ", "")
#: What a report says of the machine in a sentence of its own.
_MACHINE = {"processor", "cores", "compiler", "python"}


@dataclass(frozen=True, slots=True)
class Report:
    """One run: where, when, and everything that was measured."""

    date: str
    machine: dict[str, str]
    roofs: dict[int, dict[str, float]]
    results: list[Result]
    overheads: list[Overhead] = field(default_factory=list)
    library: list[Share] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table before it is drawn."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(report: Report) -> Iterator[Sheet]:
    """All tables of a report that have rows."""
    if report.bars:
        yield Sheet("Bars, one thread", _BARS, [_bar_row(bar) for bar in report.bars])
    for (task, threads), group in _grouped(report.results):
        title = f"{HEADINGS.get(task, task)}, {_threads(threads)}"
        yield Sheet(title, _SPEEDS, [_speed_row(rows) for rows in group])
    if report.overheads:
        rows = [_overhead_row(o) for o in report.overheads]
        yield Sheet("Costs of a call and of a build", _COSTS, rows)
    if report.library:
        rows = [_share_row(s) for s in report.library]
        yield Sheet("Every format of the library, one thread, Melem/s", _LIBRARY, rows)


def markdown(report: Report) -> str:
    """The report as a section of RESULTS.md."""
    said = report.machine
    versions = ", ".join(f"{name} {said[name]}" for name in said if name not in _MACHINE)
    lines = [
        f"## CPU, {report.date}",
        "",
        f"`make bench-cpu`: {said['processor']}, {said['cores']} cores, {said['compiler']},",
        f"Python {said['python']}. Peers: {versions}.",
        "Each figure is a contender's best turn, and all contenders of a line take turns: read the",
        "ratios, since Melem/s depends on the machine. The fill roof writes as many bytes as the",
        "decoded result past the cache; that of the same traffic reads the packed bytes, too.",
        "On one thread time is the process's processor time, on more it is the wall clock's.",
        "",
    ]
    for threads, speeds in sorted(report.roofs.items()):
        words = ", ".join(f"{name} {speed:,.1f} GB/s" for name, speed in speeds.items())
        lines.append(f"* Memory, {_threads(threads)}: {words}.")
    for sheet in sheets(report):
        rule = ["---:" if column.endswith(" ") else "---" for column in sheet.columns]
        lines += ["", f"### {sheet.title}", ""]
        lines += [_line(c.strip() for c in sheet.columns), f"|{'|'.join(rule)}|"]
        lines += [_line(row) for row in sheet.rows]
    skipped = [f"* {line}" for line in _skipped(report.results)]
    if skipped:
        lines += ["", *skipped]
    return "\n".join(lines) + "\n"


def show(report: Report, console: Console) -> None:
    """Draw all tables."""
    console.print(f"[bold]{report.machine['processor']}[/], {report.machine['compiler']}")
    for threads, speeds in sorted(report.roofs.items()):
        words = ", ".join(f"{name} {speed:,.1f} GB/s" for name, speed in speeds.items())
        console.print(f"memory, {_threads(threads)}: {words}")
    for sheet in sheets(report):
        table = Table(title=sheet.title, title_justify="left")
        for column in sheet.columns:
            table.add_column(column.strip(), justify="right" if column.endswith(" ") else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    for line in _skipped(report.results):
        console.print(line, markup=False)


def replace_section(text: str, name: str, body: str) -> str:
    """The text with what stands between the markers of ``name`` replaced; appended if absent."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{body.strip()}\n{end}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section, text, count=1)
    return f"{text.rstrip()}\n\n{section}\n"


def _grouped(
    results: Sequence[Result],
) -> Iterator[tuple[tuple[str, int], list[list[Result]]]]:
    """Task and threads -> the groups of results, in the order in which they were measured."""

    def table(r: Result) -> tuple[int, int]:
        return r.threads, list(HEADINGS).index(r.task)

    for _, of_table in groupby(sorted(results, key=table), table):
        rows = list(of_table)
        groups = [list(g) for _, g in groupby(rows, lambda r: r.subject)]
        yield (rows[0].task, rows[0].threads), groups


def _speed_row(group: list[Result]) -> tuple[str, ...]:
    ours = next(r for r in group if r.contender == OURS)
    speed = "skipped" if ours.melem_per_s is None else f"{ours.melem_per_s:,.0f}"
    roofs = [_share(r) for r in group if r.contender.startswith(ROOF)]
    others = [
        _against(r)
        for r in group
        if r.contender != OURS and not r.contender.startswith(ROOF) and r.melem_per_s is not None
    ]
    return group[0].subject, speed, "; ".join(roofs), "; ".join(others)


def _share(roof: Result) -> str:
    name = roof.contender.removeprefix(ROOF)
    share = roof.fmtc_over_this
    if share is None:
        return name if roof.melem_per_s is None else f"{name} {roof.melem_per_s:,.0f}"
    return f"{share:.0%} {name}" if share >= 0.1 else f"{share:.1%} {name}"


def _against(other: Result) -> str:
    name, ratio = other.contender.removeprefix(f"{OURS} "), other.fmtc_over_this
    if ratio is None:
        return f"{name} ({other.melem_per_s:,.0f})"
    digits = 2 if ratio < 2 else 1 if ratio < 20 else 0
    return f"{ratio:,.{digits}f}x {name}"


def _bar_row(bar: Bar) -> tuple[str, ...]:
    verdict = {None: "not measured", True: "met", False: "missed"}[bar.met]
    return bar.what, bar.bar, bar.measured or "", verdict


def _overhead_row(cost: Overhead) -> tuple[str, ...]:
    beside = "" if cost.kernel is None else f"{cost.beside:,.1f} {cost.unit}"
    return cost.what, f"{cost.took:,.2f} {cost.unit}", beside


def _share_row(share: Share) -> tuple[str, ...]:
    if share.skipped is not None:
        return share.format, "", "", "", "", f"skipped: {share.skipped}"
    low = share.decode_share is not None and share.decode_share < LEAST
    return (
        share.format,
        f"{share.decode:,.0f}",
        f"{share.decode_share:.0%}",
        f"{share.encode:,.0f}",
        f"{share.encode_share:.1%}",
        f"below {LEAST:.0%}" if low else "",
    )


def _skipped(results: Iterable[Result]) -> Iterator[str]:
    """Each reason once, with the contenders and tasks that it kept away."""
    reasons: dict[str, list[str]] = {}
    for r in results:
        if r.skipped is not None:
            reasons.setdefault(f"{r.contender}: {r.skipped}", []).append(f"{r.task} {r.subject}")
    for why, where in reasons.items():
        yield f"Skipped: {why} ({', '.join(dict.fromkeys(where))})"


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
