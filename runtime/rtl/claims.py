"""What is claimed of every generated module, by its part."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...codegen.design import Design
from ...codegen.verilog.module import Module
from .formal import Claim
from .spec_accumulators import tile_claims
from .spec_products import decoder_claims, dot_claims, multiply_claims, sum_claims
from .spec_scales import apply_claims, output_claims, pipeline_claims, product_claims
from .specs import element_claims, scale_claims

CLAIMS: dict[str, Callable[[Design, Module], Iterator[Claim]]] = {
    "element_decoder": element_claims,
    "arithmetic_decoder": element_claims,
    "scale_decoder": scale_claims,
    "multiply": multiply_claims,
    "sum": sum_claims,
    "decoder": decoder_claims,
    "dot": dot_claims,
    "scale_product": product_claims,
    "scale_apply": apply_claims,
    "scale_pipeline": pipeline_claims,
    "output_scale": output_claims,
    "tile": tile_claims,
}


def claims_of(design: Design, module: Module) -> list[Claim]:
    """All claims about one module; none for a part that has no specification."""
    make = CLAIMS.get(module.part)
    return list(make(design, module)) if make else []
