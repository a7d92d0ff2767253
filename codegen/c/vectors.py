"""What the vector targets need: byte permutations, multipliers, and byte planes of a table."""

from __future__ import annotations

from dataclasses import dataclass

from ...compiler.view import View
from .search import Search


@dataclass(frozen=True, slots=True)
class Plane:
    """One byte of every value of a table: 0 is the lowest of a binary32 number."""

    byte: int
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Packing:
    """How 8 codes in 8 bytes become ``bits`` bytes and back, for vectors of 64 bytes.

    Attributes:
        unpack_places: the packed byte that goes to each byte of a group of 8, its first field low.
        unpack_fields: 8 bit offsets, a byte each: where the fields of a group begin.
        pack_twos, pack_fours: what neighbours are multiplied with before they are added: two
            signed bytes in 16 bits, two signed 16-bit numbers in 32.
        pack_places: the byte of the groups that goes to each packed byte.
    """

    unpack_places: tuple[int, ...]
    unpack_fields: int
    pack_twos: int
    pack_fours: int
    pack_places: tuple[int, ...]


def packing_of(bits: int, high_first: bool) -> Packing:
    """The packing of codes of 1 to 7 bits."""
    octets = range(bits)
    order = [bits - 1 - i for i in octets] if high_first else list(octets)
    unpack = [8 * [0] for _ in range(8)]
    for group in range(8):
        for i in octets:
            unpack[group][i] = group * bits + order[i]
    pack = [place // bits * 8 + order[place % bits] for place in range(8 * bits)]
    starts = [bits * (7 - i) if high_first else bits * i for i in range(8)]
    low, high = (1 << bits, 1) if high_first else (1, 1 << bits)
    below, above = (1 << 2 * bits, 1) if high_first else (1, 1 << 2 * bits)
    return Packing(
        unpack_places=tuple(place for group in unpack for place in group),
        unpack_fields=sum(start << (8 * i) for i, start in enumerate(starts)),
        pack_twos=_signed(high << 8 | low, 16),
        pack_fours=_signed(above << 16 | below, 32),
        pack_places=(*pack, *[0] * (64 - len(pack))),
    )


def vector_context(view: View, search: Search) -> dict[str, object]:
    """The part of the templates' values that no portable C needs."""
    fmt = view.format
    codes = 1 << fmt.code_bits
    # Tables that no register holds are looked up a byte at a time, where all blocks share one.
    by_planes = codes >= 64 and len(view.decode_bits) == codes and fmt.block % 16 == 0
    planes = _planes(view) if by_planes else ()
    tables = {codes} if by_planes else set()
    if not search.identity and search.order_size > 16:
        tables.add(search.order_size)
    return {
        "vector": packing_of(fmt.code_bits, fmt.order == "high_first") if codes < 256 else None,
        "by_planes": by_planes,
        "planes": planes,
        "plane_of": {plane.byte: i for i, plane in enumerate(planes)},
        "byte_tables": sorted(tables),
    }


def word_context(view: View) -> dict[str, object]:
    """How 16 scale words side by side come to 16 lanes: bytes and shifts; see ``avx512_decode``."""
    bits = view.scale.container
    if view.scale.is_fp32 or not 8 <= bits <= 16:
        return {"sixteen_words": False}
    starts = [bits * i for i in range(16)]
    last = 2 * bits - 1
    places = [min(start // 8 + min(i, 2), last) for start in starts for i in range(4)]
    return {
        "sixteen_words": True,
        "word_places": places,
        "word_shifts": [start % 8 for start in starts],
        "select_positions": view.format.select.positions,
    }


def _planes(view: View) -> tuple[Plane, ...]:
    octets = [bits.to_bytes(4, "little") for bits in view.decode_bits]
    used = [byte for byte in range(4) if any(value[byte] for value in octets)]
    return tuple(Plane(byte, tuple(f"0x{v[byte]:02x}" for v in octets)) for byte in used)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
