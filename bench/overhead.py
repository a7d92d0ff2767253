"""What a call costs beside its kernel, and what generating a format's code costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from fmtc import load

#: Elements of a tensor whose encoding takes no time to speak of.
TINY = 256
#: Elements after which the speed of a kernel no longer depends on how many there are.
LARGE = 1 << 20
FORMATS = ("mxfp4", "nvfp4", "po2_nf4", "four_six", "q4_0")
BUILT = "po2_nf4"


@dataclass(frozen=True, slots=True)
class Overhead:
    """A cost in microseconds or seconds.

    Attributes:
        what: what was done.
        took: how long it took at best.
        kernel: how long the kernel alone takes, where there is one.
        unit: ``us`` or ``s``.
    """

    what: str
    took: float
    kernel: float | None
    unit: str

    @property
    def beside(self) -> float:
        """What the call costs beside its kernel."""
        return self.took - (self.kernel or 0.0)


def measure() -> list[Overhead]:
    """Calls on tiny tensors, and a build in a process and a cache of its own."""
    return [each for name in FORMATS for each in calls(name)] + [cold_build(BUILT)]


def calls(name: str) -> list[Overhead]:
    """``quantize`` and ``dequantize`` of a tiny tensor.

    The kernel alone is what as many elements take at the speed of a large tensor.
    """
    fmt = load(name)
    tiny = np.random.default_rng(0).standard_normal((1, TINY), dtype=np.float32)
    large = np.random.default_rng(0).standard_normal((LARGE // 4096, 4096), dtype=np.float32)
    packed, many = fmt.quantize(tiny), fmt.quantize(large)
    share = TINY / LARGE
    encode = best(lambda: fmt.quantize(large), 5) * share
    decode = best(many.dequantize, 5) * share
    return [
        Overhead(
            f"quantize {TINY} elements, {name}",
            round(best(lambda: fmt.quantize(tiny), 300) * 1e6, 1),
            round(encode * 1e6, 2),
            "us",
        ),
        Overhead(
            f"dequantize {TINY} elements, {name}",
            round(best(packed.dequantize, 300) * 1e6, 1),
            round(decode * 1e6, 2),
            "us",
        ),
    ]


def cold_build(name: str) -> Overhead:
    """``fmtc build`` of a format for all targets: a new process, and nothing in its cache."""

    def build() -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "FMTC_CACHE": f"{folder}/cache"}
            command = [sys.executable, "-m", "fmtc", "build", name, "--out", f"{folder}/out"]
            subprocess.run(command, env=environment, capture_output=True, check=True)

    return Overhead(f"fmtc build {name}, cold", round(best(build, 3), 2), None, "s")


def best(call: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of so many calls, after one that does not count."""
    call()
    fastest = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
