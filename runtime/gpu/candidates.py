"""The ways to run a product on a device: methods and tiles, each with its estimated cost.

Costs are clocks of a multiprocessor for a weight, from instructions that were read in machine
code (``codegen.triton.strategies``); they say which few are worth timing (``tune``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from ...codegen.triton.products import Method, default_order, methods_of
from ...compiler.format import Format
from .tune import Candidate, bucket
from .weights import GpuWeights

#: What ``arithmetic`` may be; ``auto`` is ``single`` for binary32 activations and ``half`` else.
ARITHMETICS = ("auto", "half", "single")

#: Rows of activations that a GEMV takes at once.
GEMV_ROWS = 8

#: Sums of a GEMV's program, rows of both sides together: more do not stay in registers.
MOST_TOTALS = 8

#: From so many rows of activations on, a matrix that is expanded first may be the faster.
EXPANDED = 128

#: Candidates that are timed on a device, at most.
TIMED = 6

#: Multiprocessors that a launch should keep busy, where the device does not say.
PROCESSORS = 132

#: The architecture whose best method the interpreter runs.
DEFAULT_ARCH = 90

#: Tiles of the interpreter, where a program takes milliseconds whatever its size.
_INTERPRETED: dict[str, dict[str, int | str]] = {
    "gemv": {"rows": 4, "units": 64, "warps": 2},
    "gemm": {"block_m": 16, "block_n": 64, "block_k": 256, "splits": 1, "warps": 4, "stages": 1},
}

#: block_m, block_n, block_k, warps, stages.
_TILES = (
    (16, 64, 128, 4, 4),
    (16, 128, 128, 4, 3),
    (16, 32, 256, 4, 3),
    (32, 64, 128, 4, 4),
    (32, 128, 128, 4, 3),
    (64, 64, 128, 4, 3),
    (64, 128, 128, 4, 3),
    (128, 128, 128, 8, 3),
)


def candidates(
    weights: GpuWeights, m: int, dtype: torch.dtype, arithmetic: str = "auto"
) -> list[Candidate]:
    """The ways to multiply m rows of activations, each with its estimated cost."""
    half = is_half(arithmetic, dtype)
    m = m if m <= GEMV_ROWS else bucket(m)  # what the autotuner remembers is of a bucket
    vectors = m <= GEMV_ROWS or not half
    found: list[Candidate] = []
    if weights.device.type != "cuda":
        method = usable(weights, "gemv" if vectors else "gemm", half)[0]
        return [_interpreted(method, "gemv" if vectors else "gemm")]
    processors = _processors(str(weights.device))
    if vectors:
        for method in usable(weights, "gemv", half):
            found += _gemv_candidates(weights, method, min(m, GEMV_ROWS), processors)
    if half and m > 1:
        for method in usable(weights, "gemm", half):
            tiles = tiles_of(_arch(str(weights.device)))
            found += _gemm_candidates(weights, method, m, processors, tiles)
    return found


def usable(weights: GpuWeights, operation: str, half: bool) -> list[Method]:
    """The methods that the device has and the weights are laid out for, the best first.

    Of a binary16 product, the exact table of a GEMV is one, too.
    """
    arch = DEFAULT_ARCH if weights.device.type != "cuda" else _arch(str(weights.device))
    arithmetics = ("half", "single") if half else ("single",)
    return [
        method
        for method in methods_of(weights.kernel)
        if operation in method.operations
        and method.arithmetic in arithmetics
        and method.least_arch <= arch
        and method.order in (None, weights.layout.order)
    ]


def best_order(fmt: Format, device: torch.device) -> tuple[int, ...]:
    """The order of nibbles that the best strategy of a device wants (``to_device_weights``)."""
    return default_order(fmt, DEFAULT_ARCH if device.type != "cuda" else _arch(str(device)))


def is_half(arithmetic: str, dtype: torch.dtype) -> bool:
    """Whether the product is of binary16 numbers."""
    return arithmetic == "half" or (arithmetic == "auto" and dtype != torch.float32)


def shortlist(found: Sequence[Candidate], count: int = TIMED) -> list[Candidate]:
    """Candidates worth timing: the cheapest of each operation, of each method, then the rest."""
    ranked = sorted(found, key=lambda c: c.cost)
    firsts: dict[tuple[object, ...], Candidate] = {}
    for candidate in ranked:
        firsts.setdefault((candidate.config["operation"],), candidate)
    for candidate in ranked:
        kind = candidate.config["operation"], candidate.config["method"]
        if firsts[kind[:1]] is not candidate:
            firsts.setdefault(kind, candidate)
    unique = {c.name: c for c in (*firsts.values(), *ranked)}
    return list(unique.values())[:count]


def _interpreted(method: Method, operation: str) -> Candidate:
    config = {"operation": operation, "method": method.name, **_INTERPRETED[operation]}
    return Candidate(f"{operation} {method.name}", config, 0.0)


def _gemv_candidates(
    weights: GpuWeights, method: Method, m: int, processors: int
) -> list[Candidate]:
    """Rows of a program, units of a step: more rows share more loads of activations."""
    name = method.name
    # Read from machine code: what a product takes beside the decoding, one row of x and m of them.
    clocks = method.cost.plus(0.75 + 1.05 * m, 0.35, 0.1 + 0.12 * m).clocks
    units = -(-weights.length // 32)
    found = []
    for rows, lanes, warps in ((1, 128, 4), (2, 64, 2), (2, 128, 4), (4, 64, 2), (8, 64, 2)):
        if rows * m > MOST_TOTALS:
            continue
        waste = lanes * -(-units // lanes) / units
        waves = math.ceil(weights.rows / rows * warps / (16 * processors))
        full = weights.rows / rows * warps / (16 * processors)
        each = clocks + 0.3 * m / (128 * rows)
        config: dict[str, int | str] = {
            "operation": "gemv",
            "method": name,
            "rows": rows,
            "units": lanes,
            "warps": warps,
        }
        cost = each * waste * waves / full
        found.append(Candidate(f"gemv {name} {rows} rows x {lanes} units", config, cost))
    return found


def tiles_of(arch: int) -> list[tuple[int, int, int, int, int]]:
    """The GEMM's tiles for an architecture: block_m, block_n, block_k, warps, stages.

    Where tensor cores read both sides from registers (all but sm_90 and sm_100), every warp along
    m decodes the weights for itself: tall tiles are dear there, and some spill.
    """
    return [tile for tile in _TILES if arch // 10 in (9, 10) or tile[0] <= 32]


def _gemm_candidates(
    weights: GpuWeights,
    method: Method,
    m: int,
    processors: int,
    tiles: Sequence[tuple[int, int, int, int, int]],
) -> list[Candidate]:
    """Tiles of tensor cores, with as many splits as keep the device busy."""
    name, clocks = method.name, method.cost.plus(3.3, 0.7, 0.3).clocks
    found = []
    for block_m, block_n, block_k, warps, stages in tiles:
        if block_m > 16 and block_m >= 2 * m:
            continue
        programs = -(-weights.rows // block_n) * -(-m // block_m)
        most = max(1, -(-weights.length // block_k) // 4)
        splits = min(most, max(1, processors // programs)) if m <= 64 else 1
        tensor = block_m / 2048  # a multiprocessor has 2048 multiply-adds of binary16 a clock
        decode = clocks * -(-m // block_m)
        waves = math.ceil(programs * splits / processors)
        cost = (decode + tensor * -(-m // block_m)) * waves * processors / (programs * splits)
        config: dict[str, int | str] = {
            "operation": "gemm",
            "method": name,
            "block_m": block_m,
            "block_n": block_n,
            "block_k": block_k,
            "splits": splits,
            "warps": warps,
            "stages": stages,
        }
        shown = f"gemm {name} {block_m}x{block_n}x{block_k}"
        found.append(Candidate(f"{shown}/{splits}", config, cost))
    if m >= EXPANDED:
        config = {"operation": "expand", "method": name, "block_n": 16, "block_k": 256}
        found.append(Candidate(f"expand {name}", config, clocks + 0.05 + m / 2048 * 1.05))
    return found


@lru_cache(maxsize=16)
def _arch(device: str) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@lru_cache(maxsize=16)
def _processors(device: str) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count) or PROCESSORS
