"""A record's layout as machine words: which bits of which bytes make each eight bytes.

A permutation of bits keeps the order of most neighbours. Bits in ascending order are taken out
of up to eight bytes, and put in their places in a word, by an instruction each (pext and pdep of
x86-64), so that a record is a few words of a few such parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .format import Format
from .items import record_bytes
from .records import layout_bits, stream_widths

#: Bytes of a word.
WORD = 8


@dataclass(frozen=True, slots=True)
class Part:
    """Bits of up to eight bytes: the bits ``extract``, ascending, become ``deposit`` of a word.

    ``octets`` bytes are read at ``offset`` in array ``source``.
    """

    source: int
    offset: int
    octets: int
    extract: int
    deposit: int


@dataclass(frozen=True, slots=True)
class Word:
    """Up to eight bytes at ``offset`` in array ``target``, made of parts; words may overlap."""

    target: int
    offset: int
    octets: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the bits of one record move between arrays of so many bytes a record each."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    words: tuple[Word, ...]


@lru_cache(maxsize=64)
def to_record_plan(fmt: Format) -> Plan:
    """From the streams, in the order of ``stream_widths``, to the record."""
    widths = stream_widths(fmt)
    places = _places(fmt)
    made = [(0, int(t), s, int(b)) for s, bits, targets in places for b, t in _pairs(bits, targets)]
    return _plan(tuple(widths.values()), (record_bytes(fmt),), made)


@lru_cache(maxsize=64)
def from_record_plan(fmt: Format) -> Plan:
    """From the record to the streams, in the order of ``stream_widths``."""
    widths = stream_widths(fmt)
    places = _places(fmt)
    made = [(s, int(b), 0, int(t)) for s, bits, targets in places for b, t in _pairs(bits, targets)]
    return _plan((record_bytes(fmt),), tuple(widths.values()), made)


def _places(fmt: Format) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    names = list(stream_widths(fmt))
    return [(names.index(name), bits, targets) for name, bits, targets in layout_bits(fmt)]


def _pairs(bits: NDArray[np.int64], targets: NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(bits.tolist(), targets.tolist(), strict=True))


def _plan(
    sources: tuple[int, ...],
    targets: tuple[int, ...],
    moves: Sequence[tuple[int, int, int, int]],
) -> Plan:
    """The plan of moves of bits: target array and bit, source array and bit."""
    come_from = {(target, bit): (source, place) for target, bit, source, place in moves}
    words = []
    for target, width in enumerate(targets):
        octets = min(WORD, width)
        # The last word ends where the bytes end and makes some bytes again.
        for start in range(0, width, WORD):
            offset = min(start, width - octets)
            bits = range(8 * offset, 8 * (offset + octets))
            wanted = [(bit - bits.start, *come_from[target, bit]) for bit in bits]
            words.append(Word(target, offset, octets, _parts(wanted, sources)))
    return Plan(sources, targets, tuple(words))


@dataclass(slots=True)
class _Chain:
    """Bits in ascending order of one source: pairs of source bit and bit in the word."""

    source: int
    bits: list[tuple[int, int]] = field(default_factory=list)

    def fits(self, source: int, bit: int) -> bool:
        """Whether a further bit ascends, and lies within eight bytes."""
        first, last = self.bits[0][0], self.bits[-1][0]
        return source == self.source and last < bit and bit // 8 - first // 8 < WORD


def _parts(wanted: list[tuple[int, int, int]], widths: tuple[int, ...]) -> tuple[Part, ...]:
    """Parts that make a word of these bits: the bit in the word, the source, and its bit."""
    chains: list[_Chain] = []
    for place, source, bit in wanted:
        chain = next((c for c in chains if c.fits(source, bit)), None)
        if chain is None:
            chain = _Chain(source)
            chains.append(chain)
        chain.bits.append((bit, place))
    return tuple(_part(chain, widths[chain.source]) for chain in chains)


def _part(chain: _Chain, width: int) -> Part:
    octets = min(WORD, width)
    offset = min(chain.bits[0][0] // 8, width - octets)
    extract = sum(1 << (bit - 8 * offset) for bit, _ in chain.bits)
    deposit = sum(1 << place for _, place in chain.bits)
    return Part(chain.source, offset, octets, extract, deposit)
