"""Specifications of the encoder: what the oracle's rationals choose, as steps of one magnitude.

A code is a monotone function of an element's magnitude, and a scale word one of the peak's. Where
it steps is found by halving, with the oracle for an answer: nothing here knows a threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ...codegen.design import Design
from ...codegen.verilog.module import Module
from ...codegen.verilog.parts.encoder import encoder
from ...codegen.verilog.parts.encoder_plan import encoder_plan
from ...compiler.exact import floor_log2, fp32_from_bits
from ...compiler.format import Format
from ..verify import oracle
from .formal import Claim
from .graphs import FALSE, Ands, Case
from .specs import constant, instance, ports, sources, specification, width_range

#: A binary32 magnitude whose exponent is all ones is no finite number.
_INFINITE = 0xFF << 23

#: Elements of the blocks whose peak is proven.
PEAK_LANES = 8

#: What a module answers to an input of ``bits`` bits: values of outputs from its least on.
_Steps = Sequence[tuple[int, Mapping[str, int]]]


def steps(answer: Callable[[int], Mapping[str, int]], last: int) -> _Steps:
    """The runs of equal answers from 0 to ``last``; a stretch with equal ends is all equal."""
    found: list[tuple[int, Mapping[str, int]]] = [(0, answer(0))]

    def halve(low: int, first: Mapping[str, int], high: int, end: Mapping[str, int]) -> None:
        if first == end:
            return
        if high - low == 1:
            found.append((high, end))
            return
        middle = (low + high) // 2
        between = answer(middle)
        halve(low, first, middle, between)
        halve(middle, between, high, end)

    halve(0, found[0][1], last, answer(last))
    return found


@dataclass(frozen=True)
class Stepped:
    """Outputs that follow from one input, by steps of its lower bits and by its sign.

    Attributes:
        port: the input, ``bits`` wide, the sign above its ``size`` lower bits if ``signed``.
        outputs: (port, bits).
        branches: the steps, without and with the sign.
        beyond: magnitudes from here on are no numbers, and all outputs 0.
    """

    port: str
    bits: int
    size: int
    outputs: tuple[tuple[str, int], ...]
    branches: tuple[_Steps, ...]
    beyond: int

    def answer(self, given: Mapping[str, int], /) -> Mapping[str, int]:
        """A value for every output."""
        value = given[self.port]
        magnitude = value & (1 << self.size) - 1
        if magnitude >= self.beyond:
            return {name: 0 for name, _ in self.outputs}
        runs = self.branches[value >> self.size & 1 if len(self.branches) > 1 else 0]
        return [answer for first, answer in runs if first <= magnitude][-1]

    def graph(self) -> bytes:
        """A binary AIGER file."""
        ands = Ands(((self.port, self.bits),))
        word = ands.port(self.port, self.bits)
        size, sign = word[: self.size], word[self.size :]
        made = [self._branch(ands, size, runs) for runs in self.branches]
        inside = _at_least(ands, size, self.beyond) ^ 1
        found = {}
        for name, _ in self.outputs:
            chosen = made[0][name]
            if len(made) > 1:
                chosen = ands.pick(sign[0], made[1][name], chosen)
            found[name] = [ands.both(bit, inside) for bit in chosen]
        return ands.file(found)

    def _branch(self, ands: Ands, size: Sequence[int], runs: _Steps) -> dict[str, list[int]]:
        found = {name: [FALSE] * bits for name, bits in self.outputs}
        for first, answer in runs:
            reached = _at_least(ands, size, first)
            for name, bits in self.outputs:
                literals = [answer[name] >> i & 1 for i in range(bits)]
                found[name] = ands.pick(reached, literals, found[name])
        return found


def _at_least(ands: Ands, word: Sequence[int], value: int) -> int:
    """Whether an unsigned word is at least this number."""
    found = 1
    for place, bit in enumerate(word):
        found = ands.both(bit, found) if value >> place & 1 else ands.either(bit, found)
    return found if value >> len(word) == 0 else FALSE


# -- one element ---------------------------------------------------------------------------


def lane_claims(design: Design, module: Module) -> Iterator[Claim]:
    """The code of every finite element, under every significand of a scale and either sign.

    The scale's exponent is the least, a middle and the largest that a lane is given.
    """
    fmt = design.activations.fmt
    inputs, outputs = ports(module)
    widths = dict(inputs)
    lane = encoder_plan(fmt).lane
    low, high = lane.unit_exponents
    top = 1 << lane.scale_bits - 1
    cases = []
    for exponent in sorted({low, (low + high) // 2, high}):
        for significand in range(top, 2 * top):
            for negative in range(1 + ("scale_negative_i" in widths)):
                scale = Fraction(significand, top) * Fraction(2) ** (
                    exponent - 127 - lane.grid.unit
                )
                every = {
                    "unit_exponent_i": exponent,
                    "scale_significand_i": significand,
                    "scale_negative_i": negative,
                }
                fixed = {name: value for name, value in every.items() if name in widths}
                cases.append(Case(fixed, _codes(fmt, float(-scale if negative else scale))))
    name = f"{module.name}_of_numbers"
    body = [
        f"wire {width_range(fmt.code_bits)}code;",
        instance(module, "u_lane", {"code_o": "code"}),
        f"assign code_o = &value_i[30:23] ? {fmt.code_bits}'d0 : code;",
    ]
    yield Claim(
        subject=module.name,
        statement="the code of every finite element, by the oracle's rationals, at the least, a "
        "middle and the largest exponent of a scale and at all of its significands",
        inputs=inputs,
        outputs=outputs,
        files=sources(module) | {"numbers.v": specification(name, inputs, outputs, body)},
        made=name,
        cases=tuple(cases),
    )


def _codes(fmt: Format, scale: float) -> Stepped:
    """The codes of all elements under a scale."""

    def code(sign: int) -> Callable[[int], Mapping[str, int]]:
        return lambda bits: {
            "code_o": oracle.code_of(fmt, 0, fp32_from_bits(sign << 31 | bits), scale)
        }

    branches = tuple(steps(code(sign), _INFINITE - 1) for sign in (0, 1))
    return Stepped("value_i", 32, 31, (("code_o", fmt.code_bits),), branches, _INFINITE)


# -- the scale -----------------------------------------------------------------------------


def scale_word_claims(design: Design, module: Module) -> Iterator[Claim]:
    """The scale of every finite peak: its word, and what lanes are told of it.

    Where the tensor has a power of two of its own, that is the least, -1, 0, 1 and the largest.
    """
    fmt = design.activations.fmt
    inputs, outputs = ports(module)
    widths = dict(inputs)
    if "peak_i" not in widths:  # two sides, of which either may decide: benches try them
        return
    plan = encoder_plan(fmt).scale
    offsets = (plan.least_offset, -1, 0, 1, 126) if "exponent_offset_i" in widths else (0,)
    cases = []
    for offset in offsets:
        for negative in range(1 + ("peak_negative_i" in widths)):
            every = {"exponent_offset_i": offset, "peak_negative_i": negative, "nan_i": 0}
            fixed = {name: value for name, value in every.items() if name in widths}
            meant = _scales(fmt, widths["peak_i"], outputs, offset, negative=bool(negative))
            cases.append(Case(fixed, meant))
    name = f"{module.name}_of_numbers"
    wires = [f"wire {width_range(bits)}{port[:-2]};" for port, bits in outputs]
    top = widths["peak_i"] - 1
    body = [
        *wires,
        instance(module, "u_scale", {port: port[:-2] for port, _ in outputs}),
        *(
            f"assign {port} = &peak_i[{top}:{top - 7}] ? {constant(0)} : {port[:-2]};"
            for port, _ in outputs
        ),
    ]
    yield Claim(
        subject=module.name,
        statement="the scale of every finite peak, by the oracle's rationals",
        inputs=inputs,
        outputs=outputs,
        files=sources(module) | {"numbers.v": specification(name, inputs, outputs, body)},
        made=name,
        cases=tuple(cases),
    )


def _scales(
    fmt: Format, bits: int, outputs: tuple[tuple[str, int], ...], offset: int, *, negative: bool
) -> Stepped:
    """What follows from a peak, whose lowest bit stands for all that were left out."""
    dropped = 31 - bits
    names = {name for name, _ in outputs}

    def answer(peak: int) -> Mapping[str, int]:
        # Any bits that were left out mean the same: here the lowest one of them.
        magnitude = peak >> 1 << dropped + 1 | peak & 1 if dropped else peak
        x = fp32_from_bits(int(negative) << 31 | magnitude)
        block = [x, *[0.0] * (fmt.block - 1)]
        fields, _ = oracle.encode_tensor(fmt, [block], oracle.Level(1.0, -offset))
        told = _told(fmt, fields["scales"][0][0], offset)
        return {name: value for name, value in told.items() if name in names}

    beyond = 0xFF << bits - 8
    runs = steps(answer, beyond - 1)
    return Stepped("peak_i", bits, bits, outputs, (runs,), beyond)


def _told(fmt: Format, word: int, offset: int) -> dict[str, int]:
    """A scale word and what lanes are told of it; a scale of 0 counts as 1."""
    lane = encoder_plan(fmt).lane
    value = oracle.word_value(fmt.scale.word, word)
    size = abs(Fraction(value)) * Fraction(2) ** offset or Fraction(1)
    exponent = floor_log2(size)
    return {
        "scale_word_o": word,
        "scale_negative_o": int(value < 0),
        "scale_significand_o": int(size / Fraction(2) ** exponent * (1 << lane.scale_bits - 1)),
        "unit_exponent_o": exponent + 127 + lane.grid.unit,
        "invalid_o": 0,
    }


# -- the peak, and all together ------------------------------------------------------------


def peak_claims(design: Design, module: Module) -> Iterator[Claim]:
    """Of finite elements: they pass as they are, and the peak is the largest of all magnitudes.

    A longer block's tree is compared in a block of PEAK_LANES: the generator knows lengths as
    levels alone, and solvers do not end over 32 elements.
    """
    fmt = design.activations.fmt
    subject, lanes = module.name, min(fmt.block, PEAK_LANES)
    if lanes < fmt.block:
        fmt = replace(fmt, block=lanes)
        module = next(m for m in encoder(fmt).closure if m.part == module.part)
    inputs, outputs = ports(module)
    widths = dict(outputs)
    if "peak_o" not in widths or "peak_negative_o" in widths:
        return  # which of several peaks comes first is left to the benches
    bits = widths["peak_o"]
    dropped = 31 - bits
    made, meant = f"{module.name}_of_numbers", f"{module.name}_meant"
    results = (("values_o", 32 * lanes), ("peak_o", bits), ("invalid_o", 1))
    finite = " && ".join(f"!(&values_i[{32 * i + 30}:{32 * i + 23}])" for i in range(lanes))
    wires = [f"wire {width_range(size)}{port[:-2]};" for port, size in outputs]
    shown = [f"assign {port} = finite ? {port[:-2]} : {constant(0)};" for port, _ in results]
    top = [
        *wires,
        instance(module, "u_peak", {port: port[:-2] for port, _ in outputs}),
        f"wire finite = {finite};",
        *shown,
    ]
    size = "values_i[32*lane +: 31]"
    if dropped:
        low = dropped + 1
        size = f"{{values_i[32*lane + {low} +: {bits - 1}], |values_i[32*lane +: {low}]}}"
    spec = [
        "integer lane;",
        f"reg [{bits - 1}:0] most;",
        "always @* begin",
        f"  most = {bits}'d0;",
        f"  for (lane = 0; lane < {lanes}; lane = lane + 1)",
        f"    if ({size} > most) most = {size};",
        "end",
        f"wire finite = {finite};",
        f"assign values_o = finite ? values_i : {constant(0)};",
        f"assign peak_o = finite ? most : {constant(0)};",
        "assign invalid_o = 1'b0;",
    ]
    yield Claim(
        subject=subject,
        statement=f"{lanes} finite elements pass, and the peak is the largest magnitude",
        inputs=inputs,
        outputs=results,
        files=sources(module)
        | {
            "numbers.v": specification(made, inputs, results, top),
            "meant.v": specification(meant, inputs, results, spec),
        },
        made=made,
        meant=meant,
    )
