"""What the Triton templates need to know of a format, decided once, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from ...compiler.exact import FP32_MAX, fp32_bits, fp32_from_bits
from ...compiler.format import Stream
from ...compiler.view import NAN_BITS, View
from .ladders import Threshold, ladder_of, sign_of

#: Up to this many thresholds a kernel spells them out; above, it loops over a table.
MAX_SPELT_OUT = 32
MAX_SPELT_OUT_IN_ALL = 64

#: Elements that one program of the encoder and the decoder works on.
TILE = 1024


@dataclass(frozen=True, slots=True)
class GridPlan:
    """One grid: its ladder, and where it starts.

    ``sign`` is the bit of a code that mirrors its value, where the whole ladder mirrors itself:
    then ``first_code`` and ``thresholds`` are those of magnitudes. It is 0 where it does not.
    """

    index: int
    name: str
    first_code: int
    sign: int
    thresholds: tuple[Threshold, ...]
    offset: int
    zero_code: int
    end_is_negative: bool
    largest_scale_bits: int
    select_bits: int


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """One way to encode a block: a grid, and how its scale follows from the peaks.

    ``row`` is that of its scale thresholds. ``target`` is what the largest element is scaled to,
    a literal, where there is a choice.
    """

    index: int
    row: int
    grid: GridPlan
    positive_divisor: float
    negative_divisor: float
    target: str

    @property
    def peaks(self) -> tuple[str, ...]:
        """The peaks that count: ``("peak",)`` where both sides count alike."""
        if self.positive_divisor == self.negative_divisor:
            return ("peak",)
        return ("positive",) if self.negative_divisor == 0 else ("positive", "negative")

    @property
    def mirrored_peaks(self) -> tuple[str, ...]:
        """The peaks that count under a negative scale."""
        swapped = {"positive": "negative", "negative": "positive"}
        return tuple(swapped.get(peak, peak) for peak in self.peaks)


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """How a magnitude code becomes binary32.

    ``kind`` is ``word`` (it is the number), ``shift`` (bits = (code << shift) + offset),
    ``rescale`` (the number with bits code << shift, times ``factor``) or ``table``.
    ``first_bits`` overrides code 0 of ``shift``; codes from ``first_nan`` on are NaN.
    """

    kind: str
    shift: int = 0
    offset: int = 0
    factor: float = 1.0
    first_bits: int | None = None
    first_nan: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A format as the Triton templates see it."""

    view: View
    grids: tuple[GridPlan, ...]
    trials: tuple[TrialPlan, ...]
    scale: ScalePlan
    lanes: int
    spelt_out: bool

    @property
    def packs_in_kernel(self) -> bool:
        """Whether every block's codes fill whole bytes, none of which holds a split code."""
        bits = self.view.format.code_bits
        return 8 % bits == 0 and self.view.format.block * bits % 8 == 0

    @property
    def pairs(self) -> bool:
        """Whether two codes share a byte that is looked up at once."""
        return self.view.format.code_bits == 4 and self.packs_in_kernel

    @property
    def words(self) -> bool:
        """Whether a block's codes fill 32-bit words of eight, which are decoded at once."""
        return self.pairs and self.lanes == self.view.format.block and self.lanes >= 8

    @property
    def decodes_whole(self) -> bool:
        """Whether rows of whole blocks decode as one row: all that a block has fills bytes."""
        loose = self.fused and any(
            stream.bits % 8 for stream in self.view.format.streams if stream.per == "block"
        )
        return self.packs_in_kernel and not self.words and not loose

    @property
    def fused(self) -> bool:
        """Whether kernels choose and read the scale words, besides those that are given scales."""
        return self.view.format.is_blockwise

    @property
    def search(self) -> int:
        """How many stored scales above and below the rule's are tried as well."""
        return self.view.format.scale.search

    @property
    def both_signs(self) -> bool:
        """Whether every scale is tried with either sign."""
        return self.view.format.scale.both_signs

    @property
    def searches(self) -> bool:
        """Whether a grid and target are tried under several scales."""
        return self.search > 0 or self.both_signs

    @property
    def turns(self) -> int:
        """Scales that a grid and target are tried under."""
        return (2 * self.search + 1) * (2 if self.both_signs else 1)

    @property
    def zero(self) -> str:
        """What every block is given besides its scale: ``none``, ``point`` or ``minimum``."""
        zero = self.view.format.zero
        return "none" if zero is None else zero.kind

    @property
    def packs_words(self) -> bool:
        """Whether scale words begin within bytes and need the packing kernel."""
        return self.view.scale.container % 8 != 0

    @property
    def word_type(self) -> int:
        """Bits of the integers that scale words are read and written as: of bytes if packed."""
        return 8 if self.packs_words else self.view.scale.container

    @property
    def word_octets(self) -> int:
        """The most bytes that one scale word has bits in."""
        bits = self.view.scale.container
        return -(-(8 - gcd(bits, 8) + bits) // 8)

    @property
    def zero_is_nan(self) -> bool:
        """Whether code 0, which fills masked lanes, is no number."""
        return self.view.decode_bits[0] == NAN_BITS

    @property
    def propagates_nan(self) -> bool:
        """Whether a NaN reaches the encoder."""
        return self.view.format.policies.nan == "propagate"

    @property
    def kinds(self) -> frozenset[tuple[str, int]]:
        """The (kind, tie) pairs in use, so that only their helpers are written."""
        return frozenset((t.kind, t.tie) for grid in self.grids for t in grid.thresholds)

    @property
    def peaks(self) -> frozenset[str]:
        """The peaks that some trial asks for."""
        return frozenset(peak for trial in self.trials for peak in self.peaks_of(trial))

    def peaks_of(self, trial: TrialPlan) -> tuple[str, ...]:
        """The peaks that a trial asks for: ``peak``, of any sign, before those of one."""
        asked = {*trial.peaks, *(trial.mirrored_peaks if self.both_signs else ())}
        scale = self.view.scale
        if scale.signed_rule or (scale.is_fp32 and len(trial.peaks) == 2):
            asked.add("peak")
        return tuple(peak for peak in ("peak", "positive", "negative") if peak in asked)

    @property
    def exact(self) -> bool:
        """Whether elements meet scale * midpoint, and not a rounded quotient the midpoint."""
        return self.view.format.policies.compare == "exact"

    @property
    def reciprocal(self) -> bool:
        """Whether elements are multiplied by the rounded 1 / scale before they are compared."""
        return self.view.format.policies.compare == "fp32_reciprocal"

    @property
    def several(self) -> bool:
        """Whether a block has a choice among grids."""
        return len(self.grids) > 1

    @property
    def chooses(self) -> bool:
        """Whether a block is encoded in several ways, of which the one that errs least stays."""
        return len(self.trials) > 1 or self.searches

    @property
    def reads_select(self) -> bool:
        """Whether a block says which grid it has."""
        return self.several or self.view.format.select.bits > 0

    @property
    def needs_peak(self) -> bool:
        """Whether the largest magnitude of a block is asked for."""
        return "peak" in self.peaks or self.propagates_nan

    @property
    def scale_tables(self) -> tuple[str, ...]:
        """Names of the tables that decode a scale word."""
        return ("scale_values",) if self.fused and self.scale.kind == "table" else ()

    @property
    def ladder_tables(self) -> tuple[str, ...]:
        """Names of the tables that a loop over thresholds reads."""
        if self.spelt_out:
            return ()
        return ("midpoints", "ties", "codes_above") if self.exact else ("keys", "codes_above")

    @property
    def encode_tables(self) -> tuple[str, ...]:
        """Names of the tables that the encoder reads."""
        values = ("values",) if self.fused and self.chooses else ()
        return (*values, *self.scale_tables, *self.ladder_tables)

    @property
    def decode_tables(self) -> tuple[str, ...]:
        """Names of the tables that the decoder reads."""
        return ("pairs" if self.pairs else "values", *self.scale_tables)

    @property
    def encode_mirrors(self) -> bool:
        """Whether the encoder flips numbers, and not their keys, under a negative scale."""
        return not self.exact or (
            self.fused and self.chooses and (self.view.scale.signed_rule or self.both_signs)
        )

    @property
    def decode_mirrors(self) -> bool:
        """Whether a stored sign flips the scale."""
        return self.fused and self.view.scale.sign_bit is not None

    @property
    def packed_streams(self) -> tuple[Stream, ...]:
        """The streams that go through the packing kernel."""
        loose = {
            "codes": not self.packs_in_kernel,
            "scales": self.fused and self.packs_words,
            "select": self.fused,
        }
        return tuple(s for s in self.view.format.streams if loose.get(s.name, False))

    @property
    def encode_blocks(self) -> int:
        """Blocks of one program of the encoder and the decoder."""
        return max(1, TILE // self.lanes)

    @property
    def warps(self) -> int:
        """Warps of a program."""
        return 8 if self.lanes > 2 * TILE else 4


def plan_of(view: View) -> Plan:
    """Decide how the kernels of a format are written.

    Raises:
        ValueError: a table is not of the shape that the kernels rely on; the message
            names the reason.
    """
    fmt = view.format
    exact = fmt.policies.compare == "exact"
    moved = fmt.zero is not None and fmt.zero.kind == "point"
    ladders = [ladder_of(grid, exact, moved) for grid in view.grids]
    signs = [sign_of(grid, ladder) for grid, ladder in zip(view.grids, ladders, strict=True)]
    ladders = [
        ladder[len(ladder) // 2 + 1 :] if sign else ladder
        for sign, ladder in zip(signs, ladders, strict=True)
    ]
    counts = [len(ladder) for ladder in ladders]
    offsets = [sum(counts[:i]) for i in range(len(counts))]
    plans = tuple(
        GridPlan(
            index=index,
            name=grid.name,
            first_code=grid.order[len(grid.order) // 2 if sign else 0],
            sign=sign,
            thresholds=ladder,
            offset=offset,
            zero_code=grid.zero_code,
            end_is_negative=grid.end_is_negative,
            largest_scale_bits=grid.largest_scale_bits,
            select_bits=_select_bits(view, index),
        )
        for index, (grid, sign, ladder, offset) in enumerate(
            zip(view.grids, signs, ladders, offsets, strict=True)
        )
    )
    if fmt.is_blockwise:
        _check_scale(view)
    by_rule = [(row, t) for row, t in enumerate(view.trials) if not t.flip and t.step == 0]
    return Plan(
        view=view,
        grids=plans,
        trials=tuple(
            TrialPlan(
                index=index,
                row=row,
                grid=plans[trial.grid],
                positive_divisor=float(trial.positive_divisor),
                negative_divisor=float(trial.negative_divisor),
                target=f"{float(trial.positive_divisor):g}" if len(fmt.scale.targets) > 1 else "",
            )
            for index, (row, trial) in enumerate(by_rule)
        ),
        scale=_scale_plan(view) if fmt.is_blockwise else ScalePlan("word"),
        lanes=1 << (fmt.block - 1).bit_length(),
        spelt_out=max(counts) <= MAX_SPELT_OUT and sum(counts) <= MAX_SPELT_OUT_IN_ALL,
    )


def _select_bits(view: View, index: int) -> int:
    """The bits of a scale word that say ``index``, as a signed 32-bit number."""
    positions = reversed(view.format.select.positions)
    bits = sum(1 << position for i, position in enumerate(positions) if index >> i & 1)
    return bits - (1 << 32) if bits >> 31 else bits


def _check_scale(view: View) -> None:
    ranks = view.scale.ranks[1:]
    if ranks and ranks != tuple(range(ranks[0], ranks[0] + len(ranks))):
        raise ValueError("triton: the scale word's magnitudes do not ascend with their codes")
    if any(trial.positive_divisor > FP32_MAX for trial in view.trials):
        raise ValueError("triton: a grid's end lies outside binary32")


def _scale_plan(view: View) -> ScalePlan:
    """The cheapest way to decode the scale word that has the table's bits for every code."""
    if view.scale.is_fp32:
        return ScalePlan("word")
    values = view.scale.values_bits
    first_nan = values.index(NAN_BITS) if NAN_BITS in values else len(values)
    numbers = values[:first_nan]
    if any(bits != NAN_BITS for bits in values[first_nan:]) or len(numbers) < 2:
        return ScalePlan("table")
    nan = first_nan if first_nan < len(values) else None
    number = view.format.scale.word.number
    shift = 23 - number.mantissa
    offset = numbers[1] - (1 << shift)
    if all(bits == (code << shift) + offset for code, bits in enumerate(numbers) if code):
        first = None if numbers[0] == offset else numbers[0]
        return ScalePlan("shift", shift, offset, first_bits=first, first_nan=nan)
    power = 127 - number.bias
    if -126 <= power <= 127:
        factor = 2.0**power
        scaled = [fp32_from_bits(code << shift) * factor for code in range(len(numbers))]
        if all(s <= FP32_MAX and fp32_bits(s) == b for s, b in zip(scaled, numbers, strict=True)):
            return ScalePlan("rescale", shift, factor=factor, first_nan=nan)
    return ScalePlan("table")
