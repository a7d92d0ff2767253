"""The BF16 dot product: on its own, and behind a table that a format's codes are decoded by."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...codegen.verilog.parts.dot_bf16 import dot_bf16
from ...compiler.exact import fp32_bits
from ...compiler.format import Format, Grid
from ...formats import load
from ..backend import F32
from . import activity
from .activity import Words
from .measure import LANES, Bench, Measured, lane_design, sources_of
from .netlist import Bits

#: The module belongs to some format, whose name it carries; its logic is the same for all.
_OWNER = "nvfp4"
_BITS = 16

#: The modules around it.
_HOSTED, _TABLE = "hosted_bf16", "hosted_table"


def dot(bench: Bench) -> Measured:
    """The dot product of 16 pairs of BF16 numbers with an aligned sum.

    Raises:
        BackendUnavailable: synthesis fails.
    """
    inputs = None
    if bench.data is not None:
        inputs = {
            "weights_i": _lanes(rounded(bench.data.weights)),
            "activations_i": _lanes(rounded(bench.data.activations)),
        }
    return bench.text(*sources(), inputs)


def hosted_dot(bench: Bench, fmt: Format, grids: tuple[Grid, ...]) -> Measured:
    """The same with the weights decoded from a format's codes by a table of BF16 words.

    Args:
        bench: measures.
        fmt: whose codes they are.
        grids: by select index and code, BF16 numbers.

    Raises:
        BackendUnavailable: synthesis fails.
    """
    inputs = None
    if bench.data is not None:
        words = activity.words_of(fmt, bench.data.weights)
        inputs = {
            "codes_i": _lanes(words.codes, fmt.code_bits),
            "select_i": _selects(fmt, words),
            "activations_i": _lanes(rounded(bench.data.activations)),
        }
    files, top = hosted_sources(fmt, grids)
    return bench.text(files, top, inputs, apart(top))


def sources() -> tuple[dict[str, str], str]:
    """The files of the plain dot product, and its module."""
    module = dot_bf16(lane_design(load(_OWNER)))
    return sources_of(module), module.name


def hosted_sources(fmt: Format, grids: tuple[Grid, ...]) -> tuple[dict[str, str], str]:
    """The files of the dot product behind a table, and its module."""
    files, plain = sources()
    return files | {"hosted.v": _table(fmt, grids) + _around(fmt, plain)}, _HOSTED


def apart(top: str) -> tuple[str, ...]:
    """The modules that are mapped on their own."""
    return (_TABLE,) if top == _HOSTED else ()


def _table(fmt: Format, grids: tuple[Grid, ...]) -> str:
    bits = fmt.select.bits + fmt.code_bits
    items = [
        f"      {bits}'d{select << fmt.code_bits | code}: word_o = 16'd{_word(value)};"
        for select, grid in enumerate(grids)
        for code, value in enumerate(grid.values)
        if value is not None
    ]
    return "\n".join(
        [
            f"module {_TABLE} (input wire [{bits - 1}:0] code_i, output reg [15:0] word_o);",
            "  always @* begin",
            "    case (code_i)",
            *items,
            "      default: word_o = 16'd0;",
            "    endcase",
            "  end",
            "endmodule",
            "",
        ]
    )


def _word(value: Fraction) -> int:
    """The bits of a BF16 number."""
    return fp32_bits(float(value)) >> 16


def _around(fmt: Format, top: str) -> str:
    code, select = fmt.code_bits, fmt.select.bits
    index = f"codes_i[lane*{code} +: {code}]"
    index = f"{{select_i, {index}}}" if select else index
    chosen = f"  input wire [{select - 1}:0] select_i,\n" if select else ""
    return f"""
module {_HOSTED} (
  input wire [{LANES * code - 1}:0] codes_i,
{chosen}  input wire [{LANES * _BITS - 1}:0] activations_i,
  output wire sum_valid_o,
  output wire [8:0] exponent_o,
  output wire [63:0] sum_o
);
  wire [{LANES * _BITS - 1}:0] weights;
  genvar lane;
  generate
    for (lane = 0; lane < {LANES}; lane = lane + 1) begin : g_lane
      {_TABLE} u_table (.code_i({index}), .word_o(weights[lane*{_BITS} +: {_BITS}]));
    end
  endgenerate
  {top} u_dot (
    .weights_i(weights), .activations_i(activations_i),
    .sum_valid_o(sum_valid_o), .exponent_o(exponent_o), .sum_o(sum_o)
  );
endmodule
"""


def rounded(x: F32) -> NDArray[np.int64]:
    """The bits of BF16, to nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.int64)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def _lanes(values: NDArray[np.int64], bits: int = _BITS) -> Bits:
    return activity.lane_bits(values.reshape(-1, LANES), bits)


def _selects(fmt: Format, words: Words) -> Bits:
    runs = words.codes.shape[2] // LANES
    return activity.port_bits(np.repeat(words.selects.reshape(-1), runs), fmt.select.bits)
