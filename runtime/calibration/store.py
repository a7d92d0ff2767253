"""Tensors and facts in one safetensors file that appears whole, and is checked when it is read.

Beside the tensors the file has ``about``, JSON in bytes: what it is, its facts, and the SHA-256
of every tensor; and ``about.sha256``, that of ``about``. The facts are checked when the file is
opened, a tensor when it is read, so that large ones need not be read to be there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptFile
from ..manifest import tensor_digest
from ..safetensors_stream import SafetensorsWriter

if TYPE_CHECKING:
    import torch

ABOUT = "about"
_CHECK = "about.sha256"

#: What a header says beside its tensors: the one thing in a file that has no hash.
_PLAIN = (None, {"format": "pt"})


def write_store(
    path: Path,
    kind: str,
    facts: Mapping[str, Any],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    lasting: bool = True,
) -> None:
    """Write a file; it has its name only when it is whole.

    Args:
        path: the file; one that stands there is replaced.
        kind: what it is, which `Store` asks for.
        facts: JSON values.
        tensors: keys and float32 tensors, one in memory at a time if the caller makes them so.
        lasting: wait until the disk has it; not worth the time for what goes with the process.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    writer = SafetensorsWriter(temporary)
    digests = {}
    try:
        for key, tensor in tensors:
            digests[key] = tensor_digest(tensor)
            writer.add(key, "F32", tuple(tensor.shape), _octets(tensor))
            del tensor  # before the next one is made
        about = _canonical({"kind": kind, "facts": dict(facts), "sha256": digests})
        writer.add(ABOUT, "U8", (len(about),), about)
        check = hashlib.sha256(about).digest()
        writer.add(_CHECK, "U8", (len(check),), check)
        writer.close()
        if lasting:
            _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        temporary.with_name(f"{temporary.name}.part").unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Store:
    """A file of `write_store`.

    Attributes:
        path: the file.
        facts: what was given.
        digests: key -> SHA-256 of the tensor.
    """

    path: Path
    facts: dict[str, Any]
    digests: dict[str, str]

    @classmethod
    def open(cls, path: Path, kind: str) -> Store:
        """Open a file and check its facts.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptFile: it is truncated, altered or of another kind.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no file '{path}'")
        raw = {key: _read(path, key) for key in (ABOUT, _CHECK)}
        text = raw[ABOUT].numpy().tobytes()
        if hashlib.sha256(text).digest() != raw[_CHECK].numpy().tobytes():
            raise CorruptFile(f"'{path}' does not match its SHA-256: it was altered")
        about = json.loads(text)
        if about["kind"] != kind:
            raise CorruptFile(f"'{path}' holds {about['kind']}, not {kind}")
        return cls(path, about["facts"], about["sha256"])

    def read(self, key: str) -> torch.Tensor:
        """A tensor, in memory of its own.

        Raises:
            CorruptFile: it is not what was written.
        """
        tensor = _read(self.path, key)
        if tensor_digest(tensor) != self.digests[key]:
            raise CorruptFile(f"'{self.path}': {key} does not match its SHA-256: it was altered")
        return tensor


def _read(path: Path, key: str) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        # The file is open no longer than this: a map would count as memory as long as it lives.
        with safe_open(path, framework="pt") as file:
            if file.metadata() not in _PLAIN:
                raise CorruptFile(f"'{path}' has a header that was altered")
            tensor: torch.Tensor = file.get_tensor(key).clone()
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"'{path}' is damaged or no file of fmtc: {error}") from error
    return tensor


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _octets(tensor: torch.Tensor) -> memoryview:
    import torch

    octets: memoryview = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return octets


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
