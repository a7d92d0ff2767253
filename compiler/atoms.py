"""From an atom of the syntax tree to the exact grid that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from ..dsl.ast import Atom, Expr, GridDecl, Setting, Span
from .exact import FP32_MAX, is_fp32, round_fp32, show_number, significant_bits
from .floats import SmallFloat, named_float
from .format import Grid
from .hosts import HIF_HOSTS, holds
from .report import Report, Settings, suggest
from .vocabulary import FLOAT_KNOBS, INTEGER_KNOBS

#: Widest element code.
MAX_CODE_BITS = 8

#: scale (24 bits) * midpoint must be exact in binary64 (53 bits): every back end relies on it.
MIDPOINT_BITS = 29

ATOM_KINDS = ("codebook", "int", "hif7", "hif8")
#: What other libraries call these floats.
_ALSO_CALLED = {"fp4": "e2m1", "fp6": "e2m3", "fp8": "e4m3"}
_COMMON_FLOATS = ("e2m1", "e1m2", "e3m0", "e2m3", "e3m2", "e4m3", "e5m2", "e2m2", "e3m3")


def resolve_grid(
    declaration: GridDecl, host: str, report: Report, known: object = None
) -> Grid | None:
    """The exact grid of a declaration, or None after noting its faults."""
    atom = declaration.atom
    name = declaration.name.text
    values = _values(atom, host, report)
    if values is None:
        return None
    label = atom.kind.text if atom.bits is None else f"{atom.kind.text} {atom.bits.text}"
    grid = Grid(name, label, values, _negative_zero(atom, values))
    return grid if _is_sound(grid, host, declaration.span, report) else None


def float_of(
    kind: str, settings: tuple[Setting, ...], span: Span, report: Report
) -> SmallFloat | None:
    """The float named ``kind`` with its settings applied, or None when it is no float's name."""
    number = named_float(kind)
    if number is None:
        return None
    return apply_float_settings(
        number, Settings(f"the float '{kind}'", settings, FLOAT_KNOBS, report), span, report
    )


def apply_float_settings(
    number: SmallFloat, knobs: Settings, span: Span, report: Report
) -> SmallFloat:
    """``number`` with bias, top and subnormals as the settings say."""
    bias = knobs.expression("bias")
    if bias is not None:
        chosen = report.integer(bias, "a bias", -64, 256)
        number = replace(number, bias=number.bias if chosen is None else chosen)
    top = knobs.choice("top")
    if top != "standard":
        if top == "ieee" and number.mantissa == 0:
            report.add(
                "E0302",
                "a float without mantissa bits has no room for infinity and NaN",
                knobs.span("top", span),
                expected="finite, nan or reserved",
            )
        else:
            number = replace(number, top=top)
    if knobs.choice("subnormals") != "standard":
        number = replace(number, subnormals=knobs.choice("subnormals") == "on")
    return number


def _values(atom: Atom, host: str, report: Report) -> tuple[Fraction | None, ...] | None:
    kind = atom.kind.text
    if kind == "codebook":
        return _codebook(atom, host, report)
    if kind == "int":
        return _integer(atom, report)
    if kind in HIF_HOSTS:
        return _hif(kind) if _no_body(atom, report) else None
    number = _element_float(atom, report)
    return None if number is None else number.values()


def _element_float(atom: Atom, report: Report) -> SmallFloat | None:
    kind = atom.kind.text
    number = float_of(kind, atom.settings or (), atom.span, report)
    if number is None:
        report.add(
            "E0202",
            f"no atom is called '{kind}'",
            atom.kind.span,
            expected="codebook, int, hif7, hif8 or a float such as e2m1, e3m2, ue4m4",
            hint=_atom_hint(kind),
        )
        return None
    if atom.values is not None or atom.bits is not None:
        report.add(
            "E0205",
            f"the float '{kind}' takes neither a width nor a list of values",
            atom.span,
            hint=f"write 'codebook {number.bits} {{ ... }}' for values of your own",
        )
        return None
    if number.bits > MAX_CODE_BITS:
        report.add(
            "E0302",
            f"'{kind}' has {number.bits} bits; an element has at most {MAX_CODE_BITS}",
            atom.kind.span,
            hint="wider floats are for scales",
        )
        return None
    return number


def float_hint(name: str, known: Iterable[str]) -> str | None:
    """The float that a name of another convention holds (``float8_e4m3fn``), or a near one."""
    inner = re.search(r"(s0|s1|u)?e\d{1,2}m\d{1,2}", name.lower())
    other = inner[0] if inner else _ALSO_CALLED.get(name.lower(), name)
    if other != name and named_float(other):
        return f"did you mean '{other}'?"
    return suggest(name, known)


def _atom_hint(kind: str) -> str:
    integer = re.fullmatch(r"(u?)s?int_?([1-8])", kind.lower())
    if integer:
        return f"write 'int {integer[2]}{' { range unsigned }' * bool(integer[1])}'"
    hint = float_hint(kind, (*ATOM_KINDS, *_COMMON_FLOATS))
    return hint or "for values of your own write 'grid name = codebook 4 { ... }'"


def _no_body(atom: Atom, report: Report) -> bool:
    if atom.bits is None and atom.values is None and not atom.settings:
        return True
    kind = atom.kind.text
    report.add(
        "E0205",
        f"'{kind}' takes no width, values or settings",
        atom.span,
        hint=f"write '{kind}' alone; 'host {kind}' keeps a codebook inside it",
    )
    return False


def _width(atom: Atom, report: Report) -> int | None:
    if atom.bits is None:
        report.add(
            "E0304",
            f"'{atom.kind.text}' needs its width in bits",
            atom.kind.span,
            expected=f"a width from 1 to {MAX_CODE_BITS}, as in '{atom.kind.text} 4'",
        )
        return None
    return report.integer(atom.bits, f"the width of '{atom.kind.text}'", 1, MAX_CODE_BITS)


def _codebook(atom: Atom, host: str, report: Report) -> tuple[Fraction | None, ...] | None:
    bits = _width(atom, report)
    if atom.values is None:
        report.add(
            "E0304",
            "a codebook needs its values",
            atom.span,
            expected="a list such as { -1, -0.5, 0, 0.5 }",
        )
        return None
    numbers = [(expr, report.number(expr)) for expr in atom.values]
    if bits is None or any(value is None for _, value in numbers):
        return None
    if len(numbers) != 1 << bits:
        report.add(
            "E0304",
            f"a {bits}-bit codebook has {1 << bits} values, here are {len(numbers)}",
            atom.span,
            expected=f"{1 << bits} values, one a code, starting with code 0",
        )
        return None
    hosted = [_to_host(expr, value, host, report) for expr, value in numbers if value is not None]
    return None if any(value is None for value in hosted) else tuple(hosted)


def _to_host(expr: Expr, value: Fraction, host: str, report: Report) -> Fraction | None:
    """Round to binary32 (the visible default), or insist that a HIF host has the value."""
    if host == "fp32":
        if abs(value) > FP32_MAX:
            report.add(
                "E0303",
                f"fp32 cannot hold {show_number(value)}",
                expr.span,
                expected="at most 2^128 - 2^104, about 3.4e38",
            )
            return None
        return Fraction(round_fp32(value))
    if holds(host, value):
        return value
    words = HIF_HOSTS[host].words()
    nearest_word = min(words, key=lambda word: (abs(word - value), word))
    report.add(
        "E0303",
        f"{host} has no word for {show_number(value)}",
        expr.span,
        expected=f"an integer of {host}, from {min(words)} to {max(words)}",
        hint=f"the nearest is {nearest_word}",
    )
    return None


def _integer(atom: Atom, report: Report) -> tuple[Fraction | None, ...] | None:
    bits = _width(atom, report)
    knobs = Settings("the integer atom", atom.settings or (), INTEGER_KNOBS, report)
    if bits is None:
        return None
    if atom.values is not None:
        report.add(
            "E0205",
            "an integer atom takes no list of values",
            atom.span,
            hint=f"write 'codebook {bits} {{ ... }}' for values of your own",
        )
        return None
    if knobs.choice("range") == "unsigned":
        return tuple(Fraction(code) for code in range(1 << bits))
    half = 1 << (bits - 1)
    signed = [Fraction(code if code < half else code - 2 * half) for code in range(2 * half)]
    if knobs.choice("range") == "symmetric":
        return tuple(None if value == -half else value for value in signed)
    return tuple(signed)


def _hif(kind: str) -> tuple[Fraction | None, ...]:
    """Every stored word of a HIF host; redundant words are codes of the same value."""
    last = HIF_HOSTS[kind].max_shift
    return tuple(
        Fraction((c - 32 if c & 16 else c) << shift) if shift <= last else None
        for shift in range(1 << last.bit_length())
        for c in range(32)
    )


def _negative_zero(atom: Atom, values: tuple[Fraction | None, ...]) -> int | None:
    number = named_float(atom.kind.text)
    if number is None or not number.signed:
        return None
    code = 1 << number.magnitude_bits
    return code if values[code] == 0 else None


def _is_sound(grid: Grid, host: str, span: Span, report: Report) -> bool:
    numbers = grid.numbers
    if len(numbers) < 2:
        report.add("E0305", f"the grid '{grid.name}' has fewer than two values", span)
        return False
    for value in numbers:
        if not is_fp32(value) or (host != "fp32" and not holds(host, value)):
            report.add(
                "E0303",
                f"{host} cannot hold {show_number(value)} of the grid '{grid.name}'",
                span,
                hint=None if host == "fp32" else "scale the grid to integers, or leave host out",
            )
            return False
    if grid.high <= 0:
        report.add(
            "E0408",
            f"the grid '{grid.name}' has no positive value",
            span,
            hint="a scale maps the block's largest element to the grid's positive end",
        )
        return False
    for low, high in pairwise(numbers):
        bits = significant_bits((low + high) / 2)
        if bits is None or bits > MIDPOINT_BITS:
            report.add(
                "E0305",
                f"the midpoint of {show_number(low)} and {show_number(high)} needs {bits} "
                f"significant bits; {MIDPOINT_BITS} can be compared exactly",
                span,
                hint="write fewer digits, or values whose sizes are closer together",
            )
            return False
    return True
