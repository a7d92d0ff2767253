"""Which parts of a format do not go together, each with the reason and the way out."""

from __future__ import annotations

from ..dsl.ast import Clause, FormatDecl, RecordDecl, ScaleDecl, SelectDecl, Setting, SideDecl, Span
from .format import Format, Policies, Scale
from .report import Report, Settings


def check_policies(
    scale: Scale, policies: Policies, knobs: Settings, name_span: Span, report: Report
) -> None:
    """What the policies ask of the scale word."""
    where = knobs.span("nan", name_span)
    if policies.nan == "propagate" and scale.word.number.nan_code is None:
        report.add(
            "E0404",
            f"the scale word {scale.word.name} has no NaN that a block could propagate",
            where,
            expected="'nan error' or 'nan zero'",
        )
    elif policies.nan == "propagate" and (scale.stored or scale.codes == "wanted"):
        report.add(
            "E0404",
            "scales that are stored otherwise than they are wanted cannot propagate a NaN",
            where,
            expected="'nan error' or 'nan zero'",
        )


def check_shape(fmt: Format, declaration: FormatDecl, report: Report) -> None:
    """Blocks that are rows, tensors or tiles, against clauses that count blocks of a row."""
    whole = fmt.extent != "block"
    shape = f"block {fmt.extent}" if whole else f"tile {fmt.tile}"
    if not whole and fmt.tile == 1:
        return
    for wrong, kind, message, hint in (
        (
            whole and fmt.tile > 1,
            "block",
            "a tile has a width: 'block' must be a number of columns",
            "write 'block 128  tile 128', or leave 'tile' out",
        ),
        (
            any(isinstance(c, RecordDecl) for c in declaration.clauses),
            RecordDecl,
            f"a record holds whole blocks of one row, and '{shape}' has none",
            "leave the record out: streams of their own hold any shape",
        ),
        (
            fmt.scale.tensor == "rows",
            ScaleDecl,
            f"a second level per row does not fit '{shape}'",
            "use 'tensor fp32'",
        ),
        (
            fmt.scale.stored is not None and fmt.extent == "tensor",
            ScaleDecl,
            "a tensor with one scale has no scales to store in blocks",
            "leave 'as { ... }' out",
        ),
        (
            whole and fmt.select.bits > 0,
            SelectDecl,
            f"'{shape}' has one grid: a choice pays for itself in small blocks only",
            "give the block a number of elements",
        ),
        (
            whole and any(side.kind == "opq" for side in fmt.sides),
            SideDecl,
            f"outliers are found by the deviation of a block, and '{shape}' has none",
            "give the block a number of elements, or leave 'side opq' out",
        ),
    ):
        if wrong:
            report.add("E0411", message, _span_of(declaration, kind), hint=hint)


def check_inner(fmt: Format, declaration: FormatDecl, report: Report) -> None:
    """What only a whole format has: the inner one stores a row of scales, nothing more."""
    policies = fmt.policies
    for wrong, kind, what in (
        (fmt.extent != "block", "block", "a block that is no number of scales"),
        (fmt.tile > 1, "tile", "a tile"),
        (fmt.scale.tensor != "none", ScaleDecl, "a second level of its own"),
        (fmt.scale.shift != 0, ScaleDecl, "a shift"),
        (bool(fmt.sides), SideDecl, "side streams"),
        (fmt.record is not None, RecordDecl, "a record"),
        (policies.nan != "error", "nan", "a policy for NaN"),
        (policies.inf != "error", "inf", "a policy for infinity"),
    ):
        if wrong:
            report.add(
                "E0410",
                f"the format inside 'as {{ ... }}' cannot have {what}",
                _span_of(declaration, kind),
                hint="say it in the format around it",
            )


def _span_of(declaration: FormatDecl, what: type[Clause] | str) -> Span:
    """Where the first clause of a kind stands, or the setting of a key."""
    for clause in declaration.clauses:
        if isinstance(what, str):
            if isinstance(clause, Setting) and clause.key.text == what:
                return clause.span
        elif isinstance(clause, what):
            return clause.span
    return declaration.name.span
