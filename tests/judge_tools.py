"""Checkpoints of a tiny model, for the tests of the judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fmtc
from fmtc.runtime.atomic import folder_atomically
from fmtc.runtime.checkpoint_writer import CheckpointWriter
from fmtc.runtime.sources import open_source


def quantized(
    model: Path, out: Path, name: str = "nvfp4", plan: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkpoint of a model in one format, with a plan."""
    source, fmt = open_source(model), fmtc.load(name)
    with folder_atomically(out) as folder:
        writer = CheckpointWriter(folder)
        for tensor in source.names:
            if tensor in source.linear_names:
                writer.add(tensor, fmt.quantize(source.get(tensor)))
            else:
                writer.keep(tensor, source.get(tensor))
        writer.finish(source.companions, plan)
    return out
