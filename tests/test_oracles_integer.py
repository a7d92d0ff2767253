"""Integer formats against compressed-tensors 0.20 and torchao 0.18: codes, scales, zero points.

compressed-tensors divides, ``fp32(x / scale)``, adds the zero point and rounds; where a scale
would be 0 it stores 2^-23. torchao multiplies by ``fp32(1 / scale)``, rounds, and only then adds
the zero point; its scales are at least the ``eps`` that it is given. Both take absmax / 7.5 as the
symmetric INT4 scale, so that the largest positive number saturates at 7. GPTQ divides, rounds, and
then adds the zero point; it is no library, so its arithmetic is said again here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from compatibility import Outcome, comparison, differing_floats, peer_module, run_comparisons
from fmtc import Format, load
from fmtc.compiler.packing import unpack
from fmtc.formats import compile_text
from numpy.typing import NDArray
from peer_blocks import blocks_for, read, stored, zero_blocks

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I16 = NDArray[np.int16]

#: A format: bits, elements of the blocks that are compared, whether it has a zero point, the
#: strategy that compressed-tensors has for it, and the powers of two that peaks lie between.
FORMATS = {
    "int4_sym_g32": (4, 32, False, "group", (-126, 120)),
    "int4_sym_g128": (4, 128, False, "group", (-126, 120)),
    "int4_row": (4, 256, False, "channel", (-126, 120)),
    "int4_asym_g128": (4, 128, True, "group", (-20, 16)),
    "int3_sym_g128": (3, 128, False, "group", (-126, 120)),
    "int3_asym_g128": (3, 128, True, "group", (-20, 16)),
    "int8_sym_row": (8, 512, False, "channel", (-126, 120)),
    "int8_asym_row": (8, 512, True, "token", (-100, 120)),
}
#: The words of scales that compressed-tensors does not have: its fp32 scales are rounded to them.
FP16 = ("int4_asym_g128", "int3_asym_g128")
#: As compressed-tensors rounds what the recipe rounds as GPTQ does.
COMPRESSED = {
    "int4_asym_g128": "int4_asym_compressed_tensors",
    "int3_asym_g128": "int3_asym_g128, zero point { add before }",
}


@dataclass(frozen=True)
class Stored:
    """What is stored of blocks that are rows: codes [rows, n], scales and zero points [rows, 1]."""

    codes: I16
    scales: NDArray[Any]
    zeros: I16

    def unequal(self, other: Stored) -> NDArray[np.bool_]:
        """In which rows a code, a bit of the scale, or a zero point differs."""
        assert self.scales.dtype == other.scales.dtype
        bits = f"u{self.scales.dtype.itemsize}"
        rows = (self.codes != other.codes).any(axis=1) | (self.zeros != other.zeros)[:, 0]
        return rows | (self.scales.view(bits) != other.scales.view(bits))[:, 0]


@cache
def recipe(label: str) -> Format:
    """A shipped format, or one with changes: ``name, settings``."""
    name, _, settings = label.partition(", ")
    if not settings:
        return load(name)
    return Format.of(compile_text(f'format changed extends "{name}" {{ {settings} }}'))


@cache
def numbers(name: str) -> F32:
    _, width, _, _, (low, high) = FORMATS[name]
    count = 1000 if width <= 128 else 300
    blocks = blocks_for(recipe(name), width, low=low, high=high, count=count)
    return np.concatenate([blocks, zero_blocks(width)])


def ours(fmt: Format, x: F32) -> Stored:
    """Rows that are blocks, as integers: codes and zero points count from the lowest value."""
    streams = stored(fmt, x)
    low = int(fmt.grids[0].low)
    codes = unpack(streams["codes"], x.shape[1], fmt.streams[0]).astype(np.int16)
    values = np.array([int(v) for v in fmt.grids[0].values], np.int16)[codes]
    zeros = np.zeros((len(x), 1), np.int16)
    if fmt.zero is not None:
        stream = next(s for s in fmt.streams if s.name == "zeros")
        zeros = unpack(streams["zeros"], 1, stream).astype(np.int16) + low
    word = np.float32 if fmt.scale.word.container == 32 else np.float16
    return Stored(values, streams["scales"].view(word), zeros)


# -- compressed-tensors -----------------------------------------------------------------------


def compressed_tensors() -> Any:
    return peer_module("compressed_tensors", "compressed-tensors")


def arguments(name: str) -> Any:
    bits, width, zero, strategy, _ = FORMATS[name]
    compressed_tensors()
    from compressed_tensors.quantization import QuantizationArgs

    more = {"group": {"group_size": width}, "token": {"dynamic": True}}.get(strategy, {})
    return QuantizationArgs(
        num_bits=bits, type="int", symmetric=not zero, strategy=strategy, **more
    )


def observed(args: Any, low: Any, high: Any) -> tuple[Any, Any]:
    from compressed_tensors.quantization.utils import calculate_qparams

    scale, zero = calculate_qparams(low, high, args)
    return scale, zero


def theirs(name: str, x: F32) -> Stored:
    """compressed-tensors' observer (the least and largest of a row) and quantizer."""
    torch = peer_module("torch")
    args = arguments(name)
    from compressed_tensors.quantization.lifecycle.forward import quantize

    tensor = torch.from_numpy(x)
    scale, zero = observed(args, tensor.amin(1, keepdim=True), tensor.amax(1, keepdim=True))
    codes = quantize(tensor, scale, zero, args, dtype=torch.int8)
    kept = scale.numpy().astype(np.float16) if name in FP16 else scale.numpy()
    return Stored(codes.numpy().astype(np.int16), kept, zero.numpy().astype(np.int16))


#: All-zero blocks: compressed-tensors' zero point of them is the integer that 0 / 0 becomes.
ZERO_BLOCKS = 3


def declare_encoder(name: str, note: str) -> None:
    expected = ZERO_BLOCKS if FORMATS[name][2] else 0
    label = COMPRESSED.get(name, name)

    @comparison("compressed-tensors", "calculate_qparams, quantize", label, differing=expected)
    def same_integers() -> Outcome:
        x = numbers(name)
        unequal = ours(recipe(label), x).unequal(theirs(name, x))
        assert not (unequal & x.any(axis=1)).any()
        return len(x), int(unequal.sum()), note


def declare_packed(name: str) -> None:
    label = COMPRESSED.get(name, name)

    @comparison("compressed-tensors", "pack_to_int32, unpack_from_int32, dequantize", label)
    def same_bytes_and_values() -> Outcome:
        return packed(name, recipe(label))


def packed(name: str, fmt: Format) -> Outcome:
    """Our codes and zero points are its int32 words, and it reads our bytes to our values."""
    torch = peer_module("torch")
    bits, _, zero, _, _ = FORMATS[name]
    args = arguments(name)
    from compressed_tensors.compressors.pack_quantized.helpers import (
        pack_to_int32,
        unpack_from_int32,
    )
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    x = numbers(name)[:-ZERO_BLOCKS]
    yours = theirs(name, x)
    streams = stored(fmt, x)
    words = pack_to_int32(torch.from_numpy(yours.codes.astype(np.int8)), bits)
    different = words.numpy().view(np.uint8) != streams["codes"]
    codes = unpack_from_int32(
        torch.from_numpy(streams["codes"].copy()).view(torch.int32), bits, torch.Size(x.shape)
    )
    mine = ours(fmt, x)
    zeros = torch.from_numpy(mine.zeros.astype(np.int8)) if zero else None
    scales = torch.from_numpy(mine.scales.astype(np.float32))
    wanted = dequantize(codes, scales, zeros, args).numpy()
    found = read(fmt, streams, x.shape)
    note = "its int32 words are our bytes; our bytes, read by both"
    if zero:
        # Zero points are packed down the rows there: the same numbers, another order.
        down = pack_to_int32(torch.from_numpy(yours.zeros.astype(np.int8)), bits, packed_dim=0)
        back = unpack_from_int32(down, bits, torch.Size((len(x), 1)), packed_dim=0)
        different = different | (back.numpy() != mine.zeros)
    return len(x), int(different.any(axis=1).sum()) + differing_floats(found, wanted), note


EVERYTHING = "random, tie, edge, one-sided, constant and zero blocks: codes and scales"
UNDEFINED = "; it takes the zero point of an all-zero block from 0 / 0"
for each, (_, _, has_zero, _, _) in FORMATS.items():
    kept = " (as fp16)" if each in FP16 else ""
    declare_encoder(each, EVERYTHING + kept + (", zero points" + UNDEFINED) * has_zero)
    if each not in ("int8_asym_row", "int8_sym_row"):  # these are int8 tensors, not int32 words
        declare_packed(each)


@comparison("compressed-tensors", "calculate_qparams, quantize (tensor)", "int8_tensor")
def int8_tensors() -> Outcome:
    """Tensors of 4 x 128: every row of the INT8 blocks is one."""
    torch = peer_module("torch")
    compressed_tensors()
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize

    args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="tensor")
    different, tensors = 0, numbers("int8_sym_row")[::8]
    for tensor in tensors.reshape(-1, 4, 128):
        x = torch.from_numpy(tensor)
        scale, zero = observed(args, x.amin(), x.amax())
        wanted = quantize(x, scale, zero, args, dtype=torch.int8).numpy()
        streams = stored(recipe("int8_tensor"), tensor)
        same = np.array_equal(streams["codes"].view(np.int8), wanted)
        different += not (same and streams["scales"].tobytes() == scale.numpy().tobytes())
    return len(tensors), different, "one scale a tensor of 4 x 128"


def test_int8_codes_are_the_bytes_of_int8_tensors() -> None:
    x = numbers("int8_sym_row")
    assert np.array_equal(
        stored(recipe("int8_sym_row"), x)["codes"].view(np.int8), theirs("int8_sym_row", x).codes
    )


# -- torchao ----------------------------------------------------------------------------------


def range_of(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def by_torchao(x: F32, bits: int, mapping: str) -> Stored:
    """torchao's choose_qparams_affine and quantize_affine, a row a block, eps as it defaults."""
    torch = peer_module("torch")
    torchao = peer_module("torchao.quantization.quant_primitives", "torchao")
    low, high = range_of(bits)
    tensor, block = torch.from_numpy(x), (1, x.shape[1])
    scale, zero = torchao.choose_qparams_affine(
        tensor, torchao.MappingType[mapping], block, torch.int8, low, high, keepdim=True
    )
    codes = torchao.quantize_affine(tensor, block, scale, zero, torch.int8, low, high)
    found = (part.numpy().astype(np.int16) for part in (codes, zero))
    return Stored(next(found), scale.numpy(), next(found))


def read_by_torchao(found: Stored, bits: int) -> F32:
    """torchao's dequantize_affine of what we stored."""
    torch = peer_module("torch")
    torchao = peer_module("torchao.quantization.quant_primitives", "torchao")
    codes = torch.from_numpy(found.codes.astype(np.int8))
    scales = torch.from_numpy(found.scales.astype(np.float32))
    zeros = torch.from_numpy(found.zeros.astype(np.int32))
    block = (1, codes.shape[1])
    values = torchao.dequantize_affine(codes, block, scales, zeros, torch.int8, *range_of(bits))
    return np.asarray(values.numpy())


def declare_decoder(name: str) -> None:
    @comparison("torchao", "dequantize_affine", name)
    def same_values() -> Outcome:
        x, fmt, bits = numbers(name), recipe(name), FORMATS[name][0]
        mine = read(fmt, stored(fmt, x), x.shape)
        return len(x), differing_floats(mine, read_by_torchao(ours(fmt, x), bits)), "our bytes"


for each in FORMATS:
    declare_decoder(each)


#: torchao's arithmetic, said in the language: the reciprocal, and its least scale.
EPS = "scale fp32 { min 2^-126  zero_block 2^-126 }  compare fp32_reciprocal"


def declare_symmetric(name: str) -> None:
    label = f"{name}, {EPS}"

    @comparison("torchao", "quantize_affine(SYMMETRIC)", label)
    def symmetric() -> Outcome:
        x, bits = numbers(name), FORMATS[name][0]
        found = ours(recipe(label), x)
        note = "the recipe with torchao's reciprocal and eps: codes and scales"
        return len(x), int(found.unequal(by_torchao(x, bits, "SYMMETRIC")).sum()), note


for each in ("int4_sym_g32", "int4_sym_g128", "int3_sym_g128", "int8_sym_row"):
    declare_symmetric(each)


def declare_asymmetric(name: str, label: str, note: str) -> None:
    @comparison("torchao", "quantize_affine(ASYMMETRIC)", label)
    def asymmetric() -> Outcome:
        x, bits = numbers(name), FORMATS[name][0]
        unequal = ours(recipe(label), x).unequal(by_torchao(x, bits, "ASYMMETRIC"))
        return len(x), int(unequal.sum()), note


WITH_POINTS = "codes, scales and zero points"
declare_asymmetric("int8_asym_row", "int8_asym_row_torchao", WITH_POINTS)
for each in FP16:
    settings = EPS.replace("fp32 {", "fp32 { codes stored ")
    changed = f"the recipe with torchao's fp32 scales, reciprocal and eps: {WITH_POINTS}"
    declare_asymmetric(each, f"{each}, {settings}", changed)


# -- GPTQ -------------------------------------------------------------------------------------


def by_gptq(x: F32, bits: int) -> Stored:
    """What GPTQ's quantizer does with rows that are not all zero (arXiv:2210.17323, quant.py).

    It rounds the quotient of every element, and that of the least one for the zero point.
    """
    last, nothing = np.float32(2**bits - 1), np.float32(0)
    low = np.minimum(x.min(axis=1, keepdims=True), nothing)
    high = np.maximum(x.max(axis=1, keepdims=True), nothing)
    scales = (high - low) / last
    zeros = np.rint(-low / scales)
    codes = np.clip(np.rint(x / scales) + zeros, nothing, last)
    middle = np.int16(2 ** (bits - 1))
    counted = (part.astype(np.int16) - middle for part in (codes, zeros))
    return Stored(next(counted), scales.astype(np.float16), next(counted))


@pytest.mark.parametrize("name", FP16)
def test_groups_have_the_codes_scales_and_zero_points_of_gptq(name: str) -> None:
    x = numbers(name)[:-ZERO_BLOCKS]
    wanted = by_gptq(x, FORMATS[name][0])
    assert not ours(recipe(name), x).unequal(wanted).any()
    # The same numbers tell the two orders of rounding apart.
    assert ours(recipe(COMPRESSED[name]), x).unequal(wanted).any()


def test_rows_of_the_widest_format_reach_every_code() -> None:
    found = ours(recipe("int8_sym_row"), numbers("int8_sym_row")).codes
    assert set(np.unique(found)) == set(range(-128, 128))


@pytest.mark.parametrize("name", ["int4_asym_g128", "int3_asym_g128", "int8_asym_row"])
def test_zero_points_cover_their_range_and_zero_is_exact(name: str) -> None:
    bits, width = FORMATS[name][:2]
    fmt, x = recipe(name), numbers(name).copy()
    zeros = ours(fmt, x).zeros
    assert (zeros.min(), zeros.max()) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    x[:, width // 2] = 0
    decoded = read(fmt, stored(fmt, x), x.shape)
    assert not decoded[:, width // 2].any()


test_the_peers_and_fmtc_agree = run_comparisons(__name__)
