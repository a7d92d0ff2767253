"""The GPU bench on a machine without a GPU: poison, checks and clocks."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

import numpy as np  # noqa: E402
from fmtc.bench.gpu import (  # noqa: E402
    clock,
    correct,
    ours,
    products,
)
from fmtc.bench.gpu.clock import DeviceClock, InventedClock  # noqa: E402
from fmtc.bench.gpu.poison import Overrun, Poison, map_tensors  # noqa: E402
from fmtc.compiler.kernel import kernel_format  # noqa: E402
from fmtc.compiler.pipeline import decode  # noqa: E402
from fmtc.formats import load  # noqa: E402
from gpu_bench_stub import PRODUCT, TINY, honest, stub, weights_of  # noqa: E402


@pytest.fixture(autouse=True)
def no_autotuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMTC_TUNE", "off")


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = stub()
    monkeypatch.setitem(sys.modules, PRODUCT, module)
    return module


# Poison


def test_new_tensors_are_nan_and_inputs_are_kept() -> None:
    x = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    with Poison("cpu") as poison:
        for made in (torch.empty(3), torch.empty_like(x), x.new_empty((2, 2))):
            assert made.isnan().all()
        assert (torch.empty(4, dtype=torch.uint8) == 0xFF).all()
        assert (torch.zeros(3) == 0).all()
        assert (torch.full((2,), 7.0) == 7).all()
        guarded = poison.guard(x.T)
        assert (guarded == x.T).all()
        assert guarded.data_ptr() % 16 == 0
    assert poison.check() >= 2 * 7


@pytest.mark.parametrize(("place", "words"), [(-1, "1 bytes before"), (12, "0 bytes after")])
def test_who_writes_outside_is_found(place: int, words: str) -> None:
    with Poison("cpu") as poison:
        made = torch.empty(3)
    bytes_of = made.untyped_storage()
    bytes_of[4096 + place] = 0
    with pytest.raises(Overrun, match=f"{words} a new torch.float32 \\[3\\] something was written"):
        poison.check()


def test_tensors_of_nested_values_are_replaced_and_the_rest_is_left() -> None:
    packed = ours.pack(load("nvfp4"), ours.random_rows((4, 64)))
    weights = weights_of(packed)
    copied = map_tensors(weights, torch.clone)
    assert copied.format is weights.format
    assert copied.planes[0].data_ptr() != weights.planes[0].data_ptr()
    assert all((copied.blocks[name] == block).all() for name, block in weights.blocks.items())


# Checks


@pytest.mark.parametrize("name", ["sop_pair", "q4_0", "nf4_dd4_opq_wr", "sfp4"])
def test_right_kernels_pass(product: types.ModuleType, name: str) -> None:
    count, wrong = correct.check(name, replace(TINY, check_rows=(2,)))
    assert count >= 7
    assert wrong == []


def nan_somewhere(y: torch.Tensor) -> torch.Tensor:
    y[-1, -1] = torch.nan
    return y


WRONG: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "nan": (nan_somewhere, "1 of 17 differ, the first at .0, 16.: nan"),
    "all a little": (lambda y: y * (1 + 2**-7), "all together are off by 0.0078"),
    "another row": (lambda y: y.roll(1, 1), "differ, the first at"),
    "shape": (lambda y: y[:, :-1], "instead of"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_product_is_found(product: types.ModuleType, kind: str) -> None:
    change, words = WRONG[kind]
    packed = ours.pack(load("nvfp4"), ours.random_rows((17, 200), seed=1))
    weights = weights_of(packed)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 200)).astype(np.float16))
    exact = honest(weights, x, "half")
    dense = decode(packed.format, packed.streams, 200, packed.level)
    size = np.abs(x.numpy().astype(np.float64)) @ np.abs(dense.astype(np.float64)).T
    correct._near("it", exact.clone(), exact.numpy(), size, "half")
    with pytest.raises(correct.Mismatch, match=words):
        correct._near("it", change(exact.clone()), exact.numpy(), size, "half")


def test_a_product_that_leaves_places_out_or_writes_outside_is_found(
    product: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaves_out(weights: object, x: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.empty((len(x), weights.rows))

    monkeypatch.setattr(product, "product", leaves_out)
    assert all("nan, not" in wrong for wrong in wrong_of("mxfp4"))

    def writes_outside(weights: object, x: torch.Tensor, **_: object) -> torch.Tensor:
        weights.planes[0].untyped_storage()[0] = 1
        return honest(weights, x, "half").float()

    monkeypatch.setattr(product, "product", writes_outside)
    for wrong in wrong_of("mxfp4"):
        assert re.match(r"mxfp4: product of \d rows.*: 4096 bytes before an input .*uint8", wrong)

    def does_not_run(*_: object, **__: object) -> torch.Tensor:
        raise ValueError("no such tile")

    monkeypatch.setattr(product, "product", does_not_run)
    assert wrong_of("mxfp4")[0] == "mxfp4: multiply 1 half float16 fast: ValueError: no such tile"


def wrong_of(name: str) -> list[str]:
    _, wrong = correct.check(name, TINY)
    assert wrong
    return wrong


def test_not_more_than_a_few_mistakes_are_told_and_none_after_the_device_is_lost(
    product: types.ModuleType,
) -> None:
    def fails(weights: object, x: torch.Tensor, arithmetic: str) -> torch.Tensor:
        raise RuntimeError(product.words)

    product.of, product.words = fails, "no"
    many = replace(TINY, check_rows=tuple(range(1, 20)))
    assert len(correct.check("mxfp4", many)[1]) == correct.MOST
    product.words = "CUDA error: an illegal memory access was encountered\nand advice"
    (lost,) = correct.check("mxfp4", many)[1]
    assert lost.endswith("CUDA error: an illegal memory access was encountered")


def test_other_bits_of_a_decoder_are_found() -> None:
    want = np.array([[1.0, -0.0]], np.float32)
    got = torch.tensor([[1.0, 0.0]])
    with pytest.raises(correct.Mismatch, match=r"1 of 2 differ, the first at .0, 1.: 0x0, not 0x8"):
        correct._same_bits(load("nvfp4"), "decode", got, want)


def test_another_grid_is_excused_only_where_nothing_more_is_lost() -> None:
    fmt = load("po2_nf4")
    x = ours.random_rows((16, 64))
    packed = ours.pack(fmt, x)
    other = {name: octets.copy() for name, octets in packed.streams.items()}
    correct._excuse(fmt, x, packed.streams, other, packed.level, "codes")
    other["codes"][3, 5] ^= 0x7
    with pytest.raises(correct.Mismatch, match="the stream 'codes' of encode: 1 of 64 blocks"):
        correct._excuse(fmt, x, packed.streams, other, packed.level, "codes")
    with pytest.raises(correct.Mismatch, match="nvfp4"):
        correct._excuse(load("nvfp4"), x, packed.streams, other, packed.level, "codes")


# Weights


@pytest.mark.parametrize("name", ["sop_pair", "q4_0"])
def test_a_tall_weight_repeats_its_rows(product: types.ModuleType, name: str) -> None:
    weights = ours.tall_weights(load(name), (70, 256), 32, "cpu")
    assert weights.rows == 70
    for tensor in (*weights.planes, *weights.blocks.values()):
        assert len(tensor) == 70
        assert (tensor[64:] == tensor[:6]).all()
    bits = ours.octets_of(weights) * 8 / (70 * 256)
    assert bits == pytest.approx(kernel_format(load(name)).bpw, abs=0.3)


def test_copies_are_enough_to_be_cold_and_lie_elsewhere() -> None:
    tensor = torch.ones(10)
    copies = ours.copies_of(tensor, 40, cold=100, most=64)
    assert len(copies) == 3
    assert len({copy.data_ptr() for copy in copies}) == 3
    assert len(ours.copies_of(tensor, 40, cold=1, most=64)) == 2
    assert len(ours.copies_of(tensor, 40, cold=10**9, most=5)) == 5


# Clocks


class FakeCuda:
    """The part of torch.cuda that the clock uses, whose calls each take a millisecond."""

    now = 0.0
    captures = True

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at = 0.0

        def record(self) -> None:
            self.at = FakeCuda.now

        def elapsed_time(self, other: FakeCuda.Event) -> float:
            return other.at - self.at

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    class CUDAGraph:
        def capture_begin(self) -> None:
            self.before = FakeCuda.now

        def capture_end(self) -> None:
            self.took, FakeCuda.now = FakeCuda.now - self.before, self.before
            if not FakeCuda.captures:
                raise RuntimeError("operation not permitted when stream is capturing")

        def replay(self) -> None:
            FakeCuda.now += self.took

        def reset(self) -> None: ...

    @staticmethod
    def synchronize() -> None: ...

    @staticmethod
    def current_stream() -> FakeCuda.Stream:
        return FakeCuda.Stream()

    @staticmethod
    def stream(_: object) -> object:
        from contextlib import nullcontext

        return nullcontext()


@pytest.mark.parametrize("captures", [True, False])
def test_the_clock_takes_the_median_of_replays(
    monkeypatch: pytest.MonkeyPatch, captures: bool
) -> None:
    monkeypatch.setattr(torch, "cuda", FakeCuda)
    monkeypatch.setattr(FakeCuda, "captures", captures)
    done: list[str] = []

    def call(name: str) -> None:
        done.append(name)
        FakeCuda.now += 0.25

    timing = DeviceClock().time([lambda: call("a"), lambda: call("b")])
    assert timing.seconds == pytest.approx(0.25e-3)
    words = "no CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    assert timing.note == ("" if captures else words)
    assert "".join(done).replace("ab", "") == ""
    assert done.count("a") >= 1 + 1 + clock.WINDOW / 0.5e-3


def test_what_a_call_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", FakeCuda)

    def broken() -> None:
        raise ValueError("no such tile")

    with pytest.raises(ValueError, match="no such tile"):
        DeviceClock().time([broken])


def test_a_configuration_that_does_not_run_is_dropped_with_its_reason(
    product: types.ModuleType,
) -> None:
    class Clock(InventedClock):
        def time(self, calls: Sequence[clock.Call]) -> clock.Timing:
            timing = super().time(calls)
            if product.asked[-1][0] == "fast":
                raise RuntimeError("out of registers")
            return timing

    tiny = replace(TINY, top=2)
    weight = products.Weight("nvfp4", (64, 256), tiny, Clock())
    (result,) = weight.measure(4)
    assert result.seconds
    assert result.note == "slow; invented; fast: RuntimeError: out of registers"
    assert result.tried == {"slow": result.seconds}
    weight.plan = replace(tiny, top=1)
    (result,) = weight.measure(4)
    assert result.skipped == "fast: RuntimeError: out of registers"


# Roofs


def test_the_kernels_of_the_roofs_read_and_copy_everything() -> None:
    from fmtc.bench.gpu.kernels import copy, kernel, read
    from fmtc.runtime.interpreting import interpreting

    data = torch.randint(-(1 << 31), 1 << 31, (4 * 64,), dtype=torch.int32)
    out = torch.zeros(2 * 64, dtype=torch.int32)
    with interpreting():
        kernel(read, True)[(2,)](data, out, 64, 2)
        parts = data.reshape(2, 2, 64)
        assert (out == (parts[:, 0] ^ parts[:, 1]).reshape(-1)).all()
        whole = torch.zeros_like(data)
        kernel(copy, True)[(4,)](data, whole, 64)
    assert (whole == data).all()
