"""Learning grids from real weights: the families of Grid Games and SOP, as recipes that run again.

The families are PO2(G0), a learned partner of a given grid; MPO2, a learned pair (both Grid Games,
arXiv:2605.12327); Split87, coordinate descent with an exact zero, eight levels below it and seven
above (Grid Games); and DD4, exact clustering on a host's points (SOP, arXiv:2605.14929).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.exact import show_number
from ...compiler.fitting import Blocks, errors_under_own_ends, normalised
from ...compiler.floats import named_float
from ...compiler.hosts import HIF_HOSTS
from ...compiler.learn import RecipeError, fit, host_points
from ...dsl.diagnostics import nearest
from ..errors import RefusedInput
from .samples import Matrix, Samples, sample_matrices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..sources import ModelSource

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

#: Family -> what its recipes say.
FAMILIES: Mapping[str, Mapping[str, str]] = {
    "po2": {"method": "partner"},
    "mpo2": {"method": "pair"},
    "split87": {"method": "descent", "origin": "held"},
    "dd4": {"method": "clustering"},
}
#: Method -> rounds where none are asked for.
ROUNDS = {"lloyd": 200, "partner": 100, "pair": 120, "descent": 1000, "clustering": 20}
#: Most blocks that are sampled where no limit is asked for.
LIMIT = 1 << 16
#: How many Gaussian samples a grid for Gaussian blocks is learned from.
GAUSSIAN_ELEMENTS = 1 << 19


@dataclass(frozen=True, slots=True)
class Learned:
    """A learned grid.

    Attributes:
        values: ascending; numbers of the host, or rounded decimals.
        settings: what stands in ``learned { ... }``: `compiler.learn.derive` makes the values
            again from them and the same samples.
        trace: the objective at every choice, which never rises: the (weighted) mean squared error
            of the samples under exact scales, where every block takes the better of its grids.
            With a host, of grids of the host; but of ``snap after`` and without a host, before
            values are snapped or rounded.
    """

    values: tuple[Fraction, ...]
    settings: dict[str, str]
    trace: tuple[float, ...]


def learn_grid(method: str, samples: Samples, **options: Any) -> Learned:
    """Learn one grid; the options are those of `learn_grids`.

    Raises:
        ValueError: the method learns two.
        RefusedInput: as `learn_grids` does.
    """
    found = learn_grids(method, samples, **options)
    if len(found) != 1:
        raise ValueError(f"'{method}' learns {len(found)} grids: see learn_grids")
    return found[0]


def learn_grids(
    method: str,
    samples: Samples,
    *,
    beside: Sequence[Fraction] | None = None,
    beside_name: str = "base",
    host: str = "e4m3",
    times: Fraction | None = None,
    levels: int = 16,
    weights: str = "none",
    rounds: int | None = None,
    rule: str = "absmax",
    target: str = "ends",
    origin: str | None = None,
    snap: str | None = None,
    source: Mapping[str, str] | None = None,
) -> tuple[Learned, ...]:
    """Learn the grid of a family, or both of a pair.

    Args:
        method: ``po2``, ``mpo2``, ``split87``, ``dd4``; or a method of ``compiler.learn``.
        samples: blocks of weights.
        beside: the values of the grid that a partner is learned for (``po2``; ``dd4`` may).
        beside_name: what the recipe calls that grid.
        host: ``e4m3``, ``hif7``, ``fp32`` ...: what the values are numbers of.
        times: what a largest of 1 becomes in the host; None: see `usual_times`.
        levels: of a grid.
        weights: what an element's square weighs: ``none``, ``c`` or ``c2`` (of channel norms).
        rounds: of the iteration; None: `ROUNDS`.
        rule: what a block is divided by: ``absmax`` or ``argmax``.
        target: ``ends``: the ends of a grid meet the block's; ``1``: the largest meets 1.
        origin: ``held``: 0 is a level; ``free``; None: as the family says.
        snap: ``inside``: ``po2`` and ``mpo2`` iterate on the host's points as well; ``after``:
            they are snapped at the end; None: inside, where the host has a list of points.
        source: settings that say where the samples come from, such as ``tensor``.

    Raises:
        RefusedInput: the options do not go together; the message says which.
    """
    recipe = dict(FAMILIES.get(method, {"method": method}))
    recipe |= {"source": "data", "data": samples.digest, **(source or {})}
    if beside is not None:
        recipe["beside"] = beside_name
    recipe["block"] = str(samples.x.shape[1])
    told = {"levels": str(levels), "rule": rule, "target": target, "weights": weights}
    usual = {"levels": "16", "rule": "absmax", "target": "ends", "weights": "none"}
    recipe |= {key: value for key, value in told.items() if value != usual[key]}
    if origin is not None:
        recipe["origin"] = origin
    recipe["rounds"] = str(ROUNDS.get(recipe["method"], 100) if rounds is None else rounds)
    recipe["host"] = host
    try:
        times = usual_times(host, levels) if times is None else times
        if times != 1:
            recipe["times"] = show_number(times)
        if recipe["method"] in ("partner", "pair") and (snap or _usual_snap(host)) == "inside":
            recipe["snap"] = "inside"
        found = fit(recipe, {} if beside is None else {beside_name: beside}, samples)
    except RecipeError as error:
        raise RefusedInput(f"{method} cannot be learned: {error}") from error
    single = len(found.grids) == 1
    return tuple(
        Learned(values, recipe if single else recipe | {"member": str(at)}, found.trace)
        for at, values in enumerate(found.grids, 1)
    )


def gaussian_twin(
    learned: Learned, known: Mapping[str, Sequence[Fraction]]
) -> tuple[tuple[Fraction, ...], ...]:
    """What the recipe of a learned grid makes of Gaussian blocks, as for the shipped grids.

    Args:
        learned: a learned grid, or either of a pair.
        known: the values of the grid that it is beside.
    """
    own = {"source", "data", "weights", "member", "tensor", "layer", "limit", "norms"}
    recipe = {key: text for key, text in learned.settings.items() if key not in own}
    blocks = max(64, GAUSSIAN_ELEMENTS // int(recipe["block"]))
    drawn = {"source": "gaussian", "blocks": str(blocks), "seed": "1"}
    return fit(recipe | drawn, known).grids


def usual_times(host: str, levels: int) -> Fraction:
    """What a largest of 1 becomes in a host.

    HIF7 and HIF8: the largest number whose negation they have too (120, 240). A float: 1, where
    it has points enough from -1 to 1; else its largest.

    Raises:
        RecipeError: there is no such host.
    """
    number = named_float(host)
    if host == "fp32":
        return Fraction(1)
    if host in HIF_HOSTS:
        words = HIF_HOSTS[host].words()
        return Fraction(max(word for word in words if -word in words))
    if number is None:
        raise RecipeError(f"no host is called '{host}'")
    if number.bits > 12 or len(host_points(host, Fraction(1))) >= 2 * levels:
        return Fraction(1)
    return max(value for value in number.values() if value is not None)


def _usual_snap(host: str) -> str:
    number = named_float(host)
    listed = host in HIF_HOSTS or (number is not None and number.bits <= 12)
    return "inside" if listed else "after"


# -- what a choice of grids errs by ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """A grid and how blocks are scaled to it.

    Attributes:
        values: of the grid.
        target: ``ends``: its ends meet the block's; ``1``: the block's largest meets 1.
    """

    values: Sequence[Fraction]
    target: str = "ends"


def objective(
    samples: Samples, grids: Iterable[Placed], *, weights: str = "none", rule: str = "absmax"
) -> float:
    """The (weighted) mean squared error where every block takes the best of the grids.

    Scales are exact: they are not rounded to a word.

    Args:
        samples: blocks of weights.
        grids: one or more.
        weights: what an element's square weighs: ``none``, ``c`` or ``c2``.
        rule: ``absmax`` or ``argmax``.
    """
    power = {"none": 0, "c": 1, "c2": 2}[weights]
    inner = None if not power else samples.c.astype(np.float64) ** power
    blocks = normalised(samples.x.astype(np.float64), rule, inner)
    return blocks.mean(np.minimum.reduce([_errors(blocks, grid, rule) for grid in grids]))


def _errors(blocks: Blocks, grid: Placed, rule: str) -> F64:
    levels = np.array([float(value) for value in sorted(set(grid.values))])
    if grid.target == "ends":
        return errors_under_own_ends(blocks, levels, rule)
    return blocks.errors(levels)


# -- samples of a model ----------------------------------------------------------------


def part_of(
    source: ModelSource, tensor: str | None = None, layer: str | None = None
) -> tuple[str, ...]:
    """The matrices of one tensor, of a layer (those below a prefix), or of the whole model.

    Raises:
        RefusedInput: there is no such tensor or layer; the message has the nearest name.
    """
    linear = source.linear_names
    if tensor is not None:
        if tensor not in source.names:
            raise RefusedInput(
                f"'{source.path}' has no tensor '{tensor}'{_hint(tensor, source.names)}"
            )
        if len(source.shape(tensor)) != 2 or "float" not in source.dtype(tensor):
            raise RefusedInput(f"the tensor '{tensor}' is no matrix of floats")
        return (tensor,)
    if layer is None:
        if not linear:
            raise RefusedInput(f"'{source.path}' has no weights of linear layers")
        return linear
    inside = tuple(name for name in linear if name.startswith(layer.rstrip(".") + "."))
    if not inside:
        # The layers are the prefixes that end in a number.
        parts = (name.split(".") for name in linear)
        layers = {
            ".".join(words[: at + 1]): None
            for words in parts
            for at, word in enumerate(words)
            if word.isdecimal()
        }
        raise RefusedInput(f"'{source.path}' has no layer '{layer}'{_hint(layer, tuple(layers))}")
    return inside


def _hint(name: str, candidates: Sequence[str]) -> str:
    close = nearest(name, candidates)
    if close:
        return f"; did you mean '{close}'?"
    return f"; the first is '{candidates[0]}'" if candidates else ""


def sample_model(
    source: ModelSource,
    names: Sequence[str],
    *,
    block: int = 16,
    limit: int = LIMIT,
    norms: Mapping[str, F32] | None = None,
    step: Callable[[str], None] | None = None,
) -> Samples:
    """Blocks of these matrices of a model, one matrix in memory at a time.

    Args:
        source: the model.
        names: of matrices.
        block: elements of a block.
        limit: most blocks that are taken, evenly over all.
        norms: channel norms by the name of the weights, float32 [n]; None: all 1.
        step: is told the name of every matrix before it is read.

    Raises:
        RefusedInput: a matrix has no norms, or numbers that are not finite.
    """

    def matrix(name: str) -> Matrix:
        rows, n = source.shape(name)

        def load() -> F32:
            import torch

            values: F32 = source.get(name).to(torch.float32).numpy()
            return values

        def channel_norms() -> F32 | None:
            return None if norms is None else _norms_of(norms, name)

        return Matrix(name, (rows, n), load, channel_norms)

    return sample_matrices([matrix(name) for name in names], block, limit, step)


def _norms_of(norms: Mapping[str, F32], name: str) -> F32:
    if name not in norms:
        raise RefusedInput(
            f"the calibration has no channel norms of '{name}'{_hint(name, tuple(norms))}"
        )
    return np.asarray(norms[name], dtype=np.float32)
