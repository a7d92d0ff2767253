"""All parts of a design, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ... import NotExpressible
from ...design import Design
from ..bench import Bench
from ..module import Module
from .decoder import decoder, decoder_bench
from .dot import dot, dot_bench


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a design has, if it can.

    ``module`` and ``benches`` raise ``NotExpressible`` where a format has no such thing.
    """

    name: str
    module: Callable[[Design], Module]
    benches: tuple[Callable[[Design], Bench], ...]


PARTS = (
    Part("decoder", lambda d: decoder(d.weights), (lambda d: decoder_bench(d.weights),)),
    Part("dot", dot, (dot_bench,)),
)


def modules_of(design: Design) -> tuple[Module, ...]:
    """Every module of a design once, what it uses before itself."""
    found: dict[str, Module] = {}
    for part in _present(design):
        found |= {module.name: module for module in part.module(design).closure}
    return tuple(found.values())


def benches_of(design: Design) -> tuple[Bench, ...]:
    """Every bench of a design."""
    return tuple(make(design) for part in _present(design) for make in part.benches)


def missing_of(design: Design) -> dict[str, str]:
    """The parts that a design has not, and why."""
    reasons = {}
    for part in PARTS:
        try:
            part.module(design)
        except NotExpressible as reason:
            reasons[part.name] = str(reason)
    return reasons


def _present(design: Design) -> Iterator[Part]:
    missing = missing_of(design)
    return (part for part in PARTS if part.name not in missing)
