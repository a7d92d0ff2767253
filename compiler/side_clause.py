"""From side clauses to exact ``Side`` values: what is kept beside the dense codes, and how much."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from ..dsl.ast import SideDecl
from .exact import round_fp32, show_number
from .floats import named_float
from .format import ScaleWord, Side
from .report import Report, Settings, suggest
from .vocabulary import OPQ_KNOBS, WR_KNOBS

KINDS = {"opq": OPQ_KNOBS, "wr": WR_KNOBS}

#: Shares of blocks without an outlier: what lies outside is no use of a sparse stream.
QUANTILES = (Fraction(1, 1000), 1 - Fraction(1, 10**6))
#: In standard deviations of a block. Nothing in a block of g exceeds sqrt(g).
THRESHOLDS = (Fraction(1, 100), Fraction(64))


def resolve_sides(clauses: Iterable[SideDecl], block: int, report: Report) -> tuple[Side, ...]:
    """The side streams that the clauses mean, ``opq`` first, without those that have a fault.

    Args:
        clauses: the side clauses of a format.
        block: elements of a block, for the threshold of ``opq``.
        report: takes the faults.
    """
    sides: dict[str, Side | None] = {}
    for clause in clauses:
        kind = clause.kind.text
        if kind not in KINDS:
            report.add(
                "E0209",
                f"no side stream is called '{kind}'",
                clause.kind.span,
                expected="opq (outliers) or wr (residuals)",
                hint=suggest(kind, KINDS),
            )
        elif kind in sides:
            report.add("E0208", f"a second 'side {kind}'", clause.span, hint="keep one of them")
        else:
            knobs = Settings(f"side {kind}", clause.settings or (), KINDS[kind], report)
            resolve = _outliers if kind == "opq" else _residuals
            sides[kind] = resolve(knobs, block, report)
    found = (sides.get(kind) for kind in KINDS)
    return tuple(side for side in found if side)


def _outliers(knobs: Settings, block: int, report: Report) -> Side | None:
    said = knobs.expression("threshold")
    if said is not None and knobs.said("quantile"):
        report.add(
            "E0208",
            "the threshold is said twice, as itself and by a quantile",
            knobs.span("threshold", said.span),
            hint="keep one of them",
        )
        return None
    value = _word(knobs)
    if said is not None:
        threshold = _between(knobs, "threshold", "the threshold", THRESHOLDS, report)
        if threshold is None:
            return None
        return Side("opq", value, threshold=Fraction(round_fp32(threshold)))
    quantile = _between(knobs, "quantile", "the quantile", QUANTILES, report)
    if quantile is None:
        return None
    threshold = outlier_threshold(quantile, block)
    return Side("opq", value, quantile=quantile, threshold=threshold)


def _residuals(knobs: Settings, _block: int, report: Report) -> Side | None:
    fraction = _between(
        knobs, "fraction", "the fraction", (Fraction(1, 10**9), Fraction(1)), report
    )
    return None if fraction is None else Side("wr", _word(knobs), fraction=fraction)


def _word(knobs: Settings) -> ScaleWord:
    name = knobs.choice("value")
    number = named_float(name)
    if number is None:
        raise ValueError(f"the table of knobs offers '{name}', which is no float")
    return ScaleWord(name, number.bits, number)


def _between(
    knobs: Settings, key: str, what: str, legal: tuple[Fraction, Fraction], report: Report
) -> Fraction | None:
    """The value of ``key`` or its default, or None after noting that it is out of range."""
    expr = knobs.expression(key)
    if expr is None:
        return Fraction(knobs.word(key) or 0)
    value = report.number(expr)
    if value is None:
        return None
    low, high = legal
    if not low <= value <= high:
        report.add(
            "E0302",
            f"{what} cannot be {show_number(value)}",
            expr.span,
            expected=f"a number from {show_number(low)} to {show_number(high)}",
        )
        return None
    return value


def outlier_threshold(quantile: Fraction, block: int) -> Fraction:
    """The m of (2 Phi(m) - 1)^block = quantile, as the nearest binary32 number.

    So many standard deviations does the largest of ``block`` Gaussian numbers stay below with
    the probability ``quantile`` (SOP, arXiv:2605.14929, outlier-preserving quantization). It is
    computed to ever more digits until all numbers as near as the last ones round alike.
    """
    from mpmath import mp

    precision = 128
    while True:
        with mp.workprec(2 * precision):
            probability = mp.mpf(quantile.numerator) / quantile.denominator
            root = mp.sqrt(2) * mp.erfinv(mp.root(probability, block))
            near = mp.ldexp(1, -precision)
            places = [(root * (1 + error)).man_exp for error in (-near, near)]
        ends = {round_fp32(mantissa * Fraction(2) ** power) for mantissa, power in places}
        if len(ends) == 1:
            return Fraction(ends.pop())
        precision *= 2
