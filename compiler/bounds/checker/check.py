"""The independent checker of proofs: nothing that it accepts rests on the code that derives them.

It is given a ``Format`` and the text of a proof. It works out on its own what is stored, what is
decoded, which statements there are to make and where each is largest, and compares number for
number. Where a proof is free to choose, as in cutting boxes and weighting trials, it checks
that the choice proves what is claimed.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isqrt

from ...exact import is_fp32
from ...format import Format
from .choice import check_boxes, has_boxes, regular_domain
from .moved import MovedClaim, check_moved, is_moved, moved_claims
from .reading import Node, Rejected, read
from .single import check_cells, check_corners, element_count, pieces, vertices
from .words import codings, is_binary32, ratios, stored_scales

__all__ = ["Rejected", "check", "check_sealed"]

#: The form of proofs that this checker knows.
SCHEMA = 1

#: A lemma: its name, what it says, and how it was proven.
Lemma = tuple[str, str, str]

#: What is said of one element, where scales are normal, and below that.
_OF_ELEMENTS = (
    ("absmax", "normal", "rounding"),
    ("absmax", "normal", "clipping"),
    ("scale", "normal", "rounding"),
    ("scale", "normal", "clipping"),
    ("self", "normal", "rounding"),
    ("absmax", "subnormal", "rounding"),
    ("absmax", "subnormal", "clipping"),
)

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def check(fmt: Format, text: str, lemmas: Sequence[Lemma] = ()) -> None:
    """Accept a proof of a format's bounds.

    Args:
        fmt: the format.
        text: the proof, JSON.
        lemmas: those that the proof must carry.

    Raises:
        Rejected: naming the first place where the proof is wrong, and what should be there.
    """
    proof = read(text).record("schema", "format", "hash", "statements", "lemmas")
    proof["schema"].holds(SCHEMA)
    proof["format"].holds(fmt.name)
    proof["hash"].holds(fmt.content_hash)
    claims = moved_claims(fmt) if is_moved(fmt) else _claims(fmt)
    found = proof["statements"].items()
    for node, claim in zip(found, claims, strict=False):
        _check_statement(fmt, node, claim)
    if len(found) != len(claims):
        names = ", ".join("/".join(claim.name) for claim in claims[len(found) :])
        proof["statements"].reject(
            f"{names} is missing" if names else f"has {len(found)}, and should have {len(claims)}"
        )
    for node, lemma in zip(proof["lemmas"].items(len(lemmas)), lemmas, strict=True):
        for item, part in zip(node.items(len(lemma)), lemma, strict=True):
            item.holds(part)


def check_sealed(fmt: Format, text: str, lemmas: Sequence[Lemma] = ()) -> None:
    """Accept a proof as it is written to a file: with the digest of all that it says.

    Raises:
        Rejected: the proof is wrong, or not the one that its digest is of.
    """
    value = read(text).value
    digest = value.pop("digest", None) if isinstance(value, dict) else None
    said = json.dumps(value, separators=(",", ":"))
    if digest != hashlib.sha256(said.encode()).hexdigest():
        raise Rejected("digest", f"should be that of the proof, and is {digest!r}")
    check(fmt, said, lemmas)


# -- what is to be stated ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement that a proof must make: measure, regime and kind, and how to check it.

    ``check`` is given the statement's fields and returns its bound.
    """

    name: tuple[str, str, str]
    check: Callable[[dict[str, Node]], Fraction]


def _claims(fmt: Format) -> list[Claim | MovedClaim]:
    """Every statement to make of a format whose elements are grid values times a scale."""
    if any(not coding.up or not coding.down for coding in codings(fmt)):
        # Elements on a side without values may be of any size: no bound in scales is true.
        raise Rejected("statements", "no bound is known where a grid has values of one sign alone")
    claims: list[Claim | MovedClaim] = [
        Claim(name, _elements(fmt, name)) for name in _OF_ELEMENTS if pieces(fmt, *name)
    ]
    lowest = [low for c in codings(fmt) for low, _ in ratios(fmt, "least", c.step)]
    boundless = fmt.scale.codes == "wanted" and not all(lowest)
    if not boundless and pieces(fmt, "least", "least", "rounding"):
        claims.append(Claim(("least", "least", "any"), _least(fmt)))
    if len(codings(fmt)) == 1:
        claims += [
            Claim(("block", regime, "any"), _block(fmt, regime))
            for regime in ("normal", "subnormal")
            if ratios(fmt, regime)
        ]
    elif has_boxes(fmt):
        claims.append(Claim(("block", "regular", "any"), lambda fields: _choice(fmt, fields)))
    claims.append(Claim(("zero", "zero", "any"), lambda fields: _zero(fmt, fields)))
    return claims


def _check_statement(fmt: Format, node: Node, claim: Claim | MovedClaim) -> None:
    fields = node.record(
        "measure",
        "regime",
        "kind",
        "bound",
        "slack",
        "tight",
        "domain",
        "cells",
        "corners",
        "boxes",
        "moved",
        "witness",
    )
    for part, name in zip(("measure", "regime", "kind"), claim.name, strict=True):
        fields[part].holds(name)
    if isinstance(claim, MovedClaim):
        check_moved(fmt, fields, claim)
    else:
        fields["tight"].holds(_is_tight(fmt, claim.name))
        bound = claim.check(fields)
        fields["bound"].equals(bound)
        fields["slack"].equals(slack(fmt, claim.name[0], bound))
    if fields["witness"].value is not None:
        _check_witness(fmt, fields["witness"], claim.name[0])


def _bare(fields: dict[str, Node], *but: str) -> None:
    """Nothing but what is named stands in a statement."""
    for name in ("cells", "corners", "boxes", "moved"):
        if name not in but:
            fields[name].items(0)
    if "domain" not in but:
        fields["domain"].holds(None)


def _is_tight(fmt: Format, name: tuple[str, str, str]) -> bool:
    """Whether a bound may be called the supremum: of several trials a block takes the best."""
    return name[0] == "zero" or len(codings(fmt)) == 1


def _elements(fmt: Format, name: tuple[str, str, str]) -> Callable[[dict[str, Node]], Fraction]:
    def run(fields: dict[str, Node]) -> Fraction:
        _bare(fields, "cells")
        expected = pieces(fmt, *name)
        check_cells(fields["cells"], expected)
        return max(piece.most for piece in expected)

    return run


def _least(fmt: Format) -> Callable[[dict[str, Node]], Fraction]:
    def run(fields: dict[str, Node]) -> Fraction:
        _bare(fields, "cells")
        both = [pieces(fmt, "least", "least", kind) for kind in ("rounding", "clipping")]
        expected = both[0] + both[1]
        check_cells(fields["cells"], expected)
        return max(_lost(fmt), *(piece.most for piece in expected))

    return run


def _lost(fmt: Format) -> Fraction:
    """The largest element of a block too small for any stored scale, which is decoded as zero."""
    least = stored_scales(fmt)[0]
    if not least.low:
        return Fraction(0)
    zero = fmt.scale.word.number.magnitude(fmt.scale.zero_block)
    if zero and any(Fraction(0) not in coding.values for coding in codings(fmt)):
        raise Rejected("statements", "no bound is known where small blocks are not decoded to 0")
    most = max(max(coding.up, coding.down) for coding in codings(fmt))
    # In units of the asked scale where the codes are chosen under it, else of the least word.
    return most if fmt.scale.codes == "wanted" else most * least.low / least.value


def _block(fmt: Format, regime: str) -> Callable[[dict[str, Node]], Fraction]:
    def run(fields: dict[str, Node]) -> Fraction:
        _bare(fields, "corners")
        expected = vertices(fmt, regime)
        check_corners(fields["corners"], expected)
        return max(vertex.height for vertex in expected)

    return run


def _choice(fmt: Format, fields: dict[str, Node]) -> Fraction:
    _bare(fields, "boxes", "domain")
    domain = regular_domain(fmt)
    if domain is None:
        fields["domain"].holds(None)
    else:
        fields["domain"].all_equal(domain)
    return check_boxes(fmt, fields["boxes"])


def _zero(fmt: Format, fields: dict[str, Node]) -> Fraction:
    """The bound of what an all-zero block's elements decode to: the grid's nearest, scaled."""
    _bare(fields)
    stored = fmt.scale.word.number.magnitude(fmt.scale.zero_block) or Fraction(0)
    return stored * min(max(abs(v) for v in _zeros(fmt, i)) for i in range(len(fmt.grids)))


def _zeros(fmt: Format, index: int) -> list[Fraction]:
    values = sorted({v for v in fmt.grids[index].values if v is not None})
    offset = fmt.policies.offset
    if offset is not None:
        return [values[max(0, min(len(values) - 1, floor(offset)))]]
    near = min(abs(v) for v in values)
    return [v for v in values if abs(v) == near]


# -- what binary32 adds --------------------------------------------------------------------


def slack(fmt: Format, measure: str, bound: Fraction) -> Fraction:
    """What the roundings of binary32 may add to a bound.

    An element's error moves by half an ulp of at most |x| + error for every rounding; a block's
    sum of squares S by (sqrt(S) + sqrt(g) * eta)^2 - S where each element's moves by eta.
    """
    share = Fraction(_roundings(fmt), 1 << 24)
    if measure != "block":
        ends = [abs(v) for grid in fmt.grids for v in grid.values if v is not None]
        return share * (bound + (max(ends) if measure in ("scale", "least", "zero") else 1))
    eta, count = 2 * share, element_count(fmt) or 1
    # r >= sqrt(S / g) up to 2^-30; 2 sqrt(S g) <= S / r + g r for any r > 0.
    mean = bound / count
    r = Fraction(isqrt((mean.numerator << 60) // mean.denominator) + 1, 1 << 30)
    return eta * (bound / r + count * r) + count * eta * eta


def _roundings(fmt: Format) -> int:
    """How many half ulps may move an error: of products, scales, quotients and offsets."""
    rounded_scale = is_binary32(fmt) or fmt.scale.tensor != "none" or fmt.scale.codes == "wanted"
    quotient = {"fp32_quotient": 3, "fp32_reciprocal": 6}.get(fmt.policies.compare, 0)
    offset = fmt.policies.offset
    added = 0 if offset is None else 4 + 2 * ceil(abs(offset))
    return 2 + (3 if rounded_scale else 0) + quotient + added


# -- witnesses -----------------------------------------------------------------------------


def _check_witness(fmt: Format, node: Node, measure: str) -> None:
    """Whether a witness is a tensor with a block in it; what it reaches an encoder has to say."""
    fields = node.record("shape", "runs", "block", "element", "digest", "reached")
    rows, columns = (item.integer(1) for item in fields["shape"].items(2))
    total, digest = 0, hashlib.sha256()
    last: str | None = None
    for run in fields["runs"].items():
        value, count = run.items(2)
        number = _binary32(value)
        if value.value == last:
            value.reject("is the run before once more")
        last = value.value
        total += count.integer(1)
        if total > rows * columns:
            break
        digest.update(struct.pack("<f", number) * count.integer(1))
    if total != rows * columns:
        fields["runs"].reject(f"are {total} elements, and the shape has {rows * columns}")
    if not _DIGEST.match(fields["digest"].text()):
        fields["digest"].reject("is no SHA-256 of 64 hexadecimal digits")
    fields["digest"].holds(digest.hexdigest())
    block = _check_place(fmt, fields["block"], rows, columns)
    if measure.endswith("block"):
        fields["element"].holds(None)
    else:
        row, column = (item.integer() for item in fields["element"].items(2))
        if not (block[0] <= row < block[1] and block[2] <= column < block[3]):
            fields["element"].reject("lies outside the block")
    if fields["reached"].number() < 0:
        fields["reached"].reject("is no share")


def _binary32(node: Node) -> float:
    """A finite binary32 number, as ``float.hex`` writes it."""
    text = node.text()
    try:
        number = float.fromhex(text)
    except (ValueError, OverflowError):
        node.reject(f"{text!r} is no number as float.hex writes it")
    if number.hex() != text or number in (float("inf"), -float("inf")) or number != number:
        node.reject(f"{text!r} is no finite number as float.hex writes it")
    if not is_fp32(Fraction(number)):
        node.reject(f"{text!r} is no binary32 number")
    return number


def _check_place(fmt: Format, node: Node, rows: int, columns: int) -> list[int]:
    """First row, last row + 1, first column, last column + 1 of a block that there is."""
    place = [item.integer() for item in node.items(4)]
    top, left = place[0], place[2]
    if fmt.extent == "tensor":
        top = left = 0
        bottom, right = rows, columns
    else:
        bottom = min(rows, top - top % fmt.tile + fmt.tile)
        top -= top % fmt.tile
        if fmt.extent == "row":
            left, right = 0, columns
        else:
            left -= left % fmt.block
            right = min(columns, left + fmt.block)
    if place != [top, bottom, left, right] or top >= rows or left >= columns:
        node.reject(f"is {place}, and a block there is {[top, bottom, left, right]}")
    return place
