"""Formats that are not plain, encoded on a device by torch and a kernel: here torch's CPU and
Triton's interpreter, byte for byte against the pipeline."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.pipeline import decode, encode
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load, names
from fmtc.runtime.backend import BackendUnavailable
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from fmtc.runtime.gpu.encode import (  # noqa: E402
    decode_on_device,
    encode_on_device,
    level_of,
    why_not,
)

F32 = NDArray[np.float32]
FLT_MAX = np.finfo(np.float32).max

#: Extents, words, rules, zeros and places that the shipped formats leave out.
ADHOC = {
    "argmax_row": """block row  grid c = codebook 2 { -3, -1, 2, 5 }
        scale fp32 { rule argmax }""",
    "argmax_tile": """block 4  tile 3  grid c = codebook 2 { -3, -1, 2, 5 }
        scale s1e5m2 { rule argmax }""",
    "range_tensor": """block tensor  grid u = int 4 { range unsigned }
        scale fp32 { rule range }  zero point""",
    "bf16": "block 16  grid e2m1  scale bf16 { codes wanted }",
    "broken": "block 16  grid e2m1  scale bf16  nan propagate",
    "broken_row": "block row  grid e4m3  scale fp32  nan propagate",
    "two_grids": """block 16  grid a = e2m1  grid b = int 4  scale fp16 { codes wanted }
        select 1 bit at field { 0: a, 1: b }""",
    "two_grids_stored": """block 16  grid a = e2m1  grid b = int 4  scale bf16
        select 2 bits at field { 0: a, 1: b }""",
    "minimum": """block 32  grid u = int 4 { range unsigned }  scale fp16 { rule range }
        zero minimum { word fp16 }""",
    "minimum_negated": """block 32  grid u = int 4 { range unsigned }  scale fp16 { rule range }
        zero minimum { word bf16  sign negated }""",
    "three_bits": """block 8  grid u = int 3 { range unsigned }  scale fp16 { rule range }
        zero point""",
    "level": "block 8  tile 2  grid e2m1  scale e4m3 { tensor fp32 }",
    "scales_of_zeros": """block 16  grid u = int 4 { range unsigned }
        scale fp32 { rule range  codes wanted } as {
          block 8  grid v = int 8 { range unsigned }
          scale fp16 { rule range  codes wanted }  zero point
        }
        zero point""",
    "searched": "block 8  tile 1  grid e2m1  scale fp16 { search 2 }",
}

#: Shipped formats that a kernel does not encode alone.
NOT_PLAIN = [name for name in names() if not load(name).is_plain]
ON_DEVICE = [*(name for name in NOT_PLAIN if not why_not(load(name))), *ADHOC]
WITHOUT_SIDES = [name for name in NOT_PLAIN if not load(name).sides]

#: What else a device decodes.
DECODED = {
    "rows": "block 16  grid e2m1  scale e4m3 { tensor rows }",
}


@cache
def format_of(name: str) -> Format:
    clauses = (ADHOC | DECODED).get(name)
    return load(name) if clauses is None else compile_text(f'format {name} "" {{ {clauses} }}')


def rows_of(fmt: Format, rows: int, length: int) -> F32:
    """Rows of every kind, with zeros of both signs; constant ones, and extreme ones."""
    rng = np.random.default_rng(rows * length)
    x = rng.standard_normal((rows, length))
    x[1::6] = np.round(x[1::6] * 4) / 4
    x[2::6] *= np.exp2(rng.integers(-30, 30, x[2::6].shape))
    x[3::6] = np.abs(x[3::6])
    x[4::12] *= 2.0**-140
    x[10::12] *= 1e37
    x[5::12] = rng.choice([-0.0, 0.0], x[5::12].shape)
    x[11::12] = -3.25
    x[rng.random(x.shape) < 0.02] = 0.0
    x[rng.random(x.shape) < 0.02] *= -0.0
    x[: len(x) // 2, : fmt.block] = 0.0
    if fmt.policies.nan == "propagate":
        x[rng.random(x.shape) < 0.003] = np.nan
    return np.clip(x, -float(FLT_MAX), float(FLT_MAX)).astype(np.float32)


def assert_like_the_pipeline(fmt: Format, x: F32) -> None:
    level = calibrate(fmt, x)
    assert level_of(fmt, torch.from_numpy(x)) == level
    with np.errstate(all="ignore"):
        want = encode(fmt, x, level, ReferenceEngine(kernel_format(fmt)))
    got = encode_on_device(fmt, torch.from_numpy(x), fall_back=False)
    assert got.keys() == want.keys()
    for key, octets in want.items():
        assert got[key].dtype == torch.uint8
        assert tuple(got[key].shape) == octets.shape, key
        different = np.argwhere(got[key].numpy() != octets)
        assert not len(different), f"{key}: {len(different)} bytes differ, first {different[0]}"


@pytest.mark.parametrize("name", ON_DEVICE)
def test_the_bytes_are_those_of_the_pipeline(name: str) -> None:
    fmt = format_of(name)
    whole = 256 if fmt.record is None else fmt.record.elements
    for rows, length in ((24, 2 * whole), (1, whole), (7, 3 * whole if fmt.record else 300)):
        assert_like_the_pipeline(fmt, rows_of(fmt, rows, length))


@pytest.mark.parametrize("name", [name for name in ON_DEVICE if format_of(name).extent != "block"])
def test_large_and_small_rows_have_the_scales_of_the_pipeline(name: str) -> None:
    fmt = format_of(name)
    for size in (1.0, 1e-42, 3e38, 1e-30):
        x = np.random.default_rng(5).uniform(-size, size, (3, 70)).astype(np.float32)
        assert_like_the_pipeline(fmt, x)


@pytest.mark.parametrize("name", ["e4m3_row", "any4", "int4_asym_g128", "q4_0"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_numbers_are_encoded_as_they_are(name: str, dtype: torch.dtype) -> None:
    fmt = format_of(name)
    x = torch.from_numpy(rows_of(fmt, 6, 256)).clamp(-6e4, 6e4).to(dtype)
    got = encode_on_device(fmt, x, fall_back=False)
    want = encode_on_device(fmt, x.float(), fall_back=False)
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize("name", ["e4m3_row", "e4m3_tensor", "e4m3_tile128", "any4", "q4_0"])
@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (0, 0)])
def test_an_empty_tensor_stays_empty(name: str, shape: tuple[int, int]) -> None:
    assert_like_the_pipeline(format_of(name), np.zeros(shape, np.float32))


def test_a_plain_format_is_one_kernels_work() -> None:
    searched = "format s { block 16  grid e2m1  scale e4m3 { search 1 } }"
    for fmt in (load("nvfp4"), compile_text(searched)):
        assert not why_not(fmt)
        assert_like_the_pipeline(fmt, rows_of(fmt, 6, 100))


def test_what_is_asked_for_is_reached() -> None:
    reached = {
        *("e4m3_row", "e4m3_tensor", "e4m3_tile128", "int8_sym_row", "int8_asym_row"),
        *("int4_asym_g128", "int4_row", "any4", "q4_0", "q4_1", "q8_0", "iq4_nl", "q4_k"),
    }
    assert reached <= set(ON_DEVICE)


def test_what_is_not_reached_says_why_and_goes_through_the_host() -> None:
    kept = {name: why_not(load(name)) for name in NOT_PLAIN if why_not(load(name))}
    assert kept["nf4_dq"] == "the mean of scales is taken on the host"
    fmt = load("nf4_dq")
    x = rows_of(fmt, 4, 128)
    with pytest.raises(BackendUnavailable, match="'nf4_dq' is not encoded on a device: the mean"):
        encode_on_device(fmt, torch.from_numpy(x), fall_back=False)
    want = encode(fmt, x, TensorLevel())
    got = encode_on_device(fmt, torch.from_numpy(x))
    assert all((got[key].numpy() == octets).all() for key, octets in want.items())


def test_a_nan_that_the_format_has_no_word_for_is_refused() -> None:
    x = torch.ones(2, 64)
    x[1, 3] = torch.nan
    with pytest.raises(ValueError, match="the format has no NaN to propagate"):
        encode_on_device(load("any4"), x)


@pytest.mark.parametrize("name", [*WITHOUT_SIDES, *ADHOC, *DECODED, "nvfp4"])
def test_a_device_decodes_what_the_pipeline_does(name: str) -> None:
    fmt = format_of(name)
    engine = ReferenceEngine(kernel_format(fmt))
    whole = 256 if fmt.record is None else fmt.record.elements
    for rows, length in ((13, whole), (2, 3 * whole if fmt.record else 300), (0, whole)):
        x = rows_of(fmt, rows, length)
        level = calibrate(fmt, x)
        with np.errstate(all="ignore"):
            streams = encode(fmt, x, level, engine)
            want = decode(fmt, streams, length, level, engine)
        tensors = {key: torch.from_numpy(octets) for key, octets in streams.items()}
        got = decode_on_device(fmt, tensors, length, level).numpy()
        assert got.shape == want.shape
        same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
        assert same.all(), np.argwhere(~same)[0]
        narrow = decode_on_device(fmt, tensors, length, level, "bfloat16")
        want_narrow = torch.from_numpy(want).to(torch.bfloat16)
        assert torch.equal(torch.nan_to_num(narrow, 7.0), torch.nan_to_num(want_narrow, 7.0))


def test_sides_are_added_up_on_the_host() -> None:
    fmt = load("nf4_dd4_opq_wr")
    with pytest.raises(BackendUnavailable, match="'nf4_dd4_opq_wr' is not decoded on a device"):
        decode_on_device(fmt, {}, 64, TensorLevel())
