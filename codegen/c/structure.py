"""The C of a format taken apart: what all formats of its structure share, and its own values.

Formats that differ in the values of their grids alone, as those of a searched checkpoint do, have
the same C but for a few tables. Here these tables are declared where they stand and defined in a
file of their own, and the rest names no format: a machine compiles it once for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...compiler.format import Format
from .context import symbol

#: Tables of grids' values: what they are called in the templates.
_TABLE = re.compile(
    r"^static const (?P<head>\w+ (?:LUT|GRIDS|DOWN|UNITS)(?:\[[^\]\n]*\])+) = "
    r"(?P<body>\{.*?\});$",
    re.MULTILINE | re.DOTALL,
)
_HIDDEN = '__attribute__((visibility("hidden")))'
_NAME = "structure"

VALUES = "values.c"


@dataclass(frozen=True, slots=True)
class Apart:
    """C files whose tables of values stand in a file of their own.

    Attributes:
        shared: file name -> text: the same for all formats of this structure.
        values: the text of ``values.c``, which includes a header of ``shared``.
        symbol: the prefix of the functions' names.
    """

    shared: Mapping[str, str]
    values: str
    symbol: str


def nameless(fmt: Format) -> Format:
    """The format under a name that all have: it codes alike, and its C does not tell which."""
    return replace(fmt, name=_NAME, title="", cites=())


def take_apart(fmt: Format, files: Mapping[str, str]) -> Apart:
    """Take the tables of values out of the files that were made of a `nameless` format.

    Args:
        fmt: the nameless format.
        files: ``emit_target(fmt, ...)``, and what ``emit_product_target`` adds.
    """
    tables: list[str] = []

    def declared(found: re.Match[str]) -> str:
        tables.append(f"{_HIDDEN} const {found['head']} = {found['body']};")
        return f"extern {_HIDDEN} const {found['head']};"

    shared = {
        name: _TABLE.sub(declared, text).replace(fmt.content_hash, "of any format")
        for name, text in files.items()
    }
    header = max((name for name in files if name.endswith("_internal.h")), key=len)
    values = "\n\n".join([f'#include "{header}"', *tables]) + "\n"
    return Apart(shared, values, symbol(fmt))
