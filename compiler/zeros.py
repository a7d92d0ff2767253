"""From a zero clause to the exact ``Zero``: an integer zero point, or a stored minimum."""

from __future__ import annotations

from fractions import Fraction

from ..dsl.ast import FormatDecl, ScaleDecl, ZeroDecl
from .floats import named_float
from .format import Grid, Policies, Scale, ScaleWord, Zero
from .report import Report, Settings, suggest
from .scales import Inner
from .vocabulary import MINIMUM_KNOBS, POINT_KNOBS, STORED_KNOBS, ZERO_KINDS


def resolve_zero(clause: ZeroDecl, code_bits: int, inner: Inner, report: Report) -> Zero | None:
    """The zero that a clause means, or None after noting its faults."""
    kind = clause.kind.text
    if kind not in ZERO_KINDS:
        report.add(
            "E0207",
            f"a zero cannot be a '{kind}'",
            clause.kind.span,
            expected="point (an integer zero point) or minimum (added after scaling)",
            hint=suggest(kind, ZERO_KINDS),
        )
        return None
    own = STORED_KNOBS if clause.stored else {}
    knobs = {"point": POINT_KNOBS, "minimum": MINIMUM_KNOBS}[kind] | own
    settings = Settings(f"a zero {kind}", clause.settings or (), knobs, report)
    if kind == "point":
        return _point(clause, settings, code_bits, report)
    return _minimum(clause, settings, inner, report)


def _point(clause: ZeroDecl, knobs: Settings, code_bits: int, report: Report) -> Zero | None:
    if clause.stored:
        report.add(
            "E0409",
            "a zero point is an integer; it has no format of its own",
            clause.stored.span,
            hint="leave 'as { ... }' out, or use 'zero minimum'",
        )
        return None
    expr = knobs.expression("bits")
    bits: int | None = code_bits
    if expr is not None:
        bits = report.integer(expr, "the width of a zero point", code_bits, 16)
    return None if bits is None else Zero("point", bits, add=knobs.choice("add"))


def _minimum(clause: ZeroDecl, knobs: Settings, inner: Inner, report: Report) -> Zero | None:
    negated = knobs.choice("sign") == "negated"
    if clause.stored:
        if knobs.said("word"):
            report.add(
                "E0409",
                "minima have a word or a format of their own, not both",
                knobs.span("word", clause.span),
                hint="leave 'word' out",
            )
            return None
        stored = inner(clause.stored, "zeros")
        if stored is None:
            return None
        return Zero(
            "minimum",
            stored=stored,
            negated=negated,
            flat=knobs.choice("over") == "tensor",
            center=knobs.choice("center") == "mean",
        )
    name = knobs.choice("word")
    number = named_float(name)
    if number is None:
        raise ValueError(f"'{name}' is no float")
    return Zero("minimum", word=ScaleWord(name, number.bits, number), negated=negated)


def check_zero(
    zero: Zero | None,
    scale: Scale,
    grids: tuple[Grid, ...],
    policies: Policies,
    declaration: FormatDecl,
    report: Report,
) -> None:
    """What a zero asks of the scale's rule and of the grids, and the other way round."""
    said = next((c for c in declaration.clauses if isinstance(c, ZeroDecl)), None)
    if said is None and scale.rule == "range":
        report.add(
            "E0409",
            "rule range scales max - min, which needs a zero to begin from",
            next(c.span for c in declaration.clauses if isinstance(c, ScaleDecl)),
            expected="a clause 'zero point' or 'zero minimum'",
        )
    if zero is None or said is None:
        return
    span = said.span
    if scale.rule != "range":
        report.add(
            "E0409",
            f"a zero {zero.kind} goes with rule range, not with {scale.rule}",
            span,
            hint="write 'rule range' in the scale clause",
        )
    if policies.nan == "propagate":
        report.add(
            "E0409",
            "a block with a zero has no NaN that could be propagated",
            span,
            expected="'nan error' or 'nan zero'",
        )
    if zero.kind == "point" and scale.stored is not None and scale.codes == "stored":
        report.add(
            "E0409",
            "a zero point follows from the scale, and this scale is not known before all scales "
            "of the row are stored",
            span,
            hint="say 'codes wanted' in the scale clause, or use 'zero minimum'",
        )
    if zero.add == "after":
        _check_added_after(policies, said, report)
    for grid in grids:
        if zero.kind == "point" and not is_consecutive(grid):
            report.add(
                "E0409",
                f"a zero point moves a grid of consecutive integers, and '{grid.name}' is none",
                span,
                hint="use an int grid, or 'zero minimum'",
            )


def _check_added_after(policies: Policies, said: ZeroDecl, report: Report) -> None:
    """A quotient that is rounded alone: there must be one, and one way to round it."""
    span = next((s.span for s in said.settings or () if s.key.text == "add"), said.span)
    if policies.compare == "exact":
        report.add(
            "E0409",
            "'add after' rounds a quotient, and 'compare exact' has none",
            span,
            hint="say 'compare fp32_quotient' or 'compare fp32_reciprocal', or leave 'add' out",
        )
    if policies.tie != "even":
        report.add(
            "E0409",
            f"'add after' rounds the quotient's ties to even, not as 'tie {policies.tie}' says",
            span,
            hint="leave 'tie' out, or say 'add before'",
        )
    if policies.offset is not None:
        report.add(
            "E0409",
            "'add after' rounds the quotient, and an offset has it truncated",
            span,
            hint="leave 'offset' out, or say 'add before'",
        )


def is_consecutive(grid: Grid) -> bool:
    """Whether the grid's values are integers without a gap, each with one code, in code order."""
    numbers = grid.numbers
    return grid.negative_zero is None and numbers == tuple(
        Fraction(n) for n in range(int(grid.low), int(grid.low) + len(numbers))
    )
