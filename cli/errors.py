"""The commands that speak of errors: ``fmtc prove``, ``expect`` and ``analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..compiler.expected.gain import Gain

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@click.command()
@click.argument("format_names", nargs=-1, required=True, metavar="FORMAT...")
@click.option("--fresh", is_flag=True, help="Derive anew what the cache has.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the proofs there, as FORMAT.proof.json.",
)
@json_option
@click.pass_context
def prove(
    ctx: click.Context, format_names: tuple[str, ...], fresh: bool, out: Path | None, as_json: bool
) -> None:
    """Prove how much a format can err at worst, and show inputs that do.

    Every bound is derived in exact rationals, checked by code of its own, and carries an input
    that comes near it in the compiled encoder. Exit code 1: a check failed, an input stays below
    99.9 % of a bound that is said to be attained, or nothing is known of such a format.
    """
    from .. import formats
    from . import bounds

    values = [formats.load(name) for name in format_names]
    ctx.exit(0 if bounds.prove(values, fresh=fresh, out=out, as_json=as_json) else 1)


@click.command()
@click.argument("format_name", metavar="FORMAT")
@click.option("--against", metavar="OTHER", help="Pair its first grid with that of OTHER.")
@click.option(
    "--law",
    "law_name",
    default="gaussian",
    show_default=True,
    metavar="gaussian|laplace|student[:N]",
    help="Of the elements, which are independent; N: degrees of freedom.",
)
@click.option(
    "--blocks", metavar="LIST", help="Block sizes, such as 16,64,256.  [default: 4 to 65536]"
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the curve as well, as .svg or .png.",
)
@json_option
def analyze(
    format_name: str,
    against: str | None,
    law_name: str,
    blocks: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Show what choosing a grid block by block gains as blocks grow, and where it stops to pay.

    FORMAT has two grids or more, or several targets; with --against any two formats make a pair.
    """
    from .. import formats
    from ..compiler.expected.gain import NotServed, break_even, choice, decay, gain_curve
    from ..compiler.expected.laws import law
    from . import console
    from .analysis import PLOTS, Analysis, draw, drawing_package
    from .analysis import show as shown

    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise click.BadParameter(f"'{plot}' ends in none of .svg, .png", param_hint="--plot")
    if plot is not None:
        drawing_package()
    sizes = _block_sizes(blocks)
    try:
        elements = law(law_name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--law") from error
    value = formats.load(format_name)
    other = None if against is None else formats.load(against)
    try:
        ways, bits = choice(value, other)
    except NotServed as error:
        raise click.UsageError(str(error)) from error
    curve: list[Gain] = []
    with console.progress("integrating", None) as step:

        def gain(size: int) -> Gain:
            step(f"blocks of {size:,}")
            return gain_curve(value, elements, (size,), other)[0]

        curve += map(gain, sizes)
        even = break_even(curve, gain if curve[0].method == "quadrature" else None)
    analysis = Analysis(
        title=value.name if other is None else f"{value.name} | {other.name}",
        ways=tuple(way.name for way in ways),
        law=str(elements),
        bits=bits,
        place=value.select.place if other is None else "pair",
        block=value.block * value.tile if value.extent == "block" and other is None else None,
        curve=tuple(curve),
        even=even,
        decay=decay(curve),
    )
    if as_json:
        console.json_out(analysis.values())
    else:
        shown(analysis)
    if plot is not None:
        draw(analysis, plot)


@click.command()
@click.argument("format_names", nargs=-1, required=True, metavar="FORMAT...")
@click.option(
    "--law",
    "law_names",
    multiple=True,
    default=("gaussian", "laplace", "student"),
    show_default=True,
    metavar="LAW",
    help="Of the elements: gaussian, laplace, student or student:DEGREES; may be repeated.",
)
@click.option("--block", type=click.IntRange(1, 65536), metavar="N", help="Instead of its own.")
@json_option
@click.pass_context
def expect(
    ctx: click.Context,
    format_names: tuple[str, ...],
    law_names: tuple[str, ...],
    block: int | None,
    as_json: bool,
) -> None:
    """Print expected errors: the MSE of random blocks, derived and not sampled.

    Elements are independent, of variance 1; scales are real numbers, or powers of two where these
    are stored. Formats with more than two grids are sampled, and say so.
    """
    from .. import formats
    from ..compiler.expected.figures import figure
    from ..compiler.expected.laws import law
    from ..compiler.expected.mse import NotDerivable
    from . import console

    try:
        laws = [law(name) for name in law_names]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--law") from error
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    with console.progress("integrating", len(format_names)) as step:
        for name in format_names:
            value = formats.load(name)
            step(value.name)
            try:
                found = {str(each): figure(value, each, block) for each in laws}
            except NotDerivable as error:
                refused.append(str(error))
                continue
            first = next(iter(found.values()))
            figures = {
                key: {"mse": each.value, "error": each.error}
                if as_json
                else f"{each.value:.6e} +- {each.error:.0e}"
                for key, each in found.items()
            }
            rows.append(
                {"format": value.name, "block": first.block, **figures, "method": first.method}
            )
    if rows or as_json:
        console.table(rows, as_json=as_json)
    for reason in refused:
        click.echo(f"error: {reason}", err=True)
    ctx.exit(2 if refused else 0)


def _block_sizes(text: str | None) -> tuple[int, ...]:
    """The sizes of a list, ascending, each once."""
    from ..compiler.expected.gain import BLOCKS, LARGEST_BLOCK

    if text is None:
        return BLOCKS
    words = [word.strip() for word in text.split(",")]
    sizes = {int(word) if word.isascii() and word.isdigit() else 0 for word in words}
    if not all(2 <= size <= LARGEST_BLOCK for size in sizes):
        raise click.BadParameter(
            f"'{text}' is no list of block sizes from 2 to {LARGEST_BLOCK}", param_hint="--blocks"
        )
    return tuple(sorted(sizes))
