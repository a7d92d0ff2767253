"""The critical points that the bounds of moved formats rest on.

Moved are formats with a zero, and those whose scales are stored in a format of their own. Nothing
here is more than a record: ``zeros``, ``minima`` and ``shares`` say why these points
suffice.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Window:
    """A block under a zero point, in units of the scale that its codes are chosen under.

    Codes mean ``-below`` to D - ``below``, and elements reach from ``largest`` - span to
    ``largest``, where the span is D (``codes wanted``) or ratio * D.

    Attributes:
        trial: which way of encoding a block it is about.
        ratio: asked / stored scale.
        below: how many codes lie below zero.
        largest: the largest element, not below 0.
        absmax: of the block.
        most: the largest squared error of an element.
        top, bottom: squared errors of the largest and of the least element.
        drivers: how many of these two there must be: one where the other end is zero.
        height: the sum of squares over absmax^2, or most / absmax^2 for rows and tensors.
    """

    trial: int
    ratio: Fraction
    below: int
    largest: Fraction
    absmax: Fraction
    most: Fraction
    top: Fraction
    bottom: Fraction
    drivers: int
    height: Fraction


@dataclass(frozen=True, slots=True)
class Piece:
    """Blocks with a minimum whose absmax begins at ``absmax``: what storage may do to them there.

    Attributes:
        trial: which way of encoding a block it is about.
        absmax: of the block, or the largest of those that share an inner scale.
        scale: the largest scale that is asked for under it.
        stored: the largest that is stored for it.
        over, under: how far a stored scale may lie above and below the one asked for.
        shift: how far a stored minimum may lie from the one asked for.
        value, at: the grid's value and the element that err most, in units of the scale that
            codes are chosen under, counted from the minimum.
        most: the largest error of an element.
        low, high: the largest errors of the least and of the largest element.
        drivers: how many of these two there must be.
        height: most / absmax, or the sum of squares over absmax^2.
    """

    trial: int
    absmax: Fraction
    scale: Fraction
    stored: Fraction
    over: Fraction
    under: Fraction
    shift: Fraction
    value: Fraction
    at: Fraction
    most: Fraction
    low: Fraction
    high: Fraction
    drivers: int
    height: Fraction


@dataclass(frozen=True, slots=True)
class Share:
    """An element of a block whose scale is stored in a format of its own.

    Lengths are in units of the inner stored scale, or, where scales are centred, of the
    tensor's largest scale.

    Attributes:
        trial: which way of encoding a block it is about.
        asked, stored: the block's scale, as it is wanted and as it is stored.
        group: the largest scale asked for in the group (in the tensor, where centred).
        value, at: the grid's value and the element that err most: the element is decoded to
            ``value * stored``.
        most: that error.
        driver: the error of the element that decides the block's scale; 0 where not counted.
        height: most over the group's absmax, or the sum of squares over its square.
    """

    trial: int
    asked: Fraction
    stored: Fraction
    group: Fraction
    value: Fraction
    at: Fraction
    most: Fraction
    driver: Fraction
    height: Fraction


#: What ``Statement.moved`` holds.
Moved = Window | Piece | Share
