"""What both JSON-lines files share: the header object and the way lines are written."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..._version import __version__
from ...compiler.exact import fp32_bits
from ...compiler.format import Format
from ...compiler.reference import TensorLevel
from .draws import SEED


def neutral_level(fmt: Format) -> TensorLevel:
    """A tensor's second level that leaves scales as they are stored."""
    return TensorLevel(shift=fmt.scale.shift or 0)


def level_fields(level: TensorLevel) -> dict[str, object]:
    """The second level as a line says it: binary32 bits and the exponent shift."""
    return {"tensor_scale": f"{fp32_bits(level.tensor_scale):08x}", "shift": level.shift}


def header(fmt: Format, kind: str) -> dict[str, object]:
    """The first object of a file."""
    return {
        "kind": kind,
        "format": fmt.name,
        "hash": fmt.content_hash,
        "fmtc": __version__,
        "seed": SEED,
        "block": fmt.block,
        "code_bits": fmt.code_bits,
        "grids": [grid.name for grid in fmt.grids],
        "select_place": fmt.select.place,
        "scale_container": fmt.scale.word.container,
        **level_fields(neutral_level(fmt)),
    }


def json_lines(head: dict[str, object], objects: Iterable[dict[str, object]]) -> str:
    """One compact object a line, the header first."""
    encode = json.JSONEncoder(separators=(",", ":")).encode
    return "".join(encode(item) + "\n" for item in (head, *objects))
