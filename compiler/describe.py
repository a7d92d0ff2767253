"""A format's datasheet as plain values: what ``fmtc show`` prints and ``--json`` emits."""

from __future__ import annotations

from typing import Any

from .choices import choices
from .format import Format, Grid, Record, Scale, Side, Zero


def datasheet(fmt: Format) -> dict[str, Any]:
    """Everything about a format that a person or a script may ask, as JSON-ready values."""
    return {
        "name": fmt.name,
        "title": fmt.title,
        "use": fmt.use,
        "check": fmt.check,
        "cites": list(fmt.cites),
        "hash": fmt.content_hash,
        "bpw": fmt.bpw,
        "exact_bpw": str(fmt.exact_bpw),
        "extent": fmt.extent,
        "block": fmt.block,
        "tile": fmt.tile,
        "code_bits": fmt.code_bits,
        "grids": [_grid(fmt, index, grid) for index, grid in enumerate(fmt.grids)],
        "scale": _scale(fmt),
        "select": {
            "bits": fmt.select.bits,
            "place": fmt.select.place,
            "positions": list(fmt.select.positions),
        },
        "zero": None if fmt.zero is None else _zero(fmt.zero),
        "sides": [_side(side, fmt.block) for side in fmt.sides],
        "record": None if fmt.record is None else _record(fmt.record),
        "streams": _streams(fmt),
        "choices": [
            {"knob": c.knob, "value": c.value, "said": c.said, "meaning": c.meaning}
            for c in choices(fmt)
        ],
        "hosting": _hosting(fmt),
    }


def summary(fmt: Format) -> dict[str, Any]:
    """What a list of formats says of each, as JSON-ready values.

    ``ratio`` is the largest over the smallest nonzero magnitude of all grids; ``host`` the
    narrowest HIF host that holds them, else the one that the format declares.
    """
    sizes = {abs(value) for grid in fmt.grids for value in grid.numbers} - {0}
    return {
        "name": fmt.name,
        "title": fmt.title,
        "use": fmt.use,
        "check": fmt.check,
        "bpw": fmt.bpw,
        "block": fmt.block if fmt.extent == "block" else fmt.extent,
        "grids": len(fmt.grids),
        "scale": fmt.scale.word.name,
        "host": fmt.hosting.host.name if fmt.hosting else fmt.host,
        "ratio": float(max(sizes) / min(sizes)),
    }


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
        "stored": _stored(fmt.scale),
    }


def _hosting(fmt: Format) -> dict[str, Any] | None:
    if fmt.hosting is None:
        return None
    return {"host": fmt.hosting.host.name, "exponent": fmt.hosting.exponent}


def _zero(zero: Zero) -> dict[str, Any]:
    return {
        "kind": zero.kind,
        "word": zero.word.name if zero.word else None,
        "bits": zero.word.container if zero.word else zero.bits,
        "add": zero.add if zero.kind == "point" else None,
        "negated": zero.negated,
        "stored": _stored(zero),
    }


def _stored(owner: Scale | Zero) -> dict[str, Any] | None:
    """The format that scales or minima are stored in."""
    if owner.stored is None:
        return None
    inner = owner.stored
    return {
        "block": inner.block if inner.extent == "block" else inner.extent,
        "code_bits": inner.code_bits,
        "word": inner.scale.word.name,
        "container": inner.scale.word.container,
        "bpw": inner.bpw,
    }


def _side(side: Side, block: int) -> dict[str, Any]:
    return {"kind": side.kind, "value": side.value.name, "bpw": float(side.bpw(block))}


def _record(record: Record) -> dict[str, Any]:
    fields = [
        {"stream": f.stream, "bits": f.bits, "from": f.low, "order": f.order, "run": f.run}
        for f in record.fields
    ]
    return {"elements": record.elements, "fields": fields}


def _streams(fmt: Format) -> list[dict[str, Any]]:
    """The streams of a tensor; those of a format inside, per block of it, as ``scales.codes``."""
    own = [{"name": s.name, "bits": s.bits, "per": s.per, "order": s.order} for s in fmt.streams]
    inner: list[tuple[str, Scale | Zero | None]] = [("scales", fmt.scale), ("zeros", fmt.zero)]
    for name, owner in inner:
        if owner is not None and owner.stored is not None:
            own += [{**s, "name": f"{name}.{s['name']}"} for s in _streams(owner.stored)]
    return own
