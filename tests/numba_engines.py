"""Engines of numba, what they are given at random, and comparisons to the bit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from c_formats import ADHOC, GIVEN_ONLY
from fmtc.compiler.format import Format
from fmtc.compiler.resolve import compile_text
from fmtc.formats import load
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.numba_backend import NumbaEngine, require

RNG = np.random.default_rng(20260103)


def skip_without_numba() -> None:
    try:
        require()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@cache
def format_of(name: str) -> Format:
    texts = ADHOC | GIVEN_ONLY
    return compile_text(f"format {name} {{ {texts[name]} }}") if name in texts else load(name)


@cache
def engine_of(fmt: Format, threads: int | None = None) -> NumbaEngine:
    return NumbaEngine(fmt, threads=threads)


def assert_same_streams(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, octets in wanted.items():
        differ = np.argwhere(found[name] != octets)
        assert not differ.size, f"'{name}' differs first at {differ[0]}"


def assert_same_values(found: np.ndarray, wanted: np.ndarray) -> None:
    """The same bits; a NaN is a NaN."""
    assert found.dtype == wanted.dtype
    bits = f"u{wanted.itemsize}"
    same = (found.view(bits) == wanted.view(bits)) | (np.isnan(found) & np.isnan(wanted))
    assert same.all(), f"differ first at {np.argwhere(~same)[0]}"


def random_given(
    fmt: Format, rows: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Elements, and the scales, selects and zeros of their blocks, of all sizes and signs."""
    shape = rows, -(-length // fmt.block)
    scales = RNG.standard_normal(shape) * np.exp2(RNG.integers(-60, 60, shape))
    scales *= RNG.random(shape) < 0.95
    sizes = np.repeat(np.abs(scales), fmt.block, axis=1)[:, :length]
    reach = max(float(max(abs(grid.low), grid.high)) for grid in fmt.grids)
    x = RNG.standard_normal((rows, length)) * (sizes + (sizes == 0)) * reach / 2
    zeros = None
    if fmt.zero is not None and fmt.zero.kind == "point":
        low, high = int(fmt.grids[0].low), int(fmt.grids[0].high)
        zeros = RNG.integers(low, high + 1, shape).astype(np.float32)
    elif fmt.zero is not None:
        zeros = (RNG.standard_normal(shape) * np.abs(scales) * reach).astype(np.float32)
    selects = None
    if len(fmt.grids) > 1:
        selects = RNG.integers(0, len(fmt.grids), shape).astype(np.uint8)
    return x.astype(np.float32), scales.astype(np.float32), selects, zeros
