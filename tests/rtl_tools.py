"""What the tests of the hardware share: tools that may be missing, designs by name, faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fmtc import formats
from fmtc.codegen.design import Design, design_of
from fmtc.codegen.verilog import Bench
from fmtc.runtime.rtl.simulate import run_bench, write_bench
from fmtc.runtime.rtl.tools import INSTALLS


def need(*tools: str) -> None:
    """Skip the test, and say how to install it, where a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: {INSTALLS.get(tool, tool)}")


def design(names: tuple[str, str | None]) -> Design:
    """The design of two shipped formats; None: the usual activations."""
    weights, activations = names
    return design_of(formats.load(weights), activations and formats.load(activations))


def assert_noticed(bench: Bench, module: str, old: str, new: str, directory: Path) -> None:
    """Replace a text in a module that a bench tries: the bench has to fail, and to say so."""
    need("iverilog", "vvp")
    write_bench(bench, directory)
    file = directory / "rtl" / f"{module}.v"
    text = file.read_text()
    assert old in text, f"nothing to change in {module}"
    file.write_text(text.replace(old, new))
    result = run_bench(bench, directory)
    assert not result.passed
    assert "FAIL" in result.log, result.log
