"""The bounds of the shipped formats, as they were last proven: ``bounds.json``, generated.

``tests/regenerate.py`` writes the file. An entry counts only for the very format that it was
proven for, by its content hash.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..compiler.bounds.coder import coders_of
from ..compiler.bounds.proof import Proof
from ..compiler.bounds.summary import Bound, bound_of, bounds_of
from ..compiler.format import Format
from ..compiler.scales import is_fp32_word

#: With more pairs of trials, times the scales of a binade, a block's bound takes long to find.
MOST_PAIRS = 128

#: Where the shipped bounds are.
FILE = Path(__file__).with_name("bounds.json")


def shipped_bounds(fmt: Format) -> tuple[Bound, ...] | None:
    """The bounds that were proven for this format before it was shipped, or None."""
    entry = shipped_entries().get(fmt.name)
    if entry is None or entry["hash"] != fmt.content_hash:
        return None
    return tuple(bound_of(stated) for stated in entry["statements"])


def stated_bounds(fmt: Format) -> tuple[Bound, ...]:
    """The bounds of a format: as shipped, else derived at once, without witnesses.

    Those of whole blocks are left out where finding them takes long.

    Raises:
        Unproven: no bound of such a format is known.
    """
    shipped = shipped_bounds(fmt)
    if shipped is not None:
        return shipped
    from ..compiler.bounds.derive import derive
    from ..compiler.bounds.single import element_statements

    coders = coders_of(fmt)
    scales = 1 if is_fp32_word(fmt.scale.word) else 1 << fmt.scale.word.number.mantissa
    is_long = len(coders) > 1 and len(coders) ** 2 * scales > MOST_PAIRS
    if is_long and fmt.zero is None and fmt.scale.stored is None:
        return bounds_of(Proof(fmt.name, fmt.content_hash, tuple(element_statements(fmt, coders))))
    return bounds_of(derive(fmt))


@cache
def shipped_entries() -> dict[str, dict[str, Any]]:
    """Format name -> hash, statements (see ``Bound.as_json``) and the seconds that they took."""
    try:
        entries: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return entries


def entry_text(entries: dict[str, dict[str, Any]]) -> str:
    """The file's text: one statement a line."""
    parts = []
    for name, entry in sorted(entries.items()):
        statements = ",\n  ".join(json.dumps(stated) for stated in entry["statements"])
        head = json.dumps({key: entry[key] for key in ("hash", "seconds")})[1:-1]
        parts.append(f' {json.dumps(name)}: {{{head}, "statements": [\n  {statements}]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
