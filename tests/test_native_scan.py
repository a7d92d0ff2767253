"""The pass over a tensor's elements before they are encoded, in C and in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from fmtc.runtime import native
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.compile_cache import compile_library
from fmtc.runtime.memory import ALIGNMENT, aligned_empty
from fmtc.runtime.native import scan as scanning
from fmtc.runtime.native.scan import NARROW, Scan, scan, scan_numpy, widen

#: Around the 4096 elements that the C looks at at once, and around vector registers.
SIZES = [0, 1, 2, 3, 15, 16, 17, 31, 63, 65, 4095, 4096, 4097, 8192, 8193, 12295]
LARGEST = np.finfo(np.float32).max
EVERY_PATTERN = np.arange(1 << 16, dtype=np.uint16)
TYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def without_a_library(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """As where nothing can be built; a list that grows with every attempt."""
    attempts: list[object] = []

    def build(files: object) -> None:
        attempts.append(files)
        raise BackendUnavailable("there is no C compiler")

    monkeypatch.setattr(native, "_loaded", None)
    monkeypatch.setattr(native, "_failed", None)
    monkeypatch.setattr(native, "load_library", build)
    return attempts


@pytest.fixture(params=["c", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to do it: with the library, and as where there is no compiler."""
    if request.param == "c":
        try:
            native.library()
        except BackendUnavailable as reason:
            pytest.skip(str(reason))
    else:
        without_a_library(monkeypatch)
    scanning._function.cache_clear()
    yield request.param
    scanning._function.cache_clear()


def by_definition(x: np.ndarray) -> Scan:
    finite = np.abs(x[np.isfinite(x)])
    return Scan(
        float(finite.max()) if finite.size else 0.0,
        bool(np.isnan(x).any()),
        bool(np.isinf(x).any()),
    )


def gaussian(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_finite_elements_of_any_number_and_place(way: str, size: int) -> None:
    room = gaussian(size + 20)
    for start in (0, 1, 7):
        x = room[start : start + size]
        assert scan(x) == by_definition(x)
        assert scan(x).is_finite


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 17, 4096, 4097, 8193])
def test_what_is_not_finite_is_seen_wherever_it_stands(way: str, size: int, value: float) -> None:
    for place in sorted({0, size // 2, size - 1, min(4095, size - 1), min(4096, size - 1)}):
        x = gaussian(size)
        x[place] = value
        seen = scan(x)
        assert seen == by_definition(x)
        assert (seen.has_nan, seen.has_infinity) == (np.isnan(value), np.isinf(value))


def test_both_kinds_in_different_pieces_are_seen(way: str) -> None:
    x = gaussian(1 << 18)
    x[5], x[-5] = np.nan, -np.inf
    x[100_000] = -9.5
    assert scan(x) == Scan(9.5, True, True)


@pytest.mark.parametrize(
    "bits",
    [0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0xFF7FFFFF],
    ids=lambda bits: f"{bits:08x}",
)
def test_edges_of_binary32(way: str, bits: int) -> None:
    x = np.full(33, bits, np.uint32).view(np.float32)
    assert scan(x) == Scan(float(abs(x[0])), False, False)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0xFF800001, 0xFFFFFFFF], ids=hex)
def test_every_kind_of_nan_is_one(way: str, bits: int) -> None:
    x = np.zeros(40, np.float32)
    x.view(np.uint32)[39] = bits
    assert scan(x) == Scan(0.0, True, False)


def test_nothing_but_what_is_not_finite(way: str) -> None:
    assert scan(np.array([np.nan, np.inf, -np.inf] * 11, np.float32)) == Scan(0.0, True, True)


@pytest.mark.parametrize("dtype", NARROW)
def test_every_narrow_number_is_widened_exactly(way: str, dtype: str) -> None:
    wide, seen = widen(EVERY_PATTERN, dtype)
    wanted = EVERY_PATTERN.view(TYPES[dtype]).astype(np.float32)
    assert wide.dtype == np.float32
    numbers = ~np.isnan(wanted)
    assert np.array_equal(np.isnan(wide), ~numbers)
    assert np.array_equal(wide.view(np.uint32)[numbers], wanted.view(np.uint32)[numbers])
    assert seen == by_definition(wanted)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("size", [0, 1, 17, 4097])
def test_widening_says_what_the_numbers_are(way: str, dtype: str, size: int) -> None:
    finite = gaussian(size).astype(TYPES[dtype])
    wide, seen = widen(finite.view(np.uint16), dtype)
    assert np.array_equal(wide, finite.astype(np.float32))
    assert seen == by_definition(finite.astype(np.float32))


def test_widening_keeps_the_shape(way: str) -> None:
    wide, _ = widen(np.zeros((3, 0, 5), np.uint16), "bfloat16")
    assert wide.shape == (3, 0, 5)
    wide, _ = widen(np.full((2, 3), 0x3F80, np.uint16), "bfloat16")
    assert np.array_equal(wide, np.ones((2, 3), np.float32))


def test_subnormals_are_widened_where_the_processor_flushes_them(way: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormal numbers")
    try:
        wide, _ = widen(EVERY_PATTERN[:0x0400], "float16")
    finally:
        torch.set_flush_denormal(False)
    assert np.array_equal(wide, np.arange(0x0400) * 2.0**-24)


def test_numpy_goes_in_pieces() -> None:
    x = gaussian((1 << 17) * 2 + 3)
    x[-1] = 77
    assert scan_numpy(x) == by_definition(x)


def reasons(threads: int, calls: int) -> set[str]:
    def ask(_: int) -> str:
        with pytest.raises(BackendUnavailable) as caught:
            native.library()
        return str(caught.value)

    with ThreadPoolExecutor(threads) as pool:
        return set(pool.map(ask, range(calls)))


def test_threads_that_ask_at_once_try_to_build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = without_a_library(monkeypatch)
    assert reasons(8, 64) == {"there is no C compiler"}
    assert len(attempts) == 1


def test_what_failed_is_tried_again_where_the_environment_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = without_a_library(monkeypatch)
    for compiler in ("one", "one", "two"):
        monkeypatch.setenv("CC", compiler)
        reasons(1, 2)
    assert len(attempts) == 2


def test_threads_that_ask_at_once_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(native, "_loaded", None)
    monkeypatch.setattr(native, "load_library", lambda files: loaded.append(files) or "library")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: native.library(), range(64))) == {"library"}
    assert len(loaded) == 1


def test_a_library_that_was_cut_short_is_built_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path))
    try:
        built = compile_library(native.sources())
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    size = len(built.read_bytes())
    built.write_bytes(built.read_bytes()[:100])
    monkeypatch.setattr(native, "_loaded", None)
    monkeypatch.setattr(native, "_failed", None)
    assert native.library()["fmtc_scan"]
    assert len(built.read_bytes()) == size


def test_every_c_file_of_the_folder_is_built() -> None:
    folder = Path(native.__file__).parent
    assert set(native.sources()) == {p.name for p in folder.iterdir() if p.suffix in {".c", ".h"}}
    assert "scan.c" in native.sources()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16, np.uint8])
@pytest.mark.parametrize("shape", [(), (0, 5), (3, 7), (1000, 1001)], ids=str)
def test_memory_for_kernels_begins_on_a_cache_line(shape: tuple[int, ...], dtype: type) -> None:
    kept = [aligned_empty(shape, dtype) for _ in range(5)]
    for room in kept:
        assert (room.shape, room.dtype) == (shape, np.dtype(dtype))
        assert room.ctypes.data % ALIGNMENT == 0
        assert room.flags.c_contiguous
        room[...] = 7
        assert (room == 7).all()
