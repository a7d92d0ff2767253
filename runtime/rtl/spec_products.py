"""Specifications of multiplication, summation and the block dot product, in wide integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...codegen.design import Bounds, Design, Operand
from ...codegen.verilog.module import Module
from .formal import Claim
from .graphs import FALSE, TRUE, Ands, Case
from .specs import (
    Ports,
    claim_of_meant,
    instance,
    ports,
    side_of_module,
    sources,
    specification,
    width_range,
)

#: Multipliers of so many input bits are compared at once; wider ones for every coefficient of an
#: activation, of at most so many bits.
AT_ONCE, MOST_APART = 24, 8


@dataclass(frozen=True)
class Term:
    """A product of coefficients, shifted, by rows of additions of exact integers.

    Of operands out of the range that the formats' words attain it counts as 0; that the widths
    hold all others is a matter of intervals.
    """

    design: Design
    inputs: Ports
    fixed: Mapping[str, int] = field(default_factory=dict)

    def answer(self, given: Mapping[str, int], /) -> Mapping[str, int]:
        """The term in integers."""
        widths = dict(self.inputs)
        a, b = (
            given[name] - (given[name] >> (widths[name] - 1) << widths[name])
            for name in ("coefficient_i", "activation_coefficient_i")
        )
        shifts = [given.get(shift, 0) for _, shift, _ in _operands(self.design)]
        counts = all(
            operand.coefficient.low <= coefficient <= operand.coefficient.high
            and operand.value.low <= coefficient << shift <= operand.value.high
            and shift <= operand.max_shift
            for coefficient, shift, (*_, operand) in zip(
                (a, b), shifts, _operands(self.design), strict=True
            )
        )
        return {"term_o": a * b << sum(shifts) if counts else 0, "counts_o": int(counts)}

    def graph(self) -> bytes:
        """The same as a graph."""
        ands = Ands([port for port in self.inputs if port[0] not in self.fixed])
        words = {
            name: [self.fixed[name] >> i & 1 for i in range(bits)]
            if name in self.fixed
            else ands.port(name, bits)
            for name, bits in self.inputs
        }
        counts, shifts = TRUE, []
        for name, shift, operand in _operands(self.design):
            places = words.get(shift, [])
            value = ands.shifted(words[name], places)
            legal = (
                ands.within(words[name], operand.coefficient.low, operand.coefficient.high),
                ands.within(value, operand.value.low, operand.value.high),
                ands.within([*places, FALSE], 0, operand.max_shift),
            )
            counts = ands.every([counts, *legal])
            shifts.append(places)
        a, b = words["coefficient_i"], words["activation_coefficient_i"]
        term = ands.multiply(a, b, len(a) + len(b))
        for places in shifts:
            term = ands.shifted(term, places)
        bits = self.design.term.bits
        low = [*term[:bits], *[term[-1]] * (bits - len(term))]
        return ands.file({"term_o": [ands.both(counts, bit) for bit in low], "counts_o": [counts]})


@dataclass(frozen=True)
class Sum:
    """The sum of all lanes of a port, modulo the width of the result."""

    port: tuple[str, int]
    out: tuple[str, int]
    lanes: int

    def answer(self, given: Mapping[str, int], /) -> Mapping[str, int]:
        """The sum in integers."""
        bits = self.port[1] // self.lanes
        terms = [given[self.port[0]] >> lane * bits & (1 << bits) - 1 for lane in range(self.lanes)]
        return {self.out[0]: sum(term - (term >> (bits - 1) << bits) for term in terms)}

    def graph(self) -> bytes:
        """The same as a graph."""
        ands = Ands((self.port,))
        bits = self.port[1] // self.lanes
        word = ands.port(*self.port)
        terms = []
        for lane in range(self.lanes):
            term = word[lane * bits : (lane + 1) * bits]
            terms.append(term + [term[-1]] * (self.out[1] - bits))
        # In pairs, as sums of integers may be: graphs of chains and trees are hard to compare.
        while len(terms) > 1:
            rest = terms[len(terms) & ~1 :]
            terms = [ands.add(a, b) for a, b in zip(terms[::2], terms[1::2], strict=False)] + rest
        return ands.file({self.out[0]: terms[0]})


def multiply_claims(design: Design, module: Module) -> Iterator[Claim]:
    """Of all operands in range the module gives the exact term."""
    inputs, outputs = ports(module)
    activation = ("activation_coefficient_i", dict(inputs)["activation_coefficient_i"])
    # Wide multipliers are compared one activation at a time, all of them.
    apart = sum(bits for _, bits in inputs) > AT_ONCE and activation[1] <= MOST_APART
    fixed = [{activation[0]: value} for value in range(1 << activation[1] if apart else 0)]
    shown = (*outputs, ("counts_o", 1))
    name = f"{module.name}_made"
    body: list[str] = []
    given, legal = dict(inputs), []
    for coefficient, shift, operand in _operands(design):
        wide = given[coefficient] + operand.max_shift + 2
        value = f"{coefficient.removesuffix('_i')}_value"
        places = shift if shift in given else "1'd0"
        body += [
            f"wire signed [{wide - 1}:0] {value}_c = $signed({coefficient});",
            f"wire signed [{wide - 1}:0] {value} = {value}_c <<< {places};",
        ]
        legal += [
            _within(f"{value}_c", operand.coefficient, wide),
            _within(value, operand.value, wide),
            f"{places} <= {operand.max_shift}",
        ]
    body += [
        f"wire [{design.term.bits - 1}:0] term;",
        instance(module, "u_module", {"term_o": "term"}),
        f"assign counts_o = {' && '.join(legal)};",
        "assign term_o = counts_o ? term : 0;",
    ]
    yield Claim(
        subject=module.name,
        statement="the term is the shifted product, exact, for all operands in range",
        inputs=inputs,
        outputs=shown,
        files=sources(module) | {"made.v": specification(name, inputs, shown, body)},
        made=name,
        meant=None if apart else Term(design, inputs),
        cases=tuple(Case(one, Term(design, inputs, one)) for one in fixed),
    )


def sum_claims(design: Design, module: Module) -> Iterator[Claim]:
    """The module's sum is the plain one; that its width holds it is a matter of intervals."""
    inputs, outputs = ports(module)
    if not _fits(design.total, design.total.low) or design.total != design.term.repeated(
        design.block
    ):
        raise ValueError(f"{module.name} is too narrow for {design.block} terms")
    yield Claim(
        subject=module.name,
        statement=f"the sum of {design.block} terms is exact, for all terms",
        inputs=inputs,
        outputs=outputs,
        files=sources(module),
        made=module.name,
        meant=Sum(inputs[0], outputs[0], design.block),
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
    statement = "it is its scale decoder beside its element decoder, which have own proofs"
    yield claim_of_meant(module, statement, inputs, outputs, body)


def dot_claims(design: Design, module: Module) -> Iterator[Claim]:
    """Lane by lane: decode and multiply; the sum, which means nothing where a code is no number."""
    inputs, outputs = ports(module)
    statement = (
        f"it is {design.block} lanes of decoder and multiplication and their sum, "
        "which have own proofs"
    )
    yield claim_of_meant(module, statement, inputs, outputs, _dot_body(design, module))


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
            f"assign terms[{lane * bits + bits - 1}:{lane * bits}] = term_{lane};",
        ]
    body.append(
        "assign sum_valid_o = " + " && ".join(f"counts_{i}" for i in range(design.block)) + ";"
    )
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


def _operands(design: Design) -> tuple[tuple[str, str, Operand], ...]:
    """The ports of both coefficients and of their shifts, with what they carry."""
    return (
        ("coefficient_i", "shift_i", design.weights.operand),
        ("activation_coefficient_i", "activation_shift_i", design.activations.operand),
    )


def _fits(bounds: Bounds, value: int) -> bool:
    half = 1 << (bounds.bits - 1)
    return -half <= value < half


def _within(signal: str, bounds: Bounds, wide: int) -> str:
    low = f"-{wide}'sd{-bounds.low}" if bounds.low < 0 else f"{wide}'sd{bounds.low}"
    return f"{signal} >= {low} && {signal} <= {wide}'sd{bounds.high}"


def _slice(signal: str, lane: int, bits: int) -> str:
    return f"{signal}[{lane * bits + bits - 1}:{lane * bits}]"
