"""How the command line shows proven bounds: tables of statements, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import console

if TYPE_CHECKING:
    from ..compiler.bounds.summary import Bound
    from ..compiler.format import Format
    from ..runtime.prove import Proven


def prove(formats: Sequence[Format], *, fresh: bool, out: Path | None, as_json: bool) -> bool:
    """Prove formats, print each when it is done, and write proofs; whether all is well."""
    from ..compiler.bounds.proof import Unproven
    from ..runtime.atomic import write_atomically
    from ..runtime.prove import ProofFailed
    from ..runtime.prove import prove as prove_format

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be is known at once
    rows: list[dict[str, Any]] = []
    for fmt in formats:
        try:
            with console.progress(f"proving {fmt.name}", None) as step:
                proven = prove_format(fmt, fresh=fresh, progress=step)
        except (ProofFailed, Unproven) as reason:
            rows.append({"format": fmt.name, "error": str(reason)})
            if not as_json:
                click.echo(f"FAILED {fmt.name}: {reason}", err=True)
            continue
        rows.append(values(proven))
        if not as_json:
            show(proven)
        if out is not None:
            write_atomically(out / f"{fmt.name}.proof.json", proven.text.encode())
    if as_json:
        console.json_out(rows)
    return not any("error" in row or row["short"] for row in rows)


def section(fmt: Format) -> dict[str, Any]:
    """The worst case of a format as JSON-ready values: what is proven, or why nothing is."""
    from ..compiler.bounds.choice.search import is_served
    from ..compiler.bounds.domain import domain_sentence
    from ..compiler.bounds.proof import Unproven
    from ..compiler.bounds.summary import dot_products, footnote, rows
    from ..runtime.prove import known_bounds

    try:
        bounds = known_bounds(fmt)
    except Unproven as reason:
        nothing: dict[str, Any] = {"statements": [], "dot_product": None, "domain": "", "note": ""}
        return {"unproven": str(reason)} | nothing
    return {
        "unproven": None,
        "statements": rows(fmt, bounds),
        "dot_product": dot_products(fmt, bounds),
        "domain": domain_sentence(fmt),
        "note": footnote(bounds, more=is_served(fmt)),
    }


def worst_case(found: dict[str, Any]) -> None:
    """Print the section of a datasheet."""
    click.echo("worst case")
    if found["unproven"] is not None:
        click.echo(f"  nothing is proven: {found['unproven']}")
        return
    _statements(found["statements"])
    _notes(found)


def _statements(rows: Sequence[dict[str, Any]]) -> None:
    console.table(
        [
            {
                "what": row["what"],
                "where": row["where"],
                "": "" if row["tight"] else "<=",
                "bound": f"{row['bound']:.5g}",
                "exact": row["short"] or "",
                "of": row["unit"],
                "reached": "-" if row["reached"] is None else _share(row),
            }
            for row in rows
        ]
    )


def _share(row: dict[str, Any]) -> str:
    """The share of a bound, never rounded up to one that it is not."""
    hundredths = int(min(row["reached"], 1.0) * 100_00)
    return f"{hundredths / 100:.2f} %"


def _notes(found: dict[str, Any]) -> None:
    from ..compiler.bounds.summary import dot_sentences

    for line in dot_sentences(found["dot_product"]):
        click.echo(line)
    for text in (found["domain"], found["note"]):
        if text:
            click.echo(click.wrap_text(text, 96))


def values(proven: Proven) -> dict[str, Any]:
    """All of a proven format, as JSON-ready values."""
    from ..compiler.bounds.domain import domain_sentence
    from ..compiler.bounds.summary import dot_products, footnote, rows

    bounds = proven.bounds
    return {
        **proven.values(),
        "short": list(proven.short),
        "statements": rows(proven.format, bounds),
        "dot_product": dot_products(proven.format, bounds),
        "domain": domain_sentence(proven.format),
        "note": footnote(bounds),
    }


def show(proven: Proven) -> None:
    """Print what was proven of a format, and how."""
    found = values(proven)
    how = "read from the cache and checked again" if proven.cached else "derived and checked"
    click.echo(
        f"{proven.format.name}: {len(proven.bounds)} bounds {how}, {found['parts']:,} critical "
        f"points and pieces, in {proven.took:.2f} s; witnesses run by {proven.backend}"
    )
    _statements(found["statements"])
    _notes(found)
    by_name: dict[str, Bound] = {bound.name: bound for bound in proven.bounds}
    for name in proven.short:
        reached = by_name[name].reached
        best = "no input" if reached is None else f"the best input found reaches {reached:.1%}"
        click.echo(f"FAILED {name}: said to be the supremum, but {best}", err=True)
    click.echo()
