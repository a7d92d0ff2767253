"""Comment blocks: provenance, port tables and wrapped prose, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from ...compiler.format import Format
from ..render import provenance
from .ports import Port

COLUMNS = 100

#: A bar keeps a user's words from being read as a tool's directive (``// verilator ...``).
_MARK = "// | "


@dataclass(frozen=True, slots=True)
class Header:
    """Makes the head of every file of a format."""

    fmt: Format

    def text(self, ports: tuple[Port, ...], *notes: str) -> str:
        """Provenance, what the module does, and a line for every port."""
        lines = [
            *provenance(self.fmt),
            "SPDX-License-Identifier: Apache-2.0",
            "",
            *notes,
        ]
        if ports:
            lines += ["", "Ports (bits, meaning):"]
            lines += [f"  {port.name} ({port.bits}) {port.meaning}" for port in ports]
        return "\n".join(row for line in lines for row in wrapped(line))


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
