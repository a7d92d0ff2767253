"""From a scale clause to the exact ``Scale``: the stored word, its rule and its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from ..dsl.ast import Body, ScaleDecl, Span
from .atoms import apply_float_settings, float_hint
from .exact import FP32_MAX, floor_log2, is_fp32, round_fp32, show_number
from .floats import SmallFloat, named_float
from .format import Format, Grid, Scale, ScaleWord
from .report import Report, Settings
from .vocabulary import CONTAINERS, FIT_CONTAINERS, FLOAT_KNOBS, SCALE_KNOBS, STORED_KNOBS

#: A scale word other than fp32 is decoded by a table: this bounds its size.
MAX_TABLE_BITS = 16
MAX_SHIFT = 126
MAX_SEARCH = 8
MAX_TARGETS = 4
#: Rules that ask for powers of two only.
LOG2_RULES = ("floor_log2", "ceil_log2", "even_log2", "round_log2")

#: Resolves the body of ``as { ... }`` to the nameless format that it means.
Inner = Callable[[Body, str], Format | None]

_COMMON_WORDS = ("e8m0", "e4m3", "ue4m3", "ue4m4", "ue5m3", "e5m2", "s1e5m5", "fp32")


def resolve_scale(
    clause: ScaleDecl, grids: list[Grid], inner: Inner, report: Report
) -> Scale | None:
    """The scale that a clause means, or None after noting its faults."""
    own = STORED_KNOBS if clause.stored else {}
    knobs = Settings("a scale", clause.settings or (), SCALE_KNOBS | FLOAT_KNOBS | own, report)
    number = _number(clause, knobs, report)
    if number is None:
        return None
    word = _word(clause, number, knobs, report)
    stored = inner(clause.stored, "scales") if clause.stored else None
    if clause.stored and stored is None:
        return None
    scale = Scale(
        word=word,
        rule=knobs.choice("rule"),
        rounding=knobs.choice("round"),
        tensor=knobs.choice("tensor"),
        shift=_shift(knobs, report),
        minimum=Fraction(0),
        zero_block=0,
        underflow=knobs.choice("underflow"),
        targets=_targets(knobs, grids, report),
        search=_search(knobs, report),
        both_signs=knobs.choice("signs") == "both",
        codes=knobs.choice("codes"),
        aim=_aim(knobs, number, report),
        stored=stored,
        flat=stored is not None and knobs.choice("over") == "tensor",
        center=stored is not None and knobs.choice("center") == "mean",
    )
    _check_rule(scale, grids, knobs, clause.span, report)
    _check_range(scale, knobs, clause.span, report)
    _check_stored(scale, knobs, clause, report)
    minimum = _minimum(scale, knobs, report)
    zero_block = _zero_block(scale, knobs, report)
    if minimum is None or zero_block is None:
        return None
    return replace(scale, minimum=minimum, zero_block=zero_block)


def _targets(knobs: Settings, grids: list[Grid], report: Report) -> tuple[Fraction, ...]:
    call = knobs.call("target")
    one = knobs.expression("target")
    asked = call.arguments if call else (one,) if one is not None else ()
    if len(asked) > MAX_TARGETS:
        report.add(
            "E0302",
            f"{len(asked)} targets; at most {MAX_TARGETS} are tried",
            knobs.span("target", asked[0].span),
        )
    found = [(expr, report.number(expr)) for expr in asked[:MAX_TARGETS]]
    largest = min((max(g.high, -g.low) for g in grids), default=None)
    targets: list[Fraction] = []
    for expr, value in found:
        if value is None:
            continue
        if value <= 0 or not is_fp32(value) or (largest is not None and value > 4 * largest):
            report.add(
                "E0302",
                f"the largest element cannot be scaled to {show_number(value)}",
                expr.span,
                expected="a positive fp32 number of about the size of the grid's end",
            )
        else:
            targets.append(value)
    return tuple(targets)


def _search(knobs: Settings, report: Report) -> int:
    expr = knobs.expression("search")
    if expr is None:
        return 0
    return report.integer(expr, "the number of neighbouring scales", 0, MAX_SEARCH) or 0


def _aim(knobs: Settings, number: SmallFloat, report: Report) -> Fraction | None:
    expr = knobs.expression("aim")
    value = None if expr is None else report.number(expr)
    if expr is None or value is None:
        return None
    if not 0 < value <= number.largest or not is_fp32(value):
        report.add(
            "E0302",
            f"the largest block's scale cannot be {show_number(value)}",
            expr.span,
            expected=f"a positive fp32 number of at most {show_number(number.largest)}, the "
            "largest that the scale word holds",
        )
        return None
    return value


def _check_stored(scale: Scale, knobs: Settings, clause: ScaleDecl, report: Report) -> None:
    """What a scale can be when it is stored otherwise than it is wanted."""
    indirect = scale.stored is not None or scale.codes == "wanted"
    if scale.stored is not None and not is_fp32_word(scale.word):
        report.add(
            "E0408",
            "scales that are stored in a format of their own are fp32 before that, not "
            f"{scale.word.name}",
            clause.word.span,
            hint="write 'scale fp32 { ... } as { ... }'",
        )
    if scale.codes == "wanted" and scale.stored is None and is_fp32_word(scale.word):
        report.add(
            "E0408",
            "an fp32 scale is stored as it is wanted",
            knobs.span("codes", clause.span),
            hint="leave 'codes' out, or store the scale in a narrower word",
        )
    for key, said in (
        ("round", scale.rounding != "even"),
        ("rule", scale.rule in LOG2_RULES),
        ("tensor", scale.tensor != "none"),
        ("shift", scale.shift != 0),
        ("search", scale.search > 0 and not is_fp32_word(scale.word)),
        ("underflow", scale.underflow != "minimum" and not is_fp32_word(scale.word)),
        ("min", knobs.said("min") and scale.codes == "wanted"),
    ):
        if indirect and said:
            report.add(
                "E0408",
                f"'{key}' does not fit a scale that is fp32 before it is stored",
                knobs.span(key, clause.span),
                hint="leave it out, or say 'codes stored' without 'as'",
            )


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
            f"more than the {MAX_TABLE_BITS} of the widest word",
            clause.word.span,
            expected="fp32, or a narrower word such as fp16, bf16 or e5m5",
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
    # Magnitudes are whole steps and ascend: the step and the largest decide for all.
    first, second = number.magnitude(0) or Fraction(0), number.magnitude(1)
    if second is None or number.largest <= 0:
        report.add(
            "E0302",
            f"the scale word '{clause.word.text}' has no positive value",
            clause.span,
            hint="take a wider word, or leave 'top' and 'subnormals' out",
        )
        return False
    outside = [m for m in (second - first, number.largest) if not is_fp32(m)]
    if outside:
        report.add(
            "E0302",
            f"the scale word '{clause.word.text}' reaches about 2^{floor_log2(outside[-1])}, "
            "which fp32 cannot hold",
            clause.span if clause.settings else clause.word.span,
            hint="take a bias that keeps it between 2^-149 and 2^127, 'top ieee' or fewer bits",
        )
    return not outside


def _word(clause: ScaleDecl, number: SmallFloat, knobs: Settings, report: Report) -> ScaleWord:
    expr = knobs.expression("container")
    container = None if expr is None else report.number(expr)
    legal = [size for size in CONTAINERS if size >= number.bits]
    fit = next((size for size in FIT_CONTAINERS if size >= number.bits), FIT_CONTAINERS[-1])
    if expr is not None and container is not None and container not in legal:
        report.add(
            "E0302",
            f"the container of {clause.word.text} ({number.bits} bits) cannot have "
            f"{show_number(container)} bits",
            expr.span,
            expected=_ranges(legal),
            hint=f"leave 'container' out to have the least byte-friendly one, {fit}",
        )
        container = None
    return ScaleWord(clause.word.text, fit if container is None else int(container), number)


def _ranges(sizes: list[int]) -> str:
    """Container sizes in words: ``9 to 16, or 32``."""
    if len(sizes) <= 2:
        return " or ".join(map(str, sizes))
    return f"{sizes[0]} to {sizes[-2]}, or {sizes[-1]}"


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
        if scale.rule == "even_log2" and named_float(grid.atom) is None:
            report.add(
                "E0408",
                f"rule even_log2 rounds the largest element to the mantissa of the grid's float, "
                f"and '{grid.name}' is no float",
                where,
                hint="use rule floor_log2, or absmax with 'round up'",
            )
    if scale.rule == "argmax" and len(scale.targets) > 1:
        report.add(
            "E0408",
            "rule argmax has one target",
            knobs.span("target", span),
            hint="use rule absmax to try several",
        )
    if scale.both_signs and (scale.word.sign_bit is None or scale.rule == "argmax"):
        report.add(
            "E0408",
            "'signs both' mirrors the grid by a sign of the scale that the rule leaves free"
            + (", and argmax decides it" if scale.rule == "argmax" else ""),
            knobs.span("signs", span),
            hint="use rule absmax and a signed word such as s1e5m5",
        )
    if scale.underflow == "zero_block" and is_fp32_word(scale.word):
        report.add(
            "E0408",
            "an fp32 scale rounds to zero for an all-zero block only",
            knobs.span("underflow", span),
            hint="leave 'underflow' out",
        )
    if scale.search and is_fp32_word(scale.word):
        report.add(
            "E0408",
            "an fp32 scale has no neighbours worth a search",
            knobs.span("search", span),
            hint="take a narrower word, or leave 'search' out",
        )


def _check_range(scale: Scale, knobs: Settings, span: Span, report: Report) -> None:
    if scale.tensor != "none" and (scale.shift is None or scale.shift):
        report.add(
            "E0406",
            "a tensor scale already moves the scales into range",
            knobs.span("shift", span),
            hint="keep either 'tensor' or 'shift'",
        )
    if scale.rule == "range" and scale.shift is None:
        report.add(
            "E0406",
            "'shift auto' counts largest magnitudes, which do not tell the scales of ranges",
            knobs.span("shift", span),
            hint="say a number, or 'tensor fp32'",
        )
    if is_fp32_word(scale.word) and (scale.tensor != "none" or scale.shift != 0):
        report.add(
            "E0406",
            "an fp32 scale has all the range it needs",
            knobs.span("tensor" if scale.tensor != "none" else "shift", span),
            hint="leave out 'tensor' and 'shift'",
        )
    if is_fp32_word(scale.word) and scale.rounding != "even":
        report.add(
            "E0408",
            "an fp32 scale is one correctly rounded division: it rounds to even",
            knobs.span("round", span),
            hint="leave 'round' out",
        )
    if is_fp32_word(scale.word) and scale.rule in LOG2_RULES:
        report.add(
            "E0408",
            f"rule {scale.rule} needs a scale word of at most 16 bits, not fp32",
            knobs.span("rule", span),
            hint="take 'scale e8m0', or rule absmax",
        )
    if scale.aim is not None and scale.tensor == "none":
        report.add(
            "E0406",
            "'aim' is where a second level takes the largest scale, and there is none",
            knobs.span("aim", span),
            hint="say 'tensor fp32' as well, or leave 'aim' out",
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
