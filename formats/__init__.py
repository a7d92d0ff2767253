"""The catalogue of shipped formats, and reading a format from a name, a file or a SOP string.

``<group>/<name>.fmt`` is the format ``name``. Apart from the groups, ``atoms/`` holds the atom
libraries that ``import "name"`` means, and ``templates/`` what ``fmtc new`` starts from.
"""

from __future__ import annotations

from pathlib import Path

from ..compiler.format import Format
from ..dsl.diagnostics import nearest
from .files import UnknownFormat, loader, read_text, shipped_atoms, shipped_formats
from .starting import started, template_titles

__all__ = [
    "UnknownFormat",
    "atoms",
    "compile_text",
    "find",
    "group_of",
    "groups",
    "load",
    "names",
    "read_text",
    "started",
    "template_titles",
]


def names() -> tuple[str, ...]:
    """The names of the shipped formats, in alphabetical order."""
    return tuple(sorted(shipped_formats()))


def groups() -> tuple[str, ...]:
    """The groups of the shipped formats, in alphabetical order."""
    return tuple(sorted({path.parent.name for path in shipped_formats().values()}))


def group_of(name: str) -> str:
    """The group of a shipped format.

    Raises:
        UnknownFormat: no shipped format has this name.
    """
    shipped = shipped_formats()
    if name not in shipped:
        raise UnknownFormat(f"no shipped format is called '{name}'")
    return shipped[name].parent.name


def atoms() -> tuple[str, ...]:
    """The names of the shipped atom libraries, in alphabetical order."""
    return tuple(sorted(shipped_atoms()))


def find(name_or_path: str | Path) -> Path:
    """The .fmt file that a shipped name or a path means.

    Raises:
        UnknownFormat: there is none; the message says what there is.
    """
    text = str(name_or_path)
    shipped = shipped_formats()
    if text in shipped:
        return shipped[text]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.exists():
        raise UnknownFormat(f"'{text}' is a {'folder' if path.is_dir() else 'device'}, not a file")
    if path.suffix == ".fmt" or "/" in text:
        raise UnknownFormat(f"there is no file '{text}'")
    close = nearest(text, shipped)
    hint = f"; did you mean '{close}'?" if close else ""
    raise UnknownFormat(
        f"no shipped format is called '{text}'{hint} "
        "(`fmtc list` names them; or give the path of a .fmt file, or a SOP string)"
    )


def load(name_or_path: str | Path) -> Format:
    """Compile a shipped format, a .fmt file, or a SOP string.

    Raises:
        UnknownFormat: there is no such format or file.
        FormatError: the text has faults; the message is the full report.
    """
    from ..compiler.resolve import compile_text as compile_file

    sop = _sop_text(name_or_path)
    if sop is not None:
        return compile_text(sop, str(name_or_path))
    path = find(name_or_path)
    return compile_file(read_text(path), str(path), loader(path))


def compile_text(text: str, filename: str = "<text>") -> Format:
    """Compile one .fmt text, which may import and extend what is shipped, but no file by path.

    Raises:
        FormatError: with every fault of the text, syntax and meaning alike.
    """
    from ..compiler.resolve import compile_text as compile_file

    return compile_file(text, filename, loader())


def _sop_text(name_or_path: str | Path) -> str | None:
    """The .fmt text of a SOP string; None where a name or a file is meant."""
    from ..dsl.printer import print_file
    from ..dsl.sop import is_sop, parse_sop

    text = str(name_or_path)
    if isinstance(name_or_path, Path) or not is_sop(text):
        return None
    if text in shipped_formats() or Path(text).exists():
        return None
    return print_file(parse_sop(text, text))
