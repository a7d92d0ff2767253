"""A format's datasheet as plain values: what ``fmtc show`` prints and ``--json`` emits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..dsl.ast import FormatDecl, ScaleDecl, Setting
from ..dsl.parser import parse
from .exact import show_number
from .format import Format, Grid
from .vocabulary import FORMAT_KNOBS, SCALE_KNOBS


@dataclass(frozen=True, slots=True)
class Choice:
    """One knob of a format: its value, and whether the file says it or defaults it."""

    knob: str
    value: str
    said: bool
    meaning: str


def datasheet(fmt: Format) -> dict[str, Any]:
    """Everything about a format that a person or a script may ask, as JSON-ready values."""
    return {
        "name": fmt.name,
        "title": fmt.title,
        "cites": list(fmt.cites),
        "hash": fmt.content_hash,
        "bpw": fmt.bpw,
        "exact_bpw": str(fmt.exact_bpw),
        "block": fmt.block,
        "code_bits": fmt.code_bits,
        "grids": [_grid(fmt, index, grid) for index, grid in enumerate(fmt.grids)],
        "scale": _scale(fmt),
        "select": {
            "bits": fmt.select.bits,
            "place": fmt.select.place,
            "positions": list(fmt.select.positions),
        },
        "streams": [
            {"name": s.name, "bits": s.bits, "per": s.per, "order": s.order} for s in fmt.streams
        ],
        "choices": [
            {"knob": c.knob, "value": c.value, "said": c.said, "meaning": c.meaning}
            for c in choices(fmt)
        ],
        "hosting": _hosting(fmt),
    }


def choices(fmt: Format) -> tuple[Choice, ...]:
    """Every knob with its value, those of the scale as ``scale.<key>``."""
    declaration = parse(fmt.source).formats[0]
    said = _said(declaration)
    scale, policies = fmt.scale, fmt.policies
    shift = "auto" if scale.shift is None else "none" if scale.shift == 0 else str(scale.shift)
    zero = scale.word.number.magnitude(scale.zero_block)
    values = {
        "block": str(fmt.block),
        "host": fmt.host,
        "tie": policies.tie,
        "compare": policies.compare,
        "overflow": policies.overflow,
        "nan": policies.nan,
        "inf": policies.inf,
        "negative_zero": policies.negative_zero,
        "pack": fmt.order,
        "layout": "planar",
        "scale.rule": scale.rule,
        "scale.round": scale.rounding,
        "scale.tensor": scale.tensor,
        "scale.shift": shift,
        "scale.min": show_number(scale.minimum),
        "scale.zero_block": "nan" if zero is None else show_number(zero),
        "scale.container": str(scale.word.container),
    }
    meanings = {key: knob.meaning for key, knob in FORMAT_KNOBS.items()}
    meanings |= {f"scale.{key}": knob.meaning for key, knob in SCALE_KNOBS.items()}
    return tuple(Choice(key, values[key], key in said, meanings[key]) for key in meanings)


def word_diagram(fmt: Format) -> str:
    """The bits of a scale word, most significant first: ``s eeeee mmmmm u`` with u a select bit.

    ``-`` marks a metabit that carries nothing.
    """
    word = fmt.scale.word
    letters = ["-"] * word.container
    for i in range(word.number.magnitude_bits):
        letters[word.magnitude_lsb + i] = "m" if i < word.number.mantissa else "e"
    if word.sign_bit is not None:
        letters[word.sign_bit] = "s"
    for position in fmt.select.positions:
        letters[position] = "u"
    groups: list[str] = []
    for letter in reversed(letters):
        if groups and groups[-1][0] == letter:
            groups[-1] += letter
        else:
            groups.append(letter)
    return " ".join(groups)


def _said(declaration: FormatDecl) -> set[str]:
    keys = {c.key.text for c in declaration.clauses if isinstance(c, Setting)}
    for clause in declaration.clauses:
        if isinstance(clause, ScaleDecl):
            keys |= {f"scale.{setting.key.text}" for setting in clause.settings or ()}
    return keys


def _grid(fmt: Format, index: int, grid: Grid) -> dict[str, Any]:
    hosting = fmt.hosting
    words = hosting.words[index] if hosting else None
    return {
        "name": grid.name,
        "atom": grid.atom,
        "low": float(grid.low),
        "high": float(grid.high),
        "codes": [
            {
                "code": code,
                "value": None if value is None else _signed(grid, code, float(value)),
                "exact": None if value is None else str(value),
                "hif": None
                if words is None or (word := words[code]) is None
                else {"coefficient": word.coefficient, "shift": word.shift},
            }
            for code, value in enumerate(grid.values)
        ],
    }


def _signed(grid: Grid, code: int, value: float) -> float:
    return -0.0 if code == grid.negative_zero else value


def _scale(fmt: Format) -> dict[str, Any]:
    word, number = fmt.scale.word, fmt.scale.word.number
    return {
        "word": word.name,
        "container": word.container,
        "diagram": word_diagram(fmt),
        "exponent_bits": number.exponent,
        "mantissa_bits": number.mantissa,
        "bias": number.bias,
        "top": number.top,
        "subnormals": number.subnormals,
        "smallest_normal": float(number.smallest_normal),
        "largest": float(number.largest),
        "rule": fmt.scale.rule,
    }


def _hosting(fmt: Format) -> dict[str, Any] | None:
    if fmt.hosting is None:
        return None
    return {"host": fmt.hosting.host.name, "exponent": fmt.hosting.exponent}
