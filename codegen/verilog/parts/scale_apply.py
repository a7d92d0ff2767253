"""One block's scaled accumulate, combinational."""

from __future__ import annotations

from ...design import Design
from ...vectors.scaled import scaled_rows
from ..bench import Bench, vector_bench
from ..module import Module
from .scale_steps import (
    ACCUMULATOR,
    RESULT,
    Step,
    align_add,
    normalize_round,
    product_ports,
    scale_product,
    scale_step,
    step_inputs,
    total_ports,
)


def scale_apply(design: Design) -> Module:
    """The scaled accumulate of a design's blocks, combinational."""
    step = scale_step(design)
    return Module(
        owner=step.owner,
        part="scale_apply",
        notes=(
            (
                "One scaled accumulate: result_o = accumulator_i + sum_i * both scales, with one "
                "rounding (a fused multiply-add of IEEE 754-2019)."
            ),
            (
                f"The product is sum * w * a * 2^(exponents + offset {step.unit:+d}), w and a the "
                "significands."
            ),
            "A sum that is not valid, or a scale that is no number, makes NaN.",
        ),
        ports=(*step_inputs(step), ACCUMULATOR, RESULT),
        values=step_values(step),
        uses=(scale_product(step), align_add(step), normalize_round(step)),
    )


def scale_apply_bench(design: Design) -> Bench:
    """Edges, ties, cancellation, far exponents and random bits, against exact numbers."""
    return vector_bench(
        scale_apply(design),
        scaled_rows(design),
        "Edges of every input, ties, cancellation, subnormal and infinite results, random bits.",
    )


def step_values(step: Step) -> dict[str, object]:
    """What the templates of both ask for."""
    return {
        "inputs": step_inputs(step),
        "product": product_ports(step, "o"),
        "total": total_ports(step, "o"),
    }
