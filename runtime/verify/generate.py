"""Hypothesis strategies that write whole formats, of every part of the language.

A text is drawn part by part, each from a list that begins with the simplest, and a setting is
written only where it is not the default: what shrinks becomes short. Parts that do not go
together are not drawn together; the few that still meet are refused by the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from hypothesis import strategies as st

from ...compiler.floats import SmallFloat, named_float
from ...compiler.items import stream_items
from ...compiler.resolve import compile_text
from ...dsl.diagnostics import FormatError
from .generate_atoms import atoms

#: What a format is about; ``plain`` ones run in kernels whole, all others around one.
KINDS = ("plain", "tried", "zero", "stored", "whole", "record", "side")

_SIGNED = ("e4m3", "e5m2", "s1e5m5", "s1e4m2", "e2m5", "e3m1", "fp16", "bf16")
_UNSIGNED = ("e8m0", "ue4m3", "ue4m4", "ue5m3", "s0e5m5", "ue4m2", "ue3m2")
#: Words with two free bits at least, and the container that makes the room.
_ROOMY = (
    ("s1e5m4", ""),
    ("s0e5m5", ""),
    ("ue4m2", "container 10"),
    ("e4m3", "container 12"),
    ("e8m0", "container 16"),
)
_LOG2 = ("floor_log2", "ceil_log2", "even_log2", "round_log2")
_BLOCKS = (4, 2, 1, 3, 8, 16, 5, 7, 32, 33)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the scale clause has to go with.

    Attributes:
        kind: of the format, as in ``KINDS``.
        grids: how many.
        mirrors: every grid has a negative value.
        floats: every grid is a plain float of one mantissa, as ``even_log2`` asks.
        select: where select bits live, or ``none``.
        zero: ``point``, ``minimum`` or nothing.
        extent: ``block``, ``tile``, ``row`` or ``tensor``.
    """

    kind: str
    grids: int
    mirrors: bool
    floats: bool
    select: str
    zero: str
    extent: str


@dataclass(frozen=True, slots=True)
class _Said:
    """A scale clause, and what it lets the policies be."""

    text: str
    nan: bool


@st.composite
def format_texts(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> str:
    """Texts of .fmt files. More than four in five compile; the others are refused.

    Args:
        draw: given by Hypothesis.
        kinds: of formats, from ``KINDS``.
    """
    kind = draw(st.sampled_from(kinds))
    zero = draw(st.sampled_from(["point", "minimum"])) if kind == "zero" else ""
    if kind in ("stored", "record", "whole") and draw(st.integers(0, 3)) == 3:
        zero = "minimum"
    integers = zero == "point" or draw(st.integers(0, 5)) == 5
    extent = "block"
    if kind == "whole":
        extent = draw(st.sampled_from(["row", "tensor", "tile"]))
    few = kind == "whole" and extent != "tile"
    count = 1 if few else draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4]))
    width = draw(st.sampled_from([2, 3, 4, 4, 4, 1, 5, 6, 7, 8] if not integers else [4, 3, 2, 8]))
    grids = draw(atoms(width, count, integers))
    # A record has no field for 'select', which is a reserved word.
    places = [] if kind == "record" else ["field"]
    places += ["scale.meta", *(["scale.sign"] if count == 2 else [])]
    select = draw(st.sampled_from(places)) if count > 1 else "none"
    wish = _Wish(kind, count, grids.mirrors, grids.floats, select, zero, extent)
    scale = draw(_scales(wish))
    clauses = [f"grid g{i} = {text}" for i, text in enumerate(grids.texts)]
    policies = draw(_policies(grids.consecutive, scale.nan, kind))
    clauses += [scale.text, draw(_zeros(wish, _rounds_alone(policies))), _select_clause(wish)]
    block = {"row": "row", "tensor": "tensor"}.get(extent) or str(draw(st.sampled_from(_BLOCKS)))
    if kind == "record":
        block = draw(st.sampled_from(["4", "8", "2", "16"]))
    clauses.append(f"block {block}")
    if extent == "tile":
        clauses.append(f"tile {draw(st.integers(2, 3))}")
    clauses += policies
    if kind == "side":
        clauses += draw(_sides())
    if zero == "point" and _rounds(clauses) and draw(st.booleans()):
        clauses = ["zero point { add after }" if c == "zero point" else c for c in clauses]
    text = _written(clauses)
    return draw(_recorded(text)) if kind == "record" else text


@st.composite
def formats(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> str:
    """The texts of ``format_texts`` that compile."""
    return draw(format_texts(kinds).filter(_compiles))


def _compiles(text: str) -> bool:
    try:
        compile_text(text)
    except FormatError:
        return False
    return True


def _rounds(clauses: list[str]) -> bool:
    """Whether a quotient is rounded to even before anything is added, as ``add after`` asks."""
    said = {clause.split()[0] for clause in clauses if clause}
    return "compare" in said and not said & {"tie", "offset"}


def _written(clauses: list[str]) -> str:
    inner = "\n".join(f"  {clause}" for clause in clauses if clause)
    return f"format made {{\n{inner}\n}}"


# -- scales --------------------------------------------------------------------------------


@st.composite
def _scales(draw: st.DrawFn, wish: _Wish) -> _Said:
    if wish.kind == "stored" or (wish.kind in ("zero", "record") and draw(st.integers(0, 2)) == 2):
        stored = wish.extent != "tensor" and wish.select in ("none", "field")
        if stored:
            return draw(_stored_scales(wish))
    wanted = wish.kind in ("tried", "zero", "record", "side") and draw(st.integers(0, 3)) == 3
    word, container = draw(_words(wish, wanted))
    number = named_float(word)
    if number is None:
        raise ValueError(f"'{word}' is no float")
    said = [container]
    table = word != "fp32"
    rule = draw(st.sampled_from(_rules(wish, number, table and not wanted)))
    both = rule not in ("argmax", "range") and _may_mirror(wish, number)
    said.append(_unless(f"rule {rule}", "rule absmax"))
    said += draw(_tries(wish, rule, both, table and not wanted))
    if table and not wanted:
        said += draw(_stored_knobs(wish, number))
    if wanted:
        said.append("codes wanted")
    nan = number.nan_code is not None and not wanted and not wish.zero
    return _Said(f"scale {word} {_braces(said)}", nan)


@st.composite
def _words(draw: st.DrawFn, wish: _Wish, wanted: bool) -> tuple[str, str]:
    if wish.select == "scale.meta":
        word, container = draw(st.sampled_from(_ROOMY))
        return word, container
    words = _SIGNED if wish.select == "scale.sign" else ("fp32", *_UNSIGNED, *_SIGNED, "fp32")
    word = draw(st.sampled_from([word for word in words if not (wanted and word == "fp32")]))
    sizes = ["", "", "", "container 16"] if word != "fp32" else [""]
    return word, draw(st.sampled_from(sizes))


def _rules(wish: _Wish, number: SmallFloat, table: bool) -> list[str]:
    if wish.zero:
        return ["range"]
    rules = ["absmax"]
    if number.signed and wish.mirrors and wish.select != "scale.sign":
        rules.append("argmax")
    if table:
        rules += [rule for rule in _LOG2 if rule != "even_log2" or wish.floats]
    return rules


def _may_mirror(wish: _Wish, number: SmallFloat) -> bool:
    return wish.kind == "tried" and number.signed and wish.select != "scale.sign"


@st.composite
def _tries(draw: st.DrawFn, wish: _Wish, rule: str, both: bool, table: bool) -> list[str]:
    """What is tried beside the rule's scale."""
    said = []
    if rule != "range" and draw(st.integers(0, 5)) == 5:
        said.append(f"target {draw(st.sampled_from(['1', '1/2', '3/4']))}")
    elif wish.kind == "tried" and rule not in ("range", "argmax") and draw(st.booleans()):
        said.append(f"target targets({draw(st.sampled_from(['1, 1/2', '1/2, 3/4, 1']))})")
    if both and draw(st.booleans()):
        said.append("signs both")
    if wish.kind in ("tried", "whole") and table and draw(st.booleans()):
        said.append(f"search {draw(st.integers(1, 3))}")
    return said


@st.composite
def _stored_knobs(draw: st.DrawFn, wish: _Wish, number: SmallFloat) -> list[str]:
    """Settings of a scale that is stored as it is chosen, in a word of its own."""
    said = []
    said.append(_unless(f"round {draw(st.sampled_from(['even', 'up', 'down']))}", "round even"))
    levels = ["", "", "tensor fp32", "shift 3", "shift -5"]
    if not wish.zero:
        levels.append("shift auto")
    if wish.kind == "tried":
        levels.append("tensor rows")
    level = draw(st.sampled_from(levels))
    said.append(level)
    if level.startswith("tensor") and draw(st.booleans()):
        said.append(f"aim {_value(number, draw(st.integers(1, 1 << 20)))}")
    if draw(st.integers(0, 4)) == 4:
        said.append(f"min {_value(number, draw(st.integers(1, 1 << 20)))}")
    if draw(st.integers(0, 4)) == 4:
        said.append(f"zero_block {_value(number, draw(st.integers(1, 1 << 20)))}")
    if draw(st.integers(0, 4)) == 4:
        said.append("underflow zero_block")
    return said


def _value(number: SmallFloat, pick: int) -> str:
    """A value of a scale word from its lower half, as an expression."""
    code = 1 + pick % max(1, (1 << number.magnitude_bits) // 2)
    value = number.magnitude(code) or number.magnitude(1) or Fraction(1)
    return f"{value.numerator}/{value.denominator}" if value.denominator > 1 else str(value)


@st.composite
def _stored_scales(draw: st.DrawFn, wish: _Wish) -> _Said:
    """``scale fp32 { ... } as { ... }``."""
    rules = ["range"] if wish.zero else ["absmax", *(["argmax"] if wish.mirrors else [])]
    rule = draw(st.sampled_from(rules))
    said = [_unless(f"rule {rule}", "rule absmax")]
    if wish.zero == "point" or draw(st.booleans()):
        said.append("codes wanted")
    said += draw(_around(wish))
    return _Said(f"scale fp32 {_braces(said)} as {draw(_bodies())}", nan=False)


@st.composite
def _around(draw: st.DrawFn, wish: _Wish) -> list[str]:
    """How scales lie before a format of their own."""
    if wish.kind == "record":
        return []
    over = draw(st.sampled_from(["", "", "over tensor"]))
    return [over, draw(st.sampled_from(["", "", "center mean"]))]


@st.composite
def _bodies(draw: st.DrawFn, depth: int = 0) -> str:
    """The format of scales: ``{ block 4  grid g0 = int 4  scale fp32 }``."""
    grids = draw(atoms(draw(st.sampled_from([4, 3, 6, 8])), 1, integers=False))
    word = draw(st.sampled_from(["fp32", "e4m3", "fp16", "ue4m3", "e8m0"]))
    number = named_float(word)
    signed = number is not None and number.signed
    rule = draw(st.sampled_from(["absmax", *(["argmax"] if grids.mirrors and signed else [])]))
    minimum = depth == 0 and draw(st.integers(0, 5)) == 5
    said = [_unless(f"rule {'range' if minimum else rule}", "rule absmax")]
    scale = f"scale {word} {_braces(said)}"
    if depth == 0 and word == "fp32" and draw(st.integers(0, 4)) == 4:
        scale += f" as {draw(_bodies(1))}"
    clauses = [
        f"block {draw(st.sampled_from([4, 2, 1, 3, 8]))}",
        f"grid g0 = {grids.texts[0]}",
        scale,
        "zero minimum" if minimum else "",
        draw(st.sampled_from(["", "", "tie down", "compare fp32_quotient"])),
    ]
    return "{ " + "  ".join(filter(None, clauses)) + " }"


# -- everything else -----------------------------------------------------------------------


@st.composite
def _zeros(draw: st.DrawFn, wish: _Wish, rounds_alone: bool) -> str:
    if not wish.zero:
        return ""
    if wish.zero == "point":
        said = [draw(st.sampled_from(["", "", "bits 8", "bits 11"]))]
        said.append(draw(st.sampled_from(["", "add after"])) if rounds_alone else "")
        return f"zero point {_braces(said)}"
    said = [draw(st.sampled_from(["", "sign negated"]))]
    if wish.extent != "tensor" and draw(st.integers(0, 3)) == 3:
        said += draw(_around(wish))
        return f"zero minimum {_braces(said)} as {draw(_bodies())}"
    said.append(draw(st.sampled_from(["", "word fp16", "word bf16"])))
    return f"zero minimum {_braces(said)}"


def _rounds_alone(policies: list[str]) -> bool:
    """Whether there is a quotient that is rounded to even: a zero point may be added after."""
    said = {policy.partition(" ")[0] for policy in policies}
    return "compare" in said and not said & {"tie", "offset"}


def _select_clause(wish: _Wish) -> str:
    if wish.select == "none":
        return ""
    bits = (wish.grids - 1).bit_length()
    arms = ", ".join(f"{i}: g{i}" for i in range(wish.grids))
    return f"select {bits} bit{'s' * (bits > 1)} at {wish.select} {{ {arms} }}"


@st.composite
def _policies(draw: st.DrawFn, consecutive: bool, nan: bool, kind: str) -> list[str]:
    def policy(key: str, *values: str) -> str:
        said = draw(st.sampled_from([values[0], *values]))
        return "" if said == values[0] else f"{key} {said}"

    compare = policy("compare", "exact", "fp32_quotient", "fp32_reciprocal")
    tries = kind in ("tried", "zero", "stored")
    error = policy("error", "squared", "weighted", "cosine") if tries else ""
    offset = ""
    if compare and consecutive and draw(st.integers(0, 2)) == 2:
        offset = f"offset {draw(st.sampled_from(['0.5', '8.5', '1', '3.25', '-2.5']))}"
    return [
        policy("tie", "even", "down", "up", "toward_zero", "away"),
        compare,
        offset,
        error,
        policy("negative_zero", "keep", "drop"),
        policy("pack", "low_first", "high_first"),
        policy("nan", "error", "zero", *(["propagate"] if nan and kind != "side" else [])),
        policy("inf", "error", "saturate"),
    ]


@st.composite
def _sides(draw: st.DrawFn) -> list[str]:
    kinds = draw(st.sampled_from([("opq",), ("wr",), ("opq", "wr")]))
    said = []
    if "opq" in kinds:
        level = draw(st.sampled_from(["", "quantile 0.5", "threshold 1.5", "threshold 1/2"]))
        said.append(f"side opq {_braces([level, draw(_kept('bf16', 'fp16', 'fp32'))])}")
    if "wr" in kinds:
        share = draw(st.sampled_from(["", "fraction 0.1", "fraction 1/3", "fraction 1"]))
        said.append(f"side wr {_braces([share, draw(_kept('e3m4', 'e4m3', 'bf16', 'fp16'))])}")
    return said


def _kept(*words: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["", *(f"value {word}" for word in words[1:])])


@st.composite
def _recorded(draw: st.DrawFn, text: str) -> str:
    """The format with all its streams in a record, where they fill whole bytes."""
    try:
        items = stream_items(compile_text(text))
    except FormatError:
        return text
    if any(item.elements is None for item in items.values()):
        return text
    unit = lcm(*(item.elements or 1 for item in items.values()))
    bits = {name: item.bits * (unit // (item.elements or 1)) for name, item in items.items()}
    whole = next(n for n in (1, 2, 4, 8) if all(b * n % 8 == 0 for b in bits.values()))
    elements = unit * whole * draw(st.sampled_from([1, 1, 2]))
    fields = []
    for name in draw(st.permutations(sorted(items))):
        width, count = items[name].bits, items[name].count(elements)
        if name == "codes" and width in (3, 5, 6) and draw(st.booleans()):
            low = 4 if width > 4 else 2
            if count * low % 8 == 0 and count * (width - low) % 8 == 0:
                fields.append(f"codes {{ bits {low}  order halves }}")
                fields.append(f"codes {{ from {low} }}")
                continue
        orders = ["", " { order high_first }"]
        orders += [" { order halves }"] if width in (1, 2, 4, 8) else []
        fields.append(name + draw(st.sampled_from(orders)))
    return text[:-2] + f"\n  record {elements} {{ {', '.join(fields)} }}\n}}"


def _unless(said: str, default: str) -> str:
    return "" if said == default else said


def _braces(said: list[str]) -> str:
    words = [word for word in said if word]
    return "{ " + "  ".join(words) + " }" if words else ""
