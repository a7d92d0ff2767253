"""How ``fmtc analyze`` shows the gain of a choice: as values, a table with bars, or a drawing."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..compiler.expected.gain import BreakEven, Gain

#: What a plot may be written as.
PLOTS = (".svg", ".png")

#: The least gain that bars show, and the characters of a factor of ten.
_LEAST, _DECADE = 1e-5, 10

#: A gain below this has vanished.
_VANISHED = 1e-3

#: Sizes that a law of the gain's fall is read from, at least.
_SIZES = 4

_EXACT = "scales are exact (rounding them to stored words is left out), weights of errors are 1"


@dataclass(frozen=True, slots=True)
class Analysis:
    """A gain curve and what it is of.

    Attributes:
        title: the format, or the pair of them.
        ways: the names of the grids (and targets) that a block may take.
        law: of the elements.
        bits: what a choice costs a block; ``place``: where they live (``format.Select``), or
            ``pair`` where no format stores them.
        block: the format's own block size, None where that is a row or a tensor.
    """

    title: str
    ways: tuple[str, ...]
    law: str
    bits: int
    place: str
    block: int | None
    curve: tuple[Gain, ...]
    even: BreakEven
    decay: float | None

    def values(self) -> dict[str, Any]:
        """Everything, as JSON-ready values."""
        return {
            "format": self.title,
            "ways": list(self.ways),
            "law": self.law,
            "scales": "exact",
            "block": self.block,
            "select": {"bits": self.bits, "place": self.place, "free": self.is_free},
            "curve": [
                {
                    "block": point.block,
                    "single": list(point.single),
                    "chosen": point.chosen,
                    "gain": point.gain,
                    "error": point.error,
                    "price": point.worth,
                    "pays": point.pays,
                    "method": point.method,
                }
                for point in self.curve
            ],
            "break_even": {
                "pays": self.even.ever,
                "begins": self.even.begins,
                "ends": self.even.ends,
            },
            "decay": self.decay,
        }

    @property
    def is_free(self) -> bool:
        """Whether the format stores the choice in bits that its scale word has anyway."""
        return self.bits == 0 or self.place.startswith("scale.")


def show(analysis: Analysis) -> None:
    """Print the table, the bars and what they say."""
    from . import console

    ways = ", ".join(analysis.ways[:4]) + ", ..." * (len(analysis.ways) > 4)
    click.echo(f"{analysis.title}: blocks choose among {len(analysis.ways)} ({ways})")
    click.echo(f"{analysis.law} elements; {_EXACT}")
    click.echo()
    console.table(list(_rows(analysis)))
    for line in _bars(analysis):
        click.echo(line)
    click.echo()
    for line in (*_verdict(analysis), _limit(analysis.curve, analysis.decay)):
        click.echo(line)


def _rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    few = len(analysis.ways) <= 4
    for point in analysis.curve:
        row: dict[str, Any] = {"block": point.block}
        if few:
            named = zip(analysis.ways, point.single, strict=True)
            row |= {f"{index}: {name}": f"{mse:.4e}" for index, (name, mse) in enumerate(named)}
        else:
            row["best alone"] = f"{min(point.single):.4e}"
        row["chosen"] = f"{point.chosen:.4e}"
        row["gain %"] = _percent(point.certain)
        row["error %"] = _percent(point.error)
        row["price %"] = _percent(point.worth)
        row["pays"] = point.pays
        row["method"] = point.method
        yield row


def _percent(share: float) -> str:
    if share == 0:
        return "0"
    if share < 5e-7:
        return "<0.0001"
    return f"{100 * share:.4f}" if share < 1e-2 else f"{100 * share:.2f}"


def _bars(analysis: Analysis) -> Iterator[str]:
    """A line a block size: its gain as a bar, the price of the choice as a mark."""
    full, price = ("█", "┃") if _prints("█┃") else ("#", "|")
    width = round(-math.log10(_LEAST) * _DECADE)
    mark = f", {price} the price of the choice" if analysis.bits else ""
    yield f"gain {full}{mark}; logarithmic, {100 * _LEAST:g} % to 100 %"
    digits = len(f"{analysis.curve[-1].block:,}")
    for point in analysis.curve:
        line = [full] * _length(point.certain) + [" "] * (width - _length(point.certain) + 1)
        if analysis.bits:
            line[_length(point.worth)] = price
        own = "  <- its block" if point.block == analysis.block else ""
        bar = click.style("".join(line), fg="green" if point.pays else None)
        yield f"  {point.block:>{digits},} {bar} {_percent(point.certain):>8} %{own}"


def _length(share: float) -> int:
    return max(0, round(math.log10(max(share, _LEAST) / _LEAST) * _DECADE))


def _prints(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _verdict(analysis: Analysis) -> Iterator[str]:
    even, curve = analysis.even, analysis.curve
    if analysis.bits == 0:
        yield "break-even: none to find, no select bit is stored; the choice is in the scale itself"
        return
    what = "select bit" if analysis.bits == 1 else f"{analysis.bits} select bits"
    does = "s" * (analysis.bits == 1)
    if not even.ever:
        sizes = f"{curve[0].block:,} to {curve[-1].block:,}" if len(curve) > 1 else "this size"
        yield f"break-even: none, the {what} never pay{does} at blocks of {sizes}"
    elif even.ends is None:
        yield f"break-even: not up to {curve[-1].block:,}, where the {what} still pay{does}"
    else:
        yield f"break-even: the {what} stop{does} paying at blocks of about {_size(even.ends)}"
    if even.begins is not None:
        yield f"  and pay{does} only from blocks of about {_size(even.begins)} on"
    share = "1/g bit" if analysis.bits == 1 else f"{analysis.bits}/g bits"
    yield f"  price: {share} a weight in blocks of g, spent on resolution at 6.02 dB a bit"
    free = {
        "scale.sign": "free here: it rides in the scale's sign",
        "scale.meta": f"free here: {'it rides' if does else 'they ride'} in bits that the scale "
        "word has anyway",
        "field": "paid here: a select field is stored beside the scales",
        "pair": "the pair is no format: one bit a block is what it would take",
    }
    yield f"  {free[analysis.place]}"


def _size(block: float) -> str:
    return f"{block:,.0f}" if block >= 100 else f"{block:.3g}"


def _limit(curve: Sequence[Gain], decay: float | None) -> str:
    last = curve[-1]
    now = f"{_percent(last.certain)} % at {last.block:,}"
    if last.certain < _VANISHED:
        return f"large blocks: the gain vanishes, {now}"
    known = len(curve) >= _SIZES and decay is not None and last.error <= last.gain / 5
    if not known or decay is None or decay <= 0:
        return f"large blocks: the gain is {now}; larger --blocks would show how it falls"
    return f"large blocks: the gain falls as block^-{decay:.2f} and is {now}"


# -- a file ----------------------------------------------------------------------------


def drawing_package() -> Any:
    """The drawing library.

    Raises:
        MissingPackage: it is not installed.
    """
    from ..runtime.errors import missing

    try:
        return import_module("matplotlib")
    except ImportError as error:
        raise missing("matplotlib", "plot") from error


def draw(analysis: Analysis, path: Path) -> None:
    """Write the curve as an SVG or PNG file, by the path's suffix."""
    from ..runtime.atomic import write_atomically

    settings = {"svg.hashsalt": "fmtc", "svg.fonttype": "none"}
    with drawing_package().rc_context(settings):
        figure = import_module("matplotlib.figure").Figure(figsize=(7, 4.5), layout="constrained")
        _axes(analysis, figure.add_subplot())
        octets = BytesIO()
        kind = path.suffix[1:].lower()
        # Without a date, the same curve gives the same file.
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(octets, format=kind, dpi=160, metadata=metadata)
    write_atomically(path, octets.getvalue())


def _axes(analysis: Analysis, axes: Any) -> None:
    curve = analysis.curve
    blocks = [point.block for point in curve]
    shown = [max(100 * point.certain, 0.0) or math.nan for point in curve]
    axes.plot(blocks, shown, marker="o", label="gain of choosing")
    if analysis.bits:
        price = [100 * point.worth for point in curve]
        axes.plot(blocks, price, linestyle="--", label=f"price of {analysis.bits} bit a block")
    for edge in (analysis.even.begins, analysis.even.ends):
        if edge is not None and analysis.bits:
            axes.axvline(edge, color="grey", linestyle=":", label=f"break-even {_size(edge)}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(100 * _LEAST, 100)
    axes.set_xlabel("elements in a block")
    axes.set_ylabel("off the mean squared error, %")
    axes.set_title(f"{analysis.title}, {analysis.law} elements, exact scales")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
