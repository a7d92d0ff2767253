"""NVFP4 against torchao: tensor scale, scale bytes, packed codes, decoded values.

Where torchao rounds more often than the format: it multiplies an element by the fp32 number
``(1 / tensor_scale) / block_scale``, rounded twice, and rounds that product too, where the
format compares exactly with ``fp32(block_scale * tensor_scale) * midpoint``. Of random values
about one in ten million lies between the two. That chain is written out below, and the
differing codes are asserted to be exactly those that it moves across a midpoint.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fmtc import load
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import TensorLevel, calibrate, decode, encode
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

HERE = Path(__file__).parent
BLOCK = 16
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def torchao() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason="torchao needs torch")
        nvfp4 = pytest.importorskip(
            "torchao.prototype.mx_formats.nvfp4_tensor", reason="the peer torchao is not installed"
        )
    return torch, nvfp4


def recipe(name: str) -> Format:
    return load(HERE / "fmt" / f"{name}.fmt")


def theirs(x: F32, tensor_scale: float | None) -> tuple[U8, U8]:
    """torchao's scale bytes [rows, blocks] and packed codes [rows, n / 2]."""
    torch, nvfp4 = torchao()
    level = None if tensor_scale is None else torch.tensor(tensor_scale, dtype=torch.float32)
    scales, packed = nvfp4.nvfp4_quantize(torch.from_numpy(x), BLOCK, level)
    return scales.view(torch.uint8).numpy(), packed.view(torch.uint8).numpy()


def wide(seed: int, spread: float, shape: tuple[int, int] = (2048, 256)) -> F32:
    rng = np.random.default_rng(seed)
    rows = np.exp2(rng.uniform(-spread, spread, (shape[0], 1)))
    return (rng.standard_normal(shape) * rows).astype(np.float32)


def edge_rows() -> F32:
    """All E2M1 ties and neighbours under every scale code, zero blocks, and blocks of -0."""
    number = load("nvfp4").scale.word.number
    scales = np.array([float(m) for m in number.magnitudes() if m])
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    rows = []
    for near in (-1, 0, 1):
        values = (scales[:, None] * np.concatenate([middles, -middles])).astype(np.float32)
        to = np.float32(np.inf if near > 0 else -np.inf)
        values = values if near == 0 else np.nextafter(values, to)
        ends = (6 * scales[:, None] * np.array([1.0, -1.0])).astype(np.float32)
        rows.append(np.concatenate([ends, values], axis=1))
    zeros = np.zeros((2, BLOCK), np.float32)
    zeros[1] = -0.0
    return np.concatenate([*rows, zeros])


def nearest(quotients: F64) -> U8:
    """The E2M1 codes nearest to binary64 quotients, ties to the even code."""
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    sizes = np.abs(quotients)
    rank = np.searchsorted(middles, sizes)
    tied = (rank < 7) & (sizes == middles[np.minimum(rank, 6)]) & (rank % 2 == 1)
    return (rank + tied + 8 * np.signbit(quotients)).astype(np.uint8)


def by_torchao_chain(x: F32, scales: F32, tensor_scale: float) -> U8:
    one = np.float32(1)
    reciprocal = (one / np.float32(tensor_scale)) / scales
    return nearest((x * np.repeat(reciprocal, BLOCK, axis=1)).astype(np.float64))


def by_exact_quotient(x: F32, scales: F32, tensor_scale: float) -> U8:
    # x and scale * midpoint have at most 29 bits: their binary64 quotient is a tie only if
    # the exact one is.
    effective = np.repeat(scales * np.float32(tensor_scale), BLOCK, axis=1)
    return nearest(x.astype(np.float64) / effective)


def check(fmt: Format, x: F32, tensor_scale: float | None) -> tuple[int, int]:
    """How many scale bytes and codes were compared, less the codes that the chain moves."""
    level = TensorLevel(1.0 if tensor_scale is None else tensor_scale)
    ours = encode(fmt, x, level)
    scale_bytes, packed = theirs(x, tensor_scale)
    assert np.array_equal(ours["scales"], scale_bytes)
    found = unpack(ours["codes"], x.shape[1], fmt.streams[0]).astype(np.uint8)
    wanted = unpack(packed, x.shape[1], fmt.streams[0]).astype(np.uint8)
    table = np.array(
        [np.nan if m is None else float(m) for m in fmt.scale.word.number.magnitudes()], np.float32
    )
    scales = table[scale_bytes]
    assert np.array_equal(wanted, by_torchao_chain(x, scales, level.tensor_scale))
    assert np.array_equal(found, by_exact_quotient(x, scales, level.tensor_scale))
    return scale_bytes.size, int((found == wanted).sum())


@pytest.mark.parametrize("spread", [0, 3, 12])
def test_one_level_blocks_equal_torchao_byte_for_byte(spread: float) -> None:
    x = wide(1, spread)
    fmt = recipe("nvfp4_one_level")
    scales, codes = check(fmt, x, None)
    assert (scales, codes) == (x.size // BLOCK, x.size)
    assert np.array_equal(encode(fmt, x, TensorLevel())["codes"], theirs(x, None)[1])


@pytest.mark.parametrize("spread", [0, 3, 12])
def test_two_level_blocks_equal_torchao_with_its_clamp(spread: float) -> None:
    torch, nvfp4 = torchao()
    x = wide(2, spread)
    fmt = recipe("nvfp4_torchao")
    tensor_scale = calibrate(fmt, x).tensor_scale
    peer_scale = nvfp4.per_tensor_amax_to_scale(torch.from_numpy(x).abs().max())
    assert tensor_scale == float(peer_scale)
    _, codes = check(fmt, x, tensor_scale)
    assert codes >= x.size - 2


def test_the_shipped_nvfp4_equals_torchao_where_the_clamp_is_not_active() -> None:
    x = wide(3, 8)
    fmt = load("nvfp4")
    level = calibrate(fmt, x)
    ours = encode(fmt, x, level)
    scale_bytes, packed = theirs(x, level.tensor_scale)
    free = ours["scales"] > 8  # torchao clamps to 2^-6, code 8
    assert 0 < (~free).sum() < free.sum()
    assert np.array_equal(ours["scales"][free], scale_bytes[free])
    # At code 8 itself the clamp may have been active or not; below, it always was.
    assert set(scale_bytes[~free].tolist()) == {8}
    elements = np.repeat(free, BLOCK // 2, axis=1)
    assert (ours["codes"] != packed)[elements].sum() <= 1


def test_ties_under_every_scale_code_differ_only_by_torchao_reciprocal() -> None:
    x = edge_rows()
    _, codes = check(recipe("nvfp4_one_level"), x, None)
    # 1 / scale is rounded for seven of eight mantissas: some exact ties leave the midpoint.
    assert 0.9 * x.size < codes < x.size


@pytest.mark.parametrize("tensor_scale", [1.0, 2.0**-10, 0.0123456789])
def test_every_code_and_scale_decodes_like_torchao(tensor_scale: float) -> None:
    torch, nvfp4 = torchao()
    # The sign bit of an E4M3 block scale is never set by an encoder, and 0x7F is NaN.
    words = np.arange(0x7F, dtype=np.uint8)[:, None]
    packed = np.broadcast_to(
        np.array([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE], np.uint8), (words.size, 8)
    ).copy()
    level = float(np.float32(tensor_scale))
    ours = decode(load("nvfp4"), {"codes": packed, "scales": words}, BLOCK, TensorLevel(level))
    tensor = nvfp4.NVFP4Tensor(
        torch.from_numpy(packed),
        torch.from_numpy(words).view(torch.float8_e4m3fn),
        BLOCK,
        torch.float32,
        torch.tensor(level),
    )
    found = tensor.dequantize(torch.float32).numpy()
    assert np.array_equal(ours.view(np.uint32), found.view(np.uint32))
