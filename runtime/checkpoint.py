"""Quantized checkpoints: a folder of safetensors, the .fmt texts, the hashes, the plan, the totals.

``fmtc.json`` names every tensor, its file, its second scale level and its SHA-256; each .fmt text
and each file that came with the model, with its hash; and the plan, if a run had one. The folder
takes its place only when it is whole; what is reported about it is read back from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formats import compile_text
from .errors import CorruptFile, missing
from .format import Format
from .manifest import MANIFEST, check_file, read_checked, read_manifest, tensor_digest
from .quantized import QuantizedTensor, rebuild
from .sources import ModelSource

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a checkpoint holds, measured on its files.

    Attributes:
        weights: elements of the quantized tensors.
        disk_bytes: size of all that is stored for them: the files that hold their streams, the
            .fmt texts and the manifest.
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
        self._manifest = read_manifest(self.folder)
        self._tensors: dict[str, dict[str, Any]] = self._manifest["tensors"]
        self._texts: dict[str, str] = {}

    @property
    def manifest_hash(self) -> str:
        """SHA-256 of the manifest, which holds that of everything else."""
        stated: str = self._manifest["sha256"]
        return stated

    @property
    def plan(self) -> dict[str, Any]:
        """What the run that made it decided, as JSON values; empty where there was none."""
        plan: dict[str, Any] = self._manifest["plan"]
        return plan

    @cached_property
    def formats(self) -> dict[str, Format]:
        """Content hash -> format, of all that tensors are packed in."""
        return {
            key: Format.of(compile_text(self._text(key), str(self.folder / entry["file"])))
            for key, entry in self._manifest["formats"].items()
        }

    def format_of(self, name: str) -> Format:
        """The format that a packed tensor is in."""
        return self.formats[self._tensors[name]["format"]]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's axes, from the manifest."""
        return tuple(self._tensors[name]["shape"])

    def octets(self, name: str) -> int:
        """The bytes of a packed tensor's streams, from the manifest."""
        return int(self._tensors[name]["bytes"])

    def check_files(self) -> None:
        """Check every file of the folder: its size, and its hash or its header's.

        The tensors themselves are checked when they are read.

        Raises:
            CorruptFile: a file is absent, not whole, or altered; the message names it.
        """
        for file, stated in self._manifest["files"].items():
            check_file(self.folder, file, stated)
        for key in self._formats:
            self._text(key)

    @property
    def disk_bytes(self) -> int:
        """Bytes of all that is stored for quantized tensors: see `Totals`."""
        packed = {self._tensors[name]["file"] for name in self.quantized_names}
        texts = {entry["file"] for entry in self._manifest["formats"].values()}
        return sum((self.folder / f).stat().st_size for f in {*packed, *texts, MANIFEST})

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
        key = entry["format"]
        said = {"hash": key, "name": self._formats[key]["name"], "text": self._text(key)}
        described = {**entry, "format": said}
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
        if tensor_digest(kept) != entry["sha256"]:
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
        return Totals(weights, self.disk_bytes, error / energy if energy else 0.0)

    @property
    def _formats(self) -> dict[str, dict[str, str]]:
        formats: dict[str, dict[str, str]] = self._manifest["formats"]
        return formats

    def _text(self, key: str) -> str:
        """The .fmt text of a content hash, checked."""
        if key not in self._texts:
            entry = self._formats.get(key)
            if entry is None:
                raise CorruptFile(f"'{self.folder / MANIFEST}' lacks the format {key}")
            octets = read_checked(self.folder, entry["file"], entry["sha256"])
            self._texts[key] = octets.decode()
        return self._texts[key]

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
