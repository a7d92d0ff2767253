"""The array: rows of activations times columns of weights, a step of the row length a cycle."""

from __future__ import annotations

from ...design import Design, Side
from ..module import CLOCK, RESET, Module, Parameter, Port
from .multiply import multiply
from .scale_decoder import scale_decoder
from .scale_pipeline import scale_pipeline
from .words import span

#: Bits of both tensors' power-of-two shifts together.
OFFSET_BITS = 10

ROWS = Parameter("Rows", 4, "rows of the tile, one activation vector each, at least 1")
COLUMNS = Parameter("Columns", 4, "columns of the tile, one weight vector each, at least 1")


def tile(design: Design) -> Module:
    """Outer products of integers; a rank-1 product of scales once a block (SOP, 2605.14929)."""
    product, scaled = multiply(design), scale_pipeline(design)
    decoders = {m.name: m for m in map(scale_decoder, (design.weights, design.activations))}
    term_bits = _width(product, "term_o")
    sum_bits = _width(scaled, "sum_i")
    block, latency = design.block, int(scaled.latency)
    return Module(
        owner=design.weights.fmt,
        part="tile",
        notes=(
            (
                f"Rows x Columns outer products over blocks of {block}, one k a cycle, exact: "
                f"{sum_bits}-bit sums hold {block} products of {term_bits} bits "
                f"({span(design.total)} of 2^{design.unit})."
            ),
            (
                "A block's sums move to shadow registers, and from there through "
                f"ceil(Rows * Columns / {block}) scale pipelines: result = result + sum * "
                f"2^{design.unit} * weight scale * activation scale * 2^exponent_offset, one "
                "rounding to binary32."
            ),
            "Latency is from a command's last k to its first row of results.",
            (
                "The array goes on meanwhile. It waits only where results are not read, and at the "
                f"end of blocks that are shorter than {latency + 1} cycles."
            ),
        ),
        ports=(CLOCK, RESET, *_inputs(design), *result_ports()),
        values={
            "design": design,
            "block": block,
            "latency": latency,
            "term_bits": term_bits,
            "sum_bits": sum_bits,
            "offset_bits": OFFSET_BITS,
        },
        uses=(*decoders.values(), product, scaled),
        parameters=(ROWS, COLUMNS),
        latency=f"{latency + 2} + (Columns - 1) / ceil(Rows * Columns / {block})",
    )


def _inputs(design: Design) -> tuple[Port, ...]:
    return (
        Port("enable_i", 1, "a k is offered"),
        Port("ready_o", 1, "it is taken; 0 only at a block's last k"),
        Port("first_i", 1, "it is its block's first"),
        Port("last_i", 1, "it is its block's last"),
        Port("first_block_i", 1, "results begin at +0; this and what follows: read at the last k"),
        Port("last_block_i", 1, "results are complete"),
        Port("exponent_offset_i", OFFSET_BITS, "power of two that results come with", signed=True),
        *_words(design.weights, "weight", "Columns"),
        *_words(design.activations, "activation", "Rows"),
    )


def _words(side: Side, unit: str, lanes: str) -> tuple[Port, ...]:
    """One side's decoded words, and its stored scale words."""
    operand = side.operand
    ports = [
        Port(f"{unit}_valid_i", lanes, "0: no number; its block's sums become NaN", lanes=True),
        Port(
            f"{unit}_coefficients_i",
            f"{lanes}*{operand.coefficient_bits}",
            f"each {span(operand.coefficients)}, 0 where not valid",
            lanes=True,
        ),
    ]
    if operand.shift_bits:
        ports.append(
            Port(
                f"{unit}_shifts_i",
                f"{lanes}*{operand.shift_bits}",
                f"each 0..{operand.max_shift}",
                lanes=True,
            )
        )
    words = Port(
        f"{unit}_scale_words_i",
        f"{lanes}*{side.container}",
        "stored scale words of the block",
        lanes=True,
    )
    return (*ports, words)


def result_ports() -> tuple[Port, ...]:
    """A command's results, row after row."""
    return (
        Port("result_valid_o", 1, "a row of results is offered, until it is taken"),
        Port("result_ready_i", 1, "it is taken"),
        Port("result_o", "Columns*32", "binary32 numbers, column 0 in the low bits", lanes=True),
        Port("result_last_o", 1, "it is the tile's last row"),
    )


def _width(module: Module, name: str) -> int:
    bits = next(port.bits for port in module.ports if port.name == name)
    if not isinstance(bits, int):
        raise TypeError(f"{module.name}.{name} has no fixed width")
    return bits
