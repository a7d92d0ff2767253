"""The manifest of a checkpoint: what the folder holds, line by line, and the hashes of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from .errors import CorruptFile
from .format import Format
from .safetensors_stream import FIXED_BYTES, header_bound
from .sources import ModelSource

if TYPE_CHECKING:
    import torch

MANIFEST = "fmtc.json"
LAYOUT = 2

#: What transformers reads to find tensors.
INDEX = "model.safetensors.index.json"
FORMATS = "formats"

#: A file of the checkpoint is closed when it has grown past this.
SHARD_BYTES = 1 << 30


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own SHA-256."""
    file = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        layout, stated = manifest["layout"], manifest["sha256"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptFile(f"'{folder}' is no fmtc checkpoint: it has no {MANIFEST}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(f"'{file}' is damaged: {error!r}") from error
    if layout != LAYOUT:
        raise CorruptFile(
            f"'{file}' has the layout {layout!r}, this fmtc reads {LAYOUT}: "
            f"it was written by fmtc {manifest.get('fmtc')}"
        )
    if digest_of_manifest(manifest) != stated:
        raise CorruptFile(f"'{file}' does not match its SHA-256: it was altered")
    return manifest


def digest_of_manifest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without the entry that holds it."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def text_file(fmt: Format) -> str:
    """Where a checkpoint has a format's text."""
    return f"{FORMATS}/{fmt.name}-{fmt.content_hash[:16]}.fmt"


def lines(manifest: Mapping[str, Any]) -> str:
    """JSON with a line for every tensor, format and file: short, and good to read."""
    parts = []
    for key in sorted(manifest):
        value = manifest[key]
        if isinstance(value, dict) and value:
            rows = (f" {json.dumps(k)}: {_dense(v)}" for k, v in sorted(value.items()))
            parts.append(f"{json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n}")
        else:
            parts.append(f"{json.dumps(key)}: {_dense(value)}")
    return "{\n" + ",\n".join(parts) + "\n}"


def _dense(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def read_checked(folder: Path, file: str, stated: str) -> bytes:
    """The bytes of a file in the folder, checked against its SHA-256.

    Raises:
        CorruptFile: it is absent, outside or altered.
    """
    place = _inside(folder, file)
    try:
        octets = place.read_bytes()
    except OSError as error:
        raise CorruptFile(f"'{place}' is absent or cannot be read: {error}") from error
    if hashlib.sha256(octets).hexdigest() != stated:
        raise CorruptFile(f"'{place}' does not match its SHA-256: it was altered")
    return octets


def described_file(path: Path) -> dict[str, Any]:
    """What the manifest says of a file: its size, and the SHA-256 of it or of its header.

    The data of a safetensors file are the tensors, which have hashes of their own.
    """
    octets = path.stat().st_size
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            length = file.read(8)
            header = length + file.read(int.from_bytes(length, "little") if octets > 8 else 0)
            return {"bytes": octets, "header": hashlib.sha256(header).hexdigest()}
        return {"bytes": octets, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def check_file(folder: Path, file: str, stated: Mapping[str, Any]) -> None:
    """Compare a file with what the manifest says of it.

    Raises:
        CorruptFile: it is absent, of another size, or altered.
    """
    place = _inside(folder, file)
    try:
        octets = place.stat().st_size
        if octets != stated["bytes"]:
            raise CorruptFile(
                f"'{place}' has {octets} bytes, it was written with {stated['bytes']}: "
                "it is not whole, or of another checkpoint"
            )
        found = described_file(place)
    except OSError as error:
        raise CorruptFile(f"'{place}' is absent or cannot be read: {error}") from error
    if found != stated:
        raise CorruptFile(f"'{place}' does not match its SHA-256: it was altered")


def _inside(folder: Path, file: str) -> Path:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise CorruptFile(f"'{folder / MANIFEST}' names the file '{file}' outside it")
    return folder / file


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    import torch

    total = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def entry_bound(name: str, fmt: Format, streams: Mapping[str, tuple[int, ...]]) -> int:
    """The most bytes that a packed tensor adds to a checkpoint, beside its streams' own.

    That is its entries in the file's header and in the manifest; ``text_bound`` is the text's.

    Args:
        name: the tensor's.
        fmt: its format.
        streams: stream name -> shape of its bytes.
    """
    header = sum(header_bound(f"{name}.{stream}", "U8", shape) for stream, shape in streams.items())
    entry = {
        "dtype": "bfloat16",
        "file": "quantized-00001.safetensors",
        "format": fmt.content_hash,
        "framework": "numpy",
        "bytes": 1 << 50,
        "kind": "quantized",
        "sha256": "0" * 64,
        "shape": [1 << 40, 1 << 40],
        "shift": -9999,
        "streams": list(streams),
        "tensor_scale": (1 / 3).hex() + "0000",
    }
    return header + len(lines({"tensors": {name: entry}}))


def text_bound(fmt: Format) -> int:
    """The bytes that a format adds to a checkpoint, once: its text, and its entry."""
    entry = {"name": fmt.name, "file": text_file(fmt), "sha256": "0" * 64}
    return len(lines({"formats": {fmt.content_hash: entry}})) + len(fmt.source.encode())


def fixed_bound(plan: Mapping[str, Any], source: ModelSource) -> int:
    """The most bytes of a checkpoint that do not grow with its packed tensors.

    Args:
        plan: as it will be written, or no shorter.
        source: the model; what is kept of it, and its companions, stand in the manifest.
    """
    linear = set(source.linear_names)
    kept = {
        name: {
            "kind": "kept",
            "file": "kept-00001.safetensors",
            "shape": list(source.shape(name)),
            "sha256": "0" * 64,
        }
        for name in source.names
        if name not in linear
    }
    files = [INDEX, *(file.name for file in source.companions)]
    shards = 2 + 2 * sum(file.stat().st_size for file in source.files) // SHARD_BYTES
    files += [f"quantized-{i:05d}.safetensors" for i in range(shards)]
    said = {"bytes": 1 << 50, "sha256": "0" * 64}
    manifest = {
        "fmtc": __version__,
        "layout": LAYOUT,
        "files": dict.fromkeys(files, said),
        "formats": {},
        "plan": dict(plan),
        "tensors": kept,
        "sha256": "0" * 64,
    }
    return len(lines(manifest)) + shards * FIXED_BYTES
