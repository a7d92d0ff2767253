"""A datasheet page for a format, in Markdown: what it holds, how its bytes stand, what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ...compiler.bounds.proof import Unproven
from ...compiler.bounds.summary import dot_products, dot_sentences, footnote, rows
from ...compiler.choices import choices
from ...compiler.describe import datasheet, summary
from ...compiler.format import Format, Grid
from ...formats.bounds import stated_bounds
from ..render import comment_safe, provenance, render
from .drawings import number_line, packing_diagram

#: Grids with more values are drawn but not listed.
MOST_LISTED = 32


def emit(fmt: Format) -> dict[str, str]:
    """The datasheet of a format: ``<fmt>.md`` -> text."""
    return {f"{fmt.name}.md": page(fmt)}


def page(fmt: Format) -> str:
    """The Markdown text of a format's datasheet; its headings are of the third level."""
    sheet = datasheet(fmt)
    return render(
        "datasheet",
        "page.md.j2",
        sheet=sheet,
        summary=summary(fmt),
        title=_text(fmt.title),
        use=_text(fmt.use),
        check=_text(fmt.check),
        cites=[_text(cite) for cite in fmt.cites],
        hash=provenance(fmt)[2],
        shape=_shape(fmt),
        lines=[(grid.name, number_line(grid)) for grid in fmt.grids],
        values=[(grid.name, _values(grid)) for grid in fmt.grids],
        packing=packing_diagram(fmt),
        said=[c for c in choices(fmt) if c.said],
        worst=_worst_case(fmt),
    )


def _worst_case(fmt: Format) -> dict[str, Any]:
    """Rows, consequences and footnote of the proven bounds, or why there are none."""
    try:
        bounds = stated_bounds(fmt)
    except Unproven as reason:
        return {"unproven": str(reason), "rows": [], "dots": [], "note": ""}
    return {
        "unproven": None,
        "rows": [{**row, "shown": _bound(row)} for row in rows(fmt, bounds)],
        "is_run": any(bound.reached is not None for bound in bounds),
        "dots": [_signs(line) for line in dot_sentences(dot_products(fmt, bounds))],
        "note": _signs(footnote(bounds)),
    }


def _signs(text: str) -> str:
    """The text without what could be taken for a tag."""
    return text.replace("<=", "≤")


def _bound(row: Mapping[str, Any]) -> str:
    """The bound as a decimal, and exact where that is short."""
    above = "" if row["tight"] else "≤ "
    shown = f"{row['bound']:.5g}"
    exact = f" ({row['short']})" if row["short"] and row["short"] != shown else ""
    return f"{above}{shown}{exact}"


def _text(text: str) -> str:
    """User text inside Markdown: one line, nothing that starts a tag, a link or a table cell."""
    return comment_safe(text).replace("<", "(").replace(">", ")").replace("|", "\\|")


def _shape(fmt: Format) -> str:
    if fmt.extent != "block":
        return f"one scale a {fmt.extent}"
    if fmt.tile > 1:
        return f"tiles of {fmt.tile} x {fmt.block}"
    return f"blocks of {fmt.block}"


def _values(grid: Grid) -> str:
    """The values in code order, or how many there are."""
    if len(grid.values) > MOST_LISTED:
        return f"{len(grid.numbers)} values from {_short(grid.low)} to {_short(grid.high)}"
    shown = []
    for code, value in enumerate(grid.values):
        if value is None:
            shown.append("NaN")
        else:
            shown.append("-0" if code == grid.negative_zero else _short(value))
    return ", ".join(shown)


def _short(value: Fraction) -> str:
    return f"{float(value):.7g}"


def book(groups: Mapping[str, Sequence[Format]]) -> str:
    """One page of all datasheets: group -> its formats, in the order of the page."""
    return render(
        "datasheet",
        "book.md.j2",
        groups=[(name, [(f.name, page(f)) for f in members]) for name, members in groups.items()],
        count=sum(len(members) for members in groups.values()),
    )
