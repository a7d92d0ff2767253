"""Products by packed weights: GEMV and GEMM kernels of one format and one method of decoding.

Codes come in the layout of ``compiler.physical``, scales as the format stores them, or as given
binary32 numbers. Modules differ by how codes become numbers (``methods``); the rest of their
text is one family of templates.
"""

from __future__ import annotations

from fractions import Fraction

from ....compiler.decoding import base_of
from ....compiler.exact import floor_log2
from ....compiler.format import Format
from ....compiler.kernel import kernel_format
from ....compiler.physical import BYTES
from ...render import render
from ..parts import WIDTH, call_text, expressions, facts, head, lines, module_values, tables
from .blocks import Blocks
from .codes import Codes
from .decoded import Decoded, Mixed
from .functions import bracketed
from .method import GEMM_TOP, GEMV_TOP, Method, Use
from .methods import methods_of

__all__ = [
    "GROUP",
    "OPERATIONS",
    "Method",
    "default_method",
    "default_order",
    "emit_product",
    "methods_of",
]

#: Columns that have one scale in any product: blocks are multiples of it.
GROUP = 16

#: Products: by name, what the module exports.
OPERATIONS = {
    "gemv": ("gemv", "prepare"),
    "gemm": ("SCALE_SHIFT", "VALUE_POWER", "expand", "gemm", "prepare"),
}


def default_method(fmt: Format, operation: str, arch: int = 90) -> Method:
    """The cheapest method in binary16 that an architecture has; where there is none, a table."""
    usable = [
        m
        for m in methods_of(kernel_format(fmt))
        if operation in m.operations and m.least_arch <= arch and m.arithmetic != "integer"
    ]
    return usable[0]


def default_order(fmt: Format, arch: int = 90) -> tuple[int, ...]:
    """The order of a word's nibbles that the cheapest method wants."""
    return default_method(fmt, "gemm", arch).order or BYTES


def emit_product(
    method: Method,
    operation: str,
    order: tuple[int, ...] = BYTES,
    twin: bool = False,
    given: bool = False,
) -> dict[str, str]:
    """``{"<name>_<operation>_<method>.py": text}``: one module.

    Args:
        method: one of ``methods_of(kernel_format(fmt))``.
        operation: one of ``OPERATIONS``.
        order: of the nibbles of a word, where the method takes any.
        twin: write Triton statements where inline assembly would stand, for the interpreter.
        given: take scales as binary32 numbers also where the format has words for them.

    Raises:
        ValueError: the format's blocks are no multiples of 16 columns, or the method cannot do
            the operation.
    """
    fmt = method.fmt
    if fmt.block % GROUP:
        raise ValueError(
            f"triton: a product needs blocks of a multiple of 16 columns; '{fmt.name}' has "
            f"{fmt.block}"
        )
    if operation not in method.operations:
        raise ValueError(f"triton: there is no {operation} by '{method.name}'")
    codes = Codes(fmt, method.order or order)
    blocks = Blocks(fmt, method.base, method.power, given or not fmt.is_plain)
    values = _values(method, Use(operation, blocks, codes, twin))
    name = f"{fmt.name}_{operation}_{method.name}"
    return {f"{name}.py": render("triton", f"product_{operation}.py.j2", **values)}


def _values(method: Method, use: Use) -> dict[str, object]:
    """All that the templates read."""
    fmt, operation, blocks, codes = method.fmt, use.operation, use.blocks, use.codes
    plan, twin = blocks.plan, use.twin
    found = method.tables if operation == "gemv" or not isinstance(method, Decoded) else {}
    pointers = [f"{name}_ptr" for name in found]
    integer, half = method.arithmetic == "integer", method.arithmetic == "half"
    sums = bool(blocks.offsets) and operation == "gemv"
    prepared = ["out", *(["factor"] if half else []), *(["sums"] if sums else [])]
    mirrors = not blocks.given and plan.decode_mirrors
    return {
        **facts(fmt, plan),
        **tables(plan),
        **module_values(operation, OPERATIONS[operation], [*blocks.tables, *found], mirrors),
        **({} if blocks.given else expressions(plan)),
        **codes.values(),
        **blocks.values(),
        "method": method.name,
        "half": half,
        "integer": integer,
        "single": method.arithmetic == "single",
        "twin": twin,
        "helpers": method.helpers(use) if twin else set(),
        "functions": method.functions(use),
        "table_lines": {name: lines(_hex(name, words)) for name, words in found.items()},
        "table_size": 1 << fmt.code_bits,
        "launch_arguments": [*(f'tables["{name}"]' for name in found), *blocks.launch],
        "kernel_arguments": [*codes.pointers, *pointers, *blocks.pointers],
        "prepared": prepared,
        "prepared_type": {"half": "float16", "single": "float32", "integer": "int8"}[
            method.arithmetic
        ],
        "sums": sums,
        "x_top": min(15, GEMV_TOP - method.top) if operation == "gemv" else GEMM_TOP,
        "value_power": repr(2.0**method.power),
        "bound": "" if method.exact else "Grid values are rounded to binary16 first.",
        **(_gemv_values(method, use) if operation == "gemv" else _gemm_values(method, use)),
    }


def _hex(name: str, words: list[int]) -> list[str]:
    digits = 8 if name == "grids" else 4
    return [f"0x{word:0{digits}X}" for word in words]


def _gemv_values(method: Method, use: Use) -> dict[str, object]:
    """What the GEMV's templates read besides."""
    arguments = [*use.codes.words, *method.arguments(use)]
    looked = method.looked if isinstance(method, Mixed) else 0
    indent = 20 if looked else 16
    decoded, name = {
        "half": ("p0, p1, p2, p3", "_pairs"),
        "integer": ("p0, p1", "_octets"),
        "single": ("values", "_values"),
    }[method.arithmetic]
    return {
        "word_loads": use.codes.word_loads("word + 4 * i", "here"),
        "decoded": decoded,
        "decode_call": call_text(f"{decoded} = {name}", arguments, indent),
        "looked": looked,
        "look_up_call": call_text(
            f"{decoded} = _looked_up", ["nibbles", "pairs_ptr", *use.selects], indent
        ),
        **_grid_values(method, use.blocks),
    }


def _grid_values(method: Method, blocks: Blocks) -> dict[str, object]:
    """What loads tables into registers."""
    if not isinstance(method, Decoded) or not method.words:
        return {"grid_results": []}
    count, prefixes = len(method.words), method.prefixes(blocks)
    results = [f"{prefix}{i}" for prefix in prefixes for i in range(count)]
    shown = ", ".join(results)
    used = ["grids_ptr", *blocks.selects]
    called = ", ".join(["grids_ptr", *(blocks.of_row[name] for name in blocks.selects)])
    return {
        "grid_size": count + count % 2,
        "grids_head": head("_grids", used),
        "grids_call": f"_grids({called})",
        "grid_results": results,
        "grids_returned": f"return {shown}"
        if len(shown) < WIDTH - 10
        else bracketed("return ", "(", results, ")", 4),
        "grid_loads": [
            (start, prefix, [min(2, count - i) for i in range(0, count, 2)])
            for start, prefix in zip(blocks.selects or [""], prefixes, strict=True)
        ],
    }


def _gemm_values(method: Method, use: Use) -> dict[str, object]:
    """What the GEMM's templates read besides."""
    blocks, codes = use.blocks, use.codes
    decodes = isinstance(method, Decoded)
    scales = [f"scale_{group}" for group in blocks.groups]
    offsets = [f"offset_{group}" for group in blocks.groups] if blocks.offsets else []
    power = " * power" if blocks.offsets == "after" else ""
    widened = {name: f"({name} * power).to(tl.float16)" for name in scales}
    widened |= {name: name for name in blocks.selects}
    widened |= {name: f"({name}{power}).to(tl.float16)" for name in offsets}
    plain = [*codes.words, *blocks.selects]
    looked_up = [*codes.words, "halves_ptr", *blocks.selects]
    return {
        "decodes": decodes,
        "after": use.after,
        "even_loads": codes.word_loads("word", ""),
        "word_loads": codes.word_loads("word", "word < words"),
        "widened": widened,
        "pairs_arguments": plain,
        "weights_arguments": [*plain, *scales, *offsets],
        "values_call": call_text("values = _values", looked_up, 4),
        "values_of_call": call_text("return _values_of", plain, 8),
        "weights_of_call": call_text("return _weights_of", [*plain, *scales, *offsets], 4),
        "scale_top": _scale_top(method),
        "scale_shift": _scale_shift(method),
    }


def _scale_top(method: Method) -> int:
    """Scales of a GEMM are at most 2^this: neither they nor weights overflow binary16."""
    return min(15, 15 - method.top)


def _scale_shift(method: Method) -> int:
    """From a power that brings scale * value below 2^8, to one that brings scales below the top."""
    largest = max(abs(v) for grid in method.fmt.grids for v in grid.values if v is not None)
    factor = max(abs(f) for f in base_of(method.fmt).factors)
    room = 0 if factor <= 1 else floor_log2(Fraction(factor)) + 1
    return floor_log2(largest) + _scale_top(method) - 8 - room
