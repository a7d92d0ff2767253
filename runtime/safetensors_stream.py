"""Safetensors files written tensor by tensor, with memory for one of them.

The library's writer takes all tensors of a file at once; here their bytes go to a file beside
it as they come, and the header is put before them at the end. Layout: 8 bytes of header length,
the header (JSON, filled up with spaces to a multiple of 8), the data without gaps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

#: Bytes of an element by what safetensors calls its type.
ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}

#: transformers refuses files that do not say so.
METADATA = {"format": "pt"}

_ALIGNMENT = 8
_COPY = 1 << 22
#: No offset in a file has more digits than this: 9 petabytes.
_OFFSET_DIGITS = 16


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


@dataclass(slots=True)
class SafetensorsWriter:
    """One file in the making; it has its name only when `close` has returned.

    Attributes:
        path: the file.
    """

    path: Path
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _size: int = 0

    @property
    def size(self) -> int:
        """Bytes of data so far."""
        return self._size

    @property
    def keys(self) -> tuple[str, ...]:
        """The tensors so far."""
        return tuple(self._entries)

    def add(self, key: str, dtype: str, shape: tuple[int, ...], octets: bytes | memoryview) -> None:
        """Append a tensor.

        Args:
            key: its name in the file.
            dtype: one of ``ITEM_BYTES``.
            shape: its axes.
            octets: its bytes, little-endian, in row-major order.

        Raises:
            ValueError: the key is taken, or the bytes are not of that type and shape.
        """
        wanted = ITEM_BYTES[dtype]
        for length in shape:
            wanted *= length
        size = memoryview(octets).nbytes
        if key in self._entries or size != wanted:
            raise ValueError(f"{key}: {size} bytes for {dtype} {shape}, or a name that is taken")
        with self._part.open("ab" if self._entries else "wb") as data:
            data.write(octets)
        self._entries[key] = _Entry(dtype, shape, self._size, size)
        self._size += size

    def close(self) -> None:
        """Write the file: larger elements first, so that each lies at a multiple of its size."""
        order = sorted(self._entries.items(), key=lambda item: -ITEM_BYTES[item[1].dtype])
        header: dict[str, object] = {"__metadata__": METADATA}
        at = 0
        for key, entry in order:
            offsets = [at, at + entry.size]
            header[key] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
            at += entry.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        with self.path.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            if self._entries:
                with self._part.open("rb") as data:
                    for _, entry in order:
                        _copy(data, entry, out)
        self._part.unlink(missing_ok=True)

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")


def header_bound(key: str, dtype: str, shape: tuple[int, ...]) -> int:
    """The most bytes that a tensor adds to a file's header."""
    offsets = [10**_OFFSET_DIGITS - 1] * 2
    entry = {key: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    return len(
        json.dumps(entry, separators=(",", ":"))
    )  # its two braces are the comma and to spare


#: What a file has beside its entries: the length, two braces, the metadata and the filling.
FIXED_BYTES = 8 + 2 + len(json.dumps({"__metadata__": METADATA})) + _ALIGNMENT


def _copy(data: IO[bytes], entry: _Entry, out: IO[bytes]) -> None:
    data.seek(entry.begin)
    left = entry.size
    while left:
        piece = data.read(min(left, _COPY))
        out.write(piece)
        left -= len(piece)
