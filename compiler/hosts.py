"""Hosts: the word formats that a decoder's lookup table is filled with.

HIF7 and HIF8 are a 5-bit two's-complement coefficient times a power of two (SOP,
arXiv:2605.14929): the multiplier stays 5x5 and the shifts add.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .exact import FP32_MAX, is_fp32, round_fp32
from .floats import named_float

COEFFICIENT_BITS = 5
_COEFFICIENTS = range(-(1 << (COEFFICIENT_BITS - 1)), 1 << (COEFFICIENT_BITS - 1))


@dataclass(frozen=True, slots=True)
class HifWord:
    """``coefficient * 2^shift``, coefficient in -16..15."""

    coefficient: int
    shift: int

    @property
    def value(self) -> int:
        """The integer that the word means."""
        return self.coefficient << self.shift

    @classmethod
    def of_bits(cls, bits: int) -> HifWord:
        """The word of a stored byte, redundant ones too."""
        half = 1 << (COEFFICIENT_BITS - 1)
        return cls((bits & 2 * half - 1 ^ half) - half, bits >> COEFFICIENT_BITS)

    @property
    def bits(self) -> int:
        """The stored byte: the coefficient in the low five bits, the shift above it."""
        return (self.shift << COEFFICIENT_BITS) | (self.coefficient & 0x1F)


@dataclass(frozen=True, slots=True)
class HifHost:
    """A host of HIF words with shifts 0..max_shift."""

    name: str
    max_shift: int

    def words(self) -> dict[int, HifWord]:
        """Value -> canonical word (the smallest shift that can hold it), ascending."""
        words: dict[int, HifWord] = {}
        for shift in range(self.max_shift + 1):
            for coefficient in _COEFFICIENTS:
                words.setdefault(coefficient << shift, HifWord(coefficient, shift))
        return dict(sorted(words.items()))

    def word(self, value: Fraction) -> HifWord | None:
        """The canonical word of an exact value, or None when the host lacks it."""
        return self.words().get(int(value)) if value.denominator == 1 else None

    def nearest(self, value: Fraction) -> Fraction:
        """The value of a word nearest to ``value``, the lower one on a tie; saturating."""
        return Fraction(min(self.words(), key=lambda word: (abs(word - value), word)))


HIF7 = HifHost("hif7", 3)
HIF8 = HifHost("hif8", 4)
HIF_HOSTS = {host.name: host for host in (HIF7, HIF8)}

#: What ``host`` may say. fp32 holds any codebook entry after one rounding, which is stated.
HOSTS = ("fp32", *HIF_HOSTS)


def holds(host: str, value: Fraction) -> bool:
    """Whether ``host`` has exactly this value."""
    return is_fp32(value) if host == "fp32" else HIF_HOSTS[host].word(value) is not None


def snap(host: str, value: Fraction) -> Fraction:
    """The number of ``host`` nearest to ``value``: HIF7, HIF8, fp32 or a float's name.

    The lower number on a tie (fp32: the even one, as everywhere); past the largest, the largest.
    """
    if host in HIF_HOSTS:
        return HIF_HOSTS[host].nearest(value)
    if host == "fp32":
        return Fraction(round_fp32(max(-FP32_MAX, min(FP32_MAX, value))))
    number = named_float(host)
    if number is None:
        raise KeyError(host)
    return number.nearest(value)


@dataclass(frozen=True, slots=True)
class Hosting:
    """Grids written as HIF words: value = word.value * 2^exponent for every entry.

    ``words[g][code]`` is None for a code without a number.
    """

    host: HifHost
    exponent: int
    words: tuple[tuple[HifWord | None, ...], ...]


def find_hosting(
    grids: tuple[tuple[Fraction | None, ...], ...], declared: str = "fp32"
) -> Hosting | None:
    """The first HIF host and power of two that hold every value of all grids, or None.

    One exponent serves all grids of a block, so that the datapath needs no realignment.
    A ``declared`` HIF host is taken as it is, with exponent 0.
    """
    if declared in HIF_HOSTS:
        return _hosted(HIF_HOSTS[declared], 0, grids)
    values = [v for grid in grids for v in grid if v]
    if not values or any(v.denominator & (v.denominator - 1) for v in values):
        return None
    # The finest step must become an integer; a word's own shift may take up some of it.
    finest = min(_two_adic(v) for v in values)
    for host in HIF_HOSTS.values():
        for exponent in range(finest, finest - host.max_shift - 1, -1):
            hosting = _hosted(host, exponent, grids)
            if hosting is not None:
                return hosting
    return None


def _hosted(
    host: HifHost, exponent: int, grids: tuple[tuple[Fraction | None, ...], ...]
) -> Hosting | None:
    words = host.words()
    unit = Fraction(2) ** exponent
    for grid in grids:
        for value in grid:
            if value is not None and (value / unit not in words):
                return None
    table = tuple(
        tuple(None if value is None else words[int(value / unit)] for value in grid)
        for grid in grids
    )
    return Hosting(host, exponent, table)


def _two_adic(value: Fraction) -> int:
    """The exponent of the largest power of two that divides a dyadic rational."""
    numerator = abs(value.numerator)
    return (numerator & -numerator).bit_length() - value.denominator.bit_length()
