"""The shape of a PTX instruction: the types of its operands, and what may stand for them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ptx_floats import Bits

I64 = NDArray[np.int64]
Rule = Callable[..., Bits]

#: Bits of the types that are neither an integer nor bare bits.
_WIDTHS = {"pred": 1, "index": 32, "f16": 16, "bf16": 16, "f32": 32, "f16x2": 32, "bf16x2": 32}
_WIDTHS |= {"e4m3x2": 16, "e5m2x2": 16, "e2m3x2": 16, "e3m2x2": 16, "ue8m0x2": 16, "e2m1x2": 8}

#: What a register can be declared as.
REGISTERS = ("pred", "f16", "f16x2", "f32", *(f"{k}{w}" for w in (8, 16, 32, 64) for k in "bus"))


@dataclass(frozen=True)
class Form:
    """One instruction with all its modifiers.

    Attributes:
        gives: the type of the destination.
        takes: the types of the sources; ``imm8`` is an immediate of 8 bits, and ``index`` is u32
            whose immediates have 8.
        rule: the result from the sources, unsigned arrays (boolean ones for ``pred``).
        arch: the first architecture that has it, 80 for sm_80; "100a" is one of its own.
        wide: whether sources may be registers wider than their types, as of ``cvt``.
    """

    gives: str
    takes: tuple[str, ...]
    rule: Rule
    arch: str = "80"
    wide: bool = False


def width_of(kind: str) -> int:
    """Bits of a type."""
    return _WIDTHS[kind] if kind in _WIDTHS else int(kind.lstrip("busim"))


def storage_of(kind: str) -> np.dtype[Any]:
    """The NumPy type that holds a register of a type."""
    return np.dtype(bool) if kind == "pred" else np.dtype(f"u{width_of(kind) // 8}")


def accepts(kind: str, register: str, *, wide: bool = False) -> bool:
    """Whether an operand of a type may be such a register (ISA, "Operand Type Checking")."""
    kind = "u32" if kind == "index" else kind
    if "pred" in (kind, register):
        return kind == register
    fits = width_of(register) == width_of(kind)
    if wide:
        return register[0] in "bus" and width_of(register) >= width_of(kind)
    if kind[0] == "b" and not kind.startswith("bf"):
        return fits
    if kind[0] in "us" and kind[1:].isdigit():
        return fits and register[0] in "bus"
    return register == kind or (fits and register[0] == "b")


def takes_immediate(kind: str) -> bool:
    """Whether a source of a type may be an immediate: integers, bits, and floats of 32 bits."""
    return kind in ("f32", "imm8", "index") or (kind[0] in "bus" and kind[1:] in ("16", "32", "64"))


def signed(bits: Bits) -> I64:
    """Two's complement as numbers."""
    return bits.view(f"i{bits.dtype.itemsize}").astype(np.int64)


def integer(kind: str) -> Callable[[Bits], NDArray[Any]]:
    """Codes of an integer type as numbers of 64 bits that wrap."""
    return signed if kind[0] == "s" else lambda bits: bits.astype(np.uint64)


def fit(kind: str, value: NDArray[Any]) -> Bits:
    """Integers as codes of a type: their lowest bits."""
    return value.astype(np.uint64).astype(storage_of(kind))


def select(a: Bits, b: Bits, chosen: Bits) -> Bits:
    """``selp``."""
    return np.where(chosen, a, b)


def compare(name: str, number: Callable[[Bits], NDArray[Any]]) -> Rule:
    """An ordered comparison is false of a NaN; one that ends in u is true of it."""
    test = getattr(operator, name.removesuffix("u"))

    def rule(a: Bits, b: Bits) -> Bits:
        x, y = number(a), number(b)
        unordered: Bits = (x != x) | (y != y)
        holds: Bits = np.asarray(test(x, y))
        return np.where(unordered, name.endswith("u"), holds)

    return rule
