"""What the Triton templates need to know of a format, decided once, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from ...compiler.exact import FP32_MAX, fp32_bits, fp32_from_bits
from ...compiler.format import Stream
from ...compiler.view import NAN_BITS, NEGATIVE_ZERO_BITS, GridView, View

#: Up to this many thresholds a kernel spells them out; above, it loops over a table.
MAX_SPELT_OUT = 32
MAX_SPELT_OUT_IN_ALL = 64

#: Elements that one program of the encoder and the decoder works on.
TILE = 1024

#: Elements of one step of a GEMV program, all rows together, and its rows.
GEMV_TILE = 4096
GEMV_ROWS = 4

#: Tie modes of a threshold, the last column of ``Threshold``.
TIE_DOWN, TIE_UP, TIE_UP_AT_ZERO = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Threshold:
    """One step of a grid's ladder: above it an element takes ``code``.

    ``kind`` is ``product`` (scale * midpoint), ``zero`` (the midpoint is zero), ``split``
    (between -0 and +0) or ``quotient`` (a constant key). ``key`` is a constant key, or 0.
    """

    kind: str
    midpoint: float
    tie: int
    key: int
    code: int

    @property
    def text(self) -> str:
        """The midpoint as a literal that reads back exactly."""
        return repr(self.midpoint).replace("e+", "e")

    @property
    def label(self) -> str:
        """The value that a quotient is compared with, for a comment."""
        return f"{fp32_from_bits(_bits_of_key(self.key)):.9g}"


@dataclass(frozen=True, slots=True)
class GridPlan:
    """One grid: its ladder, and where it starts."""

    index: int
    name: str
    first_code: int
    thresholds: tuple[Threshold, ...]
    offset: int
    zero_code: int
    end_is_negative: bool
    largest_scale_bits: int
    select_bits: int


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """One way to encode a block: a grid, and how its scale follows from the peaks.

    ``target`` is what the largest element is scaled to, a literal, where there is a choice.
    """

    index: int
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
    def fused(self) -> bool:
        """Whether kernels choose and read the scale words, besides those that are given scales."""
        return self.view.format.is_plain

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
        return frozenset(peak for trial in self.trials for peak in trial.peaks)

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
        return len(self.trials) > 1

    @property
    def reads_select(self) -> bool:
        """Whether a block says which grid it has."""
        return self.several or self.view.format.select.bits > 0

    @property
    def needs_peak(self) -> bool:
        """Whether the largest magnitude of a block is asked for."""
        scale = self.view.scale
        return "peak" in self.peaks or scale.is_fp32 or scale.signed_rule or self.propagates_nan

    @property
    def mirrors(self) -> bool:
        """Whether some kernel flips numbers under a negative scale."""
        return not self.exact or (self.fused and self.view.scale.sign_bit is not None)

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
    def gemv_blocks(self) -> int:
        """Blocks of one step of one row of a GEMV program."""
        return max(1, GEMV_TILE // (GEMV_ROWS * self.lanes))

    @property
    def gemv_depth(self) -> int:
        """Roundings on the way of one product into a GEMV's sum, besides the ascending steps."""
        return gemv_depth(self.lanes, self.gemv_blocks)

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
    ladders = [_ladder(grid, exact, moved) for grid in view.grids]
    counts = [len(ladder) for ladder in ladders]
    offsets = [sum(counts[:i]) for i in range(len(counts))]
    plans = tuple(
        GridPlan(
            index=index,
            name=grid.name,
            first_code=grid.order[0],
            thresholds=ladder,
            offset=offset,
            zero_code=grid.zero_code,
            end_is_negative=grid.end_is_negative,
            largest_scale_bits=grid.largest_scale_bits,
            select_bits=_select_bits(view, index),
        )
        for index, (grid, ladder, offset) in enumerate(
            zip(view.grids, ladders, offsets, strict=True)
        )
    )
    if fmt.is_plain:
        _check_scale(view)
    return Plan(
        view=view,
        grids=plans,
        trials=tuple(
            TrialPlan(
                index=index,
                grid=plans[trial.grid],
                positive_divisor=float(trial.positive_divisor),
                negative_divisor=float(trial.negative_divisor),
                target=f"{float(trial.positive_divisor):g}" if len(fmt.scale.targets) > 1 else "",
            )
            for index, trial in enumerate(view.trials)
        ),
        scale=_scale_plan(view) if fmt.is_plain else ScalePlan("word"),
        lanes=1 << (fmt.block - 1).bit_length(),
        spelt_out=max(counts) <= MAX_SPELT_OUT and sum(counts) <= MAX_SPELT_OUT_IN_ALL,
    )


def gemv_depth(lanes: int, blocks: int) -> int:
    """Roundings on the way of one product into a sum over ``blocks`` blocks by trees.

    One a level of either tree, and one each for value * x, the scale, its product with the
    block's sum, the decoded weight that is compared with, and a pair's inner sum.
    """
    return lanes.bit_length() + blocks.bit_length() + 5


def total_order_key(bits: int) -> int:
    """The signed 32-bit key of binary32 bits: ascending like the numbers, -0 below +0."""
    return bits if bits < NEGATIVE_ZERO_BITS else NEGATIVE_ZERO_BITS - 1 - bits


def _bits_of_key(key: int) -> int:
    return key if key >= 0 else NEGATIVE_ZERO_BITS - 1 - key


def _ladder(grid: GridView, exact: bool, moved: bool) -> tuple[Threshold, ...]:
    """The grid's thresholds in ascending order, each with the code above it.

    The last threshold below x decides, which is the count of those below it as they ascend.
    Two quotients may round to the same number and swap places: sorted, the count stays.
    ``moved``: exact midpoints are taken less a zero point, so that no threshold is constant.
    """
    if not exact:
        keys = sorted(total_order_key(bits) for bits in grid.quotient_bits)
        return tuple(
            Threshold("quotient", 0.0, TIE_DOWN, key, code)
            for key, code in zip(keys, grid.order[1:], strict=True)
        )
    steps = []
    for index, (middle, up) in enumerate(zip(grid.midpoints, grid.ties_up, strict=True)):
        code = grid.order[index + 1]
        if moved:
            tie = TIE_UP if up or index == grid.zero_split else TIE_DOWN
            steps.append(Threshold("product", float(middle), tie, 0, code))
        elif index == grid.zero_split:
            steps.append(Threshold("split", 0.0, TIE_UP, -1, code))
        elif middle == 0:
            tie = TIE_UP_AT_ZERO if up else TIE_DOWN
            steps.append(Threshold("zero", 0.0, tie, -tie, code))
        else:
            tie = TIE_UP if up else TIE_DOWN
            steps.append(Threshold("product", float(middle), tie, 0, code))
    return tuple(steps)


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
