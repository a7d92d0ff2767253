"""Costs without any tool: gate counts from a design's widths, calibrated against synthesis.

Every block is a count of its natural unit (bits of partial products, multiplexer bits, full
adders ...) times a coefficient that was fitted, once, against synthesis in the cells of osu018:
``calibrate`` does it, and a test holds the model to within 15 % of synthesis on formats that it
was fitted on and on others. Figures are those of that library; ratios carry further than they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log2

import numpy as np

from ...codegen.design import Design, Side
from .calibration import COEFFICIENTS

#: The library that the coefficients are of, and what a row says of them.
CALIBRATED_ON = "osu018"
NAME = f"analytic ({CALIBRATED_ON})"

#: Entries of the largest table that is logic without a pattern.
_LARGEST = 32

#: The formats that the coefficients were fitted on (weights, activations).
FITTED_ON: tuple[tuple[str, str], ...] = (
    ("nf4_hif7", ""),
    ("hif7_ue4m4", ""),
    ("e2m3_ue4m4", ""),
    ("mxfp4", ""),
    ("sop_pair", ""),
    ("mxint8", ""),
    ("mxfp8_e4m3", ""),
    ("nvfp4", "nvfp4"),
    ("mxint8", "mxint8"),
    ("mxfp8_e4m3", "mxfp8_e4m3"),
    ("int4_sym_g32", "mxint8"),
)

#: Formats that it was not: a test compares the model on these as well.
HELD_OUT: tuple[tuple[str, str], ...] = (
    ("nvfp4", ""),
    ("bof4_hif7", ""),
    ("sh4_hif7", ""),
    ("nf4_hif7", "mxint8"),
    ("mxfp6_e2m3", "mxfp6_e2m3"),
    ("nvfp4", "mxint8"),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A dot product of a design, by the model, in the units of the calibration's library.

    Attributes:
        area: of the cells.
        delay: in seconds.
        energy: joules of one dot product, gates without delay.
        parts: area by block.
    """

    area: float
    delay: float
    energy: float
    parts: Mapping[str, float]


def estimate(design: Design) -> Estimate:
    """The model's figures of a design."""
    coefficients, units = COEFFICIENTS, blocks(design)
    parts = {name: coefficients["area"][name] * unit for name, unit in units.items()}
    depth = depths(design)
    return Estimate(
        area=sum(parts.values()),
        delay=sum(coefficients["delay"][name] * unit for name, unit in depth.items()),
        energy=sum(coefficients["energy"][name] * unit for name, unit in units.items()),
        parts=parts,
    )


def blocks(design: Design) -> dict[str, float]:
    """Block -> how many of its units the dot product of a design has.

    Table entries, bits of partial products, two-way multiplexers, full adders, bits of the sums
    of shifts, and lanes.
    """
    left, right = design.weights.operand, design.activations.operand
    lanes = design.block
    both = left.shift_bits + right.shift_bits if left.shift_bits and right.shift_bits else 0
    return {
        "decoder": lanes * table_complexity(design.weights),
        "multiplier": float(lanes * left.coefficient_bits * right.coefficient_bits),
        "shifter": float(lanes * _multiplexers(design)),
        "adders": float(_full_adders(design)),
        "shift_sum": float(lanes * both),
        "lane": float(lanes),
    }


def depths(design: Design) -> dict[str, float]:
    """Levels that a signal passes, by block, up to a factor of each."""
    left, right = design.weights.operand, design.activations.operand
    return {
        "constant": 1.0,
        "decoder": log2(1 + table_complexity(design.weights)),
        "multiplier": log2(left.coefficient_bits * right.coefficient_bits),
        "shifter": float(design.shift_bits),
        "carry": float(design.total.bits),
    }


def _multiplexers(design: Design) -> int:
    """Bits of all levels of a lane's shifter; a level widens the product by what it shifts."""
    widths, bits = [], design.product.bits
    for level in range(design.shift_bits):
        bits = min(bits + (1 << level), design.term.bits)
        widths.append(bits)
    return sum(widths)


def _full_adders(design: Design) -> int:
    """Bits of all sums of two, in a tree over the lanes."""
    total, left, bits = 0, design.block, design.term.bits
    while left > 1:
        total += left // 2 * bits
        left, bits = (left + 1) // 2, min(bits + 1, design.total.bits)
    return total


@lru_cache(maxsize=256)
def table_complexity(side: Side) -> float:
    """How much logic the table from a code to its word is: 0 for a word that is its code.

    For every bit of the word, the inputs that change it, summed over all codes; a bit that is a
    copy of an input has one of them at each code, which costs nothing. Tables of more than 32
    entries are those of floats, whose logic grows no further with their length.
    """
    rows = [
        _packed(side, word.coefficient, word.shift) if word is not None else 0
        for grid in side.operand.words
        for word in grid
    ]
    table = np.array(rows, np.int64)
    inputs = max(1, (len(table) - 1).bit_length())
    table = np.pad(table, (0, (1 << inputs) - len(table)))
    changes = np.zeros(side.operand.coefficient_bits + side.operand.shift_bits)
    index = np.arange(len(table))
    for bit in range(inputs):
        moved = table ^ table[index ^ (1 << bit)]
        changes += [np.mean((moved >> place) & 1) for place in range(len(changes))]
    return float(np.maximum(changes - 1, 0).sum()) * min(len(table), _LARGEST) / inputs


def _packed(side: Side, coefficient: int, shift: int) -> int:
    bits = side.operand.coefficient_bits
    return shift << bits | coefficient & ((1 << bits) - 1)


def fit(rows: Sequence[Mapping[str, float]], found: Sequence[float]) -> dict[str, float]:
    """Coefficients, none negative, with the least squares of relative errors."""
    from scipy.optimize import nnls

    names = list(rows[0])
    relative = np.array([[row[n] / f for n in names] for row, f in zip(rows, found, strict=True)])
    solution, _ = nnls(relative, np.ones(len(found)))
    return {name: float(f"{value:.5g}") for name, value in zip(names, solution, strict=True)}
