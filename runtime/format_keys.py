"""Formats behind strings: what an operator, whose arguments are plain data, calls a format."""

from __future__ import annotations

from pathlib import Path

from ..compiler import format as compiled
from ..dsl.diagnostics import nearest
from ..formats import UnknownFormat, compile_text, names
from .format import Format, load

#: Key -> format, of this process. Entries are never taken back: a compiled graph may hold a key.
_formats: dict[str, Format] = {}


def register(format_or_text: compiled.Format | str | Path) -> str:
    """The key by which operators of this process know a format.

    It is the name of a shipped format, and the content hash of any other. A key means the same
    format for good; a process that starts anew registers its formats anew.

    Args:
        format_or_text: a format, the name of a shipped one, the path of a .fmt file, a SOP
            string, or the text of a .fmt file.

    Raises:
        UnknownFormat: there is no such format or file.
        FormatError: the text has faults; the message is the full report.
    """
    fmt = _read(format_or_text)
    if fmt.name in names() and format_of(fmt.name) == fmt:
        return fmt.name
    _formats.setdefault(fmt.content_hash, fmt)
    return fmt.content_hash


def format_of(key: str) -> Format:
    """The format of a key that ``register`` gave, or of a shipped name.

    Raises:
        UnknownFormat: no format has this key in this process; the message says the way out.
    """
    known = _formats.get(key)
    if known is not None:
        return known
    if key in names():
        return _formats.setdefault(key, load(key))
    close = nearest(key, names())
    hint = f", did you mean '{close}'?" if close else ""
    raise UnknownFormat(
        f"no format has the key '{key}' in this process{hint}: operators take the name of a "
        "shipped format, or the key that fmtc.ops.register(...) gives for a Format, the path of a "
        ".fmt file, or its text"
    )


def _read(format_or_text: compiled.Format | str | Path) -> Format:
    if isinstance(format_or_text, Format):
        return format_or_text
    if isinstance(format_or_text, compiled.Format):
        return Format.of(format_or_text)
    if isinstance(format_or_text, str):
        if format_or_text in _formats:
            return _formats[format_or_text]
        if "{" in format_or_text:  # in no name, path or SOP string, and in every .fmt text
            return Format.of(compile_text(format_or_text))
    return load(format_or_text)
