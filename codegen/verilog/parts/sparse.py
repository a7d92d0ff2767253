"""The side path: outliers and residuals of the weights, added to a tile's results one by one.

SOP (arXiv:2605.14929), section on corrections: few values stand beside the codes, each at a place
of its own. Every one is one more scaled accumulate: result + value * activation, one rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ....compiler import format as formats
from ....compiler.scales import is_fp32_word
from ... import NotExpressible
from ...design import Design, Side
from ..module import CLOCK, RESET, Module, Parameter, Port
from .element_decoder import element_decoder
from .scale_decoder import scale_decoder
from .scale_steps import (
    OFFSET_BITS,
    RESULT,
    Factor,
    Step,
    align_add,
    normalize_round,
    product_ports,
    scale_factor,
    scale_product,
    total_ports,
)

#: Of an fp32 factor: significand bits, the bias of its LSB, the largest exponent field.
_FP32_BITS, _FP32_BIAS, _FP32_GREATEST = 24, 150, 254

COLUMN_BITS = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of stored values: (-1)^sign * significand * 2^(field - bias).

    Attributes:
        name: ``opq`` or ``wr``.
        exponent, mantissa: bits of the word's fields, the sign on top of them.
        factored: an fp32 number multiplies every value.
        bias: of the exponent field of a value with its factor.
        raised: what its exponent lacks of the common bias.
        nan, infinity: conditions over ``<name>_field`` and ``<name>_mantissa``; None: never.
    """

    name: str
    exponent: int
    mantissa: int
    factored: bool
    bias: int
    raised: int
    nan: str | None
    infinity: str | None
    greatest: int

    @property
    def bits(self) -> int:
        """Of the stored word."""
        return 1 + self.exponent + self.mantissa

    @property
    def significand_bits(self) -> int:
        """Of the value's significand times its factor's."""
        return self.mantissa + 1 + (_FP32_BITS if self.factored else 0)


@lru_cache(maxsize=64)
def kinds_of(design: Design) -> tuple[Kind, ...]:
    """The kinds of values beside the weights' codes.

    Outliers are multiplied with the activations' fp32 level where these have one, residuals
    always, with their own scale times that level.
    """
    level = design.activations.fmt.scale.tensor == "fp32"
    sides = design.weights.fmt.sides
    biases = {side.kind: _bias(side, side.kind == "wr" or level) for side in sides}
    return tuple(
        _kind(side, side.kind == "wr" or level, max(biases.values()) - biases[side.kind])
        for side in sides
    )


def _bias(side: formats.Side, factored: bool) -> int:
    number = side.value.number
    return number.bias + number.mantissa + (_FP32_BIAS if factored else 0)


def _kind(side: formats.Side, factored: bool, raised: int) -> Kind:
    number, name = side.value.number, side.kind
    full, some = f"(&{name}_field)", f"(|{name}_mantissa)"
    nan = infinity = None
    if is_fp32_word(side.value):
        nan, infinity = f"{full} & {some}", f"{full} & ~{some}"
    elif number.top == "nan":
        nan = f"{full} & (&{name}_mantissa)"
    elif number.top != "finite":
        nan = full
    field = (1 << number.exponent) - 1 - (number.top in ("ieee", "reserved"))
    return Kind(
        name=name,
        exponent=number.exponent,
        mantissa=number.mantissa,
        factored=factored,
        bias=_bias(side, factored),
        raised=raised,
        nan=nan,
        infinity=infinity,
        greatest=field + raised + (_FP32_GREATEST if factored else 0),
    )


@lru_cache(maxsize=64)
def sparse_step(design: Design) -> Step:
    """The scaled accumulate of one value: the activation's element is the sum."""
    kinds, side = kinds_of(design), design.activations
    greatest = max(kind.greatest for kind in kinds)
    value = Factor(
        prefix="entry",
        meaning="the stored value",
        exponent_bits=greatest.bit_length(),
        significand_bits=max(kind.significand_bits for kind in kinds),
        bias=max(kind.bias for kind in kinds),
        greatest=greatest,
        has_infinity=any(kind.factored or kind.infinity for kind in kinds),
    )
    return Step(
        owner=design.weights.fmt,
        prefix="sparse_",
        total=side.operand.value,
        unit=side.operand.unit,
        left=value,
        right=scale_factor(side, "activation", "the activations' scale"),
    )


def sparse_value(design: Design) -> Module:
    """Decodes a stored value, and multiplies it with its factor."""
    kinds, step = kinds_of(design), sparse_step(design)
    outputs = tuple(
        Port(f"{port.bare}_o", port.bits, port.meaning.replace("is is", "is"))
        for port in step.left.ports
    )
    words = ", ".join(f"{k.name}: E{k.exponent}M{k.mantissa}" for k in kinds)
    return Module(
        owner=step.owner,
        part="sparse_value",
        notes=(
            (
                f"Decodes a value that stands beside the codes ({words}), times its fp32 factor, "
                "exactly."
            ),
            f"value = entry_significand_o * 2^(entry_exponent_o - {step.left.bias})",
        ),
        ports=(*value_ports(kinds), *factor_ports(kinds), *outputs),
        values={"kinds": kinds, "value": step.left},
    )


def value_ports(kinds: tuple[Kind, ...]) -> tuple[Port, ...]:
    """A stored value and, where there are two, its kind."""
    bits = max(kind.bits for kind in kinds)
    kind = Port("entry_kind_i", 1, "0: an outlier (opq), 1: a residual (wr)")
    value = Port("entry_value_i", bits, "stored word, in the low bits")
    return (kind, value) if len(kinds) == 2 else (value,)


def factor_ports(kinds: tuple[Kind, ...], prefix: str = "") -> tuple[Port, ...]:
    """The fp32 factors of the kinds that have one."""
    meanings = {
        "opq": "fp32: the activations' second level",
        "wr": "fp32: the residuals' scale, times the activations' second level",
    }
    return tuple(
        Port(f"{prefix}{kind.name}_factor_i", 32, meanings[kind.name])
        for kind in kinds
        if kind.factored
    )


def sparse(design: Design) -> Module:
    """The side path of a tile.

    Raises:
        NotExpressible: no values stand beside the weights' codes.
    """
    if not design.weights.fmt.sides:
        raise NotExpressible(f"no values stand beside the codes of '{design.name}'")
    kinds, step, side = kinds_of(design), sparse_step(design), design.activations
    scale, element = scale_decoder(side), element_decoder(side)
    value, product = sparse_value(design), scale_product(step)
    add, rounded = align_add(step), normalize_round(step)
    return Module(
        owner=step.owner,
        part="sparse",
        notes=(
            (
                "Adds the values that stand beside the weights' codes to the results of a tile, "
                "which enter as the core gives them (after a second level) and leave in the same "
                "form."
            ),
            (
                "A command: activations of Rows rows are loaded once, then tiles follow; a tile is "
                "its results, row after row, and a list of entries."
            ),
            (
                "An entry adds value * activation to every row of its column, with one rounding: "
                "outliers (opq) of a column come first, then residuals (wr), each in ascending "
                "order."
            ),
            "The weights' elements at outliers' places have to count as 0 in the results.",
            (
                "One entry in two cycles; a row of results a cycle. A beat passes in a cycle in "
                "which valid and ready are both 1."
            ),
        ),
        ports=(CLOCK, RESET, *_streams(design)),
        values={
            "side": side,
            "offset_bits": OFFSET_BITS,
            "block_shift": side.block.bit_length() - 1 if _whole(side) else None,
            "element_bits": side.operand.value.bits,
            "value_ports": value_ports(kinds),
            "factors": factor_ports(kinds),
            "left": step.left.ports,
            "product": product_ports(step, "o"),
            "total": total_ports(step, "o"),
        },
        uses=(scale, element, value, product, add, rounded),
        parameters=(
            Parameter("Rows", 4, "rows of the tile, one activation vector each, at least 1"),
            Parameter("Columns", 4, f"columns of the tile, 1..{1 << COLUMN_BITS}"),
            Parameter("IndexBits", 12, "bits of an index: activations of 2^IndexBits elements"),
            *(() if _whole(side) else (Parameter("BlockBits", 10, "bits of a block's index"),)),
            Parameter("CountBits", 16, "bits of a command's count of tiles"),
        ),
        latency="6 from a tile's last entry to its first result",
    )


def _whole(side: Side) -> bool:
    """Whether the bits of an index above some place are its block's index."""
    return side.block & (side.block - 1) == 0


def streams_of(design: Design) -> tuple[tuple[str, tuple[Port, ...]], ...]:
    """The streams that it reads: names, and the ports of a beat."""
    kinds, side = kinds_of(design), design.activations
    words = [
        Port(
            "scale_words_i",
            f"Rows*{side.container}",
            "stored scale words of a block's rows",
            lanes=True,
        )
    ]
    if side.select_is_field:
        words.append(
            Port(
                "scale_selects_i",
                f"Rows*{side.select_bits}",
                "indices of the blocks' grids",
                lanes=True,
            )
        )
    block = Port("entry_block_i", "BlockBits", "the block that the index is in")
    return (
        (
            "command",
            (
                Port("command_tiles_i", "CountBits", "tiles that follow; 0: 2^CountBits"),
                Port(
                    "command_exponent_offset_i",
                    OFFSET_BITS,
                    "power of two of the activations' own level: minus their shift",
                    signed=True,
                ),
                *factor_ports(kinds, "command_"),
            ),
        ),
        (
            "activation",
            (
                Port(
                    "activation_codes_i",
                    f"Rows*{side.code_bits}",
                    "stored codes of one element of every row",
                    lanes=True,
                ),
                Port("activation_last_i", 1, "it is the last one"),
            ),
        ),
        ("scale", (*words, Port("scale_last_i", 1, "it is the last block"))),
        ("dense", (Port("dense_i", "Columns*32", "a row of a tile's results", lanes=True),)),
        (
            "entry",
            (
                Port("entry_last_i", 1, "it ends the tile's list"),
                Port("entry_none_i", 1, "it adds nothing: for a tile without entries"),
                Port("entry_column_i", COLUMN_BITS, "column of the tile"),
                Port("entry_index_i", "IndexBits", "place in the row, from 0"),
                *(() if _whole(side) else (block,)),
                *value_ports(kinds),
            ),
        ),
    )


def _streams(design: Design) -> tuple[Port, ...]:
    ports: list[Port] = []
    for name, parts in streams_of(design):
        ports += [
            Port(f"{name}_valid_i", 1, "a beat is offered"),
            Port(f"{name}_ready_o", 1, "it is taken; does not depend on any input of the cycle"),
            *parts,
        ]
    return (
        *ports,
        Port("result_valid_o", 1, "a row of results is offered, until it is taken"),
        Port("result_ready_i", 1, "it is taken"),
        Port("result_o", "Columns*32", RESULT.meaning, lanes=True),
        Port("result_last_o", 1, "it is the tile's last row"),
    )
