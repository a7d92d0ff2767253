"""One grid made from another: scaled, shifted, negated, mirrored, with codes replaced, snapped.

Every step is exact. ``apply`` follows the settings in the order of ``TRANSFORM_KNOBS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from ..dsl.ast import Call, Expr
from .exact import show_number
from .hosts import snap
from .report import Report, Settings
from .vocabulary import TRANSFORM_KNOBS


@dataclass(frozen=True, slots=True)
class Codes:
    """What every code means, exactly, before it is stored; ``negative_zero`` is the code of -0."""

    values: tuple[Fraction | None, ...]
    negative_zero: int | None = None

    def map(self, function: Callable[[Fraction], Fraction]) -> Codes:
        """Every number replaced; the code of -0 keeps its sign only while its value is zero."""
        values = tuple(None if value is None else function(value) for value in self.values)
        kept = self.negative_zero is not None and values[self.negative_zero] == 0
        return Codes(values, self.negative_zero if kept else None)


def times(codes: Codes, factor: Fraction) -> Codes:
    """Every value times ``factor``."""
    return codes.map(lambda value: value * factor)


def plus(codes: Codes, offset: Fraction) -> Codes:
    """Every value plus ``offset``; with one that is not 0 there is no -0 any more."""
    shifted = codes.map(lambda value: value + offset)
    return replace(shifted, negative_zero=None) if offset else codes


def negated(codes: Codes) -> Codes:
    """Every value with the other sign, under the same code."""
    return codes.map(lambda value: -value)


def mirrored(codes: Codes) -> Codes:
    """Every value with the other sign, and the codes counted from the other end.

    An ascending codebook stays ascending.
    """
    last = len(codes.values) - 1
    zero = None if codes.negative_zero is None else last - codes.negative_zero
    return negated(Codes(codes.values[::-1], zero))


def replaced(codes: Codes, values: Mapping[int, Fraction]) -> Codes:
    """Some codes with new values; a code without a value may get one."""
    every = tuple(values.get(code, value) for code, value in enumerate(codes.values))
    return Codes(every, None if codes.negative_zero in values else codes.negative_zero)


def snapped(codes: Codes, host: str) -> Codes:
    """Every value as the nearest number of ``host``, the lower on a tie; saturating."""
    return codes.map(lambda value: snap(host, value))


def asks(knobs: Settings) -> bool:
    """Whether any of the settings changes the grid."""
    return any(knobs.said(key) for key in TRANSFORM_KNOBS)


def apply(codes: Codes, knobs: Settings, report: Report) -> Codes | None:
    """``codes`` with the transforms that the settings ask for, or None after noting faults."""
    factor = _number(knobs, "times", Fraction(1), report)
    offset = _number(knobs, "plus", Fraction(0), report)
    call = knobs.call("replace")
    patches = {} if call is None else _patches(call, len(codes.values), report)
    if factor is None or offset is None or patches is None:
        return None
    codes = plus(times(codes, factor), offset)
    order, host = knobs.choice("order"), knobs.choice("snap")
    if order != "kept":
        codes = negated(codes) if order == "negated" else mirrored(codes)
    codes = replaced(codes, patches)
    return codes if host == "none" else snapped(codes, host)


def _number(knobs: Settings, key: str, default: Fraction, report: Report) -> Fraction | None:
    expr = knobs.expression(key)
    value = default if expr is None else report.number(expr)
    if key == "times" and expr is not None and value == 0:
        report.add(
            "E0302",
            "a grid times 0 has only one value",
            expr.span,
            expected="a number other than 0",
        )
        return None
    return value


def _patches(call: Call, count: int, report: Report) -> dict[int, Fraction] | None:
    """Code -> value of ``at(code, value, code, value, ...)``, or None after noting faults."""
    given = call.arguments
    if len(given) % 2:
        report.add(
            "E0205",
            f"'at' takes pairs of a code and its value, here are {len(given)} numbers",
            call.span,
            expected="at(code, value), or at(code, value, code, value)",
        )
        return None
    pairs = list(zip(given[::2], given[1::2], strict=True))
    patches: dict[int, Fraction] = {}
    sound = True
    for place, expr in pairs:
        code, value = report.integer(place, "a code", 0, count - 1), report.number(expr)
        if code is None or value is None or not _is_new(code, place, patches, report):
            sound = False
        else:
            patches[code] = value
    return patches if sound else None


def _is_new(code: int, place: Expr, patches: Mapping[int, Fraction], report: Report) -> bool:
    if code not in patches:
        return True
    report.add(
        "E0208",
        f"code {code} is replaced twice; it became {show_number(patches[code])} already",
        place.span,
        hint="keep one of the two values",
    )
    return False
