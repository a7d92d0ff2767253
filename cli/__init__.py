"""The command line: ``fmtc COMMAND``.

Exit codes: 0 all is well, 1 a difference or a failure, 2 bad input. Commands import what they
need when they run, so that ``fmtc --help`` answers at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._version import __version__
from .calibrate import calibrate
from .cost import cost
from .errors import analyze, expect, json_option, prove
from .export import convert, export, rotate
from .judge import compare, judge, report
from .learn import learn
from .quantize import quantize

if TYPE_CHECKING:
    from ..compiler import format as compiled
    from ..runtime.format import Format

TARGETS = ("c", "triton", "verilog", "vectors", "datasheet")
BACKENDS = ("auto", "reference", "c", "numba", "triton")


class _Commands(click.Group):
    """A group that turns the errors of a user's input into a message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from .console import bad_input, user_errors

        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read our output has seen enough: click ends without a word
        except user_errors() as error:
            bad_input(error)
            ctx.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fmtc")
def cli() -> None:
    """A compiler for the number formats that large language models are quantized to.

    FORMAT is the name of a shipped format (see `fmtc list`), the path of a .fmt file, or a SOP
    string such as "NF4|E2M1^16sE4M3".
    """


@cli.command("list")
@click.option("--group", metavar="GROUP", help="Only the formats of one group.")
@click.option("--no-mse", is_flag=True, help="Leave out the error on Gaussian data.")
@json_option
def list_(group: str | None, no_mse: bool, as_json: bool) -> None:
    """List the shipped formats, group by group.

    MSE is the mean squared error of 2^18 Gaussian elements of variance 1 by the reference
    encoder; it is measured the first time and then remembered. max/min is the ratio of the
    largest to the smallest nonzero magnitude of the grids.
    """
    from .. import formats
    from ..compiler.describe import summary
    from . import console

    if group is not None and group not in formats.groups():
        raise click.BadParameter(
            f"'{group}' is none of {', '.join(formats.groups())}", param_hint="--group"
        )
    wanted = [n for n in formats.names() if group is None or formats.group_of(n) == group]
    entries = {name: formats.load(name) for name in wanted}
    errors = {} if no_mse else _gaussian_errors(entries)
    rows = [
        {"group": formats.group_of(name), **summary(fmt), "mse": errors.get(name)}
        for name, fmt in entries.items()
    ]
    if as_json:
        console.json_out(rows)
    else:
        console.catalogue(rows)


def _gaussian_errors(entries: dict[str, compiled.Format]) -> dict[str, float]:
    """Name -> mean squared error, with a bar for those that are not known yet."""
    from ..runtime.gaussian import gaussian_mse, known_mse
    from . import console

    known = {name: known_mse(fmt) for name, fmt in entries.items()}
    found = {name: mse for name, mse in known.items() if mse is not None}
    with console.progress("measuring", len(entries) - len(found)) as step:
        for name, fmt in entries.items():
            if name not in found:
                step(name)
                found[name] = gaussian_mse(fmt)
    return found


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], as_json: bool) -> None:
    """Check .fmt files and report every fault of each."""
    from .. import formats
    from ..dsl.diagnostics import FormatError
    from . import console

    rows: list[dict[str, Any]] = []
    failed = False
    for file in files:
        try:
            fmt = formats.load(file)
        except (FormatError, formats.UnknownFormat) as error:
            failed = True
            rows.append({"file": file, "ok": False, **console.report(error)})
            if not as_json:
                console.bad_input(error)
        else:
            rows.append({"file": file, "ok": True, "name": fmt.name, "hash": fmt.content_hash})
            if not as_json:
                click.echo(
                    f"{file}: ok ({fmt.name}, {fmt.bpw:g} bpw, hash {fmt.content_hash[:16]})"
                )
    if as_json:
        console.json_out(rows)
    ctx.exit(2 if failed else 0)


@cli.command()
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 if a file would.")
@click.option("-o", "out", metavar="-", type=click.Choice(["-"]), help="Print instead of writing.")
@click.pass_context
def fmt(ctx: click.Context, files: tuple[Path, ...], only_check: bool, out: str | None) -> None:
    """Rewrite .fmt files in the canonical layout."""
    from .. import formats
    from ..dsl.diagnostics import FormatError
    from ..dsl.parser import parse
    from ..dsl.printer import print_file
    from ..runtime.atomic import write_atomically
    from . import console

    different = failed = False
    for path in files:
        try:
            text = formats.read_text(path)
            canonical = print_file(parse(text, str(path)))
        except (FormatError, formats.UnknownFormat) as error:
            failed = True
            console.bad_input(error)
            continue
        if out:
            click.echo(canonical, nl=False)
        elif canonical != text:
            different = True
            if not only_check:
                write_atomically(path, canonical.encode())
            click.echo(f"{path}: {'would be rewritten' if only_check else 'rewritten'}")
    ctx.exit(2 if failed else 1 if different and only_check else 0)


@cli.command()
@click.argument("format_name", metavar="FORMAT")
@click.option(
    "--as",
    "form",
    type=click.Choice(["table", "json", "fmt"]),
    default="table",
    show_default=True,
    help="fmt: the canonical text, which imports and extends nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --as json.")
def show(format_name: str, form: str, as_json: bool) -> None:
    """Print a format's datasheet: grids, scale word, layout, every policy, and the worst case."""
    from .. import formats
    from ..compiler.datapath.derive import datapath as derived
    from ..compiler.describe import datasheet
    from . import bounds, console, datapath

    value = formats.load(format_name)
    if form == "fmt" and not as_json:
        click.echo(value.source, nl=False)
        return
    sheet = datasheet(value) | {"bounds": bounds.section(value)}
    sheet["datapath"] = derived(value).as_json()
    if form == "json" or as_json:
        console.json_out(sheet)
    else:
        console.datasheet(sheet)
        bounds.worst_case(sheet["bounds"])
        click.echo()
        datapath.show(sheet["datapath"])


@cli.command()
@click.argument("name", required=False)
@click.option("--from", "template", default="minimal", show_default=True, metavar="TEMPLATE")
@click.option("--list", "only_list", is_flag=True, help="List the templates and write nothing.")
@click.option("--force", is_flag=True, help="Write over a NAME.fmt that is there.")
def new(name: str | None, template: str, only_list: bool, force: bool) -> None:
    """Write NAME.fmt, a commented format to start from."""
    from .. import formats
    from ..runtime.atomic import write_atomically

    if only_list:
        for known, title in formats.template_titles().items():
            click.echo(f"{known:20} {title}")
        return
    if name is None:
        raise click.UsageError("give the NAME of the format, or --list")
    text = formats.started(name, template)
    path = Path(f"{name}.fmt")
    if path.exists() and not force:
        raise click.UsageError(f"'{path}' is there already; --force writes over it")
    write_atomically(path, text.encode())
    click.echo(f"{path}: written; next: fmtc check {path}")


@cli.command()
@click.argument("format_name", metavar="FORMAT")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR")
@click.option("--target", default=",".join(TARGETS), show_default=True, metavar="LIST")
@click.option(
    "--activations",
    metavar="FORMAT",
    help="What the hardware multiplies with, in blocks of the same length. "
    "[default: HIF8 words under UE4M4 scales]",
)
@json_option
def build(format_name: str, out: Path, target: str, activations: str | None, as_json: bool) -> None:
    """Generate kernels, RTL and vectors into DIR, one folder a target."""
    from .. import codegen, formats
    from ..runtime.atomic import write_atomically
    from . import console

    targets = list(dict.fromkeys(name.strip() for name in target.split(",")))
    for name in targets:
        if name not in TARGETS:
            raise click.BadParameter(
                f"'{name}' is none of {', '.join(TARGETS)}", param_hint="--target"
            )
    value = formats.load(format_name)
    activation = formats.load(activations) if activations else None
    rows = []
    with console.progress("generating", len(targets)) as step:
        for name in targets:
            step(name)
            try:
                files = codegen.emit(value, name, activation)
            except codegen.NotExpressible as reason:
                rows.append({"target": name, "file": f"skipped: {reason}", "bytes": 0})
                continue
            for file, text in files.items():
                octets = text.encode()
                write_atomically(out / name / file, octets)
                rows.append({"target": name, "file": str(out / name / file), "bytes": len(octets)})
    write_atomically(out / f"{value.name}.fmt", value.source.encode())
    console.table(rows, as_json=as_json)


@cli.command()
@click.argument("format_names", metavar="[FORMAT]...", nargs=-1)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="DIR")
@json_option
def vectors(format_names: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Write conformance packs, one folder a format: of every shipped format where none is named.

    A pack holds JSON lines, `$readmemh` files where there is RTL, the .fmt text, and a README of
    the schema.
    """
    from .. import codegen, formats
    from ..runtime.atomic import write_atomically
    from . import console

    values = [formats.load(name) for name in format_names or formats.names()]
    rows = []
    with console.progress("writing vectors", len(values)) as step:
        for value in values:
            step(value.name)
            files = codegen.emit(value, "vectors") | {f"{value.name}.fmt": value.source}
            for file, text in files.items():
                write_atomically(out / value.name / file, text.encode())
            size = sum(len(text) for text in files.values())
            rows.append({"format": value.name, "files": len(files), "bytes": size})
    console.table(rows, as_json=as_json)


@cli.command()
@click.argument("format_name", metavar="FORMAT")
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Random values a back end.",
)
@click.option("--quick", is_flag=True, help="Leave out RTL simulation and offline GPU compilation.")
@json_option
@click.pass_context
def verify(ctx: click.Context, format_name: str, cases: int, quick: bool, as_json: bool) -> None:
    """Test a format across all back ends: exhaustively, at every tie, and with Hypothesis."""
    from ..runtime.verify import verify_format
    from . import console

    value = _load(format_name)
    with console.progress(f"verifying {value.name}", None) as step:
        results = verify_format(value, cases=cases, quick=quick, progress=step)
    console.table([result.row() for result in results], as_json=as_json)
    failed = sum(result.status == "failed" for result in results)
    skipped = sum(result.status == "skipped" for result in results)
    if not as_json:
        total = sum(result.cases for result in results)
        click.echo(
            f"{value.name}: {len(results) - failed - skipped} passed, {failed} failed, "
            f"{skipped} skipped; {total:,} cases"
        )
        for result in results:
            if result.status == "failed":
                click.echo(f"\nFAILED {result.check}\n{result.detail}", err=True)
    ctx.exit(1 if failed else 0)


for command in (
    *(prove, expect, analyze, cost),
    *(learn, calibrate, quantize, judge, compare, report),
    *(rotate, convert, export),
):
    cli.add_command(command)


def _load(format_name: str) -> Format:
    from ..runtime.format import load

    return load(format_name)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A title may hold characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    cli()
