"""Sides: outliers that are kept apart, and residuals of the worst errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ....compiler.exact import round_fp32
from ....compiler.floats import SmallFloat
from ....compiler.format import Side
from .binary32 import clipped, is_negative, plus, times
from .scales import is_fp32, last_code, little_endian, magnitude, nearest_word, word_value
from .streams import Fields

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a side keeps: words at places of the flattened tensor, ascending, and their unit."""

    places: tuple[int, ...]
    words: tuple[int, ...]
    unit: float = 1.0

    def fields(self, side: Side, elements: int) -> Fields:
        """The items of the side's streams."""
        segments = -(-elements // 65536)
        counts = [sum(p // 65536 == s for p in self.places) for s in range(segments)]
        found = {
            "counts": [counts],
            "index": [[place % 65536 for place in self.places]],
            "values": [list(self.words)],
        }
        if side.kind == "wr":
            found["scale"] = [[little_endian(self.unit)]]
        return {f"{side.kind}.{name}": rows for name, rows in found.items()}


def take_outliers(side: Side, x: Rows, block: int) -> tuple[list[list[float]], Kept]:
    """The tensor with zeros in place of its outliers, and these."""
    threshold = float(side.threshold or 0)
    rest = [list(row) for row in x]
    places, words = [], []
    for r, row in enumerate(x):
        for start in range(0, len(row), block):
            part = row[start : start + block]
            total = 0.0
            for value in part:
                total += value * value
            sigma = math.sqrt(total / len(part))
            for i, value in enumerate(part):
                if abs(value) > threshold * sigma:
                    rest[r][start + i] = 0.0
                    places.append(r * len(row) + start + i)
                    words.append(nearest_word(side.value, value))
    return rest, Kept(tuple(places), tuple(words))


def put_outliers(side: Side, decoded: list[list[float]], kept: Kept) -> None:
    """Put outliers in place of what the codes say."""
    for place, word in zip(kept.places, kept.words, strict=True):
        row, column = divmod(place, len(decoded[0]))
        decoded[row][column] = word_value(side.value, word)


def worst_residuals(side: Side, x: Rows, decoded: Rows, weights: Sequence[float] | None) -> Kept:
    """The residuals of the elements with the largest weighted errors."""
    length = len(x[0]) if x else 0
    errors: dict[int, float] = {}
    ranked: list[tuple[Fraction, int]] = []
    for r, row in enumerate(x):
        for c, value in enumerate(row):
            error = plus(value, -decoded[r][c])
            if error and math.isfinite(error):
                place = r * length + c
                errors[place] = error
                weight = Fraction(1) if weights is None else Fraction(weights[c])
                ranked.append((-abs(Fraction(error)) * weight, place))
    count = math.ceil((side.fraction or 0) * len(x) * length)
    chosen = sorted(place for _, place in sorted(ranked)[:count])
    largest = max((abs(Fraction(errors[place])) for place in chosen), default=Fraction(0))
    unit = _unit(largest, side.value.number)
    words = tuple(_word(side, errors[place], unit) for place in chosen)
    return Kept(tuple(chosen), words, unit)


def _unit(largest: Fraction, number: SmallFloat) -> float:
    """The least binary32 scale under which no residual saturates."""
    unit = round_fp32(largest / number.largest)
    if Fraction(unit) * number.largest < largest:
        step = Fraction(2) ** -149
        while round_fp32(Fraction(unit) + step) == unit:
            step *= 2
        unit = round_fp32(Fraction(unit) + step)
    return unit


def _word(side: Side, error: float, unit: float) -> int:
    """The word whose value times the unit is nearest to the error, ties to even."""
    word = side.value
    if is_fp32(word) or unit == 0:
        return nearest_word(word, error)
    asked = abs(Fraction(error)) / Fraction(unit)
    low, high = 0, last_code(word.number)
    while low < high:  # the least code whose upper midpoint is not below
        middle = (low + high) // 2
        between = (magnitude(word.number, middle) + magnitude(word.number, middle + 1)) / 2
        if asked < between or (asked == between and middle % 2 == 0):
            high = middle
        else:
            low = middle + 1
    sign = is_negative(error) << (word.sign_bit or 0)
    return low << word.magnitude_lsb | (sign if word.sign_bit is not None else 0)


def add_residuals(side: Side, decoded: list[list[float]], kept: Kept) -> None:
    """RNE32(decoded + RNE32(r * S)) at the places of residuals, saturated."""
    for place, word in zip(kept.places, kept.words, strict=True):
        row, column = divmod(place, len(decoded[0]))
        correction = times(word_value(side.value, word), kept.unit)
        decoded[row][column] = clipped(plus(decoded[row][column], correction))
