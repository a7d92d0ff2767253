"""Checks of formats whose elements are moved off zero, or whose scales are stored twice.

No proof of one is accepted until its statements are worked out here a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..format import Format
from .checker_reading import Node, Rejected


@dataclass(frozen=True, slots=True)
class MovedClaim:
    """A statement that a proof must make: measure, regime and kind."""

    name: tuple[str, str, str]


def is_moved(fmt: Format) -> bool:
    """Whether elements are more than a grid value times a scale of a table."""
    return fmt.zero is not None or fmt.scale.stored is not None


def moved_claims(fmt: Format) -> list[MovedClaim]:
    """Every statement to make of such a format, in order.

    Raises:
        Rejected: no checker is known.
    """
    what = "a zero clause" if fmt.zero is not None else "scales stored in another format"
    raise Rejected("statements", f"no checker for formats with {what}")


def check_moved(fmt: Format, fields: dict[str, Node], claim: MovedClaim) -> None:
    """Check one of these statements, its bound and its slack.

    Raises:
        Rejected: no checker is known.
    """
    raise Rejected(fields["measure"].where, f"no checker for {'/'.join(claim.name)}")
