"""A format's view as the tables that the loops are called with."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..compiler.exact import fp32_bits, fp32_from_bits, round_fp32
from ..compiler.format import Format
from ..compiler.reference import select_bits
from ..compiler.thresholds import scale_thresholds
from ..compiler.view import NEGATIVE_ZERO_BITS, RECIPROCAL_FLOOR, GridView, View, view_of
from .loops.tables import (
    EXACT,
    KEY_SHIFT,
    MINIMUM,
    NO_ZERO,
    POINT,
    QUOTIENT,
    RECIPROCAL,
    SCALE_SHIFT,
    WIDTHS,
    Elements,
    Floats,
    Grids,
    Longs,
    Trials,
    Words,
)

T = TypeVar("T", bound=np.generic)

_LARGEST_KEY = 0x7FFFFFFF
_COMPARE = {"exact": EXACT, "fp32_quotient": QUOTIENT, "fp32_reciprocal": RECIPROCAL}
_ZERO = {"none": NO_ZERO, "point": POINT, "minimum": MINIMUM}


def fixed(array: NDArray[T]) -> NDArray[T]:
    """The array as loops read it, so that all calls are of one type: they are compiled for it."""
    view = np.require(array, requirements=("C", "A")).view()
    view.flags.writeable = False
    return view


def elements_of(view: View) -> Elements:
    """How a format's elements are coded."""
    fmt = view.format
    straight = all(grid.order == tuple(range(len(grid.order))) for grid in view.grids)
    return Elements(
        block=fmt.block,
        bits=fmt.code_bits,
        high_first=int(fmt.order == "high_first"),
        width=_width_of(view),
        compare=_COMPARE[fmt.policies.compare],
        zero=_ZERO[view.zero_kind],
        adds_after=int(view.adds_after),
        mapped=int(not straight),
        floor=RECIPROCAL_FLOOR,
    )


def grids_of(view: View) -> Grids:
    """The tables of a format's grids."""
    exact = view.format.policies.compare == "exact"
    width = _width_of(view)
    room = 1 + (width or max(len(grid.midpoints) for grid in view.grids))
    shape = (len(view.grids), 1 << view.format.code_bits)
    midpoints = np.full((len(view.grids), room), np.inf)
    inclusive = np.zeros((len(view.grids), room), np.uint8)
    keys = np.full((len(view.grids), room), _LARGEST_KEY, np.int32)
    starts = np.zeros((len(view.grids), 0 if width else 1 << (32 - KEY_SHIFT)), np.uint8)
    order, values = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    least = np.arange(-(1 << (31 - KEY_SHIFT)), 1 << (31 - KEY_SHIFT)) << KEY_SHIFT
    for g, grid in enumerate(view.grids):
        count = len(grid.midpoints)
        midpoints[g, :count] = [float(midpoint) for midpoint in grid.midpoints]
        inclusive[g, :count] = grid.ties_up
        keys[g, :count] = _keys_of(grid, exact=exact)
        if not width:
            starts[g] = np.searchsorted(keys[g, :count], least)
        order[g, : len(grid.order)] = grid.order
        values[g] = np.array(grid.lut_bits, np.uint32).view(np.float32)[order[g]]
    octets = np.arange(256 if view.format.code_bits == 4 else 0)
    zero_ranks = [grid.order.index(grid.zero_code) for grid in view.grids]
    splits = [-1 if grid.zero_split is None else grid.zero_split for grid in view.grids]
    return Grids(
        midpoints=midpoints,
        inclusive=inclusive,
        keys=keys,
        starts=starts,
        splits=np.array(splits, np.int64),
        counts=np.array([len(grid.midpoints) for grid in view.grids], np.int64),
        order=order,
        pair_order=np.ascontiguousarray(order[:, octets >> 4] << 4 | order[:, octets & 15]),
        values=values,
        zero_ranks=np.array(zero_ranks, np.uint8),
    )


def _width_of(view: View) -> int:
    count = max(len(grid.midpoints) for grid in view.grids)
    return next((width for width in WIDTHS if width >= count), 0)


def _keys_of(grid: GridView, *, exact: bool) -> NDArray[np.int32]:
    """Ascending keys of a grid's quotient thresholds, or of its midpoints."""
    bits = [fp32_bits(round_fp32(m)) for m in grid.midpoints] if exact else grid.quotient_bits
    # Nothing lies between -0 and +0 but the threshold that tells them apart.
    numbers = np.array([0 if b == NEGATIVE_ZERO_BITS else b for b in bits], np.uint32)
    keys = numbers.view(np.int32)
    keys = keys ^ ((keys >> 31) & np.int32(_LARGEST_KEY))
    if grid.zero_split is not None:
        keys[grid.zero_split] = -1
    return np.sort(keys)


def decode_tables(view: View) -> tuple[Floats, Longs]:
    """Values by select and code; for 4-bit codes by select and byte as well, two in one."""
    lut = np.array(view.decode_bits, np.uint32).view(np.float32)
    lut = lut.reshape(-1, 1 << view.format.code_bits)
    pairs = np.zeros((len(lut), 0), np.int64)
    if view.format.code_bits == 4:
        octets = np.arange(256)
        first, second = octets & 15, octets >> 4
        if view.format.order == "high_first":
            first, second = second, first
        both = np.stack([lut[:, first], lut[:, second]], axis=2)
        pairs = both.view(np.int64).reshape(len(lut), 256)
    return fixed(lut), fixed(pairs)


def words_of(view: View) -> Words:
    """Where the scale words and select indices of a plain format stand."""
    scale, select = view.scale, view.format.select
    uneven = any(t.positive_divisor != t.negative_divisor for t in view.trials)
    return Words(
        container=scale.container,
        lsb=scale.magnitude_lsb,
        magnitude_bits=scale.magnitude_bits,
        sign_bit=-1 if scale.sign_bit is None else scale.sign_bit,
        is_fp32=int(scale.is_fp32),
        signed_rule=int(scale.signed_rule),
        both_sides=int(uneven and not scale.signed_rule),
        nan_magnitude=scale.nan_magnitude or 0,
        select_bits=select.bits if select.place == "field" else 0,
        positions=fixed(np.array(select.positions, np.int64)),
        values=fixed(np.array(scale.values_bits, np.uint32).view(np.float32)),
    )


@lru_cache(maxsize=64)
def trials_of(fmt: Format, multiplier: float) -> Trials:
    """The ways to encode a tensor's blocks, kept: their exact arithmetic takes milliseconds."""
    view = view_of(fmt)
    scale, trials = view.scale, view.trials
    thresholds = scale_thresholds(view, multiplier)
    end = np.full((*thresholds.shape[:2], 1), np.inf, np.float32)
    least = np.arange(0, 0x7F800000, 1 << SCALE_SHIFT, dtype=np.int32).view(np.float32)
    starts = np.zeros((len(trials), 2, 1 << (31 - SCALE_SHIFT)), np.int16)
    for trial, side in np.ndindex(starts.shape[:2]):
        starts[trial, side, : len(least)] = np.searchsorted(thresholds[trial, side], least)
    divisors = [[float(t.positive_divisor), float(t.negative_divisor)] for t in trials]
    largest = [fp32_from_bits(view.grids[t.grid].largest_scale_bits) for t in trials]
    return Trials(
        grids=fixed(np.array([t.grid for t in trials], np.int64)),
        thresholds=fixed(np.concatenate([thresholds, end], axis=2)),
        starts=fixed(starts),
        divisors=fixed(np.array(divisors, np.float32)),
        largest=fixed(np.array(largest, np.float32)),
        mirrors=fixed(np.array([view.grids[t.grid].end_is_negative for t in trials], np.uint8)),
        bits=fixed(np.array([select_bits(view, t.grid) for t in trials], np.int64)),
        magnitudes=fixed(np.array(scale.ranks, np.int64)),
        least=fp32_from_bits(scale.minimum_bits),
        zero=fp32_from_bits(scale.zero_bits),
        multiplier=multiplier,
    )
