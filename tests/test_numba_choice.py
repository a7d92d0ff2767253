"""How the loops of the numba back end are compiled and kept, and when it is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fmtc
import numpy as np
import pytest
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.pipeline import decode, encode
from fmtc.compiler.reference import calibrate
from fmtc.formats import load
from fmtc.runtime import choose
from fmtc.runtime.backend import BackendUnavailable
from numba_engines import RNG, assert_same_streams, engine_of, skip_without_numba
from representatives import EACH_KIND


@pytest.fixture(autouse=True)
def numba() -> None:
    skip_without_numba()


# -- how it is compiled ---------------------------------------------------------------------


def test_loops_are_compiled_once_for_all_formats() -> None:
    from fmtc.runtime.loops import decoding, encoding

    for name in EACH_KIND:
        fmt = load(name)
        x = RNG.standard_normal((2, 256)).astype(np.float32)
        streams = encode(fmt, x, calibrate(fmt, x), engine_of(kernel_format(fmt)))
        decode(fmt, streams, 256, calibrate(fmt, x), engine_of(kernel_format(fmt)))
    for loop in (encoding.encode, encoding.encode_given, decoding.decode, decoding.decode_given):
        assert len(loop.__wrapped__.signatures) == 1


@pytest.fixture
def loops_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from fmtc.runtime.loops import jit

    monkeypatch.setenv("FMTC_CACHE", str(tmp_path))
    jit._folder.cache_clear()
    yield tmp_path
    jit._folder.cache_clear()


def test_compiled_loops_are_kept_and_compiled_again_where_they_were_cut_short(
    loops_cache: Path,
) -> None:
    from fmtc.runtime.loops.jit import loop

    assert loop(_twice)(21) == 42
    (folder,) = loops_cache.iterdir()
    assert folder.name.startswith("loops-")
    for kind in ("nbc", "nbi"):
        (kept,) = folder.rglob(f"*.{kind}")
        whole = kept.read_bytes()
        again = loop(_twice)
        assert again(21) == 42
        assert sum(again.__wrapped__.stats.cache_hits.values()) == 1
        for size in (0, len(whole) // 2):
            kept.write_bytes(whole[:size])
            assert loop(_twice)(21) == 42
            assert len(kept.read_bytes()) >= len(whole) // 2


def test_where_nothing_can_be_kept_loops_are_compiled_in_memory(
    loops_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmtc.runtime.loops.jit import loop

    monkeypatch.setenv("FMTC_CACHE", "/dev/null/nowhere")
    assert loop(_twice)(4) == 8
    assert not list(loops_cache.iterdir())


def _twice(x: int) -> int:
    return x + x


# -- which back end -------------------------------------------------------------------------


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No compiler on the path, no library in the cache, and no notice given yet."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choose, "_noticed", set())
    choose._make.cache_clear()
    yield
    choose._make.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_numba_works_after_one_notice_that_names_what_is_missing() -> None:
    fmt = fmtc.load("po2_nf4")
    x = RNG.standard_normal((3, 50)).astype(np.float32)
    with pytest.warns(RuntimeWarning, match="works with numba: .*no C compiler.*gcc") as caught:
        q = fmt.quantize(x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    # A second notice would be an error here.
    fmtc.load("q4_0").quantize(RNG.standard_normal((2, 64)).astype(np.float32))
    assert np.array_equal(q.dequantize(), q.dequantize(backend="reference"))
    assert choose.backend_for(fmt).name == "numba"
    assert_same_streams(dict(q.streams), dict(fmt.quantize(x, backend="reference").streams))


@pytest.mark.usefixtures("no_compiler")
def test_without_numba_either_the_reference_works_after_one_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fmtc.runtime.numba_backend.find_spec", lambda _: None)
    fmt = fmtc.load("po2_nf4")
    x = RNG.standard_normal((3, 50)).astype(np.float32)
    message = r"NumPy reference: .*no C compiler.*gcc.*pip install 'fmtc\[numba\]'"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        q = fmt.quantize(x)
    assert len(caught) == 1
    assert np.array_equal(q.dequantize(), q.dequantize(backend="reference"))
    fmtc.load("nvfp4").quantize(x)
    assert choose.backend_for(fmt).name == "reference"
    with pytest.raises(BackendUnavailable, match=r"pip install 'fmtc\[numba\]'"):
        fmt.quantize(x, backend="numba")


def test_numba_is_had_by_name() -> None:
    x = RNG.standard_normal((4, 64)).astype(np.float32)
    for name in EACH_KIND:
        fmt = fmtc.load(name)
        y = np.tile(x, (1, 8))
        q = fmt.quantize(y, backend="numba")
        wanted = fmt.quantize(y, backend="reference")
        assert_same_streams(dict(q.streams), dict(wanted.streams))
        assert np.array_equal(q.dequantize(backend="numba"), wanted.dequantize(backend="reference"))
