"""The shipped files, and which files a .fmt file may name. All reading of .fmt files is here."""

from __future__ import annotations

import os.path
from pathlib import Path, PureWindowsPath

from ..compiler.inherit import Loaded, Loader, LoadError
from ..dsl.diagnostics import nearest

_HERE = Path(__file__).parent.resolve()
_ATOMS, _TEMPLATES = "atoms", "templates"

#: A .fmt text is short; anything larger is the wrong file.
MAX_FILE_BYTES = 1 << 20

_OUTSIDE = "E0502"


class UnknownFormat(ValueError):
    """No shipped format has this name, and no file has this path."""


def shipped_formats() -> dict[str, Path]:
    """Name -> file of every shipped format, group by group."""
    files = sorted(_HERE.glob("*/*.fmt"))
    return {f.stem: f for f in files if f.parent.name not in (_ATOMS, _TEMPLATES)}


def shipped_atoms() -> dict[str, Path]:
    """Name -> file of every shipped atom library."""
    return {file.stem: file for file in sorted(_HERE.glob(f"{_ATOMS}/*.fmt"))}


def template_files() -> dict[str, Path]:
    """Name -> file of everything that a new format can start from."""
    return {file.stem: file for file in sorted(_HERE.glob(f"{_TEMPLATES}/*.fmt"))}


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


def loader(entry: Path | None = None) -> Loader:
    """Reads what a file names: shipped files by name, and files of its own folder by path.

    A path is relative to the file that names it and never leaves the folder of the entry file,
    neither by ``..`` nor by a symbolic link. Shipped files name files among the shipped.

    Args:
        entry: the file that is compiled; None for a text that stands in no file.
    """
    own = None if entry is None else entry.parent.resolve()
    known: dict[str, Path] = {}

    def load(reference: str, kind: str, origin: str) -> Loaded:
        if reference.endswith(".fmt"):
            folder = known[origin].parent if origin in known else own
            path = _by_path(reference, folder, _tree(folder, own))
        else:
            path = _by_name(reference, kind)
        try:
            text = read_text(path)
        except UnknownFormat as error:
            raise LoadError(str(error).replace(str(path), _shown(path, entry))) from error
        same = entry is not None and entry.resolve() == path
        identity = str(entry if same else path)
        known[identity] = path
        return Loaded(text, _shown(path, entry), identity)

    return load


def _tree(folder: Path | None, own: Path | None) -> Path | None:
    """The folder that a file in ``folder`` may read from."""
    return _HERE if folder is not None and folder.is_relative_to(_HERE) else own


def _shown(path: Path, entry: Path | None) -> str:
    """A file as messages call it: beside the entry file, or by its place among the shipped."""
    if entry is not None and path.is_relative_to(entry.parent.resolve()):
        return str(entry.parent / path.relative_to(entry.parent.resolve()))
    return str(path.relative_to(_HERE.parent))


def _by_name(name: str, kind: str) -> Path:
    shipped, others = shipped_atoms(), shipped_formats()
    what = "atoms are"
    if kind == "extends":
        shipped, others, what = others, shipped, "format is"
    if name in shipped:
        return shipped[name]
    word = "import" if kind == "extends" else "extends"
    if "/" in name or "\\" in name or "." in name:
        hint = f'a path ends in .fmt: "{name}.fmt"'
    elif name in others:
        what_else = "a library of atoms" if kind == "extends" else "a format"
        hint = f'it is {what_else}; write: {word} "{name}"'
    else:
        close = nearest(name, shipped)
        hint = f"did you mean '{close}'?" if close else "there are " + ", ".join(shipped)
    raise LoadError(f"no shipped {what} called '{name}'", hint)


def _by_path(reference: str, folder: Path | None, tree: Path | None) -> Path:
    """The file at a path relative to ``folder``, resolved, inside ``tree``."""
    if "\\" in reference:
        raise LoadError(
            f"'{reference}' has a backslash",
            f'folders are parted by a slash: "{reference.replace(chr(92), "/")}"',
            _OUTSIDE,
        )
    if reference.startswith("/") or PureWindowsPath(reference).drive:
        raise LoadError(
            f"'{reference}' is no path inside the folder of this file",
            "write it relative to this file",
            _OUTSIDE,
        )
    inside = "" if folder is None or tree is None else folder.relative_to(tree).as_posix()
    if os.path.normpath(f"{inside or '.'}/{reference}").split("/")[0] == "..":
        raise _outside(reference)
    if folder is None or tree is None:
        raise LoadError(
            f"'{reference}' cannot be read: this text stands in no folder",
            "name shipped files, or compile the text from a file",
        )
    try:
        path = (folder / reference).resolve()
        if not path.is_relative_to(tree):
            raise _outside(reference)
        if path.is_file():
            return path
        what = "is no file" if path.exists() else "does not exist"
        near = [f.name for f in path.parent.glob("*.fmt") if f.is_file()]
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it leads in a circle"
        raise LoadError(f"the file '{reference}' cannot be read: {reason}") from error
    close = nearest(path.name, near)
    front = reference[: len(reference) - len(path.name)]
    raise LoadError(
        f"the file '{reference}' {what}", f'did you mean "{front}{close}"?' if close else None
    )


def _outside(reference: str) -> LoadError:
    return LoadError(
        f"'{reference}' leads out of the folder that this file may read from",
        "copy the file beside this one",
        _OUTSIDE,
    )
