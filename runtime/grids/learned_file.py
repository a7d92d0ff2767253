"""Learned grids as .fmt files: written with their recipes, and learned again from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ... import formats
from ...compiler.exact import show_number
from ...compiler.floats import named_float
from ...compiler.hosts import HIF_HOSTS, holds, snap
from ...compiler.learn import RecipeError, derive
from ...compiler.resolve import compile_text
from ...dsl.diagnostics import FormatError, nearest
from ...dsl.lookahead import RESERVED
from ...dsl.parser import parse
from ...dsl.printer import print_file
from ...formats.files import loader, shipped_atoms
from ..errors import RefusedInput

if TYPE_CHECKING:
    from ...compiler.format import Format, Grid
    from .learn import Learned
    from .samples import Samples

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
#: Longest text of a recipe's setting.
_LONGEST = 200


# -- grids by name ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Given:
    """A grid that a partner is learned for.

    Attributes:
        name: what the written file calls it.
        numbers: its values, ascending, each once.
        bits: of a code.
        lines: what the written file imports or declares for it.
        grid: its grid clause without the word ``grid``, where it is used in a format.
    """

    name: str
    numbers: tuple[Fraction, ...]
    bits: int
    lines: tuple[str, ...]
    grid: str

    def hosted(self, host: str, times: Fraction) -> Given:
        """The grid in HIF words with its largest at ``times``, where it is not in them yet."""
        if host not in HIF_HOSTS or all(holds(host, value) for value in self.numbers):
            return self
        factor = times / max(map(abs, self.numbers))
        name = f"{self.name}_{host}"
        kind = f"{self.name} {{ times {show_number(factor)}  snap {host} }}"
        numbers = tuple(sorted({snap(host, value * factor) for value in self.numbers}))
        return Given(name, numbers, self.bits, (*self.lines, f"atom {name} = {kind}"), name)


def given_grid(reference: str) -> Given:
    """A shipped atom, an atom that the language has (``e2m1``), or a grid of a .fmt file.

    Args:
        reference: a name, ``FILE.fmt`` (its first grid) or ``FILE.fmt:GRID``.

    Raises:
        RefusedInput: there is none; the message has the nearest name.
        FormatError: the file has faults.
    """
    path, _, wanted = reference.partition(".fmt")
    if _ or "/" in reference:
        return _of_file(Path(f"{path}.fmt"), wanted.lstrip(":"))
    found = _shipped_grid(reference)
    if found is None:
        close = nearest(reference, shipped_atoms())
        hint = f"; did you mean '{close}'?" if close else " (or give FILE.fmt:GRID)"
        raise RefusedInput(f"no shipped grid is called '{reference}'{hint}")
    grid, library = found
    lines = () if library is None else (f'import "{library}"',)
    return Given(reference, grid.numbers, _bits(grid), lines, reference)


def _of_file(path: Path, wanted: str) -> Given:
    grids = {grid.name: grid for grid in grids_of(path)}
    if not grids:
        raise RefusedInput(f"'{path}' has no grid")
    name = wanted or next(iter(grids))
    if name not in grids:
        raise RefusedInput(f"'{path}' has no grid '{name}': it has {', '.join(grids)}")
    values = grids[name].values
    if None in values:
        raise RefusedInput(f"'{path}': a code of the grid '{name}' is no number")
    bits = _bits(grids[name])
    listed = ", ".join(show_number(value) for value in values if value is not None)
    atom = f'atom {name} "From {path.name}" = codebook {bits} {{ {listed} }}'
    return Given(name, grids[name].numbers, bits, (atom,), name)


def _bits(grid: Grid) -> int:
    return (len(grid.values) - 1).bit_length()


def _shipped_grid(name: str) -> tuple[Grid, str | None] | None:
    """The grid of a shipped atom, and the library that has it (None: the language)."""
    if not _NAME.fullmatch(name):
        return None
    libraries: list[str | None] = [None, name, *shipped_atoms()]
    for library in libraries:
        if library is not None and library not in shipped_atoms():
            continue
        try:
            imported = "" if library is None else f'import "{library}" '
            return formats.compile_text(imported + _frame(name)).grids[0], library
        except FormatError:
            continue
    return None


def _frame(name: str) -> str:
    """A format that has a grid and nothing else of interest."""
    return f"format t {{ block 16  grid {name}  scale fp32 }}"


def grids_of(path: Path) -> tuple[Grid, ...]:
    """The grids of the formats of a file, then its own atoms.

    Raises:
        UnknownFormat: the file cannot be read.
        FormatError: it has faults.
    """
    text = formats.read_text(path)
    tree = parse(text, str(path))
    found: dict[str, Grid] = {}
    if tree.formats:
        found |= {grid.name: grid for grid in _compiled(text, path).grids}
    # Seen from a file beside it, which imports it.
    other = path.with_name("_.fmt")
    for atom in tree.atoms:
        name = atom.name.text
        if name not in found:
            asked = f'import "{path.name}" {_frame(name)}'
            found[name] = _compiled(asked, other).grids[0]
    return tuple(found.values())


def _compiled(text: str, path: Path) -> Format:
    return compile_text(text, str(path), loader(path))


# -- writing ---------------------------------------------------------------------------


def file_name(path: Path) -> str:
    """What the grids of a file are called: its stem as a name of the language."""
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    if not _NAME.fullmatch(name) or name.upper() in RESERVED:
        name = f"grid_{name}"
    return name


def learned_text(
    name: str,
    title: str,
    grids: Mapping[str, Learned],
    *,
    given: Given | None = None,
    notes: Sequence[str] = (),
    scale: str | None = None,
) -> str:
    """The canonical text of a file with learned grids: atoms, or a whole format.

    Args:
        name: of the format.
        title: of the format, or of every atom.
        grids: what each is called -> the learned grid.
        given: the grid that a partner was learned for.
        notes: comment lines above.
        scale: None: a file of atoms; a scale word, such as ``e4m3``: a format whose blocks choose
            among the given and the learned grids.

    Raises:
        RefusedInput: a setting of a recipe is too long, or a host has the same word for two values
            of a grid.
    """
    lines = list(given.lines) if given else []
    comments = [f"# {note}" for note in notes]
    codebooks = {each: _codebook(each, learned) for each, learned in grids.items()}
    if scale is None:
        atoms = [f'atom {each} "{title}" = {text}' for each, text in codebooks.items()]
        lines += [*comments, *atoms]
    else:
        first = next(iter(grids.values()))
        body = _clauses(first, codebooks, given, scale)
        lines += [*comments, f'format {name} "{title}" {{', *body, "}"]
    return print_file(parse("\n".join(lines) + "\n"))


def _codebook(name: str, learned: Learned) -> str:
    if len(set(learned.values)) < len(learned.values):
        raise RefusedInput(
            f"two levels of '{name}' are one number of {learned.settings['host']}: take another "
            "host or other --times"
        )
    bits = (len(learned.values) - 1).bit_length()
    values = ", ".join(_exactly(value) for value in learned.values)
    recipe = "  ".join(f"{key} {_setting(key, text)}" for key, text in learned.settings.items())
    return f"codebook {bits} {{ {values} }} learned {{ {recipe} }}"


def _exactly(value: Fraction) -> str:
    text = show_number(value)
    return text if Fraction(text) == value else f"{value.numerator}/{value.denominator}"


def _setting(key: str, text: str) -> str:
    """A setting's value: a name or a plain number as it is, all else as a text."""
    if len(text) > _LONGEST:
        raise RefusedInput(f"'{key}' is longer than {_LONGEST} characters: {text[:40]}...")
    plain = _NAME.fullmatch(text) and text.upper() not in RESERVED
    if key != "data" and (plain or re.fullmatch(r"\d{1,15}", text)):
        return text
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


def _clauses(
    first: Learned, codebooks: Mapping[str, str], given: Given | None, scale: str
) -> list[str]:
    settings = first.settings
    names = [*((given.name,) if given else ()), *codebooks]
    lines = [f"block {settings['block']}"]
    if settings["host"] in HIF_HOSTS:
        lines.append(f"host {settings['host']}")
    lines += [f"grid {given.grid}"] if given else []
    lines += [f"grid {name} = {text}" for name, text in codebooks.items()]
    rule = settings.get("rule", "absmax")
    number = named_float(scale)
    if number is None and scale != "fp32":
        raise RefusedInput(f"no scale word is called '{scale}'")
    signed = number is None or number.signed
    target = "  target 1" if settings.get("target") == "1" else ""
    level = "" if scale == "fp32" else "  tensor fp32" if signed else "  shift auto"
    lines.append(f"scale {scale} {{ rule {rule}{target}{level} }}")
    if len(names) == 2:
        arms = ", ".join(f"{at}: {name}" for at, name in enumerate(names))
        lines.append(f"select 1 bit at {_place(scale, rule)} {{ {arms} }}")
    return lines


def _place(scale: str, rule: str) -> str:
    """Where a scale word has a bit free to say which grid a block takes."""
    number = named_float(scale)
    if rule == "absmax" and (number is None or number.signed):
        return "scale.sign"
    container = 32 if number is None else min(b for b in (8, 12, 16, 32) if b >= number.bits)
    return "scale.meta" if number is not None and container > number.bits else "field"


# -- learning again --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rerun:
    """A grid of a file, learned again.

    Attributes:
        name: of the grid.
        frozen: the values in the file, ascending.
        derived: what its recipe makes of the data, as the file would hold it.
    """

    name: str
    frozen: tuple[Fraction, ...]
    derived: tuple[Fraction, ...]

    @property
    def same(self) -> bool:
        """Whether the file has what its recipe makes."""
        return self.frozen == self.derived


def rerun(path: Path, sampled: Callable[[Mapping[str, str]], Samples]) -> tuple[Rerun, ...]:
    """Learn every grid of a file again that was learned from data.

    Args:
        path: a .fmt file.
        sampled: gives the samples that a recipe names, which must be those of its digest.

    Raises:
        RefusedInput: no grid was learned from data, the data are others, or a recipe cannot be run.
        FormatError: the file has faults.
    """
    grids = grids_of(path)
    own = {grid.name: grid.numbers for grid in grids}
    found = []
    for grid in grids:
        recipe = dict(grid.recipe)
        if recipe.get("source") != "data":
            continue
        beside = recipe.get("beside")
        known = {} if beside is None else {beside: own.get(beside) or _known(beside)}
        try:
            derived = derive(recipe, known, sampled(recipe))
        except RecipeError as error:
            raise RefusedInput(f"'{path}', grid {grid.name}: {error}") from error
        found.append(Rerun(grid.name, grid.numbers, tuple(snap("fp32", v) for v in derived)))
    if not found:
        raise RefusedInput(f"no grid of '{path}' was learned from data")
    return tuple(found)


def _known(name: str) -> tuple[Fraction, ...]:
    found = _shipped_grid(name)
    if found is None:
        raise RefusedInput(f"the grid '{name}' that a recipe is 'beside' is not shipped")
    return found[0].numbers
