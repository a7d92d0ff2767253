"""From a record clause to the ``Record``: every stored bit once, in whole bytes."""

from __future__ import annotations

from math import gcd, lcm

from ..dsl.ast import RecordDecl, Span
from ..dsl.ast import RecordField as FieldDecl
from .format import Format, Record, RecordField
from .items import K_QUANTS_ITEMS, Items, stream_items
from .report import Report, Settings, suggest
from .vocabulary import RECORD_KNOBS

MAX_RECORD = 1 << 16
#: Widths of which several share a byte, or one fills it.
HALVES_BITS = (1, 2, 4, 8)


def resolve_record(clause: RecordDecl, fmt: Format, report: Report) -> Record | None:
    """The record that a clause means, or None after noting its faults.

    Args:
        clause: the record clause.
        fmt: the format that it stands in, without a record. One of rows, tensors or tiles has
            been refused a record already.
        report: takes the faults.
    """
    before = len(report.diagnostics)
    elements = report.integer(clause.elements, "a record", 1, MAX_RECORD)
    if fmt.extent != "block" or fmt.tile > 1:
        return None
    items = stream_items(fmt)
    _check_levels(clause, fmt, report)
    whole = elements is not None and _is_whole(clause, elements, items, report)
    fields = [_field(field, items, elements if whole else None, report) for field in clause.fields]
    if len(report.diagnostics) > before or elements is None or not whole:
        return None
    record = Record(elements, tuple(field for field in fields if field))
    _check_pairs(clause, record, report)
    _check_bits(clause, record, items, report)
    return record if len(report.diagnostics) == before else None


def _check_levels(clause: RecordDecl, fmt: Format, report: Report) -> None:
    """A record replaces all streams, and these have no place in it."""
    owners = [owner for owner in (fmt.scale, fmt.zero) if owner is not None]
    for wrong, what in (
        (fmt.scale.tensor == "rows", "the second level of each row ('tensor rows')"),
        (any(owner.center for owner in owners), "the mean of all scales ('center mean')"),
    ):
        if wrong:
            report.add(
                "E0412",
                f"no field holds {what}",
                _head(clause),
                hint="leave that or the record out",
            )


def _is_whole(clause: RecordDecl, elements: int, items: dict[str, Items], report: Report) -> bool:
    """Whether the record holds whole items of every stream."""
    spread = [name for name, item in items.items() if item.elements is None]
    if spread:
        report.add(
            "E0413",
            f"an item of '{spread[0]}' belongs to more than the neighbours that a record holds",
            clause.elements.span,
            hint="leave 'over tensor' or the record out",
        )
        return False
    unit = lcm(*(item.elements or 1 for item in items.values()))
    if elements % unit:
        name = next(n for n, item in items.items() if elements % (item.elements or 1))
        report.add(
            "E0413",
            f"{elements} elements are no whole number of items of '{name}', of which each "
            f"belongs to {items[name].elements}",
            clause.elements.span,
            expected=f"a multiple of {unit}",
            hint=f"the next is {-(-elements // unit) * unit}",
        )
    return elements % unit == 0


def _field(
    field: FieldDecl, items: dict[str, Items], elements: int | None, report: Report
) -> RecordField | None:
    knobs = Settings("a field of a record", field.settings or (), RECORD_KNOBS, report)
    name = field.stream.text
    if name not in items:
        report.add(
            "E0209",
            f"this format has no stream '{name}'",
            field.stream.span,
            expected="one of " + ", ".join(items),
            hint=suggest(name, items),
        )
        return None
    item = items[name]
    low = _integer(knobs, "from", "the lowest bit", (0, item.bits - 1), 0, report)
    bits = _integer(
        knobs,
        "bits",
        f"the number of bits from bit {low}",
        (1, item.bits - low),
        item.bits - low,
        report,
    )
    if elements is None:
        return None
    count = item.count(elements)
    run = _integer(knobs, "run", "a run", (1, count), count, report)
    found = RecordField(name, bits, low, knobs.choice("order"), run)
    return found if _is_even(field, found, count, knobs, report) else None


def _integer(
    knobs: Settings, key: str, what: str, legal: tuple[int, int], default: int, report: Report
) -> int:
    expr = knobs.expression(key)
    value = None if expr is None else report.integer(expr, what, *legal)
    return default if value is None else value


def _is_even(
    field: FieldDecl, found: RecordField, count: int, knobs: Settings, report: Report
) -> bool:
    """Whether the field's items fill whole bytes in its order."""
    message, where, hint = "", field.span, None
    named = f"{count} item{'s' * (count > 1)} of '{found.stream}'"
    order, run, bits = found.order, found.run, found.bits
    if order != "halves" and knobs.said("run"):
        message = f"a run is what order halves splits, and this field's order is {order}"
        where, hint = knobs.span("run", where), "say 'order halves', or leave 'run' out"
    elif count * bits % 8:
        message = f"{_width(count * bits)} of '{found.stream}' in a record do not fill whole bytes"
        hint = f"a record {8 // gcd(count * bits, 8)} times as long would hold whole bytes"
    elif order == "halves" and bits not in HALVES_BITS:
        message = (
            f"order halves puts whole items side by side in a byte, and these have {bits} bits"
        )
        hint = "split them in two fields, such as 'bits 4' and 'from 4'"
    elif count % run:
        message = f"runs of {run} do not divide the {named}"
        where, hint = knobs.span("run", where), f"the next that does is {_next_divisor(count, run)}"
    elif order == "halves" and run * bits % 8:
        message = f"runs of {run} items, {_width(bits)} each, do not end on a byte"
        where = knobs.span("run", where)
    elif order == "k_quants" and (bits not in K_QUANTS_ITEMS or count % K_QUANTS_ITEMS[bits]):
        message = f"order k_quants packs 6-bit words in eights or 4-bit words, not {named}"
        message += f", {_width(bits)} each"
        where = knobs.span("order", where)
    if message:
        report.add("E0413", message, where, hint=hint)
    return not message


def _width(bits: int) -> str:
    return f"{bits} bit{'s' * (bits > 1)}"


def _next_divisor(count: int, run: int) -> int:
    return next(size for size in range(run, count + 1) if count % size == 0)


def _check_pairs(clause: RecordDecl, record: Record, report: Report) -> None:
    """Fields in order k_quants stand in pairs: the scales, then their minima."""
    open_field: RecordField | None = None
    opened = clause.span
    for declared, field in zip(clause.fields, record.fields, strict=True):
        if open_field is not None:
            alike = (
                field.order == "k_quants"
                and field.bits == open_field.bits
                and field.run == open_field.run
                and field.stream != open_field.stream
            )
            if not alike:
                break
            open_field = None
        elif field.order == "k_quants":
            open_field, opened = field, declared.span
    if open_field is not None:
        report.add(
            "E0413",
            f"order k_quants packs two streams as one field, and '{open_field.stream}' has no "
            "partner after it",
            opened,
            expected="scales.codes { order k_quants }, zeros.codes { order k_quants }",
            hint="the next field must have as many items of as many bits",
        )


def _check_bits(
    clause: RecordDecl, record: Record, items: dict[str, Items], report: Report
) -> None:
    """Every bit of every stream is in one field."""
    free = {name: set(range(item.bits)) for name, item in items.items()}
    for declared, field in zip(clause.fields, record.fields, strict=True):
        bits = set(range(field.low, field.low + field.bits))
        twice = bits - free[field.stream]
        free[field.stream] -= bits
        if twice:
            report.add(
                "E0412",
                f"{_bits(twice)} of '{field.stream}' {_are(twice)} in a field before this one",
                declared.span,
                hint="say with 'from' and 'bits' which part each field holds",
            )
    for name, bits in free.items():
        if not bits:
            continue
        parts = [d for d, f in zip(clause.fields, record.fields, strict=True) if f.stream == name]
        missing = f"{_bits(bits)} of '{name}' {_are(bits)} in no field" if parts else ""
        report.add(
            "E0412",
            missing or f"the record has no field '{name}'",
            parts[-1].span if parts else _head(clause),
            hint=f"add a field '{name}{_part(bits) if parts else ''}'",
        )


def _head(clause: RecordDecl) -> Span:
    """``record N``, where a fault of the whole clause is shown."""
    start, end = clause.span, clause.elements.span
    return Span(start.line, start.column, end.end_line, end.end_column)


def _bits(bits: set[int]) -> str:
    low, high = min(bits), max(bits)
    if low == high:
        return f"bit {low}"
    if len(bits) == high - low + 1:
        return f"bits {low} to {high}"
    return "bits " + ", ".join(map(str, sorted(bits)))


def _part(bits: set[int]) -> str:
    """The settings of a field that holds the lowest of ``bits`` and its neighbours."""
    low = min(bits)
    count = next(n for n in range(1, len(bits) + 1) if low + n not in bits)
    return f" {{ from {low}  bits {count} }}"


def _are(bits: set[int]) -> str:
    return "is" if len(bits) == 1 else "are"
