"""From the syntax tree to a ``Format``: names resolved, numbers exact, combinations checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from ..dsl.ast import (
    AtomDecl,
    Body,
    Cite,
    Clause,
    FormatDecl,
    GridDecl,
    RecordDecl,
    ScaleDecl,
    Setting,
    SideDecl,
    Span,
    Word,
    ZeroDecl,
)
from ..dsl.diagnostics import FormatError
from ..dsl.parser import parse_partial
from ..dsl.printer import print_expr, print_file
from .atoms import resolve_grid
from .combinations import check_inner, check_policies, check_shape
from .exact import is_fp32, show_number
from .format import Format, Grid, Policies, Record, Scale, Side, Zero
from .inherit import Loader, flatten, placed, self_contained
from .record_clause import resolve_record
from .report import Report, Settings
from .scales import Inner, resolve_scale
from .selects import MAX_SELECT_BITS, resolve_select
from .side_clause import resolve_sides
from .vocabulary import FORMAT_KNOBS
from .zeros import check_zero, is_consecutive, resolve_zero

MAX_BLOCK = 4096
MAX_OFFSET = 256
MAX_GRIDS = 1 << MAX_SELECT_BITS
#: Elements that are worked on together where a whole row or tensor shares a scale.
WHOLE_UNIT = 256

C = TypeVar("C", bound=Clause)


def compile_text(text: str, filename: str = "<text>", loader: Loader | None = None) -> Format:
    """Compile one .fmt text.

    Args:
        text: what the file holds.
        filename: how messages call it.
        loader: reads the files that the text imports or extends; None where it may name none.

    Raises:
        FormatError: with every fault of the text, syntax and meaning alike.
    """
    parsed = parse_partial(text)
    report = Report(list(parsed.diagnostics))
    compiled = None
    flat = flatten(parsed.file, filename, loader, report)
    if flat is not None:
        source = print_file(self_contained(flat))
        compiled = resolve(flat.declaration, report, parsed.damaged, flat.atoms, source)
        for other in flat.others:
            resolve(other, report, parsed.damaged, flat.atoms)
        if parsed.damaged & {"import", "atom"}:
            # An atom may be unknown only because its declaration could not be read.
            report.diagnostics = [d for d in report.diagnostics if d.code != "E0202"]
    if not (parsed.diagnostics or parsed.file.formats):
        only_atoms = bool(parsed.file.atoms)
        report.add(
            "E0201",
            "there is no format in this file" + ", only atoms" * only_atoms,
            Span(1, 1, 1, 2),
            expected='a format, such as: format mine "Title" { block 16  grid e2m1  scale e8m0 }',
            hint="import the file in one that holds a format" if only_atoms else None,
        )
    for extra in parsed.file.formats[1:]:
        report.add(
            "E0201",
            f"'{extra.name.text}' is one more format in the same file",
            extra.name.span,
            hint="a file holds one format: move it to a file of its own",
        )
    if report.diagnostics or compiled is None:
        raise FormatError(placed(report.diagnostics), text, filename)
    return compiled


def resolve(
    declaration: FormatDecl,
    report: Report,
    damaged: frozenset[str] = frozenset(),
    atoms: Mapping[str, AtomDecl] = MappingProxyType({}),
    source: str = "",
) -> Format | None:
    """The format that a declaration means, or None after noting its faults.

    ``damaged`` names clauses that the parser had to leave out: they are not missed again.
    ``atoms`` are the named atoms that its grids may use, ``source`` becomes the format's.
    """
    settings = [c for c in declaration.clauses if isinstance(c, Setting)]
    knobs = Settings("a format", settings, FORMAT_KNOBS, report)
    name_span = declaration.name.span
    host = knobs.choice("host")
    block = _block(knobs, name_span, report, damaged)
    tile = _tile(knobs, report)
    grids = _grids(declaration, host, atoms, report, damaged)
    scale = _scale(declaration, grids, atoms, report, damaged)
    select = resolve_select(declaration, grids, scale, report, damaged)
    policies = _policies(knobs, grids, report)
    if scale is not None:
        check_policies(scale, policies, knobs, name_span, report)
    zero = _zero(declaration, grids, atoms, report, damaged)
    sound = tuple(grid for grid in grids.values() if grid)
    if scale is not None:
        check_zero(zero, scale, sound, policies, declaration, report)
    sides = _sides(declaration, block or 1, report)
    if report.diagnostics or block is None or scale is None or select is None or not grids:
        return None
    ordered, where = select
    fmt = Format(
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
        extent=knobs.word("block") or "block",
        tile=tile,
        zero=zero,
        sides=sides,
        promotion=_promotion(knobs),
        use=knobs.text("use") or "",
        check=knobs.text("check") or "",
        source=source,
    )
    check_shape(fmt, declaration, report)
    record = _record(declaration, fmt, report)
    return None if report.diagnostics else replace(fmt, record=record)


def _inner(report: Report, atoms: Mapping[str, AtomDecl], damaged: frozenset[str]) -> Inner:
    """Resolves the body of ``as { ... }``: a format that only stores scales or minima."""

    def resolve_body(body: Body, name: str) -> Format | None:
        faults = Report()
        declaration = FormatDecl(Word(name, body.span), None, body.clauses, span=body.span)
        fmt = resolve(declaration, faults, damaged, atoms)
        if fmt is not None:
            check_inner(fmt, declaration, faults)
        report.diagnostics += faults.diagnostics
        return None if faults.diagnostics else fmt

    return resolve_body


def _tile(knobs: Settings, report: Report) -> int:
    expr = knobs.expression("tile")
    return (1 if expr is None else report.integer(expr, "a tile's rows", 1, MAX_BLOCK)) or 1


def _promotion(knobs: Settings) -> str:
    call = knobs.call("promote")
    return knobs.text("promote") or (print_expr(call) if call else "")


def _only(declaration: FormatDecl, kind: type[C], what: str, report: Report) -> C | None:
    """The clause of a kind that may stand once."""
    clauses = [c for c in declaration.clauses if isinstance(c, kind)]
    for extra in clauses[1:]:
        report.add("E0208", f"a second {what} clause", extra.span, hint="keep one of them")
    return clauses[0] if clauses else None


def _zero(
    declaration: FormatDecl,
    grids: dict[str, Grid | None],
    atoms: Mapping[str, AtomDecl],
    report: Report,
    damaged: frozenset[str],
) -> Zero | None:
    clause = _only(declaration, ZeroDecl, "zero", report)
    first = next((grid for grid in grids.values() if grid), None)
    if clause is None or first is None:
        return None
    bits = (len(first.values) - 1).bit_length()
    return resolve_zero(clause, bits, _inner(report, atoms, damaged), report)


def _sides(declaration: FormatDecl, block: int, report: Report) -> tuple[Side, ...]:
    clauses = tuple(c for c in declaration.clauses if isinstance(c, SideDecl))
    if not clauses:
        return ()
    return resolve_sides(clauses, block, report)


def _record(declaration: FormatDecl, fmt: Format, report: Report) -> Record | None:
    clause = _only(declaration, RecordDecl, "record", report)
    if clause is None:
        return None
    return resolve_record(clause, fmt, report)


def _block(knobs: Settings, name_span: Span, report: Report, damaged: frozenset[str]) -> int | None:
    expr = knobs.expression("block")
    if expr is not None:
        return report.integer(expr, "a block", 1, MAX_BLOCK)
    if knobs.said("block"):
        return WHOLE_UNIT
    if "block" not in damaged and not knobs.tried("block"):
        report.add(
            "E0401",
            "the format does not say how many elements share a scale",
            name_span,
            expected="a setting such as 'block 16'",
        )
    return None


def _grids(
    declaration: FormatDecl,
    host: str,
    atoms: Mapping[str, AtomDecl],
    report: Report,
    damaged: frozenset[str],
) -> dict[str, Grid | None]:
    """Name -> grid, None for one with a fault, so that its name stays known."""
    grids: dict[str, Grid | None] = {}
    for clause in declaration.clauses:
        if not isinstance(clause, GridDecl):
            continue
        if len(grids) == MAX_GRIDS:
            report.add(
                "E0302",
                f"a format has at most {MAX_GRIDS} grids",
                clause.span,
                hint="leave out the grids from here on",
            )
            break
        if clause.name.text in grids:
            report.add(
                "E0208",
                f"a second grid is called '{clause.name.text}'",
                clause.name.span,
                hint="give each grid a name of its own",
            )
            continue
        grids[clause.name.text] = resolve_grid(clause, host, report, {**atoms, **grids})
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
    atoms: Mapping[str, AtomDecl],
    report: Report,
    damaged: frozenset[str],
) -> Scale | None:
    clauses = [c for c in declaration.clauses if isinstance(c, ScaleDecl)]
    for extra in clauses[1:]:
        report.add("E0208", "a second scale clause", extra.span, hint="keep one of them")
    if clauses:
        return resolve_scale(
            clauses[0], [g for g in grids.values() if g], _inner(report, atoms, damaged), report
        )
    if "scale" not in damaged:
        report.add(
            "E0401",
            "the format does not say how a block is scaled",
            declaration.name.span,
            expected="a clause such as 'scale e4m3 { rule absmax }'",
        )
    return None


def _policies(knobs: Settings, grids: dict[str, Grid | None], report: Report) -> Policies:
    policies = Policies(
        tie=knobs.choice("tie"),
        compare=knobs.choice("compare"),
        overflow=knobs.choice("overflow"),
        nan=knobs.choice("nan"),
        inf=knobs.choice("inf"),
        negative_zero=knobs.choice("negative_zero"),
        error=knobs.choice("error"),
    )
    expr = knobs.expression("offset")
    offset = None if expr is None else report.number(expr)
    if expr is None or offset is None:
        return policies
    if policies.compare == "exact":
        report.add(
            "E0408",
            "an offset is added to a rounded quotient, and 'compare exact' has none",
            expr.span,
            hint="say 'compare fp32_reciprocal' or 'compare fp32_quotient'",
        )
    if not is_fp32(offset) or abs(offset) > MAX_OFFSET:
        report.add(
            "E0302",
            f"the offset cannot be {show_number(offset)}",
            expr.span,
            expected=f"an fp32 number from -{MAX_OFFSET} to {MAX_OFFSET}",
        )
    for grid in grids.values():
        if grid and not is_consecutive(grid):
            report.add(
                "E0408",
                f"an offset counts up from the grid's lowest integer, and '{grid.name}' is no run "
                "of integers",
                expr.span,
                hint="use an int grid, or leave 'offset' out",
            )
    return replace(policies, offset=offset)
