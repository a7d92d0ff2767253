"""How codes lie in a GPU's memory: a permutation of their bits, so that products read them whole.

Canonical streams pack codes in the order of their columns. A tensor core instead wants a thread
to hold a few neighbours from two groups of 16 columns, and a warp to read whole cache lines. So
a row is padded to a multiple of 128 columns (``SUPER``) with a code of the caller's choice, and
cut into units of 32 columns (``UNIT``), each a low and a high group of 16 (``HALF``). Word
w = 16 * s + 4 * i + q of a row stands for eight elements of unit q of superchunk s: element r
(r < 4) is column 128 * s + 32 * q + 4 * i + r, and element 4 + r is 16 columns further.

A code of b bits is split into planes, the first with its lowest bits, the next with those above:
of 1, 2, 4 or 8 bits each (``PLANES``). Of word w

* a 4-bit plane has a little-endian 32-bit word: bits 4p to 4p + 3 hold element ``order[p]``;
* a 2-bit plane has a little-endian 16-bit word: bits 2p and 2p + 1 hold element p;
* a 1-bit plane has a byte: bit p holds element p;
* an 8-bit plane has two halves: byte 4w + r of the first holds element r, of the second
  element 4 + r.

No number changes here: ``from_physical`` gives back what ``to_physical`` took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)

#: Columns of a superchunk: rows are padded to a multiple of it.
SUPER = 128
#: Columns of a unit: what four words of a row stand for.
UNIT = 32
#: Columns of one of a unit's two groups.
HALF = 16
#: Elements of a word.
WORD = 8

#: The elements of a 4-bit word, from its lowest bits: as they are, ...
NATURAL = (0, 1, 2, 3, 4, 5, 6, 7)
#: ... so that one mask leaves two neighbours in two 16-bit halves, ...
PAIRS = (0, 2, 4, 6, 1, 3, 5, 7)
#: ... or so that one mask leaves four neighbours in the bytes of a word.
BYTES = (0, 4, 1, 5, 2, 6, 3, 7)

#: Bits of a code -> bits of its planes, the lowest bits first.
PLANES: dict[int, tuple[int, ...]] = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}

#: The axes of a superchunk's columns: unit, group, run of 4, column in it.
COLUMN_AXES = (SUPER // UNIT, UNIT // HALF, HALF // 4, 4)
#: The axes of a superchunk's words: run of 4, unit, group, column in the run.
WORD_AXES = (HALF // 4, SUPER // UNIT, UNIT // HALF, 4)


@dataclass(frozen=True, slots=True)
class PhysicalLayout:
    """Where the bits of a row's codes are.

    Attributes:
        bits: of a code, 1 to 8.
        order: a permutation of 0 to 7: the elements of a 4-bit plane's word, from the lowest
            bits. It does nothing where no plane has 4 bits.

    Raises:
        ValueError: there is no such width, or the order is no permutation.
    """

    bits: int
    order: tuple[int, ...] = NATURAL

    def __post_init__(self) -> None:
        if self.bits not in PLANES:
            raise ValueError(f"codes have 1 to 8 bits, not {self.bits}")
        if sorted(self.order) != list(NATURAL):
            raise ValueError(f"the order {self.order} is no permutation of 0 to 7")

    @property
    def planes(self) -> tuple[int, ...]:
        """The bits that each plane has of a code, the lowest first."""
        return PLANES[self.bits]

    @property
    def shifts(self) -> tuple[int, ...]:
        """The lowest bit of a code that each plane has."""
        return tuple(sum(self.planes[:i]) for i in range(len(self.planes)))

    def padded(self, length: int) -> int:
        """Columns of a row of ``length`` elements with its padding."""
        return -(-length // SUPER) * SUPER

    def words(self, length: int) -> int:
        """Words of a row of ``length`` elements."""
        return self.padded(length) // WORD

    def plane_bytes(self, width: int, length: int) -> int:
        """Bytes of a row of ``length`` elements in a plane of ``width`` bits."""
        return self.words(length) * width

    def columns(self, length: int) -> I64:
        """The column of every word's elements: int64 [words, 8]; padding's are >= length."""
        columns: I64 = np.arange(self.padded(length), dtype=np.int64)[None]
        words: I64 = _to_words(columns)[0]
        return words


def to_physical(codes: U8, layout: PhysicalLayout, pad: int) -> tuple[U8, ...]:
    """The planes of rows of codes.

    Args:
        codes: uint8 [rows, n], one code a byte, each below 2^bits.
        layout: where their bits go.
        pad: the code of the columns from n on.

    Returns:
        For each of ``layout.planes``: uint8 [rows, plane_bytes].

    Raises:
        ValueError: ``pad`` is no code.
    """
    if not 0 <= pad < 1 << layout.bits:
        raise ValueError(f"the pad {pad} is no code of {layout.bits} bits")
    rows, length = codes.shape
    padded = np.full((rows, layout.padded(length)), pad, np.uint8)
    padded[:, :length] = codes
    words = _to_words(padded)
    planes = []
    for width, shift in zip(layout.planes, layout.shifts, strict=True):
        fields = (words >> np.uint8(shift)) & np.uint8((1 << width) - 1)
        planes.append(_pack(fields, width, layout.order))
    return tuple(planes)


def from_physical(planes: Sequence[U8], layout: PhysicalLayout, length: int) -> U8:
    """The inverse of ``to_physical``: uint8 [rows, length], one code a byte.

    Raises:
        ValueError: there are other planes, or of another size, than the layout has.
    """
    shapes = [(len(planes[0]), layout.plane_bytes(width, length)) for width in layout.planes]
    if [plane.shape for plane in planes] != shapes:
        found = [plane.shape for plane in planes]
        raise ValueError(f"planes have the shapes {found}, expected {shapes}")
    words = np.zeros((len(planes[0]), layout.words(length), WORD), np.uint8)
    for plane, width, shift in zip(planes, layout.planes, layout.shifts, strict=True):
        words |= _unpack(plane, width, layout.order) << np.uint8(shift)
    return np.ascontiguousarray(_to_columns(words)[:, :length])


def _to_words(columns: NDArray[T]) -> NDArray[T]:
    """[rows, padded columns] as [rows, words, 8]."""
    rows, padded = columns.shape
    axes = columns.reshape(rows, padded // SUPER, *COLUMN_AXES)
    return axes.transpose(0, 1, 4, 2, 3, 5).reshape(rows, padded // WORD, WORD)


def _to_columns(words: U8) -> U8:
    """The inverse of ``_to_words``."""
    rows, count, _ = words.shape
    axes = words.reshape(rows, count * WORD // SUPER, *WORD_AXES)
    return axes.transpose(0, 1, 3, 4, 2, 5).reshape(rows, count * WORD)


def _pack(fields: U8, width: int, order: tuple[int, ...]) -> U8:
    """uint8 [rows, words, 8], each below 2^width, as uint8 [rows, words * width]."""
    rows, words, _ = fields.shape
    if width == 8:
        halves = fields.reshape(rows, words, 2, 4).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(halves).reshape(rows, words * WORD)
    if width == 4:
        fields = fields[:, :, list(order)]
    per_byte = 8 // width
    packed = np.zeros((rows, words, width), np.uint8)
    for place in range(per_byte):
        packed |= fields[:, :, place::per_byte] << np.uint8(place * width)
    return packed.reshape(rows, words * width)


def _unpack(plane: U8, width: int, order: tuple[int, ...]) -> U8:
    """The inverse of ``_pack``."""
    rows = len(plane)
    words = plane.shape[1] // width
    if width == 8:
        halves = plane.reshape(rows, 2, words, 4).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(halves).reshape(rows, words, WORD)
    per_byte = 8 // width
    packed = plane.reshape(rows, words, width)
    fields = np.zeros((rows, words, WORD), np.uint8)
    for place in range(per_byte):
        fields[:, :, place::per_byte] = packed >> np.uint8(place * width)
    fields &= np.uint8((1 << width) - 1)
    if width == 4:
        fields = fields[:, :, np.argsort(order)]
    return fields
