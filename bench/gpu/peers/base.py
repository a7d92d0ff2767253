"""What a peer is, and how its products are measured."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ...measure import reason
from .. import ours
from ..clock import Clock
from ..plan import Plan, Shape
from ..results import Result

#: A product of 4-bit weights is off by about a tenth of the dense one's size, not by more.
WRONG = 0.25


@dataclass
class PeerWeight:
    """A weight as a peer packs it.

    Attributes:
        product: [m, rows] from float16 [m, columns] and what is packed.
        packed: everything that the product reads of the weight; ``copy.deepcopy`` copies it.
        octets: its bytes.
        note: what is odd.
    """

    product: Callable[[torch.Tensor, Any], torch.Tensor]
    packed: Any
    octets: int
    note: str = ""


class Peer(ABC):
    """Another library. What this machine lacks raises when it is used."""

    #: How it is called, and what ``pip`` calls it.
    name = ""
    package = ""
    #: Its formats, by our names or its own.
    variants: tuple[str, ...] = ()

    @abstractmethod
    def pack(self, variant: str, weight: torch.Tensor) -> PeerWeight:
        """Pack a float16 weight [rows, columns] on its device.

        Raises:
            Exception: whatever the library raises where it cannot.
        """


def measure(
    peer: Peer, shape: Shape, rows: Sequence[int], plan: Plan, clock: Clock
) -> Iterator[Result]:
    """Every variant with every number of rows, held against the dense product first."""
    few = torch.from_numpy(ours.random_rows((min(shape[0], plan.encoded_rows), shape[1])))
    repeats = -(-shape[0] // len(few))
    weight = few.to(plan.device).repeat(repeats, 1)[: shape[0]].mul_(2.0**-6).to(torch.float16)
    packed: dict[str, tuple[PeerWeight, list[Any], str]] = {}
    for variant in peer.variants:
        who = f"{peer.name} {variant}"
        try:
            made = peer.pack(variant, weight)
            packed[who] = (made, *_copies(made, plan))
        except Exception as error:  # noqa: BLE001 - libraries raise anything
            yield Result("product", who, shape, skipped=reason(error))
    for m in rows:  # all variants of the first number of rows before time may be up
        for who, (made, copies, note) in packed.items():
            result = Result("product", who, shape, m, "cold", octets=made.octets)
            yield _one(result, made, copies, weight, clock, note)


def _one(
    result: Result,
    packed: PeerWeight,
    copies: Sequence[Any],
    weight: torch.Tensor,
    clock: Clock,
    note: str,
) -> Result:
    x = torch.randn((result.m, weight.shape[1]), device=weight.device).to(torch.float16)
    try:
        found = packed.product(x, copies[0]).float().reshape(result.m, -1)
        exact = torch.nn.functional.linear(x.float(), weight.float())
        off = float((found - exact).norm() / exact.norm())
        if not off <= WRONG:
            return replace(result, skipped=f"wrong: off by {off:.2g} of the dense product")
        timing = clock.time([partial(packed.product, x, one) for one in copies])
    except Exception as error:  # noqa: BLE001 - libraries raise anything
        return replace(result, skipped=reason(error))
    notes = "; ".join(filter(None, (packed.note, note, timing.note)))
    return replace(result, seconds=timing.seconds, note=notes)


def _copies(packed: PeerWeight, plan: Plan) -> tuple[list[Any], str]:
    """Copies enough to find the weight cold; where it does not copy, itself alone."""
    count = max(2, min(plan.most_copies, -(-plan.cold // max(1, packed.octets))))
    try:
        return [packed.packed, *(copy.deepcopy(packed.packed) for _ in range(count - 1))], ""
    except Exception as error:  # noqa: BLE001 - libraries raise anything
        return [packed.packed], f"warm, for it does not copy: {reason(error)}"


def octets_of(*tensors: torch.Tensor | None) -> int:
    """Bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
