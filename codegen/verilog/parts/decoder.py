"""Both decoders of a format side by side, and the bench that tries every word with every code."""

from __future__ import annotations

from ...design import Side
from ...vectors.memory import decoder_count, decoder_memory, side_layout
from ...vectors.words import decoder_words, element_words
from ..bench import Bench
from ..module import Module
from .element_decoder import element_decoder
from .scale_decoder import scale_decoder
from .words import element_inputs, element_outputs, scale_outputs, scale_word, select_field


def decoder(side: Side) -> Module:
    """The scale decoder and one element decoder."""
    code = element_inputs(side)[-1]
    scale, element = scale_decoder(side), element_decoder(side)
    return Module(
        owner=side.fmt,
        part="decoder",
        notes=(
            "Decodes one element and the scale of its block.",
            "decoded number = element value * scale, to be rounded once",
        ),
        ports=(
            scale_word(side),
            *select_field(side),
            code,
            *scale_outputs(side),
            *element_outputs(side),
        ),
        values={"side": side, "scale": scale, "element": element},
        uses=(scale, element),
    )


def decoder_bench(side: Side) -> Bench:
    """Every scale word with every select field and every code."""
    module = decoder(side)
    fmt = side.fmt
    rows, elements = len(decoder_words(fmt)), len(element_words(fmt))
    return Bench(
        module=module,
        template="decoder_tb.v.j2",
        notes=(
            f"Test bench of {module.name}: every scale word of its memory with every code.",
            (
                f"Rows of the file: {rows} scale words with what they decode to, then {elements} "
                "elements."
            ),
        ),
        vectors=decoder_count(fmt),
        memory=lambda: decoder_memory(fmt),
        values={
            "side": side,
            "layout": side_layout(side),
            "scale_rows": rows,
            "element_rows": elements,
            "scale_outputs": scale_outputs(side),
            "element_outputs": element_outputs(side),
        },
    )
