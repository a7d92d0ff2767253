"""What the kernels of products are held against: words of codes, snippets run on NumPy, bounds."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from fmtc.codegen.render import render
from fmtc.codegen.triton.products.functions import Function
from fmtc.codegen.triton.products.method import GEMM_TOP, GEMV_TOP, Method
from fmtc.codegen.triton.snippets import HELPERS, Snippet
from fmtc.compiler.decoding import Base, Values
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format, Stream
from fmtc.compiler.kernel import dense_format, kernel_format
from fmtc.compiler.packing import unpack
from fmtc.compiler.physical import PLANES
from fmtc.compiler.pipeline import decode, encode
from fmtc.compiler.product import given_of
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.runtime.verify.ptx import run
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


# -- words ------------------------------------------------------------------------------


def codes_everywhere(bits: int, more: int = 256) -> NDArray[np.int64]:
    """[words, 8] codes: every code at every place, beside every kind of neighbour."""
    size = 1 << bits
    codes = np.arange(size)[:, None] + np.arange(8)[None, :] * (2 * (size // 5) + 1)
    alike = np.repeat(np.arange(size)[:, None], 8, axis=1)
    rng = np.random.default_rng(bits)
    return np.concatenate([codes % size, alike, rng.integers(0, size, (more, 8))])


def words_of(codes: NDArray[np.int64], bits: int, order: Sequence[int]) -> list[U32]:
    """The words of a code's planes, one sentence of ``compiler.physical`` at a time."""
    words, low = [], 0
    for width in PLANES[bits]:
        fields = (codes >> low) & ((1 << width) - 1)
        low += width
        if width == 8:
            for group in (fields[:, :4], fields[:, 4:]):
                words.append(sum(group[:, r] << (8 * r) for r in range(4)))
        else:
            places = order if width == 4 else range(8)
            words.append(sum(fields[:, e] << (width * p) for p, e in enumerate(places)))
    return [np.asarray(word).astype(np.uint32) for word in words]


def halves_of(pairs: Sequence[U32]) -> F16:
    """Binary16 [words, 2 * pairs] in the order of the elements."""
    return np.stack(pairs, axis=1).view(np.float16).reshape(len(pairs[0]), -1)


def values_of(grids: Sequence[Values], codes: NDArray[np.int64], selects: Any) -> F64:
    """Exact values in binary64; NaN for no number."""
    table = np.array([[np.nan if v is None else float(v) for v in row] for row in grids])
    return table[np.broadcast_to(selects, codes.shape), codes]


# -- snippets ---------------------------------------------------------------------------


def emulated(s: Snippet, inputs: Sequence[NDArray[Any]]) -> tuple[U32, ...]:
    """What a snippet's PTX gives."""
    constraints = ",".join([*("=r" for _ in s.outputs), *s.inputs.values()])
    return run("\n".join(s.ptx()), constraints, inputs)


class Twin(np.ndarray):
    """An array with what Triton's statements ask of a tensor: conversions and bit casts."""

    def to(self, dtype: type, bitcast: bool = False) -> Twin:
        """Convert, or look at the same bits as another type."""
        return self.copy().view(dtype) if bitcast else self.astype(dtype)


def _where(condition: NDArray[Any], yes: Any, no: Any) -> Twin:
    """Triton's: whole constants have 32 bits."""
    chosen = [np.int32(value) if isinstance(value, int) else value for value in (yes, no)]
    return np.where(condition, *chosen).view(Twin)


@cache
def _twin_functions() -> dict[str, Callable[..., Any]]:
    """The twin's functions as they stand in every module, over NumPy arrays."""
    tree = ast.parse(render("triton", "product_twin.j2", helpers=set(HELPERS)))
    types = {name: getattr(np, name) for name in ("int16", "int32", "int64")}
    types |= {name: getattr(np, name) for name in ("float16", "float32", "float64")}
    space: dict[str, Any] = {"tl": SimpleNamespace(where=_where, static_range=range, **types)}
    for node in tree.body:
        assert isinstance(node, ast.FunctionDef)
        node.decorator_list = []
    exec(compile(tree, "product_twin.j2", "exec"), space)
    return space


def evaluated(s: Snippet, inputs: Sequence[NDArray[Any]]) -> tuple[U32, ...]:
    """What the statements of a snippet's twin give."""
    return _statements(s.inputs, s.twin(), inputs)


def evaluated_body(function: Function, inputs: Sequence[NDArray[Any]]) -> tuple[U32, ...]:
    """What the statements of a module's function give."""
    return _statements(function.arguments, function.body, inputs)


def _statements(
    arguments: Iterable[str], body: Iterable[str], inputs: Sequence[NDArray[Any]]
) -> tuple[U32, ...]:
    lines = [f"def twin({', '.join(arguments)}):", *(f"    {line}" for line in body)]
    space = dict(_twin_functions())
    exec("\n".join(lines), space)
    signed = [a.view(f"i{a.itemsize}") if a.dtype.kind == "u" else a for a in inputs]
    with np.errstate(all="ignore"):
        found = space["twin"](*(np.array(a, order="C").view(Twin) for a in signed))
    found = found if isinstance(found, tuple) else (found,)
    return tuple(_as_u32(np.asarray(a)) for a in found)


def _as_u32(array: NDArray[Any]) -> U32:
    assert array.dtype in (np.int32, np.float32), array.dtype
    return array.view(np.uint32)


def fma16(a: F16, b: F16, c: F16) -> F16:
    """a * b + c rounded once to binary16: the sum in binary64 is rounded to odd first."""
    product = a.astype(np.float64) * b.astype(np.float64)
    added = c.astype(np.float64)
    with np.errstate(all="ignore"):
        total = product + added
        back = total - product
        error = (product - (total - back)) + (added - back)
        bits = total.view(np.int64)
        towards = np.where((error > 0) == (total > 0), 1, -1)
        odd = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
        return (bits + np.where(odd, towards, 0)).view(np.float64).astype(np.float16)


# -- products ---------------------------------------------------------------------------

#: Half a unit in the last place of binary16 and of binary32, and of binary16's smallest number.
HALF, SINGLE, LEAST = 2.0**-11, 2.0**-24, 2.0**-25

#: Roundings of a product's binary32 part that do not come from sums: scales, multipliers, factors.
FEW = 12


@dataclass(frozen=True)
class Weight:
    """A weight and what it is made of, binary64 [rows, length].

    Attributes:
        fmt: its format.
        streams: its bytes.
        level: its second level.
        dense: as the reference decodes it.
        codes: of its elements.
        selects: the grids of its elements.
        scale: of its elements, the second level included.
        point: what is subtracted from values before the scale.
        minimum: what is added after the scale.
    """

    fmt: Format
    streams: dict[str, NDArray[np.uint8]]
    level: TensorLevel
    dense: F64
    codes: NDArray[np.int64]
    selects: NDArray[np.int64]
    scale: F64
    point: F64
    minimum: F64

    @property
    def length(self) -> int:
        """Elements of a row."""
        return self.dense.shape[1]

    def sizes(self, base: Base) -> tuple[F64, F64]:
        """|decoded value| * |factor| and |scale|, and the size of all terms that make an element.

        What is subtracted again leaves its rounding errors behind.
        """
        table = np.array([[0.0 if v is None else float(v) for v in row] for row in base.grids])
        of, factors = np.array(base.of), np.abs([float(f) for f in base.factors])
        shifts = np.abs([float(s) for s in base.shifts])
        values = np.abs(table[of[self.selects], self.codes]) * factors[self.selects]
        apart = values + shifts[self.selects] + np.abs(self.point)
        return values, apart * np.abs(self.scale) + np.abs(self.minimum)


def weight_of(fmt: Format, w: F32) -> Weight:
    """A weight, encoded by the reference."""
    level = calibrate(fmt, w)
    streams = encode(fmt, w, level)
    length = w.shape[1]
    dense = decode(fmt, streams, length, level).astype(np.float64)
    kernel, plain = kernel_format(fmt), dense_format(fmt)
    planar = dict(streams)
    if fmt.record is not None:
        planar = ReferenceEngine(kernel).blocks.from_records(fmt, planar["records"], length)
    given = given_of(plain, planar, length, level)
    column = np.arange(length) // kernel.block
    none = np.zeros(given.scales.shape)
    selects = none if given.selects is None else given.selects
    zeros = none if given.zeros is None else given.zeros.astype(np.float64)
    point = fmt.zero is not None and fmt.zero.kind == "point"
    codes = unpack(given.codes, length, Stream("codes", kernel.code_bits, "element", kernel.order))
    made = Weight(
        fmt,
        streams,
        level,
        dense,
        codes.astype(np.int64),
        selects.astype(np.int64)[:, column],
        given.scales.astype(np.float64)[:, column],
        (zeros if point else none)[:, column],
        (none if point else zeros)[:, column],
    )
    values = values_of([g.values for g in kernel.grids], made.codes, made.selects)
    exact = (values - made.point) * made.scale + made.minimum
    sizes = (np.abs(values) + np.abs(made.point)) * np.abs(made.scale) + np.abs(made.minimum)
    if not fmt.sides:
        assert (np.abs(exact - dense) <= 4 * SINGLE * sizes + 2.0**-149).all()
    return made


def errors(
    made: Weight, method: Method, operation: str, x: F64, exponent: int = 0
) -> tuple[F64, F64]:
    """How far a product may be from exact, and how far it may be as roundings go: [m, rows].

    The first is proven. Relative to the sum of |x| * |terms of w|, in binary16: 1 rounding of x
    and 1 of a grid value that is none; in a GEMV 8 of sums; in a GEMM 1 each of scale, weight and
    what stands beside. In binary32: 1 for each addition. Numbers below 2^-14 are rounded to
    multiples of 2^-24 instead. The second takes these as random, eight times over.
    """
    values, terms = made.sizes(method.base)
    size = np.abs(x)
    length = made.length
    if method.arithmetic == "single":
        roundings, absolute = (length + FEW) * SINGLE, 0.0
        spread = 8 * np.sqrt(32.0) * SINGLE
    else:
        unit = 2.0**method.power
        gemv = operation == "gemv"
        reach = min(15, GEMV_TOP - method.top) if gemv else GEMM_TOP
        largest = np.max(size, axis=1, keepdims=True)
        factor = 2.0 ** (np.floor(np.log2(np.maximum(largest, 2.0**-126))) + 1 - reach)
        steps = 1 + 8 + (not method.exact) if gemv else 5 + (not method.exact)
        roundings = steps * HALF * 1.01 + (length + FEW) * SINGLE
        absolute = LEAST * factor * terms.sum(axis=1)
        scale = np.abs(made.scale)
        if gemv:
            absolute = absolute + LEAST * factor * unit * scale.sum(axis=1)
            absolute = absolute + (0 if method.exact else LEAST * unit * (size @ scale.T))
        else:
            multiplier = 1.0 if not made.fmt.is_plain else made.level.multiplier
            stored = unit * multiplier * 2.0**-exponent
            absolute = absolute + LEAST * stored * (size @ (values / unit + 2).T)
        spread = 8 * 1.5 * HALF
    beside = 8 * SINGLE * (size @ np.abs(made.dense).T) if made.fmt.sides else 0.0
    proven = roundings * (size @ terms.T) + absolute + beside
    usual = spread * np.sqrt((size**2) @ (terms**2).T) + absolute + beside
    return proven, usual
