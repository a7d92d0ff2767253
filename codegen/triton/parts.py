"""What the generated modules of a format have in common: facts, tables, and lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from math import gcd

from ...compiler.format import Format
from ...compiler.view import RECIPROCAL_FLOOR
from ..render import provenance
from .plan import GridPlan, Plan

#: Columns of generated text.
WIDTH = 100


def facts(fmt: Format, plan: Plan) -> dict[str, object]:
    """Names and numbers that many templates read."""
    scale = plan.view.scale
    block_bits = [stream.bits for stream in fmt.streams if stream.per == "block"]
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
        "row_bits": max(fmt.code_bits, -(-scale.container // fmt.block)),
        "table_stride": 256 if plan.pairs else 1 << fmt.code_bits,
        "has_product": [any(t.kind == "product" for t in g.thresholds) for g in plan.grids],
        "splits": splits,
        "advances": _advances(plan),
        "loose_bits": any(bits % 8 for bits in block_bits) if plan.fused else False,
        "loose_blocks": max([8 // gcd(bits, 8) for bits in block_bits], default=1),
    }


def _advances(plan: Plan) -> dict[str, list[str]]:
    """Kernels for which rows of whole blocks are one row, and how their pointers get to a block."""
    fmt = plan.view.format
    packed = fmt.block * fmt.code_bits // 8
    stored = {"codes_ptr": packed if plan.packs_in_kernel else fmt.block, "x_ptr": fmt.block}
    read = {"codes_ptr": packed, "out_ptr": fmt.block}
    words = {"scales_ptr": 1, **({"select_ptr": 1} if fmt.select.place == "field" else {})}
    given = {
        "scales_ptr": 1,
        **({"zeros_ptr": 1} if plan.zero != "none" else {}),
        **({"selects_ptr": 1} if plan.several else {}),
    }
    kernels = {"encode": {**stored, **words}, "encode_given": {**stored, **given}}
    if plan.decodes_whole:
        kernels |= {"decode": {**read, **words}, "decode_given": {**read, **given}}
    return {
        kernel: [f"{p} += first{f' * {size}' if size > 1 else ''}" for p, size in pointers.items()]
        for kernel, pointers in kernels.items()
    }


def tables(plan: Plan) -> dict[str, object]:
    """The lines of the constant tables."""
    thresholds = [t for grid in plan.grids for t in grid.thresholds]
    return {
        "value_lines": lines(f"0x{bits:08X}" for bits in plan.view.decode_bits),
        "scale_lines": lines(f"0x{bits:08X}" for bits in plan.view.scale.values_bits),
        "midpoint_lines": lines(t.text for t in thresholds),
        "tie_lines": lines(str(t.tie) for t in thresholds),
        "key_lines": lines(str(t.key) for t in thresholds),
        "code_lines": lines(str(t.code) for t in thresholds),
    }


def module_values(
    operation: str, functions: Sequence[str], tables: Sequence[str], mirrors: bool
) -> dict[str, object]:
    """What one module has of what the modules share."""
    return {
        "operation": operation,
        "exported": [f'"{function}"' for function in functions],
        "tables": tables,
        "mirrors": mirrors,
    }


def decode_values(fmt: Format, plan: Plan) -> dict[str, object]:
    """What the decoder's functions take and are called with."""
    field = ["select"] if fmt.select.place == "field" else []
    streams = pointers_to(["scales", *field])
    looked_up = plan.decode_tables
    pointers = [*streams, *pointers_to(plan.scale_tables)]
    inside, tail = ["row", "place", "here"], ["blocks_per_row", "multiplier"]
    assigned = "scale = _block_scales"
    if plan.reads_select:
        assigned = "scale, table = _block_scales_and_selects"
    kernel = ["codes_ptr", *streams, *pointers_to(looked_up), "multiplier_ptr"]
    given = [
        "codes",
        *(
            f'_words(streams["{name}"], torch.int{plan.word_type})'
            if name == "scales" and plan.word_type > 8
            else f'streams["{name}"].contiguous()'
            for name in ("scales", *field)
        ),
        *(f'tables["{table}"]' for table in looked_up),
        "_multiplier(multiplier, codes.device)",
    ]
    octets = {"scales_ptr": fmt.scale.word.container, "select_ptr": fmt.select.bits}
    moved = [
        f"{pointer} + first * {octets[pointer]} // 8"
        if octets[pointer] % 8
        else f"{pointer} + first"
        for pointer in streams
    ] + pointers_to(plan.scale_tables)
    return {
        "block_arguments": [*pointers, *inside, *tail],
        "decode_block_call": call_text(assigned, [*pointers, *inside, *tail], 4),
        "decode_words_call": call_text(assigned, [*moved, *inside, "0", "multiplier"], 4),
        "decode_arguments": [*kernel, "out_ptr"],
        "decode_call": [*given, "_written(out)"],
    }


def expressions(plan: Plan) -> dict[str, object]:
    """Small expressions whose shape depends on the scale word's layout."""
    scale, select = plan.view.scale, plan.view.format.select
    count = max(0, len(scale.ranks) - 1)
    lsb = scale.magnitude_lsb
    whole = lsb == 0 and scale.magnitude_bits == scale.container
    mask = (1 << scale.magnitude_bits) - 1
    picked = [_bit("word", position) for position in select.positions]
    rows = [i * count for trial in plan.trials for i in (2 * trial.row, 2 * trial.row + 1)]
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
    if scale.signed_rule or plan.both_signs:
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


def pointers_to(tables: Iterable[str]) -> list[str]:
    """What kernels call their pointers to tables and streams."""
    return [f"{table}_ptr" for table in tables]


def call_text(head: str, arguments: Sequence[str], indent: int) -> str:
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


def head(name: str, arguments: Sequence[str]) -> str:
    """The first line of a function; what it makes shapes of is known when it is compiled."""
    typed = [f"{a}: tl.constexpr" if a == "blocks" else a for a in arguments]
    return call_text(f"def {name}", typed, 0) + ":"


def lines(items: Iterable[str]) -> list[str]:
    """Items of a tuple, filled into lines."""
    return textwrap.wrap(", ".join(items) + ",", WIDTH - 4, break_on_hyphens=False)


def _wrap(lines: Iterable[str]) -> list[str]:
    return [piece for line in lines for piece in textwrap.wrap(line, WIDTH - 2) or [""]]


def magnitude_of_word(plan: Plan) -> str:
    """The expression of a scale word's magnitude code."""
    return str(expressions(plan)["word_to_magnitude"])
