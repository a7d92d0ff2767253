"""Calibration text: from files, folders of files, data sets, or what every Python has."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import CorruptFile, MissingPackage, RefusedInput

#: What a path begins with when it names a data set of the library `datasets` and no file.
DATASET = "datasets:"

#: Characters of a data set that are read at most: some have more than a disk holds.
DATASET_CHARACTERS = 1 << 24

#: Files of a folder that count as text; others are left out. A file given by name is always read.
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".text", ".pod", ".jsonl"})

_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BETWEEN = "\n\n"


def read_texts(paths: Sequence[str | Path]) -> str:
    r"""Read texts and join them with an empty line, in the order given.

    A file may be compressed (.gz, .xz, .bz2). In a .jsonl file every line is an object whose
    field "text" counts. A folder stands for its text files (``TEXT_SUFFIXES``, compressed or not)
    at any depth, sorted by path; hidden ones are left out. ``datasets:NAME``, with ``@CONFIG``
    and ``:SPLIT`` if wanted (else ``train``), streams the column "text" of a Hugging Face data
    set up to ``DATASET_CHARACTERS``.

    Line ends become ``\n``, so that the same text has the same hash wherever it was checked out.

    Args:
        paths: files, folders or data sets.

    Raises:
        FileNotFoundError: there is no such file.
        RefusedInput: a file is empty, or no UTF-8 text; the message names it and the place.
        CorruptFile: a compressed file or a .jsonl file is damaged.
        MissingPackage: a data set is asked for and the library `datasets` is not installed.
    """
    if not paths:
        raise RefusedInput("no text was given")
    return _BETWEEN.join(_read(str(path)) for path in paths)


def default_text() -> str:
    """The reference texts of Python's own help system, about 465,000 characters of English.

    Source: ``pydoc_data.topics`` of the running Python (the chapters of its language reference;
    PSF licence), sorted by topic. It changes with the version of Python, and its hash with it.

    Raises:
        MissingPackage: this Python was installed without its help texts.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MissingPackage(
            "this Python has no help texts (module pydoc_data), which are the default "
            "calibration text: give a text of your own"
        ) from error
    return _BETWEEN.join(_even_lines(topics[name]) for name in sorted(topics))


def text_hash(text: str) -> str:
    """SHA-256 of a text in UTF-8, as hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: str) -> str:
    if path.startswith(DATASET):
        return _dataset(path)
    place = Path(path)
    if place.is_dir():
        return _folder(place)
    if not place.is_file():
        raise FileNotFoundError(f"there is no text '{path}'")
    return _file(place)


def _folder(folder: Path) -> str:
    inside = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    wanted = [
        inside[name]
        for name in sorted(inside, key=lambda name: name.as_posix())
        if _kind(name) in TEXT_SUFFIXES and not any(part.startswith(".") for part in name.parts)
    ]
    if not wanted:
        known = ", ".join(sorted(TEXT_SUFFIXES))
        raise RefusedInput(f"the folder '{folder}' has no text files ({known}, compressed or not)")
    return _BETWEEN.join(_file(file) for file in wanted)


def _kind(path: Path) -> str:
    """The suffix of what a file holds once it is decompressed."""
    compressed = path.suffix.lower() in _OPENERS
    return (path.with_suffix("") if compressed else path).suffix.lower()


def _file(path: Path) -> str:
    text = _decoded(path, _octets(path))
    if _kind(path) == ".jsonl":
        text = _json_lines(path, text)
    if not text.strip():
        raise RefusedInput(f"'{path}' has no text in it")
    return text


def _octets(path: Path) -> bytes:
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        return path.read_bytes()
    try:
        with opener(path) as file:
            octets: bytes = file.read()
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise CorruptFile(f"'{path}' cannot be decompressed: {error}") from error
    except OSError as error:
        if error.errno is not None:  # the disk's fault; what bz2 finds in a file has no number
            raise
        raise CorruptFile(f"'{path}' cannot be decompressed: {error}") from error
    return octets


def _decoded(path: Path, octets: bytes) -> str:
    wide = octets.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not wide and (at := octets.find(b"\0")) >= 0:
        raise RefusedInput(f"'{path}' is no text: byte {at} is 0")
    try:
        text = octets.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedInput(
            f"'{path}' is no UTF-8 text: {error.reason} at byte {error.start}; "
            "if it is text in another encoding, convert it (iconv -f latin1 -t utf-8)"
        ) from error
    return _even_lines(text)


def _even_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json_lines(path: Path, text: str) -> str:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)["text"]
        except (ValueError, RecursionError) as error:
            raise CorruptFile(f"'{path}', line {number}, is no JSON: {error}") from error
        except (KeyError, TypeError, IndexError) as error:
            raise RefusedInput(f"'{path}', line {number}, has no field \"text\"") from error
        if not isinstance(value, str):
            raise RefusedInput(f"'{path}', line {number}: the field \"text\" is no string")
        found.append(_even_lines(value))
    return _BETWEEN.join(found)


def _dataset(path: str) -> str:
    name, config, split = _dataset_parts(path)
    try:
        import datasets
    except ImportError as error:
        raise MissingPackage(
            f"'{path}' needs the package 'datasets': pip install datasets"
        ) from error
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
    except (ValueError, FileNotFoundError) as error:
        raise RefusedInput(f"'{path}' cannot be loaded: {error}") from error
    found: list[str] = []
    left = DATASET_CHARACTERS
    for row in rows:
        value = row.get("text")
        if not isinstance(value, str):
            raise RefusedInput(f"'{path}' has no column \"text\"; it has {', '.join(row)}")
        if value.strip():
            found.append(_even_lines(value)[:left])
            left -= len(found[-1]) + len(_BETWEEN)
        if left <= 0:
            break
    if not found:
        raise RefusedInput(f"'{path}' has no text in it")
    return _BETWEEN.join(found)


def _dataset_parts(path: str) -> tuple[str, str | None, str]:
    """``datasets:NAME@CONFIG:SPLIT`` as name, configuration and split."""
    rest, _, split = path.removeprefix(DATASET).partition(":")
    name, _, config = rest.partition("@")
    if not name:
        raise RefusedInput(f"'{path}' names no data set: {DATASET}NAME, {DATASET}NAME@CONFIG:SPLIT")
    return name, config or None, split or "train"
