"""Quantized checkpoints: a folder of safetensors with the .fmt text, the hashes and the totals.

``fmtc.json`` names every tensor, its file, its second scale level and its SHA-256. The folder
takes its place only when it is whole; what is reported about it is read back from it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._version import __version__
from .atomic import folder_atomically
from .errors import CorruptFile, RefusedInput, UnusableModel, missing
from .format import Format
from .quantized import QuantizedTensor, describe_tensor, rebuild
from .sources import ModelSource, is_linear_weight

if TYPE_CHECKING:
    import torch

MANIFEST = "fmtc.json"
LAYOUT = 1

#: A file of the checkpoint is closed when it has grown past this.
SHARD_BYTES = 1 << 30

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a checkpoint holds, measured on its files.

    Attributes:
        weights: elements of the quantized tensors.
        disk_bytes: size of the files that hold nothing but quantized tensors.
        nmse: sum of squared errors / sum of squares, over all quantized tensors.
    """

    weights: int
    disk_bytes: int
    nmse: float

    @property
    def bpw(self) -> float:
        """Bytes on disk * 8 / weights."""
        return 8 * self.disk_bytes / self.weights if self.weights else float("nan")


class Checkpoint:
    """A quantized checkpoint on disk, read one tensor at a time.

    Raises:
        CorruptFile: the manifest or a file is absent, truncated or altered.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._manifest = _read_manifest(self.folder)
        self._tensors: dict[str, dict[str, Any]] = self._manifest["tensors"]

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor."""
        return tuple(self._tensors)

    @property
    def quantized_names(self) -> tuple[str, ...]:
        """The tensors that are packed in a format."""
        return tuple(n for n, entry in self._tensors.items() if entry["kind"] == "quantized")

    def quantized(self, name: str) -> QuantizedTensor:
        """A packed tensor, its bytes checked against their hash."""
        entry = self._tensors[name]
        handle = self._open(entry["file"])
        present = set(handle.keys())
        keys = {stream: f"{name}.{stream}" for stream in entry["streams"]}
        if not present.issuperset(keys.values()):
            raise CorruptFile(f"'{self.folder / entry['file']}' lacks a stream of {name}")
        streams = {stream: handle.get_tensor(key).numpy() for stream, key in keys.items()}
        described = {**entry, "format": self._manifest["formats"][entry["format"]]}
        return rebuild(described, streams, f"{self.folder / entry['file']}: {name}")

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as the model uses it: decoded if it is packed."""
        entry = self._tensors[name]
        if entry["kind"] == "quantized":
            decoded: torch.Tensor = self.quantized(name).dequantize()
            return decoded
        handle = self._open(entry["file"])
        if name not in set(handle.keys()):
            raise CorruptFile(f"'{self.folder / entry['file']}' lacks {name}")
        kept: torch.Tensor = handle.get_tensor(name)
        if _digest(kept) != entry["sha256"]:
            raise CorruptFile(f"'{self.folder / entry['file']}': {name} was altered")
        return kept

    def state_dict(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor with its name, one at a time."""
        for name in self.names:
            yield name, self.tensor(name)

    def totals(self, source: ModelSource, progress: Progress | None = None) -> Totals:
        """Size and error, computed from the files against the tensors they were made from."""
        error = energy = 0.0
        weights = 0
        names = self.quantized_names
        for index, name in enumerate(names):
            if progress:
                progress("measuring", index, len(names))
            original = source.get(name).float().numpy()
            decoded = self.quantized(name).to_float32().reshape(original.shape)
            error += float(np.sum(np.square(original - decoded, dtype=np.float64)))
            energy += float(np.sum(np.square(original, dtype=np.float64)))
            weights += original.size
        files = {self._tensors[name]["file"] for name in names}
        disk = sum((self.folder / file).stat().st_size for file in files)
        return Totals(weights, disk, error / energy if energy else 0.0)

    def _open(self, file: str) -> Any:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise missing("safetensors", "torch") from error
        if Path(file).name != file:
            raise CorruptFile(f"'{self.folder / MANIFEST}' names the file '{file}' outside it")
        try:
            return safe_open(self.folder / file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CorruptFile(f"'{self.folder / file}' is absent or not whole: {error}") from error


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Open a checkpoint that ``write_checkpoint`` made. See ``Checkpoint``."""
    return Checkpoint(folder)


def write_checkpoint(
    source: ModelSource,
    fmt: Format,
    out: str | Path,
    *,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Checkpoint:
    """Quantize every linear weight of a model and write the checkpoint folder.

    Args:
        source: the model.
        fmt: the format of its linear weights; all other tensors are kept as they are.
        out: the folder; one that exists is replaced when the new one is whole.
        backend: see ``Format.quantize``.
        progress: called with what is done, tensors done, tensors in all.

    Raises:
        UnusableModel: the model has no linear weight, or one of a type that is not taken.
        RefusedInput: a weight holds a NaN or an infinity.
        FileExistsError: something stands at ``out`` that is no checkpoint.
    """
    out = Path(out)
    if any(file.name == MANIFEST for file in source.companions):
        raise UnusableModel(f"'{source.path}' is an fmtc checkpoint: it is quantized already")
    if out.exists() and not (out / MANIFEST).is_file() and not _is_empty(out):
        raise FileExistsError(f"'{out}' exists and is no fmtc checkpoint: it is left as it is")
    with folder_atomically(out) as folder:
        writer = _Writer(folder)
        count = 0
        for index, name in enumerate(source.names):
            if progress:
                progress("quantizing", index, len(source.names))
            tensor = source.get(name)
            if not is_linear_weight(name, tensor):
                writer.keep(name, tensor)
                continue
            try:
                writer.add(name, fmt.quantize(tensor, backend=backend))
            except RefusedInput as error:
                raise RefusedInput(f"{name}: {error}") from error
            except TypeError as error:
                raise UnusableModel(f"'{source.path}', {name}: {error}") from error
            count += 1
        if not count:
            raise UnusableModel(f"'{source.path}' has no linear weight to quantize")
        writer.finish()
        for file in source.companions:
            shutil.copyfile(file, folder / file.name)
    return Checkpoint(out)


class _Writer:
    """Collects tensors into files of two kinds and writes the manifest last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, dict[str, torch.Tensor]] = {"quantized": {}, "kept": {}}
        self._count = {"quantized": 1, "kept": 1}
        self._tensors: dict[str, dict[str, Any]] = {}
        self._formats: dict[str, Mapping[str, Any]] = {}

    def add(self, name: str, q: QuantizedTensor) -> None:
        import torch

        entry = describe_tensor(q)
        self._formats[q.format.content_hash] = entry["format"]
        self._tensors[name] = {
            **entry,
            "format": q.format.content_hash,
            "kind": "quantized",
            "file": self._file("quantized"),
            "streams": list(q.streams),
        }
        for stream, octets in q.streams.items():
            self._put("quantized", f"{name}.{stream}", torch.from_numpy(octets.copy()))
        self._close_if_large("quantized")

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        tensor = tensor.contiguous()
        entry = {"kind": "kept", "file": self._file("kept"), "sha256": _digest(tensor)}
        self._tensors[name] = entry
        self._put("kept", name, tensor)
        self._close_if_large("kept")

    def finish(self) -> None:
        for kind in self._open:
            self._close(kind)
        manifest: dict[str, Any] = {
            "fmtc": __version__,
            "layout": LAYOUT,
            "formats": self._formats,
            "tensors": self._tensors,
        }
        manifest["sha256"] = _digest_of_manifest(manifest)
        text = json.dumps(manifest, indent=1, sort_keys=True)
        (self._folder / MANIFEST).write_text(text, encoding="utf-8")

    def _file(self, kind: str) -> str:
        return f"{kind}-{self._count[kind]:05d}.safetensors"

    def _put(self, kind: str, key: str, tensor: torch.Tensor) -> None:
        self._open[kind][key] = tensor

    def _close_if_large(self, kind: str) -> None:
        if sum(t.nbytes for t in self._open[kind].values()) >= SHARD_BYTES:
            self._close(kind)

    def _close(self, kind: str) -> None:
        from safetensors.torch import save_file

        if self._open[kind]:
            file = self._folder / self._file(kind)
            file.touch()
            mode = file.stat().st_mode
            save_file(self._open[kind], file)
            file.chmod(mode)  # safetensors makes files that only their owner may read
            self._open[kind] = {}
            self._count[kind] += 1


def _read_manifest(folder: Path) -> dict[str, Any]:
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
    if _digest_of_manifest(manifest) != stated:
        raise CorruptFile(f"'{file}' does not match its SHA-256: it was altered")
    return manifest


def _digest_of_manifest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without the entry that holds it."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    import torch

    total = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
