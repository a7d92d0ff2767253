"""Closed forms in a codebook's list: ``normalize(sinh(3/2*linspace(-1, 1, 16)) - 1/50)``.

Rational values stay exact. An irrational one is an interval that surely holds it, and is worked
out with more and more bits until both ends of the interval round to the same binary32 number.
What "surely" rests on:

* ``+ - * / ^``, ``sqrt``, ``exp`` and ``log``: the outward rounding of mpmath's interval
  arithmetic; ``sinh``, ``cosh``, ``tanh`` and ``normalize`` are composed of these.
* ``quantile``: a series of positive terms with its remainder bounded, in integers rounded
  outward (see ``normal``).
* ``lloyd`` and ``lloyd_signed``: not proven. The solution has about 13 digits by the agreement
  of two quadratures, and counts as known to 12 digits (see ``block_optimal``).

mpmath is imported by the first irrational value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ..dsl.ast import Binary, Call, Expr, Negate, Number, Span
from ..dsl.diagnostics import did_you_mean
from .exact import FP32_MAX, EvaluationError, combine, evaluate, round_fp32, show_number

#: Most values that one expression makes: an 8-bit codebook.
MAX_VALUES = 256

#: Working precisions in bits, tried in turn.
PRECISIONS = (96, 192, 384, 768, 1536, 2000)

#: Arguments of exp, sinh and cosh: e^1000 is far past anything that a grid can hold.
MAX_EXP_ARGUMENT = 1000

#: Numerators and denominators of exact values, in bits.
MAX_EXACT_BITS = 1 << 14

#: Work that one list may ask for: a sum of two values is 1, at 96 bits; more bits cost more.
MAX_WORK = 1 << 16

#: What people call the values of codebooks whose codes mean several elements at once.
_VECTOR_NAMES = ("vector", "vec", "vq", "tuple", "point", "pair", "lattice", "e8", "e8p", "d4")
VECTOR_HINT = "codebooks of vectors are out of scope: a code means one element's value"

#: A rational number, or an mpmath interval that holds an irrational one.
Element = Any
Values = tuple[Element, ...]


class _Undecided(Exception):
    """More precision may decide; ``error`` says what stays undecided."""

    def __init__(self, message: str, span: Span, hint: str | None = None) -> None:
        super().__init__(message)
        self.error = EvaluationError(message, span, hint)


def is_vector_name(name: str) -> bool:
    """Whether a name asks for codes that mean several elements at once."""
    return name.lower().rstrip("0123456789_") in _VECTOR_NAMES or name.lower() in _VECTOR_NAMES


@dataclass(slots=True)
class ClosedForms:
    """Evaluates the expressions of one list, within one bound on the work of all."""

    work: int = field(default=MAX_WORK)

    def values(self, expr: Expr) -> tuple[Fraction, ...]:
        """The values that an expression makes: one, or those of a vector.

        Rational values are exact, others the nearest binary32 numbers.

        Raises:
            EvaluationError: at the argument outside a function's domain, or where no precision
                up to 2000 bits decides.
        """
        if not _has_call(expr):
            return (evaluate(expr),)
        undecided: _Undecided | None = None
        for precision in PRECISIONS:
            try:
                found = _Attempt(self, precision).value(expr)
                return tuple(_settled(value, expr.span) for value in found)
            except _Undecided as caught:
                undecided = caught
        raise undecided.error if undecided else AssertionError

    def spend(self, work: int, span: Span) -> None:
        """Take up some of the work that the list may ask for.

        Raises:
            EvaluationError: it is used up.
        """
        self.work -= work
        if self.work < 0:
            raise EvaluationError(
                "the list takes too long to evaluate", span, "write its values out"
            )


def _has_call(expr: Expr) -> bool:
    match expr:
        case Call():
            return True
        case Negate(operand):
            return _has_call(operand)
        case Binary(_, left, right):
            return _has_call(left) or _has_call(right)
    return False


def _settled(value: Element, span: Span) -> Fraction:
    """A rational value as it is, an interval as the binary32 number that it surely rounds to."""
    if isinstance(value, Fraction):
        return value
    low, high = (_rounded(end) for end in _ends(value))
    if low != high:
        raise _Undecided(
            f"2000 bits do not decide which fp32 number is nearest to {show_number(low)}",
            span,
            "the value lies half-way between two: write out the one that is meant",
        )
    return low


def _rounded(value: Fraction) -> Fraction:
    """The nearest binary32 number, or 2^128 with the sign of what is past the largest."""
    near = round_fp32(value)
    beyond = Fraction(2) ** 128 if value > 0 else -(Fraction(2) ** 128)
    return Fraction(near) if abs(near) <= FP32_MAX else beyond


def _ends(value: Element) -> tuple[Fraction, Fraction]:
    """The exact ends of a rational value or an interval."""
    if isinstance(value, Fraction):
        return value, value
    low, high = (_to_fraction(end) for end in value._mpi_)
    return low, high


def _in_range(value: Any, span: Span) -> Any:
    """An interval as it is, unless an end is far too large or small to be written out."""
    for _, mantissa, exponent, _ in value._mpi_:
        if mantissa and abs(exponent) > MAX_EXACT_BITS:
            raise EvaluationError("a number here is far out of range", span)
    return value


def _to_fraction(number: tuple[int, int, int, int]) -> Fraction:
    sign, mantissa, exponent, _ = number
    value = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -value if sign else value


class _Attempt:
    """One evaluation with a fixed working precision."""

    def __init__(self, forms: ClosedForms, precision: int) -> None:
        from mpmath.ctx_iv import MPIntervalContext

        self.forms = forms
        self.precision = precision
        self.iv = MPIntervalContext()
        self.iv.prec = precision

    def spend(self, work: int, span: Span) -> None:
        """Take up work at this precision."""
        self.forms.spend(work * self.precision // PRECISIONS[0], span)

    def value(self, expr: Expr) -> Values:
        """The elements of an expression; one alone stands for as many as are needed."""
        match expr:
            case Number():
                return (evaluate(expr),)
            case Negate(operand):
                return tuple(-value for value in self.value(operand))
            case Binary(op, left, right):
                return self.binary(op, self.value(left), self.value(right), expr)
            case Call():
                return self.call(expr)

    def interval(self, value: Element) -> Any:
        """A rational value as an interval; an interval as it is."""
        if not isinstance(value, Fraction):
            return value
        from mpmath.libmp import from_rational

        ends = (from_rational(*value.as_integer_ratio(), self.precision, way) for way in "fc")
        return self.iv.make_mpf(tuple(ends))

    # -- operators ---------------------------------------------------------------------

    def binary(self, op: str, left: Values, right: Values, expr: Binary) -> Values:
        """``left op right`` element by element."""
        count = max(len(left), len(right))
        if {len(left), len(right)} - {1, count}:
            raise EvaluationError(
                f"{len(left)} values and {len(right)} values do not go together element by element",
                expr.span,
            )
        self.spend(count, expr.span)
        left, right = left * (count // len(left)), right * (count // len(right))
        return tuple(self.combine(op, a, b, expr) for a, b in zip(left, right, strict=True))

    def combine(self, op: str, left: Element, right: Element, expr: Binary) -> Element:
        """``left op right`` of two elements."""
        span = expr.right.span
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            value = combine(op, left, right, span)
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_EXACT_BITS:
                raise EvaluationError("a number here has too many digits", expr.span)
            return value
        if op == "^":
            return _in_range(self.power(self.interval(left), right, span), expr.span)
        left, right = self.interval(left), self.interval(right)
        if op == "/":
            return _in_range(self.quotient(left, right, span), expr.span)
        value = left + right if op == "+" else left - right if op == "-" else left * right
        return _in_range(value, expr.span)

    def quotient(self, left: Any, right: Any, span: Span) -> Any:
        """A quotient of intervals, the divisor surely not zero."""
        low, high = _ends(right)
        if low <= 0 <= high:
            raise _Undecided("division by a number that may be zero", span)
        return left / right

    def power(self, base: Element, exponent: Element, span: Span) -> Element:
        """An interval to an integer power."""
        if not isinstance(exponent, Fraction):
            raise EvaluationError("an exponent must be rational", span, "write exp(b*log(a))")
        # The exact power of 1 refuses what is no exponent.
        combine("^", Fraction(1), exponent, span)
        low, high = _ends(base)
        if exponent < 0 and low <= 0 <= high:
            raise _Undecided("division by a number that may be zero", span)
        return base ** int(exponent)

    # -- functions ---------------------------------------------------------------------

    def call(self, call: Call) -> Values:
        """The values of a function."""
        name, span = call.function.text, call.function.span
        if name not in FUNCTIONS:
            raise unknown_function(name, span)
        wanted, makes, weight = FUNCTIONS[name]
        if len(call.arguments) != wanted:
            raise EvaluationError(
                f"'{name}' takes {wanted} argument{'s' * (wanted > 1)}, not {len(call.arguments)}",
                call.span,
            )
        arguments = [self.value(argument) for argument in call.arguments]
        self.spend(weight * max(map(len, arguments)), call.span)
        return makes(self, arguments, [argument.span for argument in call.arguments])


def unknown_function(name: str, span: Span) -> EvaluationError:
    """The fault of a call that names no function, with the way out."""
    if is_vector_name(name):
        return EvaluationError(f"no function is called '{name}'", span, VECTOR_HINT, "E0202")
    hint = did_you_mean(name, FUNCTIONS) or "there are " + ", ".join(FUNCTIONS)
    return EvaluationError(f"no function is called '{name}'", span, hint)


def _scalar(values: Values, span: Span, what: str) -> Fraction:
    if len(values) != 1 or not isinstance(values[0], Fraction):
        raise EvaluationError(f"{what} is one rational number", span)
    return values[0]


def _whole(values: Values, span: Span, what: str, low: int, high: int) -> int:
    value = _scalar(values, span, what)
    if value.denominator != 1 or not low <= value <= high:
        raise EvaluationError(
            f"{what} cannot be {show_number(value)}", span, f"it is an integer from {low} to {high}"
        )
    return int(value)


def _linspace(at: _Attempt, values: list[Values], spans: list[Span]) -> Values:
    """``n`` values from a to b in equal steps."""
    count = _whole(values[2], spans[2], "the number of values", 2, MAX_VALUES)
    for ends, span in zip(values[:2], spans[:2], strict=True):
        if len(ends) != 1:
            raise EvaluationError("an end of linspace is one number", span)
    (low,), (high,) = values[:2]
    at.spend(count, spans[2])
    if isinstance(low, Fraction) and isinstance(high, Fraction):
        return tuple(low + (high - low) * Fraction(i, count - 1) for i in range(count))
    low, high = at.interval(low), at.interval(high)
    inner = [
        low * at.interval(Fraction(count - 1 - i, count - 1))
        + high * at.interval(Fraction(i, count - 1))
        for i in range(1, count - 1)
    ]
    return (low, *inner, high)


def _is(value: Element, number: int) -> bool:
    """Whether a value is exactly this number, and known to be."""
    return isinstance(value, Fraction) and value == number


def _bounded(value: Element, span: Span) -> None:
    if any(abs(end) > MAX_EXP_ARGUMENT for end in _ends(value)):
        raise EvaluationError(
            f"an argument of {show_number(_ends(value)[0])} is too large",
            span,
            f"it goes from -{MAX_EXP_ARGUMENT} to {MAX_EXP_ARGUMENT}",
        )


def _exp(at: _Attempt, value: Element, span: Span) -> Element:
    _bounded(value, span)
    return Fraction(1) if _is(value, 0) else at.iv.exp(at.interval(value))


def _sinh(at: _Attempt, value: Element, span: Span) -> Element:
    _bounded(value, span)
    if _is(value, 0):
        return Fraction(0)
    grown = at.iv.exp(at.interval(value))
    return (grown - 1 / grown) / 2


def _cosh(at: _Attempt, value: Element, span: Span) -> Element:
    _bounded(value, span)
    if _is(value, 0):
        return Fraction(1)
    grown = at.iv.exp(at.interval(value))
    return (grown + 1 / grown) / 2


def _tanh(at: _Attempt, value: Element, span: Span) -> Element:
    _bounded(value, span)
    if _is(value, 0):
        return Fraction(0)
    return 1 - 2 / (at.iv.exp(2 * at.interval(value)) + 1)


def _positive(value: Element, span: Span, name: str, strictly: bool) -> None:
    """Refuse what is surely outside the domain of ``name``; wait for more bits where unsure."""
    low, high = _ends(value)
    if high < 0 or (strictly and high == 0):
        raise EvaluationError(f"{name} of {show_number(low)} has no real value", span)
    if low < 0 or (strictly and low == 0):
        raise _Undecided(f"{name} of a number that may be below zero", span)


def _log(at: _Attempt, value: Element, span: Span) -> Element:
    _positive(value, span, "log", strictly=True)
    return Fraction(0) if _is(value, 1) else at.iv.log(at.interval(value))


def _sqrt(at: _Attempt, value: Element, span: Span) -> Element:
    from math import isqrt

    _positive(value, span, "sqrt", strictly=False)
    if isinstance(value, Fraction):
        root = Fraction(isqrt(value.numerator), isqrt(value.denominator))
        if root * root == value:
            return root
    return at.iv.sqrt(at.interval(value))


def _quantile(at: _Attempt, value: Element, span: Span) -> Element:
    from .normal import SMALLEST_TAIL, Undecided, quantile

    low, high = _ends(value)
    if high < SMALLEST_TAIL or low > 1 - SMALLEST_TAIL:
        raise EvaluationError(
            f"quantile of {show_number(low)} has no value",
            span,
            "a probability lies between 0 and 1, and at least 2^-100 from both",
        )
    if low < SMALLEST_TAIL or high > 1 - SMALLEST_TAIL:
        raise _Undecided("quantile of a number that may be no probability", span)
    if low == high == Fraction(1, 2):
        return Fraction(0)
    try:
        ends = quantile(low, at.precision)[0], quantile(high, at.precision)[1]
    except Undecided:
        raise _Undecided("this quantile stays undecided", span) from None
    below, above = at.interval(ends[0]), at.interval(ends[1])
    return at.iv.make_mpf((below._mpi_[0], above._mpi_[1]))


def _normalize(at: _Attempt, values: list[Values], spans: list[Span]) -> Values:
    """Every value over the largest magnitude; the largest becomes exactly 1 or -1."""
    vector, span = values[0], spans[0]
    ends = [_ends(value) for value in vector]
    sizes = [
        (Fraction(0) if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))
        for low, high in ends
    ]
    most = max(size for size, _ in sizes)
    if max(size for _, size in sizes) == 0:
        raise EvaluationError("normalize of zeros divides by zero", span)
    if most == 0:
        raise _Undecided("normalize of values that may all be zero", span)
    top = max(range(len(vector)), key=lambda i: sizes[i][1])
    if all(i == top or size <= sizes[top][0] for i, (_, size) in enumerate(sizes)):
        largest = vector[top] if ends[top][0] > 0 else -vector[top]
        sure = Fraction(1) if ends[top][0] > 0 else Fraction(-1)
        return tuple(sure if i == top else _over(at, v, largest) for i, v in enumerate(vector))
    # Several are the largest as far as these bits tell: any size between their ends is in here.
    below, above = at.interval(most), at.interval(max(size for _, size in sizes))
    largest = at.iv.make_mpf((below._mpi_[0], above._mpi_[1]))
    return tuple(_over(at, value, largest) for value in vector)


def _over(at: _Attempt, value: Element, divisor: Element) -> Element:
    if isinstance(value, Fraction) and (value == 0 or isinstance(divisor, Fraction)):
        return value / divisor if value else value
    return at.interval(value) / at.interval(divisor)


def _reverse(_: _Attempt, values: list[Values], __: list[Span]) -> Values:
    return values[0][::-1]


def _lloyd(signed: bool) -> Callable[[_Attempt, list[Values], list[Span]], Values]:
    def solve(at: _Attempt, values: list[Values], spans: list[Span]) -> Values:
        from .block_optimal import MAX_BLOCK, MAX_LEVELS, RADIUS, NoSolution, levels

        count = _whole(values[0], spans[0], "the number of levels", 3, MAX_LEVELS)
        block = _whole(values[1], spans[1], "a block", 2, MAX_BLOCK)
        at.forms.spend(count << 10, spans[0])
        try:
            solved = levels(count, block, signed)
        except NoSolution as error:
            raise EvaluationError(str(error), spans[0]) from None
        found: list[Element] = []
        for level in solved:
            if level.denominator == 1:
                found.append(level)
                continue
            below, above = at.interval(level - RADIUS), at.interval(level + RADIUS)
            found.append(at.iv.make_mpf((below._mpi_[0], above._mpi_[1])))
        return tuple(found)

    return solve


Makes = Callable[[_Attempt, list[Values], list[Span]], Values]


def _each(function: Callable[[_Attempt, Element, Span], Element]) -> Makes:
    return lambda at, values, spans: tuple(function(at, v, spans[0]) for v in values[0])


#: Name -> number of arguments, what it makes of them, and its work for one value.
FUNCTIONS: dict[str, tuple[int, Makes, int]] = {
    "linspace": (3, _linspace, 1),
    "sinh": (1, _each(_sinh), 8),
    "cosh": (1, _each(_cosh), 8),
    "tanh": (1, _each(_tanh), 8),
    "exp": (1, _each(_exp), 8),
    "log": (1, _each(_log), 8),
    "sqrt": (1, _each(_sqrt), 4),
    "quantile": (1, _each(_quantile), 32),
    "normalize": (1, _normalize, 2),
    "reverse": (1, _reverse, 1),
    "lloyd": (2, _lloyd(signed=False), 1),
    "lloyd_signed": (2, _lloyd(signed=True), 1),
}
