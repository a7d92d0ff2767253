"""Bits per weight as a budget in whole octets.

All is exact: ``4.7`` is 47/10, and a capacity is rounded down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ..errors import RefusedInput

#: Nothing is stored in more bits than weights have themselves.
MOST_BPW = 32

_DECIMAL = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


class BudgetTooSmall(RefusedInput):
    """No plan fits the budget; the message says what the cheapest one takes.

    Attributes:
        least: bits per weight that are enough; None where that is not known.
    """

    def __init__(self, message: str, least: Fraction | None = None) -> None:
        super().__init__(message)
        self.least = least


def read_bpw(value: str | float | Fraction) -> Fraction:
    """Bits per weight as they are written: ``"4.7"`` and 4.7 are 47/10.

    Raises:
        RefusedInput: it is no decimal number above 0 and up to ``MOST_BPW``.
    """
    if isinstance(value, Fraction):
        found = value
    else:
        text = value.strip() if isinstance(value, str) else repr(value)
        if not _DECIMAL.fullmatch(text):
            raise RefusedInput(f"a budget is a number of bits per weight such as 4.7, not '{text}'")
        found = Fraction(text)
    if not 0 < found <= MOST_BPW:
        raise RefusedInput(
            f"a budget of {float(found):g} bits per weight cannot be: "
            f"give one above 0 and at most {MOST_BPW}"
        )
    return found


def capacity(bpw: str | float | Fraction, weights: int, overhead: int = 0) -> int:
    """The octets that choices may take in all: floor(bpw * weights / 8) - overhead.

    Args:
        bpw: see ``read_bpw``.
        weights: elements of all matrices that are quantized.
        overhead: octets of what is stored besides, whatever is chosen.

    Raises:
        RefusedInput: the budget is no number, or there are no weights.
        BudgetTooSmall: the overhead alone takes all of it.
    """
    exact = read_bpw(bpw)
    if weights < 1 or overhead < 0:
        raise RefusedInput(f"{weights} weights with {overhead} octets besides have no budget")
    whole = exact * weights // 8
    if whole <= overhead:
        raise BudgetTooSmall(
            f"{show_bpw(exact)} bits for each of {weights} weights are {whole} octets, and what "
            f"is stored besides them takes {overhead}"
        )
    return whole - overhead


def show_bpw(bpw: Fraction) -> str:
    """A number with up to four decimals, rounded up: as a budget it is enough."""
    parts = -(-bpw * 10000 // 1)
    return f"{parts // 10000}.{parts % 10000:04d}".rstrip("0").rstrip(".")


def check_affordable(least: Sequence[int], octets: int, weights: int, overhead: int = 0) -> None:
    """Whether the cheapest choices fit together.

    Args:
        least: of every unit the octets of its cheapest choice.
        octets: the capacity.
        weights: elements of all units.
        overhead: what is stored besides, for the message.

    Raises:
        BudgetTooSmall: they do not; the least possible bits per weight are named.
    """
    total = sum(least)
    if total <= octets:
        return
    needed = Fraction(8 * (total + overhead), max(1, weights))
    given = Fraction(8 * (octets + overhead), max(1, weights))
    raise BudgetTooSmall(
        f"a budget of {float(given):.4f} bits per weight ({octets} octets) is too small: the "
        f"cheapest choices of all matrices take {total} octets; the least that is possible is "
        f"--bpw {show_bpw(needed)}",
        Fraction(show_bpw(needed)),
    )
