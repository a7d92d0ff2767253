"""PTX instructions on integers, bits and predicates; the sources are in ``ptx_forms``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ptx_floats import Bits
from .ptx_types import Form, Rule, compare, fit, integer, select, width_of


def _whole(kind: str, rule: Callable[..., NDArray[Any]], gives: str = "") -> Rule:
    """A rule over integers of a type, with the result's lowest bits."""
    number = integer(kind)
    return lambda *sources: fit(gives or kind, rule(*map(number, sources)))


def _low(count: NDArray[Any]) -> NDArray[np.uint64]:
    """So many ones, of at most 64, from bit 0 up."""
    count = count.astype(np.uint64)
    ones = np.uint64(2**64 - 1)
    return np.where(count == 0, np.uint64(0), ones >> (np.uint64(64) - np.maximum(count, 1)))


def _shl(bits: Bits, amount: Bits) -> Bits:
    width = bits.dtype.itemsize * 8
    shifted = bits << np.minimum(amount, width - 1).astype(bits.dtype)
    return np.where(amount < width, shifted, 0).astype(bits.dtype)


def _shr(kind: str) -> Rule:
    number, width = integer(kind), width_of(kind)

    def rule(bits: Bits, amount: Bits) -> Bits:
        value = number(bits)
        most = width - 1 if kind[0] == "s" else width
        steps = np.minimum(amount, most).astype(value.dtype)
        shifted = np.where(steps > 63, 0, value >> np.minimum(steps, 63).astype(value.dtype))
        return fit(kind, shifted)

    return rule


def _lop3(a: Bits, b: Bits, c: Bits, table: Bits) -> Bits:
    found = np.zeros_like(a & b & c)
    for row in range(8):
        chosen = (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        found |= np.where(table >> row & 1 == 1, chosen, 0).astype(found.dtype)
    return found


def _prmt(a: Bits, b: Bits, control: Bits) -> Bits:
    both = b.astype(np.uint64) << np.uint64(32) | a
    found = np.zeros(np.broadcast_shapes(both.shape, control.shape), np.uint64)
    for place in range(4):
        pick = (control >> (4 * place) & 15).astype(np.uint64)
        byte = both >> (np.uint64(8) * (pick & np.uint64(7))) & np.uint64(255)
        sign = np.where(byte > 127, np.uint64(255), np.uint64(0))
        found |= np.where(pick > 7, sign, byte) << np.uint64(8 * place)
    return found.astype(np.uint32)


def _bfe(kind: str) -> Rule:
    width = width_of(kind)

    def rule(bits: Bits, start: Bits, length: Bits) -> Bits:
        value, first, count = (x.astype(np.uint64) for x in (bits, start & 255, length & 255))
        there = np.minimum(count, width - np.minimum(first, width))
        field = np.where(first < width, value >> np.minimum(first, 63), 0) & _low(there)
        last = np.minimum(first + np.maximum(count, 1) - np.uint64(1), width - 1)
        negative = (kind[0] == "s") & (count > 0) & (value >> last & np.uint64(1) == 1)
        return fit(kind, np.where(negative, field | ~_low(there), field))

    return rule


def _bfi(bits: Bits, base: Bits, start: Bits, length: Bits) -> Bits:
    width = base.dtype.itemsize * 8
    first = np.minimum(start & 255, width).astype(np.uint64)
    mask = _low(np.minimum((length & 255).astype(np.uint64), width - first))
    mask, field = (np.where(first < 64, x << np.minimum(first, 63), 0) for x in (mask, bits & mask))
    return (base & ~mask | field).astype(base.dtype)


def _dp4a(left: str, right: str) -> Rule:
    def rule(a: Bits, b: Bits, c: Bits) -> Bits:
        added = c.astype(np.int64)
        for place in range(4):
            parts = []
            for word, kind in ((a, left), (b, right)):
                byte = (word >> (8 * place) & 255).astype(np.int64)
                parts.append(np.where(byte > 127, byte - 256, byte) if kind[0] == "s" else byte)
            added = added + parts[0] * parts[1]
        return fit("b32", added)

    return rule


def _high(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    high: NDArray[Any] = a * b >> np.asarray(32, a.dtype)
    return high


def _mad(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    added: NDArray[Any] = a * b + c
    return added


def integers() -> dict[str, Form]:
    """Arithmetic, comparisons, moves and bit work on integers, and logic on predicates."""
    forms: dict[str, Form] = {}
    for width in (16, 32, 64):
        bits = f"b{width}"
        forms |= {
            f"shl.{bits}": Form(bits, (bits, "u32"), _shl),
            f"not.{bits}": Form(bits, (bits,), np.invert),
            f"setp.eq.{bits}": Form("pred", (bits, bits), np.equal),
            f"setp.ne.{bits}": Form("pred", (bits, bits), np.not_equal),
        }
        for kind in (bits, f"u{width}", f"s{width}"):
            forms[f"mov.{kind}"] = Form(kind, (kind,), np.copy)
            forms[f"selp.{kind}"] = Form(kind, (kind, kind, "pred"), select)
            forms[f"shr.{kind}"] = Form(kind, (kind, "u32"), _shr(kind))
        for kind in (f"u{width}", f"s{width}"):
            forms |= _arithmetic(kind)
    for width in (32, 64):
        forms[f"bfi.b{width}"] = Form(
            f"b{width}", (f"b{width}", f"b{width}", "index", "index"), _bfi
        )
        for kind in (f"u{width}", f"s{width}"):
            forms[f"bfe.{kind}"] = Form(kind, (kind, "index", "index"), _bfe(kind))
    for kind in ("pred", "b16", "b32", "b64"):
        for name, rule in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
            forms[f"{name}.{kind}"] = Form(kind, (kind, kind), rule)
    for left in ("u32", "s32"):
        for right in ("u32", "s32"):
            gives = "u32" if left == right == "u32" else "s32"
            takes = (left, right, gives)
            forms[f"dp4a.{left}.{right}"] = Form(gives, takes, _dp4a(left, right))
    return forms | {
        "mov.pred": Form("pred", ("pred",), np.copy),
        "not.pred": Form("pred", ("pred",), np.invert),
        "lop3.b32": Form("b32", ("b32", "b32", "b32", "imm8"), _lop3),
        "prmt.b32": Form("b32", ("b32", "b32", "b32"), _prmt),
    }


def _arithmetic(kind: str) -> dict[str, Form]:
    two, double = (kind, kind), f"{kind[0]}{2 * width_of(kind)}"
    forms = {
        f"{name}.{kind}": Form(kind, two, _whole(kind, rule))
        for name, rule in (
            ("add", np.add),
            ("sub", np.subtract),
            ("mul.lo", np.multiply),
            ("min", np.minimum),
            ("max", np.maximum),
        )
    }
    forms[f"mad.lo.{kind}"] = Form(kind, (*two, kind), _whole(kind, _mad))
    if double[1:] != "128":
        forms[f"mul.wide.{kind}"] = Form(double, two, _whole(kind, np.multiply, double))
        forms[f"mad.wide.{kind}"] = Form(double, (*two, double), _mad_wide(kind, double))
    if kind[1:] == "32":
        forms[f"mul.hi.{kind}"] = Form(kind, two, _whole(kind, _high))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        forms[f"setp.{name}.{kind}"] = Form("pred", two, compare(name, integer(kind)))
    return forms


def _mad_wide(kind: str, double: str) -> Rule:
    number, wide = integer(kind), integer(double)
    return lambda a, b, c: fit(double, number(a) * number(b) + wide(c))
