"""Triton kernels: generated, readable Python modules, one a format and operation.

A module needs torch and triton only. It holds ``@triton.jit`` kernels with the format's constants
written out, and functions that launch them: an encoder and a decoder (of elements under scales
that are given, and of whole blocks where a kernel can choose their scales), products by packed
rows where blocks are whole groups of 16 columns, and scaled products where hardware has them.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...compiler.format import Format
from ...compiler.kernel import dense_format, kernel_format
from ...compiler.view import view_of
from ..render import render
from .parts import (
    call_text,
    decode_values,
    expressions,
    facts,
    head,
    module_values,
    pointers_to,
    tables,
)
from .plan import Plan, TrialPlan, plan_of
from .products import GROUP, OPERATIONS, default_method, emit_product
from .scaled import emit_scaled


def emit(fmt: Format) -> dict[str, str]:
    """``{"<name>_encode.py": text, ...}``, the same texts for the same format.

    Raises:
        ValueError: Triton cannot express the format; the message says why.
    """
    products = _products(fmt)
    fmt = blockwise_format(fmt)
    plan = plan_of(view_of(fmt))
    return {
        f"{fmt.name}_encode.py": _encoder(fmt, plan),
        f"{fmt.name}_decode.py": _decoder(fmt, plan),
        **products,
    }


def blockwise_format(fmt: Format) -> Format:
    """What Triton's kernels do of a format: ``kernel_format``, or all of it with its search."""
    dense = dense_format(fmt)
    return dense if dense.is_blockwise else kernel_format(fmt)


def _encoder(fmt: Format, plan: Plan) -> str:
    """The module that encodes."""
    values = {**facts(fmt, plan), **_element_values(plan), **_given_values(plan)}
    if plan.fused:
        values |= {**_encode_values(fmt, plan), **expressions(plan)}
    functions = ["encode", "encode_given"] if plan.fused else ["encode_given"]
    named = module_values("encode", functions, plan.encode_tables, plan.encode_mirrors)
    return render("triton", "encode.py.j2", **values, **named, **tables(plan))


def _decoder(fmt: Format, plan: Plan) -> str:
    """The module that decodes."""
    values = {**facts(fmt, plan), **_element_values(plan), **_given_values(plan)}
    if plan.fused:
        values |= {**decode_values(fmt, plan), **expressions(plan)}
    functions = ["decode", "decode_given"] if plan.fused else ["decode_given"]
    named = module_values("decode", functions, plan.decode_tables, plan.decode_mirrors)
    return render("triton", "decode.py.j2", **values, **named, **tables(plan))


def _products(fmt: Format) -> dict[str, str]:
    """The modules that multiply by packed rows, each by its cheapest method."""
    kernel = kernel_format(fmt)
    if kernel.block % GROUP:
        return {}
    texts = {}
    for operation in OPERATIONS:
        ((_, text),) = emit_product(default_method(kernel, operation), operation).items()
        texts[f"{fmt.name}_{operation}.py"] = text
    return {**texts, **emit_scaled(dense_format(fmt))}


def _reached(arguments: Iterable[str]) -> list[str]:
    """The arguments of a call where a program's elements may be one row."""
    return ["reach" if argument == "length" else argument for argument in arguments]


def _element_values(plan: Plan) -> dict[str, object]:
    """What the functions take and are called with that code one element after the other."""
    reads_step = plan.exact and any(
        t.kind != "split" for grid in plan.grids for t in grid.thresholds
    )
    moved = ["zero"] if plan.exact and plan.zero == "point" else []
    ladder = ["key", *(["step"] if reads_step else []), *moved, *pointers_to(plan.ladder_tables)]
    table = ["table"] if plan.reads_select else []
    packed = plan.packs_in_kernel and plan.view.format.code_bits < 8
    store = ["codes_ptr", "code", "live", "line"]
    store += ["place", "here", "length", "blocks"] if packed else ["element", "length"]
    values = ["codes_ptr", "pairs_ptr" if plan.pairs else "values_ptr", *table, "line"]
    values += ["place", "here", "length", "blocks"] if plan.pairs else ["element", "live", "length"]
    return {
        "codes_arguments": ", ".join(ladder),
        "codes_rest": "".join(f", {argument}" for argument in ladder[1:]),
        "given_codes_head": head("_given_codes", ["select", *ladder]),
        "given_codes_call": call_text("code = _given_codes", ["select", *ladder], 4)
        if plan.several
        else f"code = _codes_0({', '.join(ladder)})",
        "store_head": head("_store_codes", store),
        "store_call": call_text("_store_codes", _reached(store), 4),
        "values_head": head("_values", values),
        "values_call": call_text(
            "value = _values", _reached(values) if plan.decodes_whole else values, 4
        ),
        "word_values_call": f"_word_values({', '.join(['word', *table, 'pairs_ptr'])})",
    }


def _given_values(plan: Plan) -> dict[str, object]:
    """What the kernels take and are called with that are given their scales."""
    zeros = plan.zero != "none"
    numbers = ["scales", *(["zeros"] if zeros else [])]
    encoded = [*numbers, *(["selects"] if plan.several else [])]
    decoded = [*numbers, *(["selects"] if plan.reads_select else [])]
    looked_up = ["pairs" if plan.pairs else "values"]

    def passed(given: Iterable[str], tables: Iterable[str]) -> list[str]:
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
            *pointers_to([*encoded, *plan.ladder_tables]),
        ],
        "encode_given_call": ["_floats(x)", "codes", *passed(encoded, plan.ladder_tables)],
        "decode_given_arguments": ["codes_ptr", *pointers_to([*decoded, *looked_up]), "out_ptr"],
        "decode_given_call": [
            "codes",
            *passed(decoded, looked_up),
            "_written(out)",
        ],
    }


def _encode_values(fmt: Format, plan: Plan) -> dict[str, object]:
    """What the encoder's functions take and are called with."""
    field = fmt.select.place == "field"
    thresholds = [] if plan.view.scale.is_fp32 else ["thresholds_ptr"]
    thresholds += ["lasts_ptr"] if plan.search else []
    looked_up = plan.encode_tables
    pointers = thresholds + pointers_to(looked_up)
    arguments = [_trial_arguments(plan, trial, pointers) for trial in plan.trials]
    best = ["code", "word", *(["select"] if field else []), *(["least"] if plan.chooses else [])]
    name = "_grid" if len(plan.trials) == len(plan.grids) else "_trial"
    alone = 0 if plan.searches else 1  # trials that nothing was better before
    first = f"{', '.join(n for n in best if n != 'select')} = {name}_0"
    calls = [(first, names) for names in arguments[:alone]]
    calls += [
        (f"{', '.join(best)} = {name}_{i}", [*names, *best])
        for i, names in enumerate(arguments[alone:], alone)
    ]
    return {
        "x_is_used": plan.chooses or not plan.exact,
        "needs_size": plan.needs_peak,
        "stores_select": field,
        "trial_heads": [
            head(f"{name}_{i}", [*names, *(f"best_{n}" for n in best if i >= alone)])
            for i, names in enumerate(arguments)
        ],
        "trial_calls": [call_text(start, names, 4) for start, names in calls],
        "encode_tables": looked_up,
        "encode_arguments": [
            "x_ptr",
            "codes_ptr",
            "scales_ptr",
            *(["select_ptr"] if field else []),
            *thresholds,
            *pointers_to(looked_up),
            "multiplier_ptr",
        ],
        "encode_call": [
            "_floats(x)",
            "codes",
            "scales",
            *(["select"] if field else []),
            *(["scale_thresholds.contiguous().view(torch.int32)"] if thresholds else []),
            *(["lasts"] if plan.search else []),
            *(f'tables["{table}"]' for table in looked_up),
            "_multiplier(multiplier, x.device)",
        ],
    }


def _trial_arguments(plan: Plan, trial: TrialPlan, pointers: list[str]) -> list[str]:
    scale = plan.view.scale
    return [
        *(["x"] if plan.chooses or not plan.exact else []),
        *(["key"] if plan.exact else []),
        *(["live", "lane", "length"] if plan.chooses else []),
        *plan.peaks_of(trial),
        *(["peak_negative"] if scale.signed_rule else []),
        *(["broken"] if plan.propagates_nan else []),
        *pointers,
        "multiplier",
    ]
