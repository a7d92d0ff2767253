"""From a scale clause to the exact ``Scale``: the stored word, its rule and its range."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ..dsl.ast import ScaleDecl, Span
from ..dsl.diagnostics import did_you_mean
from .atoms import apply_float_settings
from .exact import show_number
from .floats import SmallFloat, named_float
from .format import Grid, Scale, ScaleWord
from .report import Report, Settings
from .vocabulary import CONTAINERS, FLOAT_KNOBS, SCALE_KNOBS

#: A scale word other than fp32 is decoded by a table: this bounds its size.
MAX_TABLE_BITS = 12
MAX_SHIFT = 126

_COMMON_WORDS = ("e8m0", "e4m3", "ue4m3", "ue4m4", "ue5m3", "e5m2", "s1e5m5", "fp32")


def resolve_scale(clause: ScaleDecl, grids: list[Grid], report: Report) -> Scale | None:
    """The scale that a clause means, or None after noting its faults."""
    knobs = Settings("a scale", clause.settings or (), SCALE_KNOBS | FLOAT_KNOBS, report)
    number = _number(clause, knobs, report)
    if number is None:
        return None
    word = _word(clause, number, knobs, report)
    scale = Scale(
        word=word,
        rule=knobs.choice("rule"),
        rounding=knobs.choice("round"),
        tensor=knobs.choice("tensor"),
        shift=_shift(knobs, report),
        minimum=Fraction(0),
        zero_block=0,
    )
    _check_rule(scale, grids, knobs, clause.span, report)
    _check_range(scale, knobs, clause.span, report)
    minimum = _minimum(scale, knobs, report)
    zero_block = _zero_block(scale, knobs, report)
    if minimum is None or zero_block is None:
        return None
    return replace(scale, minimum=minimum, zero_block=zero_block)


def is_fp32_word(word: ScaleWord) -> bool:
    """Whether the stored scale is a binary32 number, which needs no table."""
    return (word.number.exponent, word.number.mantissa) == (8, 23)


def _number(clause: ScaleDecl, knobs: Settings, report: Report) -> SmallFloat | None:
    name = clause.word.text
    number = named_float(name)
    if number is None:
        report.add(
            "E0203",
            f"no scale word is called '{name}'",
            clause.word.span,
            expected="fp32, e8m0, e4m3 or any [s0|s1|u]eXmY such as ue4m4 or s1e5m5",
            hint=did_you_mean(name, _COMMON_WORDS),
        )
        return None
    number = apply_float_settings(number, knobs, clause.span, report)
    if number.magnitude_bits > MAX_TABLE_BITS and number.mantissa != 23:
        report.add(
            "E0203",
            f"the scale word '{name}' is too wide for a table",
            clause.word.span,
            expected=f"fp32, or at most {MAX_TABLE_BITS} exponent and mantissa bits",
        )
        return None
    if number.mantissa == 23 and number != named_float("fp32"):
        report.add(
            "E0203",
            f"'{name}' with these settings is not the fp32 that machines compute in",
            clause.word.span,
            hint="write 'scale fp32'",
        )
        return None
    return number


def _word(clause: ScaleDecl, number: SmallFloat, knobs: Settings, report: Report) -> ScaleWord:
    fitting = next(size for size in CONTAINERS if size >= number.bits)
    expr = knobs.expression("container")
    container = fitting if expr is None else report.integer(expr, "a container", 1, 32)
    if container is not None and container not in [c for c in CONTAINERS if c >= number.bits]:
        report.add(
            "E0302",
            f"a container of {container} bits cannot hold {clause.word.text} ({number.bits} bits)",
            knobs.span("container", clause.span),
            expected="8, 12, 16 or 32 bits, at least the word's own",
        )
        container = None
    return ScaleWord(clause.word.text, container or fitting, number)


def _shift(knobs: Settings, report: Report) -> int | None:
    expr = knobs.expression("shift")
    if expr is not None:
        return report.integer(expr, "a shift", -MAX_SHIFT, MAX_SHIFT) or 0
    return 0 if knobs.word("shift") == "none" else None


def _check_rule(
    scale: Scale, grids: list[Grid], knobs: Settings, span: Span, report: Report
) -> None:
    where = knobs.span("rule", span)
    if scale.rule == "argmax" and scale.word.sign_bit is None:
        report.add(
            "E0408",
            f"rule argmax needs a signed scale, and {scale.word.name} has no sign bit",
            where,
            hint="take a signed word such as s1e5m5, or rule absmax",
        )
    for grid in grids:
        if grid.high <= 0:
            report.add("E0408", f"the grid '{grid.name}' has no positive value", where)
        elif scale.rule == "argmax" and grid.low >= 0:
            report.add(
                "E0408",
                f"rule argmax mirrors a grid, and '{grid.name}' has no negative value",
                where,
                hint="use rule absmax",
            )


def _check_range(scale: Scale, knobs: Settings, span: Span, report: Report) -> None:
    if scale.tensor == "fp32" and (scale.shift is None or scale.shift):
        report.add(
            "E0406",
            "a tensor scale already moves the scales into range",
            knobs.span("shift", span),
            hint="keep either 'tensor fp32' or 'shift'",
        )
    if is_fp32_word(scale.word) and (scale.tensor == "fp32" or scale.shift != 0):
        report.add(
            "E0406",
            "an fp32 scale has all the range it needs",
            knobs.span("tensor" if scale.tensor == "fp32" else "shift", span),
            hint="leave out 'tensor' and 'shift'",
        )
    if is_fp32_word(scale.word) and scale.rounding != "even":
        report.add(
            "E0408",
            "an fp32 scale is one correctly rounded division: it rounds to even",
            knobs.span("round", span),
        )
    if is_fp32_word(scale.word) and scale.rule == "floor_log2":
        report.add(
            "E0408",
            "rule floor_log2 needs a scale word with a table, such as e8m0",
            knobs.span("rule", span),
        )


def _minimum(scale: Scale, knobs: Settings, report: Report) -> Fraction | None:
    number = scale.word.number
    expr = knobs.expression("min")
    if expr is None:
        smallest = number.magnitude(0) or number.magnitude(1)
        return smallest if smallest is not None else Fraction(0)
    value = report.number(expr)
    if value is None:
        return None
    if _code_of(number, value) is None or value <= 0:
        report.add(
            "E0407",
            f"{scale.word.name} has no scale {show_number(value)}",
            expr.span,
            expected="a positive value of the scale word",
            hint=_nearest_scale(number, value),
        )
        return None
    return value


def _zero_block(scale: Scale, knobs: Settings, report: Report) -> int | None:
    number = scale.word.number
    expr = knobs.expression("zero_block")
    if expr is None:
        return 0
    value = report.number(expr)
    if value is None:
        return None
    code = _code_of(number, value)
    if code is None:
        report.add(
            "E0407",
            f"{scale.word.name} has no scale {show_number(value)}",
            expr.span,
            expected="zero or a positive value of the scale word",
            hint=_nearest_scale(number, value),
        )
    return code


def _code_of(number: SmallFloat, value: Fraction) -> int | None:
    """The magnitude code that means ``value``, by bisection: codes ascend with values."""
    low, high = 0, (1 << number.magnitude_bits) - 1
    while low <= high:
        middle = (low + high) // 2
        found = number.magnitude(middle)
        if found is None or found > value:
            high = middle - 1
        elif found < value:
            low = middle + 1
        else:
            return middle
    return None


def _nearest_scale(number: SmallFloat, value: Fraction) -> str | None:
    if number.magnitude_bits > MAX_TABLE_BITS:
        return None
    known = [m for m in number.magnitudes() if m is not None]
    return f"the nearest is {show_number(min(known, key=lambda m: abs(m - value)))}"
