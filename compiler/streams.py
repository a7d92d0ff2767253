"""The shapes of a tensor's packed streams."""

from __future__ import annotations

from .arrange import Arrangement
from .format import Format
from .items import record_bytes

#: The one stream of an interleaved layout.
RECORDS = "records"
#: The second level of ``tensor rows``: one binary32 number a row.
LEVELS = "levels"
#: What is subtracted from scales before they are stored: ``scales.center``.
CENTER = "center"


def stream_shapes(fmt: Format, rows: int, length: int) -> dict[str, tuple[int, int]]:
    """Stream name -> rows and bytes, of every stream whose size the format alone decides.

    The streams of ``sides`` depend on the tensor and are not among them.

    Args:
        fmt: the format.
        rows: rows of the tensor: all its axes but the last.
        length: elements of a row.
    """
    if fmt.record is not None:
        return {RECORDS: (rows, length // fmt.record.elements * record_bytes(fmt))}
    block_rows, block_columns = Arrangement.of(fmt, rows, length).block_shape
    shapes: dict[str, tuple[int, int]] = {}
    for stream in fmt.streams:
        if stream.per == "element":
            shapes[stream.name] = (rows, -(-length * stream.bits // 8))
        else:
            shapes[stream.name] = (block_rows, -(-block_columns * stream.bits // 8))
    if fmt.scale.tensor == "rows":
        shapes[LEVELS] = (rows, 4)
    for name, owner in (("scales", fmt.scale), ("zeros", fmt.zero)):
        if owner is None or owner.stored is None:
            continue
        flat = (1, block_rows * block_columns) if owner.flat else (block_rows, block_columns)
        inner = stream_shapes(owner.stored, *flat)
        shapes |= {f"{name}.{part}": shape for part, shape in inner.items()}
        if owner.center:
            shapes[f"{name}.{CENTER}"] = (1, 4)
    return shapes
