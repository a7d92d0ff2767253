"""Worst-case errors of blocks whose scale is stored in a format of its own.

The inner format's cells say which scale t is stored as which w, both in units of the inner
stored scale (d = 1), and how large the largest scale S of the group is at least: S >= |t|, and
S >= the cell's floor. No bound relative to a block's own absmax exists, since w may be 0 for a
small block beside a large one. So errors count against G, the largest absmax of the group, which
is at least |x| and floor * S with the outer floor (measure ``group``).

* ``codes stored``: elements x between the edges of v, times w, err by |x - v w|, within the reach
  of t. With t beyond S's floor S grows like t: the pieces' ends, taken at the cell's ends and at
  the floor, are critical.
* ``codes wanted``: x = y t is decoded to v w for y between the edges of v: bilinear in y and t,
  so that the ends of both are critical (division by max(floor S, |x|) makes no new maximum).

Centred scales s = c + t N, stored as c + w N, have the tensor's mean c between 0 and the largest
scale of the tensor, which is the unit (measure ``tensor``), and N, the largest |s - c| of the
inner block, at most c (a scale of 0 is in it) or 1 - c (the largest scale is). For fixed t and w
the corners of both polygons {0 <= s <= 1, 0 <= N <= c <= 1} and {0 <= s <= 1, 0 <= N <= 1 - c <= 1}
are critical, since errors and sums of squares are convex; they are so in (s, s'), too, so that of
all these only the corners of their convex hull count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

from ...format import Format
from ..coder import Coder, coders_of
from ..proof import Cell, Statement
from ..single import ANY, CLIPPING, ROUNDING, element_cells
from ..slack import element_count
from ..words import LEAST, NORMAL, SUBNORMAL, Ratios, ratios_of, words_of
from .minima import inner_cells, inner_store, non_negative, numbers_of
from .points import Share
from .slack import moved_block_slack, moved_slack

#: An element, and the grid's value that it takes.
Place = tuple[Fraction, Fraction]

#: Of an inner cell: the stored size, the floor, and the critical sizes asked for.
Folded = tuple[Fraction, Fraction, list[Fraction]]


def share_statements(fmt: Format) -> Iterator[Statement]:
    """What elements and blocks may lose; ``fmt`` has inner scales and no zero."""
    inner = fmt.scale.stored
    if inner is None:
        return
    for regime in (NORMAL, SUBNORMAL):
        if ratios_of(inner, regime):
            if fmt.scale.center:
                yield from _centred_statements(fmt, inner, regime)
            else:
                yield from _group_statements(fmt, inner, regime)
    if not fmt.scale.center:
        yield from _least_statement(fmt, inner)


def _statement(
    fmt: Format, measure: str, regime: str, kind: str, shares: list[Share], tight: bool
) -> Iterator[Statement]:
    if shares:
        bound = max(share.height for share in shares)
        block = measure.endswith("block")
        more = (
            moved_block_slack(element_count(fmt) or 1, bound)
            if block
            else moved_slack(fmt, measure, bound)
        )
        yield Statement(measure, regime, kind, bound, more, tight, moved=tuple(shares))


# -- groups --------------------------------------------------------------------------------


def _group_statements(fmt: Format, inner: Format, regime: str) -> Iterator[Statement]:
    """One share for every trial and inner cell: its largest."""
    signed = has_signs(fmt)
    cells = _folded(inner_cells(inner, (regime,), signed), signed)
    coders = coders_of(fmt)
    tight = len(coders) == 1
    for kind in (ROUNDING, CLIPPING):
        shares = [
            max(found, key=_height)
            for trial, coder in enumerate(coders)
            for cell in cells
            if (found := list(_elements(fmt, trial, coder, cell, kind)))
        ]
        yield from _statement(fmt, "group", regime, kind, shares, tight)
    blocks = [
        max(_blocks(fmt, trial, coder, cell), key=_height)
        for trial, coder in enumerate(coders)
        for cell in cells
    ]
    # Beside a side that reaches further a group's absmax may be larger than is counted here.
    even = all(coder.positive == coder.negative for coder in coders)
    yield from _statement(fmt, "group_block", regime, ANY, blocks, tight and even)


def has_signs(fmt: Format) -> bool:
    """Whether scales may be negative."""
    return fmt.scale.rule == "argmax" or fmt.scale.both_signs


def _height(share: Share) -> Fraction:
    return share.height


def _folded(cells: tuple[Cell, ...], signed: bool) -> list[Folded]:
    """Inner cells without their signs."""
    folded = []
    for cell in cells:
        sizes = sorted({abs(y) for y in numbers_of(cell, signed)})
        folded.append((abs(cell.value), cell.floor, sizes))
    return folded


def _elements(fmt: Format, trial: int, coder: Coder, cell: Folded, kind: str) -> Iterator[Share]:
    stored, least, sizes = cell
    outer = min(c.floor for c in coders_of(fmt))
    for asked in sizes:
        for x, value in _places(fmt, coder, asked, stored, kind):
            # Rounding needs no more of the scale asked for than that elements reach x.
            group = max(sizes[0] if kind == ROUNDING and _sees_stored(fmt) else asked, least)
            most = abs(x - value * stored)
            height = most / max(outer * group, abs(x)) if group else Fraction(0)
            yield Share(trial, asked, stored, group, value, x, most, Fraction(0), height)


def _sees_stored(fmt: Format) -> bool:
    return fmt.scale.codes == "stored"


def _places(
    fmt: Format, coder: Coder, asked: Fraction, stored: Fraction, kind: str
) -> Iterator[Place]:
    """Elements at the ends of pieces, in units of the inner scale, and their values."""
    if not _sees_stored(fmt):
        for y, value in piece_ends(coder, Fraction(1), Fraction(1), kind):
            yield y * asked, value
    elif stored == 0:
        # Everything is decoded to zero.
        if kind == CLIPPING:
            yield coder.positive * asked, Fraction(0)
            yield -coder.negative * asked, Fraction(0)
    else:
        for y, value in piece_ends(coder, asked / stored, Fraction(1), kind):
            yield y * stored, value


def piece_ends(coder: Coder, reach: Fraction, unit: Fraction, kind: str) -> Iterator[Place]:
    """The ends of the elements that every value stands for, within ``reach``."""
    top, bottom = reach * coder.positive, -reach * coder.negative
    for value, a, b in coder.spans(bottom, top, inside=kind == ROUNDING):
        yield a * unit, value
        yield b * unit, value


def _blocks(fmt: Format, trial: int, coder: Coder, cell: Folded) -> Iterator[Share]:
    """The sum of squares at every critical scale of an inner cell."""
    stored, least, _ = cell
    outer = min(c.floor for c in coders_of(fmt))
    count = element_count(fmt)
    for asked in _critical_sizes(fmt, coder, cell):
        group = max(asked, least)
        places = [
            place
            for kind in (ROUNDING, CLIPPING)
            for place in _places(fmt, coder, asked, stored, kind)
        ]
        most, x, value = max(
            (abs(x - v * stored), x, v) for x, v in places or [(Fraction(0), Fraction(0))]
        )
        for end in coder.ends:
            driver = _driver(fmt, coder, end, asked, stored)
            total = most**2 if count is None else (count - 1) * most**2 + driver**2
            height = total / (outer * group) ** 2 if group else Fraction(0)
            yield Share(trial, asked, stored, group, value, x, most, driver, height)


def _critical_sizes(fmt: Format, coder: Coder, cell: Folded) -> list[Fraction]:
    """Scales at which the element that decides the scale changes its code, too."""
    stored, _, sizes = cell
    found = set(sizes)
    if _sees_stored(fmt):
        for end in coder.ends:
            for edge in coder.edges:
                size = end * edge * stored / coder.reach(end)
                if sizes[0] < size < sizes[-1]:
                    found.add(size)
    return sorted(found)


def _driver(fmt: Format, coder: Coder, end: int, asked: Fraction, stored: Fraction) -> Fraction:
    x = end * coder.reach(end) * asked
    if not _sees_stored(fmt):
        return max(abs(x - v * stored) for v in coder.nearest(end * coder.reach(end)))
    if stored == 0:
        return abs(x)
    return max(abs(x - v * stored) for v in coder.nearest(x / stored))


def _least_statement(fmt: Format, inner: Format) -> Iterator[Statement]:
    """Groups that ask for less than the least inner scale takes, in units of that."""
    first = next(iter(words_of(inner)), None)
    if first is None or first.high is None or not _sees_stored(inner):
        return
    span = Ratios(first.low / first.value, first.high / first.value, first, first)
    cells = [
        cell
        for kind in (ROUNDING, CLIPPING)
        for trial, coder in enumerate(coders_of(inner))
        for cell in element_cells(inner, trial, coder, (span,), "least", kind)
    ]
    signed = has_signs(fmt)
    folded = _folded(non_negative(cells, signed), signed)
    # Smaller groups are stored as zero.
    divisor = max(max(coder.positive, coder.negative) for coder in coders_of(inner))
    folded.append((Fraction(0), Fraction(0), [span.low * divisor]))
    shares = []
    for trial, coder in enumerate(coders_of(fmt)):
        for cell in folded:
            found = [
                replace(share, group=Fraction(1), height=share.most)
                for kind in (ROUNDING, CLIPPING)
                for share in _elements(fmt, trial, coder, cell, kind)
            ]
            shares += [max(found, key=_height)] if found else []
    yield from _statement(fmt, "least", LEAST, ANY, shares, len(coders_of(fmt)) == 1)


# -- centred scales ------------------------------------------------------------------------


def _centred_statements(fmt: Format, inner: Format, regime: str) -> Iterator[Statement]:
    """One share for every value and end of its elements: the largest, of the largest scales."""
    if fmt.scale.codes == "stored" or has_signs(fmt):
        yield from _loose_statements(fmt, inner, regime)
        return
    coders = coders_of(fmt)
    corners = _inner_corners(inner, regime)

    def shares(kinds: tuple[str, ...], block: bool) -> list[Share]:
        return [
            max(
                (
                    _centred(fmt, trial, corner, place, coder if block else None)
                    for corner in corners
                ),
                key=lambda share: (share.height, share.asked, share.stored),
            )
            for trial, coder in enumerate(coders)
            for kind in kinds
            for place in _one_side(coder, kind)
        ]

    tight = len(coders) == 1
    for kind in (ROUNDING, CLIPPING):
        yield from _statement(fmt, "tensor", regime, kind, shares((kind,), False), tight)
    both = shares((ROUNDING, CLIPPING), True)
    yield from _statement(fmt, "tensor_block", regime, ANY, both, tight)


def _one_side(coder: Coder, kind: str) -> list[Place]:
    """Every place once."""
    return sorted(set(piece_ends(coder, Fraction(1), Fraction(1), kind)))


def _centred(fmt: Format, trial: int, corner: Place, place: Place, coder: Coder | None) -> Share:
    """The share of one place and corner; with a coder, of the whole block."""
    (asked, stored), (y, value) = corner, place
    outer = min(c.floor for c in coders_of(fmt))
    most = abs(y * asked - value * stored)
    driver, height = Fraction(0), most / outer
    if coder is not None:
        count = element_count(fmt)
        driver = max(_driver(fmt, coder, end, asked, stored) for end in coder.ends)
        total = most**2 if count is None else (count - 1) * most**2 + driver**2
        height = total / outer**2
    return Share(trial, asked, stored, Fraction(1), value, y * asked, most, driver, height)


def _inner_corners(inner: Format, regime: str) -> list[tuple[Fraction, Fraction]]:
    """The corners of the convex hull of all scales asked for and stored."""
    points = set()
    for cell in inner_cells(inner, (regime,), True):
        for number in numbers_of(cell, True):
            spread = max(abs(number), cell.floor)
            t, miss = number / spread, (cell.value - number) / spread
            points |= {(asked, asked + miss * size) for size, asked in corners_of(t)}
    return _hull(sorted(points))


def _hull(points: list[tuple[Fraction, Fraction]]) -> list[tuple[Fraction, Fraction]]:
    """The corners of the convex hull of sorted points: a convex function is largest there."""
    found: list[tuple[Fraction, Fraction]] = []
    for run in (points, points[::-1]):
        chain: list[tuple[Fraction, Fraction]] = []
        for x, y in run:
            while len(chain) > 1:
                (a, b), (c, d) = chain[-2:]
                if (c - a) * (y - b) > (d - b) * (x - a):
                    break
                chain.pop()
            chain.append((x, y))
        found += chain[:-1]
    return found or points


def corners_of(t: Fraction) -> set[tuple[Fraction, Fraction]]:
    """(N, c + t N) at the corners of both polygons, for one t."""
    found = set()
    # a c + b N + k >= 0
    shared = [(0, Fraction(1), 0), (1, t, 0), (-1, -t, 1)]
    for own in (
        [(1, Fraction(-1), 0), (-1, Fraction(0), 1)],
        [(1, Fraction(0), 0), (-1, Fraction(-1), 1)],
    ):
        lines = [*shared, *own]
        for (a, b, k), (d, e, m) in combinations(lines, 2):
            det = a * e - d * b
            if det:
                c, size = (b * m - e * k) / det, (d * k - a * m) / det
                if all(p * c + q * size + r >= 0 for p, q, r in lines):
                    found.add((size, c + t * size))
    return found


def _loose_statements(fmt: Format, inner: Format, regime: str) -> Iterator[Statement]:
    """Where codes see the stored scale, or scales have signs: all terms at their largest."""
    kept = inner_store(inner, (regime,), True)
    if kept is None:
        return
    signed = has_signs(fmt)
    miss = max(kept.over, kept.under) * (2 if signed else 1)
    shares = []
    for trial, coder in enumerate(coders_of(fmt)):
        reach = max(coder.positive, coder.negative)
        value = max(abs(v) for v in coder.values)
        stored = 1 + miss
        half = max(abs(y - v) for y, v in piece_ends(coder, Fraction(1), Fraction(1), ROUNDING))
        most = half * stored + max(reach - value, Fraction(0)) + (reach + value) * miss
        outer = min(c.floor for c in coders_of(fmt))
        shares.append(
            Share(
                trial,
                Fraction(1),
                stored,
                Fraction(1),
                value,
                reach,
                most,
                Fraction(0),
                most / outer,
            )
        )
    yield from _statement(fmt, "tensor", regime, ANY, shares, False)
