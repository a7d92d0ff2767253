"""What the C templates are filled with: a view's numbers, spelled as C constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import gcd, lcm

from ...compiler.exact import floor_log2, fp32_from_bits
from ...compiler.format import Format
from ...compiler.view import RECIPROCAL_FLOOR, GridView, Trial, View
from .rounding import FloatRounding, least_scale, rounding_of
from .search import Search, search_of
from .thresholds import table_context
from .vectors import vector_context, word_context

#: Elements that are unpacked, and decoded, at once, at least: they stay in the first cache.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class CGrid:
    """One grid as C source: constants are C literals, one per entry.

    Attributes:
        name: the grid's name, an identifier.
        midpoints: doubles, in the order of the search; infinity where no threshold stands.
        inclusive: -1 where an element on the threshold takes the upper rank, else 0.
        quotients: floats, likewise.
        order: what a search finds -> code.
        zero_split: 1 where -0 and +0 have codes of their own.
        largest_scale: float, where an fp32 scale saturates.
        end_is_negative: the endpoint of rule argmax is the negative one.
    """

    name: str
    midpoints: tuple[str, ...]
    inclusive: tuple[int, ...]
    quotients: tuple[str, ...]
    order: tuple[int, ...]
    zero_split: int
    largest_scale: str
    end_is_negative: int


@dataclass(frozen=True, slots=True)
class CTrial:
    """One way to encode a block: floats as C literals; see ``view.Trial``."""

    grid: int
    positive_divisor: str
    negative_divisor: str
    same_sides: int


def symbol(fmt: Format) -> str:
    """The prefix of every public C name of a format: an identifier that is no C keyword."""
    return f"fmtc_{fmt.name}"


def context_of(view: View) -> dict[str, object]:
    """The values of a view that the templates are rendered with."""
    fmt = view.format
    search = search_of(view)
    has_zero = view.zero_kind != "none"
    return {
        "block": fmt.block,
        "code_bits": fmt.code_bits,
        "codes": 1 << fmt.code_bits,
        "lut_row": max(16, 1 << fmt.code_bits),
        "lut": _lut(view),
        "chunk": _chunk(view),
        "piece": fmt.block * max(1, _CHUNK // fmt.block),
        "high_first": fmt.order == "high_first",
        "zero": view.zero_kind,
        "zero_parameter": "float zero, " if has_zero else "",
        "adds_after": view.adds_after,
        "exact": fmt.policies.compare == "exact",
        "reciprocal_floor": float_literal(RECIPROCAL_FLOOR),
        "reciprocal": fmt.policies.compare == "fp32_reciprocal",
        "levels": search.levels,
        "nodes": search.nodes,
        "mirrored": search.mirrored,
        "identity_order": search.identity,
        "order_size": search.order_size,
        "grids": [_c_grid(grid, search, i) for i, grid in enumerate(view.grids)],
        "any_inclusive": any(any(grid.ties_up) for grid in view.grids),
        "any_zero_split": any(grid.zero_split is not None for grid in view.grids),
        "pack_steps": _pack_steps(fmt.code_bits),
        **_rounding_context(view, search),
        **vector_context(view, search),
        # Only a plain format has its scales chosen, packed and read in C.
        "fused": fmt.is_plain,
        **(_fused_context(view) if fmt.is_plain else {"spread_words": False}),
    }


def _rounding_context(view: View, search: Search) -> dict[str, object]:
    """How elements are rounded where they are not searched for, with its numbers as C literals."""
    rounding = rounding_of(view, search)
    context: dict[str, object] = {"rounding": rounding}
    if rounding is not None:
        context["least_scale"] = float_literal(least_scale(rounding))
    if isinstance(rounding, FloatRounding):
        context["least_normal"] = float_literal(rounding.least_normal)
        context["magic"] = float_literal(rounding.magic)
    elif rounding is not None:
        context["step_factor"] = float_literal(rounding.factor)
    return context


def _chunk(view: View) -> int:
    """Whole blocks, and whole bytes of every stream: codes, scale words and select bits."""
    fmt = view.format
    fields = [view.scale.container, fmt.select.bits or 8]
    whole = lcm(fmt.block, 8, *(fmt.block * (8 // gcd(bits, 8)) for bits in fields))
    return whole * max(1, _CHUNK // whole)


def _fused_context(view: View) -> dict[str, object]:
    """What the templates need beside that to work with stored scales and select indices."""
    fmt, scale = view.format, view.scale
    has_select = any(stream.name == "select" for stream in fmt.streams)
    spread = 8 < scale.container < 16 and scale.container % 2 == 0
    return {
        "scale": scale,
        "streams": {stream.name: stream for stream in fmt.streams},
        "scale_field": _field(scale.container, "word"),
        "select_field": _field(fmt.select.bits, "index"),
        "select_bits": fmt.select.bits,
        "select_place": fmt.select.place,
        "select_words": [_select_word(view, index) for index in range(len(view.grids))],
        "select_of_word": _select_of_word(fmt.select.positions),
        "row_select": "select + row * select_stride" if has_select else "select",
        "trials": [_c_trial(trial) for trial in view.trials],
        "one_peak": scale.signed_rule
        or all(t.positive_divisor == t.negative_divisor for t in view.trials),
        "zero_code": view.grids[0].zero_code,
        "scale_values": [float_literal(fp32_from_bits(bits)) for bits in scale.values_bits],
        "magnitude_mask": (1 << scale.magnitude_bits) - 1,
        "nan_word": (scale.nan_magnitude or 0) << scale.magnitude_lsb,
        "rank_to_code": _rank_to_code(view),
        "scale_steps": max(0, len(scale.ranks) - 1),
        "scale_minimum": float_literal(fp32_from_bits(scale.minimum_bits)),
        "scale_zero": float_literal(fp32_from_bits(scale.zero_bits)),
        "spread_words": spread,
        "word_fields": sum(((1 << scale.container) - 1) << (16 * i) for i in range(4)),
        **_ladder_context(view),
        **word_context(view),
        **table_context(view, float_literal, double_literal),
    }


def _ladder_context(view: View) -> dict[str, object]:
    """How many leading bits of an absmax say where to begin among the scale thresholds.

    One more than the scale's mantissa has: then hardly any two thresholds share them.
    """
    points = [point for point in view.scale.points if point > 0]
    mantissa = view.format.scale.word.number.mantissa
    octaves = floor_log2(points[-1]) - floor_log2(points[0]) if points else 0
    return {
        "bucket_shift": 23 - (mantissa + 1),
        "buckets": (octaves + 4) << (mantissa + 1),
    }


def float_literal(value: float) -> str:
    """A binary32 number as an exact C constant."""
    if math.isnan(value):
        return "NAN"
    return "INFINITY" if math.isinf(value) else _hex(value) + "f"


def double_literal(value: float) -> str:
    """A binary64 number as an exact C constant; infinity as the macro of <math.h>."""
    return "INFINITY" if math.isinf(value) else _hex(value)


def _hex(value: float) -> str:
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


def _c_grid(grid: GridView, search: Search, index: int) -> CGrid:
    tree = search.trees[index]
    return CGrid(
        name=grid.name,
        midpoints=tuple(double_literal(m) for m in tree.midpoints),
        inclusive=tree.inclusive,
        quotients=tuple(float_literal(q) for q in tree.quotients),
        order=tree.order,
        zero_split=int(grid.zero_split is not None),
        largest_scale=float_literal(fp32_from_bits(grid.largest_scale_bits)),
        end_is_negative=int(grid.end_is_negative),
    )


def _c_trial(trial: Trial) -> CTrial:
    return CTrial(
        grid=trial.grid,
        positive_divisor=float_literal(float(trial.positive_divisor)),
        negative_divisor=float_literal(float(trial.negative_divisor)),
        same_sides=int(trial.positive_divisor == trial.negative_divisor),
    )


def _lut(view: View) -> list[dict[str, object]]:
    """Decode tables by select index: C floats with their codes and decimal values."""
    size = 1 << view.format.code_bits
    names = [grid.name for grid in view.grids]
    values = [fp32_from_bits(bits) for bits in view.decode_bits]
    tables: list[dict[str, object]] = []
    for select in range(len(values) // size):
        row = values[select * size :][:size]
        entries = [(float_literal(v), code, f"{v:.9g}") for code, v in enumerate(row)]
        name = names[select] if select < len(names) else "no grid has this index"
        tables.append({"name": name, "entries": entries})
    return tables


def _field(bits: int, word: str) -> dict[str, object]:
    """A field of a little-endian bit stream: which bytes after its first one it reaches into.

    Field i begins on bit i * bits: on any multiple of gcd(bits, 8) of a byte.
    """
    starts = range(0, 8, gcd(bits, 8))
    further = [
        (i, "always" if bits > 8 * i else "sometimes")
        for i in range(1, 4)
        if starts[-1] + bits > 8 * i
    ]
    return {"bits": bits, "word": word, "mask": (1 << bits) - 1, "further": further}


def _select_word(view: View, index: int) -> int:
    positions = reversed(view.format.select.positions)
    return sum(1 << position for i, position in enumerate(positions) if index >> i & 1)


def _select_of_word(positions: tuple[int, ...]) -> str:
    """The select index as a C expression of the scale word."""
    bits = [f"word >> {position} & 1" if position else "word & 1" for position in positions]
    places = reversed(range(len(positions)))
    moved = [
        f"({bit}) << {place}" if place else f"({bit})"
        for bit, place in zip(bits, places, strict=True)
    ]
    return bits[0] if len(bits) == 1 else " | ".join(moved)


def _rank_to_code(view: View) -> str:
    """The magnitude code of ``rank`` as a C expression: from rank 1 on, codes count up."""
    zero, *above = view.scale.ranks or (0, 1)
    if above != list(range(above[0], above[0] + len(above))):
        raise ValueError(f"the scale codes of '{view.format.name}' are not consecutive")
    offset = above[0] - 1
    moved = f"rank {'-' if offset < 0 else '+'} {abs(offset)}" if offset else "rank"
    return moved if (zero, offset) == (0, 0) else f"rank ? {moved} : {zero}"


def _pack_steps(bits: int) -> list[dict[str, object]]:
    """Three steps that squeeze 8 fields from bytes to ``bits`` each; backwards they spread.

    In each step every lane of 2 * ``half`` bits holds two fields of ``field`` bits, which
    ``low`` masks at the bottom of the lane: one at the bottom of each half before, both
    together at the bottom of the lane after.
    """
    steps: list[dict[str, object]] = []
    for half, field in ((8, bits), (16, 2 * bits), (32, 4 * bits)):
        low = sum(((1 << field) - 1) << start for start in range(0, 64, 2 * half))
        steps.append({"half": half, "field": field, "low": f"0x{low:016x}u"})
    return steps
