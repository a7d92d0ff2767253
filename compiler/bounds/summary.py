"""What is said of proven bounds: rows of words and numbers, for people and for scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..format import Format
from .proof import Proof
from .slack import element_count

#: The share of a bound from which on an input shows that it is hardly above the supremum.
NEAR = 0.999

#: An exact bound is shown where it is no longer than this.
_SHORT = 12

#: Slacks are kept to this many digits, shares to millionths.
_DIGITS, _MILLION = 6, 1_000_000


@dataclass(frozen=True, slots=True)
class Bound:
    """A statement without what it rests on.

    Attributes:
        name: measure, regime and kind, as ``Statement.name``.
        bound: exact.
        slack: what binary32 may add, rounded up.
        tight: whether the bound is the supremum.
        reached: the share that a witness reaches, rounded down; None: there is no witness.
        parts: how many cells, corners, boxes and pieces it is the maximum of.
    """

    name: str
    bound: Fraction
    slack: float
    tight: bool
    reached: float | None
    parts: int = 0

    @property
    def measure(self) -> str:
        """What the error is counted in: the first part of the name."""
        return self.name.split("/")[0]

    def as_json(self) -> dict[str, Any]:
        """Plain values that ``bound_of`` reads."""
        return {
            "name": self.name,
            "bound": str(self.bound),
            "slack": self.slack,
            "tight": self.tight,
            "reached": self.reached,
        }


def bound_of(stated: Mapping[str, Any]) -> Bound:
    """The inverse of ``Bound.as_json``."""
    return Bound(
        str(stated["name"]),
        Fraction(stated["bound"]),
        float(stated["slack"]),
        bool(stated["tight"]),
        None if stated["reached"] is None else float(stated["reached"]),
    )


def bounds_of(proof: Proof) -> tuple[Bound, ...]:
    """The bounds of a proof; a witness that was not run reaches nothing that is known."""
    return tuple(
        Bound(
            s.name,
            s.bound,
            _up(s.slack),
            s.tight,
            _down(s.witness.reached) if s.witness else None,
            len(s.cells) + len(s.corners) + len(s.boxes) + len(s.moved),
        )
        for s in proof.statements
    )


def _up(value: Fraction) -> float:
    """Rounded up to a few digits."""
    if not value:
        return 0.0
    unit = Fraction(10) ** (math.floor(math.log10(value)) - _DIGITS + 1)
    return float(Fraction(math.ceil(value / unit)) * unit)


def _down(share: Fraction) -> float:
    return math.floor(share * _MILLION) / _MILLION


# -- words ---------------------------------------------------------------------------------

_OWNERS = {"group": "group of blocks", "tensor": "tensor"}


def rows(fmt: Format, bounds: Iterable[Bound]) -> list[dict[str, Any]]:
    """One row a bound: what of, where, how much, in which unit, and how much of it is reached."""
    return [_row(fmt, bound) for bound in bounds]


def _row(fmt: Format, bound: Bound) -> dict[str, Any]:
    measure, regime, kind = bound.name.split("/")
    exact = str(bound.bound)
    return {
        "name": bound.name,
        "what": _what(fmt, measure, kind),
        "where": _where(fmt, regime),
        "bound": float(bound.bound),
        "exact": exact,
        "short": exact if len(exact) <= _SHORT else None,
        "unit": _unit(fmt, measure),
        "slack": bound.slack,
        "tight": is_near(bound),
        "reached": bound.reached,
    }


def _what(fmt: Format, measure: str, kind: str) -> str:
    unit = _block_name(fmt)
    if measure.endswith("block"):
        if element_count(fmt) is None:
            return f"mean square of a {unit}"
        return f"squares of a {unit}, added up"
    if measure == "zero":
        return "an element of zeros"
    if measure == "self":
        return "an element above the least value"
    return {
        "rounding": "an element between the grid's ends",
        "clipping": "an element beyond the grid's ends",
    }.get(kind, "an element")


def _block_name(fmt: Format) -> str:
    return "block" if fmt.extent == "block" else fmt.extent


def _where(fmt: Format, regime: str) -> str:
    word = (fmt.scale.stored or fmt).scale.word.name
    if regime == "subnormal":
        return f"{word} scale subnormal"
    return {
        "least": f"below the least {word} scale",
        "zero": f"all-zero {_block_name(fmt)}s",
        "regular": f"{word} scales normal",
    }.get(regime, f"{word} scale {regime}")


def _unit(fmt: Format, measure: str) -> str:
    owner = _OWNERS.get(measure.removesuffix("_block"), _block_name(fmt))
    if measure.endswith("block"):
        return f"absmax^2 of its {owner}" if owner != _block_name(fmt) else "its absmax^2"
    scale = "asked scale" if fmt.scale.codes == "wanted" else "scale"
    return {
        "scale": f"its {scale}",
        "self": "itself",
        "least": f"the least {scale}" if scale == "scale" else f"its {scale}",
        "zero": "absolute" if fmt.scale.tensor == "none" else "the second level",
    }.get(measure, f"absmax of its {owner}")


def is_near(bound: Bound) -> bool:
    """Whether a bound is the supremum, or an input comes within a thousandth of it."""
    return bound.tight or (bound.reached is not None and bound.reached >= NEAR)


def footnote(bounds: Sequence[Bound], *, more: bool = False) -> str:
    """What binary32 adds to the bounds, in a sentence; and, with ``more``, who finds the rest."""
    shares = [bound.slack / float(bound.bound) for bound in bounds if bound.bound]
    if not shares:
        return ""
    whole = any(bound.measure.endswith("block") for bound in bounds)
    kind = "exact suprema"
    if not all(bound.tight for bound in bounds):
        kind = "exact suprema or at most a thousandth above them"
    far = "" if all(map(is_near, bounds)) else " Those with <= may lie further above."
    return (
        f"Bounds are {kind}, in real arithmetic.{far} The roundings of binary32 add at "
        f"most {max(shares):.1e} of each, where nothing is subnormal in binary32 or overflows."
        + (" What whole blocks may lose `fmtc prove` finds." if more and not whole else "")
    )


def dot_products(fmt: Format, bounds: Iterable[Bound]) -> dict[str, Any] | None:
    """What a dot product may miss, |w.x - w'.x|, by the Cauchy-Schwarz inequality.

    Returns:
        The factor of absmax(w) * |x|_2 for the weights of one block along a row, and that of
        sqrt(K) * (largest absmax of w) * |x|_2 for rows of K; None where no bound says so much.
    """
    known = {bound.name: bound.bound + Fraction(bound.slack) for bound in bounds}
    elements = [known.get(f"absmax/normal/{kind}") for kind in ("rounding", "clipping")]
    element = max((bound for bound in elements if bound is not None), default=None)
    squares = known.get("block/normal/any", known.get("block/regular/any"))
    count = 1 if element_count(fmt) is None else fmt.block
    options = [count * element**2] if element is not None else []
    options += [squares] if squares is not None else []
    if not options:
        return None
    least = min(options)
    block = None if element_count(fmt) is None else _root_up(least)
    return {"block": block, "row": _root_up(least / count), "block_elements": count}


def _root_up(value: Fraction) -> float:
    """The square root, rounded up to four digits."""
    root = math.sqrt(value)
    if not root:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(root)) - 3)
    return float(f"{math.ceil(root / unit * (1 + 1e-12)) * unit:.4g}")


def dot_sentences(found: Mapping[str, Any] | None) -> list[str]:
    """What ``dot_products`` finds, in words."""
    if found is None:
        return []
    lines = []
    if found["block"] is not None and found["block_elements"] > 1:
        lines.append(
            f"dot product over {found['block_elements']} elements of a block: "
            f"|w.x - w'.x| <= {found['block']:g} * absmax(w) * |x| (under a normal scale)"
        )
    lines.append(
        f"dot product over K elements: |w.x - w'.x| <= {found['row']:g} * sqrt(K) * absmax(w) * |x|"
        " (under normal scales)"
    )
    return lines
