"""A few shipped formats that together have every feature: what costly tests run over.

Tests that are cheap run over all of ``fmtc.names()``.
"""

from __future__ import annotations

from functools import cache

from fmtc import formats
from fmtc.codegen import NotExpressible, hardware

#: Formats that kernels encode alone: one grid and two, two targets, table scales, fp32 scales,
#: shifts, signs.
PLAIN = ("e2m3_ue4m4", "four_six", "mxfp4", "nf4", "nvfp4", "po2_nf4", "sop_pair")

#: Formats that are arranged, searched or laid out around a kernel: scales of scales, minima, zero
#: points, records, rows, tensors, tiles and sides.
GENERAL = (
    "q4_k",
    "q4_0",
    "nf4_dq",
    "int4_asym_g128",
    "e4m3_row",
    "e4m3_tensor",
    "e4m3_tile128",
    "nf4_dd4_opq_wr",
)

EACH_KIND = (*PLAIN, *GENERAL)

#: Those that take rows of any length: without records.
ANY_SHAPE = tuple(name for name in EACH_KIND if not name.startswith("q4_"))

#: Formats whose hardware is simulated and proven in every run: signed 12-bit words with a metabit,
#: wide codebooks, powers of two, a second level, FP8, a sign that selects. All others are slow.
HARDWARE = ("sop_pair", "nf4_dd4_ue4m3", "mxfp4", "nvfp4", "e4m3_ue4m6", "mixfp4")


@cache
def with_hardware() -> tuple[str, ...]:
    """Every shipped format that has RTL."""
    return tuple(name for name in formats.names() if _has_hardware(name))


def _has_hardware(name: str) -> bool:
    try:
        hardware(formats.load(name))
    except NotExpressible:
        return False
    return True
