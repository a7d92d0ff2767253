"""From the syntax tree to a ``Format``: names resolved, numbers exact, combinations checked."""

from __future__ import annotations

from dataclasses import replace

from ..dsl.ast import (
    Cite,
    File,
    FormatDecl,
    GridDecl,
    ScaleDecl,
    SelectDecl,
    Setting,
    Span,
)
from ..dsl.diagnostics import FormatError, did_you_mean
from ..dsl.parser import parse_partial
from ..dsl.printer import print_file
from .atoms import resolve_grid
from .format import Format, Grid, Policies, Scale, Select
from .report import Report, Settings, suggest
from .scales import resolve_scale
from .vocabulary import FORMAT_KNOBS, SELECT_PLACES

MAX_BLOCK = 4096
MAX_SELECT_BITS = 4


def compile_text(text: str, filename: str = "<text>") -> Format:
    """Compile one .fmt text.

    Raises:
        FormatError: with every fault of the text, syntax and meaning alike.
    """
    parsed = parse_partial(text)
    report = Report(list(parsed.diagnostics))
    compiled = None
    for declaration in parsed.file.formats:
        compiled = resolve(declaration, report, parsed.damaged)
    if not (parsed.diagnostics or parsed.file.formats):
        report.add(
            "E0201",
            "there is no format in this file",
            Span(1, 1, 1, 2),
            expected='a format, such as: format mine "Title" { block 16  grid e2m1  scale e8m0 }',
        )
    for extra in parsed.file.formats[1:]:
        report.add(
            "E0201",
            f"'{extra.name.text}' is one more format in the same file",
            extra.name.span,
            hint="a file holds one format: move it to a file of its own",
        )
    if report.diagnostics or compiled is None:
        raise FormatError(report.diagnostics, text, filename)
    return compiled


def resolve(
    declaration: FormatDecl, report: Report, damaged: frozenset[str] = frozenset()
) -> Format | None:
    """The format that a declaration means, or None after noting its faults.

    ``damaged`` names clauses that the parser had to leave out: they are not missed again.
    """
    settings = [c for c in declaration.clauses if isinstance(c, Setting)]
    knobs = Settings("a format", settings, FORMAT_KNOBS, report)
    name_span = declaration.name.span
    host = knobs.choice("host")
    block = _block(knobs, name_span, report, damaged)
    grids = _grids(declaration, host, report, damaged)
    scale = _scale(declaration, grids, report, damaged)
    select = _select(declaration, grids, scale, report, damaged)
    policies = _policies(knobs)
    if scale is not None:
        _check_policies(scale, policies, knobs, name_span, report)
    if report.diagnostics or block is None or scale is None or select is None or not grids:
        return None
    ordered, where = select
    return Format(
        name=declaration.name.text,
        title=declaration.title.text if declaration.title else "",
        cites=tuple(c.source.text for c in declaration.clauses if isinstance(c, Cite)),
        block=block,
        grids=ordered,
        host=host,
        scale=scale,
        select=where,
        policies=policies,
        order=knobs.choice("pack"),
        source=print_file(File((declaration,))),
    )


def _block(knobs: Settings, name_span: Span, report: Report, damaged: frozenset[str]) -> int | None:
    expr = knobs.expression("block")
    if expr is not None:
        return report.integer(expr, "a block", 1, MAX_BLOCK)
    if "block" not in damaged and not knobs.tried("block"):
        report.add(
            "E0401",
            "the format does not say how many elements share a scale",
            name_span,
            expected="a setting such as 'block 16'",
        )
    return None


def _grids(
    declaration: FormatDecl, host: str, report: Report, damaged: frozenset[str]
) -> dict[str, Grid | None]:
    """Name -> grid, None for one with a fault, so that its name stays known."""
    grids: dict[str, Grid | None] = {}
    for clause in declaration.clauses:
        if not isinstance(clause, GridDecl):
            continue
        if clause.name.text in grids:
            report.add(
                "E0208",
                f"a second grid is called '{clause.name.text}'",
                clause.name.span,
                hint="give each grid a name of its own",
            )
            continue
        grids[clause.name.text] = resolve_grid(clause, host, report)
    if not grids and "grid" not in damaged:
        report.add(
            "E0401",
            "the format has no grid",
            declaration.name.span,
            expected="a clause such as 'grid e2m1' or 'grid mine = codebook 4 { ... }'",
        )
    _check_widths(declaration, grids, report)
    return grids


def _check_widths(declaration: FormatDecl, grids: dict[str, Grid | None], report: Report) -> None:
    widths = {name: (len(g.values) - 1).bit_length() for name, g in grids.items() if g}
    first = next(iter(widths), "")
    for clause in declaration.clauses:
        if not isinstance(clause, GridDecl):
            continue
        width = widths.pop(clause.name.text, None)
        if clause.name.text == first:
            wanted = width
        elif width is not None and width != wanted:
            report.add(
                "E0304",
                f"the grid '{clause.name.text}' has {width}-bit codes, '{first}' has {wanted}-bit "
                "codes",
                clause.name.span,
                hint="give all grids of a format the same number of bits",
            )


def _scale(
    declaration: FormatDecl,
    grids: dict[str, Grid | None],
    report: Report,
    damaged: frozenset[str],
) -> Scale | None:
    clauses = [c for c in declaration.clauses if isinstance(c, ScaleDecl)]
    for extra in clauses[1:]:
        report.add("E0208", "a second scale clause", extra.span, hint="keep one of them")
    if clauses:
        return resolve_scale(clauses[0], [g for g in grids.values() if g], report)
    if "scale" not in damaged:
        report.add(
            "E0401",
            "the format does not say how a block is scaled",
            declaration.name.span,
            expected="a clause such as 'scale e4m3 { rule absmax }'",
        )
    return None


def _select(
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
    if place == "scale.sign" and scale.rule == "argmax":
        report.add(
            "E0403",
            "rule argmax keeps the scale's sign in the bit that the select clause asks for",
            clause.place.span,
            hint="use rule absmax, or select 'at scale.meta' or 'at field'",
        )
        return None
    return free[:bits]


def _policies(knobs: Settings) -> Policies:
    return replace(
        Policies(),
        **{
            key: knobs.choice(key)
            for key in ("tie", "compare", "overflow", "nan", "inf", "negative_zero")
        },
    )


def _check_policies(
    scale: Scale, policies: Policies, knobs: Settings, name_span: Span, report: Report
) -> None:
    if policies.nan == "propagate" and scale.word.number.nan_code is None:
        report.add(
            "E0404",
            f"the scale word {scale.word.name} has no NaN that a block could propagate",
            knobs.span("nan", name_span),
            expected="'nan error' or 'nan zero'",
        )
