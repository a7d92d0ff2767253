"""``make golden``: rewrite the golden texts and hashes from what the package makes today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fmtc import Format, formats, load, names
from fmtc.codegen import emit
from fmtc.codegen.datasheet import book
from fmtc.compiler.bounds.proof import Unproven
from fmtc.formats import bounds
from fmtc.runtime.prove import prove
from representatives import GENERAL

GOLDEN = Path(__file__).parent / "golden"
FORMATS = ("mxfp4", "sop_pair")
#: Formats whose conformance vectors are kept: a plain one, and one of every kind around it.
PACKS = ("four_six", "mxfp4", "nvfp4", "po2_nf4", "sop_pair", *GENERAL)
SHEETS = Path(formats.__file__).parents[1] / "docs/formats.md"


def pack_of(name: str) -> dict[str, str]:
    """The small part of a format's conformance pack: its schema and whole tensors."""
    files = emit(load(name), "vectors")
    return {f: text for f, text in files.items() if f.endswith(("README.md", "tensors.jsonl"))}


def every_sheet() -> str:
    """The page of all datasheets."""
    groups: dict[str, list[Format]] = {group: [] for group in formats.groups()}
    for name in names():
        groups[formats.group_of(name)].append(load(name))
    return book(groups)


def proven_entry(name: str, *, fresh: bool = False) -> dict[str, Any] | None:
    """What ``formats/bounds.json`` says of a format; None where nothing is known.

    The seconds are those of the derivation that the entry is from.
    """
    try:
        proven = prove(load(name), fresh=fresh)
    except Unproven:
        return None
    return {
        "hash": proven.format.content_hash,
        "seconds": round(proven.seconds, 2),
        "statements": [bound.as_json() for bound in proven.bounds],
    }


def every_entry() -> dict[str, dict[str, Any]]:
    """All of ``formats/bounds.json``; an entry that says the same stays as it is."""
    before = bounds.shipped_entries()
    entries = {name: proven_entry(name) for name in names()}
    return {
        name: before[name]
        if name in before and before[name] | {"seconds": entry["seconds"]} == entry
        else entry
        for name, entry in entries.items()
        if entry is not None
    }


def main() -> None:
    bounds.FILE.write_text(bounds.entry_text(every_entry()), encoding="utf-8")
    bounds.shipped_entries.cache_clear()
    for target in ("c", "triton", "verilog"):
        for name in FORMATS:
            for file, text in emit(load(name), target).items():
                # Of the others only what is golden already: a bench of vectors adds nothing.
                if target == "triton" or (GOLDEN / target / file).exists():
                    (GOLDEN / target / file).write_text(text, encoding="utf-8")
    for name in PACKS:
        for file, text in pack_of(name).items():
            (GOLDEN / "vectors" / file).write_text(text, encoding="utf-8")
    SHEETS.write_text(every_sheet(), encoding="utf-8")
    hashes = {name: load(name).content_hash for name in names()}
    (GOLDEN / "hashes.json").write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
