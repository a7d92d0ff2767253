"""From a select clause to the order of the grids and the place of their index."""

from __future__ import annotations

from ..dsl.ast import FormatDecl, SelectDecl
from ..dsl.diagnostics import did_you_mean
from .format import Grid, Scale, Select
from .report import Report, suggest
from .vocabulary import SELECT_PLACES

MAX_SELECT_BITS = 4


def resolve_select(
    declaration: FormatDecl,
    grids: dict[str, Grid | None],
    scale: Scale | None,
    report: Report,
    damaged: frozenset[str],
) -> tuple[tuple[Grid, ...], Select] | None:
    """The grids in the order of their index, and where the index lives."""
    clauses = [c for c in declaration.clauses if isinstance(c, SelectDecl)]
    for extra in clauses[1:]:
        report.add("E0208", "a second select clause", extra.span, hint="keep one of them")
    if not clauses:
        if len(grids) > 1 and "select" not in damaged:
            report.add(
                "E0405",
                f"the format has {len(grids)} grids and no select clause",
                declaration.name.span,
                expected="a clause such as 'select 1 bit at scale.sign { 0: a, 1: b }'",
            )
        sound = tuple(g for g in grids.values() if g)
        return (sound, Select()) if len(sound) == 1 else None
    clause = clauses[0]
    bits = report.integer(clause.bits, "the number of select bits", 1, MAX_SELECT_BITS)
    ordered = _arms(clause, grids, bits, report)
    positions = None if scale is None or bits is None else _place(clause, scale, bits, report)
    if bits is None or ordered is None or positions is None:
        return None
    return ordered, Select(bits, clause.place.text, positions)


def _arms(
    clause: SelectDecl, grids: dict[str, Grid | None], bits: int | None, report: Report
) -> tuple[Grid, ...] | None:
    chosen: dict[int, Grid | None] = {}
    unknown = False
    for arm in clause.arms:
        index = report.integer(arm.index, "a select index", 0, (1 << (bits or MAX_SELECT_BITS)) - 1)
        if arm.grid.text not in grids:
            unknown = True
            report.add(
                "E0206",
                f"no grid is called '{arm.grid.text}'",
                arm.grid.span,
                expected="one of " + ", ".join(grids) if grids else "a grid of this format",
                hint=did_you_mean(arm.grid.text, grids),
            )
        elif index is not None and index in chosen:
            report.add(
                "E0208",
                f"the index {index} is given to two grids",
                arm.span,
                hint="give each grid an index of its own",
            )
        elif index is not None:
            chosen[index] = grids[arm.grid.text]
    named = {arm.grid.text for arm in clause.arms}
    for name in grids:
        if name not in named and not unknown:
            report.add(
                "E0405",
                f"no select index leads to the grid '{name}'",
                clause.span,
                hint=f"add an arm for '{name}', or remove the grid",
            )
    if len(chosen) == len(clause.arms) and sorted(chosen) != list(range(len(chosen))):
        report.add(
            "E0405",
            "select indices must count up from 0 without a gap",
            clause.span,
            expected=", ".join(f"{i}: {arm.grid.text}" for i, arm in enumerate(clause.arms)),
        )
    ordered = tuple(g for _, g in sorted(chosen.items()) if g is not None)
    return ordered if len(ordered) == len(clause.arms) else None


def _place(clause: SelectDecl, scale: Scale, bits: int, report: Report) -> tuple[int, ...] | None:
    place, word = clause.place.text, scale.word
    if place not in SELECT_PLACES:
        report.add(
            "E0207",
            f"select bits cannot live at '{place}'",
            clause.place.span,
            expected=", ".join(SELECT_PLACES[:-1]) + " or " + SELECT_PLACES[-1],
            hint=suggest(place, SELECT_PLACES),
        )
        return None
    if place == "field":
        return ()
    if scale.stored is not None:
        report.add(
            "E0402",
            "scales that are stored in a format of their own have no word with bits to spare",
            clause.place.span,
            hint="say 'at field'",
        )
        return None
    free = word.meta_bits if place == "scale.meta" else tuple(filter(None, (word.sign_bit,)))
    if len(free) < bits:
        wider = "a wider container" if place == "scale.meta" else "a signed scale word"
        report.add(
            "E0402",
            f"the scale word {word.name} has {len(free) or 'no'} bit{'s' * (len(free) > 1)} at "
            f"{place}, and the select clause needs {bits}",
            clause.place.span,
            hint=("" if free and place == "scale.sign" else f"take {wider}, or ")
            + "say 'at field'",
        )
        return None
    uses = "rule argmax" if scale.rule == "argmax" else "signs both" if scale.both_signs else ""
    if place == "scale.sign" and uses:
        report.add(
            "E0403",
            f"{uses} keeps the scale's sign in the bit that the select clause asks for",
            clause.place.span,
            hint="use rule absmax, or select 'at scale.meta' or 'at field'",
        )
        return None
    return free[:bits]
