"""GGUF blocks against gguf-py 0.19 and, where it is installed, ggml's own C: byte for byte.

gguf-py encodes Q4_0, Q4_1, Q5_0, Q8_0 and MXFP4, and decodes every format here. ggml's C (in the
llama_cpp_python wheel) also encodes IQ4_NL, Q4_K and NVFP4, by searches that no format says:
there the comparison is that fmtc reads its bytes to the same numbers.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compatibility import (
    Outcome,
    comparison,
    differing_floats,
    differing_rows,
    peer_module,
    run_comparisons,
)
from fmtc import load
from numpy.typing import NDArray
from peer_blocks import blocks_for, read, stored, zero_blocks

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

#: Our recipe, gguf's name of it, elements and bytes of a record, and the least and the largest
#: power of two whose block fp16 scales hold (gguf-py stores Inf past it, fmtc the largest).
FORMATS = {
    "q4_0": ("Q4_0", 32, 18, (-40, 18)),
    "q4_1": ("Q4_1", 32, 20, (-40, 15)),
    "q5_0": ("Q5_0", 32, 22, (-40, 19)),
    "q8_0": ("Q8_0", 32, 34, (-40, 22)),
    "iq4_nl": ("IQ4_NL", 32, 18, (-40, 22)),
    "q4_k": ("Q4_K", 256, 144, (-20, 15)),
    "gguf_mxfp4": ("MXFP4", 32, 17, (-110, 100)),
    "gguf_nvfp4": ("NVFP4", 64, 36, (-8, 8)),
}
ENCODED = ("q4_0", "q4_1", "q5_0", "q8_0", "gguf_mxfp4")
SEARCHED = ("iq4_nl", "q4_k", "gguf_nvfp4")


def gguf_encoded(name: str, x: F32) -> U8:
    gguf = peer_module("gguf")
    with np.errstate(all="ignore"):
        return np.asarray(gguf.quants.quantize(x, kind(name)))


def gguf_decoded(name: str, records: U8) -> F32:
    gguf = peer_module("gguf")
    with np.errstate(all="ignore"):
        return np.asarray(gguf.quants.dequantize(records, kind(name)))


def kind(name: str) -> Any:
    return getattr(peer_module("gguf").GGMLQuantizationType, FORMATS[name][0])


def ggml() -> Any:
    """ggml's C library, which the llama_cpp_python wheel carries."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        pytest.skip("the peer ggml (llama_cpp_python) is not installed")
    return ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml-base.so"))


def c_name(name: str) -> str:
    return {"q4_k": "q4_K"}.get(name, name.removeprefix("gguf_"))


def ggml_encoded(name: str, x: F32) -> U8:
    _, elements, size, _ = FORMATS[name]
    out = np.zeros((len(x), x.shape[1] // elements * size), np.uint8)
    encode = getattr(ggml(), f"quantize_row_{c_name(name)}_ref")
    encode(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(x.size))
    return out


def ggml_decoded(name: str, records: U8) -> F32:
    _, elements, size, _ = FORMATS[name]
    records = np.ascontiguousarray(records)
    out = np.zeros((len(records), records.shape[1] // size * elements), np.float32)
    decode = getattr(ggml(), f"dequantize_row_{c_name(name)}")
    decode(
        ctypes.c_void_p(records.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_int64(out.size),
    )
    return out


def numbers(name: str) -> F32:
    """One record a row."""
    _, elements, _, (low, high) = FORMATS[name]
    blocks = blocks_for(load(name), 32 if elements == 32 else elements, low=low, high=high)
    return np.concatenate([blocks, zero_blocks(elements)])


def ours(name: str, x: F32) -> U8:
    return stored(load(name), x)["records"]
