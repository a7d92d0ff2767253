"""Code generation: one subpackage per target, each a pure function from a format to texts."""

from __future__ import annotations

from importlib import import_module

from ..compiler.format import Format

#: What ``fmtc build --target`` takes. Each names a subpackage with ``emit(fmt)``.
TARGETS = ("c", "triton", "verilog", "vectors")


def emit(fmt: Format, target: str) -> dict[str, str]:
    """The files of one target: relative file name -> text, the same for the same format.

    Raises:
        ValueError: there is no such target.
    """
    if target not in TARGETS:
        raise ValueError(f"no target '{target}'; there are {', '.join(TARGETS)}")
    module = import_module(f".{target}", __name__)
    files: dict[str, str] = module.emit(fmt)
    return files
