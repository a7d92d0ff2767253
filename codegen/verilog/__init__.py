"""Verilog-2005 for a format: modules from decoders to a streaming core, and their benches.

``rtl/`` has one module a file, ``tb/`` the self-checking benches and the golden rows that they
read; a Makefile, a file list, a FuseSoC core and a README stand beside them. All ports are flat
vectors with lane 0 in the low bits.
"""

from __future__ import annotations

from ..design import Design
from .bench import Bench
from .module import Module
from .parts.library import benches_of, missing_of, modules_of
from .project import project_files

__all__ = ["Bench", "Module", "benches_of", "emit_design", "modules_of"]


def emit_design(design: Design) -> dict[str, str]:
    """The Verilog files of a design, and what builds them: relative file name -> text."""
    modules, benches = modules_of(design), benches_of(design)
    files = {f"rtl/{module.name}.v": module.text() for module in modules}
    for bench in benches:
        files[f"tb/{bench.top}.v"] = bench.text()
        files[f"tb/{bench.name}.memh"] = bench.memory()
    return files | project_files(design, modules, benches, missing_of(design))
