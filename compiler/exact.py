"""Exact numbers: evaluating .fmt expressions, and binary32 seen as rationals."""

from __future__ import annotations

import math
import re
import struct
from decimal import Decimal, localcontext
from fractions import Fraction

from ..dsl.ast import Binary, Call, Expr, Negate, Number, Span

#: The largest finite binary32 number.
FP32_MAX = Fraction((1 << 24) - 1) * Fraction(2) ** 104

#: No literal or power in a .fmt file may leave 2^-4096 .. 2^4096.
MAX_EXPONENT = 4096

#: Numbers with longer numerators or denominators are shown as a power of two.
MAX_SHOWN_BITS = 400

#: Longer decimals and fractions are shown rounded.
MAX_SHOWN_PLACES = 40

#: Most characters of a literal.
MAX_LITERAL = 1000

_LITERAL = re.compile(r"(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d+))?\Z")


class EvaluationError(ValueError):
    """An expression without a value; carries the span at fault and the code of the report."""

    def __init__(
        self, message: str, span: Span, hint: str | None = None, code: str = "E0301"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.hint = hint
        self.code = code


def evaluate(expr: Expr) -> Fraction:
    """The exact value of a .fmt expression.

    Raises:
        EvaluationError: division by zero, an exponent that is not a small integer, or a closed
            form, which ``closed_forms`` evaluates where a codebook lists its values.
    """
    match expr:
        case Number():
            return _literal(expr)
        case Negate(operand):
            return -evaluate(operand)
        case Binary(op, left, right):
            return combine(op, evaluate(left), evaluate(right), right.span)
        case Call(function):
            raise EvaluationError(
                f"'{function.text}(...)' is not evaluated here",
                function.span,
                "write the number out: closed forms stand among the values of a codebook",
            )


def combine(op: str, left: Fraction, right: Fraction, span: Span) -> Fraction:
    """``left op right`` for one of ``+ - * / ^``, exactly.

    Raises:
        EvaluationError: at ``span``, where there is no exact value or one far too large.
    """
    if op == "^":
        return _power(left, right, span)
    if op == "/":
        if right == 0:
            raise EvaluationError("division by zero", span)
        return left / right
    return {"+": left + right, "-": left - right, "*": left * right}[op]


def _literal(number: Number) -> Fraction:
    if len(number.text) > MAX_LITERAL:
        raise EvaluationError(
            f"a number of {len(number.text)} characters is too long",
            number.span,
            f"{MAX_LITERAL} are more than any format needs",
        )
    match = _LITERAL.match(number.text)
    exponent = int(match[2] or 0) if match and len(match[2] or "") <= 6 else None
    if match is None or exponent is None or abs(exponent) > MAX_EXPONENT // 4:
        raise EvaluationError(
            f"'{number.text}' is not a number in range",
            number.span,
            f"exponents of ten go from -{MAX_EXPONENT // 4} to {MAX_EXPONENT // 4}",
        )
    return Fraction(match[1].rstrip(".") if match[1].endswith(".") else match[1]) * (
        Fraction(10) ** exponent
    )


def _power(base: Fraction, exponent: Fraction, span: Span) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise EvaluationError(
            f"the exponent {show_number(exponent)} is no integer from -{MAX_EXPONENT} to "
            f"{MAX_EXPONENT}",
            span,
            "a root has no exact value: write the number out" if exponent.denominator > 1 else None,
        )
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(int(exponent)) > 4 * MAX_EXPONENT:
        raise EvaluationError("the power is too large to be a number of a format", span)
    if base == 0 and exponent < 0:
        raise EvaluationError("division by zero", span)
    return base ** int(exponent)


def floor_log2(value: Fraction) -> int:
    """The exponent e with 2^e <= value < 2^(e+1), for value > 0. Exact."""
    above, below = value.numerator, value.denominator
    guess = above.bit_length() - below.bit_length()
    reached = below << guess <= above if guess >= 0 else below <= above << -guess
    return guess if reached else guess - 1


def significant_bits(value: Fraction) -> int | None:
    """How many significand bits ``value`` needs, or None when it is not a dyadic rational."""
    if value.denominator & (value.denominator - 1):
        return None
    numerator = abs(value.numerator)
    return numerator.bit_length() - ((numerator & -numerator).bit_length() - 1 if numerator else 0)


def round_fp32(value: Fraction) -> float:
    """The binary32 number nearest to ``value``, ties to even; +-inf past the largest."""
    if value == 0:
        return 0.0
    above, below = abs(value.numerator), value.denominator
    ulp = max(floor_log2(abs(value)), -126) - 23
    whole, rest = divmod(above << max(0, -ulp), below << max(0, ulp))
    half = 2 * rest - (below << max(0, ulp))
    whole += half > 0 or (half == 0 and whole & 1)
    size = math.inf if whole.bit_length() + ulp > 128 else math.ldexp(whole, ulp)
    return -size if value < 0 and whole else size


def is_fp32(value: Fraction) -> bool:
    """Whether ``value`` is exactly a finite binary32 number."""
    return abs(value) <= FP32_MAX and Fraction(round_fp32(value)) == value


def fp32_bits(value: float) -> int:
    """The 32 bits of a binary32 number held in a Python float."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def fp32_from_bits(bits: int) -> float:
    """The binary32 number with these 32 bits."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def show_number(value: Fraction) -> str:
    """A short decimal where it is exact, else ``p/q``, else ``about ...``: for messages."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_SHOWN_BITS:
        return f"about {'-' * (value < 0)}2^{floor_log2(abs(value))}"
    bits = significant_bits(value)
    if bits is not None and bits <= 53 and abs(value) < Fraction(2) ** 60:
        return (
            f"{float(value):.17g}" if float(f"{float(value):g}") != value else f"{float(value):g}"
        )
    text = _short_decimal(value) or str(value)
    return text if len(text) <= MAX_SHOWN_PLACES else f"about {float(value):.6g}"


def _short_decimal(value: Fraction) -> str | None:
    """The exact decimal, such as ``0.3`` or ``1e-10``, or None when it is endless or long."""
    for places in range(MAX_SHOWN_BITS // 4):
        scaled = value * 10**places
        if scaled.denominator == 1:
            with localcontext(prec=MAX_SHOWN_BITS):
                text = str(Decimal(scaled.numerator).scaleb(-places).normalize()).lower()
            return text.replace("e+", "e")
    return None
