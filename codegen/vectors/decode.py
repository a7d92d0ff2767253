"""Decode vectors as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...compiler.format import Format
from ...compiler.reference import Blocks, decode_blocks
from ...compiler.view import NAN_BITS, view_of
from ..design import side_of
from .lines import header, json_lines, neutral_level
from .words import decoder_words, element_words, select_of

#: Vectors of one file: more scale words than fit are thinned out evenly.
MOST_VECTORS = 1 << 16


def decode_lines(fmt: Format) -> str:
    """The text of ``<fmt>_decode.jsonl``: a header, then one object per vector.

    A vector is the decoded binary32 number (``bits``, hexadecimal, every NaN as 7fc00000) of
    a scale word, select and code, and the element's hardware word: ``coefficient`` and
    ``shift``; null for a code that is no number.
    """
    words = listed_words(fmt)
    head = header(fmt, "decode") | {
        "scale_words": len(words),
        "scale_words_of_memh": len(decoder_words(fmt)),
        "element": "coefficient * 2^(shift + unit)",
        "unit": side_of(fmt).operand.unit,
    }
    return json_lines(head, ()) + "".join(_vectors(fmt, words))


def listed_words(fmt: Format) -> tuple[int, ...]:
    """``decoder_words``, thinned out evenly so that the file stays at MOST_VECTORS."""
    side, words = side_of(fmt), decoder_words(fmt)
    keep = max(2, MOST_VECTORS // (side.selects * side.codes))
    if len(words) <= keep:
        return words
    return tuple(words[i * (len(words) - 1) // (keep - 1)] for i in range(keep))


def _vectors(fmt: Format, words: tuple[int, ...]) -> Iterator[str]:
    """A vector's line each: there are so many that they are not made as objects first."""
    side, elements = side_of(fmt), _element_members(fmt)
    for field in range(side.selects):
        for word, row in zip(words, _decoded_bits(fmt, words, field).tolist(), strict=True):
            select = field if side.select_is_field else select_of(fmt, word)
            first = f'{{"word":{word},"select":{select},"code":'
            own = elements[select << side.code_bits :]
            for code, (bits, members) in enumerate(zip(row, own, strict=False)):
                yield f'{first}{code},"bits":"{bits:08x}",{members}}}\n'


def _decoded_bits(fmt: Format, words: tuple[int, ...], field: int) -> np.ndarray:
    """uint32 [words, codes] from the reference decoder."""
    count, codes = len(words), side_of(fmt).codes
    blocks = Blocks(
        np.broadcast_to(np.arange(codes, dtype=np.uint8), (count, codes)),
        np.array(words, np.uint32),
        np.full(count, field, np.uint32),
    )
    values = decode_blocks(view_of(fmt), blocks, neutral_level(fmt))
    return np.where(np.isnan(values), np.uint32(NAN_BITS), values.view(np.uint32))


def _element_members(fmt: Format) -> list[str]:
    """By ``select << code_bits | code``: what a vector's object says about its element."""
    return [
        f'"coefficient":{word.word.coefficient},"shift":{word.word.shift}'
        if word.valid
        else '"coefficient":null,"shift":null'
        for word in element_words(fmt)
    ]
