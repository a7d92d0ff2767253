"""Comment blocks: provenance and wrapped prose, at most 100 columns wide."""

from __future__ import annotations

import textwrap

from ...compiler.format import Format
from ..render import provenance

COLUMNS = 100

#: A bar keeps a user's words from being read as a tool's directive (``// verilator ...``).
_MARK = "// | "


def header(fmt: Format, *notes: str, mark: str = _MARK) -> str:
    """The head of every file of a format: provenance, license, and what it is."""
    lines = (*provenance(fmt), "SPDX-License-Identifier: Apache-2.0", "", *notes)
    return "\n".join(row for line in lines for row in wrapped(line, mark=mark))


def wrapped(line: str, indent: str = "", mark: str = _MARK) -> list[str]:
    """A line as comment lines of at most COLUMNS characters; continuation lines are indented."""
    lead = line[: len(line) - len(line.lstrip())]
    rows = textwrap.wrap(
        line.strip(),
        COLUMNS - len(indent) - len(mark) - len(lead) - 4,
        break_on_hyphens=False,
    )
    texts = [lead + ("    " if i else "") + row for i, row in enumerate(rows)] or [""]
    return [(indent + mark + text).rstrip() for text in texts]
