"""Products of packed rows and activations, to the last bit: the arbiter of every back end.

A product with float activations is ``y[m, r] = dot(row r as it decodes, x[m])`` in sixteen lanes:
lane j takes the elements i with i mod 16 = j in ascending order, each by one fused multiply-add
in binary32 (one rounding), from +0; the lanes are then added as a tree, l[j] + l[j + 8] for
j < 8, then l[j] + l[j + 4], + 2 and + 1. So no result depends on a vector's width.

With integer activations the elements of a group are multiplied and added as integers. Groups
have 16 elements (less where blocks are no multiple of 16, see ``group_size``). Of group k, with
sum S, lane k mod 16 takes fma(S, s_w * s_a, lane), the product of both scales rounded once; under
a minimum it then takes fma(A, minimum * s_a, lane), A being the sum of the group's activations.
The lanes are added as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from .elements import U8
from .engine import Engine, ReferenceEngine
from .exact import show_number
from .format import Format, Stream
from .general import decode_general
from .kernel import dense_format, kernel_format
from .narrow import Decoded, narrow
from .packing import unpack
from .pipeline import decode
from .reference import TensorLevel, block_scales, select_of
from .resolve import compile_text
from .streams import RECORDS
from .thresholds import F32
from .view import view_of

I16 = NDArray[np.int16]

#: Partial sums of a row, whatever the machine.
LANES = 16

#: Integer activations share a scale by so many elements.
ACTIVATION_BLOCK = 32

#: Weights are integers of at most this magnitude: a group's sum stays exact in binary32.
WIDEST = 4096

#: What activations can be: as they are, or integers under one binary32 scale for each block.
ACTIVATIONS = ("float32", "int8", "hif8")

_TEXTS = {
    "int8": """
format int8_activations "INT8 activations, one fp32 scale for 32" {
  block 32
  grid  int8 = int 8 { range symmetric }
  scale fp32 { rule absmax }
}
""",
    "hif8": """
format hif8_activations "HIF8 activations, one fp32 scale for 32" {
  block 32
  host  hif8
  grid  hif8
  scale fp32 { rule absmax  target 240 }
}
""",
}


class NoIntegerProduct(ValueError):
    """The format's rows do not multiply as integers; the message says why."""


@dataclass(frozen=True)
class IntegerGrids:
    """Every code's value as an integer times its grid's unit.

    Attributes:
        values: int16 [2^select bits, codes]; 0 where no grid has the index, and for a code that
            is no number, which no encoder stores.
        units: float32 [2^select bits], exact; NaN where no grid has the index.
    """

    values: I16
    units: F32


@dataclass(frozen=True)
class Activations:
    """Integer activations: int16 [m, n] under float32 scales [m, ceil(n / 32)]."""

    values: I16
    scales: F32


@dataclass(frozen=True)
class Given:
    """Packed codes, uint8 [rows, bytes], and what their blocks are under: [rows, blocks].

    ``selects`` and ``zeros`` are None where the format has none.
    """

    codes: U8
    scales: F32
    selects: U8 | None
    zeros: F32 | None


def fma32(a: F32, b: F32, c: F32) -> F32:
    """The sum a * b + c with one rounding to binary32, of arrays that broadcast.

    The product is exact in binary64. The sum is rounded to odd there, which a second rounding
    to 24 bits or less cannot tell from the exact sum (Boldo and Melquiond, 2008).
    """
    with np.errstate(all="ignore"):
        product = np.asarray(a, np.float64) * b
        total = product + c
        above = total - product
        error = (product - (total - above)) + (c - above)
        bits = total.view(np.int64)
        even = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
        step = np.where((error > 0) == (total > 0), 1, -1)
        odd = np.where(even, bits + step, bits).view(np.float64)
        return odd.astype(np.float32)


def dense_product(rows: F32, x: F32) -> F32:
    """float32 [m, rows] from decoded rows, float32 [rows, n], and x, float32 [m, n]."""
    lanes = np.zeros((len(x), len(rows), LANES), np.float32)
    for start in range(0, rows.shape[1], LANES):
        step = slice(start, min(start + LANES, rows.shape[1]))
        part = lanes[..., : step.stop - start]
        part[...] = fma32(rows[None, :, step], x[:, None, step], part)
    return _added(lanes)


def product(
    fmt: Format,
    streams: dict[str, U8],
    length: int,
    level: TensorLevel,
    x: F32,
    activations: str = "float32",
    engine: Engine | None = None,
) -> F32:
    """Packed rows times activations: float32 [m, rows].

    Args:
        fmt: the format of the rows.
        streams: as ``pipeline.encode`` makes them.
        length: elements per row.
        level: the tensor's second level.
        x: float32 [m, length]; finite where it is made integer.
        activations: one of ``ACTIVATIONS``: what x is rounded to first.
        engine: decodes elements, for ``kernel_format(fmt)``; None: the reference.

    Raises:
        NoIntegerProduct: the format's grid is not integer.
        ValueError: there are no such activations.
    """
    check_activations(x, length, activations)
    if activations == "float32":
        return dense_product(decode(fmt, streams, length, level, engine), x)
    grids = integer_grids(fmt)
    given = given_of(fmt, streams, length, level, engine)
    return integer_product(
        kernel_format(fmt), grids, given, quantize_activations(x, activations), length
    )


def check_activations(x: F32, length: int, activations: str) -> None:
    """Raises ValueError unless x is float32 [m, length] and the activations are known."""
    if activations not in ACTIVATIONS:
        raise ValueError(f"no activations '{activations}'; there are {', '.join(ACTIVATIONS)}")
    if x.ndim != 2 or x.shape[1] != length or x.dtype != np.float32:
        raise ValueError(f"the activations are {x.dtype}{list(x.shape)}, not float32 [m, {length}]")
    if activations != "float32" and not np.isfinite(x).all():
        raise ValueError(f"activations with a NaN or an infinity cannot be made {activations}")


def integer_product(
    fmt: Format, grids: IntegerGrids, given: Given, a: Activations, length: int
) -> F32:
    """float32 [m, rows] from packed rows of a kernel format and integer activations."""
    rows, group = len(given.codes), group_size(fmt)
    count = -(-length // group)
    starts = np.arange(count) * group
    blocks, halves = starts // fmt.block, starts // ACTIVATION_BLOCK
    stream = Stream("codes", fmt.code_bits, "element", fmt.order)
    codes = unpack(given.codes, length, stream)
    shape = given.scales.shape
    selects = np.zeros(shape, np.uint8) if given.selects is None else given.selects
    of_block = np.arange(length) // fmt.block
    weights = grids.values[selects[:, of_block], codes].astype(np.int64)
    if given.zeros is not None and view_of(fmt).zero_kind == "point":
        weights -= given.zeros[:, of_block].astype(np.int64)
    lanes = np.zeros((len(a.values), rows, LANES), np.float32)
    with np.errstate(all="ignore"):
        scales = (given.scales * grids.units[selects])[:, blocks]
        for i, (values, factors) in enumerate(zip(a.values, a.scales, strict=True)):
            terms = [(_group_sums(weights * values, group), scales * factors[halves])]
            if given.zeros is not None and view_of(fmt).zero_kind == "minimum":
                parts = _group_sums(values.astype(np.int64)[None], group)
                terms.append((parts, given.zeros[:, blocks] * factors[halves]))
            _add_groups(lanes[i], terms)
    return _added(lanes)


@lru_cache(maxsize=64)
def integer_grids(fmt: Format) -> IntegerGrids:
    """The values of all grids as integers of a common unit each.

    Raises:
        NoIntegerProduct: there are none within ``WIDEST``, or values stand beside the codes.
    """
    if fmt.sides:
        kinds = ", ".join(side.kind for side in fmt.sides)
        raise NoIntegerProduct(
            f"no integer product of '{fmt.name}': values of side {kinds} stand beside the codes"
        )
    point = fmt.zero is not None and fmt.zero.kind == "point"
    indices, codes = 1 << fmt.select.bits, 1 << fmt.code_bits
    values = np.zeros((indices, codes), np.int16)
    units = np.full(indices, np.nan, np.float32)
    for index, grid in enumerate(fmt.grids):
        unit = Fraction(1) if point else _unit([v for v in grid.values if v is not None])
        wholes = [(v or Fraction(0)) / unit for v in grid.values]
        widest = max(abs(whole) for whole in wholes)
        if widest > WIDEST or any(whole.denominator != 1 for whole in wholes):
            raise NoIntegerProduct(
                f"no integer product of '{fmt.name}': the values of grid '{grid.name}' are no "
                f"multiples of one unit up to {WIDEST} (of {show_number(unit)} up to "
                f"{show_number(widest)})"
            )
        values[index] = [int(whole) for whole in wholes]
        units[index] = float(unit)
    values.flags.writeable = units.flags.writeable = False
    return IntegerGrids(values, units)


def group_size(fmt: Format) -> int:
    """Elements that are added as integers: 16, or what divides both 16 and a block."""
    return gcd(LANES, fmt.block)


@lru_cache(maxsize=8)
def activations_format(activations: str) -> Format:
    """The format that activations are encoded in: ``int8`` or ``hif8``."""
    return compile_text(_TEXTS[activations], f"{activations} activations")


def quantize_activations(x: F32, activations: str, engine: Engine | None = None) -> Activations:
    """Activations as integers and scales, by the encoder of ``activations_format``.

    Args:
        x: finite float32 [m, n].
        activations: ``int8`` or ``hif8``.
        engine: encodes that format; None: the reference.
    """
    fmt = activations_format(activations)
    engine = engine or ReferenceEngine(fmt)
    streams = engine.encode(np.ascontiguousarray(x, np.float32), TensorLevel())
    scales = np.ascontiguousarray(streams["scales"]).view("<f4").astype(np.float32)
    return Activations(integer_grids(fmt).values[0][streams["codes"]], scales)


def given_of(
    fmt: Format,
    streams: dict[str, U8],
    length: int,
    level: TensorLevel,
    engine: Engine | None = None,
) -> Given:
    """The effective scales, selects and zeros of packed rows of a format without sides.

    ``engine`` reads scales that are stored in a format of their own; None: the reference.
    """
    engine = engine or ReferenceEngine(kernel_format(fmt))
    dense = dense_format(fmt)
    if fmt.record is not None:
        streams = engine.blocks.from_records(fmt, streams[RECORDS], length)
    if dense.is_plain:
        return _given_of_plain(dense, streams, length, level)
    witness = _Witness(kernel_format(fmt), engine)
    decode_general(dense, streams, length, level, witness)
    if witness.seen is None:  # no rows, or no elements
        blocks = -(-length // dense.block)
        none = np.zeros((len(streams["codes"]), blocks), np.float32)
        return Given(streams["codes"], none, None, None if fmt.zero is None else none)
    return witness.seen


class _Witness(ReferenceEngine):
    """An engine that keeps what it is given and decodes nothing."""

    def __init__(self, fmt: Format, engine: Engine) -> None:
        super().__init__(fmt)
        self.seen: Given | None = None
        self._engine = engine

    def inner(self, fmt: Format) -> Engine:
        """The true engine's."""
        return self._engine.inner(fmt)

    def decode_given(
        self,
        codes: U8,
        scales: F32,
        selects: U8 | None,
        zeros: F32 | None,
        length: int,
        dtype: str = "float32",
    ) -> Decoded:
        """Zeros, without memory."""
        self.seen = Given(codes, scales, selects, zeros)
        return narrow(np.broadcast_to(np.float32(0), (len(codes), length)), dtype)


def _given_of_plain(fmt: Format, streams: dict[str, U8], length: int, level: TensorLevel) -> Given:
    view, blocks = view_of(fmt), -(-length // fmt.block)
    fields = {s.name: unpack(streams[s.name], blocks, s) for s in fmt.streams if s.per == "block"}
    words = fields["scales"]
    scales = np.asarray(block_scales(view, words, level.multiplier), np.float32)
    selects = None
    if fmt.select.place == "field":
        selects = fields["select"].astype(np.uint8)
    elif fmt.select.bits:
        selects = select_of(view, words).astype(np.uint8)
    return Given(streams["codes"], scales, selects, None)


def _unit(values: list[Fraction]) -> Fraction:
    """The largest number that all values are integer multiples of; 1 where all are 0."""
    above, below = 0, 1
    for value in values:
        above, below = (
            gcd(above * value.denominator, value.numerator * below),
            below * value.denominator,
        )
        shared = gcd(above, below)
        above, below = above // shared, below // shared
    return Fraction(above, below) if above else Fraction(1)


def _group_sums(products: NDArray[np.int64], group: int) -> NDArray[np.int64]:
    padded = np.pad(products, ((0, 0), (0, -products.shape[1] % group)))
    sums: NDArray[np.int64] = padded.reshape(len(products), padded.shape[1] // group, group).sum(
        axis=2
    )
    return sums


def _add_groups(lanes: F32, terms: list[tuple[NDArray[np.int64], F32]]) -> None:
    """Of group k, lane k mod 16 takes sum * scale of each term: [rows or 1, groups] each."""
    for start in range(0, terms[0][1].shape[1], LANES):
        for sums, scales in terms:
            step = slice(start, min(start + LANES, scales.shape[1]))
            part = lanes[:, : step.stop - start]
            part[...] = fma32(sums[:, step].astype(np.float32), scales[:, step], part)


def _added(lanes: F32) -> F32:
    """The tree: float32 [m, rows] from [m, rows, 16]."""
    with np.errstate(all="ignore"):
        for half in (8, 4, 2, 1):
            lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return np.ascontiguousarray(lanes[..., 0])
