"""All parts of a design, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ... import NotExpressible
from ...design import Design
from ..bench import Bench
from ..module import Module
from .arithmetic_decoder import arithmetic_decoder, arithmetic_decoder_bench
from .core import core
from .core_bench import core_bench
from .decoder import decoder, decoder_bench
from .dot import dot, dot_bench
from .encoder import encoder, encoder_bf16, encoder_pipeline
from .encoder_bench import (
    encoder_bench,
    encoder_bf16_bench,
    encoder_pipeline_bench,
    encoder_scale_bench,
)
from .lut_decoder import lut_decoder, lut_decoder_bench
from .multiply import multiply, multiply_bench
from .output_scale import output_scale, output_scale_bench
from .register import register, register_bench
from .scale_apply import scale_apply, scale_apply_bench
from .scale_pipeline import scale_pipeline, scale_pipeline_bench
from .sparse import sparse
from .sparse_bench import sparse_bench
from .sum import block_sum, sum_bench


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
    Part(
        "arithmetic_decoder",
        lambda d: arithmetic_decoder(d.weights),
        (lambda d: arithmetic_decoder_bench(d.weights),),
    ),
    Part("lut_decoder", lut_decoder, (lut_decoder_bench,)),
    Part(
        "encoder",
        lambda d: encoder(d.activations.fmt),
        (
            lambda d: encoder_scale_bench(d.activations.fmt),
            lambda d: encoder_bench(d.activations.fmt),
        ),
    ),
    Part(
        "encoder_bf16",
        lambda d: encoder_bf16(d.activations.fmt),
        (lambda d: encoder_bf16_bench(d.activations.fmt),),
    ),
    Part(
        "encoder_pipeline",
        lambda d: encoder_pipeline(d.activations.fmt),
        (lambda d: encoder_pipeline_bench(d.activations.fmt),),
    ),
    Part("multiply", multiply, (multiply_bench,)),
    Part("sum", block_sum, (sum_bench,)),
    Part("dot", dot, (dot_bench,)),
    Part("scale_apply", scale_apply, (scale_apply_bench,)),
    Part("scale_pipeline", scale_pipeline, (scale_pipeline_bench,)),
    Part("output_scale", output_scale, (output_scale_bench,)),
    Part("register", register, (register_bench,)),
    Part("core", core, (core_bench, lambda d: core_bench(d, "lut"))),
    Part("sparse", sparse, (sparse_bench,)),
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
