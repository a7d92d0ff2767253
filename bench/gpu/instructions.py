"""Instructions of the product kernels, read from machine code on any machine.

    python -m fmtc.bench.gpu.instructions [--arch 90] [--write]

Kernels are compiled for a GPU that need not be here. A ceiling follows from the busiest pipe at
a chip's clock; latency, conflicts and memory are not in it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fmtc.compiler.kernel import kernel_format
from fmtc.formats import load
from fmtc.runtime.atomic import write_atomically

from ..tables import replace_section

RESULTS = Path(__file__).parent.with_name("RESULTS.md")
SECTION = "bench-gpu-instructions"

FORMATS = (
    ("mxfp4", ("e4m3", "shift")),
    ("nvfp4", ("e4m3", "permute1", "dp4a")),
    ("int4_sym_g128", ("integer",)),
    ("sfp4", ("e4m3",)),
    ("nf4", ("permute2", "permute2_mixed1", "pairs")),
    ("po2_nf4", ("permute2", "permute2_mixed2", "pairs")),
    ("sop_pair", ("permute_e4m3",)),
    ("q4_k", ("integer",)),
    ("e2m3_ue4m4", ("e4m3",)),
    ("mxfp8_e4m3", ("e4m3",)),
    ("hif8_ue4m4", ("table",)),
)

#: Of an H200: multiprocessors, clock in Hz, bytes a second of its memory (a copy's).
PROCESSORS, CLOCK, BANDWIDTH = 132, 1.98e9, 4.3e12

#: Lanes that issue in a clock: all, integers, memory and conversions.
LANES = {"all": 128, "int": 64, "slow": 32}

GEMV = ({"rows": 4, "units": 64, "warps": 2}, {"rows": 8, "units": 64, "warps": 2})
GEMM = tuple(
    {"block_m": 16, "block_n": n, "block_k": k, "splits": 1, "warps": 4, "stages": 3}
    for n, k in ((64, 128), (128, 128))
)


def rows(arch: int, formats: Sequence[tuple[str, Sequence[str]]] = FORMATS) -> Iterator[list[str]]:
    """Cells of a row for every format and method."""
    from fmtc.codegen.triton.products.decoded import Decoded
    from fmtc.runtime.gpu.modules import method_named
    from fmtc.runtime.gpu.offline import compile_product, decode_cost

    for name, methods in formats:
        fmt = load(name)
        kernel = kernel_format(fmt)
        for method_name in methods:
            method = method_named(kernel, method_name)
            decode = "-"
            if isinstance(method, Decoded) and method.name == method.by.name:
                decode = f"{decode_cost(method.by, arch).all:.2f}"
            reports = [compile_product(kernel, "gemv", method, arch, 1, c) for c in GEMV]
            gemv = min((r for r in reports if not r.spills), key=lambda r: r.per_weight)
            gemm = "-"
            if "gemm" in method.operations:
                tiles = [compile_product(kernel, "gemm", method, arch, 16, c) for c in GEMM]
                gemm = f"{min(r.per_weight for r in tiles if not r.spills):.2f}"
            pipes = gemv.pipes
            slow = sum(pipes.get(pipe, 0.0) for pipe in ("memory", "shuffle", "convert"))
            clocks = max(
                gemv.per_weight / LANES["all"], pipes.get("int", 0.0) / LANES["int"], slow / 32
            )
            rate = PROCESSORS * CLOCK / clocks * fmt.bpw / 8
            yield [
                name,
                f"{float(fmt.bpw):.2f}",
                method_name,
                decode,
                f"{gemv.per_weight:.2f}",
                f"{pipes.get('int', 0.0):.2f}",
                f"{min(1.0, rate / BANDWIDTH):.0%}",
                gemm,
                str(gemv.registers),
            ]


def report(arch: int, cells: Sequence[Sequence[str]]) -> str:
    """The section of the results."""
    import triton

    head = (
        "format",
        "bpw",
        "method",
        "decode",
        "GEMV",
        "integer",
        "ceiling",
        "GEMM",
        "registers",
    )
    made = f"Triton {triton.__version__}, {datetime.date.today().isoformat()}"
    lines = [
        f"Instructions a weight for sm_{arch}, read from machine code ({made};",
        "`python -m fmtc.bench.gpu.instructions --write`): of decoding alone; of the GEMV's loop",
        "for one row of activations, and those on the integer pipe; of the GEMM's loop for tiles",
        "of 16 rows. The ceiling is what the busiest pipe allows on an H200, as a share of",
        f"{BANDWIDTH / 1e12:g} TB/s; latency and conflicts of look-ups in memory are not in it.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'|'.join('---' if i in (0, 2) else '---:' for i in range(len(head)))}|",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Compile, count, print, write; 0 if done or skipped."""
    parser = argparse.ArgumentParser(prog="fmtc.bench.gpu.instructions", description=__doc__)
    parser.add_argument("--arch", type=int, default=90, help="compute capability times ten")
    parser.add_argument("--write", action="store_true", help=f"write to {RESULTS.name}")
    chosen = parser.parse_args(words)
    for module in ("torch", "triton"):
        if importlib.util.find_spec(module) is None:
            print(f"skipped: {module} is not installed")
            return 0
    text = report(chosen.arch, list(rows(chosen.arch)))
    print(text)
    if chosen.write:
        before = RESULTS.read_text(encoding="utf-8")
        write_atomically(RESULTS, replace_section(before, SECTION, text).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
