"""What generated modules should compute, said a second time and not by what generated them.

Decoders are truth tables of ``runtime.verify.oracle``'s rationals. Arithmetic is plain signed
``*``, ``<<<`` and ``+`` on integers far wider than any result. A module that instantiates others
is what it should be if it equals a plain wiring of the same modules, each of which has a claim of
its own: equals may stand for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from ...codegen.design import Design, Side
from ...codegen.verilog.module import Module
from ...compiler.exact import floor_log2
from ..verify import oracle
from .formal import Claim
from .graphs import TABLE_BITS, Meant, Table

#: Bits of the integers that specifications compute with.
WIDE = 128

Ports = tuple[tuple[str, int], ...]


def sources(*modules: Module) -> dict[str, str]:
    """The files of modules and of all that they are made of."""
    return {f"{m.name}.v": m.text() for module in modules for m in module.closure}


def ports(module: Module) -> tuple[Ports, Ports]:
    """(name, bits) of a module's inputs and outputs, its parameters at their defaults."""
    defaults = {p.name: p.default for p in module.parameters}
    clocks = ("clk_i", "rst_ni")
    inputs = tuple((p.name, p.width(defaults)) for p in module.inputs if p.name not in clocks)
    return inputs, tuple((p.name, p.width(defaults)) for p in module.outputs)


def specification(name: str, inputs: Ports, outputs: Ports, body: list[str]) -> str:
    """A module of a specification, as text."""
    declared = [f"input wire {width_range(bits)}{port}" for port, bits in inputs]
    declared += [f"output wire {width_range(bits)}{port}" for port, bits in outputs]
    return "\n".join(
        [
            f"module {name} (",
            ",\n".join(f"  {line}" for line in declared),
            ");",
            *[f"  {line}" for line in body],
            "endmodule",
            "",
        ]
    )


def instance(module: Module, label: str, connected: Mapping[str, str]) -> str:
    """An instantiation; what is not said is connected to the signal of the port's name."""
    pins = ", ".join(
        f".{port.name}({connected.get(port.name, port.name)})" for port in module.ports
    )
    return f"{module.name} {label} ({pins});"


def claim_of_meant(
    module: Module,
    statement: str,
    inputs: Ports,
    outputs: Ports,
    body: list[str],
    *,
    transparent: bool = False,
) -> Claim:
    """That a module is what the body of another one says, over the same ports."""
    name = f"{module.name}_meant"
    return Claim(
        subject=module.name,
        statement=statement,
        inputs=inputs,
        outputs=outputs,
        files=sources(module) | {"meant.v": specification(name, inputs, outputs, body)},
        made=module.name,
        meant=name,
        transparent=transparent,
    )


def claim_of_wrapper(
    module: Module, statement: str, inputs: Ports, outputs: Ports, made: list[str], meant: list[str]
) -> Claim:
    """That two bodies over the same ports are equal; the first one instantiates the module."""
    names = [f"{module.name}_made", f"{module.name}_meant"]
    files = {
        f"{name}.v": specification(name, inputs, outputs, body)
        for name, body in zip(names, (made, meant), strict=True)
    }
    return Claim(
        subject=module.name,
        statement=statement,
        inputs=inputs,
        outputs=outputs,
        files=sources(module) | files,
        made=names[0],
        meant=names[1],
    )


def side_of_module(design: Design, module: Module) -> Side:
    """The side of a design that a decoder belongs to."""
    weights, activations = design.weights, design.activations
    return weights if module.owner == weights.fmt else activations


# -- decoders ------------------------------------------------------------------------------


def element_claims(design: Design, module: Module) -> Iterator[Claim]:
    """A code's word means the code's value, is in range, and is zero where there is none."""
    side = side_of_module(design, module)
    operand, fmt = side.operand, side.fmt
    inputs, _ = ports(module)
    outputs = (("valid_o", 1), ("value_o", WIDE), ("in_range_o", 1))
    shift = "element_shift" if operand.shift_bits else "1'b0"
    word = ["wire element_valid;"]
    word.append(f"wire signed [{operand.coefficient_bits - 1}:0] element_coefficient;")
    if operand.shift_bits:
        word.append(f"wire {width_range(operand.shift_bits)}element_shift;")
    name = f"{module.name}_means"
    body = [
        *word,
        instance(module, "u_decoder", {p.name: p.bare for p in module.outputs}),
        f"wire signed [{WIDE - 1}:0] wide = element_coefficient;",
        "assign valid_o = element_valid;",
        f"assign value_o = wide <<< {shift};",
        (
            f"assign in_range_o = wide >= {constant(operand.coefficient.low)}"
            f" && wide <= {constant(operand.coefficient.high)} && {shift} <= {operand.max_shift};"
        ),
    ]

    def answer(given: Mapping[str, int]) -> dict[str, int]:
        value = oracle.value_of(fmt, given.get("select_i", 0), given["code_i"], 1.0)
        known = value == value  # NaN differs from itself
        units = Fraction(value if known else 0) / Fraction(2) ** operand.unit
        if units.denominator != 1:
            raise ValueError(f"{value} is no multiple of 2^{operand.unit}")
        return {"valid_o": int(known), "value_o": int(units), "in_range_o": 1}

    yield Claim(
        subject=module.name,
        statement="every code decodes to its exact value (truth table of the format's rationals)",
        inputs=inputs,
        outputs=outputs,
        files=sources(module) | {"means.v": specification(name, inputs, outputs, body)},
        made=name,
        meant=Table(inputs, outputs, answer),
    )


def scale_claims(design: Design, module: Module) -> Iterator[Claim]:
    """A scale word's fields are its sign, its select bits and its exact magnitude."""
    side = side_of_module(design, module)
    inputs, outputs = ports(module)
    files = sources(module)
    if side.container <= TABLE_BITS:
        meant: str | Meant = Table(inputs, outputs, lambda given: _scale_fields(side, given))
        how = "truth table of the format's rationals"
    else:
        meant = f"{module.name}_meant"
        files["meant.v"] = specification(meant, inputs, outputs, _scale_by_exponent(side))
        how = "by exponent, each from the format's rationals"
    yield Claim(
        subject=module.name,
        statement=f"every word decodes to its exact scale ({how})",
        inputs=inputs,
        outputs=outputs,
        files=files,
        made=module.name,
        meant=meant,
    )


def _scale_fields(side: Side, given: Mapping[str, int]) -> dict[str, int]:
    """The outputs of a scale decoder for a word, from the number that the word is."""
    word, fmt = given["scale_word_i"], side.fmt
    layout = fmt.scale.word
    signed = layout.number.signed and fmt.select.place != "scale.sign"
    value = oracle.word_value(layout, word, signed=False)
    infinite = value in (float("inf"), float("-inf"))
    known = value == value and not infinite
    exponent, significand = _parts(side, Fraction(value)) if known else (0, 0)
    select = 0
    for position in fmt.select.positions:
        select = 2 * select + (word >> position & 1)
    fields = {
        "select_o": select,
        "scale_sign_o": int(signed and bool(word >> (layout.sign_bit or 0) & 1)),
        "scale_nan_o": int(not known and not (infinite and side.has_infinity)),
        "scale_infinity_o": int(infinite),
        "scale_zero_o": int(known and value == 0),
        "scale_exponent_o": exponent,
        "scale_significand_o": significand,
    }
    return {f"{name}_o": fields[f"{name}_o"] for name, _ in side.scale_fields}


def _parts(side: Side, value: Fraction) -> tuple[int, int]:
    """(exponent, significand) of a magnitude: normalised as far as exponents reach."""
    least = int(side.fmt.scale.word.number.subnormals)
    exponent = least
    if value:
        exponent = max(least, floor_log2(value) - (side.significand_bits - 1) + side.scale_bias)
    significand = value / Fraction(2) ** (exponent - side.scale_bias)
    if significand.denominator != 1 or significand >= 1 << side.significand_bits:
        raise ValueError(f"{value} has no significand of {side.significand_bits} bits")
    return exponent, int(significand)


def _scale_by_exponent(side: Side) -> list[str]:
    """A wide word's fields: of every exponent the first number, from where mantissas count up.

    That they do is checked in rationals: at every mantissa of a number of up to 12 bits, else at
    the ends and next to the powers of two.
    """
    layout = side.fmt.scale.word
    number, low = layout.number, layout.magnitude_lsb
    signed = number.signed and side.fmt.select.place != "scale.sign"
    top = low + number.magnitude_bits - 1
    mantissa = f"scale_word_i[{low + number.mantissa - 1}:{low}]" if number.mantissa else "1'd0"
    body = [
        f"wire {width_range(number.exponent)}field = scale_word_i[{top}:{low + number.mantissa}];",
        f"wire [31:0] mantissa = {mantissa};",
        "reg nan, infinity;",
        "reg [31:0] exponent, significand;",
        "always @* begin",
        "  {nan, infinity, exponent, significand} = 66'd0;",
        "  case (field)",
        *[line for field in range(1 << number.exponent) for line in _exponent_lines(side, field)],
        "    default: nan = 1'b0;",
        "  endcase",
        "end",
        f"assign scale_sign_o = {f'scale_word_i[{layout.sign_bit}]' if signed else 0};",
        "assign scale_nan_o = nan;",
        "assign scale_zero_o = !nan && !infinity && significand == 0;",
        "assign scale_exponent_o = exponent;",
        "assign scale_significand_o = significand;",
    ]
    if side.has_infinity:
        body.append("assign scale_infinity_o = infinity;")
    if side.select_in_word:
        chosen = ", ".join(f"scale_word_i[{p}]" for p in side.fmt.select.positions)
        body.append(f"assign select_o = {{{chosen}}};")
    return body


def _exponent_lines(side: Side, field: int) -> list[str]:
    """The case item of one exponent field."""
    layout = side.fmt.scale.word
    number = layout.number
    flags, parts = {}, {}
    for mantissa in _some(1 << number.mantissa):
        word = (field << number.mantissa | mantissa) << layout.magnitude_lsb
        given = _scale_fields(side, {"scale_word_i": word})
        broken = given["scale_nan_o"], given.get("scale_infinity_o", 0)
        if any(broken):
            flags[mantissa] = broken
        else:
            parts[mantissa] = given["scale_exponent_o"], given["scale_significand_o"]
    lines = [f"    {number.exponent}'d{field}: begin"]
    if parts:
        exponent, base = parts[0]
        if any(found != (exponent, base + m) for m, found in parts.items()):
            raise ValueError("the significands of an exponent do not count up")
        lines += [f"      exponent = {exponent};", f"      significand = {base} + mantissa;"]
        lines += [
            f"      if (mantissa == {m}) {{nan, infinity, exponent, significand}} = "
            f"{{1'b{nan}, 1'b{infinity}, 64'd0}};"
            for m, (nan, infinity) in flags.items()
        ]
    else:
        first, rest = flags[0], {found for m, found in flags.items() if m}
        if len(rest) > 1:
            raise ValueError("words that are no number differ by more than the first")
        last = rest.pop() if rest else first
        lines.append(
            f"      {{nan, infinity}} = mantissa == 0 ? 2'b{first[0]}{first[1]}"
            f" : 2'b{last[0]}{last[1]};"
        )
    return [*lines, "    end"]


def _some(count: int) -> list[int]:
    if count <= 1 << 12:
        return list(range(count))
    powers = [1 << i for i in range(count.bit_length() - 1)]
    return sorted({0, count - 1, *powers, *(count - p for p in powers), *(p - 1 for p in powers)})


def width_range(bits: int) -> str:
    """The range of a vector in a declaration; empty for one bit."""
    return f"[{bits - 1}:0] " if bits > 1 else ""


def constant(value: int) -> str:
    """A signed constant of WIDE bits."""
    return f"-{WIDE}'sd{-value}" if value < 0 else f"{WIDE}'sd{value}"
