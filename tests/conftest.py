from __future__ import annotations

from pathlib import Path

import pytest
from commands import GOOD


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.fmt"
    file.write_text(GOOD)
    return file
