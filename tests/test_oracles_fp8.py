"""FP8 under fp32 and power-of-two scales against compressed-tensors, torchao, transformers, torch.

All divide by fp32(absmax / 448) (or 57344 in E5M2), saturate and round to nearest even; -0 is
kept. They part at blocks of zeros: compressed-tensors stores the scale 2^-23 and zeros, as the
E4M3 recipes do; torchao stores the scale 0 and, from 0 / 0, NaN. transformers multiplies by the
fp32 number 448 / absmax and stores its reciprocal, two roundings where DeepSeek's kernel has one.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

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
from fmtc import Format, load
from numpy.typing import NDArray
from peer_blocks import blocks_for, read, stored, zero_blocks

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

#: Peaks lie between these powers of two: beyond, 2^-23 (the scale of zeros) is the smaller one.
LOW, HIGH = -110, 120
#: Elements of a row, and of the 128 x 128 tiles.
ROW, TILE = 1024, 128

EVERYTHING = "random, tie, edge, subnormal, saturating and zero blocks: codes and scales"


@cache
def recipe(name: str) -> Format:
    return load(name)


@cache
def rows(name: str, width: int) -> F32:
    """Rows that are a block each; the last three are zeros."""
    count = {128: 1000, ROW: 150}.get(width, 12)
    blocks = blocks_for(recipe(name), width, low=LOW, high=HIGH, count=count)
    blocks = blocks[:: max(1, blocks.size >> 22)]  # tiles: a few million elements will do
    return np.concatenate([blocks, zero_blocks(width)])


def as_tiles(x: F32) -> F32:
    """Rows of 128 * 128 elements as a column of tiles: [128 * tiles, 128]."""
    return x.reshape(-1, TILE)


def by_block(codes: U8, scales: F32) -> U8:
    """Codes and scales of blocks as one byte matrix: [blocks, bytes]."""
    scales = np.ascontiguousarray(scales, np.float32).reshape(-1, 1)
    return np.concatenate([codes.reshape(len(scales), -1), scales.view(np.uint8)], axis=1)


def ours(name: str, x: F32) -> U8:
    streams = stored(recipe(name), x)
    return by_block(streams["codes"], streams["scales"].view(np.float32))


# -- compressed-tensors -----------------------------------------------------------------------


def compressed_tensors(x: F32, strategy: str) -> U8:
    """Its observer and quantizer, for float8_e4m3fn."""
    torch = peer_module("torch")
    peer_module("compressed_tensors", "compressed-tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    more = {"group": {"group_size": TILE}, "block": {"block_structure": [TILE, TILE]}}
    args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, **more.get(strategy, {}))
    tensor = torch.from_numpy(x)
    if strategy == "block":
        tiles = tensor.reshape(-1, TILE, x.shape[1] // TILE, TILE)
        low, high = tiles.amin((1, 3)), tiles.amax((1, 3))
    elif strategy == "tensor":
        low, high = tensor.amin(), tensor.amax()
    else:
        low, high = tensor.amin(1, keepdim=True), tensor.amax(1, keepdim=True)
    scale, _ = calculate_qparams(low, high, args)
    # Given a zero point of 0, it would add that, and make -0 a +0.
    codes = quantize(tensor, scale, None, args, dtype=torch.float8_e4m3fn)
    return by_block(codes.view(torch.uint8).numpy(), scale.numpy())


def by_compressed_tensors(name: str, strategy: str, width: int) -> Outcome:
    x = rows(name, width)
    if strategy == "block":
        x = as_tiles(x)
    mine, yours = ours(name, x), compressed_tensors(x, strategy)
    return len(mine), differing_rows(mine, yours), EVERYTHING


@comparison("compressed-tensors", "calculate_qparams, quantize (channel)", "e4m3_row")
def e4m3_rows() -> Outcome:
    return by_compressed_tensors("e4m3_row", "channel", ROW)


@comparison("compressed-tensors", "calculate_qparams, quantize (group)", "e4m3_block128")
def e4m3_blocks() -> Outcome:
    return by_compressed_tensors("e4m3_block128", "group", TILE)


@comparison("compressed-tensors", "calculate_qparams, quantize (block)", "e4m3_tile128")
def e4m3_tiles() -> Outcome:
    return by_compressed_tensors("e4m3_tile128", "block", TILE * TILE)


@comparison("compressed-tensors", "calculate_qparams, quantize (tensor)", "e4m3_tensor")
def e4m3_tensors() -> Outcome:
    tensors = rows("e4m3_row", ROW)[::4].reshape(-1, 8, ROW // 8)
    found = [
        differing_rows(ours("e4m3_tensor", x), compressed_tensors(x, "tensor")) for x in tensors
    ]
    return len(tensors), sum(found), "one scale a tensor of 8 x 128"


# -- torchao ----------------------------------------------------------------------------------


def torchao(x: F32, block: tuple[int, int], kind: str) -> U8:
    """Its scale and its cast, in blocks of a tensor."""
    torch = peer_module("torch")
    primitives = peer_module("torchao.quantization.quant_primitives", "torchao")
    tensor, dtype = torch.from_numpy(x), getattr(torch, kind)
    scale = primitives._choose_scale_float8(tensor, block, dtype)
    codes = primitives._quantize_affine_float8(tensor, scale, dtype)
    return by_block(codes.view(torch.uint8).numpy(), scale.numpy())


def by_torchao(name: str, width: int, block: tuple[int, int], kind: str) -> Outcome:
    """Blocks of zeros are left out: torchao makes them NaN."""
    x = rows(name, width)[:-3]
    x = x[x.any(axis=1)]
    if block == (TILE, TILE):
        x = as_tiles(x)
    mine, yours = ours(name, x), torchao(x, block, kind)
    return len(mine), differing_rows(mine, yours), "all blocks but those of zeros, NaN in torchao"


E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"
TORCHAO = "_choose_scale_float8, _quantize_affine_float8"


@comparison("torchao", TORCHAO, "e4m3_row")
def e4m3_rows_of_torchao() -> Outcome:
    return by_torchao("e4m3_row", ROW, (1, ROW), E4M3)


@comparison("torchao", TORCHAO, "e4m3_block128")
def e4m3_blocks_of_torchao() -> Outcome:
    return by_torchao("e4m3_block128", TILE, (1, TILE), E4M3)


@comparison("torchao", TORCHAO, "e4m3_tile128")
def e4m3_tiles_of_torchao() -> Outcome:
    return by_torchao("e4m3_tile128", TILE * TILE, (TILE, TILE), E4M3)


@comparison("torchao", TORCHAO, "e5m2_row")
def e5m2_rows_of_torchao() -> Outcome:
    return by_torchao("e5m2_row", ROW, (1, ROW), E5M2)


@comparison("torchao", TORCHAO, "e5m2_tensor")
def e5m2_tensors_of_torchao() -> Outcome:
    tensors = rows("e5m2_row", ROW)[:-3:4]
    tensors = tensors[tensors.any(axis=1)].reshape(-1, 8, ROW // 8)
    found = [
        differing_rows(ours("e5m2_tensor", x), torchao(x, (8, ROW // 8), E5M2)) for x in tensors
    ]
    return len(tensors), sum(found), "one scale a tensor of 8 x 128"


@comparison("torchao", "_dequantize_affine_float8", "e4m3_tile128")
def tiles_read_by_torchao() -> Outcome:
    torch = peer_module("torch")
    primitives = peer_module("torchao.quantization.quant_primitives", "torchao")
    x = as_tiles(rows("e4m3_tile128", TILE * TILE))
    streams = stored(recipe("e4m3_tile128"), x)
    codes = torch.from_numpy(streams["codes"].copy()).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(streams["scales"].view(np.float32).copy())
    wanted = primitives._dequantize_affine_float8(codes, scales).numpy()
    found = read(recipe("e4m3_tile128"), streams, x.shape)
    tiles = (found.reshape(-1, TILE * TILE), wanted.reshape(-1, TILE * TILE))
    return len(scales), differing_floats(*tiles), "our bytes"


POWER = "float8_utils.tensor_to_scale(round_scales_to_power_of_2)"


@comparison("torchao", POWER, "e4m3_pot", differing=9)
def powers_of_two_of_torchao() -> Outcome:
    """torchao keeps the multiplier 2^k, the format the scale 2^-k as an E8M0 byte."""
    torch = peer_module("torch")
    utils = peer_module("torchao.float8.float8_utils", "torchao")
    different, tensors = 0, rows("e4m3_row", ROW)[:-3:4]
    tensors = tensors[np.abs(tensors).max(axis=1) >= 1e-12]  # torchao's least absmax
    for row in tensors:
        x = row.reshape(8, -1)
        tensor = torch.from_numpy(x)
        scale = utils.tensor_to_scale(tensor, torch.float8_e4m3fn, round_scales_to_power_of_2=True)
        codes = utils.to_fp8_saturated(tensor * scale, torch.float8_e4m3fn)
        streams = stored(recipe("e4m3_pot"), x)
        exponent = 127 - int(np.log2(scale.item()))
        if above_448(x):
            assert streams["scales"][0, 0] == exponent + 1
            different += 1
        else:
            assert streams["scales"][0, 0] == exponent
            different += differing_rows(
                streams["codes"].reshape(1, -1), codes.view(torch.uint8).numpy().reshape(1, -1)
            )
    note = "peaks an ulp above 448 * 2^k, where torchao's log2 in fp32 rounds up; it saturates them"
    return len(tensors), different, note


def above_448(x: F32) -> bool:
    """Whether log2 of the multiplier, just below a power of two, is rounded up to its exponent."""
    multiplier = np.float32(448 / float(np.abs(x).max()))
    return bool(np.floor(np.log2(multiplier)) > np.frexp(multiplier)[1] - 1)


# -- transformers -----------------------------------------------------------------------------


def transformers_tiles(x: F32, scale_fmt: str) -> tuple[U8, F32]:
    """Codes and inverse scales of its fine-grained FP8 quantizer."""
    torch = peer_module("torch")
    fp8 = peer_module("transformers.integrations.finegrained_fp8", "transformers")
    config = SimpleNamespace(weight_block_size=(TILE, TILE), scale_fmt=scale_fmt)
    quantizer = fp8.Fp8Quantize(SimpleNamespace(quantization_config=config))
    found = quantizer._quantize_one("layer.weight", torch.from_numpy(x))
    inverse = found["layer.weight_scale_inv"].to(torch.float32)
    return found["layer.weight"].view(torch.uint8).numpy(), inverse.numpy()


@comparison("transformers", "finegrained_fp8.Fp8Quantize", "e4m3_tile128", differing=262)
def tiles_of_transformers() -> Outcome:
    x = as_tiles(rows("e4m3_tile128", TILE * TILE)[:-3])
    codes, inverse = transformers_tiles(x, "float")
    mine, yours = ours("e4m3_tile128", x), by_block(codes, inverse)
    scales = mine[:, -4:].copy().view(np.float32)
    assert (np.abs(inverse.reshape(-1, 1) - scales) <= 2 * np.spacing(scales)).all()
    one, two = (decoded(found) for found in (mine, yours))
    assert (np.abs(one - two) <= 2.0**-3 * np.abs(one) + scales * 2.0**-9).all()
    note = "scales are 1 / fp32(448 / absmax), at most two ulps off, and codes differ at ties"
    return len(mine), differing_rows(mine, yours), note


UE8M0 = "finegrained_fp8.Fp8Quantize(ue8m0)"


@comparison("transformers", UE8M0, "e4m3_tile128_ue8m0", differing=9)
def powers_of_two_of_transformers() -> Outcome:
    tiles = rows("e4m3_tile128", TILE * TILE)
    codes, inverse = transformers_tiles(as_tiles(tiles), "ue8m0")
    streams = stored(recipe("e4m3_tile128_ue8m0"), as_tiles(tiles))
    mine = by_block(streams["codes"], np.exp2(streams["scales"].astype(np.float32) - 127))
    yours = by_block(codes, inverse)
    peaks = np.abs(tiles).max(axis=1)
    short = inverse.reshape(-1) < peaks / np.float32(448)
    assert np.array_equal((mine != yours).any(axis=1), short & (peaks > 0))
    assert (peaks[short] <= inverse.reshape(-1)[short] * np.float32(448.001)).all()
    note = "peaks an ulp above 448 * 2^k, where its log2 in fp32 rounds down; it saturates them"
    return len(mine), differing_rows(mine, yours), note


def decoded(blocks: U8) -> F32:
    """fmtc's reading of codes and scales of tiles."""
    codes, scales = blocks[:, :-4].reshape(-1, TILE), blocks[:, -4:]
    streams = {"codes": np.ascontiguousarray(codes), "scales": np.ascontiguousarray(scales)}
    return read(recipe("e4m3_tile128"), streams, codes.shape).reshape(len(blocks), -1)


# -- torch ------------------------------------------------------------------------------------


@comparison("torch", "Tensor.to(float8_e4m3fn) and back", "e4m3_row")
def e4m3_of_torch() -> Outcome:
    return casts("e4m3_row", E4M3, 448)


@comparison("torch", "Tensor.to(float8_e5m2) and back", "e5m2_row")
def e5m2_of_torch() -> Outcome:
    return casts("e5m2_row", E5M2, 57344)


def casts(name: str, kind: str, largest: float) -> Outcome:
    """Rows whose peak is the largest number, so that the scale is 1: codes, and all codes back."""
    torch = peer_module("torch")
    dtype = getattr(torch, kind)
    x = rows(name, ROW)[:-3]
    x = (x / np.abs(x).max(axis=1, keepdims=True).clip(1e-30)).astype(np.float32) * largest
    x[:, 0] = largest
    wanted = torch.from_numpy(x).to(dtype)
    streams = stored(recipe(name), x)
    assert set(streams["scales"].view(np.float32)[:, 0]) == {1.0}
    different = differing_rows(streams["codes"], wanted.view(torch.uint8).numpy())
    every = np.arange(256, dtype=np.uint8)[None]
    one = np.ones((1, 1), np.float32).view(np.uint8)
    found = read(recipe(name), {"codes": every, "scales": one}, (1, 256))
    values = torch.from_numpy(every).view(dtype).to(torch.float32).numpy()
    numbers = np.isfinite(values)  # a format has no infinity: it decodes to NaN
    assert np.array_equal(found[numbers].view(np.uint32), values[numbers].view(np.uint32))
    assert np.isnan(found[~numbers]).all()
    return len(x), different, "rows with a peak of the largest number: scale 1; and every code read"


# -- what the table does not show -------------------------------------------------------------


@pytest.mark.parametrize("name", ["e4m3_row", "e4m3_block128", "e4m3_tile128", "e4m3_tensor"])
def test_a_block_of_zeros_has_the_scale_of_compressed_tensors_and_keeps_signs(name: str) -> None:
    x = np.zeros((TILE, TILE), np.float32)
    x[:, 1::2] = -0.0
    streams = stored(recipe(name), x)
    assert set(streams["scales"].reshape(-1).view(np.float32).tolist()) == {2.0**-23}
    assert set(streams["codes"][:, 0::2].reshape(-1).tolist()) == {0}
    assert set(streams["codes"][:, 1::2].reshape(-1).tolist()) == {0x80}


def test_the_power_of_two_is_the_least_that_saturates_nothing() -> None:
    for peak, exponent in ((448, 0), (448.5, 1), (449, 1), (447, 0), (224, -1), (2.0**-120, -128)):
        x = np.full((2, 64), peak, np.float32)
        streams = stored(recipe("e4m3_pot"), x)
        assert streams["scales"][0, 0] == max(0, 127 + exponent)
    assert streams["scales"].shape == (1, 1)


def test_tiles_at_the_edges_of_a_matrix_are_smaller() -> None:
    x = np.random.default_rng(0).standard_normal((200, 300), dtype=np.float32)
    streams = stored(recipe("e4m3_tile128"), x)
    scales = streams["scales"].view(np.float32)
    assert scales.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        tile = x[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
        assert scales[i, j] == np.abs(tile).max() / np.float32(448)


test_the_peers_and_fmtc_agree = run_comparisons(__name__)
