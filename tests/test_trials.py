"""Several targets for the largest element: kernels that try them all, against the pipeline."""

from __future__ import annotations

from functools import cache

import fmtc
import numpy as np
import pytest
from fmtc import compile_text
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.general import encode_general
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.reference import TensorLevel, calibrate, encode
from fmtc.compiler.thresholds import scale_thresholds, side_thresholds
from fmtc.compiler.view import view_of
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.triton_backend import TritonBackend

RNG = np.random.default_rng(46)

TWO_GRIDS = "grid e2m1  grid int4 = int 4"

MINE = {
    "fp32": "block 8  grid e2m1  scale fp32 { target targets(6, 4, 3) }",
    "two_grids": f"block 16  {TWO_GRIDS}  scale e4m3 {{ target targets(6, 4) }}  "
    "select 1 bit at scale.sign { 0: e2m1, 1: int4 }",
    "field": f"block 16  {TWO_GRIDS}  scale ue4m3 {{ target targets(4, 3, 6) }}  "
    "select 1 bit at field { 0: e2m1, 1: int4 }",
    "powers": "block 32  grid e2m1  scale e8m0 { rule floor_log2  target targets(6, 4) }",
    "up": "block 5  grid e2m1  scale e5m3 { round up  target targets(4, 6)  shift auto }",
}


@cache
def format_of(name: str) -> Format:
    if name in MINE:
        return compile_text(f"format {name} {{ {MINE[name]} }}")
    return fmtc.load(name)


def rows_of(fmt: Format) -> np.ndarray:
    """Rows of 2.5 blocks: plain and hostile, with elements on and beside what decides."""
    length = 2 * fmt.block + fmt.block // 2
    x = RNG.standard_normal((300, length)).astype(np.float32)
    few = RNG.choice(np.array([-6, -4, -1, -0.5, -0.0, 0.0, 0.5, 1, 3, 4, 6], np.float32), x.shape)
    bits = RNG.integers(0, 1 << 32, x.shape, np.uint32).view(np.float32)
    bits = np.where(np.isfinite(bits), bits, np.float32(0))
    tiny, huge = x * np.float32(1e-39), np.clip(x, -3, 3) * np.float32(1e38)
    zeros = RNG.choice(np.array([-0.0, 0.0], np.float32), x.shape)
    rows = np.concatenate([x, few, bits, tiny, huge, zeros[:3]])
    if fmt.policies.nan == "propagate":
        broken = x[:20].copy()
        broken[RNG.random(broken.shape) < 0.05] = np.nan
        rows = np.concatenate([rows, broken])
    return rows


def levels_of(fmt: Format, x: np.ndarray) -> list[TensorLevel]:
    levels = [calibrate(fmt, x)]
    if fmt.scale.tensor == "fp32":
        levels += [TensorLevel(tensor_scale=0.0123), TensorLevel(tensor_scale=3e-40)]
    return levels


def assert_same_streams(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, octets in wanted.items():
        assert np.array_equal(found[name], octets), name


@pytest.mark.parametrize("name", ["four_six", *MINE])
def test_it_is_plain_and_has_a_table_for_each_trial(name: str) -> None:
    fmt = format_of(name)
    view = view_of(fmt)
    assert fmt.is_plain
    assert kernel_format(fmt) is fmt or kernel_format(fmt) == fmt
    assert len(view.trials) == len(fmt.grids) * len(fmt.scale.targets)
    tables = scale_thresholds(view, 0.37)
    assert len(tables) == len(view.trials)
    for table, trial in zip(tables, view.trials, strict=True):
        divisors = trial.positive_divisor, trial.negative_divisor
        assert np.array_equal(table, side_thresholds(view, trial.grid, *divisors, 0.37))


@pytest.mark.parametrize("name", ["four_six", *MINE])
def test_the_reference_encodes_it_as_the_pipeline_does(name: str) -> None:
    fmt = format_of(name)
    x = rows_of(fmt)
    for level in levels_of(fmt, x):
        general = encode_general(fmt, x, level, ReferenceEngine(fmt), None)
        assert_same_streams(encode(fmt, x, level), general)


@pytest.mark.parametrize("name", ["four_six", *MINE])
def test_c_encodes_it_as_the_reference_does(name: str) -> None:
    fmt = format_of(name)
    try:
        backend = CBackend(fmt, threads=1)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    x = rows_of(fmt)
    for level in levels_of(fmt, x):
        assert_same_streams(backend.encode(x, level), encode(fmt, x, level))


@pytest.mark.parametrize("name", ["four_six", *MINE])
def test_triton_encodes_it_as_the_reference_does(name: str) -> None:
    fmt = format_of(name)
    try:
        backend = TritonBackend(fmt, device="cpu")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    x = rows_of(fmt)
    for level in levels_of(fmt, x):
        wanted = encode(fmt, x, level)
        assert_same_streams(backend.encode(x, level), wanted)


def test_the_other_target_is_taken_where_it_errs_less() -> None:
    exact = np.array([[4, 3, 2, 0.5, -4, -3, -2, -1] * 2], np.float32)  # with 4 at 4, not at 6
    words = {
        name: int(encode(fmtc.load(name), exact, TensorLevel())["scales"][0, 0])
        for name in ("nvfp4", "four_six")
    }
    one = int(encode(fmtc.load("nvfp4"), 1.5 * exact, TensorLevel())["scales"][0, 0])
    assert words["four_six"] == one
    assert words["nvfp4"] < one
