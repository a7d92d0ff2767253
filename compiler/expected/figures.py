"""One expected error for a format, whether it has one way to encode a block or chooses."""

from __future__ import annotations

from dataclasses import dataclass

from ..format import Format
from .gain import NotServed, gain_curve
from .laws import Law
from .mse import NotDerivable, expected_mse


@dataclass(frozen=True, slots=True)
class Figure:
    """An expected squared error per element, in units of the law's variance.

    Attributes:
        value: the figure; of real scales, or of stored ones where these are powers of two.
        error: its absolute error: the quadrature's estimate, or a standard error.
        block: elements of a block.
        method: ``quadrature`` or ``sampling`` (more than two grids).
    """

    value: float
    error: float
    block: int
    method: str


def figure(fmt: Format, law: Law, block: int | None = None) -> Figure:
    """The expected error of independent elements of a law.

    Args:
        fmt: the format.
        law: of the elements.
        block: elements that share a scale; the format's own by default.

    Raises:
        NotDerivable: it stores more than codes, scales and a choice, or a row is its block and
            no size was said.
    """
    try:
        found = expected_mse(fmt, law, block=block)
    except NotDerivable as reason:
        size = block or (fmt.block * fmt.tile if fmt.extent == "block" else None)
        if size is None or fmt.zero is not None or fmt.scale.stored is not None or fmt.sides:
            raise
        try:
            gain = gain_curve(fmt, law, (size,))[0]
        except NotServed:
            raise reason from None
        return Figure(gain.chosen, gain.error * min(gain.single), size, gain.method)
    return Figure(found.value, found.error, found.block, "quadrature")
