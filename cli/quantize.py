"""The command that quantizes a model: what it asks for, and how a run shows itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..runtime.calibration import Calibration
    from ..runtime.runs.progress import Show, Status
    from ..runtime.runs.recipe import Recipe
    from ..runtime.runs.run import Result

BACKENDS = ("auto", "reference", "c", "numba", "triton")

#: What a shell says of a process that Ctrl-C ended.
INTERRUPTED = 130

#: Options under the headings of the help; what is not listed comes last.
_HEADINGS = {
    "What to make": ("format_name", "out", "bpw", "promote", "correct", "metric", "fuse"),
    "Calibration": ("texts", "calibration", "no_calibration", "tokens", "context"),
    "Search for grids (where -f has DD4, or is left out)": (
        "atoms",
        "bits",
        "grids",
        "block",
        "scale",
        "rule",
        "host",
        "rank",
        "reassign",
        "lloyd",
        "pool",
        "shares",
        "signs",
        "sample",
        "rounds",
        "search",
    ),
    "The run": ("workers", "engine", "fresh", "backend", "as_json"),
}
_SEARCH = _HEADINGS["Search for grids (where -f has DD4, or is left out)"]


_HELP = """Quantize the linear weights of MODEL into the checkpoint folder OUT.

MODEL is a Hugging Face folder with safetensors, a .safetensors file or a .gguf file.

\b
  fmtc quantize MODEL -o OUT -f nvfp4         one format for all layers
  fmtc quantize MODEL -o OUT --bpw 4.7        the best plan within 4.7 bits
  fmtc quantize MODEL -o OUT -f "NF4|DD4^16sUE4M3+knap0.10.OPQ.Wr"

With a budget, each layer gets a pair of grids, a promotion or corrections, so that all of them
together lose least; what is stored is counted to the last bit, and measured.

Everything that is finished is kept in OUT.run. A run that was killed goes on by the same command,
and ends with the same bytes. Results do not depend on --workers or --engine.
"""


class _Sections(click.Command):
    """A command whose help has its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        left = {p.name: p for p in self.get_params(ctx) if isinstance(p, click.Option)}
        for heading, names in _HEADINGS.items():
            records = [left.pop(name).get_help_record(ctx) for name in names]
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record])
        others = [p.get_help_record(ctx) for p in left.values()]
        with formatter.section("Others"):
            formatter.write_dl([record for record in others if record])


def _search_option(name: str, text: str, **settings: Any) -> Callable[[Any], Any]:
    return click.option(f"--{name}", name, help=text, **settings)


@click.command(cls=_Sections, help=_HELP)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-f",
    "--format",
    "format_name",
    metavar="FORMAT",
    help="A shipped name, a .fmt file, or a SOP string. Left out, a pair of grids is searched "
    "for each layer, within --bpw.",
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="OUT", help="A folder."
)
@click.option(
    "--bpw", metavar="NUMBER", help="Stored bits per weight, all counted, that are never exceeded."
)
@click.option(
    "--promote",
    metavar="LIST",
    help="Formats that layers may be promoted to within the budget, with commas between; 'none'. "
    "[default: a few of 5 to 7 bits]",
)
@click.option(
    "--correct",
    metavar="LIST",
    help="OPQ, Wr or both (OPQ0.95,Wr0.002); 'none'. [default: with --bpw, both]",
)
@click.option(
    "--metric",
    type=click.Choice(["acos", "mse", "wmse"]),
    default="wmse",
    show_default=True,
    help="What the plan decides by.",
)
@click.option("--fuse/--no-fuse", default=True, help="q/k/v share one format, and gate/up.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    help="Calibrate on this: a text, .jsonl, .gz or .xz file, or a folder; may be repeated.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Norms that `fmtc calibrate` has written, instead of a text.",
)
@click.option("--no-calibration", is_flag=True, help="All channels count alike.")
@click.option("--tokens", type=click.IntRange(min=2), default=8192, show_default=True)
@click.option("--context", type=click.IntRange(min=2), default=512, show_default=True)
@_search_option("atoms", "The alphabet, with commas between.", metavar="LIST")
@_search_option("bits", "Of a code.  [default: 4]", type=int)
@_search_option("grids", "That a block chooses from, 1 or 2.  [default: 2]", type=int)
@_search_option("block", "Elements of a block.  [default: 16]", type=int)
@_search_option("scale", "The scale word.  [default: UE4M3]", metavar="WORD")
@_search_option("rule", "absmax or argmax.", metavar="RULE")
@_search_option(
    "host", "What holds values: hif7, hif8, e4m3, fp32.  [default: hif7]", metavar="HOST"
)
@_search_option("rank", "Metric that blocks are ranked by.  [default: acos]", metavar="METRIC")
@_search_option("reassign", "Metric that a block chooses by.  [default: wmse]", metavar="METRIC")
@_search_option("lloyd", "Weights of the clustering: none, c, c2.", metavar="WEIGHTS")
@_search_option("pool", "Which blocks are a first grid's own.", metavar="RULE")
@_search_option("shares", "Percentages of the pool.  [default: 30,50,70]", metavar="LIST")
@click.option(
    "--signs/--no-signs",
    default=None,
    help="Try every grid mirrored, too.  [default: where the scale word has a sign to spare]",
)
@_search_option("sample", "Blocks that are looked at.  [default: 8192]", type=int)
@_search_option("rounds", "Of reassignment, at most.", type=int)
@_search_option("search", "Stored scales above and below that are tried.  [default: 1]", type=int)
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: all cores]"
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|here|ray|ray://HOST:PORT",
    help="Who does the work: worker processes, this process, or Ray.",
)
@click.option("--fresh", is_flag=True, help="Throw away unfinished work in OUT.run.")
@click.option("--backend", default="auto", show_default=True, type=click.Choice(BACKENDS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def quantize(ctx: click.Context, /, model: Path, out: Path, **asked: Any) -> None:
    """Quantize the linear weights of a model, or go on with a run that was killed."""
    from ..runtime.runs.failures import RunFailed
    from ..runtime.runs.run import quantize_model
    from . import console

    _check(asked)
    recipe = _recipe(asked)
    try:
        with _shown(out) as (show, notice):
            result = quantize_model(
                model,
                out,
                recipe,
                text=_text(asked["texts"]),
                calibration=_calibration(asked["calibration"]),
                norms=not asked["no_calibration"],
                workers=asked["workers"],
                engine=asked["engine"],
                backend=asked["backend"],
                progress=show,
                notice=notice,
                fresh=asked["fresh"],
            )
    except RunFailed as error:
        click.echo(f"error: {error}", err=True)
        ctx.exit(1)
    except KeyboardInterrupt:
        click.echo(
            f"\nstopped; what is finished is kept in '{out}.run': the same command goes on",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    console.table([_row(result, recipe, out)], as_json=asked["as_json"])
    if not asked["as_json"]:
        _what_next(result, recipe, model, out)


def _check(asked: dict[str, Any]) -> None:
    """Refuse options that do not go together, before anything is read."""
    if asked["format_name"] is None and asked["bpw"] is None:
        raise click.UsageError("say -f FORMAT, or --bpw NUMBER, or both")
    given = [name for name in ("texts", "calibration", "no_calibration") if asked[name]]
    if len(given) > 1:
        raise click.UsageError("give one of --text, --calibration and --no-calibration")


def _recipe(asked: dict[str, Any]) -> Recipe:
    """The recipe that the options make."""
    from ..runtime.grids.options import SearchOptions
    from ..runtime.runs.recipe import Recipe

    said = {name: asked[name] for name in _SEARCH if asked[name] is not None}
    for name in ("atoms", "shares"):
        if name in said:
            said[name] = tuple(_list(said[name]))
    if "shares" in said:
        said["shares"] = tuple(_whole(share) for share in said["shares"])
    options = SearchOptions(**said) if said else None
    if options is not None and asked["signs"] is None and options.could_mirror:
        options = replace(options, signs=True)
    recipe = Recipe.of(
        asked["format_name"],
        bpw=asked["bpw"],
        search=options,
        promotions=None if asked["promote"] is None else _list(asked["promote"]),
        corrections=None if asked["correct"] is None else _list(asked["correct"]),
        metric=asked["metric"],
        tokens=asked["tokens"],
        context=asked["context"],
        fuse=asked["fuse"],
    )
    if said and recipe.search is None:
        raise click.UsageError(
            f"--{min(said)} is for a search, and '{recipe.name}' is one format for all layers: "
            "write DD4 in its SOP string, or leave -f out"
        )
    return recipe


def _list(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    return [word for word in words if word and word != "none"]


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise click.BadParameter(f"'{text}' is no percentage", param_hint="--shares")
    return int(text)


def _text(paths: Sequence[str]) -> str | None:
    if not paths:
        return None
    from ..runtime.calibration import read_texts

    return read_texts(paths)


def _calibration(path: Path | None) -> Calibration | None:
    if path is None:
        return None
    from ..runtime.calibration import Calibration

    return Calibration.load(path)


# -- what is shown ---------------------------------------------------------------------------


def _row(result: Result, recipe: Recipe, out: Path) -> dict[str, Any]:
    totals = result.totals
    return {
        "format": recipe.base_format.name if recipe.is_fixed else recipe.name,
        "tensors": len(result.checkpoint.quantized_names),
        "weights": totals.weights,
        "bpw": totals.bpw,
        "NMSE": totals.nmse,
        "out": str(out),
    }


def _what_next(result: Result, recipe: Recipe, model: Path, out: Path) -> None:
    """What the layers got, where the time went, and what one may do with the checkpoint."""
    from . import console

    rows = [] if recipe.is_fixed else _choices(result)
    if rows:
        console.table(rows)
    spent = ", ".join(f"{stage} {_span(s)}" for stage, s in result.seconds.items() if s >= 1)
    if spent:
        click.echo(f"time: {spent}")
    click.echo(f"layers: {result.log}")
    click.echo(f"next: fmtc judge {out} --reference {model}; fmtc report {out}")


def _choices(result: Result) -> list[dict[str, Any]]:
    """How many units, and how much of the weights, got what."""
    from ..runtime.runs.log import Log

    counts: dict[str, list[float]] = {}
    for line in Log(result.log).lines():
        entry = counts.setdefault(line["choice"], [0, 0, 0.0])
        entry[0] += 1
        entry[1] += line["elements"]
        entry[2] += line["bpw"] * line["elements"]
    total = sum(entry[1] for entry in counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
    return [
        {
            "choice": label,
            "units": int(units),
            "% of weights": round(100 * elements / total, 2),
            "bpw": bits / elements,
        }
        for label, (units, elements, bits) in ordered
    ]


@contextmanager
def _shown(out: Path) -> Iterator[tuple[Show, Callable[[str], None]]]:
    """A bar over all stages on a terminal; elsewhere one line a stage, on stderr."""

    def line(text: str) -> None:
        click.echo(text, err=True)

    if not sys.stderr.isatty():
        yield lambda status: _stage_line(status, line), line
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from .console import _rich

    left = _left_column()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), left)
    with Progress(*columns, console=_rich(err=True), transient=True) as bar:
        task = bar.add_task(str(out), total=1.0, until=None)

        def show(status: Status) -> None:
            until = None if status.remaining is None else time.monotonic() + status.remaining
            what = status.what[-44:]
            bar.update(
                task,
                description=f"{status.stage} {what}",
                completed=status.fraction,
                until=until,
            )
            _stage_line(status, bar.console.print)

        yield show, bar.console.print


def _left_column() -> Any:
    """A column that counts down to the estimated end."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            until = task.fields.get("until")
            if until is None:
                return Text("estimating")
            return Text(f"about {_span(max(0.0, until - time.monotonic()))} left")

    return Left()


def _stage_line(status: Status, line: Callable[[str], None]) -> None:
    if status.ended:
        note = f"{status.note}, " if status.note else ""
        line(f"{status.stage}: {note}{_span(status.seconds)}")


def _span(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
