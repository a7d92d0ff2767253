"""Every knob of a compiled format with its value, said in the file or defaulted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ..dsl.ast import Clause, ScaleDecl, Setting, SideDecl, ZeroDecl
from ..dsl.parser import parse
from .exact import show_number
from .format import Format, Scale, Side, Zero
from .vocabulary import (
    FORMAT_KNOBS,
    MINIMUM_KNOBS,
    OPQ_KNOBS,
    POINT_KNOBS,
    SCALE_KNOBS,
    STORED_KNOBS,
    WR_KNOBS,
    Knob,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One knob of a format: its value, and whether the file says it or defaults it."""

    knob: str
    value: str
    said: bool
    meaning: str


#: Settings that only a whole format has; one that stores scales or minima has their defaults.
_OUTER = {"tile", "promote", "nan", "inf", "scale.tensor", "scale.aim", "scale.shift"}


def choices(fmt: Format) -> tuple[Choice, ...]:
    """The knobs of the format, then as ``scale.rule`` those of its scale, zero and sides.

    Those of a format that scales or minima are stored in stand behind it as ``scales.block``,
    ``scales.scale.rule`` and so on. ``use`` and ``check`` choose nothing and are left out.
    """
    return tuple(_of(fmt, parse(fmt.source).formats[0].clauses, ""))


def _of(fmt: Format, clauses: Sequence[Clause], prefix: str) -> list[Choice]:
    """The knobs of a format, or of one inside another, whose names begin with ``prefix``."""
    said = _said(clauses)
    found = _choices("", _format(fmt), FORMAT_KNOBS, said)
    stored = STORED_KNOBS if fmt.scale.stored else {}
    found += _choices("scale.", _scale(fmt.scale), SCALE_KNOBS | stored, said)
    if fmt.zero is not None:
        own = POINT_KNOBS if fmt.zero.kind == "point" else MINIMUM_KNOBS
        stored = STORED_KNOBS if fmt.zero.stored else {}
        found += _choices("zero.", _zero(fmt.zero), own | stored, said)
    for side in fmt.sides:
        knobs = OPQ_KNOBS if side.kind == "opq" else WR_KNOBS
        found += _choices(f"{side.kind}.", _side(side), knobs, said)
    if prefix:
        found = [replace(c, knob=prefix + c.knob) for c in found if c.knob not in _OUTER]
    for owner, kind, name in ((fmt.scale, ScaleDecl, "scales"), (fmt.zero, ZeroDecl, "zeros")):
        body = next((c.stored for c in clauses if isinstance(c, kind)), None)
        if owner is not None and owner.stored is not None and body is not None:
            found += _of(owner.stored, body.clauses, f"{prefix}{name}.")
    return found


def _choices(
    prefix: str, values: dict[str, str], knobs: dict[str, Knob], said: set[str]
) -> list[Choice]:
    return [
        Choice(prefix + key, values[key], prefix + key in said, knobs[key].meaning)
        for key in knobs
        if key in values
    ]


def _said(clauses: Sequence[Clause]) -> set[str]:
    keys = {c.key.text for c in clauses if isinstance(c, Setting)}
    for clause in clauses:
        match clause:
            case ScaleDecl(settings=settings):
                prefix = "scale"
            case ZeroDecl(settings=settings):
                prefix = "zero"
            case SideDecl(kind, settings):
                prefix = kind.text
            case _:
                continue
        keys |= {f"{prefix}.{setting.key.text}" for setting in settings or ()}
    return keys


def _format(fmt: Format) -> dict[str, str]:
    policies = fmt.policies
    return {
        "block": str(fmt.block) if fmt.extent == "block" else fmt.extent,
        "tile": str(fmt.tile),
        "host": fmt.host,
        "tie": policies.tie,
        "compare": policies.compare,
        "offset": _number(policies.offset, "none"),
        "error": policies.error,
        "promote": fmt.promotion or "none",
        "overflow": policies.overflow,
        "nan": policies.nan,
        "inf": policies.inf,
        "negative_zero": policies.negative_zero,
        "pack": fmt.order,
    }


def _scale(scale: Scale) -> dict[str, str]:
    targets = [show_number(target) for target in scale.targets] or ["ends"]
    zero = scale.word.number.magnitude(scale.zero_block)
    return {
        "rule": scale.rule,
        "target": targets[0] if len(targets) == 1 else f"targets({', '.join(targets)})",
        "search": str(scale.search),
        "signs": "both" if scale.both_signs else "rule",
        "codes": scale.codes,
        "round": scale.rounding,
        "tensor": scale.tensor,
        "aim": _number(scale.aim, "largest"),
        "shift": {None: "auto", 0: "none"}.get(scale.shift, str(scale.shift)),
        "min": show_number(scale.minimum),
        "zero_block": _number(zero, "nan"),
        "underflow": scale.underflow,
        "container": str(scale.word.container),
        "over": "tensor" if scale.flat else "row",
        "center": "mean" if scale.center else "none",
    }


def _zero(zero: Zero) -> dict[str, str]:
    values = {
        "bits": str(zero.bits),
        "add": zero.add,
        "sign": "negated" if zero.negated else "kept",
        "over": "tensor" if zero.flat else "row",
        "center": "mean" if zero.center else "none",
    }
    return values | ({"word": zero.word.name} if zero.word else {})


def _side(side: Side) -> dict[str, str]:
    values = {"value": side.value.name}
    for key in ("quantile", "threshold", "fraction"):
        number = getattr(side, key)
        if number is not None:
            values[key] = show_number(number)
    return values


def _number(value: Fraction | None, otherwise: str) -> str:
    return otherwise if value is None else show_number(value)
