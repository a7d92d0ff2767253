"""Writing checkpoints: tensor by tensor, the manifest last, the folder whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._version import __version__
from .atomic import folder_atomically
from .checkpoint import Checkpoint, Progress
from .errors import RefusedInput, UnusableModel
from .format import Format
from .manifest import (
    FORMATS,
    INDEX,
    LAYOUT,
    MANIFEST,
    SHARD_BYTES,
    described_file,
    digest_of_manifest,
    lines,
    tensor_digest,
    text_file,
)
from .quantized import QuantizedTensor, describe_tensor
from .safetensors_stream import SafetensorsWriter
from .sources import ModelSource

if TYPE_CHECKING:
    import torch

#: Where transformers looks for the kind of quantization.
CONFIG = "config.json"


_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


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
    refuse_bad_places(source, out)
    linear = set(source.linear_names)
    if not linear:
        raise UnusableModel(f"'{source.path}' has no linear weight to quantize")
    with folder_atomically(out) as folder:
        writer = CheckpointWriter(folder)
        for index, name in enumerate(source.names):
            if progress:
                progress("quantizing", index, len(source.names))
            tensor = source.get(name)
            if name not in linear:
                writer.keep(name, tensor)
                continue
            try:
                writer.add(name, fmt.quantize(tensor, backend=backend))
            except RefusedInput as error:
                raise RefusedInput(f"{name}: {error}") from error
            except TypeError as error:
                raise UnusableModel(f"'{source.path}', {name}: {error}") from error
        writer.finish(source.companions)
    return Checkpoint(out)


def refuse_bad_places(source: ModelSource, out: Path) -> None:
    """Refuse a model that is a checkpoint, and an ``out`` where something else stands.

    Raises:
        UnusableModel: the model is quantized already.
        FileExistsError: something stands at ``out`` that is no checkpoint.
    """
    if any(file.name == MANIFEST for file in source.companions):
        raise UnusableModel(f"'{source.path}' is an fmtc checkpoint: it is quantized already")
    for file in source.companions:
        if file.name == CONFIG and "quantization_config" in json.loads(file.read_text("utf-8")):
            raise UnusableModel(f"'{file}' has a quantization_config: it is quantized already")
    if out.exists() and not (out / MANIFEST).is_file() and not _is_empty(out):
        raise FileExistsError(f"'{out}' exists and is no fmtc checkpoint: it is left as it is")


class CheckpointWriter:
    """Writes a checkpoint's files into a folder, tensor by tensor, and its manifest last.

    Memory holds one tensor; the bytes depend on what is added, and in which order, alone.
    The folder is the caller's to put into its place (``atomic.folder_atomically``).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = {"quantized": 1, "kept": 1}
        self._open = {kind: self._begin(kind) for kind in self._count}
        self._tensors: dict[str, dict[str, Any]] = {}
        self._formats: dict[str, dict[str, str]] = {}
        self._homes: dict[str, str] = {}
        (folder / FORMATS).mkdir()

    def add(self, name: str, q: QuantizedTensor) -> None:
        """A packed tensor."""
        entry = describe_tensor(q)
        key = q.format.content_hash
        if key not in self._formats:
            self._formats[key] = self._write_text(q.format)
        writer = self._open["quantized"]
        described = {k: v for k, v in entry.items() if k != "fmtc"}
        self._tensors[name] = {
            **described,
            "format": key,
            "kind": "quantized",
            "bytes": sum(octets.nbytes for octets in q.streams.values()),
            "file": writer.path.name,
            "streams": list(q.streams),
        }
        for stream, octets in q.streams.items():
            data = np.ascontiguousarray(octets)
            writer.add(f"{name}.{stream}", "U8", data.shape, data.data)
        self._close_if_large("quantized")

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """A tensor that stays as it is."""
        import torch

        tensor = tensor.contiguous()
        writer = self._open["kept"]
        file, shape = writer.path.name, list(tensor.shape)
        self._tensors[name] = {
            "kind": "kept",
            "file": file,
            "shape": shape,
            "sha256": tensor_digest(tensor),
        }
        octets = tensor.reshape(-1).view(torch.uint8).numpy()
        code = _CODES[str(tensor.dtype).removeprefix("torch.")]
        writer.add(name, code, tuple(tensor.shape), octets.data)
        self._close_if_large("kept")

    def finish(
        self, companions: Sequence[Path] = (), plan: Mapping[str, Any] | None = None
    ) -> None:
        """Close the files, copy what belongs to the model, and write the manifest.

        Args:
            companions: files to copy; ``config.json`` also gets what transformers asks for.
            plan: JSON values: what a run decided. It enters the manifest and its hash.
        """
        for kind in self._open:
            self._close(kind)
        for file in companions:
            shutil.copyfile(file, self._folder / file.name)
        if (self._folder / CONFIG).is_file():
            _declare(self._folder / CONFIG)
        self._write_index()
        files = sorted({file.name for file in companions} | {INDEX, *self._homes.values()})
        manifest: dict[str, Any] = {
            "fmtc": __version__,
            "layout": LAYOUT,
            "files": {name: described_file(self._folder / name) for name in files},
            "formats": self._formats,
            "plan": dict(plan or {}),
            "tensors": self._tensors,
        }
        manifest["sha256"] = digest_of_manifest(manifest)
        (self._folder / MANIFEST).write_text(lines(manifest), encoding="utf-8")

    def _begin(self, kind: str) -> SafetensorsWriter:
        return SafetensorsWriter(self._folder / f"{kind}-{self._count[kind]:05d}.safetensors")

    def _write_text(self, fmt: Format) -> dict[str, str]:
        file = text_file(fmt)
        octets = fmt.source.encode()
        (self._folder / file).write_bytes(octets)
        return {"name": fmt.name, "file": file, "sha256": hashlib.sha256(octets).hexdigest()}

    def _write_index(self) -> None:
        """The map that transformers finds tensors by."""
        index = {
            "metadata": {"total_size": sum(self._sizes)},
            "weight_map": dict(sorted(self._homes.items())),
        }
        text = json.dumps(index, indent=2)
        (self._folder / INDEX).write_text(text, encoding="utf-8")

    @cached_property
    def _sizes(self) -> list[int]:
        return []

    def _close_if_large(self, kind: str) -> None:
        if self._open[kind].size >= SHARD_BYTES:
            self._close(kind)

    def _close(self, kind: str) -> None:
        writer = self._open[kind]
        if not writer.keys:
            return
        writer.close()
        self._sizes.append(writer.size)
        self._homes |= dict.fromkeys(writer.keys, writer.path.name)
        self._count[kind] += 1
        self._open[kind] = self._begin(kind)


def _declare(config: Path) -> None:
    """Tell transformers which quantizer reads the folder."""
    said = json.loads(config.read_text(encoding="utf-8"))
    said["quantization_config"] = {"quant_method": "fmtc", "layout": LAYOUT}
    config.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
