"""A checkpoint as a plain Hugging Face folder: decoded weights, which every program loads."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

from ..atomic import folder_atomically
from .common import (
    CONFIG,
    Exported,
    Progress,
    Shards,
    companions,
    decoded,
    float_type,
    narrowed,
    need_config,
    open_checked,
    read_back,
    refuse_taken,
    refuse_unlike,
    same_bits,
    write_config,
)

if TYPE_CHECKING:
    import torch


def export_plain(
    folder: str | Path, out: str | Path, dtype: str, progress: Progress | None
) -> Exported:
    """See ``export``: every matrix decoded in binary32 and rounded once to ``dtype``."""
    out, kind = refuse_taken(out), float_type(dtype)
    checkpoint = open_checked(folder)
    packed = set(checkpoint.quantized_names)

    def tensor(name: str) -> torch.Tensor:
        if name in packed:
            return decoded(checkpoint, name, kind)
        return narrowed(checkpoint.tensor(name), kind, name)

    with folder_atomically(out) as place:
        shards, total = Shards(place), len(checkpoint.names)
        for done, name in enumerate(checkpoint.names):
            if progress:
                progress("writing", done, total)
            shards.add(name, tensor(name))
        shards.finish()
        for file in companions(checkpoint):
            copyfile(file, place / file.name)
        if (place / CONFIG).is_file():
            write_config(place, need_config(checkpoint), dtype)
        written = read_back(place)
        for done, name in enumerate(checkpoint.names):
            if progress:
                progress("reading back", done, total)
            if not same_bits(written[name](), tensor(name)):
                raise refuse_unlike(place, name)
    return Exported(out, "bf16", (), checkpoint.quantized_names, dtype)
