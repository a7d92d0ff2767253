"""``fmtc learn``: grids learned from a model's weights, as .fmt files that can be learned again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..runtime.grids.learn import Learned, Placed
    from ..runtime.grids.learned_file import Given
    from ..runtime.grids.samples import Samples
    from ..runtime.sources import ModelSource

#: Family -> what it is, its host where none is named, and what its grids are called.
_FAMILIES = {
    "po2": ("a partner of {beside}", "fp32", ("partner",)),
    "mpo2": ("a pair", "e4m3", ("mpo2_a", "mpo2_b")),
    "split87": ("eight levels below zero, seven above", "e4m3", ("split87",)),
    "dd4": ("clustered exactly", "e4m3", ("dd4",)),
}
#: (family, grid beside) -> the shipped format whose grids were learned for random blocks.
_SHIPPED = {
    ("po2", "nf4"): "po2_nf4",
    ("po2", "sh4"): "po2_sh4",
    ("po2", "split87"): "po2_split87",
    ("dd4", "nf4"): "nf4_dd4_ue4m3",
    ("dd4", "sh4"): "sh4_dd4",
    ("dd4", "split87"): "split87_dd4",
    ("dd4", None): "bof4_16",
    ("mpo2", None): "mpo2",
    ("split87", None): "split87",
}


@dataclass(frozen=True)
class Request:
    """The options of one call.

    Attributes:
        family: ``po2``, ``mpo2``, ``split87`` or ``dd4``.
        weigh: what an element's square weighs: ``none``, ``c`` or ``c2``.
    """

    family: str
    beside: str | None
    host: str
    times: Fraction | None
    tensor: str | None
    layer: str | None
    norms: Mapping[str, Any] | None
    weigh: str
    block: int
    blocks: int
    rounds: int | None
    target: str | None
    snap: str | None


@dataclass(frozen=True)
class Outcome:
    """What was learned.

    Attributes:
        grids: what each is called in a format -> the grid.
        rows: what the choice among grids errs by, of given, shipped and learned ones.
    """

    samples: Samples
    given: Given | None
    grids: dict[str, Learned]
    rows: list[dict[str, Any]]


@click.command()
@click.argument("words", nargs=-1, metavar="po2|mpo2|split87|dd4 MODEL")
@click.option("--beside", metavar="GRID", help="The given grid: a shipped one, or FILE.fmt:GRID.")
@click.option("--host", metavar="NAME", help="e4m3, hif7, fp32 ...  [default: po2 fp32, else e4m3]")
@click.option(
    "--times", metavar="NUMBER", help="What 1 becomes in the host.  [default: hif7 120 ...]"
)
@click.option("--tensor", metavar="NAME", help="Learn from this matrix only.")
@click.option("--layer", metavar="PREFIX", help="Learn from the matrices below this name only.")
@click.option(
    "--weights",
    "calibration",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Weigh errors by the channel norms that `fmtc calibrate` wrote.",
)
@click.option("--power", type=click.Choice(["c", "c2"]), help="... to this power.  [default: c]")
@click.option("--block", type=click.IntRange(2, 4096), default=16, show_default=True)
@click.option(
    "--blocks", type=click.IntRange(2, 1 << 22), help="Most blocks to learn from.  [default: 65536]"
)
@click.option("--rounds", type=click.IntRange(0, 2000), help="Of the iteration.")
@click.option("--target", type=click.Choice(["ends", "1"]), help="What a block's largest meets.")
@click.option("--snap", type=click.Choice(["inside", "after"]), help="po2, mpo2: when to snap.")
@click.option(
    "--format", "word", metavar="SCALE", help="Write a whole format with this scale word."
)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.fmt")
@click.option(
    "--check",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.fmt",
    help="Learn the file's grids again from MODEL and compare; exit code 1 where they differ.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def learn(
    ctx: click.Context,
    /,
    words: tuple[str, ...],
    calibration: Path | None,
    power: str | None,
    word: str | None,
    out: Path | None,
    check: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Learn grids from a model's weights and write them as a .fmt file.

    \b
    po2      a partner for the grid --beside, chosen per block (Grid Games)
    mpo2     a pair (Grid Games)
    split87  an exact zero, eight levels below it, seven above (Grid Games)
    dd4      clustered exactly on the host's points, with --beside or alone (SOP)

    The file says how its values were learned; `fmtc learn --check FILE.fmt MODEL` does it again.
    """
    from ..runtime.atomic import write_atomically
    from ..runtime.sources import open_source
    from . import console

    if power is not None and calibration is None and check is None:
        raise click.UsageError("--power is of the channel norms: give --weights")
    norms = None if calibration is None else _norms(calibration)
    if check is not None:
        if len(words) != 1:
            raise click.UsageError("to check a file give it and the model: --check FILE.fmt MODEL")
        ctx.exit(0 if _check(check, open_source(words[0]), norms, as_json=as_json) else 1)
    request = _request(words, out, norms, power, options)
    assert out is not None
    source = open_source(words[1])
    with console.progress("learning", None) as step:
        outcome = _learned(source, request, step)
    text = _text(outcome, request, out, source, word)
    write_atomically(out, text.encode())
    if as_json:
        console.json_out({"out": str(out), "data": outcome.samples.digest, "grids": outcome.rows})
    else:
        shown = [{**row, "MSE": f"{row['MSE']:.4e}"} for row in outcome.rows]
        console.table(shown)
        click.echo(f"{out}: learned from {len(outcome.samples.x):,} blocks")


def _request(
    words: Sequence[str],
    out: Path | None,
    norms: Mapping[str, Any] | None,
    power: str | None,
    options: dict[str, Any],
) -> Request:
    from ..runtime.grids.learn import LIMIT

    if len(words) != 2 or words[0] not in _FAMILIES:
        raise click.UsageError(
            f"say what to learn and from which model: {'|'.join(_FAMILIES)} MODEL"
        )
    family = words[0]
    if out is None or out.suffix != ".fmt":
        raise click.UsageError("say where to write the grids: -o FILE.fmt")
    if options["tensor"] is not None and options["layer"] is not None:
        raise click.UsageError("take one of --tensor and --layer")
    if family in ("mpo2", "split87") and options["beside"] is not None:
        raise click.UsageError(f"{family} is learned beside no grid; po2 and dd4 are")
    if family in ("split87", "dd4") and options["snap"] is not None:
        raise click.UsageError(f"{family} is made of the host's points: --snap is of po2 and mpo2")
    given = dict(options)
    if family == "po2" and given["beside"] is None:
        given["beside"] = "nf4"
    given["times"] = None if given["times"] is None else _number(given["times"])
    given["host"] = given["host"] or _FAMILIES[family][1]
    given["blocks"] = given["blocks"] or LIMIT
    weigh = "none" if norms is None else power or "c"
    return Request(family=family, norms=norms, weigh=weigh, **given)


def _number(text: str) -> Fraction:
    """An exact number above 0."""
    try:
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        number = Fraction(0)
    if number <= 0:
        raise click.BadParameter(f"'{text}' is no number above 0", param_hint="--times")
    return number


def _norms(calibration: Path) -> Mapping[str, Any]:
    from ..runtime.calibration import Calibration

    norms: Mapping[str, Any] = Calibration.load(calibration).norms
    return norms


# -- learning --------------------------------------------------------------------------


def _learned(source: ModelSource, request: Request, step: Any) -> Outcome:
    from ..compiler.learn import RecipeError
    from ..runtime.errors import RefusedInput
    from ..runtime.grids.learn import (
        Placed,
        gaussian_twin,
        learn_grids,
        objective,
        part_of,
        sample_model,
        usual_times,
    )
    from ..runtime.grids.learned_file import given_grid

    given = None if request.beside is None else given_grid(request.beside)
    levels = 16 if given is None else 1 << given.bits
    try:
        times = request.times or usual_times(request.host, levels)
    except RecipeError as error:
        raise RefusedInput(str(error)) from error
    given = None if given is None else given.hosted(request.host, times)
    samples = sample_model(
        source,
        part_of(source, request.tensor, request.layer),
        block=request.block,
        limit=request.blocks,
        norms=request.norms,
        step=step,
    )
    target = request.target or _usual_target(request, given, times)
    step(f"{request.family} from {len(samples.x):,} blocks")
    found = learn_grids(
        request.family,
        samples,
        beside=None if given is None else given.numbers,
        beside_name="" if given is None else given.name,
        host=request.host,
        times=times,
        levels=levels,
        weights=request.weigh,
        rounds=request.rounds,
        target=target,
        snap=request.snap,
        source=_origin(request),
    )
    grids = dict(zip(_FAMILIES[request.family][2], found, strict=True))
    alone = [] if given is None else [Placed(given.numbers, target)]
    cases: list[tuple[str, list[Placed]]] = (
        [] if given is None else [(f"{given.name} alone", alone)]
    )
    cases += _shipped_case(request)
    name = "|".join([*([given.name] if given else []), *grids])
    step(f"{request.family} from Gaussian blocks")
    usual = gaussian_twin(found[0], {} if given is None else {given.name: given.numbers})
    cases.append(
        (f"{name}, Gaussian, {request.host}", alone + [Placed(each, target) for each in usual])
    )
    learned = [Placed(each.values, target) for each in found]
    cases.append((f"{name}, learned, {request.host}", alone + learned))
    errors = {name: objective(samples, each, weights=request.weigh) for name, each in cases}
    best = errors[cases[-1][0]]
    rows = [
        {"grids": name, "MSE": error, "beside the learned": f"{error / best - 1:+.2%}"}
        for name, error in errors.items()
    ]
    return Outcome(samples, given, grids, rows)


def _usual_target(request: Request, given: Given | None, times: Fraction) -> str:
    """A partner's ends are free where the given grid's largest is 1, as theirs must be."""
    whole = given is not None and max(map(abs, given.numbers)) == times == 1
    return "1" if request.family == "po2" and whole else "ends"


def _origin(request: Request) -> dict[str, str]:
    """Where the samples come from, for the recipe."""
    named = {"tensor": request.tensor, "layer": request.layer, "limit": str(request.blocks)}
    return {key: value for key, value in named.items() if value is not None}


def _shipped_case(request: Request) -> list[tuple[str, list[Placed]]]:
    """The grids for random blocks that are shipped, where there are such."""
    from .. import formats
    from ..runtime.grids.learn import Placed

    name = _SHIPPED.get((request.family, request.beside))
    if name is None:
        return []
    value = formats.load(name)
    target = "1" if value.scale.targets else "ends"
    placed = [Placed(grid.numbers, target) for grid in value.grids]
    return [(f"{name}, as shipped", placed)]


# -- files -----------------------------------------------------------------------------


def _text(
    outcome: Outcome, request: Request, out: Path, source: ModelSource, word: str | None
) -> str:
    from ..runtime.grids.learned_file import file_name, learned_text

    name = file_name(out)
    grids = outcome.grids
    if word is None:
        # An atom is found by the name of its file.
        suffixes = ("",) if len(grids) == 1 else ("_a", "_b")
        grids = {f"{name}{end}": each for end, each in zip(suffixes, grids.values(), strict=True)}
    what = _FAMILIES[request.family][0].format(beside=request.beside)
    model = source.path.resolve().name
    part = request.tensor or request.layer or "all linear layers"
    notes = [
        f"{request.family.upper()}, {what}, from {len(outcome.samples.x)} blocks of {model}:",
        f"{part}. Mean squared errors there (weights {request.weigh}, exact scales):",
        *(f"  {row['MSE']:.4e}  {row['grids']}" for row in outcome.rows),
    ]
    title = f"{request.family.upper()} learned from {model}"
    return learned_text(name, title, grids, given=outcome.given, notes=notes, scale=word)


def _check(
    path: Path, source: ModelSource, norms: Mapping[str, Any] | None, *, as_json: bool
) -> bool:
    from ..compiler.exact import show_number
    from ..runtime.errors import RefusedInput
    from ..runtime.grids.learn import LIMIT, part_of, sample_model
    from ..runtime.grids.learned_file import rerun
    from . import console

    with console.progress("learning again", None) as step:
        drawn: dict[tuple[str, ...], Samples] = {}

        def sampled(recipe: Mapping[str, str]) -> Samples:
            weighed = recipe.get("weights", "none") != "none"
            if weighed and norms is None:
                raise RefusedInput(f"'{path}' was learned with channel norms: give --weights")
            keys = ("tensor", "layer", "block", "limit")
            asked = (*(recipe.get(key, "") for key in keys), str(weighed))
            if asked not in drawn:
                drawn[asked] = sample_model(
                    source,
                    part_of(source, recipe.get("tensor"), recipe.get("layer")),
                    block=int(recipe.get("block", "16")),
                    limit=int(recipe.get("limit", LIMIT)),
                    norms=norms if weighed else None,
                    step=step,
                )
            return drawn[asked]

        found = rerun(path, sampled)
    rows = [
        {"grid": each.name, "levels": len(each.frozen), "same": each.same, "first difference": ""}
        for each in found
    ]
    for row, each in zip(rows, found, strict=True):
        pairs = zip(each.frozen, each.derived, strict=False)
        wrong = [f"{show_number(a)} is {show_number(b)}" for a, b in pairs if a != b]
        row["first difference"] = wrong[0] if wrong else ""
    if as_json:
        console.json_out(rows)
    else:
        console.table(rows)
    return all(each.same for each in found)
