"""Learning grids from samples, so that a ``learned { ... }`` recipe can be run again.

The fitting is float64 (see ``fitting``): what the last bits of its sums would change, the
snapping or rounding at the end hides. ``derive`` runs a recipe. Its settings, all text:

========== =========================================================================== =========
method     ``lloyd``, ``partner``, ``pair``, ``descent``, ``clustering``, ``block_optimal``
source     ``gaussian``, or ``student`` with ``freedom`` degrees                        gaussian
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
times      what the values are multiplied by before that                                1
digits     decimals that values are rounded to, where there is no host                  5
largest    (block_optimal) ``absolute`` or ``signed``                                   absolute
========== =========================================================================== =========
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from .fitting import (
    Blocks,
    Cells,
    cluster,
    descend,
    draw,
    errors,
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
    from .fitting import F64, Mask

#: Most elements that a recipe may draw, most rounds, and most levels.
MAX_ELEMENTS = 1 << 24
MAX_ROUNDS = 2000
MAX_LEVELS = 256

Known = Mapping[str, Sequence[Fraction]]


class RecipeError(ValueError):
    """A recipe that cannot be run; the message says what it lacks."""


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

    def __init__(self, recipe: Mapping[str, str], known: Known) -> None:
        self.settings = recipe
        self.known = known
        self.block = self.whole("block", 16, 2, 4096)
        self.levels = self.whole("levels", 16, 2, MAX_LEVELS)
        self.rounds = self.whole("rounds", 100, 0, MAX_ROUNDS)
        self.host = recipe.get("host", "fp32")
        self.times = self.number("times", "1")
        self.rule = self.word("rule", "absmax", "argmax")
        self.own_ends = self.word("target", "ends", "1") == "ends"
        self.origin = self.word("origin", "free", "held") == "held"

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
        count = self.whole("blocks", 1 << 15, 2, MAX_ELEMENTS // self.block)
        freedom = float(self.number("freedom", "5"))
        seed = self.whole("seed", 0, 0, 1 << 32)
        source = self.word("source", "gaussian", "student")
        return normalised(draw(source, freedom, (count, self.block), seed), self.rule)

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
        return errors(blocks.y, base)[1]

    def held(self, levels: F64) -> Mask:
        """Which levels stay: the ends that meet the block's, and 0 where it is held."""
        fixed = [0.0] if self.origin else []
        if self.own_ends:
            fixed += [1.0] if self.rule == "argmax" else [-1.0, 1.0]
        return np.isin(levels, fixed)

    def started(self, levels: F64) -> F64:
        """Levels to begin with; where the ends meet the block's, they are put there."""
        start = levels.copy()
        if self.own_ends:
            start[-1] = 1.0
            start[0] = start[0] if self.rule == "argmax" else -1.0
        return start

    def finished(self, levels: F64) -> tuple[Fraction, ...]:
        """Levels times ``times``, snapped to the host or rounded to ``digits``."""
        if self.host != "fp32":
            if named_float(self.host) is None and self.host not in HIF_HOSTS:
                raise RecipeError(f"no host is called '{self.host}'")
            return tuple(snap(self.host, Fraction(float(v)) * self.times) for v in levels)
        unit = 10 ** self.whole("digits", 5, 1, 12)
        return tuple(Fraction(round(Fraction(float(v)) * self.times * unit), unit) for v in levels)


def derive(recipe: Mapping[str, str], known: Known = MappingProxyType({})) -> tuple[Fraction, ...]:
    """Run a recipe: the values, ascending, that were frozen into the .fmt file beside it.

    Args:
        recipe: what stands in ``learned { ... }``: setting -> text.
        known: the values of grids that it names (``beside``).

    Raises:
        RecipeError: a setting is unknown, missing or out of range.
    """
    unknown = set(recipe) - _SETTINGS
    if unknown:
        raise RecipeError(f"no recipe has the setting '{min(unknown)}'")
    method = recipe.get("method", "")
    if method not in _METHODS:
        raise RecipeError(f"no method is called '{method}': there are {', '.join(_METHODS)}")
    return _METHODS[method](_Recipe(recipe, known))


def _block_optimal(recipe: _Recipe) -> tuple[Fraction, ...]:
    from .block_optimal import levels

    signed = recipe.word("largest", "absolute", "signed") == "signed"
    return tuple(snap("fp32", level) for level in levels(recipe.levels, recipe.block, signed))


def _lloyd(recipe: _Recipe) -> tuple[Fraction, ...]:
    start = start_levels(recipe.levels, recipe.origin)
    cells = Cells.of_blocks(recipe.blocks())
    return recipe.finished(lloyd(cells, start, recipe.held(start), recipe.rounds)[0])


def _partner(recipe: _Recipe) -> tuple[Fraction, ...]:
    blocks, base = recipe.blocks(), recipe.base()
    start = recipe.started(base)
    lost = recipe.base_errors(blocks, base)
    return recipe.finished(partner(blocks, lost, start, recipe.held(start), recipe.rounds)[0])


def _pair(recipe: _Recipe) -> tuple[Fraction, ...]:
    # sinh(3/2 t) + 1/10 and its mirror image: two grids that are unlike from the beginning.
    steps = np.sinh(1.5 * np.linspace(-1, 1, recipe.levels)) + 0.1
    one = recipe.started(steps / np.abs(steps).max())
    two = recipe.started(-one[::-1])
    both, _ = pair(recipe.blocks(), (one, two), recipe.held(one), recipe.rounds)
    return recipe.finished(both[recipe.whole("member", 1, 1, 2) - 1])


def _descent(recipe: _Recipe) -> tuple[Fraction, ...]:
    cells = Cells.of_blocks(recipe.blocks())
    exact = host_points(recipe.host, recipe.times)
    points = np.array([float(point) for point in exact])
    start = start_levels(recipe.levels, recipe.origin)
    held = recipe.held(start)
    rough, _ = lloyd(cells, start, held, recipe.rounds)
    near = [int(np.abs(points - level).argmin()) for level in rough]
    if len(set(near)) < len(near):
        raise RecipeError(f"the host {recipe.host} has too few points for these levels")
    return tuple(exact[i] * recipe.times for i in descend(cells, near, points, held))


def _clustering(recipe: _Recipe) -> tuple[Fraction, ...]:
    """SOP's DD grids: exact clustering on a host's points, for the blocks that choose the grid."""
    blocks = recipe.blocks()
    exact = host_points(recipe.host, recipe.times)
    points = np.array([float(point) for point in exact])
    chosen: Mask = np.ones(len(blocks.y), dtype=np.bool_)
    lost = None
    if "beside" in recipe.settings:
        lost = recipe.base_errors(blocks, recipe.base())
        chosen = lost > np.median(lost)
    found: tuple[int, ...] = ()
    for _ in range(max(recipe.rounds, 1)):
        again = cluster(
            Cells.of_blocks(blocks, chosen), points, recipe.levels, ends=recipe.own_ends
        )
        if again == found or lost is None:
            found = again
            break
        found = again
        chosen = errors(blocks.y, points[list(found)])[1] < lost
    return tuple(exact[i] * recipe.times for i in found)


_METHODS: dict[str, Callable[[_Recipe], tuple[Fraction, ...]]] = {
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
)
