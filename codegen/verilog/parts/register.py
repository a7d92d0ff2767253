"""A register stage of a valid/ready stream."""

from __future__ import annotations

from collections.abc import Iterator

from ...design import Design
from ...vectors.draws import Draws
from ..bench import Bench, Row, vector_bench
from ..module import CLOCK, RESET, Module, Parameter, Port

#: Cycles of the bench, and of each manner of its writer and reader.
CYCLES, MANNER = 2048, 128
BENCH_WIDTH = 9


def register(design: Design) -> Module:
    """A skid buffer: every path through it ends in a flip-flop, and it never halves the rate."""
    return Module(
        owner=design.weights.fmt,
        part="register",
        notes=(
            (
                "A register stage of a valid/ready stream, with room for two beats: a beat every "
                "cycle passes, and no path leads through."
            ),
            "A beat passes on either side in a cycle in which valid and ready are both 1.",
        ),
        ports=(
            CLOCK,
            RESET,
            Port("in_valid_i", 1, "a beat is offered"),
            Port("in_ready_o", 1, "it is taken; does not depend on any input of this cycle"),
            Port("in_data_i", "Width", "the beat"),
            Port("out_valid_o", 1, "a beat is offered, until it is taken"),
            Port("out_ready_i", 1, "it is taken"),
            Port("out_data_o", "Width", "the beat"),
        ),
        parameters=(Parameter("Width", 32, "bits of a beat, at least 1"),),
        latency="1",
    )


def register_bench(design: Design) -> Bench:
    """Bubbles and stalls of every density against a queue of two, with resets in between."""
    return vector_bench(
        register(design),
        _cycles(),
        "Writer and reader are busy from never to always; the module is reset in between.",
        parameters={"Width": BENCH_WIDTH},
    )


def _cycles() -> Iterator[Row]:
    draws = Draws(11)
    queue: list[int] = []
    offered = pace = 0
    for cycle in range(CYCLES):
        if cycle % MANNER == 0:
            pace = draws.below(16)
        reset = cycle < 2 or draws.below(200) == 0
        if not offered:
            offered = draws.below(4) <= pace % 4
        ready = draws.below(4) <= pace // 4
        data = draws.below(1 << BENCH_WIDTH)
        if reset:
            queue, offered = [], 0
        row = {
            "rst_ni": int(not reset),
            "in_valid_i": offered,
            "in_data_i": data,
            "out_ready_i": int(ready),
            "in_ready_o": int(len(queue) < 2),
            "out_valid_o": int(bool(queue)),
        }
        yield row | ({"out_data_o": queue[0]} if queue else {})
        taken = offered and len(queue) < 2
        if queue and ready:
            queue.pop(0)
        if taken:
            queue.append(data)
            offered = 0
