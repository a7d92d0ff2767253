"""The ``Format`` value: what a .fmt file means, in exact rationals.

Semantics lives here and nowhere else. Every table, kernel, module, vector and bound is
derived from this value.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from .floats import SmallFloat
from .hosts import Hosting, find_hosting

#: Widest exponent and mantissa of a scale word that kernels decode by a table.
DIRECT_BITS = 12

#: Enters every content hash: a change of meaning of the same text changes the hash.
SEMANTICS_VERSION = 2

#: Marks a field that came later: at its default it does not enter the content hash.
_LATER = {"later": True}


@dataclass(frozen=True)
class Grid:
    """The values that a code can mean.

    ``values[code]`` is an exact binary32 number, or None for a code that is not a number.
    ``negative_zero`` is the code of -0, if the grid has one.
    """

    name: str
    atom: str
    values: tuple[Fraction | None, ...]
    negative_zero: int | None = None
    #: How frozen values were learned: the recipe's settings, in order. It decides no bit.
    recipe: tuple[tuple[str, str], ...] = ()

    @cached_property
    def numbers(self) -> tuple[Fraction, ...]:
        """Every value of the grid, ascending, each once."""
        return tuple(sorted({v for v in self.values if v is not None}))

    @property
    def low(self) -> Fraction:
        """The smallest value (t- in SOP)."""
        return self.numbers[0]

    @property
    def high(self) -> Fraction:
        """The largest value (t+ in SOP)."""
        return self.numbers[-1]

    @property
    def absmax_end(self) -> Fraction:
        """The endpoint of larger magnitude, the positive one on a tie (t* in SOP)."""
        return self.low if -self.low > self.high else self.high


@dataclass(frozen=True, slots=True)
class ScaleWord:
    """The stored scale: a container of 8, 12, 16 or 32 bits around a small float.

    SOP's SwExMy layout: exponent and mantissa stand together in the middle. With a sign,
    bit b-1 is the sign and the metabits are the low bits. Without one, the first metabit
    is bit b-1 and the others are the low bits.
    """

    name: str
    container: int
    number: SmallFloat

    @property
    def meta_count(self) -> int:
        """How many bits of the container are neither sign nor number."""
        return self.container - self.number.bits

    @property
    def sign_bit(self) -> int | None:
        """The position of the sign bit, counted from the least significant bit."""
        return self.container - 1 if self.number.signed else None

    @property
    def meta_bits(self) -> tuple[int, ...]:
        """The positions of the metabits, the most significant first."""
        if self.number.signed:
            return tuple(range(self.meta_count - 1, -1, -1))
        if self.meta_count == 0:
            return ()
        return (self.container - 1, *range(self.meta_count - 2, -1, -1))

    @property
    def magnitude_lsb(self) -> int:
        """The position of the mantissa's lowest bit."""
        return self.meta_count if self.number.signed else max(0, self.meta_count - 1)


@dataclass(frozen=True, slots=True)
class Scale:
    """How a block's scale is chosen, rounded and stored.

    Attributes:
        rule: ``absmax``, ``argmax`` (signed: the largest element decodes to the endpoint),
            ``range`` (max - min, for a format with a zero point or a minimum), or the rules of
            power-of-two scales: ``floor_log2`` (OCP MX 1.0, section 6.3), ``ceil_log2``,
            ``even_log2`` (torchao's EVEN) and ``round_log2``.
        rounding: ``even``, ``up`` or ``down``, from the real scale to a stored one.
        tensor: ``none``, or ``fp32`` for a second level amax / (t * aim) per tensor, or
            ``rows`` for one per row.
        shift: 0, or a fixed power of two, or None for one chosen per tensor (SOP's F_layer).
        minimum: the least scale of a block that is not all zero.
        zero_block: the magnitude code stored for an all-zero block.
        underflow: ``minimum``: a block too small for the least scale takes the least scale;
            ``zero_block``: one whose scale rounds to zero takes the all-zero block's.
        targets: grid values that the largest element may be scaled to, tried in order; empty:
            the grid's ends.
        search: how many stored scales above and below the rule's are tried as well.
        both_signs: the scale is tried with either sign: the grid and its mirror image.
        codes: ``stored``: elements are rounded under the stored scale; ``wanted``: under the
            fp32 scale before it was stored.
        aim: the scale that the tensor's largest block gets under a second level; None: the
            word's largest.
        stored: the nameless format that fp32 scales are stored in, or None.
        flat: ``stored`` sees all scales of the tensor as one row.
        center: the tensor's mean scale is subtracted before they are ``stored``.
    """

    word: ScaleWord
    rule: str
    rounding: str
    tensor: str
    shift: int | None
    minimum: Fraction
    zero_block: int
    underflow: str = "minimum"
    targets: tuple[Fraction, ...] = ()
    search: int = 0
    both_signs: bool = False
    codes: str = "stored"
    aim: Fraction | None = None
    stored: Format | None = None
    flat: bool = False
    center: bool = False


@dataclass(frozen=True, slots=True)
class Zero:
    """Where a block's zero lies: an integer zero point, or a minimum that is added.

    ``point``: value = (grid - z) * s with an integer z of ``bits`` bits that is a grid value;
    ``add``: z is added ``before`` the quotient is rounded, or ``after``.
    ``minimum``: value = grid * s + m, with m stored as ``word`` or in the format ``stored``
    (negated where ``negated``, as GGUF's K-quants have it; ``flat`` and ``center`` as in
    ``Scale``).
    """

    kind: str
    bits: int = 0
    word: ScaleWord | None = None
    stored: Format | None = None
    negated: bool = False
    flat: bool = False
    center: bool = False
    add: str = field(default="before", metadata=_LATER)


@dataclass(frozen=True, slots=True)
class Side:
    """A sparse stream beside the dense codes, of 16-bit indices and small values.

    ``opq``: elements above ``threshold`` block standard deviations are kept and taken out
    before the block is encoded. ``wr``: the ``fraction`` of elements with the largest (weighted)
    error get their residual stored (SOP, section on corrections).
    """

    kind: str
    value: ScaleWord
    segment: int = 65536
    quantile: Fraction | None = None
    threshold: Fraction | None = None
    fraction: Fraction | None = None

    def bpw(self, block: int) -> Fraction:
        """Bits per weight: of ``wr`` what is stored, of ``opq`` what Gaussian blocks need."""
        share = self.fraction
        if share is None:
            share = _gaussian_outliers(float(self.threshold or 0), block)
        return share * (16 + self.value.container) + Fraction(32, self.segment)


@dataclass(frozen=True, slots=True)
class RecordField:
    """Bits ``low`` to ``low + bits - 1`` of every item of a stream, in a record.

    ``order``: ``low_first``, ``high_first``, ``halves`` (in runs of ``run`` items, byte j holds
    items j and j + run/2) or ``k_quants`` (llama.cpp's scales and minima of 6 or 4 bits).
    """

    stream: str
    bits: int
    low: int
    order: str
    run: int


@dataclass(frozen=True, slots=True)
class Record:
    """An interleaved layout: ``elements`` of a row and all their words, field after field."""

    elements: int
    fields: tuple[RecordField, ...]


@dataclass(frozen=True, slots=True)
class Select:
    """Where the index of a block's grid is stored.

    ``place`` is ``scale.sign``, ``scale.meta``, ``field`` or ``none``; ``positions`` are
    bit positions in the scale word, the index's most significant bit first.
    """

    bits: int = 0
    place: str = "none"
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Policies:
    """The choices that the world disagrees on, each said or defaulted in the .fmt file."""

    tie: str = "even"
    compare: str = "exact"
    overflow: str = "saturate"
    nan: str = "error"
    inf: str = "error"
    negative_zero: str = "keep"
    #: Of a rounded quotient y: RNE32(y + offset) is truncated (llama.cpp); None: y is rounded.
    offset: Fraction | None = None
    #: What a choice between grids or scales makes least: ``squared`` or ``weighted`` squared error,
    #: or what the ``cosine`` lacks to 1.
    error: str = "squared"


@dataclass(frozen=True, slots=True)
class Stream:
    """One run of packed bit fields per row: ``bits`` for every element or every block.

    A "row" of block words is a row of blocks: of [rows, n] elements under ``extent row`` one
    word a row, under ``extent tensor`` one in all, in tiles of r rows one row of words for r
    rows of elements.

    ``order`` is ``low_first`` (field i begins at bit i*bits of a little-endian stream) or
    ``high_first`` (the same counted from each byte's top bit). A row starts on a byte.
    """

    name: str
    bits: int
    per: str
    order: str

    def row_bytes(self, length: int, block: int) -> int:
        """The bytes that this stream takes for a row of ``length`` elements."""
        fields = length if self.per == "element" else -(-length // block)
        return -(-fields * self.bits // 8)


@dataclass(frozen=True, eq=False)
class Format:
    """A compiled number format. Immutable; equal and hashed by its content hash."""

    name: str
    title: str
    cites: tuple[str, ...]
    block: int
    grids: tuple[Grid, ...]
    host: str
    scale: Scale
    select: Select
    policies: Policies
    order: str
    #: What shares a scale: ``block``, ``row`` or ``tensor``. ``block`` is then not used.
    extent: str = "block"
    #: Rows of a two-dimensional tile of tile x block elements.
    tile: int = 1
    zero: Zero | None = None
    sides: tuple[Side, ...] = ()
    record: Record | None = None
    #: SOP's promotion suffix (``knap0.10``): a plan for a whole model; it decides no bit.
    promotion: str = ""
    #: When to use it, and a published figure that it is checked against, each in a line.
    use: str = ""
    check: str = ""
    #: The canonical .fmt text that compiles to this value again.
    source: str = field(repr=False, default="")

    @cached_property
    def code_bits(self) -> int:
        """The stored bits of one element."""
        return (len(self.grids[0].values) - 1).bit_length()

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The packed streams of a tensor that hold one word each, in file order.

        Scales or minima that are stored in a format of their own have that format's streams.
        """
        streams = [Stream("codes", self.code_bits, "element", self.order)]
        if self.scale.stored is None:
            streams.append(Stream("scales", self.scale.word.container, "block", "low_first"))
        if self.zero is not None and self.zero.stored is None:
            word = self.zero.word
            bits = self.zero.bits if word is None else word.container
            streams.append(Stream("zeros", bits, "block", "low_first"))
        if self.select.place == "field":
            streams.append(Stream("select", self.select.bits, "block", "low_first"))
        return tuple(streams)

    @cached_property
    def exact_bpw(self) -> Fraction:
        """Stored bits per weight of a long row of a large tensor, everything counted.

        A record stores the bits of its streams once each, in another order.
        """
        dense = sum((s.bits * self._share(s.per) for s in self.streams), Fraction(0))
        inner = [self.scale.stored, self.zero.stored if self.zero else None]
        dense += sum((f.exact_bpw * self._share("block") for f in inner if f), Fraction(0))
        return dense + sum((side.bpw(self.block) for side in self.sides), Fraction(0))

    def _share(self, per: str) -> Fraction:
        """Of one item ``per`` element or block: how many there are for an element."""
        if per == "element":
            return Fraction(1)
        return Fraction(1, self.block * self.tile) if self.extent == "block" else Fraction(0)

    @cached_property
    def is_plain(self) -> bool:
        """Whether a kernel alone encodes it, by rule.

        Every block of a row has a scale word of its own, chosen by rule for each grid and target,
        and nothing stands beside or around the streams.
        """
        return self.is_blockwise and self.scale.search == 0 and not self.scale.both_signs

    @cached_property
    def is_blockwise(self) -> bool:
        """Whether a kernel that searches encodes it alone.

        It is plain, but that scales beside the rule's may be tried as well.
        """
        scale = self.scale
        direct = scale.word.number.magnitude_bits <= DIRECT_BITS or scale.word.container == 32
        plain_scale = (
            direct
            and scale.stored is None
            and scale.codes == "stored"
            and scale.tensor in ("none", "fp32")
            and not (scale.both_signs and self.select.place == "scale.sign")
        )
        return (
            plain_scale
            and self.extent == "block"
            and self.tile == 1
            and self.zero is None
            and self.policies.error == "squared"
            and not self.sides
            and self.record is None
        )

    @property
    def bpw(self) -> float:
        """Stored bits per weight of a long row, as a float."""
        return float(self.exact_bpw)

    @cached_property
    def hosting(self) -> Hosting | None:
        """The grids as HIF words (coefficient, shift), or None when no HIF host holds them."""
        return find_hosting(tuple(grid.values for grid in self.grids), self.host)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the name and every exact number and policy, as 64 hex digits.

        Titles, sources, comments and spelling do not enter it.
        """
        text = json.dumps(self.semantics(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def semantics(self) -> dict[str, object]:
        """Everything that decides a bit of the output, as plain JSON values."""
        return {
            "version": SEMANTICS_VERSION,
            "name": self.name,
            "block": self.block,
            "extent": self.extent,
            "tile": self.tile,
            "host": self.host,
            "grids": [
                {
                    "name": grid.name,
                    "values": [None if v is None else str(v) for v in grid.values],
                    "negative_zero": grid.negative_zero,
                }
                for grid in self.grids
            ],
            "scale": _plain(self.scale),
            "zero": _plain(self.zero),
            "select": _plain(self.select),
            "policies": _plain(self.policies),
            "order": self.order,
            "sides": _plain(self.sides),
            "record": _plain(self.record),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Format) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)


@lru_cache(maxsize=64)
def _gaussian_outliers(threshold: float, block: int) -> Fraction:
    """The share of Gaussian elements beyond ``threshold`` deviations of their own block.

    x^2 / (sum of squares) of a block of g has the distribution Beta(1/2, (g - 1) / 2).
    """
    reach = threshold * threshold / block
    if block == 1 or reach >= 1:
        return Fraction(0)
    from mpmath import betainc

    inside = betainc(0.5, (block - 1) / 2, 0, reach, regularized=True)
    return Fraction(float(1 - inside)).limit_denominator(10**9)


def _plain(value: object) -> object:
    """A value of this module as JSON values. Names of words decide no bit and are left out."""
    if isinstance(value, Format):
        return value.semantics()
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        named = {
            f.name: _plain(getattr(value, f.name))
            for f in fields(value)
            if not (f.metadata.get("later") and getattr(value, f.name) == f.default)
        }
        return {k: v for k, v in named.items() if not (k == "name" and "container" in named)}
    return value
