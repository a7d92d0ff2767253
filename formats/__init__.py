"""The library of shipped formats, and reading a format from a name or a file."""

from __future__ import annotations

from pathlib import Path

from ..compiler.format import Format
from ..dsl.diagnostics import nearest

_HERE = Path(__file__).parent

#: A .fmt text is short; anything larger is the wrong file.
MAX_FILE_BYTES = 1 << 20


class UnknownFormat(ValueError):
    """No shipped format has this name, and no file has this path."""


def names() -> tuple[str, ...]:
    """The names of the shipped formats, in alphabetical order."""
    return tuple(sorted(path.stem for path in _HERE.glob("*.fmt")))


def find(name_or_path: str | Path) -> Path:
    """The .fmt file that a shipped name or a path means.

    Raises:
        UnknownFormat: there is none; the message says what there is.
    """
    text = str(name_or_path)
    shipped = _HERE / f"{text}.fmt"
    if text in names():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.exists():
        raise UnknownFormat(f"'{text}' is a {'folder' if path.is_dir() else 'device'}, not a file")
    if path.suffix == ".fmt" or "/" in text:
        raise UnknownFormat(f"there is no file '{text}'")
    close = nearest(text, names())
    hint = f"; did you mean '{close}'?" if close else ""
    raise UnknownFormat(
        f"no shipped format is called '{text}'{hint} "
        f"(shipped: {', '.join(names())}; or give the path of a .fmt file)"
    )


def read_text(path: Path) -> str:
    """The text of a .fmt file.

    Raises:
        UnknownFormat: the file is too large, not readable, or not UTF-8 text.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnknownFormat(f"'{path}' is larger than 1 MiB: not a .fmt file")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UnknownFormat(f"'{path}' is not UTF-8 text: not a .fmt file") from error
    except OSError as error:
        raise UnknownFormat(f"'{path}' cannot be read: {error.strerror}") from error


def load(name_or_path: str | Path) -> Format:
    """Compile a shipped format or a .fmt file.

    Raises:
        UnknownFormat: there is no such format or file.
        FormatError: the text has faults; the message is the full report.
    """
    from ..compiler.resolve import compile_text

    path = find(name_or_path)
    return compile_text(read_text(path), str(path))
