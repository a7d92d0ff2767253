"""What PTX instructions mean, said a second time: one thread, Python integers, exact rationals.

Written from the "Semantics" paragraphs of the PTX ISA and from NumPy and ml_dtypes, without the
emulator's code. Operands are bit patterns; a predicate is 0 or 1.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import ml_dtypes
import numpy as np

Meaning = Callable[..., int]

#: Kinds of float: NumPy's type, bits of the mantissa, the least normal exponent, canonical NaN.
FLOATS = {
    "f16": (np.float16, 10, -14, 0x7FFF),
    "bf16": (ml_dtypes.bfloat16, 7, -126, 0x7FFF),
    "f32": (np.float32, 23, -126, 0x7FFFFFFF),
}
SMALL = {
    "e4m3x2": ml_dtypes.float8_e4m3fn,
    "e5m2x2": ml_dtypes.float8_e5m2,
    "e2m3x2": ml_dtypes.float6_e2m3fn,
    "e3m2x2": ml_dtypes.float6_e3m2fn,
    "e2m1x2": ml_dtypes.float4_e2m1fn,
}


def signed(bits: int, width: int) -> int:
    return bits - (1 << width) if bits >> (width - 1) & 1 else bits


def number(kind: str, bits: int) -> int:
    width = int(kind[1:])
    bits %= 1 << width
    return signed(bits, width) if kind[0] == "s" else bits


def prmt(a: int, b: int, control: int) -> int:
    data = struct.pack("<II", a, b)
    found = []
    for place in range(4):
        pick = control >> (4 * place) & 0xF
        byte = data[pick & 7]
        found.append((0xFF if byte >= 0x80 else 0) if pick & 8 else byte)
    return int.from_bytes(bytes(found), "little")


def lop3(a: int, b: int, c: int, table: int) -> int:
    rows = [(a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1) for i in range(32)]
    return sum((table >> row & 1) << i for i, row in enumerate(rows))


def bfe(kind: str, a: int, b: int, c: int) -> int:
    most, start, length = int(kind[1:]) - 1, b & 0xFF, c & 0xFF
    sign = 0 if kind[0] == "u" or length == 0 else a >> min(start + length - 1, most) & 1
    inside = [i < length and start + i <= most for i in range(most + 1)]
    return sum((a >> (start + i) & 1 if inside[i] else sign) << i for i in range(most + 1))


def bfi(width: int, a: int, b: int, start: int, length: int) -> int:
    start, length, found = start & 0xFF, length & 0xFF, b
    for i in range(width):
        if i < length and start + i < width:
            found = found & ~(1 << (start + i)) | (a >> i & 1) << (start + i)
    return found


def dp4a(left: str, right: str, a: int, b: int, c: int) -> int:
    code = {"u": "4B", "s": "4b"}
    x = struct.unpack(code[left[0]], struct.pack("<I", a))
    y = struct.unpack(code[right[0]], struct.pack("<I", b))
    return (c + sum(i * j for i, j in zip(x, y, strict=True))) % 2**32


def _orders(convert: Callable[[int], object], suffix: str) -> dict[str, Meaning]:
    """setp by Python's own comparisons, which are false of a NaN, but for !=."""
    tests: dict[str, Callable[[object, object], bool]] = {
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a < b or a > b,
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
    }
    return {
        f"setp.{name}.{suffix}": lambda a, b, test=test: int(test(convert(a), convert(b)))
        for name, test in tests.items()
    }


def _integer(kind: str) -> dict[str, Meaning]:
    width = int(kind[1:])
    top, double = 1 << width, 1 << 2 * width
    of = partial(number, kind)
    shift = (lambda a, n: of(a) >> min(n, width)) if kind[0] == "s" else (lambda a, n: a >> n)
    found: dict[str, Meaning] = {
        f"add.{kind}": lambda a, b: (a + b) % top,
        f"sub.{kind}": lambda a, b: (a - b) % top,
        f"mul.lo.{kind}": lambda a, b: a * b % top,
        f"mad.lo.{kind}": lambda a, b, c: (a * b + c) % top,
        f"min.{kind}": lambda a, b: min(of(a), of(b)) % top,
        f"max.{kind}": lambda a, b: max(of(a), of(b)) % top,
        f"shr.{kind}": lambda a, n: shift(a, n) % top,
        f"mov.{kind}": lambda a: a,
        f"selp.{kind}": lambda a, b, p: a if p else b,
    }
    if width < 64:
        found[f"mul.wide.{kind}"] = lambda a, b: of(a) * of(b) % double
        found[f"mad.wide.{kind}"] = lambda a, b, c: (of(a) * of(b) + c) % double
    if width == 32:
        found[f"mul.hi.{kind}"] = lambda a, b: (of(a) * of(b) >> 32) % top
    if width > 16:
        found[f"bfe.{kind}"] = lambda a, b, c: bfe(kind, a, b, c)
    return found | _orders(of, kind)


def _bits(width: int) -> dict[str, Meaning]:
    kind, top = f"b{width}", 1 << width
    found: dict[str, Meaning] = {
        f"and.{kind}": lambda a, b: a & b,
        f"or.{kind}": lambda a, b: a | b,
        f"xor.{kind}": lambda a, b: a ^ b,
        f"not.{kind}": lambda a: top - 1 - a,
        f"shl.{kind}": lambda a, n: (a << min(n, width)) % top,
        f"shr.{kind}": lambda a, n: a >> n,
        f"setp.eq.{kind}": lambda a, b: int(a == b),
        f"setp.ne.{kind}": lambda a, b: int(a != b),
        f"mov.{kind}": lambda a: a,
        f"selp.{kind}": lambda a, b, p: a if p else b,
    }
    if width > 16:
        found[f"bfi.{kind}"] = lambda a, b, c, d: bfi(width, a, b, c, d)
    return found


def integers() -> dict[str, Meaning]:
    """Every instruction on integers, but for those of which an operand is an immediate."""
    found: dict[str, Meaning] = {
        "prmt.b32": prmt,
        "mov.pred": lambda a: a,
        "not.pred": lambda a: 1 - a,
        "and.pred": lambda a, b: a & b,
        "or.pred": lambda a, b: a | b,
        "xor.pred": lambda a, b: a ^ b,
    }
    for width in (16, 32, 64):
        found |= _bits(width) | _integer(f"u{width}") | _integer(f"s{width}")
        for to in (f"u{width}", f"s{width}"):
            for of in (f"{k}{w}" for k in "us" for w in (8, 16, 32, 64)):
                found[f"cvt.{to}.{of}"] = lambda a, of=of, w=width: number(of, a) % (1 << w)
    for x in ("u32", "s32"):
        for y in ("u32", "s32"):
            found[f"dp4a.{x}.{y}"] = lambda a, b, c, x=x, y=y: dp4a(x, y, a, b, c)
    return found


def value(kind: str, bits: int) -> float:
    """The value of a 16- or 32-bit float, as a Python float."""
    dtype = np.dtype(FLOATS[kind][0])
    return float(np.array(bits, f"u{dtype.itemsize}").view(dtype))


def rounded(kind: str, exact: Fraction | float, sign: int = 0) -> int:
    """The code nearest to an exact number, ties to even; ``sign`` is that of an exact zero."""
    dtype, mantissa, least, nan = FLOATS[kind]
    width = 8 * np.dtype(dtype).itemsize
    infinity = nan >> mantissa << mantissa
    if isinstance(exact, float):
        return nan if exact != exact else infinity | (exact < 0) << (width - 1)
    if exact == 0:
        return sign << (width - 1)
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    step = max(exponent, least) - mantissa
    nearest = math.ldexp(round(size / Fraction(2) ** step), step)  # Python rounds to even
    with np.errstate(over="ignore"):
        code = int(np.array(min(nearest, 2.0**200)).astype(dtype).view(f"u{width // 8}"))
    return min(code, infinity) | (exact < 0) << (width - 1)


def fma(kind: str, a: int, b: int, c: int) -> int:
    """a * b + c, rounded once."""
    x, y, z = (value(kind, bits) for bits in (a, b, c))
    if not all(map(math.isfinite, (x, y, z))):
        return rounded(kind, x * y + z)
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    negative = [math.copysign(1, x) * math.copysign(1, y) < 0, math.copysign(1, z) < 0]
    return rounded(kind, exact, sign=int(all(negative)))


def extreme(kind: str, a: int, b: int, sign: int, nan: bool) -> int:
    """max (sign 1) and min (sign -1): a NaN loses, +0 is above -0."""
    x, y = value(kind, a), value(kind, b)
    canonical = FLOATS[kind][3]
    if x != x or y != y:
        both = x != x and y != y
        return canonical if nan or both else b if x != x else a
    key = [(sign * v, sign * math.copysign(1, v)) for v in (x, y)]
    return a if key[0] >= key[1] else b


def floats(kind: str) -> dict[str, Meaning]:
    """Arithmetic of f16, bf16 or f32 from exact rationals."""
    top = 1 << (8 * np.dtype(FLOATS[kind][0]).itemsize - 1)
    one, zero = rounded(kind, Fraction(1)), top

    def clean(a: int, result: int) -> int:
        return FLOATS[kind][3] if value(kind, a) != value(kind, a) else result

    found: dict[str, Meaning] = {
        f"fma.rn.{kind}": lambda a, b, c: fma(kind, a, b, c),
        f"neg.{kind}": lambda a: clean(a, a ^ top),
        f"abs.{kind}": lambda a: clean(a, a & (top - 1)),
    }
    for rn in ("", ".rn"):
        found[f"add{rn}.{kind}"] = lambda a, b: fma(kind, a, one, b)
        found[f"sub{rn}.{kind}"] = lambda a, b: fma(kind, a, one, b ^ top)
        # -0 is what may be added to any product without changing its sign.
        found[f"mul{rn}.{kind}"] = lambda a, b: fma(kind, a, b, zero)
    for nan in ("", ".NaN"):
        for verb, sign in (("max", 1), ("min", -1)):
            found[f"{verb}{nan}.{kind}"] = lambda a, b, sign=sign, nan=nan: extreme(
                kind, a, b, sign, bool(nan)
            )
    return found


def halves(meaning: Meaning) -> Meaning:
    """An instruction on 16 bits as one on both halves of 32."""

    def both(*sources: int) -> int:
        return meaning(*(s & 0xFFFF for s in sources)) | meaning(*(s >> 16 for s in sources)) << 16

    return both


def arithmetic() -> dict[str, Meaning]:
    """Every instruction on floats that is no conversion."""
    found: dict[str, Meaning] = {"mov.f32": lambda a: a, "selp.f32": lambda a, b, p: a if p else b}
    for kind in FLOATS:
        found |= floats(kind)
    for kind in ("f16", "bf16"):
        found |= {name + "x2": halves(meaning) for name, meaning in floats(kind).items()}
    ordered = _orders(lambda bits: value("f32", bits), "f32")
    for name, meaning in ordered.items():
        unordered = name.replace(".f32", "u.f32")
        found[name] = meaning
        found[unordered] = lambda a, b, meaning=meaning: int(
            any(value("f32", bits) != value("f32", bits) for bits in (a, b)) or meaning(a, b)
        )
    return found
