"""Drawings of judgements and runs, as SVG or PNG; the same values give the same file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from ..atomic import write_atomically
from ..errors import missing
from .compare import Comparison, error_of

#: What a drawing may be written as.
KINDS = (".svg", ".png")

#: Of lines and marks, in order: told apart by most eyes (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a500")
_GREY = "#8a8f98"

#: What the errors of a comparison are called.
_TITLES = {
    "kl": "KL divergence, nats a token",
    "delta_nll": "increase of the loss, nats a token",
    "1 - ear": "1 - EAR (share of tokens refused)",
    "nmse": "NMSE of the weights",
    "1 - acos": "1 - ACos of the weights",
}
_WITH_OUTPUTS = ("kl", "1 - ear", "delta_nll", "nmse")
_WITHOUT = ("nmse", "1 - acos")

_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c4c9d1",
    "axes.labelcolor": "#3b424d",
    "axes.titlesize": 10.5,
    "axes.titlecolor": "#1d232c",
    "xtick.color": "#59616e",
    "ytick.color": "#59616e",
    "grid.color": "#e6e9ee",
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def package() -> Any:
    """The drawing library.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return import_module("matplotlib")
    except ImportError as error:
        raise missing("matplotlib", "plot") from error


def render(draw: Callable[[Any], None], kind: str, size: tuple[float, float], salt: str) -> bytes:
    """The octets of a drawing.

    Args:
        draw: puts axes into a matplotlib figure.
        kind: ``svg`` or ``png``.
        size: in inches.
        salt: makes the names of an SVG's parts differ from those of another in the same page.
    """
    with package().rc_context({**_SETTINGS, "svg.hashsalt": salt}):
        figure = import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
        draw(figure)
        octets = BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(octets, format=kind, dpi=160, metadata=metadata)
    return octets.getvalue()


def inline_svg(draw: Callable[[Any], None], size: tuple[float, float], salt: str, says: str) -> str:
    """A drawing as an element of a page: without prolog, and without links of any kind.

    Args:
        draw: see `render`.
        size: in inches.
        salt: see `render`.
        says: what it shows, for those who do not see it; plain words.
    """
    text = render(draw, "svg", size, salt).decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = "".join(c for c in says if c.isalnum() or c in " ,.-")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


# -- comparisons -----------------------------------------------------------------------


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write errors against bits per weight as .svg or .png, by the path's suffix.

    Bars are 95 % intervals, where the measure has one over windows; filled marks are on the
    Pareto front of their panel, which the line shows.
    """
    measures = _WITH_OUTPUTS if comparison.with_outputs else _WITHOUT
    rows = math.ceil(len(measures) / 2)

    def draw(figure: Any) -> None:
        for place, measure in enumerate(measures, start=1):
            _against_bpw(figure.add_subplot(rows, 2, place), comparison, measure)
        judged = comparison.judgements[0]
        on = f" on {judged.text}" if comparison.with_outputs else ""
        figure.suptitle(_plain(f"{Path(judged.reference).name}{on}: error against bits per weight"))

    kind = path.suffix[1:].lower()
    write_atomically(path, render(draw, kind, (10, 4.2 * rows), "compare"))


def _against_bpw(axes: Any, comparison: Comparison, measure: str) -> None:
    front = comparison.pareto(measure)
    points = comparison.points(measure)
    line = sorted(point for point, on in zip(points, front, strict=True) if on)
    xs, ys = [x for x, _ in line], [y for _, y in line]
    axes.step(xs, ys, where="post", color=_GREY, linewidth=1.2, alpha=0.7, zorder=1)
    for place, (judged, on) in enumerate(zip(comparison.judgements, front, strict=True)):
        error, colour = error_of(judged, measure), COLOURS[place % len(COLOURS)]
        bars = None
        if error.known:
            bars = [[max(error.value - error.low, 0)], [max(error.high - error.value, 0)]]
        axes.errorbar(
            [judged.bpw],
            [error.value],
            yerr=bars,
            marker="o",
            markersize=6,
            markerfacecolor=colour if on else "white",
            color=colour,
            capsize=3,
            linestyle="none",
        )
    _name_points(axes, comparison.labels, points)
    if _spans_a_decade([y for _, y in points]):
        axes.set_yscale("log")
    axes.margins(x=0.3, y=0.14)
    axes.set_xlabel("stored bits per weight")
    axes.set_title(_TITLES[measure], loc="left")


def _name_points(axes: Any, labels: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Names beside the marks, to the left where the next mark is close on the right."""
    wide = max((x for x, _ in points), default=0) - min((x for x, _ in points), default=0)
    seen: list[float] = []
    for place, (label, (x, y)) in enumerate(zip(labels, points, strict=True)):
        crowded = any(0 < other[0] - x < 0.25 * wide for other in points)
        above = sum(abs(x - before) < 0.02 * wide for before in seen)
        seen.append(x)
        axes.annotate(
            _plain(label if len(label) <= 28 else f"{label[:26]}..."),
            (x, y),
            xytext=(-7 if crowded else 7, 4 - 10 * above),
            textcoords="offset points",
            ha="right" if crowded else "left",
            fontsize=8,
            color=COLOURS[place % len(COLOURS)],
        )


def _spans_a_decade(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def _plain(text: str) -> str:
    """Text for a drawing: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


# -- runs ------------------------------------------------------------------------------

#: A unit's figures, as the report has them: name, choice, elements, bpw, nmse, seconds ...
Unit = Mapping[str, Any]


def place_of(name: str, ordinal: int) -> tuple[int, str]:
    """The layer of a unit and what it is there: the first number of its name, and the rest."""
    found = re.search(r"(?<![A-Za-z])\d+", name)
    if found is None:
        return ordinal, name
    rest = name[found.end() :].strip(".").removesuffix(".weight")
    return int(found.group()), rest or name


def colours_of(choices: Sequence[str]) -> dict[str, str]:
    """A colour for each choice, the most frequent first; beyond the palette all are grey."""
    counted = sorted(set(choices), key=lambda c: (-choices.count(c), c))
    return {c: COLOURS[i] if i < len(COLOURS) else _GREY for i, c in enumerate(counted)}


def by_layer(figure: Any, units: Sequence[Unit]) -> None:
    """Two panels over the layers: error and bits per weight, a line for each kind of matrix."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    kinds: dict[str, list[tuple[int, Unit]]] = {}
    for ordinal, unit in enumerate(units):
        layer, kind = place_of(unit["name"], ordinal)
        kinds.setdefault(kind, []).append((layer, unit))
    for index, (kind, members) in enumerate(sorted(kinds.items())):
        colour = COLOURS[index % len(COLOURS)]
        members.sort(key=lambda item: item[0])
        layers = [layer for layer, _ in members]
        style = {"marker": "o", "markersize": 3, "linewidth": 1.2, "color": colour}
        label = _plain(kind) if len(kinds) <= 12 else None
        above.plot(layers, [u["nmse"] for _, u in members], label=label, **style)
        below.plot(layers, [u["bpw"] for _, u in members], **style)
    if len(kinds) <= 12:
        above.legend(ncols=min(4, len(kinds)), loc="upper left", bbox_to_anchor=(0, 1.22))
    above.set_ylabel("NMSE")
    if _spans_a_decade([u["nmse"] for u in units]):
        above.set_yscale("log")
    below.set_ylabel("bits per weight")
    below.set_xlabel("layer")
    below.xaxis.get_major_locator().set_params(integer=True)


def histogram(figure: Any, units: Sequence[Unit]) -> None:
    """How many units took each choice, and the share of weights that they are."""
    axes = figure.add_subplot()
    colours = colours_of([u["choice"] for u in units])
    weights = sum(u["elements"] for u in units) or 1
    names = list(colours)[::-1]
    counts = [sum(u["choice"] == name for u in units) for name in names]
    bars = axes.barh(
        [_plain(n if len(n) <= 40 else f"{n[:38]}...") for n in names],
        counts,
        color=[colours[n] for n in names],
        height=0.66,
    )
    shares = [sum(u["elements"] for u in units if u["choice"] == n) / weights for n in names]
    said = [f"{c} ({100 * s:.1f} %)" for c, s in zip(counts, shares, strict=True)]
    axes.bar_label(bars, said, padding=4, fontsize=8.5, color="#3b424d")
    axes.margins(x=0.22)
    axes.grid(visible=False)
    axes.set_xlabel("units (share of the weights)")


def against_bpw(figure: Any, units: Sequence[Unit]) -> None:
    """Every unit by its bits per weight and its error, coloured by its choice."""
    axes = figure.add_subplot()
    for choice, colour in colours_of([u["choice"] for u in units]).items():
        mine = [u for u in units if u["choice"] == choice]
        xs, ys = [u["bpw"] for u in mine], [u["nmse"] for u in mine]
        axes.plot(xs, ys, "o", color=colour, markersize=4, alpha=0.75, label=_plain(choice))
    if len({u["choice"] for u in units}) <= 10:
        axes.legend(loc="best")
    if _spans_a_decade([u["nmse"] for u in units]):
        axes.set_yscale("log")
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("NMSE")


def times(figure: Any, units: Sequence[Unit]) -> None:
    """Seconds of work by layer."""
    axes = figure.add_subplot()
    spent: dict[int, float] = {}
    for ordinal, unit in enumerate(units):
        layer, _ = place_of(unit["name"], ordinal)
        spent[layer] = spent.get(layer, 0.0) + float(unit["seconds"] or 0.0)
    axes.bar(list(spent), list(spent.values()), color=COLOURS[0], width=0.75)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("layer")
    axes.set_ylabel("seconds of work")
    axes.xaxis.get_major_locator().set_params(integer=True)
