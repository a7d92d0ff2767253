"""Verilog-2005 for a format: decoders, a block dot product, and self-checking test benches.

All modules are combinational; ports are flat vectors with lane 0 in the low bits. The benches
read the ``.memh`` files of the target ``vectors`` and print one line: ``PASS <module> <n>
vectors`` or ``FAIL <module> <reason>``.
"""

from __future__ import annotations

from typing import Any

from ...compiler.format import Format
from ..render import render
from ..vectors.memory import decoder_count, dot_count, layout_of
from ..vectors.shapes import shapes_of
from ..vectors.words import decoder_words, element_words
from .header import Header
from .ports import ports_of, shifted
from .tables import element_rom, extend, scale_text

#: Template -> suffix of the module that it makes, in order of use.
MODULES = ("scale_decoder", "element_decoder", "decoder", "dot")
BENCHES = ("decoder_tb", "dot_tb")

#: A longer block is summed in groups of at least this many lanes: simulators take a time that
#: grows with the square of a sum's length.
GROUP_LANES = 32


def emit(fmt: Format) -> dict[str, str]:
    """The Verilog files of a format: relative file name -> text.

    ``<fmt>_scale_decoder.v`` and ``<fmt>_element_decoder.v`` make up ``<fmt>_decoder.v``;
    ``<fmt>_dot.v`` is the block dot product with HIF8 activations; ``*_tb.v`` are the benches.
    """
    shapes = shapes_of(fmt)
    values: dict[str, Any] = {
        "name": fmt.name,
        "header": Header(fmt),
        "shapes": shapes,
        "ports": ports_of(fmt),
        "layout": layout_of(shapes),
        "extend": extend,
        "shifted": shifted,
    }
    extra: dict[str, dict[str, Any]] = {
        "scale_decoder": {
            "scale": scale_text(fmt),
            "second_level": fmt.scale.tensor != "none" or fmt.scale.shift != 0,
        },
        "element_decoder": {"rom": element_rom(fmt)},
        "decoder_tb": {
            "scale_rows": len(decoder_words(fmt)),
            "element_rows": len(element_words(fmt)),
            "vectors": decoder_count(fmt),
        },
        "dot": {"group_lanes": _group_lanes(fmt.block)},
        "dot_tb": {"vectors": dot_count(fmt)},
    }
    return {
        f"{fmt.name}_{part}.v": render(
            "verilog", f"{part}.v.j2", **values, **extra.get(part, {}), part=part
        )
        for part in (*MODULES, *BENCHES)
    }


def _group_lanes(block: int) -> int:
    """About the square root of the block, a power of two, so that both sums are short."""
    return max(GROUP_LANES, 1 << ((block - 1).bit_length() + 1) // 2)
