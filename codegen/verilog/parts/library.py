"""All parts of a design, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable

from ...design import Design
from ..bench import Bench
from ..module import Module
from .decoder import decoder, decoder_bench
from .dot import dot, dot_bench

#: The modules that nothing else instantiates, and with them all that they are made of.
TOPS: tuple[Callable[[Design], Module], ...] = (
    lambda design: decoder(design.weights),
    dot,
)

BENCHES: tuple[Callable[[Design], Bench], ...] = (
    lambda design: decoder_bench(design.weights),
    dot_bench,
)


def modules_of(design: Design) -> tuple[Module, ...]:
    """Every module of a design once, what it uses before itself."""
    found: dict[str, Module] = {}
    for top in TOPS:
        found |= {module.name: module for module in top(design).closure}
    return tuple(found.values())


def benches_of(design: Design) -> tuple[Bench, ...]:
    """Every bench of a design."""
    return tuple(make(design) for make in BENCHES)
