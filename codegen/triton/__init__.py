"""Triton kernels: one generated, readable Python module a format.

The module needs torch and triton only. It holds ``@triton.jit`` kernels with the format's
constants written out, and functions that launch them: an encoder, a decoder and a fused
dequantize-GEMV for a format whose scales a kernel can choose, and for every format an encoder
and a decoder of elements under scales that are given.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from ...compiler.format import Format
from ...compiler.view import RECIPROCAL_FLOOR, view_of
from ..render import provenance, render
from .plan import GEMV_ROWS, GridPlan, Plan, TrialPlan, plan_of

#: Columns of generated text.
WIDTH = 100


def emit(fmt: Format) -> dict[str, str]:
    """``{"<name>_triton.py": text}``, the same text for the same format.

    Raises:
        ValueError: Triton cannot express the format; the message says why.
    """
    plan = plan_of(view_of(fmt))
    values = {
        **_facts(fmt, plan),
        **_tables(plan),
        **_element_values(plan),
        **_given_values(plan),
        **(_fused_values(fmt, plan) if plan.fused else {}),
    }
    return {f"{fmt.name}_triton.py": render("triton", "module.py.j2", **values)}


def _facts(fmt: Format, plan: Plan) -> dict[str, object]:
    """Names and numbers that many templates read."""
    scale = plan.view.scale
    splits = [
        next((i for i, t in enumerate(grid.thresholds) if t.kind == "split"), None)
        for grid in plan.grids
    ]
    return {
        "plan": plan,
        "name": fmt.name,
        "odd_name": fmt.name != fmt.name.lower(),
        "provenance": _wrap(provenance(fmt)),
        "streams": fmt.streams,
        "scale": scale,
        "select": fmt.select,
        "group": fmt.block,
        "code_bits": fmt.code_bits,
        "low_first": fmt.order == "low_first",
        "exact": plan.exact,
        "reciprocal": plan.reciprocal,
        "reciprocal_floor": repr(RECIPROCAL_FLOOR),
        "several": plan.several,
        "chooses": plan.chooses,
        "reads_select": plan.reads_select,
        "reads_zero": plan.zero != "none",
        "moves": plan.exact and plan.zero == "point",
        "adds_after": plan.view.adds_after,
        "gemv_rows": GEMV_ROWS,
        "row_bits": max(fmt.code_bits, -(-scale.container // fmt.block)),
        "table_stride": 256 if plan.pairs else 1 << fmt.code_bits,
        "has_product": [any(t.kind == "product" for t in g.thresholds) for g in plan.grids],
        "splits": splits,
    }


def _tables(plan: Plan) -> dict[str, object]:
    """The lines of the constant tables."""
    thresholds = [t for grid in plan.grids for t in grid.thresholds]
    return {
        "value_lines": _lines(f"0x{bits:08X}" for bits in plan.view.decode_bits),
        "scale_lines": _lines(f"0x{bits:08X}" for bits in plan.view.scale.values_bits),
        "midpoint_lines": _lines(t.text for t in thresholds),
        "tie_lines": _lines(str(t.tie) for t in thresholds),
        "key_lines": _lines(str(t.key) for t in thresholds),
        "code_lines": _lines(str(t.code) for t in thresholds),
    }


def _element_values(plan: Plan) -> dict[str, object]:
    """What the functions take and are called with that code one element after the other."""
    reads_step = plan.exact and any(
        t.kind != "split" for grid in plan.grids for t in grid.thresholds
    )
    moved = ["zero"] if plan.exact and plan.zero == "point" else []
    ladder = ["key", *(["step"] if reads_step else []), *moved, *_pointers(plan.ladder_tables)]
    table = ["table"] if plan.reads_select else []
    packed = plan.packs_in_kernel and plan.view.format.code_bits < 8
    store = ["codes_ptr", "code", "live", "line"]
    store += ["place", "here", "length", "blocks"] if packed else ["element", "length"]
    values = ["codes_ptr", "pairs_ptr" if plan.pairs else "values_ptr", *table, "line"]
    values += ["place", "here", "length", "blocks"] if plan.pairs else ["element", "live", "length"]
    return {
        "codes_arguments": ", ".join(ladder),
        "given_codes_head": _head("_given_codes", ["select", *ladder]),
        "given_codes_call": _call("code = _given_codes", ["select", *ladder], 4)
        if plan.several
        else f"code = _codes_0({', '.join(ladder)})",
        "store_head": _head("_store_codes", store),
        "store_call": _call("_store_codes", store, 4),
        "values_head": _head("_values", values),
        "values_call": _call("value = _values", values, 4),
    }


def _given_values(plan: Plan) -> dict[str, object]:
    """What the kernels take and are called with that are given their scales."""
    zeros = plan.zero != "none"
    numbers = ["scales", *(["zeros"] if zeros else [])]
    encoded = [*numbers, *(["selects"] if plan.several else [])]
    decoded = [*numbers, *(["selects"] if plan.reads_select else [])]
    tables = ["pairs" if plan.pairs else "values"]

    def call(given: Iterable[str], tables: Iterable[str]) -> list[str]:
        kinds = {"selects": "torch.uint8"}
        blocks = [f"_per_block({g}, rows, length, {kinds.get(g, 'torch.float32')})" for g in given]
        return [*blocks, *(f'tables["{table}"]' for table in tables)]

    return {
        "given_parameters": [
            "scales: torch.Tensor,",
            *(["zeros: torch.Tensor,"] if zeros else []),
            "selects: torch.Tensor | None = None,",
        ],
        "encode_given_arguments": [
            "x_ptr",
            "codes_ptr",
            *_pointers([*encoded, *plan.ladder_tables]),
        ],
        "encode_given_call": ["x.contiguous()", "codes", *call(encoded, plan.ladder_tables)],
        "decode_given_arguments": ["codes_ptr", *_pointers([*decoded, *tables]), "out_ptr"],
        "decode_given_call": ["codes", *call(decoded, tables), "out"],
    }


def _fused_values(fmt: Format, plan: Plan) -> dict[str, object]:
    """What the kernels take and are called with that choose or read the scale words."""
    return {**_encode_values(fmt, plan), **_decode_values(fmt, plan), **_expressions(plan)}


def _encode_values(fmt: Format, plan: Plan) -> dict[str, object]:
    """What the encoder's functions take and are called with."""
    field = fmt.select.place == "field"
    thresholds = [] if plan.view.scale.is_fp32 else ["thresholds_ptr"]
    tables = [*(["values"] if plan.chooses else []), *plan.scale_tables, *plan.ladder_tables]
    pointers = thresholds + _pointers(tables)
    arguments = [_trial_arguments(plan, trial, pointers) for trial in plan.trials]
    best = ["code", "word", *(["select"] if field else []), *(["least"] if plan.chooses else [])]
    name = "_grid" if len(plan.trials) == len(plan.grids) else "_trial"
    first = f"{', '.join(n for n in best if n != 'select')} = {name}_0"
    calls = [(first, arguments[0])]
    calls += [
        (f"{', '.join(best)} = {name}_{i}", [*names, *best])
        for i, names in enumerate(arguments[1:], 1)
    ]
    return {
        "x_is_used": plan.chooses or not plan.exact,
        "needs_size": plan.needs_peak,
        "stores_select": field,
        "trial_heads": [
            _head(f"{name}_{i}", [*names, *(f"best_{n}" for n in best if i)])
            for i, names in enumerate(arguments)
        ],
        "trial_calls": [_call(head, names, 4) for head, names in calls],
        "encode_tables": tables,
        "encode_arguments": [
            "x_ptr",
            "codes_ptr",
            "scales_ptr",
            *(["select_ptr"] if field else []),
            *thresholds,
            *_pointers(tables),
            "multiplier_ptr",
        ],
        "encode_call": [
            "x.contiguous()",
            "codes",
            "scales",
            *(["select"] if field else []),
            *(["scale_thresholds.contiguous().view(torch.int32)"] if thresholds else []),
            *(f'tables["{table}"]' for table in tables),
            "_multiplier(multiplier, x.device)",
        ],
    }


def _trial_arguments(plan: Plan, trial: TrialPlan, pointers: list[str]) -> list[str]:
    scale = plan.view.scale
    reads_peak = "peak" in trial.peaks or scale.is_fp32 or scale.signed_rule
    return [
        *(["x"] if plan.chooses or not plan.exact else []),
        *(["key"] if plan.exact else []),
        *(["live", "lane", "length"] if plan.chooses else []),
        *(["peak"] if reads_peak else []),
        *(peak for peak in trial.peaks if peak != "peak"),
        *(["peak_negative"] if scale.signed_rule else []),
        *(["broken"] if plan.propagates_nan else []),
        *pointers,
        "multiplier",
    ]


def _decode_values(fmt: Format, plan: Plan) -> dict[str, object]:
    """What the decoder's and the GEMV's functions take and are called with."""
    field = ["select"] if fmt.select.place == "field" else []
    streams = _pointers(["scales", *field])
    tables = ["pairs" if plan.pairs else "values", *plan.scale_tables]
    pointers = [*streams, *_pointers(plan.scale_tables)]
    tail = ["blocks_per_row", "multiplier"]
    selects = plan.reads_select
    call = f"scale{', table' if selects else ''} = _block_scales{'_and_selects' if selects else ''}"
    kernel = ["codes_ptr", *streams, *_pointers(tables), "multiplier_ptr"]
    given = [
        "codes",
        *(f'streams["{name}"].contiguous()' for name in ("scales", *field)),
        *(f'tables["{table}"]' for table in tables),
        "_multiplier(multiplier, codes.device)",
    ]
    inner = ["row[:, None]", "place[None, :]", "there"]
    return {
        "block_arguments": [*pointers, "row", "place", "here", *tail],
        "decode_block_call": _call(call, [*pointers, "row", "place", "here", *tail], 4),
        "gemv_block_call": _call(call, [*pointers, *inner, *tail], 8),
        "decode_arguments": [*kernel, "out_ptr"],
        "decode_call": [*given, "out"],
        "gemv_arguments": [*kernel, "x_ptr", "y_ptr"],
        "gemv_call": [*given, "x.contiguous()", "y"],
    }


def _expressions(plan: Plan) -> dict[str, object]:
    """Small expressions whose shape depends on the scale word's layout."""
    scale, select = plan.view.scale, plan.view.format.select
    count = max(0, len(scale.ranks) - 1)
    lsb = scale.magnitude_lsb
    whole = lsb == 0 and scale.magnitude_bits == scale.container
    mask = (1 << scale.magnitude_bits) - 1
    picked = [_bit("word", position) for position in select.positions]
    rows = [i * count for i in range(2 * len(plan.trials))]
    return {
        "rank_count": count,
        "search_steps": count.bit_length(),
        "search_is_full": count & (count + 1) == 0,
        "rank_to_magnitude": _rank_to_magnitude(scale.ranks),
        "magnitude_to_bits": _magnitude_to_bits(plan),
        "word_to_magnitude": "word" if whole else f"{_down('word', lsb)} & 0x{mask:X}",
        "words": [_word(plan, grid) for grid in plan.grids],
        "select_of_word": " | ".join(
            _shifted(f"({bit})", len(picked) - 1 - i) for i, bit in enumerate(picked)
        )
        if len(picked) > 1
        else "".join(picked),
        "table_rows": [f"thresholds_ptr + {row}" if row else "thresholds_ptr" for row in rows],
    }


def _word(plan: Plan, grid: GridPlan) -> str:
    """A block's scale word: magnitude, select bits and sign."""
    scale = plan.view.scale
    parts = [_shifted("magnitude", scale.magnitude_lsb)]
    if grid.select_bits:
        parts.append(str(grid.select_bits))
    if scale.signed_rule:
        parts.append(f"(mirror << {scale.sign_bit})")
    return " | ".join(parts) if len(parts) > 1 else parts[0].strip("()")


def _rank_to_magnitude(ranks: tuple[int, ...]) -> str:
    """Rank 0 is the all-zero block's magnitude; the others ascend one by one."""
    if len(ranks) < 2:
        return f"rank + {ranks[0]}" if ranks else "rank"
    above = _plus("rank", ranks[1] - 1)
    return above if ranks[1] - 1 == ranks[0] else f"tl.where(rank == 0, {ranks[0]}, {above})"


def _magnitude_to_bits(plan: Plan) -> str:
    shifted = f"magnitude << {plan.scale.shift}" if plan.scale.shift else "magnitude"
    return _plus(f"({shifted})", plan.scale.offset) if plan.scale.offset else shifted


def _bit(name: str, position: int) -> str:
    return f"{_down(name, position)} & 1"


def _down(name: str, shift: int) -> str:
    return f"({name} >> {shift})" if shift else name


def _shifted(name: str, shift: int) -> str:
    return f"({name} << {shift})" if shift else name


def _plus(name: str, offset: int) -> str:
    if offset == 0:
        return name
    return f"{name} + {offset}" if offset > 0 else f"{name} - {-offset}"


def _pointers(tables: Iterable[str]) -> list[str]:
    return [f"{table}_ptr" for table in tables]


def _call(head: str, arguments: Sequence[str], indent: int) -> str:
    """``head(arguments)``, broken as a formatter would where it is too long for a line."""
    line = f"{head}({', '.join(arguments)})"
    room = WIDTH - indent - (1 if head.startswith("def ") else 0)
    if len(line) <= room:
        return line
    margin = " " * (indent + 4)
    inside = ", ".join(arguments)
    if len(inside) + indent + 4 <= WIDTH:
        return f"{head}(\n{margin}{inside}\n{' ' * indent})"
    each = "".join(f"{margin}{argument},\n" for argument in arguments)
    return f"{head}(\n{each}{' ' * indent})"


def _head(name: str, arguments: Sequence[str]) -> str:
    """The first line of a function; what it makes shapes of is known when it is compiled."""
    typed = [f"{a}: tl.constexpr" if a == "blocks" else a for a in arguments]
    return _call(f"def {name}", typed, 0) + ":"


def _lines(items: Iterable[str]) -> list[str]:
    """Items of a tuple, filled into lines."""
    return textwrap.wrap(", ".join(items) + ",", WIDTH - 4, break_on_hyphens=False)


def _wrap(lines: Iterable[str]) -> list[str]:
    return [piece for line in lines for piece in textwrap.wrap(line, WIDTH - 2) or [""]]
