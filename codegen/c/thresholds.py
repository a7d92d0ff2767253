"""The table of scale thresholds as C has it, for those who call the C without Python."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ...compiler.exact import significant_bits
from ...compiler.thresholds import scale_thresholds
from ...compiler.view import View

#: A threshold of so few bits times a binary32 multiplier is exact in binary64.
_EXACT_BITS = 29

Literal = Callable[[float], str]


def table_context(view: View, float_literal: Literal, double_literal: Literal) -> dict[str, object]:
    """The template's values: exact points to multiply, or the whole table where it is one."""
    scale = view.scale
    if scale.is_fp32:
        return {"table_in_c": False}
    if not scale.has_tensor_scale and scale.shift is not None:
        multiplier = 2.0**-scale.shift
        flat = scale_thresholds(view, multiplier).reshape(-1).tolist()
        return {
            "table_in_c": True,
            "table_exact": False,
            "table": [float_literal(value) for value in flat],
            "multiplier": f"{multiplier!r}",
        }
    points = (scale.first_point, *scale.points)
    divisors = sorted(
        {d for t in view.trials for d in (t.positive_divisor, t.negative_divisor) if d}
    )
    if any(not _fits(divisor * point) for divisor in divisors for point in points):
        return {"table_in_c": False}
    row = {divisor: index for index, divisor in enumerate(divisors)} | {Fraction(0): -1}
    return {
        "table_in_c": True,
        "table_exact": True,
        "tables": [[double_literal(float(d * point)) for point in points] for d in divisors],
        "table_of": [(row[t.positive_divisor], row[t.negative_divisor]) for t in view.trials],
        "scale_ties": [int(up) for up in (scale.first_tie_up, *scale.ties_up)],
        "ends": [float_literal(float(max(g.high, -g.low))) for g in view.format.grids],
        "first_scale": scale.ranks[1],
    }


def _fits(value: Fraction) -> bool:
    count = significant_bits(value)
    return count is not None and count <= _EXACT_BITS
