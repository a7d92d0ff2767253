"""``$readmemh`` files: what the Verilog test benches compare against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from ...compiler.format import Format
from ..design import Design, Side, side_of
from ..render import provenance
from .dot import Activation, dot_cases, exact_sum
from .draws import SEED
from .words import decoder_words, element_words, scale_fields


@dataclass(frozen=True, slots=True)
class Row:
    """Bit fields side by side, the first in the most significant bits."""

    fields: tuple[tuple[str, int], ...]

    @property
    def bits(self) -> int:
        """The width of the row."""
        return sum(width for _, width in self.fields)

    def pack(self, values: dict[str, int]) -> int:
        """The row's bits; negative values become two's complement of their field."""
        packed = 0
        for name, width in self.fields:
            packed = packed << width | values[name] & ((1 << width) - 1)
        return packed


@dataclass(frozen=True, slots=True)
class SideLayout:
    """The rows of ``<fmt>_decoder.memh``.

    A ``scale`` row for every word of ``decoder_words``, then an ``element`` row for every
    ``select << code_bits | code``.
    """

    scale: Row
    element: Row

    @property
    def bits(self) -> int:
        """The width of the memory."""
        return max(self.scale.bits, self.element.bits)


@dataclass(frozen=True, slots=True)
class DotLayout:
    """The rows of ``<fmt>_dot.memh``: for every case a ``head`` row and then one for each lane."""

    head: Row
    lane: Row

    @property
    def bits(self) -> int:
        """The width of the memory."""
        return max(self.head.bits, self.lane.bits)


def side_layout(side: Side) -> SideLayout:
    """The rows of a decoder's memory."""
    return SideLayout(
        scale=Row((("scale_word", side.container), *side.scale_fields)),
        element=Row(side.element_fields),
    )


def dot_layout(design: Design) -> DotLayout:
    """The rows of a dot product's memory."""
    side, activation = design.weights, design.activations.operand
    field = (("select", side.select_bits),) if side.select_is_field else ()
    shift = (("activation_shift", activation.shift_bits),) if activation.shift_bits else ()
    return DotLayout(
        head=Row(
            (
                ("scale_word", side.container),
                *field,
                *side.scale_fields,
                ("sum_valid", 1),
                ("sum", design.total.bits),
            )
        ),
        lane=Row(
            (
                ("code", side.code_bits),
                ("activation_coefficient", activation.coefficient_bits),
                *shift,
            )
        ),
    )


def decoder_count(fmt: Format) -> int:
    """Vectors of the decoder's bench: every word with every select field and every code."""
    side = side_of(fmt)
    return len(decoder_words(fmt)) * side.selects * side.codes


def dot_count(design: Design) -> int:
    """Vectors of the dot product's bench."""
    return len(dot_cases(design))


def decoder_memory(fmt: Format) -> str:
    """The text of ``<fmt>_decoder.memh``; see ``SideLayout``."""
    side = side_of(fmt)
    layout = side_layout(side)
    scales = (
        layout.scale.pack({"scale_word": word} | scale_fields(fmt, word))
        for word in decoder_words(fmt)
    )
    elements = (layout.element.pack(word.fields(side)) for word in element_words(fmt))
    notes = (
        f"vectors: {decoder_count(fmt)} = every scale row with every element row it can meet",
        f"{len(decoder_words(fmt))} scale rows: {_columns(layout.scale)}",
        f"then {len(element_words(fmt))} element rows by select and code: "
        + _columns(layout.element),
    )
    return _text(fmt, notes, layout.bits, chain(scales, elements))


def dot_memory(design: Design) -> str:
    """The text of ``<fmt>_dot.memh``; see ``DotLayout``."""
    layout = dot_layout(design)
    notes = (
        f"vectors: {dot_count(design)}, seed {SEED}",
        f"a head row: {_columns(layout.head)}",
        f"then {design.block} lane rows: {_columns(layout.lane)}",
    )
    return _text(design.weights.fmt, notes, layout.bits, _dot_rows(design, layout))


def _dot_rows(design: Design, layout: DotLayout) -> Iterator[int]:
    fmt, lane = design.weights.fmt, layout.lane
    nothing = {name: 0 for name, _ in lane.fields}
    packed: dict[Activation, int] = {}
    codes = [lane.pack(nothing | {"code": code}) for code in range(design.weights.codes)]
    for case in dot_cases(design):
        total, valid = exact_sum(design, case)
        head = {"scale_word": case.word, "select": case.select_field}
        head |= scale_fields(fmt, case.word)
        yield layout.head.pack(head | {"sum_valid": int(valid), "sum": total})
        for code, activation in zip(case.codes, case.activations, strict=True):
            if activation not in packed:
                coefficient, shift = activation
                words = {"activation_coefficient": coefficient, "activation_shift": shift}
                packed[activation] = lane.pack(nothing | words)
            yield codes[code] | packed[activation]


def _columns(row: Row) -> str:
    return ", ".join(f"{name} {width}" for name, width in row.fields)


def _text(fmt: Format, notes: tuple[str, ...], bits: int, rows: Iterable[int]) -> str:
    digits = -(-bits // 4)
    lines = [f"// | {line}" for line in (*provenance(fmt), *notes)]
    lines += [f"{row:0{digits}x}" for row in rows]
    return "\n".join(lines) + "\n"
