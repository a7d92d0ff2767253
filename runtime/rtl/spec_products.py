"""Specifications of multiplication, summation and the block dot product, in wide integers."""

from __future__ import annotations

from collections.abc import Iterator

from ...codegen.design import Bounds, Design
from ...codegen.verilog.module import Module
from .formal import Claim
from .specs import (
    WIDE,
    claim_of_wrapper,
    constant,
    instance,
    ports,
    side_of_module,
    sources,
    specification,
    width_range,
)


def multiply_claims(design: Design, module: Module) -> Iterator[Claim]:
    """Wherever the exact term is one that operands make, the module's term is it."""
    inputs, outputs = ports(module)
    given = dict(inputs)
    shifts = [name for name in ("shift_i", "activation_shift_i") if name in given]
    steps = " + ".join(["8'd0", *shifts])
    exact = [
        f"wire signed [{WIDE - 1}:0] a = $signed(coefficient_i);",
        f"wire signed [{WIDE - 1}:0] b = $signed(activation_coefficient_i);",
        f"wire [7:0] steps = {steps};",
        f"wire signed [{WIDE - 1}:0] exact = (a * b) <<< steps;",
        f"wire counts = {_within('exact', design.term)}"
        + "".join(f" && {name} <= {limit}" for name, limit in _shift_limits(design, given))
        + ";",
    ]
    yield claim_of_wrapper(
        module,
        "the term is (coefficient * coefficient) << shifts, exact, for all operands in range",
        inputs,
        (("wide_o", WIDE),),
        made=[
            *exact,
            f"wire signed [{dict(outputs)['term_o'] - 1}:0] term_o;",
            instance(module, "u_module", {}),
            f"assign wide_o = counts ? {_extended('term_o', dict(outputs)['term_o'])} : 0;",
        ],
        meant=[*exact, "assign wide_o = counts ? exact : 0;"],
    )


def sum_claims(design: Design, module: Module) -> Iterator[Claim]:
    """Wherever all terms are in range, the module's sum is their exact sum."""
    inputs, outputs = ports(module)
    terms, out = inputs[0][0], outputs[0]
    bits = design.term.bits
    lanes = range(design.block)
    exact = []
    for lane in lanes:
        exact.append(
            f"wire signed [{bits - 1}:0] t{lane} = {terms}[{lane * bits + bits - 1}:{lane * bits}];"
        )
    total = design.total.bits + 2
    exact += [
        f"wire signed [{total - 1}:0] exact = " + " + ".join(f"t{lane}" for lane in lanes) + ";",
        "wire counts = " + " && ".join(_within(f"t{lane}", design.term) for lane in lanes) + ";",
    ]
    yield claim_of_wrapper(
        module,
        f"the sum of {design.block} terms is exact, for all terms in range",
        inputs,
        (("wide_o", total),),
        made=[
            *exact,
            f"wire signed [{out[1] - 1}:0] {out[0]};",
            instance(module, "u_module", {}),
            f"assign wide_o = counts ? {_extended(out[0], out[1], total)} : 0;",
        ],
        meant=[*exact, "assign wide_o = counts ? exact : 0;"],
    )


def decoder_claims(design: Design, module: Module) -> Iterator[Claim]:
    """Both decoders side by side, wired plainly."""
    inputs, outputs = ports(module)
    side = side_of_module(design, module)
    parts = {used.part: used for used in module.uses}
    select = {"select_i": "select_o"} if side.select_in_word else {}
    body = [
        instance(parts["scale_decoder"], "u_scale", {}),
        instance(parts["element_decoder"], "u_element", select),
    ]
    name = f"{module.name}_meant"
    yield Claim(
        subject=module.name,
        statement="it is its scale decoder beside its element decoder, which have own proofs",
        inputs=inputs,
        outputs=outputs,
        files=sources(module) | {"meant.v": specification(name, inputs, outputs, body)},
        made=module.name,
        meant=name,
    )


def dot_claims(design: Design, module: Module) -> Iterator[Claim]:
    """Lane by lane: decode, multiply, and the sum of what counts."""
    inputs, outputs = ports(module)
    name = f"{module.name}_meant"
    yield Claim(
        subject=module.name,
        statement=(
            f"it is {design.block} lanes of decoder and multiplication and their sum, "
            "which have own proofs"
        ),
        inputs=inputs,
        outputs=outputs,
        files=sources(module)
        | {"meant.v": specification(name, inputs, outputs, _dot_body(design, module))},
        made=module.name,
        meant=name,
    )


def _dot_body(design: Design, module: Module) -> list[str]:
    side, activation = design.weights, design.activations.operand
    parts = {used.part: used for used in module.closure}
    element = parts.get("element_decoder") or parts["arithmetic_decoder"]
    bits, total = design.term.bits, design.total.bits
    select = "select_o" if side.select_in_word else "select_i"
    given = dict(ports(module)[0])
    body = [instance(parts["scale_decoder"], "u_scale", {})]
    body.append(f"wire [{design.block * bits - 1}:0] terms;")
    for lane in range(design.block):
        word = {"code_i": _slice("codes_i", lane, side.code_bits)}
        if side.select_bits:
            word["select_i"] = select
        for port in element.outputs:
            body.append(f"wire {width_range(port.width({}))}{port.bare}_{lane};")
            word[port.name] = f"{port.bare}_{lane}"
        body.append(instance(element, f"u_element_{lane}", word))
        a = _slice("activation_coefficients_i", lane, activation.coefficient_bits)
        s = "1'd0"
        if "activation_shifts_i" in given:
            s = _slice("activation_shifts_i", lane, activation.shift_bits)
        body += [
            f"wire signed [{activation.coefficient_bits - 1}:0] a_{lane} = {a};",
            f"wire [{max(activation.shift_bits, 1) - 1}:0] s_{lane} = {s};",
            f"wire counts_{lane} = element_valid_{lane} && s_{lane} <= {activation.max_shift};",
            f"wire signed [{bits - 1}:0] term_{lane};",
            *_term(design, parts, lane),
            f"assign terms[{lane * bits + bits - 1}:{lane * bits}]"
            f" = counts_{lane} ? term_{lane} : {bits}'d0;",
        ]
    body.append("assign sum_valid_o = " + " && ".join(f"counts_{i}" for i in range(design.block)) + ";")
    if "sum" in parts:
        inputs, outputs = ports(parts["sum"])
        body.append(
            instance(parts["sum"], "u_sum", {inputs[0][0]: "terms", outputs[0][0]: "sum_o"})
        )
    else:
        lanes = [f"$signed({_slice('terms', lane, bits)})" for lane in range(design.block)]
        body.append(f"wire signed [{total - 1}:0] exact = " + " + ".join(lanes) + ";")
        body.append("assign sum_o = exact;")
    return body


def _term(design: Design, parts: dict[str, Module], lane: int) -> list[str]:
    """One lane's product: of the module that has its own proof, or plain."""
    shift = design.weights.operand.shift_bits
    if "multiply" in parts:
        connected = {
            "coefficient_i": f"element_coefficient_{lane}",
            "shift_i": f"element_shift_{lane}",
            "activation_coefficient_i": f"a_{lane}",
            "activation_shift_i": f"s_{lane}",
            "term_o": f"term_{lane}",
        }
        return [instance(parts["multiply"], f"u_multiply_{lane}", connected)]
    w = f"$signed(element_coefficient_{lane})"
    steps = f"s_{lane}" + (f" + element_shift_{lane}" if shift else "")
    return [
        f"wire [7:0] steps_{lane} = {steps};",
        f"wire signed [{design.term.bits - 1}:0] wide_{lane} = a_{lane};",
        f"assign term_{lane} = ({w} * wide_{lane}) <<< steps_{lane};",
    ]


def _shift_limits(design: Design, given: dict[str, int]) -> list[tuple[str, int]]:
    limits = [
        ("shift_i", design.weights.operand.max_shift),
        ("activation_shift_i", design.activations.operand.max_shift),
    ]
    return [(name, limit) for name, limit in limits if name in given]


def _within(signal: str, bounds: Bounds) -> str:
    return f"{signal} >= {constant(bounds.low)} && {signal} <= {constant(bounds.high)}"


def _extended(signal: str, bits: int, wide: int = WIDE) -> str:
    return f"{{{{{wide - bits}{{{signal}[{bits - 1}]}}}}, {signal}}}"


def _slice(signal: str, lane: int, bits: int) -> str:
    return f"{signal}[{lane * bits + bits - 1}:{lane * bits}]"
