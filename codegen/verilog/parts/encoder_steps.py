"""The three steps of the encoder, each a combinational module: peak, scale word, codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....compiler.format import Format
from ....compiler.view import View, view_of
from ..module import Module, Port
from .encoder_plan import SHIFTS, Codebook, EncoderPlan, Ladder, encoder_plan


@dataclass(frozen=True)
class Shape:
    """What the modules of an encoder have in common."""

    fmt: Format

    @property
    def view(self) -> View:
        """The format in machine numbers."""
        return view_of(self.fmt)

    @property
    def plan(self) -> EncoderPlan:
        """What is compared with what."""
        return encoder_plan(self.fmt)

    @property
    def signed(self) -> bool:
        """Whether the scale's sign mirrors the grid."""
        return self.view.scale.signed_rule

    @property
    def propagates(self) -> bool:
        """Whether a NaN makes its block NaN."""
        return self.fmt.policies.nan == "propagate"

    @property
    def peaks(self) -> tuple[str, ...]:
        """The peaks that the scale follows from."""
        if len(self.plan.scale.sides) == 2:
            return "positive_peak", "negative_peak"
        trial = self.view.trials[0]
        both = self.signed or trial.positive_divisor == trial.negative_divisor
        return ("peak",) if both else ("positive_peak",)

    @property
    def values(self) -> Port:
        """The elements of a block."""
        lanes = self.fmt.block
        meaning = f"{lanes} binary32 numbers, lane 0 in the low bits"
        return Port("values_i", 32 * lanes, meaning, lanes=True)

    @property
    def offset(self) -> tuple[Port, ...]:
        """The tensor's own power of two, where it is not fixed."""
        if not self.plan.scale.has_offset:
            return ()
        least = self.plan.scale.least_offset
        meaning = f"a stored scale s means s * 2^exponent_offset_i; {least}..{SHIFTS}"
        return (Port("exponent_offset_i", 8, meaning, signed=True),)


def _peak_ports(shape: Shape, direction: str) -> list[Port]:
    dropped = shape.plan.scale.dropped
    meanings = {
        "peak": "binary32 bits of the largest magnitude",
        "positive_peak": "the same of the positive elements, 0 without any",
        "negative_peak": "the same of the negative elements, 0 without any",
    }
    note = f", the last {dropped} of them as one: whether any is set" if dropped else ""
    bits = 8 + shape.plan.scale.fraction_bits
    return [Port(f"{name}_{direction}", bits, meanings[name] + note) for name in shape.peaks]


def absmax_step(shape: Shape) -> Module:
    """Admission of the elements, and the block's peak."""
    fmt, lanes, dropped = shape.fmt, shape.fmt.block, shape.plan.scale.dropped
    bits = 8 + shape.plan.scale.fraction_bits
    # Taking the low bits together keeps the order, so that it may come before the comparisons;
    # but where the first of the largest elements says the sign, all bits are compared.
    size = "magnitude"
    if dropped:
        size = f"{{magnitude[30:{dropped}], |magnitude[{dropped - 1}:0]}}"
    leaves = {
        "peak": "{sign, magnitude}" if shape.signed else size,
        "positive_peak": f"sign ? {bits}'d0 : {size}",
        "negative_peak": f"sign ? {size} : {bits}'d0",
    }
    nan, inf = fmt.policies.nan == "error", fmt.policies.inf == "error"
    refuses = {
        (True, True): "special",
        (True, False): "special & fraction",
        (False, True): "special & ~fraction",
        (False, False): "",
    }[nan, inf]
    # What is refused or makes its block NaN needs no value.
    zeroes, saturates = fmt.policies.nan == "zero", fmt.policies.inf == "saturate"
    not_numbers = {
        (True, True): "special ? {{7{~fraction}}, 1'b0, {23{~fraction}}} : value[30:0]",
        (True, False): "special & fraction ? 31'd0 : value[30:0]",
        (False, True): "special & ~fraction ? 31'h7f7fffff : value[30:0]",
        (False, False): "",
    }[zeroes, saturates]
    levels = [lanes]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // 2))
    return Module(
        owner=fmt,
        part="encoder_absmax",
        notes=(
            "Step 1: admits the elements, and finds the peak of the block.",
            *(
                ["The first of several elements of the largest magnitude says the sign."]
                * shape.signed
            ),
        ),
        ports=(
            shape.values,
            Port("values_o", 32 * lanes, "the same, as admitted", lanes=True),
            *_peak_ports(shape, "o"),
            *(
                [Port("peak_negative_o", 1, "sign bit of the first element of that magnitude")]
                * shape.signed
            ),
            *([Port("nan_o", 1, "an element is NaN")] * shape.propagates),
            Port("invalid_o", 1, "an element that the format refuses"),
        ),
        values={
            "lanes": lanes,
            "bits": 32 if shape.signed else bits,
            "compared": 31 if shape.signed else bits,
            "dropped": dropped,
            "trees": [
                {"name": name, "leaf": leaves[name], "port": f"{name}_o"} for name in shape.peaks
            ],
            "levels": levels,
            "signed": shape.signed,
            "propagates": shape.propagates,
            "refuses": refuses,
            "not_numbers": not_numbers,
            "zeroes_nan": zeroes,
            "uses_fraction": shape.propagates or "fraction" in not_numbers + refuses,
        },
    )


def scale_step(shape: Shape) -> Module:
    """From the peak to the scale word."""
    plan, scale, number = shape.plan.scale, shape.view.scale, shape.fmt.scale.word.number
    unit_bits = _signed_bits(*shape.plan.lane.unit_exponents)
    index_bits = plan.key_bits - plan.fraction_bits + number.mantissa + 1
    unit_bias = 127 + shape.plan.lane.grid.unit
    bias = unit_bias - number.bias - plan.shift

    def exponent(constant: int, field: str = "", *, moves: bool = True) -> str:
        terms = [field] if field else []
        terms += [_constant(constant, unit_bits)]
        if moves and plan.has_offset:
            terms += [f"{{{{{unit_bits - 8}{{exponent_offset_i[7]}}}}, exponent_offset_i}}"]
        return " + ".join(terms)

    mantissa = number.mantissa
    field = f"{{{unit_bits - number.exponent}'d0, field}}"
    low = [code for code in scale.ranks if code < 1 << mantissa] if number.subnormals else []
    end = "1" if shape.view.grids[0].end_is_negative else "0"
    mirror = f"(peak_negative_i ^ 1'b{end}) & (|peak_i)"
    return Module(
        owner=shape.fmt,
        part="encoder_scale",
        notes=("Step 2: the scale word, by exact thresholds of the peak.",),
        ports=(
            *_peak_ports(shape, "i"),
            *([Port("peak_negative_i", 1, "sign of the peak")] * shape.signed),
            *([Port("nan_i", 1, "the block has a NaN")] * shape.propagates),
            *shape.offset,
            Port("scale_word_o", scale.container, "stored scale word of the block"),
            *_scale_ports(shape, "o"),
            *([Port("invalid_o", 1, "the offset is out of range")] * plan.has_offset),
        ),
        values={
            "plan": plan,
            "sides": [_side_text(shape, side, index_bits) for side in range(len(shape.peaks))],
            "index_bits": index_bits,
            "magnitude_bits": scale.magnitude_bits,
            "last": f"{index_bits}'d{plan.last}",
            "limits": [
                (_constant(offset, 8), f"{index_bits}'d{index}")
                for offset, index in sorted(plan.limits.items())
            ],
            "least": f"{scale.magnitude_bits}'d{plan.least}" if plan.least else "",
            "zero": f"{scale.magnitude_bits}'d{plan.zero}",
            "negative": mirror + (" & ~nan_i" if shape.propagates else "") if shape.signed else "",
            "word": _word(shape),
            "offset_invalid": f"(exponent_offset_i < -8'sd{-plan.least_offset}) | "
            "(exponent_offset_i > 8'sd126)",
            "unit_bias": unit_bias,
            "unit_bits": unit_bits,
            "mantissa": mantissa,
            "exponent_bits": number.exponent,
            "has_zero": 0 in low,
            "normal_exponent": exponent(bias, field),
            "zero_exponent": exponent(unit_bias, moves=False),
            "subnormals": [
                {
                    "pattern": f"{mantissa}'b{'0' * (mantissa - 1 - j)}1{'?' * j}",
                    "kept": j,
                    "exponent": exponent(bias + 1 + j - mantissa),
                }
                for j in range(mantissa - 1, -1, -1)
                if any(low)
            ],
        },
    )


def _scale_ports(shape: Shape, direction: str) -> list[Port]:
    """What a lane is told of the scale."""
    bits, (low, high) = shape.plan.lane.scale_bits, shape.plan.lane.unit_exponents
    unit = shape.plan.lane.grid.unit
    return [
        *([Port(f"scale_negative_{direction}", 1, "1: the grid is mirrored")] * shape.signed),
        *(
            [
                Port(
                    f"scale_significand_{direction}",
                    bits,
                    f"of the scale: 1.0 to below 2.0, LSB weight 2^-{bits - 1}",
                )
            ]
            * (bits > 1)
        ),
        Port(
            f"unit_exponent_{direction}",
            _signed_bits(low, high),
            f"exponent of scale * 2^{unit} as binary32 biases it, {low}..{high}",
            signed=True,
        ),
    ]


def _word(shape: Shape) -> str:
    """The scale word's concatenation."""
    scale = shape.view.scale
    magnitude = "magnitude"
    if shape.propagates:
        magnitude = f"(nan_i ? {scale.magnitude_bits}'d{scale.nan_magnitude} : magnitude)"
    pieces, place = [], scale.container
    fields = [(scale.magnitude_lsb, scale.magnitude_bits, magnitude)]
    if shape.signed and scale.sign_bit is not None:
        fields.insert(0, (scale.sign_bit, 1, "negative"))
    for low, bits, text in fields:
        gap = place - low - bits
        pieces += [f"{gap}'d0", text] if gap else [text]
        place = low
    pieces += [f"{place}'d0"] if place else []
    return pieces[0] if len(pieces) == 1 else f"{{{', '.join(pieces)}}}"


def _side_text(shape: Shape, side: int, index_bits: int) -> dict[str, Any]:
    """The search of one peak."""
    plan, port = shape.plan.scale, shape.peaks[side]
    name = port.removesuffix("_peak")
    search, mantissa = plan.sides[side], shape.fmt.scale.word.number.mantissa
    low = _steps([search.low], plan.key_bits) if search.low else None
    # A bit more than a fraction has, so that no fraction reaches past the table's end.
    octave = _steps([search.octave], plan.fraction_bits + 1) if search.octave else None
    terms = [f"{name}_exponent" + (f", {mantissa}'d0" if mantissa else "")]
    exponent_bits = plan.key_bits - plan.fraction_bits
    terms = [f"{{{index_bits - exponent_bits - mantissa}'d0, {terms[0]}}}"]
    terms += [_constant(search.base, index_bits)]
    if octave:
        terms += [f"{{{index_bits - len(octave['steps'])}'d0, {name}_octave_0}}"]
    count = f"{{{index_bits - len(low['steps'])}'d0, {name}_low_0}}" if low else ""
    return {
        "name": name,
        "port": f"{port}_i",
        "low": low,
        "octave": octave,
        "live": f"{name}_key >= {_constant(plan.live_keys[side], plan.key_bits)}"
        if plan.live_keys
        else "",
        "repeated": " + ".join(terms),
        "repeats": None if search.repeats is None else _constant(search.repeats, plan.key_bits),
        "low_index": count or f"{index_bits}'d0",
    }


def lane_step(shape: Shape) -> Module:
    """From one element and the scale to the code."""
    lane = shape.plan.lane
    low, high = lane.unit_exponents
    need = lane.normalize
    levels = None if need is None else need.bit_length()
    least = -high - 1 - (0 if levels is None else (1 << levels) - 1)
    reach = lane.grid.top_key if isinstance(lane.grid, Codebook) else lane.grid.top
    g_bits = max(_signed_bits(least, max(254 - low, reach + 1)), _signed_bits(low, high) + 1, 10)

    def literal(value: int) -> str:
        return f"-{g_bits}'sd{-value}" if value < 0 else f"{g_bits}'sd{value}"

    rows = [
        (sign, index, code)
        for sign, codes in enumerate(lane.grid.codes)
        for index, code in enumerate(codes)
    ]
    bits = _count_bits(lane.grid)
    wide = lane.grid.digits + (lane.grid.rest_bits if isinstance(lane.grid, Codebook) else 0)
    aligned = max(25, wide + lane.scale_bits, lane.scale_bits + lane.grid.digits + 1)
    values: dict[str, Any] = {
        "grid": lane.grid,
        "signed": shape.signed,
        "scale_bits": lane.scale_bits,
        "digits": lane.grid.digits,
        "aligned_bits": aligned,
        "left_bits": aligned - lane.grid.digits - (lane.scale_bits == 1),
        "normalize": levels,
        "g_bits": g_bits,
        "unit_bits": _signed_bits(low, high),
        "literal": literal,
        "code_bits": shape.fmt.code_bits,
        "code_rows": [
            (f"{bits + 1}'h{sign << bits | index:x}", f"{shape.fmt.code_bits}'h{code:x}")
            for sign, index, code in rows
        ],
    }
    values |= (
        _codebook_values(lane.grid)
        if isinstance(lane.grid, Codebook)
        else _ladder_values(lane.grid)
    )
    return Module(
        owner=shape.fmt,
        part="encoder_lane",
        notes=(
            "Step 3: the code of one element.",
            f"It is found by an exact quotient of {lane.grid.digits} digits and what is left.",
        ),
        ports=(
            Port("value_i", 32, "binary32 number, finite"),
            *_scale_ports(shape, "i"),
            Port("code_o", shape.fmt.code_bits, "stored code of the element"),
        ),
        values=values,
    )


def _count_bits(grid: Ladder | Codebook) -> int:
    """Bits of a magnitude, or of how many midpoints were passed."""
    return (max(map(len, grid.codes)) - 1).bit_length()


def _ladder_values(grid: Ladder) -> dict[str, Any]:
    return {
        "down_bits": (grid.mantissa + 2).bit_length(),
        "field_bits": (grid.top - grid.mantissa + 1).bit_length(),
        "rank_bits": grid.rank_bits,
        "magnitude_bits": _count_bits(grid),
    }


def _codebook_values(grid: Codebook) -> dict[str, Any]:
    key_bits = grid.exponent_bits + grid.digits - 1
    bits = _count_bits(grid)
    return {
        "ladder": _steps([[m.key for m in side] for side in grid.sides], key_bits),
        "midpoint_rows": [
            {
                "index": f"{bits + 1}'h{sign << bits | index + 1:x}",
                "key": _constant(middle.key, key_bits),
                "rest": f"{grid.rest_bits}'h{middle.rest:x}",
                "tie": f"1'b{int(middle.passed_on_tie)}",
            }
            for sign, side in enumerate(grid.sides)
            for index, middle in enumerate(side)
        ],
    }


def _steps(tables: Sequence[Sequence[int]], bits: int) -> dict[str, Any]:
    """A search as its template wants it: for every bit of the count what the key is held against.

    Bit p of the count is whether the key reaches entry (bits above p) * 2^(p+1) + 2^p - 1.
    """
    places = max(map(len, tables)).bit_length()
    steps = []
    for place in range(places - 1, -1, -1):
        above = places - 1 - place
        index_bits = above + (len(tables) - 1).bit_length()
        entries = []
        for table_index, table in enumerate(tables):
            for prefix in range(1 << above):
                entry = (prefix << (place + 1)) + (1 << place) - 1
                if entry < len(table):
                    index = table_index << above | prefix
                    entries.append((f"{index_bits}'h{index:x}", _constant(table[entry], bits)))
        steps.append(
            {
                "place": place,
                "literal": "" if index_bits else entries[0][1],
                "entries": entries,
            }
        )
    return {"steps": steps, "bits": bits}


def _constant(value: int, bits: int) -> str:
    """A literal in hexadecimal, negative numbers as two's complement."""
    return f"{bits}'h{value & ((1 << bits) - 1):x}"


def _signed_bits(low: int, high: int) -> int:
    return max(low.bit_length() if low >= 0 else (-low - 1).bit_length(), high.bit_length()) + 1
