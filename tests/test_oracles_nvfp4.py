"""NVFP4 against torchao, ModelOpt and compressed-tensors: tensor scale, scale bytes, codes, values.

Where torchao rounds more often than the format: it multiplies an element by the fp32 number
``(1 / tensor_scale) / block_scale``, rounded twice, and rounds that product too, where the
format compares exactly with ``fp32(block_scale * tensor_scale) * midpoint``. Of random values
about one in ten million lies between the two. That chain is written out below, and the
differing codes are asserted to be exactly those that it moves across a midpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from compatibility import Outcome, comparison, peer_module, run_comparisons
from fmtc import load
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.reference import TensorLevel, calibrate, decode, encode
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

BLOCK = 16
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def torchao() -> tuple[Any, Any]:
    name = "torchao.prototype.mx_formats.nvfp4_tensor"
    return peer_module("torch"), peer_module(name, "torchao")


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
    fmt = load("nvfp4_torchao_one_level")
    scales, codes = check(fmt, x, None)
    assert (scales, codes) == (x.size // BLOCK, x.size)
    assert np.array_equal(encode(fmt, x, TensorLevel())["codes"], theirs(x, None)[1])


@pytest.mark.parametrize("spread", [0, 3, 12])
def test_two_level_blocks_equal_torchao_with_its_clamp(spread: float) -> None:
    torch, nvfp4 = torchao()
    x = wide(2, spread)
    fmt = load("nvfp4_torchao")
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
    _, codes = check(load("nvfp4_torchao_one_level"), x, None)
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


# -- whole blocks, as they are stored --------------------------------------------------

#: What a peer stores: scale bytes [rows, blocks], packed codes [rows, n / 2], tensor scale.
Peer = Callable[[F32], tuple[U8, U8, float]]


def inputs() -> list[F32]:
    """Tensors of ordinary and of very different rows, and one with every tie of every scale."""
    return [*(wide(seed, spread) for seed, spread in ((1, 0), (2, 8), (3, 14))), edge_rows()]


def differing(fmt: Format, x: F32, theirs: tuple[U8, U8, float]) -> NDArray[np.bool_]:
    """Which blocks differ in a byte, under the tensor scale that both must agree on."""
    scales, packed, tensor_scale = theirs
    level = calibrate(fmt, x)
    assert level.tensor_scale == tensor_scale
    found = encode(fmt, x, level)
    codes = (found["codes"] != packed).reshape(*scales.shape, BLOCK // 2)
    return (found["scales"] != scales) | codes.any(axis=-1)


def whole_blocks(name: str, peer: Peer, note: str) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        fmt = load(name)
        count = total = 0
        for x in inputs():
            found = differing(fmt, x, peer(x))
            blocks = x.reshape(*found.shape, BLOCK)
            # The one known cause: -0 itself, of which the peer drops the sign.
            assert (blocks[found] == 0).all()
            assert np.signbit(blocks[found]).all()
            count, total = count + int(found.sum()), total + found.size
        return total, count, note

    return compare


def by_modelopt(x: F32) -> tuple[U8, U8, float]:
    torch = peer_module("torch")
    tensors = peer_module("modelopt.torch.quantization.qtensor", "modelopt")
    kind = tensors.NVFP4QTensor
    quantized, scales, tensor_scale = kind.quantize(torch.from_numpy(x.copy()), BLOCK)
    packed = quantized._quantized_data.numpy()
    return scales.view(torch.uint8).numpy(), packed, float(tensor_scale)


def by_compressed_tensors(x: F32) -> tuple[U8, U8, float]:
    torch = peer_module("torch")
    peer = "compressed-tensors"
    kind = peer_module("compressed_tensors.quantization", peer)
    utils = peer_module("compressed_tensors.quantization.utils", peer)
    helpers = peer_module("compressed_tensors.compressors.nvfp4.helpers", peer)
    float8 = torch.float8_e4m3fn
    args = kind.QuantizationArgs(
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=BLOCK,
        scale_dtype=float8,
        zp_dtype=float8,
    )
    given = torch.from_numpy(x)
    blocks = given.reshape(len(x), -1, BLOCK)
    inverse = utils.generate_gparam(given.amin(), given.amax())
    low, high = blocks.amin(-1), blocks.amax(-1)
    scales, _ = utils.calculate_qparams(low, high, args, global_scale=inverse)
    packed = helpers.quantize_and_pack_fp4(given, scales, inverse, None, BLOCK)
    # It keeps 2688 / absmax; the scale that decodes is our own.
    assert float(inverse) == float(np.float32(2688) / np.abs(x).max())
    tensor_scale = float(np.abs(x).max() / np.float32(2688))
    return scales.to(float8).view(torch.uint8).numpy(), packed.numpy(), tensor_scale


def by_torchao(x: F32) -> tuple[U8, U8, float]:
    torch, nvfp4 = torchao()
    tensor_scale = float(nvfp4.per_tensor_amax_to_scale(torch.from_numpy(x).abs().max()))
    return *theirs(x, tensor_scale), tensor_scale


MINUS_ZERO = (
    "scale bytes, codes and tensor scale; of -0.0 itself it drops the sign (ours 8, theirs 0)"
)
comparison("modelopt", "NVFP4QTensor.quantize", "nvfp4_modelopt", 1)(
    whole_blocks("nvfp4_modelopt", by_modelopt, MINUS_ZERO)
)
comparison(
    "compressed-tensors", "calculate_qparams, quantize_and_pack_fp4", "nvfp4_compressed_tensors", 1
)(whole_blocks("nvfp4_compressed_tensors", by_compressed_tensors, MINUS_ZERO))


def torchao_blocks(name: str, levels: bool) -> Callable[[], Outcome]:
    def compare() -> Outcome:
        fmt = load(name)
        count = total = 0
        example = ""
        for x in inputs():
            tensor_scale = by_torchao(x)[2] if levels else None
            scales, packed = theirs(x, tensor_scale)
            level = TensorLevel(1.0 if tensor_scale is None else tensor_scale)
            found = encode(fmt, x, level)
            assert np.array_equal(found["scales"], scales)
            apart = (found["codes"] != packed).reshape(*scales.shape, BLOCK // 2).any(axis=-1)
            check(fmt, x, tensor_scale)  # every code that differs is one that its chain moves
            count, total = count + int(apart.sum()), total + apart.size
            example = example or tie_of(fmt, x, found["codes"], packed, scales)
        return total, count, f"{CHAIN} {example}"

    return compare


def tie_of(fmt: Format, x: F32, ours: U8, packed: U8, scales: U8) -> str:
    """The first element whose codes differ, in the words of a note; empty if there is none."""
    mine, peer = (unpack(b, x.shape[1], fmt.streams[0]) for b in (ours, packed))
    places = np.argwhere(mine != peer)
    if not places.size:
        return ""
    row, column = places[0]
    scale = scales[row, column // BLOCK]
    codes = f"code {mine[row, column]}, theirs {peer[row, column]}"
    return f"({float(x[row, column]).hex()} under scale byte {scale}: {codes})"


CHAIN = (
    "scale bytes all equal; it multiplies by the rounded (1/T)/s, which moves values beside ties"
)
comparison("torchao", "nvfp4_quantize", "nvfp4_torchao", 72)(torchao_blocks("nvfp4_torchao", True))
comparison("torchao", "nvfp4_quantize(None)", "nvfp4_torchao_one_level", 72)(
    torchao_blocks("nvfp4_torchao_one_level", False)
)


def test_a_scale_that_rounds_to_zero_is_an_eighth_in_the_recipe_of_compressed_tensors() -> None:
    fmt = load("nvfp4_compressed_tensors")
    x = np.zeros((1, 4 * BLOCK), np.float32)
    # Under tensor scale 1: half of the least scale 2^-9 is a tie to even, to zero.
    x[0, ::BLOCK] = [6 * 2.0**-10, np.nextafter(np.float32(6 * 2.0**-10), np.float32(1)), 0, 6]
    assert encode(fmt, x, TensorLevel())["scales"].tolist() == [[32, 1, 32, 56]]
    assert fmt.scale.word.number.magnitude(32) == Fraction(1, 8)


test_the_peer_stores_and_reads_the_same_bytes = run_comparisons(__name__)
