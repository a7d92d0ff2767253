"""``fmtc cost``: what a format costs in hardware, as a table, JSON or a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..compiler.format import Format
    from ..runtime.rtl.baselines import Comparison
    from ..runtime.rtl.cost import Cost
    from ..runtime.rtl.hosts import Hosted
    from ..runtime.rtl.measure import Bench

#: What a plot may be written as, and what it may show.
PLOTS = (".svg", ".png")
AXES = ("area", "energy", "bpw")
QUALITIES = ("mse", "kl")

#: The formats that ``--baselines`` compares where none is named.
COMPARED = ("nf4_hif7",)

Step = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What one call of ``fmtc cost`` found.

    Attributes:
        notes: the flow, the data, and what is missing.
        hosts: rows of the formats' grids in hosts.
        baselines: the comparison, where it was asked for.
    """

    costs: list[Cost]
    hosts: list[dict[str, Any]]
    baselines: Comparison | None
    notes: list[str]

    def values(self) -> dict[str, Any]:
        """Everything, as JSON-ready values."""
        return {
            "notes": self.notes,
            "costs": [cost.values() for cost in self.costs],
            "hosts": self.hosts,
            "baselines": None if self.baselines is None else self.baselines.values(),
        }


@click.command()
@click.argument("format_names", nargs=-1, metavar="[FORMAT]...")
@click.option(
    "--library",
    default="osu018",
    show_default=True,
    metavar="NAME|FILE",
    help="Cells: osu018, osu035, osu050, or a Liberty file.",
)
@click.option("--activations", metavar="FORMAT", help="Of the other factor.  [default: HIF8]")
@click.option(
    "--hosts",
    metavar="LIST",
    help="The codes through tables of other words: hif7,hif8,tc6,e2m3,e4m3,bf16 or all.",
)
@click.option(
    "--baselines",
    is_flag=True,
    help="Beside BF16, E4M3 (exact sum), INT8 and NVFP4, each times its own kind.",
)
@click.option("--analytic", is_flag=True, help="By the calibrated model, without any tool.")
@click.option(
    "--tile", default="16x16", show_default=True, metavar="ROWSxCOLUMNS", help="Of a core to feed."
)
@click.option("--no-fpga", is_flag=True, help="Leave out place and route.")
@click.option("--no-energy", is_flag=True, help="Leave out switching activity.")
@click.option("--relaxed", is_flag=True, help="One point of area and delay instead of a curve.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw errors against costs as well, as .svg or .png.",
)
@click.option(
    "--against",
    type=click.Choice(AXES),
    default="area",
    show_default=True,
    help="What the plot has errors against.",
)
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    default="mse",
    show_default=True,
    help="The plot's error: of Gaussian data, or the divergence of the demo's model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def cost(
    ctx: click.Context,
    format_names: tuple[str, ...],
    library: str,
    activations: str | None,
    hosts: str | None,
    baselines: bool,
    analytic: bool,
    tile: str,
    no_fpga: bool,
    no_energy: bool,
    relaxed: bool,
    plot: Path | None,
    against: str,
    quality: str,
    as_json: bool,
) -> None:
    """Show what a format costs: area, delay and energy of its dot product, LUTs, storage.

    A dot product of 16 elements is synthesized to real cells; energy is taken of real weights and
    activations. Results are remembered. Where a tool is missing a calibrated model stands in, and
    every row says so. Exit code 2: a format has no such hardware.
    """
    from .. import formats
    from ..codegen import NotExpressible
    from ..compiler.block_product import NoBlockProduct, check_format
    from ..runtime.rtl.cost import cost_of
    from . import console

    if not format_names and not baselines:
        raise click.UsageError("name a format (see `fmtc list`), or ask for --baselines")
    if plot is not None:
        check_plot(plot)
    size, hosted_in = _tile(tile), _hosts(hosts)
    values = [formats.load(name) for name in format_names or COMPARED]
    other = None if activations is None else formats.load(activations)
    notes: list[str] = []
    costs: list[Cost] = []
    refused: list[str] = []
    rows: list[dict[str, Any]] = []
    compared = None
    with console.progress("costs", None) as step:
        bench = None if analytic else _bench(library, no_energy, no_fpga, relaxed, step, notes)
        if bench is None:
            notes.append(_model_note())
        for value in values:
            try:
                check_format(value, with_sides=True)
                if other is not None:
                    check_format(other)
                step(f"{value.name}: error")
                mse = _quality(quality if plot is not None else "mse", value, step)
                costs.append(cost_of(value, other, bench, size, mse))
                for host in hosted_in:
                    step(f"{value.name}: hosted in {host}")
                    rows += _hosted(value, other, host, bench)
            except (NoBlockProduct, NotExpressible) as error:
                refused.append(str(error))
        if baselines:
            from ..runtime.rtl.baselines import compare

            compared = compare(values, bench)
    report = Report(costs, rows, compared, notes)
    if as_json:
        console.json_out(report.values())
    else:
        show(report)
    for reason in refused:
        click.echo(f"error: {reason}", err=True)
    if plot is not None and costs:
        draw(report, plot, against, quality)
    ctx.exit(2 if refused else 0)


def check_plot(plot: Path) -> None:
    """Refuse a drawing of another kind, or without the library that draws."""
    from .analysis import drawing_package

    if plot.suffix.lower() not in PLOTS:
        raise click.BadParameter(f"'{plot}' ends in none of .svg, .png", param_hint="--plot")
    drawing_package()


def _tile(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    counts = [side for side in sides if side.isascii() and side.isdigit() and int(side)]
    if len(sides) != 2 or len(counts) != 2:
        raise click.BadParameter(f"'{text}' is no size such as 16x16", param_hint="--tile")
    return int(sides[0]), int(sides[1])


def _hosts(text: str | None) -> list[str]:
    from ..runtime.rtl.hosts import HOSTS

    if text is None:
        return []
    names = list(HOSTS) if text == "all" else [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in HOSTS:
            raise click.BadParameter(
                f"'{name}' is no host; there are {', '.join(HOSTS)}", param_hint="--hosts"
            )
    return names


def _bench(
    library: str, no_energy: bool, no_fpga: bool, relaxed: bool, step: Step, notes: list[str]
) -> Bench | None:
    """What measures, or None where synthesis is not to be had; the notes say what is missing.

    Raises:
        BackendUnavailable: a library that the user named is not there.
        BadLibrary: it is none.
    """
    from ..runtime.backend import BackendUnavailable
    from ..runtime.rtl import activity, fpga, synthesis
    from ..runtime.rtl.liberty import SHIPPED, load_library
    from ..runtime.rtl.measure import Bench
    from ..runtime.rtl.tools import require

    try:
        require("yosys")
        cells = load_library(library)
        notes.append(f"flow: {synthesis.flow(cells)}")
    except BackendUnavailable as error:
        if library not in SHIPPED:
            raise
        notes.append(f"no synthesis: {error}")
        return None
    for tool, what in (("sta", "delays are abc's"), ("nextpnr-ice40", "no FPGA figures")):
        try:
            require(tool)
        except BackendUnavailable as error:
            notes.append(f"{what}: {error}")
            no_fpga = no_fpga or tool == "nextpnr-ice40"
    if not no_fpga:
        notes.append(f"FPGA: {fpga.flow()}")
    data = None
    if not no_energy:
        step("activations of the demo's model")
        data = activity.data()
        notes.append(
            f"energy: {data.source}; changes of nets by simulation without delays "
            "(hazards are not counted), wires and clock left out"
        )
    efforts = ("relaxed",) if relaxed else tuple(synthesis.EFFORTS)
    return Bench(cells, efforts, data, not no_fpga, step)


def _model_note() -> str:
    from ..runtime.rtl import analytic

    return (
        f"figures are of the model '{analytic.NAME}': gate counts from widths, "
        "within 15 % of synthesis on the formats that it was tried on"
    )


def _quality(kind: str, fmt: Format, step: Step) -> float | None:
    if kind == "kl":
        from ..runtime.rtl.quality import divergence

        return divergence(fmt, step)
    from ..runtime.gaussian import gaussian_mse

    return gaussian_mse(fmt)


def _hosted(
    fmt: Format, activation: Format | None, name: str, bench: Bench | None
) -> list[dict[str, Any]]:
    """The row of a format in one host."""
    from ..runtime.rtl import hosts

    power, free = hosts.hosted(fmt, hosts.HOSTS[name])
    row = {
        "format": fmt.name,
        "host": name,
        "bits": power.host.bits,
        "mse 2^k": power.mse,
        "penalty 2^k": power.penalty,
        "mse free": free.mse,
        "penalty free": free.penalty,
        "factor": free.factor,
        "bpw": fmt.bpw,
        "area": None,
        "delay": None,
        "energy": None,
        "model": None,
        "grids": _grids(free),
    }
    return [row | hosts.figures(fmt, free, activation, bench)]


def _grids(found: Hosted) -> list[list[float]]:
    return [[float(v) for v in grid.numbers] for grid in found.grids]


# -- a table ---------------------------------------------------------------------------


def show(report: Report) -> None:
    """Print the tables and what they rest on."""
    from . import console

    for note in report.notes:
        click.echo(note)
    if report.costs:
        click.echo()
        console.table(list(_rows(report.costs)))
        click.echo("area, delay, energy: of a dot product of that many lanes with its decoders;")
        click.echo("scaling: area of the accumulate that every block takes, with one rounding")
        parts = list(_parts(report.costs))
        if parts:
            console.table(parts)
    if report.hosts:
        click.echo("the same codes, with tables of other words; penalty: beside the format's own")
        click.echo("grids, Gaussian blocks under exact scales")
        console.table([_host_row(row) for row in report.hosts])
    if report.baselines is not None:
        click.echo("a dot product of 16 elements, codes to sum; the other factor is decoded words")
        console.table(report.baselines.rows())
        for line in report.baselines.verdicts():
            click.echo(line)


def _rows(costs: list[Cost]) -> Iterator[dict[str, Any]]:
    for one in costs:
        found = one.measured
        scaling = None if found is None else found.scale_apply
        placed = None if found is None else found.placed
        yield {
            "format": one.name,
            "activations": one.activations,
            "by": one.model,
            "lanes": one.lanes,
            "area": round(one.area),
            "delay ns": _scaled(one.delay, 1e9),
            "energy pJ": _scaled(one.energy, 1e12),
            "scaling": None if scaling is None else round(scaling.first.area),
            "LUT4": None if placed is None else placed.luts,
            "MHz": None if placed is None else placed.mhz,
            "bpw": one.bpw,
            "B/weight": one.bytes_per_weight,
            "bits/cycle": one.bits_per_cycle,
            "MSE": None if one.mse is None else f"{one.mse:.4e}",
        }


def _parts(costs: list[Cost]) -> Iterator[dict[str, Any]]:
    for one in costs:
        found = one.measured
        if found is None:
            continue
        named = [("dot", found.dot), *found.parts.items()]
        if found.scale_apply is not None:
            named.append(("scale_apply", found.scale_apply))
        for name, part in named:
            for point in part.points:
                yield {
                    "format": one.name,
                    "part": name,
                    "effort": point.effort,
                    "area": round(point.area),
                    "delay ns": _scaled(point.delay, 1e9),
                    "by": point.delay_by,
                }


def _host_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": row["format"],
        "host": row["host"],
        "bits": row["bits"],
        "penalty 2^k %": f"{100 * row['penalty 2^k']:+.2f}",
        "penalty free %": f"{100 * row['penalty free']:+.2f}",
        "factor": row["factor"],
        "area": None if row["area"] is None else round(row["area"]),
        "delay ns": _scaled(row["delay"], 1e9),
        "energy pJ": _scaled(row["energy"], 1e12),
        "by": row["model"],
    }


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else float(f"{value * unit:.4g}")


# -- a file ----------------------------------------------------------------------------


def draw(report: Report, path: Path, against: str, quality: str) -> None:
    """Write errors against costs as an SVG or PNG file, by the path's suffix."""
    from importlib import import_module

    from ..runtime.atomic import write_atomically
    from .analysis import drawing_package

    with drawing_package().rc_context({"svg.hashsalt": "fmtc", "svg.fonttype": "none"}):
        figure = import_module("matplotlib.figure").Figure(figsize=(7, 4.5), layout="constrained")
        _axes(report, figure.add_subplot(), against, quality)
        octets = BytesIO()
        kind = path.suffix[1:].lower()
        # Without a date, the same figures give the same file.
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(octets, format=kind, dpi=160, metadata=metadata)
    write_atomically(path, octets.getvalue())


def _axes(report: Report, axes: Any, against: str, quality: str) -> None:
    points = [(one.name, getattr(one, against), one.mse) for one in report.costs]
    if quality == "mse":
        points += [
            (f"{row['format']} in {row['host']}", row[against], row["mse free"])
            for row in report.hosts
        ]
    known = [(name, x, y) for name, x, y in points if x is not None and y is not None]
    scale = {"area": 1.0, "energy": 1e12, "bpw": 1.0}[against]
    front = set(pareto([(x, y) for _, x, y in known]))
    for at, (name, x, y) in enumerate(known):
        axes.plot(x * scale, y, marker="o" if at in front else "x", color="C0", linestyle="")
        axes.annotate(name, (x * scale, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    line = sorted((known[at][1] * scale, known[at][2]) for at in front)
    axes.step(*zip(*line, strict=True), where="post", color="grey", linewidth=0.8)
    library = report.costs[0].library
    axes.set_xlabel(
        {
            "area": f"area of a dot product, cells of {library}",
            "energy": f"energy of a dot product, pJ, cells of {library}",
            "bpw": "stored bits per weight",
        }[against]
    )
    axes.set_ylabel(
        "mean squared error, Gaussian elements"
        if quality == "mse"
        else "divergence of the demo's model, nats a token"
    )
    axes.set_yscale("log")
    axes.set_title(f"{report.costs[0].model}")
    axes.grid(visible=True, alpha=0.3)


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """The indices of the points that no other equals or betters in both figures."""
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any((a <= x and b <= y) and (a < x or b < y) for a, b in points)
    ]
