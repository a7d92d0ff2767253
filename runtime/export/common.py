"""What every export shares: its result, the checkpoint it reads, and the files that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import Checkpoint
from ..errors import CorruptFile, RefusedInput, UnusableModel
from ..manifest import INDEX, read_manifest
from ..safetensors_stream import SafetensorsWriter

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
#: A file of weights is closed when it has grown past this.
SHARD_BYTES = 900_000_000

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""

#: What safetensors calls torch's element types.
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote, and what its check found when it had read that back.

    Attributes:
        path: the folder or file.
        to: the kind of export.
        packed: matrices whose codes and scales were copied.
        plain: matrices that were decoded and rounded once to ``dtype``.
        dtype: of what is plain.
        differing: elements of packed matrices that the peer's own library decodes to another
            number than fmtc does, both rounded to the type that the library decodes to.
        largest: the largest such difference, divided by the larger magnitude of the two.
        notes: what else there is to know, a sentence each.
    """

    path: Path
    to: str
    packed: tuple[str, ...]
    plain: tuple[str, ...]
    dtype: str
    differing: int = 0
    largest: float = 0.0
    notes: tuple[str, ...] = ()


def open_checked(folder: str | Path) -> Checkpoint:
    """The checkpoint, every file of it checked.

    Raises:
        CorruptFile: a file is absent, truncated or altered.
    """
    checkpoint = Checkpoint(folder)
    checkpoint.check_files()
    return checkpoint


def need_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """``config.json`` without what it says of fmtc.

    Raises:
        UnusableModel: there is none.
    """
    file = checkpoint.folder / CONFIG
    if not file.is_file():
        raise UnusableModel(
            f"'{checkpoint.folder}' has no {CONFIG}, so nothing says which model this is: only "
            "the export to bf16 does without"
        )
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    return config


def write_config(folder: Path, config: dict[str, Any], dtype: str) -> None:
    """``config.json`` with the element type that the model is to be loaded in."""
    said = {key: value for key, value in config.items() if key != "torch_dtype"}
    said["dtype"] = dtype
    (folder / CONFIG).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def companions(checkpoint: Checkpoint) -> list[Path]:
    """The files that came with the model: its tokenizer, templates and such, and its config."""
    files = read_manifest(checkpoint.folder)["files"]
    return [
        checkpoint.folder / name
        for name in files
        if not name.endswith(".safetensors") and name != INDEX and Path(name).name == name
    ]


def refuse_taken(out: str | Path) -> Path:
    """The path, where nothing stands or an empty folder.

    Raises:
        FileExistsError: something does.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"'{out}' exists: it is left as it is; name another")
    return out


def float_type(dtype: str) -> torch.dtype:
    """A float type of torch by its name.

    Raises:
        RefusedInput: there is none of this name among those that a model is stored in.
    """
    import torch

    if dtype not in ("bfloat16", "float16", "float32"):
        raise RefusedInput(f"no dtype '{dtype}' to export: there are bfloat16, float16 and float32")
    found: torch.dtype = getattr(torch, dtype)
    return found


def decoded(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> torch.Tensor:
    """A packed matrix decoded in binary32 and rounded once to ``dtype``.

    Raises:
        RefusedInput: a finite value is past the type's range.
    """
    import torch

    packed = checkpoint.quantized(name)
    exact = torch.from_numpy(packed.to_float32().reshape(packed.shape))
    return narrowed(exact, dtype, name)


def narrowed(exact: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """A tensor of floats in another type, rounded once; others as they are.

    Raises:
        RefusedInput: a finite value is past the type's range.
    """
    if not exact.is_floating_point() or exact.dtype == dtype:
        return exact
    rounded = exact.to(dtype)
    if not bool((rounded.isfinite() | ~exact.isfinite()).all()):
        raise RefusedInput(
            f"{name}: values up to {float(exact.abs().max()):.3g} do not fit {dtype}: "
            "export with --dtype bfloat16"
        )
    return rounded


class Shards:
    """Writes a model's tensors into files of a folder, with memory for one of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers = [self._begin(1)]

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append a tensor."""
        import torch

        tensor = tensor.detach().contiguous()
        writer = self._writers[-1]
        if writer.size >= SHARD_BYTES:
            writer = self._begin(len(self._writers) + 1)
            self._writers.append(writer)
        code = _CODES[str(tensor.dtype).removeprefix("torch.")]
        octets = tensor.reshape(-1).view(torch.uint8).numpy()
        writer.add(name, code, tuple(tensor.shape), octets.data)

    def finish(self) -> None:
        """Close the files under the names that Hugging Face gives them, and index several."""
        count = len(self._writers)
        homes: dict[str, str] = {}
        for number, writer in enumerate(self._writers, start=1):
            name = f"model-{number:05d}-of-{count:05d}.safetensors"
            homes |= dict.fromkeys(writer.keys, name)
            writer.close()
            writer.path.rename(self._folder / ("model.safetensors" if count == 1 else name))
        if count > 1:
            total = sum(writer.size for writer in self._writers)
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(homes.items()))}
            (self._folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")

    def _begin(self, number: int) -> SafetensorsWriter:
        return SafetensorsWriter(self._folder / f"part-{number:05d}.safetensors")


def read_back(folder: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> what reads the tensor from the files that were written."""
    from safetensors import safe_open

    found: dict[str, Callable[[], torch.Tensor]] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        handle: Any = safe_open(file, framework="pt")
        for name in list(handle.keys()):
            found[name] = partial(handle.get_tensor, name)
    return found


def same_bits(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether two tensors are of one type and shape, and equal in every bit."""
    import torch

    return (
        found.dtype == wanted.dtype
        and found.shape == wanted.shape
        and torch.equal(
            found.contiguous().reshape(-1).view(torch.uint8),
            wanted.contiguous().reshape(-1).view(torch.uint8),
        )
    )


def refuse_unlike(folder: Path, name: str) -> CorruptFile:
    """The error for a tensor that is not read back as it was written."""
    return CorruptFile(
        f"'{folder}': {name} is not read back as it was written; nothing is left there: the disk "
        "or the memory is at fault"
    )
