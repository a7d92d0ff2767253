"""What was measured, as tables on a terminal and as a section of RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from ..tables import Sheet
from .goals import MATRIX_ROWS, judge
from .plan import Shape
from .results import BASE, Report, Result

#: Columns; those whose name ends in a space are set to the right.
_GOALS = ("", "goal", "measured ", "")
_CODING = ("", "", "us ", "GB/s ", "of the copy roof ", "what the machine code says")
_ONE = (
    *("", "cold us ", "warm us ", "GB/s ", "of the read roof ", f"times {BASE} "),
    *("configuration", "what the machine code says"),
)
_MANY = ("", "M ", "us ", "TFLOP/s ", f"of {BASE} ", "configuration, and what the code says")


def sheets(report: Report) -> Iterator[Sheet]:
    """All tables that have rows."""
    bars = judge(report)
    verdict = {None: "not measured", True: "met", False: "missed"}
    yield Sheet("Goals", _GOALS, [(b.what, b.bar, b.measured or "", verdict[b.met]) for b in bars])
    coded = [r for r in report.results if r.part != "product" and r.seconds is not None]
    if coded:
        title = f"Encode from fp32 and decode, {_size(coded[0].shape)}"
        yield Sheet(title, _CODING, [_coding_row(r, report) for r in coded])
    timed = [r for r in report.results if r.part == "product" and r.seconds is not None]
    for shape in _shapes(timed):
        ours = [r for r in timed if r.shape == shape]
        yield from _one(report, ours, shape)
        yield from _few(report, ours, shape)
        many = [r for r in ours if r.m >= MATRIX_ROWS]
        if many:
            rows = [_many_row(r, report) for r in many]
            yield Sheet(f"Many rows of activations, {_size(shape)}", _MANY, rows)


def notes(report: Report) -> Iterator[str]:
    """What was skipped, each reason once, and what there was no time for."""
    reasons: dict[str, list[str]] = {}
    for r in report.results:
        if r.skipped is not None:
            m = f" M={r.m}" if r.m else ""
            reasons.setdefault(f"{r.contender}: {r.skipped}", []).append(f"{_size(r.shape)}{m}")
    for why, where in reasons.items():
        yield f"Skipped: {why} ({', '.join(dict.fromkeys(where))})."
    for what in report.dropped:
        yield f"Dropped, for want of time: {what}."


def markdown(report: Report, command: str = "make bench-gpu") -> str:
    """The report as a section of RESULTS.md."""
    said = report.machine
    others = ", ".join(f"{name} {said[name]}" for name in said if name != "device")
    lines = [
        f"## GPU, {report.date}",
        "",
        f"`{command}`: {said['device']}; {others}.",
        f"Before anything was timed, {sum(report.checked.values()):,} comparisons with the",
        f"reference on guarded memory: {', '.join(report.checked)}.",
        "Times are medians over replays of CUDA graphs; cold: copies of the weight of 512 MB take",
        "turns; warm: one copy again and again. GB/s are of packed bytes, for encode and decode of",
        f"both sides. {BASE} has the same shape in the same run. Activations are fp16.",
        "",
    ]
    if report.roofs is not None:
        read, copy = report.roofs.read, report.roofs.copy
        lines.append(f"* Memory: read {read:,.0f} GB/s, copy {copy:,.0f} GB/s (read and written).")
    for sheet in sheets(report):
        rule = ["---:" if column.endswith(" ") else "---" for column in sheet.columns]
        lines += ["", f"### {sheet.title}", ""]
        lines += [_line(c.strip() for c in sheet.columns), f"|{'|'.join(rule)}|"]
        lines += [_line(row) for row in sheet.rows]
    rest = [f"* {note}" for note in notes(report)]
    return "\n".join([*lines, *([""] if rest else []), *rest]) + "\n"


def show(report: Report, console: Console) -> None:
    """Draw all tables."""
    console.print(f"[bold]{report.machine['device']}[/]")
    if report.roofs is not None:
        read, copy = report.roofs.read, report.roofs.copy
        console.print(f"memory: read {read:,.0f} GB/s, copy {copy:,.0f} GB/s")
    for sheet in sheets(report):
        table = Table(title=sheet.title, title_justify="left")
        for column in sheet.columns:
            right = column.endswith(" ")
            table.add_column(column.strip(), justify="right" if right else "left", no_wrap=right)
        for row in sheet.rows:
            table.add_row(*(cell.replace("[", "\\[") for cell in row))
        console.print(table)
    for note in notes(report):
        console.print(note, markup=False)


def _one(report: Report, results: list[Result], shape: Shape) -> Iterator[Sheet]:
    """One row of activations: cold and warm side by side."""
    warm = {r.contender: r for r in results if r.m == 1 and r.how == "warm"}
    rows: list[tuple[str, ...]] = []
    for r in results:
        if r.m != 1 or r.how != "cold":
            continue
        beside = warm.get(r.contender)
        share = None if report.roofs is None else r.share(report.roofs.read)
        rows.append(
            (
                r.contender,
                _us(r),
                "" if beside is None else _us(beside),
                f"{r.gigabytes:,.0f}",
                "" if share is None else f"{share:.0%}",
                _times(report.speedup(r)),
                r.note,
                r.hint,
            )
        )
    if rows:
        yield Sheet(f"One row of activations, {_size(shape)}", _ONE, rows)


def _few(report: Report, results: list[Result], shape: Shape) -> Iterator[Sheet]:
    """A few rows: microseconds, and in brackets how many times as fast as cuBLAS."""
    cold = [r for r in results if r.m < MATRIX_ROWS and r.how == "cold"]
    counts = sorted({r.m for r in cold})
    if counts in ([], [1]):
        return
    by = {(r.contender, r.m): r for r in cold}
    rows = []
    for who in dict.fromkeys(r.contender for r in cold):
        cells = []
        for m in counts:
            found = by.get((who, m))
            times = None if found is None else report.speedup(found)
            cell = "" if found is None else _us(found)
            cells.append(f"{cell} ({times:.2f})" if cell and times is not None else cell)
        rows.append((who, *cells))
    columns = ("", *(f"M={m} " for m in counts))
    yield Sheet(f"A few rows, {_size(shape)}: us (times {BASE})", columns, rows)


def _coding_row(r: Result, report: Report) -> tuple[str, ...]:
    share = None if report.roofs is None else r.share(report.roofs.copy)
    head = f"{r.part} {r.contender}" + (f" ({r.note})" if r.note else "")
    rate = f"{r.gigabytes:,.0f}"
    return head, r.how, _us(r), rate, "" if share is None else f"{share:.0%}", r.hint


def _many_row(r: Result, report: Report) -> tuple[str, ...]:
    times = report.speedup(r)
    share = "" if times is None else f"{times:.0%}"
    words = "; ".join(filter(None, (r.note, r.hint)))
    return r.contender, str(r.m), _us(r), f"{r.teraflops:,.0f}", share, words


def _shapes(results: Iterable[Result]) -> list[Shape]:
    """The largest first."""
    return sorted({r.shape for r in results}, key=lambda s: s[0] * s[1], reverse=True)


def _us(result: Result) -> str:
    return "" if result.seconds is None else f"{result.seconds * 1e6:,.2f}"


def _times(speedup: float | None) -> str:
    return "" if speedup is None else f"{speedup:.2f}"


def _size(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
