"""What is claimed of every generated module, by its part, and the proofs of all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ...codegen import NotExpressible, hardware
from ...codegen.design import Design
from ...codegen.verilog import modules_of
from ...codegen.verilog.module import Module
from ...codegen.verilog.parts.arithmetic_decoder import arithmetic_decoder
from ...codegen.verilog.parts.element_decoder import element_decoder
from ...compiler.format import Format
from .formal import LIMIT, Claim, Proof, prove
from .spec_accumulators import tile_claims
from .spec_encoders import lane_claims, peak_claims, scale_word_claims
from .spec_products import decoder_claims, dot_claims, multiply_claims, sum_claims
from .spec_scales import (
    apply_claims,
    long_claim,
    output_claims,
    pipeline_claims,
    product_claims,
)
from .specs import element_claims, ports, scale_claims, side_of_module, sources
from .tools import require

#: The status of a module about which nothing is claimed: its benches are all there is.
SIMULATED = "simulated"


def arithmetic_claims(design: Design, module: Module) -> Iterator[Claim]:
    """It means every code's value, and is bit for bit the constant table."""
    yield from element_claims(design, module)
    table = element_decoder(side_of_module(design, module))
    inputs, outputs = ports(module)
    yield Claim(
        subject=module.name,
        statement=f"equal to the table {table.name} for every input",
        inputs=inputs,
        outputs=outputs,
        files=sources(module, table),
        made=module.name,
        meant=table.name,
    )


CLAIMS: dict[str, Callable[[Design, Module], Iterator[Claim]]] = {
    "element_decoder": element_claims,
    "arithmetic_decoder": arithmetic_claims,
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
    "encoder_absmax": peak_claims,
    "encoder_scale": scale_word_claims,
    "encoder_lane": lane_claims,
}

#: Steps of a part whose function is claimed of the module that uses them.
_WITHIN = {"align_add": "scale_apply", "normalize_round": "scale_apply"}


def claims_of(design: Design, module: Module) -> list[Claim]:
    """All claims about one module; none for a part that has no specification."""
    make = CLAIMS.get(module.part)
    return list(make(design, module)) if make else []


def provable(design: Design) -> tuple[Module, ...]:
    """The modules of a design, and the arithmetic decoders that can stand for its tables."""
    found = {module.name: module for module in modules_of(design)}
    for side in (design.weights, design.activations):
        try:
            module = arithmetic_decoder(side)
        except NotExpressible:
            continue
        found[module.name] = module
    return tuple(found.values())


def prove_rtl(
    fmt: Format,
    activation: Format | None = None,
    *,
    limit: float = LIMIT,
    long: bool = False,
    skip: tuple[str, ...] = (),
) -> list[Proof]:
    """Prove what is claimed of every module of a format's hardware.

    Args:
        fmt: the weights' format.
        activation: the activations'; None: HIF8.
        limit: seconds for each comparison.
        long: addition and rounding at every distance of the exponents, too (minutes).
        skip: parts that are left out.

    Returns:
        One proof a claim; a module without claims has one of status ``simulated``.

    Raises:
        BackendUnavailable: yosys is not installed.
        NotExpressible: the format has no hardware.
    """
    require("yosys", "yosys-abc")
    design = hardware(fmt, activation)
    claims: list[Claim] = []
    rest: list[Proof] = []
    for module in provable(design):
        if module.part in skip:
            continue
        found = claims_of(design, module)
        if long and module.part == "scale_apply":
            found.append(long_claim(design, module))
        claims += found
        if not found:
            within = _WITHIN.get(module.part)
            why = f"part of what is claimed of {within}" if within else "no specification: benches"
            rest.append(Proof(module.name, why, SIMULATED, 0.0))
    # The long ones first: the last to end is then a short one.
    claims.sort(key=lambda claim: (-len(claim.cases), -len(claim.inputs)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(lambda claim: prove(claim, limit), claims), *rest]
