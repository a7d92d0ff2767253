"""The decoder of elements whose table is loaded: one bank for each grid of a block."""

from __future__ import annotations

from collections.abc import Iterator

from ....compiler.hosts import HifWord
from ...design import Design, Operand, Side
from ...vectors.draws import Draws
from ..bench import Bench, Row, vector_bench
from ..module import CLOCK, RESET, Module, Parameter, Port
from .words import element_inputs, element_outputs, span

READS = 3

#: Cycles of the bench besides those that fill the table and read all of it.
CYCLES = 512


def lut_decoder(design: Design) -> Module:
    """A table of words that can be written, read on several lanes (SOP, arXiv:2605.14929)."""
    side = design.weights
    conditions = _conditions(side.operand)
    value = any("load_value" in condition for condition in conditions)
    return Module(
        owner=side.fmt,
        part="lut_decoder",
        notes=(
            f"Decodes elements by a table that is loaded: {side.operand.form}.",
            _allowed(side.operand) + " An entry that was not loaded since reset is no number.",
            "Only the loading is clocked: a loaded word is read from the next cycle on.",
        ),
        ports=(CLOCK, RESET, *load_inputs(side), *_lanes(side)),
        values={
            "side": side,
            "conditions": conditions,
            "value_bits": _value_bits(side.operand) if value else 0,
        },
        parameters=(Parameter("Reads", 4, "lanes that decode in the same cycle"),),
    )


def fits(operand: Operand, word: HifWord) -> bool:
    """Whether the datapath behind the table holds a word: its products stay in their ranges."""
    return (
        word.shift <= operand.max_shift
        and operand.coefficient.low <= word.coefficient <= operand.coefficient.high
        and operand.value.low <= word.value <= operand.value.high
    )


def _allowed(operand: Operand) -> str:
    if not _conditions(operand):
        return "Any codebook of such words can be loaded."
    return (
        f"Words of coefficients {span(operand.coefficient)} and shifts 0..{operand.max_shift} can "
        f"be loaded whose values are {span(operand.value)}; any other is no number."
    )


def _conditions(operand: Operand) -> list[str]:
    """What makes a word fit, in Verilog; nothing where the fields hold no other."""
    field, shift = operand.coefficients, operand.max_shift
    low, high = operand.coefficient.low, operand.coefficient.high
    least, most = operand.value.low, operand.value.high
    bits, wide = operand.coefficient_bits, _value_bits(operand)
    every = {
        f"(load_shift_i <= {operand.shift_bits}'d{shift})": shift + 1 < 1 << operand.shift_bits,
        f"(load_coefficient_i >= {_signed(low, bits)})": low > field.low,
        f"(load_coefficient_i <= {_signed(high, bits)})": high < field.high,
        f"(load_value >= {_signed(least, wide)})": least > low << shift,
        f"(load_value <= {_signed(most, wide)})": most < high << shift,
    }
    return [condition for condition, needed in every.items() if needed]


def _value_bits(operand: Operand) -> int:
    """Wide enough for every coefficient under every shift of the field."""
    return operand.coefficient_bits + (1 << operand.shift_bits) - 1


def _signed(value: int, bits: int) -> str:
    return f"{bits}'sh{value & ((1 << bits) - 1):x}"


def load_inputs(side: Side) -> tuple[Port, ...]:
    """The ports that load one entry."""
    operand = side.operand
    entry = [
        Port(port.name.replace("select_i", "load_select_i").replace("code_i", "load_code_i"),
             port.bits, port.meaning)
        for port in element_inputs(side)
    ]  # fmt: skip
    word = [
        Port(
            "load_coefficient_i",
            operand.coefficient_bits,
            f"{span(operand.coefficients)}, the coefficient of its word",
            signed=True,
        )
    ]
    if operand.shift_bits:
        word.append(
            Port(
                "load_shift_i",
                operand.shift_bits,
                f"0..{operand.max_shift}, the shift of its word",
            )
        )
    return (Port("load_valid_i", 1, "an entry is loaded"), *entry, *word)


def _lanes(side: Side) -> tuple[Port, ...]:
    """The decoder's ports, once for each lane."""
    return tuple(
        Port(port.name, f"Reads*{port.bits}", f"lanes of: {port.meaning}", lanes=True)
        for port in (*element_inputs(side), *element_outputs(side))
    )


def lut_decoder_bench(design: Design) -> Bench:
    """Loads and reads at random, resets, and the format's own table on every code."""
    return vector_bench(
        lut_decoder(design),
        _cycles(design.weights),
        f"{CYCLES} random cycles with loads and resets, then the format's own table.",
        parameters={"Reads": READS},
    )


def _cycles(side: Side) -> Iterator[Row]:
    draws, operand = Draws(12), side.operand
    entries = 1 << side.select_bits + side.code_bits
    table: dict[int, HifWord] = {}
    for cycle in range(CYCLES):
        half = 1 << operand.coefficient_bits - 1
        word = HifWord(draws.below(2 * half) - half, draws.below(1 << operand.shift_bits))
        entry = draws.below(entries)
        reads = [draws.of([draws.below(entries), entry]) for _ in range(READS)]
        reset = cycle == 0 or draws.below(100) == 0
        load = not reset and draws.below(2) == 1
        yield _row(side, {} if reset else table, reads, entry, word, load=load, reset=reset)
        _load(operand, {} if reset else table, entry, word, load=load)
        if reset:
            table = {}
    yield _row(side, {}, [0] * READS, 0, HifWord(0, 0), load=False, reset=True)
    table = {}
    words = [word for grid in operand.words for word in grid]
    for entry, own in enumerate(words):
        word = own or HifWord(0, 0)
        yield _row(side, table, [entry] * READS, entry, word, load=own is not None, reset=False)
        _load(operand, table, entry, word, load=own is not None)
    for entry in range(entries):
        reads = [(entry + lane) % entries for lane in range(READS)]
        yield _row(side, table, reads, 0, HifWord(0, 0), load=False, reset=False)


def _load(
    operand: Operand, table: dict[int, HifWord], entry: int, word: HifWord, *, load: bool
) -> None:
    if load and fits(operand, word):
        table[entry] = word
    elif load:
        table.pop(entry, None)


def _row(
    side: Side,
    table: dict[int, HifWord],
    reads: list[int],
    entry: int,
    word: HifWord,
    *,
    load: bool,
    reset: bool,
) -> Row:
    operand, codes = side.operand, side.codes
    found = [table.get(index) for index in reads]
    words = [word or HifWord(0, 0) for word in found]
    row = {
        "rst_ni": int(not reset),
        "load_valid_i": int(load),
        "load_code_i": entry % codes,
        "load_coefficient_i": word.coefficient,
        "code_i": _joined([index % codes for index in reads], side.code_bits),
        "element_valid_o": _joined([int(word is not None) for word in found], 1),
        "element_coefficient_o": _joined(
            [word.coefficient for word in words], operand.coefficient_bits
        ),
    }
    if side.select_bits:
        row["load_select_i"] = entry // codes
        row["select_i"] = _joined([index // codes for index in reads], side.select_bits)
    if operand.shift_bits:
        row["load_shift_i"] = word.shift
        row["element_shift_o"] = _joined([word.shift for word in words], operand.shift_bits)
    return row


def _joined(fields: list[int], bits: int) -> int:
    """Lanes as one integer, lane 0 in the low bits."""
    mask = (1 << bits) - 1
    return sum((field & mask) << lane * bits for lane, field in enumerate(fields))
