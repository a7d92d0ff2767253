"""The whole: streams of stored codes and scale words in, binary32 results out."""

from __future__ import annotations

from ...design import Design, Side
from ..module import CLOCK, RESET, Module, Parameter, Port
from .element_decoder import element_decoder
from .lut_decoder import load_inputs, lut_decoder
from .register import register
from .scale_pipeline import LATENCY
from .tile import COLUMNS, OFFSET_BITS, ROWS, result_ports, tile

#: A stream: its name, and what a beat is made of.
Stream = tuple[str, tuple[Port, ...]]


def core(design: Design) -> Module:
    """Products of a tile of activation rows and a tile of weight rows, command after command."""
    weights, activations, block = design.weights, design.activations, design.block
    decoders = {m.name: m for m in map(element_decoder, (weights, activations))}
    masked = has_mask(weights)
    streams = streams_of(design)
    return Module(
        owner=weights.fmt,
        part="core",
        notes=(
            (
                f"Rows x Columns dot products of {weights.name} weights and {activations.name} "
                f"activations, in blocks of {block}. A command is a whole row length."
            ),
            (
                "For every k of every block: one code for each column and row. For every block: "
                "one scale word for each column and row. For every command: its blocks, and 2^e "
                "that results are multiplied with."
            ),
            (
                "A beat passes in a cycle in which valid and ready are both 1. ready_o does not "
                "depend on any input of the cycle. Streams run freely against each other, up to "
                "two beats ahead."
            ),
            (
                "One k is taken every cycle while all streams keep up. The next command begins "
                "while results are read; it waits at its end where they are not."
            ),
            *(("A masked weight counts as 0, and is a number.",) if masked else ()),
            f"A short last block fills up with activations of 0, to {block}.",
            "Latency is from a command's last code to its first row of results.",
        ),
        ports=(
            CLOCK,
            RESET,
            *(port for name, parts in streams for port in _stream_ports(name, parts)),
            *load_inputs(weights),
            *result_ports(),
        ),
        values={
            "design": design,
            "block": block,
            "streams": streams,
            "load_ports": load_inputs(weights),
            "masked": masked,
            "offset_bits": OFFSET_BITS,
        },
        uses=(*decoders.values(), lut_decoder(design), register(design), tile(design)),
        parameters=(
            ROWS,
            COLUMNS,
            Parameter("Loadable", 0, "1: weights decode by a table that is loaded; 0: constant"),
            Parameter("CountBits", 16, "bits of a command's count of blocks, at least 2"),
        ),
        latency=f"{LATENCY + 4} + (Columns - 1) / ceil(Rows * Columns / {block})",
    )


def has_mask(side: Side) -> bool:
    """Whether some weights are taken out of their blocks and stand beside them."""
    return any(one.kind == "opq" for one in side.fmt.sides)


def streams_of(design: Design) -> tuple[Stream, ...]:
    """The streams that a core reads, and what their beats are made of."""
    weights, activations = design.weights, design.activations
    return (
        (
            "command",
            (
                Port("command_blocks_i", "CountBits", "blocks of the row length; 0: 2^CountBits"),
                Port(
                    "command_exponent_offset_i",
                    OFFSET_BITS,
                    "power of two that results come with",
                    signed=True,
                ),
            ),
        ),
        ("weight", (_codes(weights, "weight", "Columns"), *_mask(weights))),
        ("weight_scale", _scale_words(weights, "weight", "Columns")),
        ("activation", (_codes(activations, "activation", "Rows"),)),
        ("activation_scale", _scale_words(activations, "activation", "Rows")),
    )


def _codes(side: Side, unit: str, lanes: str) -> Port:
    meaning = f"stored codes of one k, one for each of {lanes}"
    return Port(f"{unit}_codes_i", f"{lanes}*{side.code_bits}", meaning, lanes=True)


def _mask(side: Side) -> tuple[Port, ...]:
    if not has_mask(side):
        return ()
    return (Port("weight_mask_i", "Columns", "1: the weight counts as 0", lanes=True),)


def _scale_words(side: Side, unit: str, lanes: str) -> tuple[Port, ...]:
    words = Port(
        f"{unit}_scale_words_i",
        f"{lanes}*{side.container}",
        "stored scale words of one block",
        lanes=True,
    )
    if not side.select_is_field:
        return (words,)
    select = Port(
        f"{unit}_scale_selects_i",
        f"{lanes}*{side.select_bits}",
        "indices of the block's grids",
        lanes=True,
    )
    return (words, select)


def _stream_ports(name: str, parts: tuple[Port, ...]) -> tuple[Port, ...]:
    return (
        Port(f"{name}_valid_i", 1, "a beat is offered"),
        Port(f"{name}_ready_o", 1, "it is taken"),
        *parts,
    )
