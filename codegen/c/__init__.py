"""The C back end: one readable C11 file and its header for every format."""

from __future__ import annotations

from ...compiler.format import Format
from ...compiler.view import view_of
from ..render import provenance, render
from .context import context_of


def symbol(fmt: Format) -> str:
    """The prefix of every public C name of a format: an identifier that is no C keyword."""
    return f"fmtc_{fmt.name}"


def emit(fmt: Format) -> dict[str, str]:
    """``<name>.c`` and ``<name>.h``: encode, decode and dot product of packed rows.

    Every format can be encoded and decoded under scales that the caller gives; one that is not
    plain has no other functions.

    The C is portable C11 with AVX2 paths; both give the reference's bits when compiled without
    ``-ffast-math`` and with ``-ffp-contract=off``. Encoding takes the table that
    ``compiler.thresholds.scale_thresholds`` computes for the tensor.
    """
    values = {
        "name": fmt.name,
        "symbol": symbol(fmt),
        "provenance": provenance(fmt),
        **context_of(view_of(fmt)),
    }
    return {
        f"{fmt.name}.c": render("c", "format.c.j2", **values),
        f"{fmt.name}.h": render("c", "format.h.j2", **values),
    }
