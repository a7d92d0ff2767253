"""A checkpoint as a folder of compressed-tensors: NVFP4, MXFP4 and integers, as vLLM reads them.

What is written is read back and decoded by the library itself, and compared with what fmtc
decodes: integers and MXFP4 to the same bits; NVFP4 to the same bfloat16 but where the library's
division by the inverse of the tensor scale rounds to another one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from ..atomic import folder_atomically
from ..checkpoint import Checkpoint
from ..errors import CorruptFile, RefusedInput, missing
from ..models.common import quiet
from ..models.loading import need_transformers
from ..plan import units_of
from .common import (
    Exported,
    Progress,
    Shards,
    companions,
    decoded,
    float_type,
    need_config,
    open_checked,
    read_back,
    refuse_taken,
    refuse_unlike,
    same_bits,
    write_config,
)
from .schemes import INTEGER, NVFP4, Scheme, scheme_of, tensors_of

if TYPE_CHECKING:
    import torch

_WEIGHT = ".weight"
#: bfloat16 has 8 bits: neighbours lie at most 2^-7 apart.
_NEIGHBOUR = 2.0**-7

_Read = Mapping[str, Callable[[], Any]]


def export_compressed_tensors(
    folder: str | Path, out: str | Path, dtype: str | None, mixed: bool, progress: Progress | None
) -> Exported:
    """See ``export``."""
    _need_library()
    out, checkpoint = refuse_taken(out), open_checked(folder)
    config = need_config(checkpoint)
    schemes, plain = _schemes(checkpoint, mixed)
    chosen = dtype or _dtype(schemes)
    kind = float_type(chosen)
    with folder_atomically(out) as place:
        _write(place, checkpoint, schemes, plain, kind, progress)
        for file in companions(checkpoint):
            copyfile(file, place / file.name)
        config["quantization_config"] = _quantization_config(checkpoint, schemes)
        write_config(place, config, chosen)
        differing, largest = _check(place, checkpoint, schemes, plain, kind, progress)
    notes = (*_notes(schemes, chosen, differing), *_fused_note(out, checkpoint, schemes))
    return Exported(
        out, "compressed-tensors", tuple(schemes), plain, chosen, differing, largest, notes
    )


def _need_library() -> None:
    need_transformers()
    if importlib.util.find_spec("compressed_tensors") is None:
        raise missing("compressed-tensors", "export")
    with quiet():
        for part in ("compressors", "quantization"):
            importlib.import_module(f"compressed_tensors.{part}")


def _schemes(checkpoint: Checkpoint, mixed: bool) -> tuple[dict[str, Scheme], tuple[str, ...]]:
    """The scheme of every matrix that has one, and the names of the others."""
    schemes, plain = {}, []
    for name in checkpoint.quantized_names:
        fmt, shape = checkpoint.format_of(name), checkpoint.shape(name)
        found = scheme_of(fmt, shape[-1])
        if isinstance(found, Scheme) and len(shape) == 2 and name.endswith(_WEIGHT):
            schemes[name] = found
        elif mixed:
            plain.append(name)
        else:
            why = found if isinstance(found, str) else f"it has the shape {shape}"
            raise RefusedInput(
                f"{name} is in '{fmt.name}', which compressed-tensors lacks: {why}. Quantize it "
                "in nvfp4_compressed_tensors, mxfp4 or int4_sym_g128, export with --mixed, which "
                "writes such matrices decoded, or export to bf16"
            )
    if not schemes:
        raise RefusedInput(
            f"'{checkpoint.folder}' has no matrix that compressed-tensors packs: export to bf16"
        )
    return schemes, tuple(plain)


def _dtype(schemes: Mapping[str, Scheme]) -> str:
    """In which type the library runs the model as it was measured."""
    # It decodes FP4 to bfloat16 whatever the model is; scales of integers are binary32.
    only_integers = all(scheme.format == INTEGER for scheme in schemes.values())
    return "float32" if only_integers else "bfloat16"


def _write(
    place: Path,
    checkpoint: Checkpoint,
    schemes: Mapping[str, Scheme],
    plain: tuple[str, ...],
    kind: torch.dtype,
    progress: Progress | None,
) -> None:
    shards, total = Shards(place), len(checkpoint.names)
    for done, name in enumerate(checkpoint.names):
        if progress:
            progress("writing", done, total)
        if name not in schemes:
            shards.add(name, _kept(checkpoint, name, plain, kind))
            continue
        for key, tensor in _packed(checkpoint, name, schemes[name]).items():
            shards.add(key, tensor)
    shards.finish()


def _kept(
    checkpoint: Checkpoint, name: str, plain: tuple[str, ...], kind: torch.dtype
) -> torch.Tensor:
    return decoded(checkpoint, name, kind) if name in plain else checkpoint.tensor(name)


def _packed(checkpoint: Checkpoint, name: str, scheme: Scheme) -> dict[str, torch.Tensor]:
    try:
        parts = tensors_of(checkpoint.quantized(name), scheme)
    except RefusedInput as error:
        raise RefusedInput(f"{name}: {error}") from error
    stem = name.removesuffix(_WEIGHT)
    return {f"{stem}.{part}": tensor for part, tensor in parts.items()}


def _quantization_config(checkpoint: Checkpoint, schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """What the library needs to know: a group for every scheme, and the layers that it leaves."""
    groups: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(name.removesuffix(_WEIGHT))
    layers = {name.removesuffix(_WEIGHT) for name in schemes}
    kept = [
        name.removesuffix(_WEIGHT)
        for name in checkpoint.names
        if name.endswith(_WEIGHT) and len(checkpoint.shape(name)) == 2
    ]
    # A head that is tied to the embedding is in no file, and is a linear layer none the less.
    ignore = sorted({*kept, "lm_head"} - layers)
    formats = sorted({scheme.format for scheme in groups})
    return {
        "quant_method": "compressed-tensors",
        "format": formats[0] if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "config_groups": {
            f"group_{number}": {
                "targets": targets,
                "format": scheme.format,
                "weights": scheme.weights(),
                "input_activations": None,
                "output_activations": None,
            }
            for number, (scheme, targets) in enumerate(groups.items())
        },
        "ignore": ignore,
    }


def _check(
    place: Path,
    checkpoint: Checkpoint,
    schemes: Mapping[str, Scheme],
    plain: tuple[str, ...],
    kind: torch.dtype,
    progress: Progress | None,
) -> tuple[int, float]:
    """Read all back; how many elements the library decodes to another number, and how far."""
    written, total = read_back(place), len(checkpoint.names)
    differing, largest = 0, 0.0
    for done, name in enumerate(checkpoint.names):
        if progress:
            progress("reading back", done, total)
        if name not in schemes:
            if not same_bits(written[name](), _kept(checkpoint, name, plain, kind)):
                raise refuse_unlike(place, name)
            continue
        count, apart = _difference(checkpoint, name, schemes[name], written)
        bound = _NEIGHBOUR if schemes[name].format == NVFP4 else 0.0
        if apart > bound:
            raise CorruptFile(
                f"'{place}': compressed-tensors decodes {name} to other values, by up to "
                f"{apart:.1e} of them: nothing is left there"
            )
        differing, largest = differing + count, max(largest, apart)
    return differing, largest


def _difference(
    checkpoint: Checkpoint, name: str, scheme: Scheme, written: _Read
) -> tuple[int, float]:
    """The library's own decoding of a matrix, against ours in the type that it decodes to."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    stem = name.removesuffix(_WEIGHT)
    state = {
        key.removeprefix(f"{stem}."): read()
        for key, read in written.items()
        if key.rpartition(".")[0] == stem and not key.endswith(".bias")
    }
    said = QuantizationScheme(targets=[stem], weights=scheme.weights(), format=scheme.format)
    library = BaseCompressor.get_value_from_registry(scheme.format)
    theirs = library.decompress(state, said)["weight"]
    q = checkpoint.quantized(name)
    ours = torch.from_numpy(q.to_float32().reshape(q.shape)).to(theirs.dtype)
    apart = theirs != ours
    if not bool(apart.any()):
        return 0, 0.0
    a, b = theirs[apart].double(), ours[apart].double()
    return int(apart.sum()), float(((a - b).abs() / torch.maximum(a.abs(), b.abs())).max())


def _fused_note(
    out: Path, checkpoint: Checkpoint, schemes: Mapping[str, Scheme]
) -> tuple[str, ...]:
    """What to know where matrices that kernels stack have tensor scales of their own."""
    names = [name for name, scheme in schemes.items() if scheme.format == NVFP4]
    shapes = {name: checkpoint.shape(name) for name in names}
    written, apart = read_back(out), 0
    for unit in units_of(names, shapes):
        keys = (f"{n.removesuffix(_WEIGHT)}.weight_global_scale" for n in unit.members)
        apart += len({float(written[key]()) for key in keys}) > 1
    if not apart:
        return ()
    note = (
        f"{apart} fused units (q/k/v, gate/up) have a tensor scale for each member: vLLM and "
        "SGLang take one for all, and so run other weights; transformers runs these. A format "
        "without a tensor scale (nvfp4_one_level, mxfp4) runs alike everywhere"
    )
    return (note,)


def _notes(schemes: Mapping[str, Scheme], dtype: str, differing: int) -> tuple[str, ...]:
    formats = {scheme.format for scheme in schemes.values()}
    notes = []
    if INTEGER in formats and dtype != "float32":
        notes.append(
            f"scales of integers are stored as float32; what loads the model in {dtype} rounds "
            "them, and with them every weight"
        )
    if formats - {INTEGER} and dtype == "float32":
        notes.append("compressed-tensors decodes FP4 to bfloat16 and does not run it in float32")
    if any(not scheme.symmetric for scheme in schemes.values()):
        notes.append(
            "transformers 5.23 loads no zero points of compressed-tensors 0.20, its own neither, "
            "unless told to decode: quantization_config=CompressedTensorsConfig(dequantize=True)"
        )
    if differing:
        notes.append(
            "it divides block scales by the inverse of the tensor scale, which rounds "
            f"{differing} elements to the next bfloat16"
        )
    return tuple(notes)
