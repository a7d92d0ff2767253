"""Which formats GGUF has as types, and a packed matrix as the blocks that it stores.

Source: gguf-py 0.19, constants.GGML_QUANT_SIZES; ggml, ggml-common.h.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ...compiler.records import to_records
from ..format import Format, load
from ..quantized import QuantizedTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A shipped format that reads the blocks of a type -> what GGUF calls the type.
TYPES = {
    "q4_0": "Q4_0",
    "q4_1": "Q4_1",
    "q5_0": "Q5_0",
    "q8_0": "Q8_0",
    "q4_k": "Q4_K",
    "iq4_nl": "IQ4_NL",
    "gguf_mxfp4": "MXFP4",
    "gguf_nvfp4": "NVFP4",
}
#: What llama.cpp calls a file that is mostly of a type.
FILE_TYPES = {
    "Q4_0": "MOSTLY_Q4_0",
    "Q4_1": "MOSTLY_Q4_1",
    "Q5_0": "MOSTLY_Q5_0",
    "Q8_0": "MOSTLY_Q8_0",
    "Q4_K": "MOSTLY_Q4_K_M",
    "IQ4_NL": "MOSTLY_IQ4_NL",
    "MXFP4": "MOSTLY_MXFP4_MOE",
    "NVFP4": "MOSTLY_NVFP4",
}


def type_of(fmt: Format) -> str | None:
    """What GGUF calls the type that decodes as this format does, or None.

    Rules of encoding may be others: they decide which bytes there are, not what they mean.
    """
    for name, kind in TYPES.items():
        if _meaning(fmt, blocks=True) == _meaning(load(name), blocks=True):
            return kind
    plain = {"gguf_mxfp4"} if fmt.record is None else set()
    for name in plain:
        if _meaning(fmt, blocks=False) == _meaning(load(name), blocks=False):
            return TYPES[name]
    return None


def blocks_of(q: QuantizedTensor, kind: str) -> NDArray[Any]:
    """The blocks of a packed matrix as uint8 [rows, bytes], in the layout of its type."""
    if q.format.record is not None:
        return q.streams["records"]
    target = load(next(name for name, said in TYPES.items() if said == kind))
    return to_records(target, q.streams, q.shape[0], q.length)


@cache
def _meaning(fmt: Format, *, blocks: bool) -> tuple[object, ...]:
    """Everything that decides what bytes mean; without ``blocks``, but for their order in one."""
    scale, zero = fmt.scale, fmt.zero
    return (
        fmt.extent,
        fmt.block,
        fmt.tile,
        tuple(grid.values for grid in fmt.grids),
        scale.word.number.exponent,
        scale.word.number.mantissa,
        scale.word.number.bias,
        scale.word.container,
        scale.tensor,
        scale.shift,
        None if scale.stored is None else _inner(scale.stored, blocks),
        zero and (zero.kind, zero.bits, zero.word, zero.negated),
        None if zero is None or zero.stored is None else _inner(zero.stored, blocks),
        fmt.select,
        fmt.sides,
        fmt.order if not blocks else None,
        fmt.record if blocks else None,
    )


def _inner(stored: Any, blocks: bool) -> tuple[object, ...]:
    return _meaning(Format.of(stored), blocks=blocks)
