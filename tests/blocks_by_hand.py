"""A proof of the blocks of a format with two grids, worked out by hand and by definition."""

from __future__ import annotations

import itertools
from fractions import Fraction

from fmtc.compiler.bounds.checker import check as checker


def leaf(trials, peaks, weights, split=None, count=3):
    """A leaf over trials (values, scale), worked out from its definition.

    Args:
        trials: the values and the scale of each.
        peaks: the intervals of the positive and the negative peak.
        weights: of the trials.
        split: (start, stop, count, few, price) of a split above, or None.
        count: the elements of a block.
    """
    (p0, p1), (n0, n1) = peaks
    marks = {(a + b) / 2 * s for values, s in trials for a, b in itertools.pairwise(values)}
    marks |= set(split[:2]) if split else set()
    owed = 0 if not split else split[4] * (split[2] if split[3] else -split[2] - 1)

    def score(x):
        total = sum(
            w * min((x - v * s) ** 2 for v in values)
            for w, (values, s) in zip(weights, trials, strict=True)
        )
        if split and split[3] and split[0] < x < split[1]:
            total -= split[4]
        if split and not split[3] and split[0] <= x <= split[1]:
            total += split[4]
        return Fraction(total)

    most, drivers, totals = [], [], []
    for p, n in itertools.product(dict.fromkeys((p0, p1)), dict.fromkeys((n0, n1))):
        most.append(max(score(x) for x in {-n, p} | {k for k in marks if -n < k < p}))
        drivers.append([score(x) for x, least in ((p, p0), (-n, n0)) if least])
        total = sum(drivers[-1]) + (count - len(drivers[-1])) * most[-1] + owed
        totals.append((p if p0 >= n0 else n, total))
    return {
        "weights": texts(weights),
        "prices": texts(split[4:] if split else ()),
        "most": texts(most),
        "drivers": [texts(d) for d in drivers],
        "height": str(over_square(totals)),
    }


def over_square(totals):
    """The most of y / x^2 under the line from the largest y at one x to that at the other."""
    (a, y), (b, z) = (
        (x, max(total for other, total in totals if other == x))
        for x in (min(totals)[0], max(totals)[0])
    )
    found = [y / a**2, z / b**2]
    if b * y < a * z:  # the line is below 0 at 0: it turns where x is twice its root
        root = a - y * (b - a) / (z - y)
        turn = 2 * root
        if a < turn < b:
            found.append((y + (z - y) * (turn - a) / (b - a)) / turn**2)
    return Fraction(max(found))


def texts(numbers):
    """Numbers as a proof has them."""
    return [str(Fraction(number)) for number in numbers]


def parts(interval, kinks):
    """An interval cut at kinks, unless it begins at 0."""
    low, high = interval
    inside = sorted(k for k in kinks if low < k < high) if low else []
    return itertools.pairwise([low, *inside, high])


def by_hand(fmt):
    """What blocks of format ``two`` may lose: its scales are rounded down to powers of two.

    Of peaks p and n in [1, 2] the first grid (-2 .. 1) asks for max(p, n / 2) and the second
    (-1 .. 1) for max(p, n).
    """
    values = [grid.numbers for grid in fmt.grids]
    one, two, half, zero = Fraction(1), Fraction(2), Fraction(1, 2), Fraction(0)
    split = (Fraction(-3, 4), Fraction(-1, 2), 1)
    boxes = []
    for strip in (
        ((one, two), (zero, two), (one, one)),
        ((zero, one), (one, two), (half, one)),
        ((one, two), (one, two), (one, one)),
    ):
        trials = list(zip(values, strip[2], strict=True))
        marks = {(a + b) / 2 * s for v, s in trials for a, b in itertools.pairwise(v)}
        for peaks in itertools.product(
            parts(strip[0], marks), parts(strip[1], {-mark for mark in marks})
        ):
            tree = leaf(trials, peaks, (half, half))
            if strip[0][0] == 0:
                tree = {"start": str(split[0]), "stop": str(split[1]), "count": 1}
                for name in ("few", "many"):
                    above = (*split, name == "few", Fraction(1, 64))
                    tree[name] = leaf(trials, peaks, (half, half), above)
            boxes.append(
                {
                    "positive": texts(peaks[0]),
                    "negative": texts(peaks[1]),
                    "scales": texts(strip[2]),
                    "tree": tree,
                }
            )
    bound = max(height(box["tree"]) for box in boxes)
    return {
        "measure": "block",
        "regime": "regular",
        "kind": "any",
        "bound": str(bound),
        "slack": str(checker.slack(fmt, "block", bound)),
        "tight": False,
        # Four times the first word behind the least normal one, to the last word.
        "domain": [f"1/{2**123}", str(2**127)],
        "cells": [],
        "corners": [],
        "boxes": boxes,
        "moved": [],
        "witness": None,
    }


def height(tree):
    """The largest height of a tree's leaves."""
    if "height" in tree:
        return Fraction(tree["height"])
    return max(height(tree["few"]), height(tree["many"]))
