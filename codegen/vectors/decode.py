"""Decode vectors as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...compiler.format import Format
from ...compiler.reference import Blocks, decode_blocks
from ...compiler.view import NAN_BITS, view_of
from .lines import header, json_lines, neutral_level
from .shapes import shapes_of
from .words import decoder_words, element_words, select_of

#: Vectors of one file: more scale words than fit are thinned out evenly.
MOST_VECTORS = 1 << 16


def decode_lines(fmt: Format) -> str:
    """The text of ``<fmt>_decode.jsonl``: a header, then one object per vector.

    A vector is the decoded binary32 number (``bits``, hexadecimal, every NaN as 7fc00000) of
    a scale word, select and code, and the element's hardware word: ``coefficient`` and
    ``shift``, or ``fixed``; null for a code that is no number.
    """
    words = listed_words(fmt)
    head = header(fmt, "decode") | {
        "scale_words": len(words),
        "scale_words_of_memh": len(decoder_words(fmt)),
        "element": "coefficient * 2^(shift + unit)" if fmt.hosting else "fixed * 2^unit",
        "unit": shapes_of(fmt).unit,
    }
    return json_lines(head, _vectors(fmt, words))


def listed_words(fmt: Format) -> tuple[int, ...]:
    """``decoder_words``, thinned out evenly so that the file stays at MOST_VECTORS."""
    shapes, words = shapes_of(fmt), decoder_words(fmt)
    keep = max(2, MOST_VECTORS // (shapes.selects * shapes.codes))
    if len(words) <= keep:
        return words
    return tuple(words[i * (len(words) - 1) // (keep - 1)] for i in range(keep))


def _vectors(fmt: Format, words: tuple[int, ...]) -> Iterator[dict[str, object]]:
    shapes, elements = shapes_of(fmt), _element_objects(fmt)
    for field in range(shapes.selects):
        bits = _decoded_bits(fmt, words, field)
        for row, word in enumerate(words):
            select = field if shapes.select_is_field else select_of(fmt, word)
            for code in range(shapes.codes):
                yield {
                    "word": word,
                    "select": select,
                    "code": code,
                    "bits": f"{bits[row, code]:08x}",
                } | elements[select << shapes.code_bits | code]


def _decoded_bits(fmt: Format, words: tuple[int, ...], field: int) -> np.ndarray:
    """uint32 [words, codes] from the reference decoder."""
    count, codes = len(words), shapes_of(fmt).codes
    blocks = Blocks(
        np.broadcast_to(np.arange(codes, dtype=np.uint8), (count, codes)),
        np.array(words, np.uint32),
        np.full(count, field, np.uint32),
    )
    values = decode_blocks(view_of(fmt), blocks, neutral_level(fmt))
    return np.where(np.isnan(values), np.uint32(NAN_BITS), values.view(np.uint32))


def _element_objects(fmt: Format) -> list[dict[str, object]]:
    """By ``select << code_bits | code``: what a vector says about its element."""
    objects: list[dict[str, object]] = []
    for word in element_words(fmt):
        if word.hif is None:
            objects.append({"fixed": word.integer if word.valid else None})
        else:
            coefficient = word.hif.coefficient if word.valid else None
            shift = word.hif.shift if word.valid else None
            objects.append({"coefficient": coefficient, "shift": shift})
    return objects
