"""What a run's tasks take of memory: estimated before they start, measured when they end.

The bound is 1.5 times the largest decoder layer in float32, in which it is computed. Tasks are
carried out side by side as long as their estimates together stay below it; a task alone is
always carried out, and ``FLOOR`` is always allowed: a process takes more than that by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sources import ModelSource

#: Allowed for however small a model.
FLOOR = 64 << 20

#: Of the largest layer.
SHARE = 1.5

#: Bytes of a task for each element of the largest matrix of its unit, beside the tensor as it is
#: stored: its float32 values, what they decode to, and temporaries (pieces of rows).
PER_ELEMENT = {"profile": 18, "pack": 12}

_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_LAYER = re.compile(r"(?:.*?\.)?\d+(?=\.)")


def largest_layer(source: ModelSource) -> int:
    """Bytes of the largest decoder layer in float32: matrices with one name up to its number.

    Matrices outside of any numbered layer are a layer each.
    """
    sizes: dict[str, int] = {}
    for name in source.linear_names:
        match = _LAYER.match(name)
        layer = match[0] if match else name
        sizes[layer] = sizes.get(layer, 0) + 4 * math.prod(source.shape(name))
    return max(sizes.values(), default=0)


def stored_bytes(source: ModelSource, name: str) -> int:
    """Bytes of a tensor in its file's element type."""
    return math.prod(source.shape(name)) * _ITEM_BYTES.get(source.dtype(name), 4)


def working_bytes(source: ModelSource, members: Sequence[str], stage: str) -> int:
    """Estimate of what a task holds at once: one matrix of its unit, the largest."""
    return max(_one(source, name, stage) for name in members)


def _one(source: ModelSource, name: str, stage: str) -> int:
    rows, columns = source.shape(name)
    return rows * columns * PER_ELEMENT[stage] + stored_bytes(source, name)


def bound(source: ModelSource) -> int:
    """What tasks that are carried out side by side may take together."""
    return max(FLOOR, int(SHARE * largest_layer(source)))


def forget_peak() -> None:
    """Let the kernel count this process's peak anew; where it cannot, the peak is that so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_bytes() -> int:
    """The most resident memory of this process since ``forget_peak``."""
    return _status().get("VmHWM", 0) or _portable_peak()


def resident_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not say."""
    return _status().get("VmRSS", 0)


def _status() -> Mapping[str, int]:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in fields}


def _portable_peak() -> int:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
