"""GGUF blocks against gguf-py 0.19 and, where it is installed, ggml's own C: byte for byte.

gguf-py encodes Q4_0, Q4_1, Q5_0, Q8_0 and MXFP4, and decodes every format here. ggml's C (in the
llama_cpp_python wheel) also encodes IQ4_NL, Q4_K and NVFP4, by searches that no format says:
there the comparison is that fmtc reads its bytes to the same numbers.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compatibility import (
    Outcome,
    comparison,
    differing_floats,
    peer_module,
    run_comparisons,
)
from fmtc import Format, load
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
SEARCH = "ggml's encoder is a search, no rule of a format: what it stores, read by both"
SEARCHED = {
    "iq4_nl": SEARCH,
    "q4_k": SEARCH,
    "gguf_nvfp4": "ggml stores 448 for every scale from 248 on: what it stores, read by both",
}

#: Of the blocks, which may differ.
Explained = Callable[[F32], NDArray[np.bool_]]


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


@cache
def recipe(name: str) -> Format:
    return load(name)


@cache
def numbers(name: str) -> F32:
    """One record a row."""
    _, elements, _, (low, high) = FORMATS[name]
    blocks = blocks_for(recipe(name), elements, low=low, high=high, count=2048 * 32 // elements)
    return np.concatenate([blocks, zero_blocks(elements)])


def ours(name: str, x: F32) -> U8:
    return stored(recipe(name), x)["records"]


# -- encoding, against the two encoders that are one ------------------------------------------


def encodes(name: str, theirs: Callable[[str, F32], U8], explained: Explained) -> tuple[int, int]:
    """How many blocks were encoded and how many differ: exactly the explained ones."""
    x = numbers(name)
    unequal = (ours(name, x) != theirs(name, x)).any(axis=1)
    assert np.array_equal(unequal, explained(x))
    return len(x), int(unequal.sum())


def none(x: F32) -> NDArray[np.bool_]:
    return np.zeros(len(x), np.bool_)


def zero_first_negative(x: F32) -> NDArray[np.bool_]:
    return ~x.any(axis=1) & np.signbit(x[:, 0])


def least_of_two_zeros(x: F32) -> NDArray[np.bool_]:
    """Where the least element is a zero, and zeros of both signs are there, +0 first."""
    zeros = (x == 0) & (x.min(axis=1, keepdims=True) == 0)
    minus = zeros & np.signbit(x)
    first = np.take_along_axis(minus, zeros.argmax(axis=1)[:, None], axis=1)[:, 0]
    return minus.any(axis=1) & ~first


def log2_rounds_up(x: F32) -> NDArray[np.bool_]:
    """Where the binary32 log2 of a peak below a power of two is rounded to that power."""
    peaks = np.abs(x).max(axis=1)
    with np.errstate(divide="ignore"):
        taken = np.floor(np.log2(peaks))
    return (peaks > 0) & (taken != np.frexp(peaks)[1] - 1)


ALL = "random, tie, edge and zero blocks within fp16 scales"
MINUS_ZERO = "an all-zero block that begins with -0: ggml's scale is -0, fmtc's +0; both read zeros"
SIGN = (
    "least elements +0 and -0 in one block: the minimum's sign follows the order; both read zeros"
)
LOG2 = "peaks 1 ulp below a power of two, whose fp32 log2 ggml rounds up: half our precision"


@comparison("gguf", "quants.quantize(Q4_0)", "q4_0")
def q4_0_as_gguf() -> Outcome:
    return *encodes("q4_0", gguf_encoded, none), ALL


@comparison("ggml (C)", "quantize_row_q4_0_ref", "q4_0", differing=1)
def q4_0_as_ggml() -> Outcome:
    return *encodes("q4_0", ggml_encoded, zero_first_negative), MINUS_ZERO


@comparison("gguf", "quants.quantize(Q4_1)", "q4_1")
def q4_1_as_gguf() -> Outcome:
    return *encodes("q4_1", gguf_encoded, none), ALL


@comparison("ggml (C)", "quantize_row_q4_1_ref", "q4_1", differing=1)
def q4_1_as_ggml() -> Outcome:
    return *encodes("q4_1", ggml_encoded, least_of_two_zeros), SIGN


@comparison("gguf", "quants.quantize(Q5_0)", "q5_0")
def q5_0_as_gguf() -> Outcome:
    return *encodes("q5_0", gguf_encoded, none), ALL


@comparison("ggml (C)", "quantize_row_q5_0_ref", "q5_0", differing=1)
def q5_0_as_ggml() -> Outcome:
    return *encodes("q5_0", ggml_encoded, zero_first_negative), MINUS_ZERO


@comparison("gguf", "quants.quantize(Q8_0)", "q8_0")
def q8_0_as_gguf() -> Outcome:
    return *encodes("q8_0", gguf_encoded, none), ALL


@comparison("ggml (C)", "quantize_row_q8_0_ref", "q8_0")
def q8_0_as_ggml() -> Outcome:
    return *encodes("q8_0", ggml_encoded, none), ALL


@comparison("gguf", "quants.quantize(MXFP4)", "gguf_mxfp4", differing=12)
def mxfp4_as_gguf() -> Outcome:
    return *encodes("gguf_mxfp4", gguf_encoded, log2_rounds_up), LOG2


@comparison("ggml (C)", "quantize_row_mxfp4_ref", "gguf_mxfp4", differing=12)
def mxfp4_as_ggml() -> Outcome:
    return *encodes("gguf_mxfp4", ggml_encoded, log2_rounds_up), LOG2


# -- decoding: random bytes, and bytes of encoders that search --------------------------------


def random_records(name: str) -> U8:
    """[8192, bytes of a record]: any codes under any scales that are numbers in fp16 or E8M0."""
    _, _, size, _ = FORMATS[name]
    records = np.random.default_rng(11).integers(0, 256, (8192, size), np.uint8)
    if name == "gguf_mxfp4":
        records[:, 0] = np.where(records[:, 0] == 255, 0, records[:, 0])
    elif name == "gguf_nvfp4":
        records[:, :4] = np.where(records[:, :4] & 0x7F == 0x7F, 0, records[:, :4])
    else:  # the fp16 words stand first: their exponents stay below 31, Inf and NaN
        words = {"q4_1": 2, "q4_k": 2}.get(name, 1)
        high = records[:, 1 : 2 * words : 2]
        records[:, 1 : 2 * words : 2] = np.where(high & 0x7C == 0x7C, high & 0x83, high)
    return records


def reads(name: str, records: U8, theirs: Callable[[str, U8], F32]) -> tuple[int, int]:
    """Records read, and records of which any number differs by a bit."""
    fmt, elements = recipe(name), FORMATS[name][1]
    found = read(fmt, {"records": records}, (len(records), elements))
    wanted = theirs(name, records)
    if name in ("gguf_mxfp4", "gguf_nvfp4"):  # code 8 is -0 in OCP's E2M1, and +0 in ggml
        found, wanted = found + np.float32(0), wanted + np.float32(0)
    return len(records), differing_floats(found, wanted)


def declare_decoders(name: str) -> None:
    """Registers how one format's bytes are read: random ones, and those of ggml's searches."""

    @comparison("gguf", f"quants.dequantize({FORMATS[name][0]})", name)
    def random_and_our_bytes() -> Outcome:
        random, different = reads(name, random_records(name), gguf_decoded)
        written, others = reads(name, ours(name, numbers(name)), gguf_decoded)
        return random + written, different + others, "random records and our own, read by both"

    if name in SEARCHED:

        @comparison(
            "ggml (C)", f"quantize_row_{c_name(name)}_ref, dequantize_row_{c_name(name)}", name
        )
        def searched_bytes() -> Outcome:
            blocks, different = reads(name, ggml_encoded(name, numbers(name)), ggml_decoded)
            return blocks, different, SEARCHED[name]


for each in FORMATS:
    declare_decoders(each)

test_gguf_and_fmtc_agree = run_comparisons(__name__)


# -- what no block of the table shows ---------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_has_ggml_size_and_rows_of_records_stand_one_after_the_other(name: str) -> None:
    gguf = peer_module("gguf")
    _, elements, size, _ = FORMATS[name]
    assert gguf.constants.GGML_QUANT_SIZES[kind(name)] == (elements, size)
    x = np.random.default_rng(0).standard_normal((3, 4 * elements), dtype=np.float32)
    records = ours(name, x)
    assert records.shape == (3, 4 * size)
    one_a_row = ours(name, x.reshape(12, elements))
    assert np.array_equal(records.reshape(12, size), one_a_row)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q8_0"])
def test_a_scale_past_fp16_saturates_where_gguf_stores_infinity(name: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :2] = 1e8, -1e8
    scale = ours(name, x)[:, :2].copy().view(np.float16)[0, 0]
    theirs = gguf_encoded(name, x)[:, :2].copy().view(np.float16)[0, 0]
    assert abs(scale) == np.finfo(np.float16).max
    assert abs(theirs) == np.inf


def test_the_sign_of_a_zero_blocks_scale() -> None:
    zeros = np.zeros((1, 32), np.float32)
    for x, word in ((zeros, b"\x00\x80"), (-zeros, b"\x00\x00")):
        assert ours("q4_0", x)[0, :2].tobytes() == word
        assert gguf_encoded("q4_0", x)[0, :2].tobytes() == word
        assert not gguf_decoded("q4_0", gguf_encoded("q4_0", x)).any()


def test_ggml_stores_448_for_every_nvfp4_scale_from_248_on() -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, ::16] = 6 * np.array([240, 256, 320, 448], np.float32)
    assert ours("gguf_nvfp4", x)[0, :4].tolist() == [0x77, 0x78, 0x7A, 0x7E]
    assert ggml_encoded("gguf_nvfp4", x)[0, :4].tolist() == [0x77, 0x7E, 0x7E, 0x7E]


def test_words_that_ggml_reads_as_numbers_and_the_formats_as_nan() -> None:
    mxfp4 = np.full((1, 17), 0x11, np.uint8)
    mxfp4[0, 0] = 0xFF  # E8M0's NaN is 2^128 to ggml
    assert np.isnan(read(recipe("gguf_mxfp4"), {"records": mxfp4}, (1, 32))).all()
    assert (gguf_decoded("gguf_mxfp4", mxfp4) == 2.0**127).all()
    nvfp4 = np.full((1, 36), 0x11, np.uint8)
    nvfp4[0, :4] = 0x7F  # E4M3's NaN is 0 to ggml
    assert np.isnan(read(recipe("gguf_nvfp4"), {"records": nvfp4}, (1, 64))).all()
    assert not gguf_decoded("gguf_nvfp4", nvfp4).any()


def gaussian_error(name: str, records: U8, x: F32) -> float:
    decoded = gguf_decoded(name, records)
    return float(np.mean((decoded.astype(np.float64) - x) ** 2))


@pytest.mark.parametrize(("name", "limit"), [("iq4_nl", 1.0), ("q4_k", 1.3), ("gguf_nvfp4", 1.0)])
def test_our_encoder_errs_little_more_than_the_search_of_ggml(name: str, limit: float) -> None:
    x = np.random.default_rng(2).standard_normal((512, 256), dtype=np.float32)
    mine, theirs = (
        gaussian_error(name, ours(name, x), x),
        gaussian_error(name, ggml_encoded(name, x), x),
    )
    assert mine <= limit * theirs


def test_iq4_nl_and_q4_k_err_less_than_q4_0() -> None:
    x = np.random.default_rng(3).standard_normal((512, 256), dtype=np.float32)
    errors = {name: gaussian_error(name, ours(name, x), x) for name in ("q4_0", "iq4_nl", "q4_k")}
    assert errors["iq4_nl"] < errors["q4_0"]
    assert errors["q4_k"] < errors["q4_0"]
