"""Where a model's tensors come from: a Hugging Face folder, a safetensors file, a GGUF file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .errors import CorruptFile, UnusableModel, missing

if TYPE_CHECKING:
    import torch

#: 2-D weights with one of these in their name are tables or heads, not linear layers.
_NOT_LINEAR = re.compile(
    r"(embed|embd|lm_head|^output\.|norm|\bwte\b|\bwpe\b|rotary|position)", re.IGNORECASE
)

#: What safetensors calls element types, and torch.
_TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class Stored(Protocol):
    """A tensor in a file, read when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its axes."""

    @property
    def dtype(self) -> str:
        """What torch calls its element type, such as ``bfloat16``, as `rows` gives it."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """A part along the first axis; only that is read."""

    def whole(self) -> torch.Tensor:
        """All of it."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model as named tensors, read one at a time or in part.

    Attributes:
        path: where it lies.
        tensors: name -> where it is stored, in the order of the files.
        companions: files (config, tokenizer ...) that belong to the model.
        files: the files that hold the tensors.
    """

    path: Path
    tensors: Mapping[str, Stored]
    companions: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    @classmethod
    def of_tensors(cls, path: Path, tensors: Mapping[str, torch.Tensor]) -> ModelSource:
        """A model that is in memory; ``path`` is what messages call it."""
        return cls(path, {name: _InMemory(tensor) for name, tensor in tensors.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor, in the order of the files."""
        return tuple(self.tensors)

    @property
    def linear_names(self) -> tuple[str, ...]:
        """The matrices that quantization applies to; see `is_linear_weight`."""
        items = self.tensors.items()
        return tuple(name for name, t in items if is_linear_weight(name, t.shape, t.dtype))

    def get(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, in its own element type."""
        return self.tensors[name].whole()

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` - 1 of a tensor, without reading the others."""
        return self.tensors[name].rows(start, stop)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's axes; nothing of it is read."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """What torch calls a tensor's element type; nothing of it is read."""
        return self.tensors[name].dtype

    def content_hash(self) -> str:
        """SHA-256 over the names and bytes of the files that hold the tensors, as hex digits."""
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as handle:
                total.update(f"{file.name} {file.stat().st_size}\0".encode())
                total.update(hashlib.file_digest(handle, "sha256").digest())
        return total.hexdigest()


def is_linear_weight(name: str, shape: Sequence[int], dtype: str) -> bool:
    """Whether a tensor is the 2-D weight of a linear layer: not an embedding, head or norm.

    Args:
        name: its name, in any of the usual conventions.
        shape: its axes.
        dtype: what torch calls its element type.
    """
    return (
        len(shape) == 2
        and "float" in dtype
        and name.endswith("weight")
        and not _NOT_LINEAR.search(name)
    )


def open_source(path: str | Path) -> ModelSource:
    """Open a folder with safetensors files, one such file, or a GGUF file.

    Raises:
        UnusableModel: it is none of these.
        CorruptFile: a file is truncated or altered.
        MissingPackage: safetensors or gguf is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UnusableModel(f"there is no model at '{path}'")
    if path.suffix == ".safetensors":
        return _safetensors(path, [path])
    if path.suffix == ".gguf":
        return _gguf(path)
    raise UnusableModel(
        f"'{path}' is no model: give a folder with .safetensors files, "
        "a .safetensors file or a .gguf file"
    )


def _folder(folder: Path) -> ModelSource:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _read_index(index)
        files = [folder / part for part in sorted(set(listed.values()))]
    else:
        listed = {}
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UnusableModel(f"the folder '{folder}' has no .safetensors files")
    weights = {file.name for file in files} | {index.name}
    others = tuple(
        sorted(f for f in folder.iterdir() if f.suffix in (".json", ".txt", ".model", ".jinja"))
    )
    source = _safetensors(folder, files, tuple(f for f in others if f.name not in weights))
    absent = set(listed) - set(source.names)
    if absent:
        raise CorruptFile(f"'{index}' lists {min(absent)}, which no file of the folder holds")
    return source


def _read_index(file: Path) -> dict[str, str]:
    """Tensor name -> the file in the same folder that holds it."""
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        parts = {str(name): str(part) for name, part in listed.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptFile(f"'{file}' is no index of safetensors files") from error
    for part in parts.values():
        if Path(part).name != part:
            raise CorruptFile(f"'{file}' names the file '{part}' outside its folder")
    return parts


@dataclass(frozen=True, slots=True)
class _InMemory:
    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        return str(self.tensor.dtype).removeprefix("torch.")

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor[start:stop]

    def whole(self) -> torch.Tensor:
        return self.tensor


@dataclass(frozen=True, slots=True)
class _InSafetensors:
    """A tensor of an open safetensors file, which is mapped and not read."""

    handle: Any
    name: str
    shape: tuple[int, ...]
    dtype: str

    def rows(self, start: int, stop: int) -> torch.Tensor:
        part: torch.Tensor = self.handle.get_slice(self.name)[start:stop]
        return part

    def whole(self) -> torch.Tensor:
        tensor: torch.Tensor = self.handle.get_tensor(self.name)
        return tensor


def _safetensors(path: Path, files: list[Path], companions: tuple[Path, ...] = ()) -> ModelSource:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing("safetensors", "torch") from error
    tensors: dict[str, Stored] = {}
    for file in files:
        try:
            handle: Any = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CorruptFile(f"'{file}' is no whole safetensors file: {error}") from error
        for name in list(handle.keys()):
            part = handle.get_slice(name)
            shape, code = tuple(part.get_shape()), part.get_dtype()
            tensors[name] = _InSafetensors(handle, name, shape, _TORCH_NAMES.get(code, code))
    return ModelSource(path, tensors, companions, tuple(files))


@dataclass(frozen=True, slots=True)
class _InGguf:
    """A tensor of a mapped GGUF file; its blocks lie along rows, which are dequantized alone."""

    entry: Any
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return "float64" if self.entry.tensor_type.name == "F64" else "float32"

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self._decoded(self.entry.data[start:stop])

    def whole(self) -> torch.Tensor:
        return self._decoded(self.entry.data)

    def _decoded(self, data: Any) -> torch.Tensor:
        import gguf
        import torch

        return torch.from_numpy(gguf.dequantize(data, self.entry.tensor_type).copy())


def _gguf(path: Path) -> ModelSource:
    try:
        import gguf
    except ImportError as error:
        raise missing("gguf", "model") from error
    try:
        entries = gguf.GGUFReader(path).tensors
        tensors: dict[str, Stored] = {
            entry.name: _InGguf(entry, tuple(int(n) for n in reversed(entry.shape)))
            for entry in entries
        }
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise CorruptFile(f"'{path}' is no whole GGUF file: {error}") from error
    return ModelSource(path, tensors, (), (path,))
