"""The C back end: for every format a header, and one readable C11 file for each target."""

from __future__ import annotations

from ...compiler.format import Format
from ...compiler.view import view_of
from ..render import provenance, render
from .context import context_of, symbol
from .products import emit_products
from .targets import TARGETS, Target

__all__ = ["emit", "emit_probe", "emit_target", "symbol"]


def emit(fmt: Format) -> dict[str, str]:
    """All C files of a format, what ``emit_products`` makes among them.

    ``<name>.h``, ``<name>.c`` and ``<name>_internal.h``, and ``<name>_<target>.c`` of every target.
    Every format can be encoded and decoded under scales that the caller gives; one that is not
    plain has no other functions. All give the reference's bits when compiled without
    ``-ffast-math`` and with ``-ffp-contract=off``. ``<name>.c`` takes, when it runs, the fastest
    target that the processor has.
    """
    return _render(fmt, TARGETS, whole=True) | emit_products(fmt)


def emit_target(fmt: Format, target: Target) -> dict[str, str]:
    """The headers and ``<name>_<target>.c`` of one target, which is whole by itself."""
    return _render(fmt, (target,), whole=False)


def emit_probe() -> dict[str, str]:
    """A C file whose ``fmtc_fastest_target()`` is the index in ``TARGETS`` of what runs here."""
    return {"probe.c": render("c", "probe.c.j2", targets=TARGETS)}


def _render(fmt: Format, targets: tuple[Target, ...], *, whole: bool) -> dict[str, str]:
    values = {
        "name": fmt.name,
        "symbol": symbol(fmt),
        "provenance": provenance(fmt),
        "targets": TARGETS,
        **context_of(view_of(fmt)),
    }
    files = {
        f"{fmt.name}.h": render("c", "format.h.j2", **values),
        f"{fmt.name}_internal.h": render("c", "internal.h.j2", **values),
    }
    if whole:
        files[f"{fmt.name}.c"] = render("c", "format.c.j2", **values)
    for target in targets:
        text = render("c", "target.c.j2", target=target, **values)
        files[f"{fmt.name}_{target.name}.c"] = text
    return files
