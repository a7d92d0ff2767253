"""From a scale clause to the exact ``Scale``: the stored word, its rule and its range."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ..dsl.ast import ScaleDecl, Span
from .atoms import apply_float_settings, float_hint
from .exact import FP32_MAX, floor_log2, is_fp32, round_fp32, show_number
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
            hint=float_hint(name, _COMMON_WORDS),
        )
        return None
    number = apply_float_settings(number, knobs, clause.span, report)
    if number.magnitude_bits > MAX_TABLE_BITS and number.mantissa != 23:
        report.add(
            "E0203",
            f"the scale word '{name}' has {number.magnitude_bits} exponent and mantissa bits, "
            f"more than the {MAX_TABLE_BITS} that a decoding table is made for",
            clause.word.span,
            expected="fp32, or a narrower word such as e5m5",
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
    return number if _is_sound(number, clause, report) else None


def _is_sound(number: SmallFloat, clause: ScaleDecl, report: Report) -> bool:
    """Whether every scale is a binary32 number, as the decoder needs, and not all are zero."""
    if number.magnitude_bits > MAX_TABLE_BITS:
        return True
    scales = [m for m in number.magnitudes() if m is not None]
    outside = [m for m in scales if not is_fp32(m)]
    if outside:
        report.add(
            "E0302",
            f"the scale word '{clause.word.text}' reaches about 2^{floor_log2(outside[-1])}, "
            "which fp32 cannot hold",
            clause.span if clause.settings else clause.word.span,
            hint="take a bias that keeps it between 2^-149 and 2^127, 'top ieee' or fewer bits",
        )
    elif not any(scales):
        report.add(
            "E0302",
            f"the scale word '{clause.word.text}' has no positive value",
            clause.span,
            hint="take a wider word, or leave 'top' and 'subnormals' out",
        )
        return False
    return not outside


def _word(clause: ScaleDecl, number: SmallFloat, knobs: Settings, report: Report) -> ScaleWord:
    expr = knobs.expression("container")
    container = None if expr is None else report.number(expr)
    legal = [size for size in CONTAINERS if size >= number.bits]
    if expr is not None and container is not None and container not in legal:
        report.add(
            "E0302",
            f"the container of {clause.word.text} ({number.bits} bits) cannot have "
            f"{show_number(container)} bits",
            expr.span,
            expected="one of " + ", ".join(map(str, legal)),
            hint=f"leave 'container' out to have the least that fits, {legal[0]}",
        )
        container = None
    return ScaleWord(clause.word.text, legal[0] if container is None else int(container), number)


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
        if scale.rule == "argmax" and grid.low >= 0:
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
            hint="leave 'round' out",
        )
    if is_fp32_word(scale.word) and scale.rule == "floor_log2":
        report.add(
            "E0408",
            "rule floor_log2 needs a scale word of at most 12 bits, not fp32",
            knobs.span("rule", span),
            hint="take 'scale e8m0', or rule absmax",
        )


def _minimum(scale: Scale, knobs: Settings, report: Report) -> Fraction | None:
    number = scale.word.number
    expr = knobs.expression("min")
    if expr is None:
        smallest = number.magnitude(0) or number.magnitude(1)
        return smallest if smallest is not None else Fraction(0)
    asked = report.number(expr)
    if asked is None:
        return None
    value = _in_word(scale, asked)
    if _code_of(number, value) is None or value <= 0:
        report.add(
            "E0407",
            f"the least scale of {scale.word.name} cannot be {show_number(asked)}",
            expr.span,
            expected="a positive value of the scale word",
            hint=_nearest_scale(number, value, above_zero=True),
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
    code = _code_of(number, _in_word(scale, value))
    if code is None:
        report.add(
            "E0407",
            f"{scale.word.name} has no scale {show_number(value)} for an all-zero block",
            expr.span,
            expected="zero or a positive value of the scale word",
            hint=_nearest_scale(number, value),
        )
    elif scale.shift and value / Fraction(2) ** scale.shift > FP32_MAX:
        report.add(
            "E0407",
            f"the scale of an all-zero block, shifted by {-scale.shift}, is past fp32",
            expr.span,
            hint="take a smaller 'zero_block', or leave it out",
        )
        return None
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


def _in_word(scale: Scale, value: Fraction) -> Fraction:
    """The value itself; in fp32 it is rounded, as the values of a codebook are."""
    rounds = is_fp32_word(scale.word) and abs(value) <= FP32_MAX
    return Fraction(round_fp32(value)) if rounds else value


def _nearest_scale(number: SmallFloat, value: Fraction, *, above_zero: bool = False) -> str | None:
    if number.magnitude_bits > MAX_TABLE_BITS:
        return None
    known = [m for m in number.magnitudes() if m is not None and (m or not above_zero)]
    return f"the nearest is {show_number(min(known, key=lambda m: abs(m - value)))}"
