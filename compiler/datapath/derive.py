"""The exact datapath of a format's dot product: what each stage reaches, and how wide it must be.

A lane multiplies an element's word with an activation's HIF word, a block adds its lanes, and a
block's sum meets the scale product s_X * s_W (SOP, arXiv:2605.14929). Every stage is a finite set
of dyadic numbers, so its ends and its widest significand are decided exactly, each with words that
reach it (``stages``).

What a tensor has one of stays outside: the second-level scale and the shift multiply a row's sum
once. Sparse side streams are sums of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..exact import floor_log2
from ..format import Format, ScaleWord
from ..hosts import COEFFICIENT_BITS, HIF8, HifHost, HifWord
from ..scales import is_fp32_word
from .accumulators import Accumulator, Bounds, Fp32Sum, subnormal_cost
from .operands import Operand, operand_of
from .stages import (
    FP32,
    End,
    Lane,
    Stage,
    Witness,
    has_sign,
    lsb,
    odd_part,
    stage_of,
    times,
    value_of,
    word_value,
)

#: The activations of a dot product are HIF8 words (SOP, arXiv:2605.14929).
ACTIVATION = HIF8

COEFFICIENT = Bounds(-(1 << (COEFFICIENT_BITS - 1)), (1 << (COEFFICIENT_BITS - 1)) - 1)

_NOTHING = HifWord(0, 0)


@dataclass(frozen=True, slots=True)
class Datapath:
    """The stages of a format's dot product and its accumulators.

    Attributes:
        name: of the format.
        activation: host of the activations' words.
        host: a HIF host that has every element; None: there is none.
        unit: exponent of an element's least significant bit.
        multiplicand: range of what meets an activation's coefficient: that of the element's word
            (``operands``), or the fixed-point element after a zero point.
        element, product, block_sum: integers of 2^unit, block_sum None where a row has one scale.
        scale, scaled_element, scale_product, term: the words' scale s, element * s, s_X * s_W and
            block_sum * s_X * s_W, both operands with the format's scale word.
        row_sum: every step a product, without scales.
        exact_sum: every step a block's term, held exactly (a Kulisch accumulator).
        fp32_sum: every block a term, with one rounding.
        missing: why what is None is missing.
    """

    name: str
    activation: HifHost
    host: HifHost | None
    unit: int
    multiplicand: Bounds
    element: Stage
    product: Stage
    block_sum: Stage | None
    scale: Stage | None
    scaled_element: Stage | None
    scale_product: Stage | None
    term: Stage | None
    row_sum: Accumulator
    exact_sum: Accumulator | None
    fp32_sum: Fp32Sum | None
    missing: tuple[str, ...]

    @property
    def coefficients(self) -> Bounds:
        """The range of the multiplier's output, before the shifts."""
        return self.multiplicand.times(COEFFICIENT)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that there are, in the order of the data."""
        every = (
            self.element,
            self.product,
            self.block_sum,
            self.scale,
            self.scaled_element,
            self.scale_product,
            self.term,
        )
        return tuple(stage for stage in every if stage)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "format": self.name,
            "activation": self.activation.name,
            "host": self.host.name if self.host else None,
            "unit": self.unit,
            "multiplier_bits": self.coefficients.bits,
            "stages": {stage.name: stage.as_json() for stage in self.stages},
            "row_sum": self.row_sum.as_json()
            | {"most_steps_exact_in_fp32": self.row_sum.most_exact()},
            "exact_sum": self.exact_sum and self.exact_sum.as_json(),
            "fp32_sum": self.fp32_sum and self.fp32_sum.as_json(),
            "missing": list(self.missing),
        }


@lru_cache(maxsize=256)
def datapath(fmt: Format, activation: HifHost = ACTIVATION) -> Datapath:
    """The exact datapath of a format.

    Args:
        fmt: any format.
        activation: host of the activations' words.

    Raises:
        ValueError: the activation's host has no shifts, so that its ends are odd.
    """
    variants = tuple(_variants(fmt))
    operand = operand_of(fmt) if _point(fmt) is None else None
    hosting = fmt.hosting if operand else None
    unit = operand.unit if operand else min(lsb(e.value) for v in variants for e in v if e.value)
    element = _element(fmt, variants, unit, operand)
    lane = _product(element, activation)
    has_blocks = fmt.extent == "block"
    block_sum = _block_sum(fmt, variants, lane, activation) if has_blocks else None
    scale = None if fmt.scale.stored else _scale(fmt)
    pair = scale and times("scale_product", scale, scale)
    term = block_sum and pair and times("term", block_sum, pair)
    whole = term if fmt.zero is None or fmt.zero.kind == "point" else None
    return Datapath(
        name=fmt.name,
        activation=activation,
        host=hosting.host if hosting else None,
        unit=unit,
        multiplicand=operand.coefficient if operand else element.integers,
        element=element,
        product=lane,
        block_sum=block_sum,
        scale=scale,
        scaled_element=scale and times("scaled_element", element, scale),
        scale_product=pair,
        term=term,
        row_sum=Accumulator(lane.integers, unit),
        exact_sum=Accumulator(whole.integers, whole.unit) if whole else None,
        fp32_sum=_fp32_sum(block_sum, pair, whole) if block_sum and pair and whole else None,
        missing=tuple(_missing(fmt)),
    )


# -- the elements' side ------------------------------------------------------------------


def _point(fmt: Format) -> tuple[Fraction, ...] | None:
    """The zero points that reach the ends of value - z; None without zero points.

    Values are consecutive integers and so are zero points: the lowest and the highest shift the
    grid the furthest, and no other reaches a larger block sum or a longer one.
    """
    if fmt.zero is None or fmt.zero.kind != "point":
        return None
    return fmt.grids[0].low, fmt.grids[0].high


def _variants(fmt: Format) -> Iterator[tuple[End, ...]]:
    """What the elements of one block can be, for every grid and zero point that a block has."""
    for select, grid in enumerate(fmt.grids):
        codes: dict[Fraction, int] = {}
        for code, value in enumerate(grid.values):
            if value is not None:
                codes.setdefault(value, code)
        for zero in _point(fmt) or (Fraction(0),):
            yield tuple(
                End(value - zero, Witness(select, zero, (Lane(code),)))
                for value, code in codes.items()
            )


def _element(
    fmt: Format, variants: tuple[tuple[End, ...], ...], unit: int, operand: Operand | None
) -> Stage:
    stage = stage_of("element", unit, [end for variant in variants for end in variant])
    form = operand.form if operand else f"fixed point in steps of 2^{unit}"
    less = " after the zero point" if _point(fmt) else ""
    bounds = stage.integers
    grids = f"{len(fmt.grids)} grid{'s' * (len(fmt.grids) > 1)}"
    note = f"every code of {grids}{less} as {form}: {bounds}, {bounds.bits} bits"
    return replace(stage, derivation=note)


def _corners(activation: HifHost) -> tuple[HifWord, ...]:
    """The activation's lowest and highest word, its largest odd ones, and 1."""
    if activation.max_shift == 0:
        raise ValueError("activations are HIF words with shifts")
    words = activation.words()
    odd = [value for value in words if value % 2]
    return tuple(words[v] for v in (min(words), max(words), min(odd), max(odd), 1))


def _product(element: Stage, activation: HifHost) -> Stage:
    words = _corners(activation)
    ends = [
        _weighted(end, word)
        for end in (element.low, element.high, element.odd, element.fine)
        for word in words
    ]
    stage = stage_of("product", element.unit, ends)
    note = (
        f"the ends are products of ends: ({element.integers}) x "
        f"({words[0].value}..{words[1].value}) = {stage.integers}, {stage.bits} bits"
    )
    return replace(stage, derivation=note)


def _weighted(end: End, word: HifWord, count: int = 1) -> End:
    lane = replace(end.witness.lanes[0], activation=word, count=count)
    return End(end.value * word.value * count, replace(end.witness, lanes=(lane,)))


def _block_sum(
    fmt: Format, variants: tuple[tuple[End, ...], ...], lane: Stage, activation: HifHost
) -> Stage:
    """A block's sum. One grid serves all lanes, and equal lanes reach the ends.

    Widest significand, in units of the grid's own lowest bit: activations' ends are even, so the
    largest product H is, and for g >= 2 the sum (g - 1) H + (largest odd product) is odd and the
    largest odd one; an even sum's odd part is at most g H / 2 <= (g - 1) H. With one lane it is the
    product's.
    """
    count = fmt.block
    ends = [_repeated(end, count) for end in (lane.low, lane.high)]
    ends += [_padded(end, count) for end in (lane.fine, lane.odd)]
    if count > 1:
        ends += [end for variant in variants for end in _longest(variant, count, activation)]
    stage = stage_of("block_sum", lane.unit, ends)
    bounds = stage.integers
    note = f"{count} equal lanes reach the ends: {count} x ({lane.integers}) = "
    note += f"{bounds}, {bounds.bits} bits"
    if Bounds(bounds.low, bounds.high - 1).bits < bounds.bits:
        note += f"; the last bit serves {bounds.high} alone"
    return replace(stage, derivation=note)


def _longest(variant: tuple[End, ...], count: int, activation: HifHost) -> Iterator[End]:
    """The largest odd sum upwards and downwards, in units of the grid's lowest bit."""
    lowest, highest, *odd_words, _ = _corners(activation)
    nonzero = [end for end in variant if end.value]
    finest = min(lsb(end.value) for end in nonzero)
    odd = [end for end in nonzero if lsb(end.value) == finest]
    every = [_weighted(end, word) for end in variant for word in (lowest, highest)]
    least = [_weighted(end, word) for end in odd for word in odd_words]
    for pick in (min, max):
        end, last = pick(every, key=value_of), pick(least, key=value_of)
        lanes = (*_repeated(end, count - 1).witness.lanes, *last.witness.lanes)
        total = (count - 1) * end.value + last.value
        yield End(total, replace(end.witness, lanes=lanes))


def _repeated(end: End, count: int) -> End:
    lane = replace(end.witness.lanes[0], count=count)
    return End(end.value * count, replace(end.witness, lanes=(lane,)))


def _padded(end: End, count: int) -> End:
    """One lane, and ``count - 1`` whose activation is 0."""
    lane = end.witness.lanes[0]
    rest = (Lane(lane.code, _NOTHING, count - 1),) if count > 1 else ()
    return End(end.value, replace(end.witness, lanes=(lane, *rest)))


# -- the scales' side, and both together -------------------------------------------------


def _scale(fmt: Format) -> Stage:
    layout = fmt.scale.word
    ends = [
        _scale_end(fmt, code, negative)
        for code in _decisive_codes(layout)
        for negative in ((False, True) if has_sign(fmt) else (False,))
    ]
    finest = min(lsb(end.value) for end in ends if end.value)
    stage = stage_of("scale", finest, ends)
    note = (
        f"{layout.name}: significands to {odd_part(stage.odd.value)}, "
        f"lowest bit 2^{stage.finest}, below 2^{floor_log2(stage.largest.value) + 1}"
    )
    return replace(stage, derivation=note)


def _scale_end(fmt: Format, code: int, negative: bool) -> End:
    layout = fmt.scale.word
    word = code << layout.magnitude_lsb | negative << (layout.sign_bit or 0)
    return End(word_value(fmt, word), Witness(scales=(word,)))


@lru_cache(maxsize=32)
def _decisive_codes(layout: ScaleWord) -> tuple[int, ...]:
    """The magnitude codes of the least, finest, largest and widest number.

    Of binary32 they are known: the largest has the widest significand, code 1 the lowest bit.
    """
    number = layout.number
    if is_fp32_word(layout):
        return 0, 1, (0xFF << 23) - 1
    finite = [(m, code) for code, m in enumerate(number.magnitudes()) if m is not None]
    positive = [pair for pair in finite if pair[0]]
    widest = max(positive, key=lambda pair: odd_part(pair[0]))
    finest = min(positive, key=lambda pair: lsb(pair[0]))
    return tuple(code for _, code in (min(finite), finest, max(finite), widest))


def _fp32_sum(block_sum: Stage, pair: Stage, term: Stage) -> Fp32Sum:
    rounded = [stage for stage in (block_sum, pair) if stage.misfit(FP32)]
    conditions = tuple(
        f"every {stage.name.replace('_', ' ')} is 0 or as large as a normal fp32 number"
        for stage in rounded
        if not stage.in_range(FP32)
    )
    largest = abs(term.largest.value)
    found = Fp32Sum(largest, len(rounded), subnormal_cost(term.finest), conditions)
    if found.most_blocks == 0:
        found = replace(found, conditions=(*conditions, "no sum overflows fp32"))
    return found


def _missing(fmt: Format) -> Iterator[str]:
    if fmt.extent != "block":
        yield "one scale multiplies the whole row's sum: there are no blocks to scale"
    if fmt.scale.stored is not None:
        yield "scales are stored in a format of their own: they have no word"
    if fmt.zero is not None and fmt.zero.kind == "minimum":
        yield "a minimum adds s_X * m * (sum of activations) to every block: a second term"
