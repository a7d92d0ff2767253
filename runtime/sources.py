"""Where a model's tensors come from: a Hugging Face folder, a safetensors file, a GGUF file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CorruptFile, UnusableModel, missing

if TYPE_CHECKING:
    import torch

#: 2-D weights with one of these in their name are tables or heads, not linear layers.
_NOT_LINEAR = re.compile(
    r"(embed|embd|lm_head|^output\.|norm|\bwte\b|\bwpe\b|rotary|position)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model as named tensors, read one at a time.

    Attributes:
        path: where it lies.
        names: every tensor, in the order of the files.
        get: name -> torch tensor on the CPU.
        companions: files (config, tokenizer ...) that belong to the model.
    """

    path: Path
    names: tuple[str, ...]
    get: Callable[[str], torch.Tensor]
    companions: tuple[Path, ...] = ()


def is_linear_weight(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor is the 2-D weight of a linear layer: not an embedding, head or norm."""
    return (
        tensor.ndim == 2
        and tensor.is_floating_point()
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


def _safetensors(path: Path, files: list[Path], companions: tuple[Path, ...] = ()) -> ModelSource:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing("safetensors", "torch") from error
    homes: dict[str, Any] = {}
    for file in files:
        try:
            handle = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CorruptFile(f"'{file}' is no whole safetensors file: {error}") from error
        homes.update(dict.fromkeys(_keys(handle), handle))

    def get(name: str) -> torch.Tensor:
        tensor: torch.Tensor = homes[name].get_tensor(name)
        return tensor

    return ModelSource(path, tuple(homes), get, companions)


def _keys(handle: Any) -> list[str]:
    return list(handle.keys())


def _gguf(path: Path) -> ModelSource:
    try:
        import gguf
    except ImportError as error:
        raise missing("gguf", "model") from error
    import torch

    try:
        entries = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise CorruptFile(f"'{path}' is no whole GGUF file: {error}") from error

    def get(name: str) -> torch.Tensor:
        entry = entries[name]
        values = gguf.dequantize(entry.data, entry.tensor_type)
        return torch.from_numpy(values.copy())

    return ModelSource(path, tuple(entries), get)
