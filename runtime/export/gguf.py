"""A checkpoint as a GGUF file: blocks of ggml's types, copied byte for byte, of a Llama.

Rows of q and k are put in the order that llama.cpp's rotary embedding wants; packed rows are rows
of bytes, so that changes no bit of them. The file is read back, and decoded by gguf-py.
"""

from __future__ import annotations

import importlib.util
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint import Checkpoint
from ..errors import CorruptFile, RefusedInput, UnusableModel, missing
from .common import (
    Exported,
    Progress,
    decoded,
    float_type,
    need_config,
    open_checked,
    refuse_taken,
)
from .gguf_model import Llama, add_tokenizer, in_rope_order
from .gguf_types import FILE_TYPES, blocks_of, type_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_PLAIN = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class _Plan:
    """The tensors of a file: of each, GGUF's name and type."""

    checkpoint: Checkpoint
    model: Llama
    names: dict[str, str]
    packed: dict[str, str]
    plain: tuple[str, ...]
    kind: torch.dtype

    def data(self, name: str) -> tuple[NDArray[np.uint8], str]:
        """The bytes of a tensor, uint8 [rows, bytes] or [bytes], and GGUF's name of its type."""
        import torch

        heads = self.model.heads_of(name)
        if name in self.packed:
            blocks = blocks_of(self.checkpoint.quantized(name), self.packed[name])
            return in_rope_order(blocks, heads), self.packed[name]
        if name in self.plain:
            tensor = decoded(self.checkpoint, name, self.kind)
        else:
            tensor = self.checkpoint.tensor(name)
        if tensor.ndim == 1:
            tensor = tensor.float()  # llama.cpp has its norms in binary32
        kind = _PLAIN.get(str(tensor.dtype).removeprefix("torch."))
        if kind is None:
            raise UnusableModel(f"{name} is of {tensor.dtype}, which is not written as GGUF")
        octets = tensor.contiguous().view(torch.uint8).numpy()
        return in_rope_order(octets, heads), kind


def export_gguf(
    folder: str | Path, out: str | Path, dtype: str, mixed: bool, progress: Progress | None
) -> Exported:
    """See ``export``."""
    if importlib.util.find_spec("gguf") is None:
        raise missing("gguf", "model")
    out = refuse_taken(out)
    if out.suffix != ".gguf":
        raise RefusedInput(f"a GGUF file has the ending .gguf, '{out}' has not")
    checkpoint, kind = open_checked(folder), float_type(dtype)
    model = Llama.of(need_config(checkpoint))
    packed, plain = _types(checkpoint, mixed)
    plan = _Plan(checkpoint, model, model.tensor_names(checkpoint), packed, plain, kind)
    with _file_atomically(out) as file:
        _write(file, plan, progress)
        _check(file, plan, progress)
    return Exported(out, "gguf", tuple(packed), plain, dtype)


def _types(checkpoint: Checkpoint, mixed: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """GGUF's type of every matrix that has one, and the names of the others."""
    packed, plain = {}, []
    for name in checkpoint.quantized_names:
        fmt = checkpoint.format_of(name)
        kind = type_of(fmt)
        if kind is not None and _whole(checkpoint.shape(name)[-1], kind):
            packed[name] = kind
        elif mixed:
            plain.append(name)
        else:
            raise RefusedInput(
                f"{name} is in '{fmt.name}', and GGUF has no type of these bytes: quantize it in "
                "q4_0, q4_1, q5_0, q8_0, q4_k, iq4_nl, gguf_mxfp4 or gguf_nvfp4, export with "
                "--mixed, which writes such matrices decoded, or export to bf16"
            )
    return packed, tuple(plain)


def _whole(length: int, kind: str) -> bool:
    import gguf

    elements, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return length % int(elements) == 0


def _write(file: Path, plan: _Plan, progress: Progress | None) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(file, "llama")
    plan.model.describe(writer, plan.checkpoint.folder.resolve().name)
    add_tokenizer(writer, plan.checkpoint.folder, int(plan.model.config["vocab_size"]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[_file_type(plan)])
    # All is said of the tensors before the first is written, so that one is in memory at a time.
    for name, named in plan.names.items():
        data, kind = plan.data(name)
        raw = gguf.GGMLQuantizationType[kind]
        writer.add_tensor_info(named, data.shape, np.dtype(np.uint8), data.nbytes, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, name in enumerate(plan.names):
        if progress:
            progress("writing", done, len(plan.names))
        writer.write_tensor_data(np.ascontiguousarray(plan.data(name)[0]))
    writer.close()


def _file_type(plan: _Plan) -> str:
    if not plan.packed:
        return {"F32": "ALL_F32"}.get(_name(plan.kind), f"MOSTLY_{_name(plan.kind)}")
    (kind, _), *_ = Counter(plan.packed.values()).most_common(1)
    return FILE_TYPES[kind]


def _name(kind: torch.dtype) -> str:
    return _PLAIN[str(kind).removeprefix("torch.")]


def _check(file: Path, plan: _Plan, progress: Progress | None) -> None:
    """Read the file back: every byte as it was written, and gguf-py's decoding of it as ours."""
    import gguf
    import numpy as np

    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for done, (name, named) in enumerate(plan.names.items()):
        if progress:
            progress("reading back", done, len(plan.names))
        octets, kind = plan.data(name)
        tensor = found[named]
        same = tensor.tensor_type.name == kind and tensor.data.tobytes() == octets.tobytes()
        if same and name in plan.packed:
            q = plan.checkpoint.quantized(name)
            ours = in_rope_order(q.to_float32(), plan.model.heads_of(name))
            same = np.array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), ours)
        if not same:
            raise CorruptFile(
                f"'{file}': gguf-py reads {name} otherwise than it was measured: nothing is left"
            )


@contextmanager
def _file_atomically(path: Path) -> Iterator[Path]:
    """A temporary file that takes the name ``path`` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.gguf")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
