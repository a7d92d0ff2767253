"""How the command line shows things: tables, progress, errors. Everything else returns data."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..dsl.diagnostics import FormatError


def user_errors() -> tuple[type[Exception], ...]:
    """The errors that are the input's, not the program's."""
    from ..dsl.diagnostics import FormatError
    from ..formats import UnknownFormat
    from ..runtime import errors
    from ..runtime.backend import BackendUnavailable

    return (
        FormatError,
        UnknownFormat,
        BackendUnavailable,
        errors.CorruptFile,
        errors.MissingPackage,
        errors.RefusedInput,
        errors.UnusableModel,
        OSError,
    )


def bad_input(error: Exception) -> None:
    """Print what is wrong with the input, on stderr."""
    from ..dsl.diagnostics import FormatError

    if isinstance(error, FormatError):
        click.echo(str(error), err=True)
        count = len(error.diagnostics)
        click.echo(f"\n{error.filename}: {count} fault{'s' * (count != 1)}", err=True)
    else:
        click.echo(f"error: {error}", err=True)


def report(error: Exception) -> dict[str, Any]:
    """What is wrong with a file as JSON-ready values: its faults, or why it cannot be read."""
    from ..dsl.diagnostics import FormatError

    if isinstance(error, FormatError):
        return {"faults": faults(error)}
    return {"faults": [], "error": str(error)}


def faults(error: FormatError) -> list[dict[str, Any]]:
    """The diagnostics of a report as JSON-ready values."""
    return [
        {
            "code": d.code,
            "line": d.span.line,
            "column": d.span.column,
            "end_line": d.span.end_line,
            "end_column": d.span.end_column,
            "message": d.message,
            "expected": d.expected,
            "hint": d.hint,
        }
        for d in error.diagnostics
    ]


def json_out(value: Any) -> None:
    """Print JSON on stdout; a number that is not finite becomes null, as JSON has none."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[dict[str, Any]], *, as_json: bool = False) -> None:
    """Print rows with the same keys as a table, or as JSON."""
    if as_json:
        json_out(list(rows))
        return
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in rows[0] if rows else ():
        numeric = any(isinstance(row[key], int | float) for row in rows)
        shown.add_column(key, justify="right" if numeric else "left")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row.values()))
    _rich().print(shown)


def catalogue(rows: Sequence[dict[str, Any]]) -> None:
    """Print the list of formats, a heading before those of each group."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("format", no_wrap=True)
    for key in ("bpw", "MSE", "max/min"):
        shown.add_column(key, justify="right", no_wrap=True)
    shown.add_column("host", no_wrap=True)
    shown.add_column("title")
    for group in sorted({row["group"] for row in rows}):
        shown.add_section()
        shown.add_row(Text(group, style="bold"))
        for row in (row for row in rows if row["group"] == group):
            figures = [_cell(float(f"{row[key]:.4g}")) for key in ("bpw", "ratio")]
            mse = "-" if row["mse"] is None else f"{row['mse']:.3e}"
            cells = (f"  {row['name']}", figures[0], mse, figures[1], row["host"], row["title"])
            shown.add_row(*cells)
    _rich().print(shown)


def datasheet(sheet: dict[str, Any]) -> None:
    """Print a format's datasheet."""
    click.echo(f"{sheet['name']}: {sheet['title']}".rstrip(": "))
    for key in ("use", "check"):
        if sheet[key]:
            click.echo(f"  {key}: {sheet[key]}")
    for cite in sheet["cites"]:
        click.echo(f"  from {cite}")
    click.echo(f"  hash {sheet['hash']}\n")
    _words(sheet)
    hosting = sheet["hosting"]
    click.echo(
        f"hosted in {hosting['host']}: value = coefficient * 2^(shift{hosting['exponent']:+d})"
        if hosting
        else "no HIF host holds the grids exactly: hardware decodes to fixed point"
    )
    click.echo()
    _grids(sheet)
    table(
        [
            {
                "policy": choice["knob"],
                "value": choice["value"] + ("" if choice["said"] else "  (default)"),
                "meaning": choice["meaning"],
            }
            for choice in sheet["choices"]
        ]
    )


def _words(sheet: dict[str, Any]) -> None:
    """Which bits there are: codes, scale words, select fields, and what stands beside them."""
    scale, select, zero = sheet["scale"], sheet["select"], sheet["zero"]
    tile = f"{sheet['tile']} x " if sheet["tile"] > 1 else ""
    unit = f"block of {tile}{sheet['block']}" if sheet["extent"] == "block" else sheet["extent"]
    word = f"{scale['container']}-bit scale word"
    click.echo(
        f"{sheet['bpw']:g} bits per weight: {sheet['code_bits']}-bit codes, "
        f"{'a stored fp32 scale' if scale['stored'] else word} a {unit}"
        + (f", {select['bits']}-bit select field" if select["place"] == "field" else "")
    )
    if scale["stored"]:
        click.echo(f"scale {scale['word']}, of which is stored: {_stored(scale['stored'])}")
    else:
        click.echo(f"scale word {scale['word']}: {scale['diagram']}  (most significant bit first)")
        click.echo(
            f"  bias {scale['bias']}, top {scale['top']}, subnormals "
            f"{'on' if scale['subnormals'] else 'off'}; "
            f"{scale['smallest_normal']:g} to {scale['largest']:g} are normal"
        )
    if select["bits"]:
        plural = "s" * (select["bits"] > 1)
        mark = " (u)" if select["positions"] else ""
        click.echo(f"select: {select['bits']} bit{plural} at {select['place']}{mark}")
    if zero:
        plain = f"{zero['word']}, " * bool(zero["word"]) + f"{zero['bits']} bits"
        word = _stored(zero["stored"]) if zero["stored"] else plain
        click.echo(f"zero {zero['kind']}: {word}{', negated' * zero['negated']}")
    for side in sheet["sides"]:
        click.echo(f"side {side['kind']}: {side['value']}, {side['bpw']:.3g} bits per weight")
    if sheet["record"]:
        names = ", ".join(field["stream"] for field in sheet["record"]["fields"])
        click.echo(f"records of {sheet['record']['elements']} elements: {names}")


def _stored(inner: dict[str, Any]) -> str:
    """The format that scales or minima are stored in, in a line."""
    word = f"{inner['container']}-bit {inner['word']} scale"
    return (
        f"{inner['code_bits']}-bit codes, {word} a block of {inner['block']}, {inner['bpw']:g} bits"
    )


def _grids(sheet: dict[str, Any]) -> None:
    """One row a code for up to 16 codes, else the values alone."""
    grids = sheet["grids"]
    if 1 << sheet["code_bits"] > 16:
        for grid in grids:
            values = sorted(c["value"] for c in grid["codes"] if c["value"] is not None)
            click.echo(f"grid {grid['name']} = {grid['atom']}: {len(values)} values")
            click.echo(click.wrap_text(", ".join(f"{v:g}" for v in values), 96, "  ", "  "))
        return
    rows = []
    for code in range(1 << sheet["code_bits"]):
        row: dict[str, Any] = {"code": f"{code:0{sheet['code_bits']}b}"}
        for grid in grids:
            entry = grid["codes"][code]
            row[grid["name"]] = "NaN" if entry["value"] is None else f"{entry['value']:.9g}"
            if sheet["hosting"]:
                word = entry["hif"]
                row[f"{grid['name']} c<<s"] = word and "{coefficient}<<{shift}".format(**word)
        rows.append(row)
    table(rows)


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[str], None]]:
    """A bar on stderr that steps once a call; it is seen on a terminal only."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with _bar(*columns) as bar:
        task = bar.add_task(title, total=total)
        started = False

        def step(what: str) -> None:
            nonlocal started
            bar.update(task, description=f"{title}: {what}", advance=int(started))
            started = True

        yield step


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for work that reports (what, done, total)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _bar(*columns) as bar:
        task = bar.add_task("", total=None)

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield step


def _bar(*columns: Any) -> Any:
    """A progress bar on stderr; where that is no terminal, one that prints nothing."""
    from rich.progress import Progress

    disable = not sys.stderr.isatty()
    return Progress(*columns, console=_rich(err=True), transient=True, disable=disable)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rich(*, err: bool = False) -> Any:
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    # A pipe has no width: keep rows whole there.
    width = None if stream.isatty() else 160
    return Console(file=stream, width=width, highlight=False, markup=False, soft_wrap=False)
