"""Any format, end to end: what stands around and beside the elements that a kernel does.

Outliers are taken out, blocks arranged, scales chosen and stored, elements encoded by an
*engine*, residuals added, and streams laid out in records; decoding goes the way back.
"""

from __future__ import annotations

import numpy as np

from .elements import U8
from .engine import Engine, ReferenceEngine
from .format import Format
from .general import decode_general, encode_general
from .kernel import dense_format, kernel_format
from .narrow import Decoded, narrow
from .reference import TensorLevel
from .sides import (
    add_residuals,
    from_streams,
    put_outliers,
    residuals,
    take_outliers,
    to_streams,
)
from .streams import RECORDS
from .thresholds import F32


def encode(
    fmt: Format,
    x: F32,
    level: TensorLevel,
    engine: Engine | None = None,
    weights: F32 | None = None,
) -> dict[str, U8]:
    """Encode rows of any format.

    Args:
        fmt: the format.
        x: float32 [rows, n]; finite, or with NaN where the format propagates it.
        level: the tensor's second level, from ``reference.calibrate``.
        engine: does the elements, for ``kernel_format(fmt)``; None: the reference.
        weights: float32 [n], not negative: how much the squared error of each column counts
            under ``error weighted``, its product under ``error cosine``, and its error in
            ``side wr``; None: all 1.

    Returns:
        Stream name -> uint8 [stream rows, bytes]; see ``streams.stream_shapes``.
    """
    engine = engine or ReferenceEngine(kernel_format(fmt))
    rows, length = x.shape
    streams: dict[str, U8] = {}
    rest = x
    kept = {}
    for side in fmt.sides:
        if side.kind == "opq":
            rest, kept[side.kind] = take_outliers(side, rest, fmt.block, engine.blocks)
            streams |= to_streams(side, kept[side.kind], x.size)
    dense = _encode_dense(fmt, rest, level, engine, weights)
    for side in fmt.sides:
        if side.kind == "wr":
            decoded = _decode_dense(fmt, dense, length, level, engine)
            for other in fmt.sides:
                if other.kind == "opq":
                    put_outliers(other, decoded, kept[other.kind])
            streams |= to_streams(side, residuals(side, x, decoded, weights, engine.blocks), x.size)
    if fmt.record is not None:
        return {RECORDS: engine.blocks.to_records(fmt, dense, rows, length)} | streams
    return dense | streams


def decode(
    fmt: Format,
    streams: dict[str, U8],
    length: int,
    level: TensorLevel,
    engine: Engine | None = None,
    dtype: str = "float32",
) -> Decoded:
    """Decode rows of any format: [rows, length]; the inverse of ``encode``.

    Each value is rounded once to binary32, and then to ``dtype`` (see ``narrow``).
    """
    engine = engine or ReferenceEngine(kernel_format(fmt))
    dense = streams
    if fmt.record is not None:
        dense = engine.blocks.from_records(fmt, streams[RECORDS], length)
    if not fmt.sides:
        return _decode_dense(fmt, dense, length, level, engine, dtype)
    decoded = _decode_dense(fmt, dense, length, level, engine)
    for side in fmt.sides:
        sparse = from_streams(side, streams, decoded.size)
        if side.kind == "opq":
            put_outliers(side, decoded, sparse)
        else:
            add_residuals(side, decoded, sparse)
    return narrow(decoded, dtype)


def _encode_dense(
    fmt: Format, x: F32, level: TensorLevel, engine: Engine, weights: F32 | None
) -> dict[str, U8]:
    rows = np.ascontiguousarray(x)
    if dense_format(fmt).is_plain:
        return engine.encode(rows, level)
    return encode_general(dense_format(fmt), rows, level, engine, weights)


def _decode_dense(
    fmt: Format,
    streams: dict[str, U8],
    length: int,
    level: TensorLevel,
    engine: Engine,
    dtype: str = "float32",
) -> Decoded:
    dense = dense_format(fmt)
    if dense.is_plain:
        own = {stream.name: streams[stream.name] for stream in dense.streams}
        return engine.decode(own, length, level, dtype)
    return decode_general(dense, streams, length, level, engine, dtype)
