"""Canonical codes to the planes that kernels read and back, in torch, wherever the codes are.

The bytes are those of ``compiler.physical``. Nothing goes through the host; rows are worked on in
strips, with no more than seven bytes for every element of a strip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd

import torch

from ...compiler.format import Stream
from ...compiler.physical import COLUMN_AXES, SUPER, WORD, WORD_AXES, PhysicalLayout

#: Elements that are worked on at once; more where one row has more.
STRIP = 1 << 22


def to_planes(
    codes: torch.Tensor, stream: Stream, length: int, layout: PhysicalLayout, pad: int
) -> tuple[torch.Tensor, ...]:
    """The planes of packed codes.

    Args:
        codes: uint8 [rows, ceil(length * bits / 8)], as ``compiler.packing`` packs them.
        stream: how they are packed.
        length: elements of a row.
        layout: where their bits go.
        pad: the code of the columns from ``length`` on.

    Returns:
        For each of ``layout.planes``: contiguous uint8 [rows, plane_bytes], on the codes' device.

    Raises:
        ValueError: the codes are of another width, shape or type, or ``pad`` is no code.
    """
    _check(stream, layout)
    if not 0 <= pad < 1 << layout.bits:
        raise ValueError(f"the pad {pad} is no code of {layout.bits} bits")
    rows, padded = len(codes), layout.padded(length)
    _check_shape("codes", codes, (rows, -(-length * stream.bits // 8)))
    planes = tuple(
        torch.empty(
            (rows, layout.plane_bytes(width, length)), dtype=torch.uint8, device=codes.device
        )
        for width in layout.planes
    )
    for strip in _strips(rows, padded):
        columns = _unpack(codes[strip], stream, padded)
        columns[:, length:] = pad
        words = _to_words(columns)
        for plane, width, shift in zip(planes, layout.planes, layout.shifts, strict=True):
            plane[strip] = _pack_words((words >> shift) & ((1 << width) - 1), width, layout.order)
    return planes


def from_planes(
    planes: Sequence[torch.Tensor], stream: Stream, length: int, layout: PhysicalLayout
) -> torch.Tensor:
    """The inverse of ``to_planes``: uint8 [rows, bytes], the spare bits of a row's end zero.

    Raises:
        ValueError: a plane is missing, or of another shape or type than the layout says.
    """
    _check(stream, layout)
    rows, padded = len(planes[0]), layout.padded(length)
    for plane, width in zip(planes, layout.planes, strict=True):
        _check_shape("plane", plane, (rows, layout.plane_bytes(width, length)))
    size = -(-length * stream.bits // 8)
    codes = torch.empty((rows, size), dtype=torch.uint8, device=planes[0].device)
    for strip in _strips(rows, padded):
        words = torch.zeros(
            (len(codes[strip]), padded // WORD, WORD), dtype=torch.uint8, device=codes.device
        )
        for plane, width, shift in zip(planes, layout.planes, layout.shifts, strict=True):
            words |= _unpack_words(plane[strip], width, layout.order) << shift
        columns = _to_columns(words)
        columns[:, length:] = 0
        codes[strip] = _pack(columns, stream)[:, :size]
    return codes


def _check(stream: Stream, layout: PhysicalLayout) -> None:
    if stream.bits != layout.bits:
        raise ValueError(f"codes of {stream.bits} bits have no layout of {layout.bits} bits")


def _check_shape(name: str, octets: torch.Tensor, shape: tuple[int, int]) -> None:
    if octets.dtype != torch.uint8 or tuple(octets.shape) != shape:
        raise ValueError(
            f"'{name}' is {octets.dtype} {list(octets.shape)}, expected torch.uint8 {list(shape)}"
        )


def _strips(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, STRIP // max(1, columns))
    for top in range(0, rows, height):
        yield slice(top, min(rows, top + height))


# -- columns and words: uint8, one code a byte -----------------------------------------------


def _to_words(columns: torch.Tensor) -> torch.Tensor:
    """[rows, padded columns] as [rows, words, 8]."""
    rows, padded = columns.shape
    axes = columns.reshape(rows, padded // SUPER, *COLUMN_AXES)
    return axes.permute(0, 1, 4, 2, 3, 5).reshape(rows, padded // WORD, WORD)


def _to_columns(words: torch.Tensor) -> torch.Tensor:
    """The inverse of ``_to_words``."""
    rows, count, _ = words.shape
    axes = words.reshape(rows, count * WORD // SUPER, *WORD_AXES)
    return axes.permute(0, 1, 3, 4, 2, 5).reshape(rows, count * WORD)


# -- planes: uint8 [rows, words * width] from [rows, words, 8] and back ------------------------


def _pack_words(fields: torch.Tensor, width: int, order: tuple[int, ...]) -> torch.Tensor:
    rows, words, _ = fields.shape
    if width == 8:
        return fields.reshape(rows, words, 2, 4).transpose(1, 2).reshape(rows, words * WORD)
    packed = torch.zeros((rows, words, width), dtype=torch.uint8, device=fields.device)
    for place, elements in _elements(width, order):
        packed |= fields[:, :, elements] << place
    return packed.reshape(rows, words * width)


def _unpack_words(plane: torch.Tensor, width: int, order: tuple[int, ...]) -> torch.Tensor:
    rows, words = len(plane), plane.shape[1] // width
    if width == 8:
        return plane.reshape(rows, 2, words, 4).transpose(1, 2).reshape(rows, words, WORD)
    packed = plane.reshape(rows, words, width)
    fields = torch.empty((rows, words, WORD), dtype=torch.uint8, device=plane.device)
    for place, elements in _elements(width, order):
        fields[:, :, elements] = (packed >> place) & ((1 << width) - 1)
    return fields


def _elements(width: int, order: tuple[int, ...]) -> Iterator[tuple[int, list[int]]]:
    """The lowest bits of the fields in a word's bytes, and each field's element in each byte."""
    per_byte = 8 // width
    element = order if width == 4 else tuple(range(WORD))
    for i in range(per_byte):
        yield i * width, list(element[i::per_byte])


# -- canonical codes: uint8 [rows, columns * bits / 8] from [rows, columns] and back -----------


def _unpack(octets: torch.Tensor, stream: Stream, columns: int) -> torch.Tensor:
    """One code a byte; those that the octets do not reach are zero. Never the octets themselves."""
    bits, rows = stream.bits, len(octets)
    whole = torch.zeros((rows, columns * bits // 8), dtype=torch.uint8, device=octets.device)
    whole[:, : octets.shape[1]] = octets
    if bits == 8:
        return whole
    per_group, group_bytes = _group(bits)
    groups = whole.reshape(rows, columns // per_group, group_bytes)
    fields = torch.empty(
        (rows, columns // per_group, per_group), dtype=torch.uint8, device=octets.device
    )
    for i, octet, shift in _places(stream):
        field = groups[:, :, octet] >> shift
        if shift + bits > 8:
            field |= groups[:, :, _next(octet, stream)] << (8 - shift)
        fields[:, :, i] = field
    fields &= (1 << bits) - 1
    return fields.reshape(rows, columns)


def _pack(columns: torch.Tensor, stream: Stream) -> torch.Tensor:
    """The inverse of ``_unpack``, of a multiple of eight columns."""
    bits, rows = stream.bits, len(columns)
    if bits == 8:
        return columns
    per_group, group_bytes = _group(bits)
    count = columns.shape[1] // per_group
    fields = columns.reshape(rows, count, per_group)
    groups = torch.zeros((rows, count, group_bytes), dtype=torch.uint8, device=columns.device)
    for i, octet, shift in _places(stream):
        groups[:, :, octet] |= fields[:, :, i] << shift
        if shift + bits > 8:
            groups[:, :, _next(octet, stream)] |= fields[:, :, i] >> (8 - shift)
    return groups.reshape(rows, count * group_bytes)


def _group(bits: int) -> tuple[int, int]:
    """The least number of codes that fill whole bytes, and how many bytes they fill."""
    common = bits * 8 // gcd(bits, 8)
    return common // bits, common // 8


def _places(stream: Stream) -> Iterator[tuple[int, int, int]]:
    """Of every code of a group: its index, the byte of its lowest bit, and that bit's place."""
    per_group, group_bytes = _group(stream.bits)
    for i in range(per_group):
        if stream.order == "low_first":
            octet, shift = divmod(i * stream.bits, 8)
            yield i, octet, shift
        else:
            octet, shift = divmod((per_group - 1 - i) * stream.bits, 8)
            yield i, group_bytes - 1 - octet, shift


def _next(octet: int, stream: Stream) -> int:
    """The byte with the bits above those of ``octet``."""
    return octet + 1 if stream.order == "low_first" else octet - 1
