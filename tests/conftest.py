from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import GOOD


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.fmt"
    file.write_text(GOOD)
    return file


@pytest.fixture
def fresh() -> Iterator[None]:
    """Graphs of one test do not count as recompilations of another."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
