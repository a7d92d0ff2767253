"""NF4, FP4, INT8 and the dynamic 8-bit map against bitsandbytes 0.50 on a CPU.

Where the two are known to differ, each difference is asserted, so that it stays known:

* Whole blocks are scaled by the rounded reciprocal, ``x * fp32(1 / absmax)``, by both. A short
  last block bitsandbytes divides, ``fp32(x / absmax)``, where the format stays with its rule.
  Of random values about one in four million lies between the two.
* The spare nibble of an odd tensor is the code of zero (7 in NF4), where the format says zero bits.
* FP4 has +0 twice. bitsandbytes' CPU encoder gives 0 < x the code 8 and x <= 0 the code 0; fmtc
  stores code 0. Both read zeros.
* The CPU kernel of the 8-bit map looks x up in a table of 65536 steps and so misses the nearest
  value of about one in 700 elements. The library's own PyTorch kernel, and fmtc, do not.
* INT8 rows: the quotient is ``x * fp32(127 / absmax)`` there and ``x * fp32(1 / absmax)`` against
  midpoints of k/127 here, and it decodes with one rounding more.
"""

from __future__ import annotations

from functools import cache
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
from fmtc import Format, load
from fmtc.compiler.packing import unpack
from fmtc.compiler.view import view_of
from numpy.typing import NDArray
from peer_blocks import blocks_for, read, stored, zero_blocks

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BLOCK = 64
MAP_BLOCK = 256


@cache
def recipe(name: str) -> Format:
    return load(name)


def peer() -> tuple[Any, Any]:
    torch = peer_module("torch")
    return torch, peer_module("bitsandbytes.functional", "bitsandbytes")


# -- 4 bits: NF4 and FP4 ----------------------------------------------------------------------


def theirs(x: Any, kind: str = "nf4") -> tuple[U8, F32, F32]:
    """Packed bytes, absmax and decoded values of a flat tensor."""
    torch, functional = peer()
    tensor = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    # An odd length would be compiled first, for a minute: run it as it is written.
    with torch.compiler.set_stance("force_eager"):
        packed, state = functional.quantize_4bit(tensor, blocksize=BLOCK, quant_type=kind)
        decoded = functional.dequantize_4bit(packed, state)
    assert decoded.dtype == tensor.dtype
    return packed.numpy().reshape(-1), state.absmax.numpy(), decoded.float().numpy().reshape(-1)


def ours(x: Any, kind: str = "nf4") -> tuple[U8, F32, F32]:
    q = recipe(kind).quantize(x, backend="reference")
    decoded = q.dequantize(backend="reference")
    values = decoded if isinstance(decoded, np.ndarray) else decoded.float().numpy()
    return q.streams["codes"][0], q.streams["scales"][0].view(np.float32), values.reshape(-1)


def same_bits(one: F32, two: F32) -> bool:
    return np.array_equal(one.view(np.uint32), two.view(np.uint32))


def codes(packed: U8, kind: str = "nf4") -> U8:
    return unpack(packed[None, :], 2 * packed.size, recipe(kind).streams[0])[0].astype(np.uint8)


def midpoints() -> F32:
    return np.array(view_of(recipe("nf4")).grids[0].quotient_bits, np.uint32).view(np.float32)


def between_division_and_reciprocal(x: F32) -> Mask:
    """Where fp32(x / absmax) and x * fp32(1 / absmax) lie on two sides of a midpoint."""
    blocks = x.reshape(-1, BLOCK)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    safe = np.where(absmax == 0, np.float32(1), absmax)
    divided = np.searchsorted(midpoints(), blocks / safe)
    multiplied = np.searchsorted(midpoints(), blocks * (np.float32(1) / safe))
    return (divided != multiplied).reshape(-1)


def tie_blocks(count: int = 4000, seed: int = 5) -> F32:
    """Blocks of every midpoint times absmax and its two neighbours, under many absmax."""
    rng = np.random.default_rng(seed)
    peaks = np.exp2(rng.uniform(-100, 100, count)).astype(np.float32)[:, None]
    near = (midpoints() * peaks).astype(np.float32)
    wanted = [np.nextafter(near, np.float32(-np.inf)), near]
    wanted.append(np.nextafter(near, np.float32(np.inf)))
    values = np.concatenate([peaks, *wanted, -near, -peaks, 0 * peaks, -0.0 * peaks], axis=1)
    assert values.shape == (count, BLOCK)
    return values


@cache
def four_bit_blocks(kind: str) -> F32:
    tiny = np.array([[1.1e-38], [1e-38], [9e-39], [1e-40], [2.0**-149]])
    normal = np.random.default_rng(2).standard_normal((5, BLOCK))
    tiny = (normal / np.abs(normal).max(axis=1, keepdims=True) * tiny).astype(np.float32)
    usual = blocks_for(recipe(kind), BLOCK, low=-120, high=127)
    return np.concatenate([usual, tiny, zero_blocks(BLOCK)])


def unequal_blocks(kind: str) -> tuple[F32, Mask, U8, U8]:
    """The blocks, where any byte of codes or absmax differs, and both sides' codes."""
    x = four_bit_blocks(kind)
    mine, yours = ours(x.reshape(-1), kind), theirs(x.reshape(-1), kind)
    assert same_bits(mine[1], yours[1])
    assert (mine[2] == yours[2]).all()
    one, two = (codes(found[0], kind).reshape(-1, BLOCK) for found in (mine, yours))
    return x, (one != two).any(axis=1), one, two


@comparison("bitsandbytes", "quantize_4bit(nf4)", "nf4")
def nf4_bytes() -> Outcome:
    x, unequal, _, _ = unequal_blocks("nf4")
    return len(x), int(unequal.sum()), "random, tie, edge, zero and subnormal blocks"


@comparison("bitsandbytes", "quantize_4bit(fp4)", "fp4", differing=1129)
def fp4_bytes() -> Outcome:
    x, unequal, mine, yours = unequal_blocks("fp4")
    other = mine != yours
    assert (mine[other] == 0).all()
    assert (yours[other] == 8).all()
    assert (x[other] > 0).all()
    note = "code 8, a second +0, for positive numbers that round to 0; both read the same"
    return len(x), int(unequal.sum()), note


@comparison("bitsandbytes", "dequantize_4bit(fp4)", "fp4")
def fp4_values() -> Outcome:
    return random_nibbles("fp4")


@comparison("bitsandbytes", "dequantize_4bit(nf4)", "nf4")
def nf4_values() -> Outcome:
    return random_nibbles("nf4")


def random_nibbles(kind: str) -> Outcome:
    """Both read random codes under random absmax."""
    torch, functional = peer()
    rng = np.random.default_rng(6)
    packed = rng.integers(0, 256, (4096, BLOCK // 2), np.uint8)
    absmax = np.exp2(rng.uniform(-126, 126, (4096, 1))).astype(np.float32)
    state = functional.QuantState(
        absmax=torch.from_numpy(absmax[:, 0].copy()),
        shape=torch.Size((4096, BLOCK)),
        code=functional.get_4bit_type(kind, device="cpu"),
        blocksize=BLOCK,
        quant_type=kind,
        dtype=torch.float32,
    )
    wanted = functional.dequantize_4bit(torch.from_numpy(packed).reshape(-1, 1), state).numpy()
    streams = {"codes": packed, "scales": absmax.view(np.uint8)}
    found = read(recipe(kind), streams, (4096, BLOCK))
    return 4096, differing_floats(found, wanted), "random codes under random absmax"


@pytest.mark.parametrize("seed", [0, 1])  # seed 0 holds a value that a division would move
def test_four_million_random_values_give_bitsandbytes_bytes_absmax_and_values(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(1 << 22, dtype=np.float32)
    assert between_division_and_reciprocal(x).sum() == (seed == 0)
    for found, wanted in zip(ours(x), theirs(x), strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_ties_and_their_neighbours_give_bitsandbytes_bytes() -> None:
    x = tie_blocks().reshape(-1)
    assert between_division_and_reciprocal(x).sum() > 1000  # so that the two rules are told apart
    for found, wanted in zip(ours(x), theirs(x), strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_in_a_short_last_block_only_values_between_the_two_rules_differ() -> None:
    different = 0
    for block in tie_blocks(64):
        x = np.concatenate([block, block[:62]])
        between = between_division_and_reciprocal(np.append(x, np.zeros(2, np.float32)))[: x.size]
        packed, absmax, _ = ours(x)
        their_packed, their_absmax, _ = theirs(x)
        assert same_bits(absmax, their_absmax)
        unequal = codes(packed) != codes(their_packed)
        assert not unequal[:BLOCK].any()
        assert np.array_equal(unequal[BLOCK:], between[BLOCK:])
        different += int(unequal.sum())
    assert different > 0


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrow_inputs_give_bitsandbytes_bytes_and_return_to_their_type(kind: str) -> None:
    torch, _ = peer()
    torch.manual_seed(3)
    x = torch.randn(1 << 20).to(getattr(torch, kind))
    for found, wanted in zip(ours(x), theirs(x), strict=True):
        assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, -3.7, 2.0**-126, -(2.0**127)], ids=lambda v: f"{v:g}"
)
def test_constant_blocks_give_bitsandbytes_bytes(value: float) -> None:
    x = np.full(2 * BLOCK, value, np.float32)
    for found, wanted in zip(ours(x), theirs(x), strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_an_all_zero_block_stores_absmax_zero_and_the_code_of_zero() -> None:
    packed, absmax, decoded = ours(np.zeros(BLOCK, np.float32))
    their_packed, their_absmax, _ = theirs(np.zeros(BLOCK, np.float32))
    assert set(packed.tolist()) == {0x77} == set(their_packed.tolist())
    assert absmax.tolist() == [0.0] == their_absmax.tolist()
    assert not decoded.any()


@pytest.mark.parametrize("length", [2, 30, 64, 66, 100, 126, 1000, 4094])
def test_short_last_blocks_give_bitsandbytes_bytes(length: int) -> None:
    x = np.random.default_rng(length).standard_normal(length, dtype=np.float32)
    for found, wanted in zip(ours(x), theirs(x), strict=True):
        assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("length", [1, 3, 65, 127])
def test_an_odd_length_differs_in_the_spare_nibble_alone(length: int) -> None:
    x = np.random.default_rng(length).standard_normal(length, dtype=np.float32)
    packed, absmax, decoded = ours(x)
    their_packed, their_absmax, their_decoded = theirs(x)
    assert (packed[-1] & 15, their_packed[-1] & 15) == (0, 7)
    assert np.array_equal(codes(packed)[:length], codes(their_packed)[:length])
    assert same_bits(absmax, their_absmax)
    assert same_bits(decoded, their_decoded)


def test_rows_of_whole_blocks_are_the_flat_tensor_of_bitsandbytes() -> None:
    x = np.random.default_rng(9).standard_normal((48, 256), dtype=np.float32)
    streams = stored(recipe("nf4"), x)
    packed, absmax, _ = theirs(x)
    assert streams["codes"].tobytes() == packed.tobytes()
    assert streams["scales"].tobytes() == absmax.tobytes()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_codebook_is_bitsandbytes_table_bit_for_bit(kind: str) -> None:
    _, functional = peer()
    table = functional.get_4bit_type(kind, device="cpu").numpy()
    assert np.array_equal(recipe(kind).decode_table()[0].view(np.uint32), table.view(np.uint32))


# -- 8 bits: the dynamic map, alone and under NF4's scales ------------------------------------


def exact_map_kernel(x: F32) -> tuple[U8, F32]:
    """Codes and absmax of rows by bitsandbytes' own PyTorch kernel, which other devices use."""
    torch, functional = peer()
    flat = torch.from_numpy(np.ascontiguousarray(x).reshape(-1))
    generic = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    quantize = torch.ops.bitsandbytes.quantize_blockwise.default
    found, absmax = quantize.redispatch(generic, flat, functional.create_dynamic_map(), x.shape[1])
    return found.numpy().reshape(x.shape), absmax.numpy()[:, None]


def cpu_map_kernel(x: F32) -> tuple[U8, F32]:
    """Codes and absmax of rows by its CPU kernel."""
    torch, functional = peer()
    flat = torch.from_numpy(np.ascontiguousarray(x).reshape(-1))
    found, state = functional.quantize_blockwise(flat, blocksize=x.shape[1])
    return found.numpy().reshape(x.shape), state.absmax.numpy()[:, None]


def by_table_of_65536_steps(x: F32, absmax: F32) -> U8:
    """What the CPU kernel does: the code of the nearest of 65536 numbers in [-1, 1]."""
    one, steps = np.float32(1), np.float32(65535)
    values = recipe("dynamic8").decode_table()[0]
    middles = (values[1:] + values[:-1]) / 2
    table = np.searchsorted(middles, np.arange(65536) / 65535 * 2 - 1)
    with np.errstate(all="ignore"):
        scaled = x * (one / absmax)
        step = ((scaled + one) * np.float32(0.5) * steps + np.float32(0.5)).astype(np.int64)
    return table[np.clip(step, 0, 65535)].astype(np.uint8)


@cache
def map_blocks() -> F32:
    usual = blocks_for(recipe("dynamic8"), MAP_BLOCK, low=-100, high=120, count=500)
    return np.concatenate([usual, zero_blocks(MAP_BLOCK)])


@comparison("bitsandbytes", "quantize_blockwise, PyTorch kernel", "dynamic8")
def dynamic_map_bytes() -> Outcome:
    x = map_blocks()
    found, absmax = exact_map_kernel(x)
    streams = stored(recipe("dynamic8"), x)
    assert np.array_equal(streams["scales"].view(np.float32), absmax)
    note = "random, tie, edge and zero blocks of 256; the kernel of devices without their own"
    return len(x), differing_rows(streams["codes"], found), note


@comparison("bitsandbytes", "quantize_blockwise, CPU kernel", "dynamic8", differing=1483)
def dynamic_map_bytes_of_the_cpu_kernel() -> Outcome:
    x = map_blocks()
    found, absmax = cpu_map_kernel(x)
    streams = stored(recipe("dynamic8"), x)
    assert np.array_equal(streams["scales"].view(np.float32), absmax)
    nonzero = x.any(axis=1)
    assert np.array_equal(found[nonzero], by_table_of_65536_steps(x, absmax)[nonzero])
    assert (found[~nonzero] == 0).all()  # -0.99 times an absmax of 0
    note = "it looks x up in a table of 65536 steps: one element in 700 misses the nearest value"
    return len(x), differing_rows(streams["codes"], found), note


@comparison("bitsandbytes", "dequantize_blockwise", "dynamic8")
def dynamic_map_values() -> Outcome:
    torch, functional = peer()
    rng = np.random.default_rng(8)
    packed = rng.integers(0, 256, (1024, MAP_BLOCK), np.uint8)
    absmax = np.exp2(rng.uniform(-126, 126, (1024, 1))).astype(np.float32)
    code = functional.create_dynamic_map()
    wanted = functional.dequantize_blockwise(
        torch.from_numpy(packed),
        absmax=torch.from_numpy(absmax[:, 0].copy()),
        code=code,
        blocksize=MAP_BLOCK,
    ).numpy()
    streams = {"codes": packed, "scales": absmax.view(np.uint8)}
    found = read(recipe("dynamic8"), streams, packed.shape)
    return len(packed), differing_floats(found, wanted), "random codes under random absmax"


def test_the_map_is_bitsandbytes_table_bit_for_bit() -> None:
    _, functional = peer()
    table = functional.create_dynamic_map().numpy()
    found = recipe("dynamic8").decode_table()[0]
    assert np.array_equal(found.view(np.uint32), table.view(np.uint32))


def weights(count: int, seed: int) -> Any:
    """bfloat16 weights of several magnitudes: sums of their absmax are exact in fp32."""
    torch, _ = peer()
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, BLOCK)) * np.exp2(rng.uniform(-2, 2, (count, 1)))
    return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16).float()


#: Blocks of tensors under double quantization: less, as many as, and more than a block of scales.
COUNTS = (4, 255, 256, 257, 1000, 4096)


@comparison("bitsandbytes", "quantize_4bit(nf4, compress_statistics)", "nf4_dq", differing=6)
def double_quantization_bytes() -> Outcome:
    """Blocks whose codes or scale differ; all scales of one are its CPU kernel's table."""
    _, functional = peer()
    different = 0
    for count in COUNTS:
        x = weights(count, count)
        packed, state = functional.quantize_4bit(
            x.reshape(-1), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        streams = stored(recipe("nf4_dq"), x.numpy())
        assert streams["codes"].tobytes() == packed.numpy().tobytes()
        assert streams["scales.center"].view(np.float32).item() == state.offset.item()
        assert streams["scales.scales"].tobytes() == state.state2.absmax.numpy().tobytes()
        mine, yours = streams["scales.codes"].reshape(-1), state.absmax.numpy()
        absmax = np.abs(x.numpy()).max(axis=1) - np.float32(state.offset.item())
        group = np.repeat(state.state2.absmax.numpy(), 256)[:count]
        assert np.array_equal(yours, by_table_of_65536_steps(absmax, group))
        different += int((mine != yours).sum())
    note = "codes, mean and second absmax equal; scale codes are of the CPU kernel's table (above)"
    return sum(COUNTS), different, note


@comparison("bitsandbytes", "dequantize_4bit(nf4, compress_statistics)", "nf4_dq")
def double_quantization_values() -> Outcome:
    """What bitsandbytes stored, read by both; and what we stored, read by bitsandbytes."""
    torch, functional = peer()
    different = 0
    for count in COUNTS:
        x = weights(count, count)
        packed, state = functional.quantize_4bit(
            x.reshape(-1), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        wanted = functional.dequantize_4bit(packed, state).numpy().reshape(count, BLOCK)
        streams = {
            "codes": packed.numpy().reshape(count, -1),
            "scales.codes": state.absmax.numpy()[None],
            "scales.scales": state.state2.absmax.numpy().view(np.uint8)[None],
            "scales.center": np.array([state.offset.item()], np.float32).view(np.uint8)[None],
        }
        different += differing_floats(read(recipe("nf4_dq"), streams, (count, BLOCK)), wanted)
        mine = recipe("nf4_dq").quantize(x.numpy(), backend="reference")
        state.absmax = torch.from_numpy(mine.streams["scales.codes"].reshape(-1).copy())
        written = torch.from_numpy(mine.streams["codes"].reshape(-1, 1).copy())
        back = functional.dequantize_4bit(written, state).numpy().reshape(count, BLOCK)
        different += differing_floats(mine.to_float32(backend="reference"), back)
    return 2 * sum(COUNTS), different, "its bytes read by both, and ours"


def test_the_mean_of_other_weights_is_summed_in_fp32_by_torch() -> None:
    torch, _ = peer()
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1000, BLOCK), dtype=np.float32))
    absmax = x.abs().amax(1)
    center = stored(recipe("nf4_dq"), x.numpy())["scales.center"].view(np.float32).item()
    assert center == np.float32(absmax.numpy().mean(dtype=np.float64))
    assert abs(center - absmax.mean().item()) <= 2 * np.spacing(np.float32(center))


# -- INT8 rows --------------------------------------------------------------------------------


@cache
def int8_rows() -> F32:
    return blocks_for(recipe("int8"), 256, low=-60, high=60, count=500)


def vectorwise(x: F32) -> tuple[NDArray[np.int8], F32]:
    torch, functional = peer()
    found, absmax, _ = functional.int8_vectorwise_quant(torch.from_numpy(x.copy()))
    return found.numpy(), absmax.numpy()[:, None]


@comparison("bitsandbytes", "int8_vectorwise_quant", "int8", differing=866)
def int8_bytes() -> Outcome:
    """All absmax are equal; a differing code is a neighbour, at a tie within two roundings."""
    x = int8_rows()
    found, absmax = vectorwise(x)
    streams = stored(recipe("int8"), x)
    assert np.array_equal(streams["scales"].view(np.float32), absmax)
    mine = streams["codes"].view(np.int8)
    other = mine != found
    assert (np.abs(mine[other].astype(int) - found[other]) == 1).all()
    exact = 127 * x.astype(np.float64) / absmax
    tie = np.abs(np.abs(exact - np.rint(exact)) - 0.5)
    assert (tie[other] <= 3 * 127 * 2.0**-24).all()
    note = "codes at ties alone: x * fp32(127 / absmax) there, x * fp32(1 / absmax) here"
    return len(x), int(other.any(axis=1).sum()), note


@comparison("bitsandbytes", "int8_vectorwise_dequant", "int8", differing=2353)
def int8_values() -> Outcome:
    torch, functional = peer()
    x = int8_rows()
    streams = stored(recipe("int8"), x)
    mine = read(recipe("int8"), streams, x.shape)
    yours = functional.int8_vectorwise_dequant(
        torch.from_numpy(streams["codes"].view(np.int8).copy()),
        torch.from_numpy(streams["scales"].view(np.float32)[:, 0].copy()),
    ).numpy()
    assert (np.abs(mine - yours) <= 2 * np.spacing(np.abs(yours))).all()
    note = "two ulps at most: it rounds code * absmax, then that times fp32(1/127)"
    return len(x), differing_floats(mine, yours), note


def test_random_rows_give_bitsandbytes_int8_codes() -> None:
    x = np.random.default_rng(4).standard_normal((256, 4096), dtype=np.float32)
    found, absmax = vectorwise(x)
    streams = stored(recipe("int8"), x)
    assert np.array_equal(streams["scales"].view(np.float32), absmax)
    assert (streams["codes"].view(np.int8) != found).sum() <= 20  # of a million: see above


test_bitsandbytes_and_fmtc_agree = run_comparisons(__name__)
