"""The dot product of one block with words of activations, exact."""

from __future__ import annotations

from ... import NotExpressible
from ...design import Design, Side
from ...vectors.memory import dot_count, dot_layout, dot_memory
from ..bench import Bench
from ..module import Module, Port
from .arithmetic_decoder import arithmetic_decoder
from .element_decoder import element_decoder
from .multiply import multiply
from .scale_decoder import scale_decoder
from .sum import block_sum, group_lanes
from .words import scale_outputs, scale_word, select_field, span


def dot_inputs(design: Design) -> tuple[Port, ...]:
    """Codes and activations of a block."""
    lanes, operand = design.block, design.activations.operand
    ports = [
        Port(
            "codes_i",
            lanes * design.weights.code_bits,
            f"{lanes} codes, lane 0 in the low bits",
            lanes=True,
        ),
        Port(
            "activation_coefficients_i",
            lanes * operand.coefficient_bits,
            f"{lanes} two's-complement coefficients, each {span(operand.coefficient)}, "
            "LSB weight 2^shift",
            lanes=True,
        ),
    ]
    if operand.shift_bits:
        ports.append(
            Port(
                "activation_shifts_i",
                lanes * operand.shift_bits,
                f"{lanes} shifts, each 0..{operand.max_shift}",
                lanes=True,
            )
        )
    return tuple(ports)


def dot_outputs(design: Design) -> tuple[Port, ...]:
    """The sum of a block, and whether it counts."""
    last = design.activations.operand.max_shift
    return (
        Port(
            "sum_valid_o",
            1,
            f"0: a code is no number or an activation's shift is past {last}; sum_o then means "
            "nothing",
        ),
        Port(
            "sum_o",
            design.total.bits,
            f"{span(design.total)}, LSB weight 2^{design.unit}",
            signed=True,
        ),
    )


def dot(design: Design) -> Module:
    """The block dot product with its scale decoder.

    Elements are decoded by arithmetic where that is possible, else by a table.
    """
    side = design.weights
    scale, element = scale_decoder(side), _element_decoder(side)
    product, total = multiply(design), block_sum(design)
    return Module(
        owner=side.fmt,
        part="dot",
        notes=(
            f"Dot product of one block with activations of {design.activations.name}, exact.",
            f"sum_o * 2^{design.unit} = sum over lanes of element value * activation",
            "A short block fills up with activations of coefficient 0.",
            (
                f"Widths: product {design.product.bits} bits, shifted product "
                f"{design.term.bits} bits ({span(design.term)}), sum {design.total.bits} bits."
            ),
        ),
        ports=(
            scale_word(side),
            *select_field(side),
            *dot_inputs(design),
            *scale_outputs(side),
            *dot_outputs(design),
        ),
        values={
            "design": design,
            "side": side,
            "scale": scale,
            "element": element,
            "multiply": product,
            "total": total,
            "group_lanes": group_lanes(design.block),
        },
        uses=(scale, element, product, total),
    )


def _element_decoder(side: Side) -> Module:
    try:
        return arithmetic_decoder(side)
    except NotExpressible:
        return element_decoder(side)


def dot_bench(design: Design) -> Bench:
    """Extreme and random blocks against their exact sums."""
    module = dot(design)
    count = dot_count(design)
    return Bench(
        module=module,
        template="dot_tb.v.j2",
        notes=(
            f"Test bench of {module.name}: {count} blocks of its memory with their exact sums.",
            (
                "Rows of the file: for every block its scale word and results, then "
                f"{design.block} lanes."
            ),
        ),
        vectors=count,
        memory=lambda: dot_memory(design),
        lanes=design.block,
        values={
            "design": design,
            "side": design.weights,
            "layout": dot_layout(design),
            "dot_inputs": dot_inputs(design),
            "results": (*scale_outputs(design.weights), *dot_outputs(design)),
        },
    )
