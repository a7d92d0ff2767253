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


@pytest.fixture(scope="session")
def smollm2_rotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M as a Hugging Face folder, rotated off the int4 grid that it is published on."""
    from fmtc.runtime.models import DemoModelMissingError, find_demo_model
    from fmtc.runtime.models.convert import rotate_folder, to_folder

    try:
        published = find_demo_model()
    except DemoModelMissingError as reason:
        pytest.skip(str(reason))
    place = tmp_path_factory.mktemp("smollm2")
    to_folder(published, place / "published")
    return rotate_folder(place / "published", place / "rotated").folder
