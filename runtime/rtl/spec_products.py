"""Specifications of multiplication, summation and the block dot product, in wide integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...codegen.design import Bounds, Design
from ...codegen.verilog.module import Module
from .formal import Claim
from .graphs import FALSE, Ands, Case
from .specs import (
    Ports,
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

    Where operands that the formats do not have make more than the widths hold, it counts as 0.
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
        term = a * b << given.get("shift_i", 0) + given.get("activation_shift_i", 0)
        counts = _fits(self.design.product, a * b) and _fits(self.design.term, term)
        counts = counts and all(given[n] <= limit for n, limit in _limits(self.design, widths))
        return {"term_o": term if counts else 0, "counts_o": int(counts)}

    def graph(self) -> bytes:
        """The same as a graph."""
        ands = Ands([port for port in self.inputs if port[0] not in self.fixed])
        widths = dict(self.inputs)
        words = {
            name: [self.fixed[name] >> i & 1 for i in range(bits)]
            if name in self.fixed
            else ands.port(name, bits)
            for name, bits in self.inputs
        }
        a, b = words["coefficient_i"], words["activation_coefficient_i"]
        product = ands.multiply(a, b, len(a) + len(b))
        limits = _limits(self.design, widths)
        width = len(product) + sum((1 << widths[name]) - 1 for name, _ in limits)
        term = product + [product[-1]] * (width - len(product))
        counts = _is_narrow(ands, product, self.design.product.bits)
        for name, limit in limits:
            shift = words[name]
            for place, bit in enumerate(shift):
                moved = ([FALSE] * (1 << place) + term)[:width]
                term = ands.pick(bit, moved, term)
            within = range(limit + 1)
            counts = ands.both(counts, ands.some(ands.equals(shift, v) for v in within))
        counts = ands.both(counts, _is_narrow(ands, term, self.design.term.bits))
        low = term[: self.design.term.bits]
        low += [term[-1]] * (self.design.term.bits - len(low))
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
    """Wherever the widths hold the exact term, the module's term is it."""
    inputs, outputs = ports(module)
    activation = ("activation_coefficient_i", dict(inputs)["activation_coefficient_i"])
    # Wide multipliers are compared one activation at a time, all of them.
    apart = sum(bits for _, bits in inputs) > AT_ONCE and activation[1] <= MOST_APART
    fixed = [{activation[0]: value} for value in range(1 << activation[1] if apart else 0)]
    shown = (*outputs, ("counts_o", 1))
    name = f"{module.name}_made"
    widths = dict(inputs)
    a, b = widths["coefficient_i"], widths["activation_coefficient_i"]
    limits = _limits(design, widths)
    room = a + b + sum((1 << widths[port]) - 1 for port, _ in limits)
    steps = " + ".join([f"{room}'d0", *[port for port, _ in limits]])
    body = [
        f"wire signed [{a + b - 1}:0] x = $signed(coefficient_i);",
        f"wire signed [{a + b - 1}:0] y = $signed(activation_coefficient_i);",
        f"wire signed [{a + b - 1}:0] product = x * y;",
        f"wire signed [{room - 1}:0] wide = product;",
        f"wire signed [{room - 1}:0] exact = wide <<< ({steps});",
        f"wire [{design.term.bits - 1}:0] term;",
        instance(module, "u_module", {"term_o": "term"}),
        f"assign counts_o = {_narrow('product', a + b, design.product.bits)}"
        f" && {_narrow('exact', room, design.term.bits)}"
        + "".join(f" && {port} <= {limit}" for port, limit in limits)
        + ";",
        "assign term_o = counts_o ? term : 0;",
    ]
    yield Claim(
        subject=module.name,
        statement="the term is (coefficient * coefficient) << shifts, exact, where widths hold it",
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
    """Lane by lane: decode and multiply; the sum, which means nothing where a code is no number."""
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


def _limits(design: Design, given: Mapping[str, int]) -> list[tuple[str, int]]:
    """The ports of shifts, and the largest shift of each."""
    limits = [
        ("shift_i", design.weights.operand.max_shift),
        ("activation_shift_i", design.activations.operand.max_shift),
    ]
    return [(name, limit) for name, limit in limits if name in given]


def _fits(bounds: Bounds, value: int) -> bool:
    half = 1 << (bounds.bits - 1)
    return -half <= value < half


def _is_narrow(ands: Ands, word: Sequence[int], bits: int) -> int:
    """Whether a word is a number of so many bits: all bits above are its sign."""
    high = word[bits - 1 :]
    return ands.either(ands.every(high), ands.some(high) ^ 1)


def _narrow(signal: str, width: int, bits: int) -> str:
    """The same in Verilog."""
    if bits >= width:
        return "1'b1"
    return f"(&{signal}[{width - 1}:{bits - 1}] || ~|{signal}[{width - 1}:{bits - 1}])"


def _slice(signal: str, lane: int, bits: int) -> str:
    return f"{signal}[{lane * bits + bits - 1}:{lane * bits}]"
