"""What encoding a tensor did to its blocks, and exactly how near that comes to a bound."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...arrange import Arrangement, Peaks, peaks_of
from ...blockscale import block_range
from ...engine import ReferenceEngine
from ...exact import fp32_from_bits
from ...format import Format, Stream
from ...kernel import dense_format, kernel_format, wanted_format
from ...packing import unpack
from ...pipeline import decode, encode
from ...records import from_records
from ...reference import TensorLevel, block_scales, calibrate, select_of
from ...scales import is_fp32_word
from ...sides import take_outliers
from ...stored import read_stored
from ...streams import LEVELS, RECORDS
from ...view import view_of
from ..coder import Coder, coders_of
from ..proof import Statement
from ..slack import element_count
from ..words import LEAST, NORMAL, SUBNORMAL, ratios_of, words_of

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

#: Regimes that ``Outcome.regime`` knows beside those of words.
ZERO, SATURATED = "zero", "saturated"

#: First row, last row + 1, first column, last column + 1.
Place = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A tensor and what became of it.

    Attributes:
        fmt: the format.
        x, decoded: float32 [rows, n], before and after. Where the format takes outliers out,
            these are 0 in both: they are no part of their blocks.
        stored: float32 [block rows, block columns], every block's stored scale in units of the
            second level, with its sign.
        levels: float32 [block rows], the second level.
        selects: uint8 [block rows, block columns], every block's grid.
        inner: float32 [block rows, block columns], the stored scale that every block's scale is
            stored under, where scales have a format of their own; else None.
    """

    fmt: Format
    x: F32
    decoded: F32
    stored: F32
    levels: F32
    selects: U8
    inner: F32 | None = None

    @property
    def arrangement(self) -> Arrangement:
        """How the elements fall into blocks."""
        return Arrangement.of(self.fmt, self.x.shape[0], self.x.shape[1])

    def block_of(self, place: Place) -> tuple[int, int]:
        """Row and column of a block among the blocks."""
        if self.fmt.extent == "tensor":
            return 0, 0
        column = place[2] // self.fmt.block if self.fmt.extent == "block" else 0
        return place[0] // self.fmt.tile, column

    def scale(self, place: Place) -> Fraction:
        """The exact product of stored scale and second level, which binary32 rounds."""
        row, column = self.block_of(place)
        return Fraction(float(self.stored[row, column])) * Fraction(float(self.levels[row]))


def outcome(fmt: Format, x: F32) -> Outcome:
    """Encode and decode rows by the reference."""
    level = calibrate(fmt, x)
    streams = encode(fmt, x, level)
    return outcome_of(fmt, x, streams, decode(fmt, streams, x.shape[1], level), level)


def outcome_of(
    fmt: Format, x: F32, streams: dict[str, U8], decoded: F32, level: TensorLevel
) -> Outcome:
    """What streams that a back end made say of the blocks."""
    rows, length = x.shape
    arrangement = Arrangement.of(fmt, rows, length)
    dense = streams if fmt.record is None else from_records(fmt, streams[RECORDS], length)
    levels = np.full(arrangement.block_shape[0], level.multiplier, np.float32)
    if fmt.scale.tensor == "rows":
        levels = dense[LEVELS].reshape(-1).view("<f4").astype(np.float32)[:: fmt.tile]
    x, decoded = _without_outliers(fmt, x, decoded)
    stored, selects = _stored(dense_format(fmt), dense, arrangement.block_shape)
    inner = _inner(fmt, dense, arrangement.block_shape)
    return Outcome(fmt, x, decoded, stored, levels, selects, inner)


def _without_outliers(fmt: Format, x: F32, decoded: F32) -> tuple[F32, F32]:
    for side in fmt.sides:
        if side.kind == "opq":
            rest, taken = take_outliers(side, x, fmt.block)
            inside = decoded.copy()
            inside.reshape(-1)[taken.index] = 0
            x, decoded = rest, inside
    return x, decoded


def _stored(fmt: Format, streams: dict[str, U8], shape: tuple[int, int]) -> tuple[F32, U8]:
    scale = fmt.scale
    if scale.stored is not None:
        engine = ReferenceEngine(kernel_format(scale.stored))
        stored = read_stored(
            streams, scale.stored, shape, scale.flat, scale.center, "scales", engine
        )
        selects = np.zeros(shape, np.uint8)
    else:
        stream = Stream("scales", scale.word.container, "block", "low_first")
        words = unpack(streams["scales"], shape[1], stream).astype(np.uint32)
        stored = block_scales(view_of(fmt), words, 1.0)
        selects = select_of(view_of(fmt), words).astype(np.uint8)
    if fmt.select.place == "field":
        stream = Stream("select", fmt.select.bits, "block", "low_first")
        selects = unpack(streams["select"], shape[1], stream).astype(np.uint8)
    return np.asarray(stored, np.float32), selects


def _inner(fmt: Format, streams: dict[str, U8], shape: tuple[int, int]) -> F32 | None:
    """The stored scales of the scales' own format, one a block."""
    inner = fmt.scale.stored
    if inner is None or inner.scale.stored is not None:
        return None
    matrix = (1, shape[0] * shape[1]) if fmt.scale.flat else shape
    arrangement = Arrangement.of(inner, *matrix)
    stream = Stream("scales", inner.scale.word.container, "block", "low_first")
    words = unpack(streams["scales.scales"], arrangement.block_shape[1], stream).astype(np.uint32)
    scales = arrangement.expand(block_scales(view_of(inner), words, 1.0))
    wide = np.repeat(scales, inner.block, axis=1)[:, : matrix[1]]
    return np.asarray(wide.reshape(shape), np.float32)


def regimes_of(outcome: Outcome) -> NDArray[np.str_]:
    """The regime of every block, by its stored word: str [block rows, block columns].

    Where scales have a format of their own, it is that of the word that this format stores.

    A block is ``saturated`` where a trial of its grid would ask for more than any stored scale
    takes, or where its products leave binary32; ``zero`` where all its elements are.
    """
    peaks = peaks_of(outcome.arrangement, outcome.x)
    fmt, sizes = outcome.fmt, np.abs(outcome.stored)
    if fmt.scale.stored is not None and outcome.inner is not None:
        fmt, sizes = fmt.scale.stored, np.abs(outcome.inner)
    found = np.where(sizes >= _smallest_normal(fmt), NORMAL, SUBNORMAL).astype("<U9")
    found[sizes <= _first_word(fmt)] = LEAST
    if outcome.inner is None:
        found[_vanishes(outcome, peaks.largest)] = LEAST
        found[_saturates(outcome, peaks)] = SATURATED
    elif words_of(fmt):
        # Some of these are within what the largest word takes.
        found[sizes >= np.float32(float(words_of(fmt)[-1].value))] = SATURATED
    found[peaks.largest == 0] = ZERO
    return found


def _vanishes(outcome: Outcome, largest: F32) -> NDArray[np.bool_]:
    """Which blocks may have been too small for any scale: they have that of all-zero blocks."""
    fmt = outcome.fmt
    words = words_of(fmt)
    if fmt.scale.underflow != "zero_block" or not words:
        return np.zeros(outcome.stored.shape, np.bool_)
    zero = fmt.scale.word.number.magnitude(fmt.scale.zero_block) or Fraction(0)
    reach = max(max(coder.positive, coder.negative) for coder in coders_of(fmt))
    most = float(words[0].low * reach) * outcome.levels[:, None].astype(np.float64)
    few = largest <= most * (1 + 2.0**-20)
    return np.asarray(few & (np.abs(outcome.stored) == np.float32(float(zero))), np.bool_)


@lru_cache(maxsize=64)
def _largest_ratio(fmt: Format) -> Fraction:
    """The largest ratio of asked and stored that bounds cover in the largest word's regime."""
    spans = ratios_of(fmt, words_of(fmt)[-1].regime)
    return max((span.high for span in spans), default=Fraction(0))


def _first_word(fmt: Format) -> np.float32:
    words = words_of(fmt)
    if not words:
        return np.float32(fp32_from_bits(view_of(wanted_format(fmt)).scale.minimum_bits))
    return np.float32(float(words[0].value))


def _smallest_normal(fmt: Format) -> np.float32:
    return np.float32(float(fmt.scale.word.number.smallest_normal))


def _saturates(outcome: Outcome, peaks: Peaks) -> NDArray[np.bool_]:
    fmt = outcome.fmt
    words = words_of(fmt)
    if is_fp32_word(fmt.scale.word) or not words:
        return np.zeros(outcome.stored.shape, np.bool_)
    largest = words[-1].value
    most = float(largest * _largest_ratio(fmt))
    asked = np.zeros(outcome.stored.shape)
    sides = peaks.positive.astype(np.float64), peaks.negative.astype(np.float64)
    if fmt.scale.rule == "range":
        low, high = (end.astype(np.float64) for end in block_range(fmt.zero, peaks))
        sides = high - low, np.zeros_like(low)
    for coder in coders_of(fmt):
        ends = [max(coder.positive, coder.negative)] * 2 if fmt.scale.rule == "argmax" else []
        for divisor, peak in zip(ends or (coder.positive, coder.negative), sides, strict=True):
            if divisor:
                asked = np.maximum(asked, peak / float(divisor))
    past: NDArray[np.bool_] = asked > most * outcome.levels[:, None].astype(np.float64)
    return past & (np.abs(outcome.stored) >= np.float32(float(largest)))


def share_reached(
    outcome: Outcome, statement: Statement, place: Place, element: tuple[int, int] | None
) -> Fraction:
    """The error of an element or block over the bound that a statement gives it, exactly.

    It is 0 where the statement does not speak of it: a block in another regime, or an element on
    the other side of the grid's end. A bound of 0 that is kept counts as reached.
    """
    if not _applies(outcome, statement, place):
        return Fraction(0)
    error = _error(outcome, statement, place, element)
    if error is None:
        return Fraction(0)
    if statement.bound == 0:
        return Fraction(int(error == 0))
    return error / statement.bound


def _applies(outcome: Outcome, statement: Statement, place: Place) -> bool:
    """Whether a statement speaks of a block."""
    regime = regimes_of(outcome)[outcome.block_of(place)]
    # ``regular`` blocks have normal words, whichever trial they take.
    if regime != (NORMAL if statement.regime == "regular" else statement.regime):
        return False
    if statement.domain is None:
        return True
    level = Fraction(float(outcome.levels[outcome.block_of(place)[0]]))
    low, high = statement.domain
    return low * level <= _absmax(_elements(outcome.x, place)) <= high * level


def _absmax(elements: F32) -> Fraction:
    return Fraction(float(np.abs(elements).max()))


def _error(
    outcome: Outcome, statement: Statement, place: Place, element: tuple[int, int] | None
) -> Fraction | None:
    if statement.measure.endswith("block"):
        return _squares(outcome, place, _owner(outcome, statement.measure, place))
    if element is None:
        raise ValueError(f"'{statement.name}' is about one element")
    x, decoded = (Fraction(float(a[element])) for a in (outcome.x, outcome.decoded))
    wanted = outcome.fmt.scale.codes == "wanted"
    scale = asked_scale(outcome, place) if wanted else abs(outcome.scale(place))
    unit = _unit(outcome, statement.measure, place, x, scale)
    if statement.measure == "zero":
        return abs(decoded) / unit
    # Where the zero is moved, an element's place in the grid is not its share of the scale.
    if statement.measure != "least" and outcome.fmt.zero is None:
        if not scale:
            return None  # a scale that was stored as zero is another regime's
        y = x / scale * _sign(outcome, place)
        if not _speaks(statement, _coder(outcome, place), y):
            return None
    return abs(x - decoded) / unit


def _unit(outcome: Outcome, measure: str, place: Place, x: Fraction, scale: Fraction) -> Fraction:
    """What the error of an element counts in."""
    fmt = outcome.fmt
    level = Fraction(float(outcome.levels[outcome.block_of(place)[0]]))
    match measure:
        case "zero":
            return level
        case "self":
            return abs(x)
        case "least" if fmt.scale.codes == "stored" or fmt.zero is not None:
            return words_of(fmt.scale.stored or fmt)[0].value * level
        case "least" | "scale":
            return scale
        case _:
            return _owner(outcome, measure, place)


def _owner(outcome: Outcome, measure: str, place: Place) -> Fraction:
    """The absmax that errors count against: of the block, its group, or the tensor."""
    inner = outcome.fmt.scale.stored
    if measure.startswith("tensor"):
        return _absmax(outcome.x)
    if not measure.startswith("group") or inner is None:
        return _absmax(_elements(outcome.x, place))
    sizes = peaks_of(outcome.arrangement, outcome.x).largest
    row, column = outcome.block_of(place)
    index = column
    if outcome.fmt.scale.flat:
        sizes, row, index = sizes.reshape(1, -1), 0, row * sizes.shape[1] + column
    if inner.extent != "block":
        return _absmax(sizes[row])
    start = index // inner.block * inner.block
    return _absmax(sizes[row, start : start + inner.block])


def _speaks(statement: Statement, coder: Coder, y: Fraction) -> bool:
    """Whether a statement is about an element at y of its grid."""
    inside = coder.values[0] <= y <= coder.values[-1]
    if statement.measure == "self" and abs(y) < min(abs(v) for v in coder.values if v):
        return False
    return statement.kind == "any" or inside == (statement.kind == "rounding")


def _sign(outcome: Outcome, place: Place) -> int:
    """-1 where the scale mirrors the grid."""
    if not view_of(wanted_format(outcome.fmt)).scale.signed_rule:
        return 1
    return -1 if np.signbit(outcome.stored[outcome.block_of(place)]) else 1


def _coder(outcome: Outcome, place: Place) -> Coder:
    """The coder of the grid that the block took, mirrored where its scale is negative."""
    where = outcome.block_of(place)
    select = int(outcome.selects[where])
    flipped = bool(np.signbit(outcome.stored[where]))
    trials = view_of(wanted_format(outcome.fmt)).trials
    both = outcome.fmt.scale.both_signs
    found = zip(trials, coders_of(outcome.fmt), strict=True)
    return next(c for t, c in found if t.grid == select and (not both or t.flip == flipped))


def asked_scale(outcome: Outcome, place: Place) -> Fraction:
    """The exact scale that a block's peaks ask for, by the first trial; zero is in a range."""
    elements = _elements(outcome.x, place)
    coder = coders_of(outcome.fmt)[0]
    positive, negative = (Fraction(max(float(p), 0.0)) for p in (elements.max(), -elements.min()))
    if outcome.fmt.scale.rule == "range":
        return (positive + negative) / coder.positive
    if outcome.fmt.scale.rule == "argmax":
        return max(positive, negative) / max(coder.positive, coder.negative)
    asked = [
        peak / divisor
        for peak, divisor in ((positive, coder.positive), (negative, coder.negative))
        if divisor
    ]
    return max(asked)


def _elements(values: F32, place: Place) -> F32:
    return values[place[0] : place[1], place[2] : place[3]]


def _squares(outcome: Outcome, place: Place, absmax: Fraction) -> Fraction:
    """The sum of squared errors over absmax^2; of rows and tensors its mean."""
    pairs = np.stack([_elements(a, place).reshape(-1) for a in (outcome.x, outcome.decoded)], 1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    total = sum(
        int(count) * (Fraction(float(x)) - Fraction(float(decoded))) ** 2
        for (x, decoded), count in zip(kinds, counts, strict=True)
    )
    if not absmax:
        return Fraction(0)
    count = 1 if element_count(outcome.fmt) else len(pairs)
    return total / absmax**2 / count
