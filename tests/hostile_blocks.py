"""Blocks that try to exceed the proven bounds, and a check of millions of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from fmtc import Format
from fmtc.compiler.arrange import peaks_of
from fmtc.compiler.bounds.coder import coders_of
from fmtc.compiler.bounds.proof import Proof, Statement
from fmtc.compiler.bounds.witness.build import array_of, unit
from fmtc.compiler.bounds.witness.measured import Outcome, outcome_of, regimes_of
from fmtc.compiler.bounds.words import words_of
from fmtc.compiler.kernel import wanted_format
from fmtc.compiler.reference import calibrate
from fmtc.compiler.view import view_of
from fmtc.runtime.choose import backend_for
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rng = np.random.Generator

#: Elements of a tensor that is encoded at once.
PIECE = 1 << 19

#: Elements of a row where rows and tensors are blocks, and the rows of such a tensor.
ROW, TENSOR_ROWS = 192, 2

#: Scales outside these may make a product on the way subnormal or infinite in binary32.
SMALLEST, LARGEST = 2.0**-95, 2.0**95

#: Binary64 arithmetic on thousands of terms errs by less than this.
CARE = 1e-11


@dataclass(frozen=True)
class Excess:
    """A bound that does not hold: its name, the error's share of it, and the block."""

    name: str
    share: float
    block: F32


# -- inputs --------------------------------------------------------------------------------


def tensors(fmt: Format, proof: Proof, blocks: int, seed: int) -> Iterator[F32]:
    """Tensors with about so many blocks in all, of every kind in turn."""
    rng = np.random.default_rng(seed)
    kinds = [_laws, _edges, _mutants]
    size = block_elements(fmt)
    # Tensors that are one block are encoded one by one: a few of them do.
    left, turn = min(-(-blocks // 50), 2000) if fmt.extent == "tensor" else blocks, 0
    while left > 0:
        count = max(1, min(left, PIECE // size))
        if fmt.extent == "tensor":
            count = 1
        yield _arranged(fmt, kinds[turn % 3](fmt, proof, count, rng))
        left -= count
        turn += 1


def block_elements(fmt: Format) -> int:
    return fmt.block * fmt.tile if fmt.extent == "block" else ROW


def _arranged(fmt: Format, blocks: F32) -> F32:
    """[count, elements] as the tensor whose blocks they are, several to a row."""
    if fmt.extent == "row":
        return blocks
    if fmt.extent == "tensor":
        return blocks.reshape(TENSOR_ROWS, -1)
    per_row = fmt.record.elements // fmt.block if fmt.record else 1
    across = next(n for n in (8 * per_row, per_row, 1) if len(blocks) % n == 0 or n == 1)
    if per_row > 1 and across % per_row:
        blocks = (
            blocks[: len(blocks) // per_row * per_row]
            if len(blocks) >= per_row
            else (np.concatenate([blocks] * per_row))
        )
        across = per_row
    tiles = blocks.reshape(-1, across, fmt.tile, fmt.block)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3).reshape(-1, across * fmt.block))


def _sizes(fmt: Format, count: int, rng: Rng) -> F64:
    """Largest magnitudes: over all regimes of the scale, each binade alike."""
    words = words_of(fmt)
    low, high = (words[0].value, words[-1].value) if words else (Fraction(1, 1 << 40), 1 << 40)
    first = max(np.log2(float(low)) - 3, np.log2(SMALLEST))
    last = min(np.log2(float(high)) + 1, np.log2(LARGEST))
    inner = fmt.scale.stored
    if inner is not None and words_of(inner):
        # The scales of scales stay normal: what they do otherwise is another statement's.
        normal = [w.value for w in words_of(inner) if w.regime == "normal"]
        reach = float(max(max(c.positive, c.negative) for c in coders_of(inner)))
        first, last = np.log2(float(normal[0]) * reach) + 2, np.log2(float(normal[-1]) * reach) - 3
    ends = max(d for c in coders_of(fmt) for d in (c.positive, c.negative))
    return 2.0 ** rng.uniform(first, last, count) * float(ends) * float(unit(fmt))


def _laws(fmt: Format, proof: Proof, count: int, rng: Rng) -> F32:
    """Elements of random laws: smooth, heavy, equal, alternating, and alone among small ones."""
    shape = (count, block_elements(fmt))
    kind = rng.integers(0, 7, count)
    x = rng.standard_normal(shape)
    x = np.where((kind == 1)[:, None], rng.laplace(size=shape), x)
    x = np.where((kind == 2)[:, None], rng.standard_t(3, size=shape), x)
    x = np.where((kind == 3)[:, None], rng.uniform(-1, 1, shape), x)
    x = np.where((kind == 4)[:, None], np.sign(x[:, :1]), x)
    x = np.where((kind == 5)[:, None], np.sign(x), x)
    x = np.where((kind == 6)[:, None], x * 2.0**-6, x)
    x[kind == 6, 0] = 1
    x /= np.abs(x).max(axis=1, keepdims=True)
    if any(not coder.negative for coder in coders_of(fmt)) and fmt.zero is None:
        x = np.abs(x)
    return (x * _sizes(fmt, count, rng)[:, None]).astype(np.float32)


def _edges(fmt: Format, proof: Proof, count: int, rng: Rng) -> F32:
    """Elements beside the edges of a trial, under scales asked for beside the stored ones'."""
    shape = (count, block_elements(fmt))
    coders = coders_of(fmt)
    pick = rng.integers(0, len(coders), count)
    places = [np.array([float(e) for e in (*c.edges, c.values[0], c.values[-1])]) for c in coders]
    # Blocks stay with a few edges, or take all of them.
    few = rng.integers(0, 2, count)[:, None]
    y = np.zeros(shape)
    scale = _asked(fmt, count, rng)
    for index, place in enumerate(places):
        mine = pick == index
        every = rng.integers(0, len(place), shape)
        one = np.broadcast_to(rng.integers(0, len(place), (count, 1)), shape)
        y[mine] = place[np.where(few, every, one)][mine]
        ends = [end * float(coders[index].reach(end)) for end in coders[index].ends]
        y[mine, 0] = rng.choice(ends, int(mine.sum()))
        reach = (-float(coders[index].negative), float(coders[index].positive))
        y[mine] = np.clip(y[mine], *reach) if all(reach) or fmt.zero is None else y[mine]
    steps = np.array([0, 2.0**-24, -(2.0**-24), 2.0**-21, -(2.0**-21), 2.0**-12, -(2.0**-12)])
    y *= 1 + rng.choice(steps, shape)
    y[:, 0] /= 1 + 2.0**-23
    return (y * scale[:, None]).astype(np.float32)


def _asked(fmt: Format, count: int, rng: Rng) -> F64:
    """Asked scales: next to the ends of a stored word's interval, and anywhere in it."""
    words = [w for w in words_of(fmt) if w.high is not None and fmt.scale.stored is None]
    words = [w for w in words if SMALLEST < float(w.value * unit(fmt)) < LARGEST]
    if not words:
        return _sizes(fmt, count, rng)
    if len(words) > 4096:
        words = [words[i] for i in rng.integers(0, len(words), 4096)]
    ends = np.array([[float(w.low), float(w.high or 0)] for w in words])
    mine = ends[rng.integers(0, len(words), count)]
    share = rng.choice([2.0**-22, 2.0**-18, 0.5, 1 - 2.0**-22, 1 - 2.0**-18], count)
    return (mine[:, 0] * (1 - share) + mine[:, 1] * share) * float(unit(fmt))


def _mutants(fmt: Format, proof: Proof, count: int, rng: Rng) -> F32:
    """Blocks of witnesses with elements changed, moved a little, or swapped with each other's."""
    size = block_elements(fmt)
    parents = []
    for statement in proof.statements:
        witness = statement.witness
        if witness is not None:
            top, bottom, left, right = witness.block
            block = array_of(witness)[top:bottom, left:right].reshape(-1)
            parents.append(np.resize(block, size).astype(np.float64))
    if not parents:
        return _edges(fmt, proof, count, rng)
    pool = np.stack(parents)
    x = pool[rng.integers(0, len(pool), count)]
    x *= 1 + rng.choice([0, 2.0**-23, -(2.0**-23), 2.0**-14, -(2.0**-14)], x.shape)
    other = pool[rng.integers(0, len(pool), count)]
    swapped = rng.random(x.shape) < rng.choice([0, 0.05, 0.5], (count, 1))
    peaks = np.abs(x).max(axis=1, keepdims=True)
    x = np.where(swapped, np.clip(other, -peaks, peaks), x)
    anywhere = rng.random(x.shape) < rng.choice([0, 0.1], (count, 1))
    x = np.where(anywhere, rng.uniform(-1, 1, x.shape) * peaks, x)
    if fmt.scale.stored is not None:
        x *= _sizes(fmt, count, rng)[:, None] / np.maximum(
            np.abs(x).max(axis=1, keepdims=True), 1e-30
        )
    if any(not coder.negative for coder in coders_of(fmt)) and fmt.zero is None:
        x = np.abs(x)
    return x.astype(np.float32)


# -- the check -----------------------------------------------------------------------------


def excesses(fmt: Format, proof: Proof, x: F32) -> tuple[int, list[Excess]]:
    """How many blocks were checked, and what exceeds a bound and its slack."""
    backend = backend_for(fmt)
    level = calibrate(fmt, x)
    streams = backend.encode(x, level)
    decoded = backend.decode(dict(streams), x.shape[1], level)
    return checked(outcome_of(fmt, x, streams, decoded, level), proof)


def checked(seen: Outcome, proof: Proof) -> tuple[int, list[Excess]]:
    """The same for a tensor that has been encoded."""
    view = _View(seen)
    found: list[Excess] = []
    for regime in sorted({statement.regime for statement in proof.statements}):
        mine = [s for s in proof.statements if s.regime == regime]
        found += _regime_excesses(view, regime, mine)
    return view.live.size, found


class _View:
    """An outcome as arrays: elements [block rows, block columns, elements], values of blocks."""

    def __init__(self, seen: Outcome) -> None:
        self.seen = seen
        self.regimes = regimes_of(seen)
        self.peak = peaks_of(seen.arrangement, seen.x).largest.astype(np.float64)
        level = seen.levels.astype(np.float64)[:, None]
        self.level = np.broadcast_to(level, self.peak.shape)
        self.scale = np.abs(seen.stored.astype(np.float64)) * level
        self.x = self._blocks(seen.x)
        self.error = np.abs(self.x - self._blocks(seen.decoded))
        self.decoded = self._blocks(seen.decoded)
        self.live = (self.scale >= SMALLEST) & (self.scale <= LARGEST) & (self.peak <= LARGEST)
        self.live |= self.peak == 0

    def _blocks(self, values: F32) -> F64:
        fmt, (rows, columns) = self.seen.fmt, self.peak.shape
        wide = values.astype(np.float64)
        if fmt.extent != "block":
            return wide.reshape(rows, columns, -1)
        tiles = wide.reshape(rows, fmt.tile, columns, fmt.block)
        return tiles.transpose(0, 2, 1, 3).reshape(rows, columns, -1)


def _regime_excesses(view: _View, regime: str, statements: list[Statement]) -> list[Excess]:
    mine = view.live & (view.regimes == ("normal" if regime == "regular" else regime))
    found: list[Excess] = []
    for measure in sorted({s.measure for s in statements}):
        same = [s for s in statements if s.measure == measure]
        chosen = mine & _in_domain(view, same[0])
        if not chosen.any():
            continue
        share, name = _shares(view, chosen, measure, {s.kind: s for s in same})
        worst = float(share.max(initial=0))
        if worst > 1 + CARE:
            index = int(share.reshape(len(share), -1).max(axis=1).argmax())
            found.append(Excess(f"{measure}/{regime}: {name}", worst, view.x[chosen][index]))
    return found


def _in_domain(view: _View, statement: Statement) -> NDArray[np.bool_]:
    if statement.domain is None:
        return np.ones(view.peak.shape, np.bool_)
    low, high = (float(end) for end in statement.domain)
    inside = (view.peak >= low * view.level) & (view.peak <= high * view.level)
    return np.asarray(inside, np.bool_)


def _limit(statement: Statement) -> float:
    return float(statement.bound + statement.slack)


def _shares(
    view: _View, chosen: NDArray[np.bool_], measure: str, kinds: dict[str, Statement]
) -> tuple[F64, str]:
    """Errors over what a measure's statements allow: of elements, or of blocks."""
    most = max(_limit(s) for s in kinds.values())
    error, x = view.error[chosen], view.x[chosen]
    fmt = view.seen.fmt
    tiny = np.float64(2.0**-1000)
    owner = _owners(view, measure)[chosen]
    if measure.endswith("block"):
        squares = (error / owner[:, None]) ** 2
        total = squares.sum(axis=1) if fmt.extent == "block" else squares.mean(axis=1)
        return total / max(most, tiny), "squares"
    level, scale = view.level[chosen][:, None], view.scale[chosen][:, None]
    if fmt.scale.codes == "wanted":
        scale = _asked_scales(view)[chosen][:, None]
    if measure == "zero":
        return np.abs(view.decoded[chosen]) / level / max(most, tiny), "zero"
    if measure == "least":
        wanted = fmt.scale.codes == "wanted" and fmt.zero is None
        least = scale if wanted else float(words_of(fmt)[0].value) * level
        return error / least / max(most, tiny), "least"
    limits = np.full(error.shape, most)
    if fmt.zero is None:
        inside, small = _places(view, chosen, x / scale)
        if measure == "self":
            spoken = (inside == 1) & ~small
            return np.where(spoken, error / np.maximum(np.abs(x), tiny), 0) / most, "self"
        # At the very end either kind may be meant, or none other than rounding.
        if "clipping" in kinds:
            limits = np.where(inside == 1, _limit(kinds["rounding"]), limits)
            limits = np.where(inside == -1, _limit(kinds["clipping"]), limits)
    unit_of = scale if measure == "scale" else owner[:, None]
    return error / unit_of / limits, "elements"


def _owners(view: _View, measure: str) -> F64:
    """The absmax that errors count against."""
    inner = view.seen.fmt.scale.stored
    if measure.startswith("tensor"):
        return np.full_like(view.peak, view.peak.max(initial=0))
    if not measure.startswith("group") or inner is None:
        return view.peak
    shape = view.peak.shape
    peaks = view.peak.reshape(1, -1) if view.seen.fmt.scale.flat else view.peak
    if inner.extent != "block":
        return np.broadcast_to(peaks.max(axis=1, keepdims=True), peaks.shape).reshape(shape)
    spare = -peaks.shape[1] % inner.block
    groups = np.pad(peaks, ((0, 0), (0, spare))).reshape(len(peaks), -1, inner.block)
    wide = np.repeat(groups.max(axis=2), inner.block, axis=1)[:, : peaks.shape[1]]
    return wide.reshape(shape)


def _asked_scales(view: _View) -> F64:
    coder = coders_of(view.seen.fmt)[0]
    if view.seen.fmt.scale.rule == "range":
        spread = np.maximum(view.x.max(axis=2), 0) - np.minimum(view.x.min(axis=2), 0)
        return spread / float(coder.positive)
    if view.seen.fmt.scale.rule == "argmax":
        return view.peak / float(max(coder.positive, coder.negative))
    asked = np.maximum(view.x.max(axis=2), 0) / float(coder.positive)
    if coder.negative:
        asked = np.maximum(asked, np.maximum(-view.x.min(axis=2), 0) / float(coder.negative))
    return asked


def _places(
    view: _View, chosen: NDArray[np.bool_], y: F64
) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """Whether elements are between the ends of their grid (1), beyond (-1) or at an end (0).

    Also which are nearer to zero than the grid's least magnitude.
    """
    fmt = view.seen.fmt
    flipped = np.signbit(view.seen.stored[chosen])
    selects = view.seen.selects[chosen].astype(np.int64)
    if view_of(wanted_format(fmt)).scale.signed_rule:
        y = np.where(flipped[:, None], -y, y)
        flipped = np.zeros_like(flipped)
    lows, highs, leasts = (np.zeros((2, len(fmt.grids))) for _ in range(3))
    for index, grid in enumerate(fmt.grids):
        low, high = float(grid.low), float(grid.high)
        lows[:, index], highs[:, index] = (low, -high), (high, -low)
        leasts[:, index] = min(abs(float(v)) for v in grid.numbers if v)
    low, high, least = (a[flipped.astype(int), selects][:, None] for a in (lows, highs, leasts))
    near = 2.0**-20 * np.maximum(np.abs(low), np.abs(high))
    inside = np.where((y > low + near) & (y < high - near), 1, 0)
    inside = np.where((y < low - near) | (y > high + near), -1, inside)
    return inside, np.abs(y) < least * (1 + 2.0**-20)
