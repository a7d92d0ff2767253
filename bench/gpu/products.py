"""Products of packed weights with a few rows of activations and with many, beside cuBLAS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from fmtc.formats import load

from ..measure import reason
from . import goals, ours
from .clock import Call, Clock, Timing
from .hints import hint_of_product
from .plan import Plan, Shape
from .results import BASE, OURS, Result, Roofs

#: cuBLAS's types -> how it is called.
DENSE = {"bfloat16": BASE, "float16": "cuBLAS fp16"}
#: What unpacking the whole weight first is called.
UNPACKED = "decode, then cuBLAS"


def dense(
    shape: Shape, rows: Sequence[int], dtype: str, plan: Plan, clock: Clock
) -> Iterator[Result]:
    """What cuBLAS needs for weights of 16 bits."""
    kind = getattr(torch, dtype)
    weight = torch.randn(shape, device=plan.device).mul_(0.02).to(kind)
    octets = weight.numel() * 2
    copies = ours.copies_of(weight, octets, plan.cold, plan.most_copies)
    for m in rows:
        x = torch.randn((m, shape[1]), device=plan.device).to(kind)
        timing = clock.time([partial(torch.nn.functional.linear, x, copy) for copy in copies])
        yield Result("product", DENSE[dtype], shape, m, "cold", timing.seconds, octets, timing.note)


class Weight:
    """One format's weight of one shape, with copies enough to find it cold every time.

    Args:
        name: the format's.
        shape: [rows, columns].
        plan: of the run.
        clock: times it.
    """

    def __init__(self, name: str, shape: Shape, plan: Plan, clock: Clock) -> None:
        self.name, self.shape, self.plan, self.clock = name, shape, plan, clock
        weights = ours.tall_weights(load(name), shape, plan.encoded_rows, plan.device)
        self.octets = ours.octets_of(weights)
        self.copies = ours.copies_of(weights, self.octets, plan.cold, plan.most_copies)

    def measure(
        self,
        m: int,
        roofs: Roofs | None = None,
        base: Result | None = None,
        arithmetic: str = "auto",
        warm: bool = False,
    ) -> Iterator[Result]:
        """The best of the likely configurations, cold; and warm if asked.

        Args:
            m: rows of activations, in float16.
            roofs: of this run, for the hint.
            base: cuBLAS on the same.
            arithmetic: of the product.
            warm: whether to multiply by one copy alone, too.
        """
        x = torch.randn((m, self.shape[1]), device=self.plan.device).to(torch.float16)
        who = f"{OURS} {self.name}" + ("" if arithmetic == "auto" else f", {arithmetic}")
        tried: dict[str, float] = {}
        config, timing, dropped = self._best(x, arithmetic, tried)
        if timing is None:
            yield Result("product", who, self.shape, m, "cold", skipped="; ".join(dropped))
            return
        notes = [config.name if config is not None else "", timing.note, *dropped]
        note = "; ".join(filter(None, notes))
        result = Result(
            "product", who, self.shape, m, "cold", timing.seconds, self.octets, note, tried=tried
        )
        first = partial(ours.multiply, self.copies[0], x, config, arithmetic)
        yield goals.explained(result, roofs, partial(self._hint, first, m, roofs, config), base)
        if warm:
            timing = self.clock.time([first])
            yield Result(
                "product", who, self.shape, m, "warm", timing.seconds, self.octets, timing.note
            )

    def compile(self, m: int, arithmetic: str = "auto") -> None:
        """Run every likely configuration once, so that a later process finds them compiled."""
        x = torch.randn((m, self.shape[1]), device=self.plan.device).to(torch.float16)
        for config in self._likely(m, arithmetic):
            try:
                ours.multiply(self.copies[0], x, config, arithmetic)
            except Exception as error:  # noqa: BLE001 - it will be dropped when it is timed
                print(f"{self.name} {self.shape} M={m}: {reason(error)}")

    def unpacked(self, m: int) -> Result:
        """Decode all of it, then cuBLAS: what a program without a product would do."""
        fmt = load(self.name)
        shape = (min(self.shape[0], self.plan.encoded_rows), self.shape[1])
        x = torch.from_numpy(ours.random_rows(shape)).to(self.plan.device)
        x = x.repeat(-(-self.shape[0] // shape[0]), 1)[: self.shape[0]]
        coder = ours.coder(fmt, x)
        rows = torch.randn((m, self.shape[1]), device=self.plan.device).to(torch.float16)

        def call() -> Any:
            return torch.nn.functional.linear(rows, coder.decode("float16"))

        timing = self.clock.time([call])
        who = f"{OURS} {self.name}, {UNPACKED}"
        return Result(
            "product", who, self.shape, m, "warm", timing.seconds, self.octets, timing.note
        )

    def _likely(self, m: int, arithmetic: str) -> list[Any]:
        top = self.plan.top
        if m == 1 and self.shape == self.plan.shapes[-1]:
            top = max(top, self.plan.vector_top)
        return ours.likely(self.copies[0], m, torch.float16, arithmetic, top)

    def _best(
        self, x: torch.Tensor, arithmetic: str, tried: dict[str, float]
    ) -> tuple[Any, Timing | None, list[str]]:
        """The fastest configuration, what it takes, and why others do not run; fills ``tried``."""
        best: tuple[Any, Timing | None] = (None, None)
        dropped = []
        for config in self._likely(len(x), arithmetic):
            calls: list[Call] = [
                partial(ours.multiply, copy, x, config, arithmetic) for copy in self.copies
            ]
            try:
                timing = self.clock.time(calls)
            except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything
                name = "" if config is None else f"{config.name}: "
                dropped.append(f"{name}{reason(error)}")
                continue
            tried["" if config is None else config.name] = timing.seconds
            if best[1] is None or timing.seconds < best[1].seconds:
                best = config, timing
        return *best, dropped

    def _hint(self, call: Callable[[], object], m: int, roofs: Roofs | None, config: Any) -> str:
        sms, clock = 0, 0.0
        if self.plan.device != "cpu":
            facts: Any = torch.cuda.get_device_properties(0)
            sms = facts.multi_processor_count
            clock = getattr(facts, "clock_rate", 0) * 1e3
        weights = self.shape[0] * self.shape[1]
        tile = {} if config is None else config.config
        return hint_of_product(call, m, self.octets / weights, roofs, sms, clock, tile)
