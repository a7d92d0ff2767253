"""What a unit may be stored in: a base format and its promotions, with corrections or without.

SOP, arXiv:2605.14929, allocates among ({base} + promotions) x {none, OPQ, Wr, both}. Every
candidate is a .fmt text that stands alone, made through the syntax tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import product
from pathlib import Path

from ...compiler.format import Format
from ...dsl.ast import File, FormatDecl, Setting, SideDecl, Text, Word
from ...dsl.diagnostics import FormatError
from ...dsl.parser import parse
from ...dsl.printer import print_expr, print_file
from ...dsl.sop import is_sop, parse_sop
from ...formats import compile_text, load
from ..errors import RefusedInput

#: SOP's corrections: outliers kept as they are, and the residuals of the worst elements.
CORRECTIONS = ("OPQ", "Wr")

#: What a base is promoted to unless said: see ``default_promotions``.
PROMOTIONS = (
    "NF5|SH5^64sUE4M3",
    "NF5|SH5^32sUE4M3",
    "NF5|SH5sUE4M3",
    "INT6^32sUE4M4",
    "INT7^64sUE4M4",
)

_KNAP = re.compile(r"knap\((\d+(?:\.\d+)?)\)")
_BEHIND_BASE = re.compile(r"\+|\.OPQ|\.Wr")
#: Clauses that are true of one format, and not of one made of it.
_OF_FORMAT_ALONE = ("promote", "use", "check")


@dataclass(frozen=True, slots=True)
class Stated:
    """What a SOP string, or a .fmt text with ``promote`` and sides, says of a whole model.

    Attributes:
        base: the .fmt text of what every matrix is stored in at least, without sides.
        base_bpw: the bits per weight of that.
        promotions: what matrices may be promoted to, from ``+PFMT``.
        corrections: the side clauses, as ``candidate_texts`` takes them.
        added: the bits per weight that ``+knap0.10`` adds to the base's; None without one.
    """

    base: str
    base_bpw: Fraction
    promotions: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()
    added: Fraction | None = None

    @property
    def bpw(self) -> Fraction | None:
        """The budget: base and addition; None where none is stated."""
        return None if self.added is None else self.base_bpw + self.added


def stated(name_or_path: str | Path) -> Stated:
    """Read what a SOP string, a shipped name or a .fmt file asks for.

    Raises:
        FormatError: the text has faults.
        UnknownFormat: there is no such format or file.
    """
    fmt = load(name_or_path)
    file = parse(fmt.source)
    sides = [c for c in file.formats[0].clauses if isinstance(c, SideDecl)]
    base = _printed(file, _base_name(name_or_path, fmt), None, sides=())
    knap = _KNAP.fullmatch(fmt.promotion)
    return Stated(
        base,
        compile_text(base).exact_bpw,
        (fmt.promotion,) if fmt.promotion and not knap else (),
        tuple(_spelled(side) for side in sides),
        Fraction(knap[1]) if knap else None,
    )


def _base_name(text: str | Path, fmt: Format) -> str:
    """What a SOP string calls the format before promotion and corrections; else its own name."""
    if isinstance(text, str) and is_sop(text):
        return parse_sop(_BEHIND_BASE.split(text)[0]).formats[0].name.text
    return fmt.name


def default_promotions(base_text: str) -> tuple[str, ...]:
    """The promotions of ``PROMOTIONS`` that store more bits than a base.

    They lie on the lower convex hull of ACos over size, above a pair of 4-bit grids, on nearly
    every matrix of a rotated SmolLM2-135M.

    Raises:
        FormatError: the text has faults.
    """
    bits = compile_text(base_text).exact_bpw
    return tuple(name for name in PROMOTIONS if _known(name).exact_bpw > bits)


def candidate_texts(
    base_text: str, promotions: Sequence[str] = (), corrections: Sequence[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Every candidate as a label and a canonical .fmt text.

    A format keeps the sides that it has: a correction of the same kind is not added to it.
    Candidates of the same meaning are listed once, under the first label.

    Args:
        base_text: what is called ``base``.
        promotions: SOP strings, shipped names or paths of .fmt files.
        corrections: ``OPQ``, ``Wr``, with a number or without (``Wr0.002``), or whole clauses
            such as ``side opq { threshold 3 }``. Each is used alone, and with each of the
            other kind.

    Raises:
        FormatError: a text has faults, or the base cannot have a correction; a promotion that
            cannot is left as it is.
        UnknownFormat: a promotion is no format.
        RefusedInput: two promotions have one name, or a correction is none.
    """
    sides = [_side(text) for text in corrections]
    opq, wr = ([s for s in sides if s[1].kind.text == kind] for kind in ("opq", "wr"))
    variants = [
        tuple(side for side in pair if side is not None)
        for pair in product((None, *opq), (None, *wr))
    ]
    variants.sort(key=lambda variant: (len(variant), [s.kind.text for _, s in variant]))
    bases = [("base", compile_text(base_text, "base")), *_promotions(promotions)]
    found: dict[str, tuple[str, str]] = {}
    for label, fmt in bases:
        for variant in variants:
            try:
                text = _varied(fmt, variant)
            except FormatError:
                if label == "base":
                    raise
                continue  # a promotion that such a correction does not go with
            if text is not None:
                full = ".".join((label, *(name for name, _ in variant)))
                found.setdefault(_compiled(text).content_hash, (full, text))
    return tuple(found.values())


def _promotions(promotions: Iterable[str]) -> list[tuple[str, Format]]:
    labels: dict[str, Format] = {}
    for name in promotions:
        label = Path(name).stem if name.endswith(".fmt") else name
        if label in labels or label == "base":
            raise RefusedInput(f"two candidates are called '{label}': give each promotion once")
        labels[label] = _loaded(name)
    return list(labels.items())


def _loaded(name: str) -> Format:
    """A promotion: a file is read again every time, a name and a string mean what they mean."""
    return load(name) if name.endswith(".fmt") else _known(name)


@lru_cache(maxsize=64)
def _known(name: str) -> Format:
    return load(name)


def _side(text: str) -> tuple[str, SideDecl]:
    """A correction's label and clause."""
    try:
        if text.startswith("side "):
            file = parse(f"format one {{ block 16 grid e2m1 scale e4m3 {text} }}")
        else:
            file = parse_sop(f"E2M1.{text}")
    except FormatError as error:
        raise RefusedInput(
            f"'{text}' is no correction: say OPQ or Wr, with a number or without, or a clause "
            "such as 'side opq { threshold 3 }'"
        ) from error
    sides = [clause for clause in file.formats[0].clauses if isinstance(clause, SideDecl)]
    if len(sides) != 1 or sides[0].kind.text not in ("opq", "wr"):
        raise RefusedInput(f"'{text}' is {len(sides)} corrections: give them one by one")
    plain = text if not text.startswith("side ") else _spelled(sides[0])
    if plain.startswith("side "):
        plain = "OPQ" if sides[0].kind.text == "opq" else "Wr"
    return plain, sides[0]


def _spelled(side: SideDecl) -> str:
    """A side as SOP has it, or its clause where it says more than that has words for."""
    name = "OPQ" if side.kind.text == "opq" else "Wr"
    settings = side.settings or ()
    said = " ".join(_print_setting(setting) for setting in settings)
    if not said:
        return name
    _, _, number = said.partition(" ")
    try:
        if len(settings) == 1 and _side(name + number)[1] == side:
            return name + number
    except RefusedInput:
        pass
    return f"side {side.kind.text} {{ {said} }}"


def _print_setting(setting: Setting) -> str:
    """``key value``, as it stands in a .fmt text."""
    value = setting.value
    if isinstance(value, Word):
        return f"{setting.key.text} {value.text}"
    if isinstance(value, Text):
        raise ValueError(f"no side has a text such as '{setting.key.text}'")
    return f"{setting.key.text} {print_expr(value)}"


def _varied(fmt: Format, variant: tuple[tuple[str, SideDecl], ...]) -> str | None:
    """The text of a format with sides added; None where it has one of these kinds itself."""
    own = {side.kind for side in fmt.sides}
    if own & {side.kind.text for _, side in variant}:
        return None
    file = parse(fmt.source)
    names = "".join(f".{name}" for name, _ in variant)
    said = file.formats[0].title
    title = said if not variant else Text(f"{fmt.name}{names}")
    return _printed(file, fmt.name, title, sides=None, added=tuple(s for _, s in variant))


def _printed(
    file: File,
    name: str,
    title: Text | None,
    *,
    sides: tuple[SideDecl, ...] | None,
    added: tuple[SideDecl, ...] = (),
) -> str:
    """A canonical text without what is said of that one format, or of a whole model."""
    declaration: FormatDecl = file.formats[0]
    kept = tuple(
        clause
        for clause in declaration.clauses
        if not (isinstance(clause, Setting) and clause.key.text in _OF_FORMAT_ALONE)
        and not (isinstance(clause, SideDecl) and sides is not None)
    )
    changed = replace(declaration, name=Word(name), title=title, clauses=(*kept, *added))
    text = print_file(replace(file, formats=(changed,)))
    return _compiled(text).source


@lru_cache(maxsize=512)
def _compiled(text: str) -> Format:
    """A text that was made here: the same promotions are made for every unit."""
    return compile_text(text, "candidate")
