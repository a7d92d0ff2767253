"""What the tests of the hardware share: tools that may be missing, and designs by name."""

from __future__ import annotations

import shutil

import pytest
from fmtc import formats
from fmtc.codegen.design import Design, design_of
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
