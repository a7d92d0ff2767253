"""What stands around the modules: file list, FuseSoC core, Makefile and README.

All of it is read off the modules and their benches.
"""

from __future__ import annotations

from fractions import Fraction

from ..._version import __version__
from ...compiler.exact import show_number
from ..design import Design
from ..render import comment_safe, provenance, render
from .bench import Bench
from .header import header
from .module import Module

_TEMPLATES = {
    "{name}.f": "project.f.j2",
    "{name}.core": "project.core.j2",
    "Makefile": "project.Makefile.j2",
    "README.md": "project.README.md.j2",
}


def project_files(
    design: Design,
    modules: tuple[Module, ...],
    benches: tuple[Bench, ...],
    missing: dict[str, str],
) -> dict[str, str]:
    """Relative file name -> text of the files that are no Verilog.

    Args:
        design: what the modules are made for.
        modules: all, what a module uses before it.
        benches: all.
        missing: part -> why the design has none.
    """
    fmt = design.weights.fmt
    values = {
        "name": design.name,
        "title": comment_safe(fmt.title) or fmt.name,
        "version": __version__,
        "header": header(fmt, mark="# "),
        "provenance": provenance(fmt),
        "design": design,
        "modules": modules,
        "benches": benches,
        "missing": missing,
        "tops": _tops(modules),
        "unit": lambda exponent: show_number(Fraction(2) ** exponent),
    }
    return {
        file.format(name=design.name): render("verilog", template, **values)
        for file, template in _TEMPLATES.items()
    }


def _tops(modules: tuple[Module, ...]) -> tuple[Module, ...]:
    """The modules that no other instantiates."""
    used = {inner.name for module in modules for inner in module.uses}
    return tuple(module for module in modules if module.name not in used)
