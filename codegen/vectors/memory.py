"""``$readmemh`` files: what the Verilog test benches compare against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from ...compiler.format import Format
from ...compiler.hosts import COEFFICIENT_BITS
from ..render import provenance
from .dot import dot_cases, exact_sum
from .draws import SEED
from .shapes import ACTIVATION_SHIFT_BITS, Shapes, shapes_of
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
class Layout:
    """The rows of both files of a format.

    ``<fmt>_decoder.memh``: a ``scale`` row for every word of ``decoder_words``, then an
    ``element`` row for every ``select << code_bits | code``. ``<fmt>_dot.memh``: for every
    case a ``head`` row and then a ``lane`` row for every lane.
    """

    scale: Row
    element: Row
    head: Row
    lane: Row

    @property
    def decoder_bits(self) -> int:
        """The width of the decoder's memory."""
        return max(self.scale.bits, self.element.bits)

    @property
    def dot_bits(self) -> int:
        """The width of the dot product's memory."""
        return max(self.head.bits, self.lane.bits)


def layout_of(shapes: Shapes) -> Layout:
    """The row layouts that ``shapes`` asks for."""
    word = ("scale_word", shapes.container)
    field = (("select", shapes.select_bits),) if shapes.select_is_field else ()
    return Layout(
        scale=Row((word, *shapes.scale_fields)),
        element=Row(shapes.element_fields),
        head=Row(
            (word, *field, *shapes.scale_fields, ("sum_valid", 1), ("sum", shapes.total.bits))
        ),
        lane=Row(
            (
                ("code", shapes.code_bits),
                ("activation_coefficient", COEFFICIENT_BITS),
                ("activation_shift", ACTIVATION_SHIFT_BITS),
            )
        ),
    )


def decoder_count(fmt: Format) -> int:
    """Vectors of the decoder's bench: every word with every select field and every code."""
    shapes = shapes_of(fmt)
    return len(decoder_words(fmt)) * shapes.selects * shapes.codes


def dot_count(fmt: Format) -> int:
    """Vectors of the dot product's bench."""
    return len(dot_cases(fmt))


def decoder_memory(fmt: Format) -> str:
    """The text of ``<fmt>_decoder.memh``; see ``Layout``."""
    layout = layout_of(shapes_of(fmt))
    scales = (
        layout.scale.pack({"scale_word": word} | scale_fields(fmt, word))
        for word in decoder_words(fmt)
    )
    elements = (layout.element.pack(word.fields()) for word in element_words(fmt))
    notes = (
        f"vectors: {decoder_count(fmt)} = every scale row with every element row it can meet",
        f"{len(decoder_words(fmt))} scale rows: {_columns(layout.scale)}",
        f"then {len(element_words(fmt))} element rows by select and code: "
        + _columns(layout.element),
    )
    return _text(fmt, notes, layout.decoder_bits, chain(scales, elements))


def dot_memory(fmt: Format) -> str:
    """The text of ``<fmt>_dot.memh``; see ``Layout``."""
    layout = layout_of(shapes_of(fmt))
    notes = (
        f"vectors: {dot_count(fmt)}, seed {SEED}",
        f"a head row: {_columns(layout.head)}",
        f"then {fmt.block} lane rows: {_columns(layout.lane)}",
    )
    return _text(fmt, notes, layout.dot_bits, _dot_rows(fmt, layout))


def _dot_rows(fmt: Format, layout: Layout) -> Iterator[int]:
    codes = [_lane(layout, code, 0, 0) for code in range(1 << fmt.code_bits)]
    activations = {
        (coefficient, shift): _lane(layout, 0, coefficient, shift)
        for coefficient in range(-(1 << COEFFICIENT_BITS - 1), 1 << COEFFICIENT_BITS - 1)
        for shift in range(1 << ACTIVATION_SHIFT_BITS)
    }
    for case in dot_cases(fmt):
        total, valid = exact_sum(fmt, case)
        head = {"scale_word": case.word, "select": case.select_field}
        head |= scale_fields(fmt, case.word)
        yield layout.head.pack(head | {"sum_valid": int(valid), "sum": total})
        for code, activation in zip(case.codes, case.activations, strict=True):
            yield codes[code] | activations[activation]


def _lane(layout: Layout, code: int, coefficient: int, shift: int) -> int:
    return layout.lane.pack(
        {"code": code, "activation_coefficient": coefficient, "activation_shift": shift}
    )


def _columns(row: Row) -> str:
    return ", ".join(f"{name} {width}" for name, width in row.fields)


def _text(fmt: Format, notes: tuple[str, ...], bits: int, rows: Iterable[int]) -> str:
    digits = -(-bits // 4)
    lines = [f"// | {line}" for line in (*provenance(fmt), *notes)]
    lines += [f"{row:0{digits}x}" for row in rows]
    return "\n".join(lines) + "\n"
