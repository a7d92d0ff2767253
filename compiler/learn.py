"""Learning grids from samples, so that a ``learned { ... }`` recipe can be run again.

The fitting is float64 (see ``fitting``): what the last bits of its sums would change, the
snapping or rounding at the end hides. ``derive`` runs a recipe, and ``fit`` tells the objective on
the way. Its settings, all text:

========== =========================================================================== =========
method     ``lloyd``, ``partner``, ``pair``, ``descent``, ``clustering``, ``block_optimal``
source     ``gaussian``, ``student`` with ``freedom`` degrees, or ``data``: samples     gaussian
           of weights, which must be at hand
data       (source data) the digest of these samples
weights    (source data) what an element's square weighs: ``none``, ``c``, ``c2``       none
block      elements of a block                                                          16
blocks     how many blocks are drawn                                                    32768
seed       of NumPy's PCG64                                                             0
levels     values of the grid                                                           16
rule       what a block is divided by: ``absmax``, ``argmax``                           absmax
target     ``ends``: a grid's ends meet the block's; ``1``: its largest meets 1         ends
origin     ``free``, or ``held``: 0 is a level, one level more below it than above    free
beside     the grid that a partner is learned for
member     which grid of a pair, ``1`` or ``2``                                         1
rounds     of the iteration                                                             100
host       ``e4m3``, ``hif7``, ...: where values are snapped to                         fp32
snap       (partner, pair) ``after`` the iteration; or ``inside``: grids of the host's    after
           points take turns with the blocks' choice, each the best for its blocks, and then
           single levels move while the error falls (a partner from two starts)
times      what the values are multiplied by before that                                1
digits     decimals that values are rounded to, where there is no host                  5
largest    (block_optimal) ``absolute`` or ``signed``                                   absolute
========== =========================================================================== =========

``tensor``, ``layer``, ``limit`` and ``norms`` say where data come from, for people and for
``fmtc learn --check``: the digest decides.

The objective is the mean squared error of the samples under exact scales, weighted as ``weights``
says, where every block takes the better of its grids. Of ``lloyd``, ``partner`` and ``pair`` it is
the one before values are snapped or rounded; of ``descent``, ``clustering`` and ``snap inside`` it
is that of grids of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from .fitting import (
    Blocks,
    Cells,
    HostPoints,
    clustered,
    descend,
    descend_together,
    draw,
    errors_under_own_ends,
    lloyd,
    normalised,
    pair,
    partner,
    start_levels,
)
from .floats import named_float
from .hosts import HIF_HOSTS, snap

if TYPE_CHECKING:
    from .cells import F64, Mask
    from .samples import Samples

#: Most elements that a recipe may draw, most rounds, and most levels.
MAX_ELEMENTS = 1 << 24
MAX_ROUNDS = 2000
MAX_LEVELS = 256

Known = Mapping[str, Sequence[Fraction]]


class RecipeError(ValueError):
    """A recipe that cannot be run; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a recipe found.

    Attributes:
        grids: the learned grids, values ascending; two of a pair.
        trace: the objective at every choice of the iteration (see the module's text), which never
            rises; empty of ``block_optimal``, which integrates.
    """

    grids: tuple[tuple[Fraction, ...], ...]
    trace: tuple[float, ...]


def host_points(host: str, times: Fraction) -> tuple[Fraction, ...]:
    """The numbers of a host over ``times`` that lie from -1 to 1, ascending.

    Raises:
        RecipeError: the host is none with a list of numbers.
    """
    number = named_float(host)
    if host in HIF_HOSTS:
        words: set[Fraction] = set(map(Fraction, HIF_HOSTS[host].words()))
    elif number is not None and number.bits <= 12:
        words = {value for value in number.values() if value is not None}
    else:
        raise RecipeError(f"'{host}' has no list of points: take e4m3, hif7 or the like")
    return tuple(sorted(word / times for word in words if abs(word) <= times))


class _Recipe:
    """A recipe's settings, read with their defaults."""

    def __init__(
        self, recipe: Mapping[str, str], known: Known, samples: Samples | None = None
    ) -> None:
        self.settings = recipe
        self.known = known
        self.samples = samples
        self.block = self.whole("block", 16, 2, 4096)
        self.levels = self.whole("levels", 16, 2, MAX_LEVELS)
        self.rounds = self.whole("rounds", 100, 0, MAX_ROUNDS)
        self.host = recipe.get("host", "fp32")
        self.times = self.number("times", "1")
        self.rule = self.word("rule", "absmax", "argmax")
        self.own_ends = self.word("target", "ends", "1") == "ends"
        self.origin = self.word("origin", "free", "held") == "held"
        self.inside = self.word("snap", "after", "inside") == "inside"
        self.source = self.word("source", "gaussian", "student", "data")
        if samples is not None and self.source != "data":
            raise RecipeError(f"the recipe draws its own samples: its source is {self.source}")

    def word(self, key: str, *words: str) -> str:
        """One of ``words``; the first where the recipe does not say."""
        word = self.settings.get(key, words[0])
        if word not in words:
            raise RecipeError(f"'{key}' cannot be '{word}': it is {' or '.join(words)}")
        return word

    def number(self, key: str, default: str) -> Fraction:
        """A number above 0."""
        text = self.settings.get(key, default)
        try:
            value = Fraction(text)
        except ValueError:
            value = Fraction(0)
        if value <= 0:
            raise RecipeError(f"'{key}' cannot be '{text}': it is a number above 0")
        return value

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """An integer in a range."""
        text = self.settings.get(key, str(default))
        if not text.isdecimal() or not low <= int(text) <= high:
            raise RecipeError(f"'{key}' cannot be '{text}': it is an integer, {low} to {high}")
        return int(text)

    def blocks(self) -> Blocks:
        """The samples of the recipe."""
        if self.source == "data":
            return self.given()
        count = self.whole("blocks", 1 << 15, 2, MAX_ELEMENTS // self.block)
        freedom = float(self.number("freedom", "5"))
        seed = self.whole("seed", 0, 0, 1 << 32)
        if self.word("weights", "none", "c", "c2") != "none":
            raise RecipeError("'weights' are of channels: drawn samples have none")
        return normalised(draw(self.source, freedom, (count, self.block), seed), self.rule)

    def given(self) -> Blocks:
        """The samples at hand, when they are those that the recipe names."""
        wanted = self.settings.get("data", "")
        if self.samples is None:
            raise RecipeError(f"the recipe is of data {wanted}: it needs these samples of weights")
        digest = self.samples.digest
        if digest != wanted:
            raise RecipeError(f"the recipe is of data {wanted}; these samples are {digest}")
        if self.samples.x.shape[1] != self.block:
            raise RecipeError(f"'block' is {self.block}; the samples' is {self.samples.x.shape[1]}")
        inner = None
        power = self.word("weights", "none", "c", "c2")
        if power != "none":
            inner = self.samples.c.astype(np.float64) ** (2 if power == "c2" else 1)
            if not inner.any():
                raise RecipeError(f"'weights' cannot be '{power}': all channel norms are 0")
        return normalised(self.samples.x.astype(np.float64), self.rule, inner)

    def base(self) -> F64:
        """The grid that a partner is learned for."""
        name = self.settings.get("beside", "")
        if name not in self.known:
            raise RecipeError(f"the grid '{name}' that the recipe is 'beside' is not given")
        return np.array([float(value) for value in sorted(set(self.known[name]))])

    def base_errors(self, blocks: Blocks, base: F64) -> F64:
        """Every block's squared error under the first grid, [blocks]."""
        if self.own_ends:
            return errors_under_own_ends(blocks, base, self.rule)
        return blocks.errors(base)

    def held(self, levels: F64) -> Mask:
        """Which levels stay: the ends that meet the block's, and 0 where it is held."""
        fixed = [0.0] if self.origin else []
        if self.own_ends:
            fixed += [1.0] if self.rule == "argmax" else [-1.0, 1.0]
        return np.isin(levels, fixed)

    def started(self, levels: F64) -> F64:
        """Levels to begin with, to 1; where the ends meet the block's, they are put there."""
        if len(levels) != self.levels:
            levels = start_levels(self.levels, self.origin)
        start: F64 = levels / np.abs(levels).max()
        if self.own_ends:
            start[-1] = 1.0
            start[0] = start[0] if self.rule == "argmax" else -1.0
        return start

    def points(self) -> tuple[tuple[Fraction, ...], F64]:
        """The host's points over ``times``, exact and as float64, ascending."""
        exact = host_points(self.host, self.times)
        return exact, np.array([float(point) for point in exact])

    def finished(self, levels: F64) -> tuple[Fraction, ...]:
        """Levels times ``times``, snapped to the host or rounded to ``digits``."""
        if self.host != "fp32":
            if named_float(self.host) is None and self.host not in HIF_HOSTS:
                raise RecipeError(f"no host is called '{self.host}'")
            return tuple(snap(self.host, Fraction(float(v)) * self.times) for v in levels)
        unit = 10 ** self.whole("digits", 5, 1, 12)
        return tuple(Fraction(round(Fraction(float(v)) * self.times * unit), unit) for v in levels)


def derive(
    recipe: Mapping[str, str],
    known: Known = MappingProxyType({}),
    samples: Samples | None = None,
) -> tuple[Fraction, ...]:
    """Run a recipe: the values, ascending, that were frozen into the .fmt file beside it.

    Args:
        recipe: what stands in ``learned { ... }``: setting -> text.
        known: the values of grids that it names (``beside``).
        samples: of weights, for a recipe of ``source data``.

    Raises:
        RecipeError: a setting is unknown, missing or out of range; or the samples are missing, or
            others than the recipe's.
    """
    found = fit(recipe, known, samples).grids
    if len(found) == 1:
        return found[0]
    return found[_Recipe(recipe, known, samples).whole("member", 1, 1, len(found)) - 1]


def fit(
    recipe: Mapping[str, str],
    known: Known = MappingProxyType({}),
    samples: Samples | None = None,
) -> Fit:
    """Run a recipe: both grids of a pair, and the objective on the way; see ``derive``."""
    unknown = set(recipe) - _SETTINGS
    if unknown:
        raise RecipeError(f"no recipe has the setting '{min(unknown)}'")
    method = recipe.get("method", "")
    if method not in _METHODS:
        raise RecipeError(f"no method is called '{method}': there are {', '.join(_METHODS)}")
    return _METHODS[method](_Recipe(recipe, known, samples))


def _block_optimal(recipe: _Recipe) -> Fit:
    from .block_optimal import levels

    signed = recipe.word("largest", "absolute", "signed") == "signed"
    found = levels(recipe.levels, recipe.block, signed)
    return Fit((tuple(snap("fp32", level) for level in found),), ())


def _lloyd(recipe: _Recipe) -> Fit:
    start = start_levels(recipe.levels, recipe.origin)
    blocks = recipe.blocks()
    levels, trace = lloyd(Cells.of_blocks(blocks), start, recipe.held(start), recipe.rounds)
    return Fit((recipe.finished(levels),), _means(blocks, trace))


def _partner(recipe: _Recipe) -> Fit:
    blocks, base = recipe.blocks(), recipe.base()
    if not recipe.own_ends and np.abs(base).max() != 1:
        raise RecipeError(f"'target 1' needs a grid whose largest is 1, not {np.abs(base).max():g}")
    start = recipe.started(base)
    lost = recipe.base_errors(blocks, base)
    levels, trace = partner(blocks, lost, start, recipe.held(start), recipe.rounds)
    if recipe.inside:
        starts = [blocks.errors(levels) < lost, lost > np.median(lost)]
        return min((_clustered(recipe, blocks, each, lost) for each in starts), key=_last)
    return Fit((recipe.finished(levels),), tuple(trace))


def _pair(recipe: _Recipe) -> Fit:
    # sinh(3/2 t) + 1/10 and its mirror image: two grids that are unlike from the beginning.
    steps = np.sinh(1.5 * np.linspace(-1, 1, recipe.levels)) + 0.1
    one = recipe.started(steps / np.abs(steps).max())
    two = recipe.started(-one[::-1])
    blocks = recipe.blocks()
    both, trace = pair(blocks, (one, two), recipe.held(one), recipe.rounds)
    if recipe.inside:
        return _clustered(recipe, blocks, blocks.errors(both[1]) < blocks.errors(both[0]), None)
    return Fit(tuple(map(recipe.finished, both)), tuple(trace))


def _descent(recipe: _Recipe) -> Fit:
    blocks = recipe.blocks()
    cells = Cells.of_blocks(blocks)
    exact, points = recipe.points()
    start = start_levels(recipe.levels, recipe.origin)
    held = recipe.held(start)
    rough, _ = lloyd(cells, start, held, recipe.rounds)
    near = [int(np.abs(points - level).argmin()) for level in rough]
    if len(set(near)) < len(near):
        raise RecipeError(f"the host {recipe.host} has too few points for these levels")
    trace: list[float] = []
    found = descend(cells, near, points, held, trace)
    return Fit((tuple(exact[i] * recipe.times for i in found),), _means(blocks, trace))


def _clustering(recipe: _Recipe) -> Fit:
    """SOP's DD grids: exact clustering on a host's points, for the blocks that choose the grid."""
    blocks = recipe.blocks()
    if "beside" not in recipe.settings:
        everything = np.ones(len(blocks.y), dtype=np.bool_)
        return _clustered(recipe, blocks, everything, np.full(len(blocks.y), np.inf))
    lost = recipe.base_errors(blocks, recipe.base())
    return _clustered(recipe, blocks, lost > np.median(lost), lost)


def _clustered(recipe: _Recipe, blocks: Blocks, chosen: Mask, base: F64 | None) -> Fit:
    """Grids of the host's points, from the blocks that begin with the second one."""
    exact, points = recipe.points()
    zero = tuple(np.flatnonzero(points == 0).tolist()) if recipe.origin else ()
    must = len(zero) + 2 * recipe.own_ends
    if not max(2, must) <= recipe.levels <= len(points):
        raise RecipeError(f"the host {recipe.host} has no {recipe.levels} points for these levels")
    host = HostPoints(points, recipe.levels, recipe.own_ends, zero)
    grids, trace = clustered(blocks, host, chosen, base, recipe.rounds)
    if recipe.inside:
        grids = descend_together(blocks, host, grids, base, recipe.rounds, trace)
    value = dict(zip(points.tolist(), exact, strict=True))
    found = [tuple(value[level] * recipe.times for level in grid.tolist()) for grid in grids]
    return Fit(tuple(found if base is None else found[1:]), tuple(trace))


def _last(found: Fit) -> float:
    return found.trace[-1]


def _means(blocks: Blocks, trace: Sequence[float]) -> tuple[float, ...]:
    return tuple(error * blocks.scale_of_error for error in trace)


_METHODS: dict[str, Callable[[_Recipe], Fit]] = {
    "lloyd": _lloyd,
    "partner": _partner,
    "pair": _pair,
    "descent": _descent,
    "clustering": _clustering,
    "block_optimal": _block_optimal,
}
_SETTINGS = frozenset(
    {"method", "source", "freedom", "block", "blocks", "seed", "levels", "rule", "target", "origin"}
    | {"beside", "member", "rounds", "host", "times", "digits", "largest"}
    | {"data", "weights", "snap", "tensor", "layer", "limit", "norms"}
)
