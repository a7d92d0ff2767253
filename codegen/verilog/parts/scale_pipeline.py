"""One block's scaled accumulate a cycle, as a pipeline of three stages."""

from __future__ import annotations

from collections.abc import Iterator

from ...design import Design
from ...vectors.draws import Draws
from ...vectors.scaled import scaled_rows
from ..bench import Bench, Row, vector_bench
from ..module import CLOCK, RESET, Module, Port
from .scale_apply import step_values
from .scale_steps import (
    ACCUMULATOR,
    RESULT,
    align_add,
    normalize_round,
    scale_product,
    scale_step,
    step_inputs,
)

#: Cycles from valid_i to valid_o.
LATENCY = 3

#: Rows of the bench that are drawn.
PIPELINE_DRAWN = 500


def scale_pipeline(design: Design) -> Module:
    """``scale_apply`` with a register after each of its steps."""
    step = scale_step(design)
    return Module(
        owner=step.owner,
        part="scale_pipeline",
        notes=(
            (
                "One scaled accumulate a cycle: scale_apply with a register after each of its "
                "three steps."
            ),
            (
                f"Latency = {LATENCY}: what enters with valid_i in one cycle leaves with valid_o "
                f"{LATENCY} enabled cycles later."
            ),
        ),
        ports=(
            CLOCK,
            RESET,
            Port("enable_i", 1, "0: everything stands still"),
            Port("valid_i", 1, "1: the inputs count"),
            *step_inputs(step),
            ACCUMULATOR,
            Port("valid_o", 1, "1: the result counts"),
            RESULT,
        ),
        values=step_values(step) | {"latency": LATENCY},
        uses=(scale_product(step), align_add(step), normalize_round(step)),
        latency=str(LATENCY),
    )


def scale_pipeline_bench(design: Design) -> Bench:
    """The rows of ``scale_apply`` with bubbles, stalls, and resets in between."""
    return vector_bench(
        scale_pipeline(design),
        _cycles(design),
        "A row is a cycle: valid in three of four, enabled in seven of eight, reset now and then.",
    )


def _cycles(design: Design) -> Iterator[Row]:
    draws = Draws(23)
    rows = list(scaled_rows(design, PIPELINE_DRAWN, salt=1))
    stages: list[int | None] = [None] * LATENCY
    for cycle in range(len(rows)):
        reset = cycle < 2 or draws.below(200) == 0
        enable, valid = int(draws.below(8) > 0), int(draws.below(4) > 0)
        if reset:
            stages = [None] * LATENCY
        inputs = dict(rows[cycle])
        result = inputs.pop("result_o")
        row = {"rst_ni": int(not reset), "enable_i": enable, "valid_i": valid} | inputs
        row["valid_o"] = int(stages[-1] is not None)
        yield row | ({} if stages[-1] is None else {"result_o": stages[-1]})
        if enable and not reset:
            stages = [result if valid else None, *stages[:-1]]
