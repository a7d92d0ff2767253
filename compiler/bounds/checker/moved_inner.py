"""What the checks of moved formats share: how blocks are coded, and what inner formats store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from ...format import Format
from .single import Piece, pieces
from .words import Coding
from .words import codings as plain_codings

ZERO = Fraction(0)

#: The fields of a ``Window``, ``Piece`` or ``Share``.
Record = dict[str, "Fraction | int"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a statement must say."""

    bound: Fraction
    tight: bool = True
    domain: tuple[Fraction, Fraction] | None = None
    cells: tuple[Piece, ...] = ()
    records: tuple[Record, ...] = ()


def is_checkable(fmt: Format) -> bool:
    """Whether inner formats are plain, and no minimum's word meets a second level."""
    zero = fmt.zero
    for inner in (fmt.scale.stored, zero.stored if zero else None):
        if inner is not None and (inner.zero is not None or inner.scale.stored is not None):
            return False
    small = zero is not None and zero.word is not None and zero.word.number.mantissa < 23
    return not small or fmt.scale.tensor == "none"


def measure_of(fmt: Format) -> str:
    """What errors count against: the absmax of the block, of its group, or of the tensor."""
    zero = fmt.zero
    if fmt.scale.center or (zero is not None and zero.center):
        return "tensor"
    return "group" if fmt.scale.stored or (zero is not None and zero.stored) else "absmax"


def has_signs(fmt: Format) -> bool:
    """Whether scales may be negative."""
    return fmt.scale.rule == "argmax" or fmt.scale.both_signs


@lru_cache(maxsize=64)
def codings(fmt: Format) -> tuple[Coding, ...]:
    """Every way to encode a block: rule ``range`` divides max - min by the grid's width."""
    found = plain_codings(fmt)
    if fmt.scale.rule != "range":
        return found
    return tuple(replace(c, up=c.values[-1] - c.values[0], down=ZERO, sides=(1,)) for c in found)


def inner_pieces(inner: Format, regime: str, signed: bool, measure: str = "absmax") -> list[Piece]:
    """What numbers an inner format stores as what: numbers from 0 on, or ``signed`` ones."""
    both = [p for kind in ("rounding", "clipping") for p in pieces(inner, measure, regime, kind)]
    return [p for p in both if signed or p.stop > 0 or p.start == p.stop == 0]


def places_of(piece: Piece, signed: bool) -> list[Fraction]:
    """The critical numbers of one of these pieces."""
    return [y if signed else max(y, ZERO) for y, _ in piece.points]
