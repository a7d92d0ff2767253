"""CPU speed of formats of every kind beside its peers, on one thread, in one run.

    python bench/cpu.py [--rows 2048] [--columns 4096] [--formats mxfp4,nf4] [--json]

Contenders of a task take turns and each shows its best turn, so that a busy machine slows
all of them alike. Read the ratios: Melem/s depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fmtc import load
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.runtime.backend import EngineBackend, ReferenceBackend
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.compile_cache import find_compiler
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

F32 = NDArray[np.float32]
OURS = "fmtc C"
TASKS = ("encode", "decode", "dot")

#: What must be set before the process starts. One thread for everyone; and freed memory is
#: used again instead of being given back, else large results cost more in page faults than
#: in arithmetic (glibc maps every allocation of 32 MiB afresh).
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}

#: What a peer raises where it lacks a module, a kernel or this type.
MISSING = (ImportError, AttributeError, NotImplementedError, RuntimeError, KeyError)


#: One of each kind: those that C encodes alone, and those it does elements for.
BENCHED = (
    "mxfp4",
    "nvfp4",
    "nf4",
    "e2m3_ue4m4",
    "po2_nf4",
    "sop_pair",
    "four_six",
    "int4_asym_g128",
    "q4_0",
    "q4_k",
    "e4m3_row",
)


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that does one task on all elements when called."""

    task: str
    name: str
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Result:
    """Speed of one contender and the speed of fmtc's C over it, or why it is missing."""

    format: str
    task: str
    contender: str
    melem_per_s: float | None = None
    fmtc_c_over_this: float | None = None
    skipped: str | None = None


def fmtc_contenders(fmt: Format, x: F32) -> Iterator[Contender]:
    """Our C, and our reference on a part of the rows, since it is slow."""
    kernels = CBackend(kernel_format(fmt), threads=1)
    backend = EngineBackend(fmt, kernels, "c")
    reference = ReferenceBackend(fmt)
    level: TensorLevel = calibrate(fmt, x)
    streams = backend.encode(x, level)
    length = int(x.shape[1])
    yield Contender("encode", OURS, lambda: backend.encode(x, level))
    yield Contender("decode", OURS, lambda: backend.decode(streams, length, level))
    if fmt.is_plain:
        vector = x[0].copy()
        yield Contender("dot", OURS, lambda: kernels.dot(streams, length, level, vector))
    few = max(1, len(x) // 16)
    few_streams = reference.encode(x[:few], level)

    def encode_part() -> int:
        reference.encode(x[:few], level)
        return few * length

    def decode_part() -> int:
        reference.decode(few_streams, length, level)
        return few * length

    yield Contender("encode", "fmtc reference (NumPy)", encode_part)
    yield Contender("decode", "fmtc reference (NumPy)", decode_part)


def memory_contenders(x: F32) -> Iterator[Contender]:
    """The roof: writing as many fp32 numbers, and multiplying them unpacked."""
    out = np.empty_like(x)
    vector = x[0].copy()
    yield Contender("decode", "memcpy of the fp32 result", lambda: np.copyto(out, x))
    yield Contender("dot", "NumPy fp32 matrix x vector", lambda: x @ vector)


def bitsandbytes_contenders(x: F32) -> Iterator[Contender]:
    """CPU functions of bitsandbytes for NF4 in blocks of 64."""
    import bitsandbytes.functional as bnb
    import torch

    tensor = torch.from_numpy(x)
    packed = bnb.quantize_4bit(tensor, blocksize=64, quant_type="nf4")
    name = "bitsandbytes NF4"
    yield Contender(
        "encode", name, lambda: bnb.quantize_4bit(tensor, blocksize=64, quant_type="nf4")
    )
    yield Contender("decode", name, lambda: bnb.dequantize_4bit(*packed))


def torchao_mx_contenders(x: F32) -> Iterator[Contender]:
    """MXTensor of torchao, eager, as it runs on a CPU."""
    import torch
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    tensor = torch.from_numpy(x)
    packed = MXTensor.to_mx(tensor, torch.float4_e2m1fn_x2, 32)
    name = "torchao MXFP4 (eager)"
    yield Contender("encode", name, lambda: MXTensor.to_mx(tensor, torch.float4_e2m1fn_x2, 32))
    yield Contender("decode", name, lambda: packed.dequantize(torch.float32))


def torchao_nvfp4_contenders(x: F32) -> Iterator[Contender]:
    """NVFP4Tensor of torchao with a tensor scale, eager, as it runs on a CPU."""
    import torch
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    tensor = torch.from_numpy(x)
    scale = per_tensor_amax_to_scale(tensor.abs().max())
    packed = NVFP4Tensor.to_nvfp4(tensor, per_tensor_scale=scale)
    name = "torchao NVFP4 (eager)"
    yield Contender("encode", name, lambda: NVFP4Tensor.to_nvfp4(tensor, per_tensor_scale=scale))
    yield Contender("decode", name, lambda: packed.dequantize(torch.float32))


def gguf_contenders(kind: str) -> Callable[[F32], Iterator[Contender]]:
    """gguf-py's NumPy functions for one of its types; it encodes some of them only."""

    def contenders(x: F32) -> Iterator[Contender]:
        from gguf import GGMLQuantizationType, quants

        of = GGMLQuantizationType[kind]
        name = f"gguf {kind} (NumPy)"
        try:
            packed = quants.quantize(x, of)
        except NotImplementedError:
            packed = load(kind.lower()).quantize(x).streams["records"]
        else:
            yield Contender("encode", name, lambda: quants.quantize(x, of))
        yield Contender("decode", name, lambda: quants.dequantize(packed, of))

    return contenders


def ml_dtypes_contenders(x: F32) -> Iterator[Contender]:
    """ml_dtypes' casts: elements alone, unpacked and without scales."""
    import ml_dtypes

    kind = ml_dtypes.float4_e2m1fn
    codes = x.astype(kind)
    name = "ml_dtypes E2M1 cast, no scales"
    yield Contender("encode", name, lambda: x.astype(kind))
    yield Contender("decode", name, lambda: codes.astype(np.float32))


#: Peers that store the same numbers as a shipped format.
PEERS: dict[str, dict[str, Callable[[F32], Iterator[Contender]]]] = {
    "nf4": {"bitsandbytes NF4": bitsandbytes_contenders},
    "mxfp4": {
        "torchao MXFP4 (eager)": torchao_mx_contenders,
        "gguf MXFP4 (NumPy)": gguf_contenders("MXFP4"),
        "ml_dtypes E2M1 cast, no scales": ml_dtypes_contenders,
    },
    "q4_0": {"gguf Q4_0 (NumPy)": gguf_contenders("Q4_0")},
    "q4_k": {"gguf Q4_K (NumPy)": gguf_contenders("Q4_K")},
    "nvfp4": {"torchao NVFP4 (eager)": torchao_nvfp4_contenders},
}


def measure(fmt: Format, x: F32, seconds: float) -> list[Result]:
    """Every contender of a format; those of one task take turns."""
    contenders = [*fmtc_contenders(fmt, x), *memory_contenders(x)]
    results = []
    for name, peer in PEERS.get(fmt.name, {}).items():
        try:
            contenders += peer(x)
        except MISSING as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            results += [Result(fmt.name, task, name, skipped=reason) for task in TASKS[:2]]
    for task in TASKS:
        taking_part = [c for c in contenders if c.task == task]
        if not any(c.name == OURS for c in taking_part):
            continue
        speeds = take_turns(taking_part, x.size, seconds)
        ours = speeds[OURS]
        results += [
            Result(fmt.name, task, name, round(speed, 1), round(ours / speed, 2))
            for name, speed in speeds.items()
        ]
    return sorted(results, key=lambda r: TASKS.index(r.task))


def take_turns(contenders: list[Contender], elements: int, seconds: float) -> dict[str, float]:
    """Best Melem/s of each; a contender leaves after ``seconds`` of its own and three turns."""
    best = dict.fromkeys((c.name for c in contenders), 0.0)
    spent = dict.fromkeys(best, 0.0)
    for turn in range(100):
        for contender in contenders:
            if turn >= 3 and spent[contender.name] > seconds:
                continue
            start = time.perf_counter()
            done = contender.run()
            took = time.perf_counter() - start
            count = done if isinstance(done, int) else elements
            best[contender.name] = max(best[contender.name], count / took / 1e6)
            spent[contender.name] += took
    return best


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor()
    return {"cpu": model, "compiler": find_compiler()[0], "python": platform.python_version()}


def show(results: list[Result], elements: int) -> None:
    """Print the results as one table."""
    table = Table(title=f"{elements:,} elements, one thread, best turn; {machine()['cpu']}")
    for column in ("format", "task", "contender"):
        table.add_column(column)
    table.add_column("Melem/s", justify="right")
    table.add_column("fmtc C / this", justify="right")
    last = ("", "")
    for r in results:
        here = (r.format, r.task)
        speed = "skipped" if r.melem_per_s is None else f"{r.melem_per_s:,.0f}"
        ratio = r.skipped or ("" if r.contender == OURS else f"{r.fmtc_c_over_this:,.2f}x")
        shown = ("", "") if here == last else (r.format if r.format != last[0] else "", r.task)
        if r.format != last[0]:
            table.add_section()
        table.add_row(*shown, r.contender, speed, ratio)
        last = here
    Console(width=110 if not sys.stdout.isatty() else None).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--formats", default=",".join(BENCHED), help="names, with commas")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        arguments = [sys.executable, __file__, *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **ENVIRONMENT})  # does not return
    warnings.simplefilter("ignore")
    x = np.random.default_rng(0).standard_normal((chosen.rows, chosen.columns)).astype(np.float32)
    results = []
    for name in chosen.formats.split(","):
        print(f"measuring {name}", file=sys.stderr)
        results += measure(load(name), x, chosen.seconds)
    if chosen.json:
        rows = [asdict(r) for r in results]
        print(json.dumps({"machine": machine(), "elements": x.size, "results": rows}, indent=1))
    else:
        show(results, x.size)


if __name__ == "__main__":
    main()
