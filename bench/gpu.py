"""Time the generated Triton kernels on a CUDA device, beside torch bf16 and bitsandbytes.

Run ``python bench/gpu.py [FORMAT ...]``. Every kernel is checked against the reference before
it is timed. Without a CUDA device this prints the reason and ends well.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from fmtc.compiler.format import Format
from fmtc.compiler.reference import TensorLevel, calibrate, decode, encode
from fmtc.compiler.thresholds import scale_thresholds
from fmtc.compiler.view import view_of
from fmtc.formats import load
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.triton_backend import TritonBackend, load_module

if TYPE_CHECKING:
    import torch

#: [rows, columns] of weights: projections of 7B and 70B models.
SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (8192, 28672))

#: (rows, elements of a step) of a GEMV program that are tried.
GEMV_TILES = ((1, 1024), (1, 4096), (2, 1024), (4, 512), (4, 1024), (8, 512), (16, 256))

#: Formats that a kernel encodes alone.
BENCHED = ("mxfp4", "nvfp4", "nf4", "e2m3_ue4m4", "po2_nf4", "sop_pair")

#: Elements that the reference checks before anything is timed.
CHECKED = (128, 4096)


class Mismatch(AssertionError):
    """A kernel on the GPU has other bits than the reference."""


def main() -> int:
    """Check and time; 0 if done or skipped, 1 on a difference from the reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=BENCHED, metavar="FORMAT")
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("skipped: torch is not installed")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    try:
        for name in arguments.formats:
            check(load(name))
        print(f"bits equal the reference's: {', '.join(arguments.formats)}\n")
        for shape in SHAPES:
            compare(list(arguments.formats), shape)
    except Mismatch as difference:
        print(f"difference: {difference}")
        return 1
    except BackendUnavailable as reason:
        print(f"skipped: {reason}")
    return 0


def check(fmt: Format) -> None:
    """Compare encode, decode and GEMV on the GPU with the reference on the CPU."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(CHECKED).astype(np.float32)
    x[1::3] = np.ldexp(x[1::3], rng.integers(-20, 20, x[1::3].shape))
    x[:, 5::97] = -0.0
    level = calibrate(fmt, x)
    want = encode(fmt, x, level)
    backend = TritonBackend(fmt, device="cuda")
    got = backend.encode(x, level)
    for stream, octets in want.items():
        if not np.array_equal(got[stream], octets):
            raise Mismatch(f"{fmt.name}: {stream} of encode")
    decoded = decode(fmt, want, x.shape[1], level)
    if not np.array_equal(
        backend.decode(want, x.shape[1], level).view(np.uint32), decoded.view(np.uint32)
    ):
        raise Mismatch(f"{fmt.name}: decode")
    vector = rng.standard_normal(CHECKED[1]).astype(np.float32)
    exact = np.sum(decoded.astype(np.float64) * vector, axis=1)
    size = np.sum(np.abs(decoded * vector), axis=1)
    if (np.abs(backend.gemv(want, vector, level) - exact) > 2.0**-18 * size).any():
        raise Mismatch(f"{fmt.name}: gemv")


def compare(formats: list[str], shape: tuple[int, int]) -> None:
    """Print one table for a shape of weights."""
    import torch

    rows, columns = shape
    weights = torch.randn(shape, device="cuda")
    vector = torch.randn(columns, device="cuda")
    dense, narrow = weights.bfloat16(), vector.bfloat16()
    base = microseconds(lambda: torch.mv(dense, narrow))
    copy = microseconds(weights.clone)
    print(f"{rows} x {columns}: torch bf16 mv {base:.1f} us, fp32 copy {copy:.1f} us")
    times = f"{'encode us':>10} {'decode us':>10} {'gemv us':>8}"
    print(f"{'':12} {'bpw':>5} {times} {'GB/s':>6} {'x bf16':>7}  tile")
    for name in formats:
        fmt = load(name)
        encoding, decoding, gemv, tile, packed = time_format(fmt, weights, vector)
        rate = packed / gemv * 1e-3
        print(
            f"{name:12} {fmt.bpw:5.2f} {encoding:10.1f} {decoding:10.1f} {gemv:8.1f} "
            f"{rate:6.0f} {base / gemv:7.2f}  {tile[0]} x {tile[1]}"
        )
    peer = bitsandbytes_gemv(dense, narrow)
    if peer is not None:
        print(
            f"{'bitsandbytes':12} {4.5:5.2f} {'':10} {'':10} {peer:8.1f} {'':6} {base / peer:7.2f}"
        )
    print()


def time_format(
    fmt: Format, weights: torch.Tensor, vector: torch.Tensor
) -> tuple[float, float, float, tuple[int, int], int]:
    """Microseconds of encode, decode and the best GEMV; its tile; bytes of the weights."""
    import torch

    module = load_module(fmt, interpreted=False)
    level: TensorLevel = calibrate(fmt, weights[:64].cpu().numpy())
    second = torch.full((1,), level.multiplier, device="cuda")
    table = scale_thresholds(view_of(fmt), level.multiplier)
    thresholds = torch.from_numpy(table).cuda()
    streams = module.encode(weights, thresholds, second)
    encoding = microseconds(lambda: module.encode(weights, thresholds, second))
    decoding = microseconds(lambda: module.decode(streams, weights.shape[1], second))
    tiles = {}
    for rows, elements in GEMV_TILES:
        blocks = 1 << max(0, (elements // fmt.block).bit_length() - 1)

        def launch(rows: int = rows, blocks: int = blocks) -> object:
            return module.gemv(streams, vector, second, rows=rows, blocks=blocks)

        tiles[rows, elements] = microseconds(launch)
    best = min(tiles, key=lambda tile: tiles[tile])
    packed = sum(stream.numel() for stream in streams.values())
    return encoding, decoding, tiles[best], best, packed


def bitsandbytes_gemv(weights: torch.Tensor, vector: torch.Tensor) -> float | None:
    """Microseconds of bitsandbytes' NF4 matrix times vector, or None if it is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    import bitsandbytes.functional as peer

    packed, state = peer.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    row = vector.reshape(1, -1)
    return microseconds(lambda: peer.gemv_4bit(row, packed.t(), state=state))


def microseconds(call: Callable[[], object]) -> float:
    """The median time of a call with a cold L2 cache, after warming up."""
    from triton.testing import do_bench

    median: float = do_bench(call, warmup=50, rep=200, return_mode="median")
    return median * 1e3


if __name__ == "__main__":
    raise SystemExit(main())
