"""The proof object: what is claimed of a format, and each number that the claim rests on.

A proof is JSON. Numbers are exact rationals written ``p/q``; nothing in it is a float. It names
the format's hash, so that a proof of another text is never taken for one of this.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from typing import Any

from .moved.points import Moved

#: Enters every proof and the name of every cached one: raise it when the meaning changes.
SCHEMA = 1


class Unproven(ValueError):
    """No bound is known of such a format; the message says why."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of the objective: the elements that one value stands for.

    The error of an element y under the value is ``|y - value|``, over what the measure divides
    by: max(|y|, floor) for the block's absmax, |y| for the element itself, 1 for the scale.

    Attributes:
        trial: which way of encoding a block it is about.
        ratio: asked / stored scale that the piece is taken at.
        value: what y is decoded to, in units of y.
        start, stop: the ends of the piece.
        floor: the least absmax of a block, in units of y.
        points: the critical points, ascending, with the objective there: the ends, and inside
            the piece where the objective has a kink. It has no other extremum.
    """

    trial: int
    ratio: Fraction
    value: Fraction
    start: Fraction
    stop: Fraction
    floor: Fraction
    points: tuple[tuple[Fraction, Fraction], ...]

    @property
    def most(self) -> Fraction:
        """The largest objective of the piece."""
        return max(height for _, height in self.points)


@dataclass(frozen=True, slots=True)
class Corner:
    """One critical point of a block's squared error under one trial.

    Attributes:
        trial: which way of encoding a block it is about.
        ratio: asked / stored scale.
        end: the side of the element that decides the scale.
        absmax: of the block, in units of the stored scale.
        at: the element with the largest error.
        most, driver: squared errors of that element, and of the one that decides the scale.
        height: (most * (g - 1) + driver) / absmax^2, or most / absmax^2 for rows and tensors.
    """

    trial: int
    ratio: Fraction
    end: int
    absmax: Fraction
    at: Fraction
    most: Fraction
    driver: Fraction
    height: Fraction


@dataclass(frozen=True, slots=True)
class Leaf:
    """A bound of the least squared error of several trials, by weighting them.

    The least of some numbers is at most their weighted mean. An element's weighted error is
    convex between kinks, so that kinks and ends decide its largest value, ``most``. Where the
    tree above the leaf has split on counts, an element inside a counted interval pays the
    split's price (``few``) or is paid it (``many``), and the count pays it back.

    The block's peaks are at a corner of the box. Without splits the bound is convex in the
    inverse of the leading peak and in the other peak, so that the corners are enough; under
    splits the largest sum is divided by the least square.

    Attributes:
        weights: one for each trial, not negative, of sum 1.
        prices: one for each split above the leaf, from the root, not negative.
        most: for each corner of the box the largest weighted and priced error of an element.
        drivers: for each corner the same for each element that decides a scale.
        height: the bound of the sum over absmax^2, from all these.
    """

    weights: tuple[Fraction, ...]
    prices: tuple[Fraction, ...]
    most: tuple[Fraction, ...]
    drivers: tuple[tuple[Fraction, ...], ...]
    height: Fraction


@dataclass(frozen=True, slots=True)
class Split:
    """Either at most ``count`` elements lie between ``start`` and ``stop``, or more."""

    start: Fraction
    stop: Fraction
    count: int
    few: Split | Leaf
    many: Split | Leaf


@dataclass(frozen=True, slots=True)
class Box:
    """Blocks whose peaks lie in given intervals: every trial has one scale for all of them.

    Attributes:
        positive: the interval of the largest positive element, or, where only the absmax
            counts, of the absmax.
        negative: that of the largest negative magnitude, or None where only the absmax counts.
        scales: the stored scale of every trial, with its sign.
        tree: what bounds the blocks.
    """

    positive: tuple[Fraction, Fraction]
    negative: tuple[Fraction, Fraction] | None
    scales: tuple[Fraction, ...]
    tree: Split | Leaf


@dataclass(frozen=True, slots=True)
class Witness:
    """An input that comes near a bound: rows of elements as runs of equal binary32 numbers.

    Attributes:
        shape: rows and columns.
        runs: (value as ``float.hex``, count), row after row.
        block: first row, last row + 1, first column, last column + 1 of the block.
        element: row and column of the element, or None where the whole block counts.
        digest: SHA-256 of the elements as binary32, little-endian, row after row.
        reached: the share of the bound that it was seen to reach.
    """

    shape: tuple[int, int]
    runs: tuple[tuple[str, int], ...]
    block: tuple[int, int, int, int]
    element: tuple[int, int] | None
    digest: str = ""
    reached: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Statement:
    """One proven bound.

    Attributes:
        measure: ``absmax``, ``scale``, ``self`` (of one element), ``least`` (of one element,
            in units of the least scale), ``zero`` (what an element of an all-zero block decodes
            to) or ``block`` (the sum of squares over absmax^2; for rows and tensors, whose
            length is open, its supremum per element).
        regime: ``normal``, ``subnormal``, ``least``, ``regular`` (every trial's word is above the
            smallest normal one) or ``zero``: where the scale lies.
        kind: ``rounding`` (elements between the grid's ends), ``clipping`` (beyond them) or
            ``any``.
        bound: the supremum in exact real arithmetic.
        slack: what the roundings of binary32 may add; ``bound + slack`` is never exceeded.
        tight: whether ``bound`` is the supremum and not only above it.
        domain: from which absmax on to which it holds, in units of the second level, where the
            regime alone does not say it.
        cells, corners, boxes, moved: what the bound is the maximum of.
        witness: an input that comes near it, or None where there is nothing to come near.
    """

    measure: str
    regime: str
    kind: str
    bound: Fraction
    slack: Fraction
    tight: bool = True
    domain: tuple[Fraction, Fraction] | None = None
    cells: tuple[Cell, ...] = ()
    corners: tuple[Corner, ...] = ()
    boxes: tuple[Box, ...] = ()
    moved: tuple[Moved, ...] = ()
    witness: Witness | None = None

    @property
    def name(self) -> str:
        """Such as ``absmax/normal/rounding``."""
        return f"{self.measure}/{self.regime}/{self.kind}"


@dataclass(frozen=True, slots=True)
class Proof:
    """All that is proven of a format."""

    format: str
    hash: str
    statements: tuple[Statement, ...]
    lemmas: tuple[tuple[str, str, str], ...] = ()

    def as_json(self) -> str:
        """The canonical text of the proof."""
        return json.dumps({"schema": SCHEMA} | _plain(self), separators=(",", ":"))

    def sealed(self) -> str:
        """The text with a last field, ``digest``: the SHA-256 of what stands before it.

        A few numbers are the prover's to choose (where boxes are cut, what an input reaches): with
        another one a proof may be as good. The digest makes it this proof and no other.
        """
        text = self.as_json()
        return f'{text[:-1]},"digest":"{hashlib.sha256(text.encode()).hexdigest()}"}}'


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return value
