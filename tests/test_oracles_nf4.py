"""NF4 against bitsandbytes 0.50 on a CPU: packed bytes, absmax and decoded values.

Where the two are known to differ, each difference is asserted, so that it stays known:

* Whole blocks are scaled by the rounded reciprocal, ``x * fp32(1 / absmax)``, by both. A short
  last block bitsandbytes divides, ``fp32(x / absmax)``, where the format stays with its rule.
  Of random values about one in four million lies between the two.
* The spare nibble of an odd tensor is the code of zero (7), where the format says zero bits.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from fmtc import load
from fmtc.compiler.format import Format
from fmtc.compiler.packing import unpack
from fmtc.compiler.view import view_of
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

BLOCK = 64


def bitsandbytes() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason="bitsandbytes needs torch")
        functional = pytest.importorskip(
            "bitsandbytes.functional", reason="the peer bitsandbytes is not installed"
        )
    return torch, functional


def theirs(x: Any) -> tuple[U8, F32, F32]:
    """Packed bytes, absmax and decoded values of a flat tensor."""
    torch, functional = bitsandbytes()
    tensor = x if isinstance(x, torch.Tensor) else torch.from_numpy(x)
    # An odd length would be compiled first, for a minute: run it as it is written.
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        packed, state = functional.quantize_4bit(tensor, blocksize=BLOCK, quant_type="nf4")
        decoded = functional.dequantize_4bit(packed, state)
    assert decoded.dtype == tensor.dtype
    return packed.numpy().reshape(-1), state.absmax.numpy(), decoded.float().numpy().reshape(-1)


def ours(x: Any) -> tuple[U8, F32, F32]:
    q = load("nf4").quantize(x, backend="reference")
    decoded = q.dequantize(backend="reference")
    values = decoded if isinstance(decoded, np.ndarray) else decoded.float().numpy()
    return q.streams["codes"][0], q.streams["scales"][0].view(np.float32), values.reshape(-1)


def same_bits(one: F32, two: F32) -> bool:
    return np.array_equal(one.view(np.uint32), two.view(np.uint32))


def codes(packed: U8) -> U8:
    fmt: Format = load("nf4")
    return unpack(packed[None, :], 2 * packed.size, fmt.streams[0])[0].astype(np.uint8)


def midpoints() -> F32:
    return np.array(view_of(load("nf4")).grids[0].quotient_bits, np.uint32).view(np.float32)


def between_division_and_reciprocal(x: F32) -> NDArray[np.bool_]:
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
    torch, _ = bitsandbytes()
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
    q = load("nf4").quantize(x, backend="reference")
    packed, absmax, _ = theirs(x)
    assert q.streams["codes"].tobytes() == packed.tobytes()
    assert q.streams["scales"].tobytes() == absmax.tobytes()


@pytest.mark.parametrize("peak", [1.1e-38, 1e-38, 9e-39, 1e-40, 2.0**-149])
def test_blocks_around_and_below_bitsandbytes_clamp_give_its_bytes(peak: float) -> None:
    x = np.random.default_rng(2).standard_normal(BLOCK).astype(np.float32)
    tiny = x / np.abs(x).max() * np.float32(peak)
    for found, wanted in zip(ours(tiny), theirs(tiny), strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_the_codebook_is_bitsandbytes_table_bit_for_bit() -> None:
    _, functional = bitsandbytes()
    table = functional.get_4bit_type("nf4", device="cpu").numpy()
    assert np.array_equal(load("nf4").decode_table()[0].view(np.uint32), table.view(np.uint32))
