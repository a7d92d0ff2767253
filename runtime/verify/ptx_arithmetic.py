"""PTX instructions on floats, and conversions; the sources are in ``ptx_forms``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .ptx_floats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    F16,
    F32,
    F64,
    Bits,
    FloatKind,
    larger,
    narrow,
    product,
    total,
    widen,
)
from .ptx_types import Form, Rule, compare, fit, integer, select, storage_of


def _scalar(kind: FloatKind, rule: Callable[..., F64]) -> Rule:
    return lambda *sources: narrow(kind, rule(*(widen(kind, bits) for bits in sources)))


def _halves(rule: Rule) -> Rule:
    """A rule over 16 bits as one over both halves of 32."""

    def both(*sources: Bits) -> Bits:
        low, high = (
            rule(*((bits >> shift).astype(np.uint16) for bits in sources)) for shift in (0, 16)
        )
        return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)

    return both


def _fma(a: F64, b: F64, c: F64) -> F64:
    return total(product(a, b), c)


def _extreme(kind: FloatKind, sign: int, nan: bool) -> Rule:
    return lambda a, b: larger(kind, a, b, sign=sign, nan=nan)


def _float_arithmetic(name: str, kind: FloatKind) -> dict[str, Form]:
    lift: Callable[[Rule], Rule] = _halves if name.endswith("x2") else (lambda rule: rule)
    late = "90" if name.startswith("bf16") else "80"
    two = (name, name)

    def form(takes: tuple[str, ...], rule: Callable[..., F64], arch: str = "80") -> Form:
        return Form(name, takes, lift(_scalar(kind, rule)), arch)

    forms = {
        f"fma.rn.{name}": form((*two, name), _fma),
        f"neg.{name}": form((name,), np.negative),
        f"abs.{name}": form((name,), np.abs),
    }
    for rounding in ("", ".rn"):
        forms[f"add{rounding}.{name}"] = form(two, total, late)
        forms[f"sub{rounding}.{name}"] = form(two, lambda a, b: total(a, -b), late)
        forms[f"mul{rounding}.{name}"] = form(two, product, late)
    for nan in ("", ".NaN"):
        for verb, sign in (("max", 1), ("min", -1)):
            rule = _extreme(kind, sign, bool(nan))
            forms[f"{verb}{nan}.{name}"] = Form(name, two, lift(rule))
    return forms


def floats() -> dict[str, Form]:
    """Arithmetic, comparisons and moves of f16, bf16 and f32."""
    forms: dict[str, Form] = {
        "mov.f32": Form("f32", ("f32",), np.copy),
        "selp.f32": Form("f32", ("f32", "f32", "pred"), select),
    }
    for name, kind in (
        ("f16", F16),
        ("f16x2", F16),
        ("bf16", BF16),
        ("bf16x2", BF16),
        ("f32", F32),
    ):
        forms |= _float_arithmetic(name, kind)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        for unordered in ("", "u"):
            rule = compare(name + unordered, lambda bits: widen(F32, bits))
            forms[f"setp.{name}{unordered}.f32"] = Form("pred", ("f32", "f32"), rule)
    return forms


def _rounds(to: FloatKind, of: FloatKind) -> Rule:
    return lambda bits: narrow(to, widen(of, bits))


def _packs(to: FloatKind, saturate: bool) -> Rule:
    """Two f32 to one word, the first in its upper half."""

    def rule(high: Bits, low: Bits) -> Bits:
        upper, lower = (narrow(to, widen(F32, x), saturate=saturate) for x in (high, low))
        word = np.dtype(f"u{2 * to.storage.itemsize}")
        both: Bits = upper.astype(word) << to.width | lower.astype(word)
        return both

    return rule


def _repacks(to: FloatKind, of: FloatKind, *, stride: int, onto: int, word: str) -> Rule:
    """Both values of a word, ``stride`` bits apart, to values ``onto`` bits apart."""

    def rule(bits: Bits) -> Bits:
        saturate = to.width < 16
        low, high = (
            narrow(to, widen(of, bits >> shift), saturate=saturate).astype(word)
            for shift in (0, stride)
        )
        both: Bits = low | high << onto
        return both

    return rule


def _powers(bits: Bits) -> Bits:
    """Two ue8m0 scales as bf16: 2^(code - 127), and NaN for 255."""
    codes = ((bits >> shift & 255).astype(np.int64) for shift in (0, 8))
    low, high = (
        narrow(BF16, np.where(code == 255, np.nan, np.ldexp(1.0, code - 127))) for code in codes
    )
    return low.astype(np.uint32) | high.astype(np.uint32) << np.uint32(16)


def _to_integer(kind: str, rounded: Callable[[F64], F64]) -> Rule:
    """The nearest integer of the type, 0 for a NaN."""
    least, most = (-(2**31), 2**31 - 1) if kind[0] == "s" else (0, 2**32 - 1)

    def rule(bits: Bits) -> Bits:
        value = widen(F32, bits)
        whole = np.clip(rounded(np.where(np.isnan(value), 0.0, value)), least, most)
        return fit(kind, whole.astype(np.int64))

    return rule


def _from_integer(to: FloatKind, kind: str) -> Rule:
    number, storage = integer(kind), storage_of(kind)
    return lambda bits: narrow(to, number(bits.astype(storage)).astype(np.float64))


def _resized(to: str, of: str) -> Rule:
    number, storage = integer(of), storage_of(of)
    return lambda bits: fit(to, number(bits.astype(storage)))


def conversions() -> dict[str, Form]:
    """Every ``cvt``."""
    forms = {
        "cvt.f32.f16": Form("f32", ("f16",), _rounds(F32, F16)),
        "cvt.f32.bf16": Form("f32", ("bf16",), lambda bits: bits.astype(np.uint32) << 16, "90"),
        "cvt.rn.f16.f32": Form("f16", ("f32",), _rounds(F16, F32)),
        "cvt.rn.bf16.f32": Form("bf16", ("f32",), _rounds(BF16, F32)),
        "cvt.rn.f16x2.f32": Form("f16x2", ("f32", "f32"), _packs(F16, saturate=False)),
        "cvt.rn.bf16x2.f32": Form("bf16x2", ("f32", "f32"), _packs(BF16, saturate=False)),
        "cvt.rn.bf16x2.ue8m0x2": Form("bf16x2", ("ue8m0x2",), _powers, "100a"),
    }
    for name, kind in (("e4m3x2", E4M3), ("e5m2x2", E5M2)):
        packs = _repacks(kind, F16, stride=16, onto=8, word="u2")
        forms |= {
            f"cvt.rn.f16x2.{name}": Form("f16x2", (name,), _unpacks(kind), "89"),
            f"cvt.rn.satfinite.{name}.f16x2": Form(name, ("f16x2",), packs, "89"),
            f"cvt.rn.satfinite.{name}.f32": Form(name, ("f32", "f32"), _packs(kind, True), "89"),
        }
    for name, kind in (("e2m1x2", E2M1), ("e2m3x2", E2M3), ("e3m2x2", E3M2)):
        forms[f"cvt.rn.f16x2.{name}"] = Form("f16x2", (name,), _unpacks(kind), "100a")
    for of in ("u8", "s8", "u16", "s16", "u32", "s32"):
        for to, kind in (("f32", F32), ("f16", F16)):
            forms[f"cvt.rn.{to}.{of}"] = Form(to, (of,), _from_integer(kind, of), wide=True)
    for to in ("u32", "s32"):
        forms[f"cvt.rni.{to}.f32"] = Form(to, ("f32",), _to_integer(to, np.rint))
        forms[f"cvt.rzi.{to}.f32"] = Form(to, ("f32",), _to_integer(to, np.trunc))
    for to in ("u16", "s16", "u32", "s32", "u64", "s64"):
        for of in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"):
            forms[f"cvt.{to}.{of}"] = Form(to, (of,), _resized(to, of), wide=True)
    return forms


def _unpacks(kind: FloatKind) -> Rule:
    """Two small floats to two halves; codes of 6 bits stand in bytes."""
    return _repacks(F16, kind, stride=4 if kind.width == 4 else 8, onto=16, word="u4")
