"""Specifications of the scaled accumulate: exact integers, rounded once, one exponent at a time.

The product of a block's sum and both significands is plain ``*``. Addition and rounding are
compared with an exact sum of hundreds of bits that is rounded as IEEE 754-2019 says it, under
given exponents of the product and of the accumulator: every sign, every significand and every
flag, in every case. Which exponents are tried is in the claim; all others are simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...codegen.design import Design
from ...codegen.verilog.module import Module
from ...codegen.verilog.parts.scale_steps import Step, scale_step
from ...compiler.exact import fp32_bits, fp32_from_bits, round_fp32
from .formal import Claim
from .graphs import FALSE, TRUE, Ands, Case
from .specs import (
    Ports,
    claim_of_meant,
    claim_of_wrapper,
    instance,
    ports,
    sources,
    specification,
)

#: Pairs of exponents that are always tried: sums of two alike, either one much larger, either one
#: just out of reach, an accumulator of zero, subnormal sums, sums that overflow, and a special
#: accumulator.
PAIRS = ((127, 127), (132, 127), (120, 127), (90, 127), (170, 127), (127, 0), (-30, 0), (9, 1),
         (254, 254), (255, 3), (127, 255))  # fmt: skip
#: Accumulators' exponent fields that every distance is tried at in the long proof.
FIELDS = (0, 1, 127, 254)
NAN, INFINITY = 0x7FC00000, 0x7F800000


@dataclass(frozen=True)
class RoundedSum:
    """The result of addition and rounding under one product exponent and one accumulator field.

    A legal input is one that ``scale_product`` makes: it is flagged as zero if it is. Of any other
    the result counts as 0.
    """

    step: Step
    exponent: int
    field: int

    @property
    def inputs(self) -> Ports:
        """The inputs that are not fixed."""
        step = self.step
        infinity = (("product_infinity_i", 1),) if step.infinities else ()
        return (
            ("product_i", step.product_bits),
            ("product_negative_i", 1),
            ("product_zero_i", 1),
            ("product_nan_i", 1),
            *infinity,
            ("accumulator_sign_i", 1),
            ("accumulator_fraction_i", 23),
        )

    @property
    def lowest(self) -> int:
        """The exponent of the product's lowest bit."""
        return self.exponent - self.step.product_bits - 126

    def answer(self, given: Mapping[str, int], /) -> Mapping[str, int]:
        """The result in rationals."""
        if (given["product_i"] == 0) != bool(given["product_zero_i"]):
            return {"result_o": 0}
        return {"result_o": self._rounded(given, given["product_i"])}

    def _rounded(self, given: Mapping[str, int], integer: int) -> int:
        sign = given["accumulator_sign_i"]
        word = sign << 31 | self.field << 23 | given["accumulator_fraction_i"]
        broken = self.field == 255 and given["accumulator_fraction_i"] > 0
        infinite = given.get("product_infinity_i", 0), self.field == 255 and not broken
        opposed = all(infinite) and given["product_negative_i"] != sign
        if given["product_nan_i"] or broken or opposed:
            return NAN
        if any(infinite):
            return (sign if infinite[1] else given["product_negative_i"]) << 31 | INFINITY
        product = (-integer if given["product_negative_i"] else integer) * Fraction(
            2
        ) ** self.lowest
        total = Fraction(fp32_from_bits(word)) + product
        if total == 0:
            both = integer == 0 and word & 0x7FFFFFFF == 0
            return (both and given["product_negative_i"] & sign) << 31
        return fp32_bits(round_fp32(abs(total))) | (total < 0) << 31

    def graph(self) -> bytes:
        """The same as a graph, of an exact sum that is wide enough for both."""
        ands = Ands(self.inputs)
        get = {name: ands.port(name, bits) for name, bits in self.inputs}
        product = get["product_i"]
        negative, zero, nan = (get[f"product_{name}_i"][0] for name in ("negative", "zero", "nan"))
        (sign,), fraction = get["accumulator_sign_i"], get["accumulator_fraction_i"]
        is_zero = ands.some(product) ^ 1
        legal = ands.differ(is_zero, zero) ^ 1
        if self.field == 255:
            word = self._special(ands, get)
        else:
            number = self._sum(ands, product, negative, sign, fraction)
            # Zeros add up to the zero of both signs; whatever else cancels is +0.
            clear = ands.every([zero, *[bit ^ 1 for bit in fraction]]) if self.field == 0 else FALSE
            exactly_zero = number.pop()
            kept = ands.every([clear, negative, sign])
            number[31] = ands.choose(exactly_zero, kept, number[31])
            if "product_infinity_i" in get:
                infinity = [*_constant(INFINITY, 31), negative]
                number = ands.pick(get["product_infinity_i"][0], infinity, number)
            word = ands.pick(nan, _constant(NAN, 32), number)
        return ands.file({"result_o": [ands.both(legal, bit) for bit in word]})

    def _special(self, ands: Ands, get: Mapping[str, Sequence[int]]) -> list[int]:
        """The accumulator is an infinity or NaN."""
        (sign,) = get["accumulator_sign_i"]
        nan = ands.either(get["product_nan_i"][0], ands.some(get["accumulator_fraction_i"]))
        if "product_infinity_i" in get:
            opposed = ands.differ(get["product_negative_i"][0], sign)
            nan = ands.either(nan, ands.both(get["product_infinity_i"][0], opposed))
        return ands.pick(nan, _constant(NAN, 32), [*_constant(INFINITY, 31), sign])

    def _sum(
        self, ands: Ands, product: Sequence[int], negative: int, sign: int, fraction: Sequence[int]
    ) -> list[int]:
        """The rounded sum of product and accumulator, both finite, and whether it is zero."""
        accumulator = [*fraction, TRUE if self.field else FALSE]
        base = min(self.lowest, -149)
        places = self.lowest - base, max(self.field, 1) - 150 - base
        width = max(places[0] + len(product), places[1] + len(accumulator)) + 2
        words = []
        for word, place, minus in (
            (product, places[0], negative),
            (accumulator, places[1], sign),
        ):
            wide = [FALSE] * place + list(word) + [FALSE] * (width - place - len(word))
            words.append(ands.turned(wide, minus))
        total = ands.add(words[0], words[1])
        magnitude = ands.turned(total, total[-1])[:-1]
        return [*_round(ands, magnitude, base), total[-1], ands.some(total) ^ 1]


def _round(ands: Ands, magnitude: Sequence[int], base: int) -> list[int]:
    """31 bits of binary32, of a number whose lowest bit is 2^base: to nearest, ties to even."""
    significand, bias = [FALSE] * 24, [FALSE] * 8
    half = rest = huge = above = FALSE
    for top in range(len(magnitude) - 1, -1, -1):
        here = ands.both(magnitude[top], above ^ 1)
        above = ands.either(above, magnitude[top])
        # The place of the last bit that is kept: that of the least subnormal number at least.
        last = max(top - 23, -149 - base)
        kept = [magnitude[i] if i <= top else FALSE for i in range(last, last + 24)]
        exponent = top + base + 127
        significand = ands.pick(here, kept, significand)
        half = ands.choose(here, magnitude[last - 1] if 0 < last <= top + 1 else FALSE, half)
        rest = ands.choose(here, ands.some(magnitude[: min(max(0, last - 1), top + 1)]), rest)
        huge = ands.choose(here, TRUE if exponent > 254 else FALSE, huge)
        bias = ands.pick(here, _constant(min(max(exponent - 1, 0), 255), 8), bias)
    up = ands.both(half, ands.either(rest, significand[0]))
    rounded = ands.add([*significand, *[FALSE] * 8], [*[FALSE] * 23, *bias, FALSE], up)
    overflow = ands.either(huge, ands.every(rounded[23:31]))
    return ands.pick(overflow, _constant(INFINITY, 31), rounded[:31])


def _constant(value: int, bits: int) -> list[int]:
    return [TRUE if value >> i & 1 else FALSE for i in range(bits)]


def rounding_claim(design: Design, module: Module, pairs: Sequence[tuple[int, int]]) -> Claim:
    """Addition and rounding are exact and rounded once, under these pairs of exponents.

    Args:
        design: of the module.
        module: ``scale_apply`` or ``scale_pipeline``, which uses both steps.
        pairs: (exponent of the product's top bit, accumulator's exponent field), biased by 127.
    """
    step = scale_step(design)
    parts = {used.part: used for used in module.uses}
    align, rounding = parts["align_add"], parts["normalize_round"]
    cases = tuple(
        Case(
            {"product_exponent_i": exponent, "accumulator_field_i": field},
            RoundedSum(step, exponent, field),
        )
        for exponent, field in pairs
    )
    inputs = (
        *RoundedSum(step, *pairs[0]).inputs,
        ("product_exponent_i", step.exponent.bits),
        ("accumulator_field_i", 8),
    )
    name = f"{module.name}_made"
    wires = [f"wire {port.vector} {port.bare};".replace("  ", " ") for port in align.outputs]
    body = [
        (
            "wire [31:0] accumulator_i = "
            "{accumulator_sign_i, accumulator_field_i, accumulator_fraction_i};"
        ),
        "wire [31:0] result;",
        *wires,
        instance(align, "u_align_add", {port.name: port.bare for port in align.outputs}),
        instance(
            rounding,
            "u_round",
            {port.name: port.bare for port in rounding.inputs} | {"result_o": "result"},
        ),
        f"wire legal = (product_i == {step.product_bits}'d0) == product_zero_i;",
        "assign result_o = legal ? result : 32'd0;",
    ]
    outputs = (("result_o", 32),)
    return Claim(
        subject=module.name,
        statement=(
            f"sum and product are added exactly and rounded once, for {len(pairs)} pairs of "
            "exponents: every significand, sign and flag"
        ),
        inputs=inputs,
        outputs=outputs,
        files=sources(align, rounding) | {"made.v": specification(name, inputs, outputs, body)},
        made=name,
        cases=cases,
    )


def long_pairs(step: Step) -> list[tuple[int, int]]:
    """Every distance at which both operands meet in the window, at FIELDS, and a few beyond."""
    reach = range(-step.window - 2, step.window + 3)
    pairs = [(max(field, 1) + distance, field) for field in FIELDS for distance in reach]
    low, high = step.exponent.low, step.exponent.high
    return [*pairs, (low, 0), (low, 127), (high, 0), (high, 254), (127, 255)]


def long_claim(design: Design, module: Module) -> Claim:
    """Addition and rounding at every distance of the exponents."""
    step = scale_step(design)
    return rounding_claim(design, module, [p for p in long_pairs(step) if _has(step, p)])


def product_claims(design: Design, module: Module) -> Iterator[Claim]:
    """The product is the plain one, its exponent the sum of all exponents, and its flags agree."""
    step = scale_step(design)
    inputs, outputs = ports(module)
    wide = 40
    left, right = step.left, step.right
    terms = [
        f"{{1'b0, {left.prefix}_exponent_i}}",
        f"{{1'b0, {right.prefix}_exponent_i}}",
        "exponent_offset_i",
    ]
    exact = [f"wire signed [{wide - 1}:0] e{i} = $signed({term});" for i, term in enumerate(terms)]
    constant = step.unit - left.bias - right.bias + step.product_bits + 126
    most = f"{left.prefix}_exponent_i <= {left.greatest} && {right.prefix}_exponent_i <= "
    exact += [
        f"wire signed [{wide - 1}:0] exponent = e0 + e1 + e2 + ({constant});",
        f"wire signed [{step.total.bits - 1}:0] s = sum_i;",
        f"wire counts = {most}{right.greatest} && s >= {step.total.low} && s <= {step.total.high};",
        # -s is ~s + 1: written so, multipliers need not be compared.
        (
            f"wire [{step.size_bits - 1}:0] magnitude ="
            f" (sum_i[{step.size_bits - 1}:0] ^ {{{step.size_bits}{{s < 0}}}})"
            f" + {{{step.size_bits - 1}'d0, s < 0}};"
        ),
        f"wire [{step.product_bits - 1}:0] size = magnitude;",
        f"wire [{step.pair_bits - 1}:0] l = {left.prefix}_significand_i;",
        f"wire [{step.pair_bits - 1}:0] r = {right.prefix}_significand_i;",
        f"wire [{step.pair_bits - 1}:0] p = l * r;",
        f"wire [{step.product_bits - 1}:0] pair = p;",
        f"wire [{step.product_bits - 1}:0] product = size * pair;",
    ]
    flags = [(name, bits) for name, bits in outputs if bits == 1]
    # No product overflows: its width is that of the range of all of them.
    shown = (("product_wide_o", step.product_bits), ("exponent_wide_o", wide), *flags)
    bits = dict(outputs)["product_exponent_o"]
    made = [
        *exact,
        f"wire [{bits - 1}:0] found;",
        f"wire [{step.product_bits - 1}:0] size_found;",
        instance(module, "u_module", {"product_exponent_o": "found", "product_o": "size_found"}),
        "assign product_wide_o = counts ? size_found : 0;",
        f"assign exponent_wide_o = counts ? {{{{{wide - bits}{{found[{bits - 1}]}}}}, found}} : 0;",
    ]
    infinite = " | ".join(f"{prefix}_infinity_i" for prefix in step.infinities) or "1'b0"
    nan = f"!sum_valid_i || {left.prefix}_nan_i || {right.prefix}_nan_i"
    zero = f"s == 0 || {left.prefix}_zero_i || {right.prefix}_zero_i"
    meaning = {
        "product_negative_o": f"(s < 0) != ({left.prefix}_sign_i != {right.prefix}_sign_i)",
        "product_zero_o": zero,
        "product_infinity_o": infinite,
        "product_nan_o": f"{nan} || (({infinite}) && ({zero}))",
    }
    meant = [
        *exact,
        "assign product_wide_o = counts ? product : 0;",
        "assign exponent_wide_o = counts ? exponent : 0;",
        *[f"assign {name} = {meaning[name]};" for name, _ in flags],
    ]
    yield claim_of_wrapper(
        module,
        "the product of sum and significands is exact, and so is its exponent",
        inputs,
        shown,
        made,
        meant,
    )


def apply_claims(design: Design, module: Module) -> Iterator[Claim]:
    """The three steps wired plainly; what the last two compute together."""
    yield _wired(module, "scale_apply")
    step = scale_step(design)
    yield rounding_claim(design, module, [pair for pair in PAIRS if _has(step, pair)])


def pipeline_claims(design: Design, module: Module) -> Iterator[Claim]:
    """With its registers as wires, a pipeline is the three steps wired plainly."""
    del design
    yield _wired(module, "scale_pipeline")


def _has(step: Step, pair: tuple[int, int]) -> bool:
    return step.exponent.low <= pair[0] <= step.exponent.high


def _wired(module: Module, part: str) -> Claim:
    parts = {used.part.removeprefix("output_"): used for used in module.uses}
    product, align, rounding = (
        parts[name] for name in ("scale_product", "align_add", "normalize_round")
    )
    clocked = module.clocked
    defaults: Mapping[str, int] = {}
    inputs = tuple((p.name, p.width(defaults)) for p in module.inputs)
    outputs = tuple((p.name, p.width(defaults)) for p in module.outputs)
    crossing = (*product.outputs, *align.outputs)
    body = [
        *[f"wire{port.vector} {port.bare};" for port in crossing],
        instance(product, "u_product", {p.name: p.bare for p in product.outputs}),
        instance(align, "u_align", {p.name: p.bare for p in (*product.outputs, *align.outputs)}
                 | {p.bare + "_i": p.bare for p in product.outputs}),
        instance(rounding, "u_round", {p.bare + "_i": p.bare for p in align.outputs}),
    ]  # fmt: skip
    if clocked:
        body.append("assign valid_o = valid_i;")
    statement = f"{part} is its three steps one after another, which have own proofs"
    if clocked:
        statement += " (registers as wires; their latency is simulated)"
    return claim_of_meant(module, statement, inputs, outputs, body, transparent=clocked)


def output_claims(design: Design, module: Module) -> Iterator[Claim]:
    """An fp32 product, rounded once, from the exact product of the significands."""
    del design
    inputs, outputs = ports(module)
    body = [
        "wire [47:0] a = {24'd0, |value_i[30:23], value_i[22:0]};",
        "wire [47:0] b = {24'd0, |scale_i[30:23], scale_i[22:0]};",
        "wire [47:0] product = a * b;",
        # The lowest bit of the product is 2^(places - 298): both exponents are at least 1.
        "wire [8:0] places = (value_i[30:23] == 0 ? 9'd1 : value_i[30:23])",
        "  + (scale_i[30:23] == 0 ? 9'd1 : scale_i[30:23]) - 9'd2;",
        "reg [47:0] left; reg [9:0] e; reg [72:0] shifted; reg [30:0] kept; integer i;",
        "always @* begin",
        # e: the exponent field of the number whose leading bit is left[47], plus 224.
        "  left = product; e = places + 10'd100;",
        "  for (i = 0; i < 48; i = i + 1)",
        "    if (!left[47]) begin left = left << 1; e = e - 10'd1; end",
        "end",
        "wire signed [11:0] field = $signed({2'b0, e}) - 12'sd224;",
        "wire [11:0] below = field < 1 ? 12'd1 - field : 12'd0;",
        "wire [127:0] wide = {left, 80'd0} >> (below > 70 ? 12'd70 : below);",
        "wire [23:0] significand = wide[127:104];",
        "wire up = wide[103] && (wide[104] || |wide[102:0]);",
        "wire [31:0] rounded = ((field < 1 ? 32'd0 : field - 1) << 23) + significand + up;",
        "wire sign = value_i[31] ^ scale_i[31];",
        "wire vn = &value_i[30:23] && |value_i[22:0], sn = &scale_i[30:23] && |scale_i[22:0];",
        "wire vi = &value_i[30:23] && !vn, si = &scale_i[30:23] && !sn;",
        "wire vz = value_i[30:0] == 0, sz = scale_i[30:0] == 0;",
        "assign result_o = vn || sn || (vi && sz) || (si && vz) ? 32'h7fc00000",
        "  : vi || si ? {sign, 31'h7f800000}",
        "  : vz || sz ? {sign, 31'd0}",
        "  : field > 254 || rounded >= 32'h7f800000 ? {sign, 31'h7f800000}",
        "  : {sign, rounded[30:0]};",
    ]
    statement = "an fp32 product of exact significands, rounded once to nearest"
    yield claim_of_meant(module, statement, inputs, outputs, body)
