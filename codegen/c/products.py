"""What the C of products is filled with, beside what encoding and decoding need."""

from __future__ import annotations

from math import lcm

from ...compiler.exact import fp32_from_bits
from ...compiler.format import Format
from ...compiler.product import (
    ACTIVATION_BLOCK,
    LANES,
    IntegerGrids,
    NoIntegerProduct,
    group_size,
    integer_grids,
)
from ...compiler.view import NAN_BITS, View, view_of
from ..render import provenance, render
from .context import context_of, float_literal, symbol
from .targets import TARGETS, Target

#: Elements of a row whose scales are read at once, and that are decoded at once, at least: the
#: first cache holds them.
_STEP = 4096
_PIECE = 1024

#: Rows that share the loads of activations; longer pieces take one, to bound the stack.
_ROWS = 4
_LONGEST_PIECE = 4096


def emit_products(fmt: Format) -> dict[str, str]:
    """``<name>_product.h``, ``.c`` and ``_internal.h``, and ``<name>_product_<target>.c``.

    They call the functions of ``<name>_<target>.c`` to decode what they have no shorter way for.
    """
    return _render(fmt, TARGETS, whole=True)


def emit_product_target(fmt: Format, target: Target) -> dict[str, str]:
    """The files of one target alone, to be built with those that ``emit_target`` makes."""
    return _render(fmt, (target,), whole=False)


def _render(fmt: Format, targets: tuple[Target, ...], *, whole: bool) -> dict[str, str]:
    view = view_of(fmt)
    values = {
        "name": fmt.name,
        "symbol": symbol(fmt),
        "provenance": provenance(fmt),
        **context_of(view),
        **_context(view),
    }
    files = {
        f"{fmt.name}_product.h": render("c", "product.h.j2", **values),
        f"{fmt.name}_product_internal.h": render("c", "product_internal.h.j2", **values),
    }
    if whole:
        files[f"{fmt.name}_product.c"] = render("c", "product.c.j2", targets=targets, **values)
    for target in targets:
        files[f"{fmt.name}_product_{target.name}.c"] = render(
            "c", "product_target.c.j2", target=target, **values
        )
    return files


def _context(view: View) -> dict[str, object]:
    fmt = view.format
    group = group_size(fmt)
    integer_step = LANES * group
    whole = lcm(fmt.block, integer_step)
    piece = whole * -(-_PIECE // whole)
    # An even number of blocks, so that words of 12 bits begin on a byte.
    step = lcm(piece, 2 * fmt.block) * -(-_STEP // lcm(piece, 2 * fmt.block))
    try:
        grids = integer_grids(fmt)
    except NoIntegerProduct as reason:
        grids, refusal = None, str(reason)
    else:
        refusal = ""
    return {
        "step": step,
        "piece_step": piece,
        "rows_at_once": _ROWS if piece <= _LONGEST_PIECE else 1,
        "group": group,
        "integer_step": integer_step,
        "activation_block": ACTIVATION_BLOCK,
        "integer": grids is not None,
        "refusal": refusal,
        "from_codes": fmt.code_bits <= 5 and fmt.block % LANES == 0,
        "direct_unit": fmt.block if fmt.code_bits <= 5 else lcm(64, fmt.block),
        "code_order": _code_order(fmt),
        "word_form": _word_form(view) if fmt.is_plain else None,
        **(_integer_context(fmt, grids) if grids is not None else {}),
    }


def _integer_context(fmt: Format, grids: IntegerGrids) -> dict[str, object]:
    values = [int(v) for v in grids.values[0]]
    widest = max(abs(v) for v in values)
    # One table of bytes, blocks that are as whole as steps of 256 elements.
    regular = len(fmt.grids) == 1 and fmt.select.bits == 0 and fmt.block % LANES == 0
    regular = regular and (fmt.block % 256 == 0 or 256 % fmt.block == 0)
    narrow = regular and min(values) >= -128 and max(values) <= 127
    return {
        "units": [float_literal(float(unit)) for unit in grids.units],
        "quick_integers": narrow,
        "integer_bytes": [v & 0xFF for v in values],
        "integer_offset_bytes": [v + 128 & 0xFF for v in values],
        "widest_integer": widest,
        "in_place": fmt.code_bits == 8 and values == [_signed(code) for code in range(256)],
        "integer_unit": lcm(256, fmt.block),
    }


def _signed(code: int) -> int:
    return code - 256 if code >= 128 else code


def _code_order(fmt: Format) -> list[int]:
    """Lane -> which of 16 elements it takes, where a word of 64 bits is shifted to read them.

    Lanes 2 k and 2 k + 1 are the halves of a 64-bit lane. A shift by 4 k bits brings the 4-bit
    fields k and k + 8 to the low ends of both.
    """
    order = [i // 2 + 8 * (i % 2) for i in range(LANES)]
    return [i ^ 1 for i in order] if fmt.order == "high_first" else order


def _word_form(view: View) -> dict[str, object] | None:
    """How a scale word's magnitude becomes a binary32 number by a shift and an exact product.

    None where no shift and power of two give all values of the scale's table.
    """
    scale = view.scale
    if scale.is_fp32:
        return None
    values = scale.values_bits
    finite = [(code, bits) for code, bits in enumerate(values) if bits != NAN_BITS]
    first_nan = len(finite)
    if [code for code, _ in finite] != list(range(first_nan)):
        return None
    for shift in range(24):
        factor = _factor(values, shift)
        if factor is None or (first_nan - 1) << shift >= 0x7F800000:
            continue
        odd = [
            (code, bits)
            for code, bits in finite
            if fp32_from_bits(code << shift) * factor != fp32_from_bits(bits)
        ]
        if not odd or [code for code, _ in odd] == [0]:
            return {
                "shift": shift,
                "factor": float_literal(factor),
                "first_nan": first_nan if first_nan < len(values) else None,
                "zero": float_literal(fp32_from_bits(odd[0][1])) if odd else None,
            }
    return None


def _factor(values: tuple[int, ...], shift: int) -> float | None:
    """The power of two between code 1 moved by ``shift`` and its value, where there is one."""
    moved, value = fp32_from_bits(1 << shift), fp32_from_bits(values[1])
    if not 2.0**-126 <= value / moved <= 2.0**127:
        return None
    factor = value / moved
    return factor if float(factor).hex().startswith("0x1.0000000000000p") else None
