"""Verilog-2005 for a format: modules from decoders to a streaming core, and their benches.

``rtl/`` has one module a file, ``tb/`` the self-checking benches and the golden rows that they
read. All ports are flat vectors with lane 0 in the low bits.
"""

from __future__ import annotations

from ...compiler.format import Format
from ..design import Design, design_of
from .bench import Bench
from .module import Module
from .parts.library import benches_of, modules_of

__all__ = ["Bench", "Module", "benches_of", "emit", "emit_design", "modules_of"]


def emit(fmt: Format) -> dict[str, str]:
    """The Verilog files of a format with HIF8 activations: relative file name -> text."""
    return emit_design(design_of(fmt))


def emit_design(design: Design) -> dict[str, str]:
    """The Verilog files of a design: relative file name -> text."""
    files = {f"rtl/{m.name}.v": m.text() for m in modules_of(design)}
    for bench in benches_of(design):
        files[f"tb/{bench.top}.v"] = bench.text()
        files[f"tb/{bench.name}.memh"] = bench.memory()
    return files
