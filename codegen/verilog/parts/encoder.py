"""The encoder of activations: a block of binary32 numbers to its codes and its scale word.

Bit for bit what ``compiler.reference`` makes of the block, in three steps, each a module: the
block's peak, its scale word, and the code of every element. ``encoder`` joins them, and
``encoder_pipeline`` has a register after each.
"""

from __future__ import annotations

from typing import Any

from ....compiler.format import Format
from ....compiler.view import view_of
from ... import NotExpressible
from ..module import CLOCK, RESET, Module, Port
from .encoder_plan import encoder_plan
from .encoder_steps import Shape, absmax_step, lane_step, scale_step

#: Cycles from a block to its codes in ``encoder_pipeline``.
LATENCY = 3

#: The widest codes that the encoder knows.
MOST_CODE_BITS = 8


def encoder(fmt: Format) -> Module:
    """The whole encoder of a block, combinational.

    Raises:
        NotExpressible: the encoder knows no such format; the message says why.
    """
    parts = _Parts(fmt)
    return Module(
        owner=fmt,
        part="encoder",
        notes=(
            *_what(fmt),
            "A short block fills up with zeros.",
        ),
        ports=(*parts.inputs, *parts.outputs),
        values=parts.encoder_values(),
        uses=(parts.absmax, parts.scale, parts.lane),
    )


def encoder_pipeline(fmt: Format) -> Module:
    """The encoder with a register after each of its three steps: a block every cycle.

    Raises:
        NotExpressible: the encoder knows no such format; the message says why.
    """
    parts = _Parts(fmt)
    return Module(
        owner=fmt,
        part="encoder_pipeline",
        notes=(
            *_what(fmt),
            "A block every cycle in which enable_i is 1; else everything stands still.",
        ),
        ports=(
            CLOCK,
            RESET,
            Port("enable_i", 1, "0: nothing moves"),
            Port("valid_i", 1, "a block is given"),
            *parts.inputs,
            Port("valid_o", 1, "the outputs are those of a block"),
            *parts.outputs,
        ),
        values=parts.pipeline_values(),
        uses=(parts.absmax, parts.scale, parts.lane),
        latency=str(LATENCY),
    )


def encoder_bf16(fmt: Format) -> Module:
    """The encoder for bfloat16 elements: the same with low halves that are constant.

    Raises:
        NotExpressible: the encoder knows no such format; the message says why.
    """
    whole = encoder(fmt)
    values = Port(
        "values_i",
        16 * fmt.block,
        f"{fmt.block} bfloat16 numbers, lane 0 in the low bits",
        lanes=True,
    )
    return Module(
        owner=fmt,
        part="encoder_bf16",
        notes=(
            "The encoder for bfloat16 elements, which are the upper halves of binary32 numbers.",
            "Synthesis that goes through hierarchy takes the logic of the lower halves away.",
        ),
        ports=(values, *whole.ports[1:]),
        values={"lanes": fmt.block, "encoder": whole},
        uses=(whole,),
    )


def check_encoder(fmt: Format) -> None:
    """Whether there is an encoder.

    Raises:
        NotExpressible: no; the message says why.
    """
    view, scale = view_of(fmt) if fmt.is_plain else None, fmt.scale
    reasons = (
        (not fmt.is_plain, "what is arranged around blocks (sides, tiles, rows, stored scales)"),
        (fmt.zero is not None, "zero points or minima"),
        (bool(view and view.scale.is_fp32), "fp32 scale words: they are quotients, not a table"),
        (scale.tensor != "none", "fp32 second level: its thresholds are known per tensor only"),
        (bool(view and len(view.trials) > 1), "trials: a block's errors would have to be summed"),
        (fmt.policies.compare != "exact", f"compare {fmt.policies.compare}: only exact"),
        (fmt.code_bits > MOST_CODE_BITS, f"codes of {fmt.code_bits} bits"),
    )
    for lacks, what in reasons:
        if lacks:
            raise NotExpressible(f"no encoder RTL for '{fmt.name}': it has no {what}")
    try:
        encoder_plan(fmt)
    except ValueError as error:
        raise NotExpressible(f"no encoder RTL for '{fmt.name}': {error}") from error


def _what(fmt: Format) -> tuple[str, ...]:
    return (
        f"Encodes a block of {fmt.block} binary32 numbers.",
        "Every code is that of the grid value nearest to element / scale, exactly compared.",
    )


class _Parts:
    """The modules of one encoder, and how they are joined."""

    def __init__(self, fmt: Format) -> None:
        check_encoder(fmt)
        self.fmt, self.shape = fmt, Shape(fmt)
        self.inputs = (self.shape.values, *self.shape.offset)
        self.outputs = _outputs(self.shape)
        self.absmax, self.scale = absmax_step(self.shape), scale_step(self.shape)
        self.lane = lane_step(self.shape)

    def encoder_values(self) -> dict[str, Any]:
        """What the template of ``encoder`` asks for."""
        inner = [p for p in (*self.absmax.outputs, *self.scale.outputs) if _is_inner(p)]
        renamed = {port.name: port.bare for port in inner}
        taken = {p.name: f"{p.bare}" for p in self.scale.inputs if p.name != "exponent_offset_i"}
        return self._common() | {
            "inner": inner,
            "other": renamed | {"invalid_o": "refused"},
            "scale_other": renamed | taken | {"invalid_o": "offset_refused"},
            "lane_other": self._lane_other(""),
        }

    def pipeline_values(self) -> dict[str, Any]:
        """What the template of ``encoder_pipeline`` asks for."""
        renames = {"absmax": {"invalid_o": "refused"}, "scale": {"invalid_o": "offset_refused"}}
        wires = {
            name: [
                Port(f"{renames[name].get(p.name, p.bare)}_o", p.bits, p.meaning, p.signed, p.lanes)
                for p in module.outputs
            ]
            for name, module in (("absmax", self.absmax), ("scale", self.scale))
        }
        connected = {
            name: {p.name: p.bare for p in module.outputs} | renames[name]
            for name, module in (("absmax", self.absmax), ("scale", self.scale))
        }
        return self._common() | {
            "absmax_wires": wires["absmax"],
            "scale_wires": wires["scale"],
            "passed": ["refused", *(["nan"] if self.shape.propagates else [])],
            "absmax_other": connected["absmax"],
            "scale_other": connected["scale"] | {p.name: f"{p.bare}_q" for p in self.scale.inputs},
            "lane_other": self._lane_other("_q"),
            "container": self.shape.view.scale.container,
        }

    def _common(self) -> dict[str, Any]:
        bits = self.fmt.code_bits
        return {
            "lanes": self.fmt.block,
            "absmax": self.absmax,
            "scale": self.scale,
            "lane": self.lane,
            "offset": self.shape.plan.scale.has_offset,
            "code_bits": bits,
            "propagates": self.shape.propagates,
            "zero_code": f"{bits}'d{self.shape.view.grids[0].zero_code}",
        }

    def _lane_other(self, suffix: str) -> dict[str, str]:
        bits = self.fmt.code_bits
        return {p.name: f"{p.bare}{suffix}" for p in self.lane.inputs} | {
            "value_i": f"{'held_q' if suffix else 'values'}[lane*32 +: 32]",
            "code_o": f"codes[lane*{bits} +: {bits}]",
        }


def _is_inner(port: Port) -> bool:
    return port.name not in ("invalid_o", "scale_word_o")


def _outputs(shape: Shape) -> tuple[Port, ...]:
    fmt = shape.fmt
    refusals = [
        *(["an element is NaN"] * (fmt.policies.nan == "error")),
        *(["an element is infinite"] * (fmt.policies.inf == "error")),
        *(["the offset is out of range"] * shape.plan.scale.has_offset),
    ]
    refused = f"1: {', or '.join(refusals)}; the other outputs then mean nothing"
    return (
        Port(
            "codes_o",
            fmt.block * fmt.code_bits,
            f"{fmt.block} codes, lane 0 in the low bits",
            lanes=True,
        ),
        Port("scale_word_o", shape.view.scale.container, "stored scale word of the block"),
        Port("invalid_o", 1, refused if refusals else "always 0"),
    )
