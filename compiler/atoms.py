"""From an atom of the syntax tree to the exact grid that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType

from ..dsl.ast import Atom, AtomDecl, GridDecl, Span, Text, Word
from ..dsl.printer import print_expr
from .closed_forms import VECTOR_HINT, ClosedForms, is_vector_name
from .exact import FP32_MAX, EvaluationError, is_fp32, round_fp32, show_number, significant_bits
from .floats import SmallFloat, named_float
from .format import Grid
from .hosts import COEFFICIENT_BITS, HIF_HOSTS, HifWord, holds
from .report import Report, Settings, suggest
from .transforms import Codes, apply, asks
from .vocabulary import FLOAT_KNOBS, INTEGER_KNOBS, TRANSFORM_KNOBS

#: Widest element code.
MAX_CODE_BITS = 8

#: scale (24 bits) * midpoint must be exact in binary64 (53 bits): every back end relies on it.
MIDPOINT_BITS = 29

ATOM_KINDS = ("codebook", "int", "hif7", "hif8")
_EXPECTED_ATOMS = "codebook, int, hif7, hif8, a float such as e2m1, e3m2, ue4m4"

#: Most settings and characters of a recipe: it is a note, not a document.
MAX_RECIPE = 32
MAX_RECIPE_TEXT = 200
Recipe = tuple[tuple[str, str], ...]
#: What other libraries call these floats.
_ALSO_CALLED = {"fp4": "e2m1", "fp6": "e2m3", "fp8": "e4m3"}
_COMMON_FLOATS = ("e2m1", "e1m2", "e3m0", "e2m3", "e3m2", "e4m3", "e5m2", "e2m2", "e3m3")


#: What a name may mean besides the built-in kinds: an atom, or an earlier grid of the format
#: (None where that has a fault).
Known = Mapping[str, Grid | AtomDecl | None]


def resolve_grid(
    declaration: GridDecl, host: str, report: Report, known: Known = MappingProxyType({})
) -> Grid | None:
    """The exact grid of a declaration, or None after noting its faults.

    ``known`` holds the format's earlier grids and the atoms that it may use; the built-in kinds
    come first. Values that no host word holds exactly are rounded once, to fp32.
    """
    name, atom = declaration.name.text, declaration.atom
    return _Resolver(host, report, known).grid(name, atom, declaration.span)


def resolve_atom(
    declaration: AtomDecl, report: Report, known: Known = MappingProxyType({})
) -> Grid | None:
    """The grid of a named atom, in fp32, or None after noting its faults."""
    name = declaration.name.text
    return _Resolver("fp32", report, known, (name,)).grid(name, declaration.atom, declaration.span)


@dataclass(frozen=True, slots=True)
class _Resolver:
    """Makes one grid. ``trail`` are the atoms that led here, to find those made of themselves."""

    host: str
    report: Report
    known: Known
    trail: tuple[str, ...] = ()

    def grid(self, name: str, atom: Atom, span: Span) -> Grid | None:
        """The grid of an atom, or None after noting its faults."""
        label = atom.kind.text if atom.bits is None else f"{atom.kind.text} {atom.bits.text}"
        codes = self._codes(atom, label)
        recipe = None if codes is None else _recipe(atom, self.report)
        if codes is None or recipe is None:
            return None
        made, label, inherited = codes
        values = self._stored(made.values, span) if self.host == "fp32" else made.values
        if values is None:
            return None
        grid = Grid(name, label, values, made.negative_zero, recipe or inherited)
        return grid if _is_sound(grid, self.host, span, self.report) else None

    def _codes(self, atom: Atom, label: str) -> tuple[Codes, str, Recipe] | None:
        """What the codes mean, what the atom is called, and the recipe of another that it is."""
        kind = atom.kind.text
        if kind == "codebook":
            values = _codebook(atom, self.host, self.report)
            return None if values is None else (Codes(values), label, ())
        if kind in HIF_HOSTS:
            return (Codes(_hif(kind)), label, ()) if _no_body(atom, self.report) else None
        if kind == "int":
            return self._transformed(_integer(atom, self.report), label)
        if named_float(kind) is None and kind in self.known:
            return self._reference(atom)
        return self._transformed(_element_float(atom, self.report, self.known), label)

    def _reference(self, atom: Atom) -> tuple[Codes, str, Recipe] | None:
        """Another grid, as it is or transformed."""
        kind, report = atom.kind.text, self.report
        base = self._base(atom)
        if atom.values is not None or atom.bits is not None:
            report.add(
                "E0205",
                f"'{kind}' is a grid already: it takes neither a width nor a list of values",
                atom.span,
                hint=f"change it by settings such as '{kind} {{ times 2 }}'",
            )
            return None
        knobs = Settings(f"the grid '{kind}'", atom.settings or (), TRANSFORM_KNOBS, report)
        if base is None:
            return None
        codes = Codes(base.values, base.negative_zero)
        made = self._transformed((codes, knobs), base.atom)
        return made and (*made[:2], () if asks(knobs) else base.recipe)

    def _base(self, atom: Atom) -> Grid | None:
        kind = atom.kind.text
        found = self.known[kind]
        if not isinstance(found, AtomDecl):
            return found
        if kind in self.trail:
            way = " -> ".join((*self.trail[self.trail.index(kind) :], kind))
            self.report.add(
                "E0202",
                f"the atom '{kind}' is made of itself: {way}",
                atom.kind.span,
                hint="begin with values, as in 'codebook 4 { ... }'",
            )
            return None
        faults = Report()
        resolver = _Resolver("fp32", faults, self.known, (*self.trail, kind))
        grid = resolver.grid(kind, found.atom, found.span)
        seen = self.report.diagnostics
        seen += [fault for fault in faults.diagnostics if fault not in seen]
        return grid

    def _transformed(
        self, made: tuple[Codes, Settings] | None, label: str
    ) -> tuple[Codes, str, Recipe] | None:
        if made is None:
            return None
        codes, knobs = made
        if not asks(knobs):
            return codes, label, ()
        changed = apply(codes, knobs, self.report)
        return None if changed is None else (changed, f"{label} transformed", ())

    def _stored(
        self, values: tuple[Fraction | None, ...], span: Span
    ) -> tuple[Fraction | None, ...] | None:
        """Every value rounded once to fp32, or None after noting the first that is too large."""
        stored: list[Fraction | None] = []
        for value in values:
            stored.append(None if value is None else _to_host(span, value, "fp32", self.report))
            if value is not None and stored[-1] is None:
                return None
        return tuple(stored)


def apply_float_settings(
    number: SmallFloat, knobs: Settings, span: Span, report: Report
) -> SmallFloat:
    """``number`` with bias, top and subnormals as the settings say."""
    bias = knobs.expression("bias")
    if bias is not None:
        chosen = report.integer(bias, "a bias", -64, 256)
        number = replace(number, bias=number.bias if chosen is None else chosen)
    top = knobs.choice("top")
    if top != "standard":
        if top == "ieee" and number.mantissa == 0:
            report.add(
                "E0302",
                "a float without mantissa bits has no room for infinity and NaN",
                knobs.span("top", span),
                expected="finite, nan or reserved",
            )
        else:
            number = replace(number, top=top)
    if knobs.choice("subnormals") != "standard":
        number = replace(number, subnormals=knobs.choice("subnormals") == "on")
    return number


def _element_float(atom: Atom, report: Report, known: Known) -> tuple[Codes, Settings] | None:
    kind, span = atom.kind.text, atom.span
    plain = named_float(kind)
    if plain is None:
        vectors = is_vector_name(kind)
        report.add(
            "E0202",
            f"no atom is called '{kind}'",
            atom.kind.span,
            expected=None if vectors else _EXPECTED_ATOMS + ", or an atom or earlier grid by name",
            hint=VECTOR_HINT if vectors else _atom_hint(kind, known),
        )
        return None
    knobs = Settings(
        f"the float '{kind}'", atom.settings or (), FLOAT_KNOBS | TRANSFORM_KNOBS, report
    )
    number = apply_float_settings(plain, knobs, span, report)
    if atom.values is not None or atom.bits is not None:
        report.add(
            "E0205",
            f"the float '{kind}' takes neither a width nor a list of values",
            span,
            hint=f"write 'codebook {number.bits} {{ ... }}' for values of your own",
        )
        return None
    if number.bits > MAX_CODE_BITS:
        report.add(
            "E0302",
            f"'{kind}' has {number.bits} bits; an element has at most {MAX_CODE_BITS}",
            atom.kind.span,
            hint="wider floats are for scales",
        )
        return None
    values = number.values()
    zero = 1 << number.magnitude_bits
    signed_zero = number.signed and values[zero] == 0
    return Codes(values, zero if signed_zero else None), knobs


def float_hint(name: str, known: Iterable[str]) -> str | None:
    """The float that a name of another convention holds (``float8_e4m3fn``), or a near one."""
    inner = re.search(r"(s0|s1|u)?e\d{1,2}m\d{1,2}", name.lower())
    other = inner[0] if inner else _ALSO_CALLED.get(name.lower(), name)
    if other != name and named_float(other):
        return f"did you mean '{other}'?"
    return suggest(name, known)


def _atom_hint(kind: str, known: Known) -> str:
    integer = re.fullmatch(r"(u?)s?int_?([1-8])", kind.lower())
    if integer:
        return f"write 'int {integer[2]}{' { range unsigned }' * bool(integer[1])}'"
    hint = float_hint(kind, (*ATOM_KINDS, *_COMMON_FLOATS, *known))
    return hint or "import its file, or write 'grid name = codebook 4 { ... }'"


def _no_body(atom: Atom, report: Report) -> bool:
    if atom.bits is None and atom.values is None and not atom.settings:
        return True
    kind = atom.kind.text
    report.add(
        "E0205",
        f"'{kind}' takes no width, values or settings",
        atom.span,
        hint=f"write '{kind}' alone; 'host {kind}' keeps a codebook inside it",
    )
    return False


def _width(atom: Atom, report: Report) -> int | None:
    if atom.bits is None:
        report.add(
            "E0304",
            f"'{atom.kind.text}' needs its width in bits",
            atom.kind.span,
            expected=f"a width from 1 to {MAX_CODE_BITS}, as in '{atom.kind.text} 4'",
        )
        return None
    return report.integer(atom.bits, f"the width of '{atom.kind.text}'", 1, MAX_CODE_BITS)


def _codebook(atom: Atom, host: str, report: Report) -> tuple[Fraction | None, ...] | None:
    bits = _width(atom, report)
    if atom.values is None:
        report.add(
            "E0304",
            "a codebook needs its values",
            atom.span,
            expected="a list such as { -1, -0.5, 0, 0.5 }",
        )
        return None
    if len(atom.values) > 1 << MAX_CODE_BITS:
        report.add(
            "E0304",
            f"a codebook has at most {1 << MAX_CODE_BITS} values, here are {len(atom.values)}",
            atom.span,
            expected="a value a code, of 1 to 8 bits",
        )
        return None
    numbers = _listed(atom, report)
    if bits is None or numbers is None:
        return None
    if len(numbers) != 1 << bits:
        report.add(
            "E0304",
            f"a {bits}-bit codebook has {1 << bits} values, here are {len(numbers)}",
            atom.span,
            expected=f"{1 << bits} values, one a code, starting with code 0",
        )
        return None
    hosted = [_to_host(span, value, host, report) for span, value in numbers]
    return None if any(value is None for value in hosted) else tuple(hosted)


#: What lists of values mean, by their text: a closed form takes a while, and many formats have it.
_evaluated: dict[tuple[str, ...], tuple[tuple[Fraction, ...], ...]] = {}
_MOST_EVALUATED = 256


def _listed(atom: Atom, report: Report) -> list[tuple[Span, Fraction]] | None:
    """The values of a codebook's list, closed forms written out, each with its place."""
    written = atom.values or ()
    text = tuple(print_expr(expr) for expr in written)
    if text not in _evaluated:
        forms, found = ClosedForms(), []
        for expr in written:
            try:
                found.append(tuple(forms.values(expr)))
            except EvaluationError as error:
                report.add(error.code, error.message, error.span, hint=error.hint)
        if len(found) < len(written):
            return None
        if len(_evaluated) >= _MOST_EVALUATED:
            _evaluated.clear()
        _evaluated[text] = tuple(found)
    lists = zip(written, _evaluated[text], strict=True)
    return [(expr.span, value) for expr, values in lists for value in values]


def _to_host(span: Span, value: Fraction, host: str, report: Report) -> Fraction | None:
    """Round to binary32 (the visible default), or insist that a HIF host has the value."""
    if host == "fp32":
        if abs(value) > FP32_MAX:
            report.add(
                "E0303",
                f"fp32 cannot hold {show_number(value)}",
                span,
                expected="at most 2^128 - 2^104, about 3.4e38",
            )
            return None
        return Fraction(round_fp32(value))
    if holds(host, value):
        return value
    words = HIF_HOSTS[host].words()
    report.add(
        "E0303",
        f"{host} has no word for {show_number(value)}",
        span,
        expected=f"an integer of {host}, from {min(words)} to {max(words)}",
        hint=f"the nearest is {show_number(HIF_HOSTS[host].nearest(value))}",
    )
    return None


def _recipe(atom: Atom, report: Report) -> Recipe | None:
    """How frozen values were learned, as printed; None after noting a fault."""
    given = atom.recipe or ()
    if atom.recipe is not None and atom.kind.text != "codebook":
        report.add(
            "E0205",
            f"'{atom.kind.text}' is not learned: its values follow from what it is",
            atom.span,
            hint="a recipe stands after the frozen values of a codebook",
        )
        return None
    recipe: dict[str, str] = {}
    for setting in given:
        key, value = setting.key.text, setting.value
        text = value.text if isinstance(value, Word | Text) else print_expr(value)
        if key in recipe:
            report.add(
                "E0208",
                f"'{key}' is said twice in the recipe",
                setting.span,
                hint="keep one of them",
            )
            return None
        if len(recipe) == MAX_RECIPE or len(text) > MAX_RECIPE_TEXT:
            report.add(
                "E0302",
                "the recipe is too long",
                setting.span,
                expected=f"{MAX_RECIPE} settings of {MAX_RECIPE_TEXT} characters at most",
            )
            return None
        recipe[key] = text
    return tuple(recipe.items())


def _integer(atom: Atom, report: Report) -> tuple[Codes, Settings] | None:
    bits = _width(atom, report)
    knobs = Settings(
        "the integer atom", atom.settings or (), INTEGER_KNOBS | TRANSFORM_KNOBS, report
    )
    if bits is None:
        return None
    if atom.values is not None:
        report.add(
            "E0205",
            "an integer atom takes no list of values",
            atom.span,
            hint=f"write 'codebook {bits} {{ ... }}' for values of your own",
        )
        return None
    return Codes(_integers(bits, knobs.choice("range"))), knobs


def _integers(bits: int, kind: str) -> tuple[Fraction | None, ...]:
    """The value of every code of an integer of this range."""
    half = 1 << (bits - 1)
    if kind in ("unsigned", "offset"):
        first = 0 if kind == "unsigned" else -half
        return tuple(Fraction(first + code) for code in range(2 * half))
    signed = [Fraction(code if code < half else code - 2 * half) for code in range(2 * half)]
    if kind == "symmetric":
        return tuple(None if value == -half else value for value in signed)
    return tuple(signed)


def _hif(kind: str) -> tuple[Fraction | None, ...]:
    """Every stored word of a HIF host; redundant words are codes of the same value."""
    last = HIF_HOSTS[kind].max_shift
    words = map(HifWord.of_bits, range(1 << COEFFICIENT_BITS + last.bit_length()))
    return tuple(Fraction(word.value) if word.shift <= last else None for word in words)


def _is_sound(grid: Grid, host: str, span: Span, report: Report) -> bool:
    numbers = grid.numbers
    if len(numbers) < 2:
        report.add("E0305", f"the grid '{grid.name}' has fewer than two values", span)
        return False
    for value in numbers:
        if not is_fp32(value) or (host != "fp32" and not holds(host, value)):
            report.add(
                "E0303",
                f"{host} cannot hold {show_number(value)} of the grid '{grid.name}'",
                span,
                hint=None
                if host == "fp32"
                else f"scale the grid and say 'snap {host}', or leave host out",
            )
            return False
    if grid.high <= 0:
        report.add(
            "E0408",
            f"the grid '{grid.name}' has no positive value",
            span,
            hint="a scale maps the block's largest element to the grid's positive end",
        )
        return False
    for low, high in pairwise(numbers):
        bits = significant_bits((low + high) / 2)
        if bits is None or bits > MIDPOINT_BITS:
            report.add(
                "E0305",
                f"the midpoint of {show_number(low)} and {show_number(high)} needs {bits} "
                f"significant bits; {MIDPOINT_BITS} can be compared exactly",
                span,
                hint="write fewer digits, or values whose sizes are closer together",
            )
            return False
    return True
