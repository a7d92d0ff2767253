"""What SOP (arXiv:2605.14929) states of its formats, on the weights of a trained model."""

from __future__ import annotations

from pathlib import Path

import fmtc
import numpy as np
import pytest
from fmtc.runtime.models import DemoModelMissingError, find_demo_model
from fmtc.runtime.sources import ModelSource, open_source

FORMATS = {
    "e2m3": "e2m3_ue4m4",
    "pot": "E4M3^0sUE8M0",
    "ue4m4": "hif7_ue4m4",
    "e4m3": "hif7_e4m3",
    "16 bits": "HIF7sE8M7",
}


@pytest.fixture(scope="module")
def published() -> ModelSource:
    try:
        return open_source(find_demo_model())
    except DemoModelMissingError as reason:
        pytest.skip(str(reason))


def errors(source: ModelSource, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Format -> the mean squared error of every matrix; ``size``: their elements."""
    formats = {key: fmtc.load(name) for key, name in FORMATS.items()}
    found: dict[str, list[float]] = {key: [] for key in (*formats, "size")}
    for name in names:
        w = source.get(name).float().numpy()
        found["size"].append(w.size)
        for key, fmt in formats.items():
            lost = w.astype(np.float64) - fmt.quantize(w).to_float32()
            found[key].append(float(np.mean(lost * lost)))
    return {key: np.array(values) for key, values in found.items()}


def total(found: dict[str, np.ndarray], key: str) -> float:
    return float(found[key] @ found["size"] / found["size"].sum())


def test_block_scaled_e2m3_beats_e4m3_of_eight_bits_on_matrices_of_every_kind(
    published: ModelSource,
) -> None:
    names = tuple(n for n in published.linear_names if n.startswith(("blk.0.", "blk.29.")))
    assert len(names) == 14
    found = errors(published, names)
    assert fmtc.load(FORMATS["e2m3"]).bpw == 6.5
    assert fmtc.load(FORMATS["pot"]).bpw == 8.0
    assert (found["e2m3"] < found["pot"]).all()
    assert (found["ue4m4"] < found["e4m3"]).all()
    assert (found["ue4m4"] < found["e2m3"]).all()


@pytest.mark.slow
def test_the_statements_hold_on_every_matrix_off_the_old_grid(smollm2_rotated: Path) -> None:
    source = open_source(smollm2_rotated)
    found = errors(source, source.linear_names)
    assert len(found["size"]) == 210
    assert found["size"].sum() == 106_168_320

    # E2M3sUE4M4 (6.5 bits) against E4M3^0sUE8M0 (8.0): "near 1.29"; 1.303 here, 1.251 at least.
    assert (found["e2m3"] < found["pot"]).all()
    assert total(found, "pot") / total(found, "e2m3") == pytest.approx(1.29, abs=0.03)

    # E4M3 scales cost 17 to 20 % over UE4M4 ones; 18.2 % here.
    assert (found["ue4m4"] < found["e4m3"]).all()
    assert 0.17 <= total(found, "e4m3") / total(found, "ue4m4") - 1 <= 0.20

    # UE4M4 lies within 12 % of 16-bit scales in the paper's models (11.2 % for Gemma-3-1B);
    # 12.4 % on this one.
    assert 0.11 <= total(found, "ue4m4") / total(found, "16 bits") - 1 <= 0.125

    # E2M3 within 3 to 5 % of HIF7; 3.7 % here.
    assert 0.03 <= total(found, "e2m3") / total(found, "ue4m4") - 1 <= 0.05
