"""A whole quantized product through the core, simulated tile by tile."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...codegen.design import Design
from ...codegen.vectors.core import Lanes, lanes_of, tiles
from ...codegen.verilog.parts.core_bench import harness
from ...compiler.block_product import output_scale
from ...compiler.blockwork import NUMPY
from ...compiler.format import Format
from ...compiler.kernel import dense_format
from ...compiler.sides import from_streams
from ...compiler.streams import RECORDS
from ..quantized import QuantizedTensor
from .simulate import run_bench, write_bench
from .tools import require

F32 = NDArray[np.float32]

_RESULT = re.compile(r"^RESULT ([0-9a-f]+)$", re.MULTILINE)
_CYCLES = re.compile(r"^  (\d+) cycles for (\d+) steps", re.MULTILINE)


class CoreFailed(RuntimeError):
    """The simulated core did not come to all its results; the message has what it printed."""


@dataclass(frozen=True, eq=False)
class CoreRun:
    """What a simulated core came to.

    Attributes:
        results: float32 [m, n].
        cycles: from reset to the last row of results, at full speed of every stream.
        steps: the k of all tiles, the cycles of an array that never waits.
    """

    results: F32
    cycles: int
    steps: int

    @property
    def utilization(self) -> float:
        """The share of cycles in which the array took a k."""
        return self.steps / self.cycles


def run_core(
    design: Design,
    weights: QuantizedTensor,
    activations: QuantizedTensor,
    rows: int = 4,
    columns: int = 4,
    *,
    simulator: str = "iverilog",
    workdir: Path | None = None,
    table: Sequence[Mapping[str, int]] = (),
) -> CoreRun:
    """The product of two quantized tensors, by a simulation of the design's core.

    Args:
        design: of both formats.
        weights: [n, length].
        activations: [m, length].
        rows: of the core's tile: activation vectors that it takes at once.
        columns: of the core's tile: weight vectors that it takes at once.
        simulator: ``iverilog``, or ``verilator`` (which takes some 20 s to build).
        workdir: where the files go and stay; None for a directory that is removed again.
        table: loads of the decoder's table by load port, before all else; none: a core with the
            format's own, constant one.

    Returns:
        Results and cycles. What stands in side streams of the weights is not added, and places of
        outliers count as 0: all else is ``compiler.block_product``.

    Raises:
        BackendUnavailable: the simulator is not installed.
        ValueError: the tensors are not of the design's formats or not equally long.
        CoreFailed: results are missing.
    """
    require(*(("iverilog", "vvp") if simulator == "iverilog" else (simulator,)))
    left, right = _lanes(design.weights.fmt, weights), _lanes(design.activations.fmt, activations)
    if weights.length != activations.length:
        raise ValueError(f"rows of {weights.length} weights, and {activations.length} activations")
    offset = -(weights.level.shift + activations.level.shift)
    commands = tuple(tiles(left, right, rows, columns, offset))
    bench = harness(
        design, commands, rows, columns, variant="run", table=[dict(t) for t in table], record=True
    )
    with tempfile.TemporaryDirectory(prefix="fmtc-core-") as scratch:
        directory = Path(workdir or scratch)
        write_bench(bench, directory)
        done = run_bench(bench, directory, simulator)
    found, cycles = _RESULT.findall(done.log), _CYCLES.search(done.log)
    if not done.passed or cycles is None or len(found) != rows * len(commands):
        raise CoreFailed(f"the core of '{design.name}' did not run:\n{done.log[-2000:]}")
    octets = b"".join(bytes.fromhex(row)[::-1] for row in found)
    results = _assembled(octets, rows, columns, len(right.codes), len(left.codes))
    if "fp32" in (weights.format.scale.tensor, activations.format.scale.tensor):
        results = output_scale(results, _level(weights), _level(activations))
    return CoreRun(results, int(cycles[1]), int(cycles[2]))


def _lanes(fmt: Format, tensor: QuantizedTensor) -> Lanes:
    if tensor.format != fmt:
        raise ValueError(f"a tensor of '{tensor.format.name}' in a core of '{fmt.name}'")
    streams = dict(tensor.streams)
    if fmt.record is not None:
        streams |= NUMPY.from_records(fmt, streams[RECORDS], tensor.length)
    count = len(streams["codes"]) * tensor.length
    sparse = [from_streams(side, streams, count) for side in fmt.sides if side.kind == "opq"]
    return lanes_of(dense_format(fmt), streams, tensor.length, sparse[0] if sparse else None)


def _level(tensor: QuantizedTensor) -> np.float32:
    return np.float32(tensor.level.tensor_scale if tensor.format.scale.tensor == "fp32" else 1)


def _assembled(octets: bytes, rows: int, columns: int, m: int, n: int) -> F32:
    """float32 [m, n] of the tiles' results, which come column tile after column tile."""
    across, down = -(-n // columns), -(-m // rows)
    tiled = np.frombuffer(octets, "<f4").reshape(down, across, rows, columns)
    whole = tiled.transpose(0, 2, 1, 3).reshape(down * rows, across * columns)
    return np.ascontiguousarray(whole[:m, :n], np.float32)
