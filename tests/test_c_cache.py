"""Building the generated C: the cache, the compiler, and what happens without one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fmtc.codegen.c import emit
from fmtc.compiler.reference import TensorLevel, encode
from fmtc.formats import load
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.c_backend import CBackend
from fmtc.runtime.compile_cache import compile_library, find_compiler

BUILD_AND_ENCODE = """
import numpy as np
from fmtc.compiler.reference import TensorLevel
from fmtc.formats import load
from fmtc.runtime.c_backend import CBackend
streams = CBackend(load("mxfp4")).encode(np.arange(64, dtype=np.float32)[None], TensorLevel())
print(streams["codes"].tobytes().hex(), streams["scales"].tobytes().hex())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler() -> None:
    try:
        find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: None) -> Path:
    """A $CC that writes down its calls and refuses -march=native while ``refuse`` exists."""
    script = tmp_path / "wrapped-cc"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--version*) ;; *) echo "$*" >> {tmp_path}/calls;; esac\n'
        f'case "$*" in *-march=native*) if [ -e {tmp_path}/refuse ]; then '
        'echo "bad value for -march" >&2; exit 1; fi;; esac\n'
        f'exec {find_compiler()[0]} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    return tmp_path / "calls"


def test_a_library_is_built_once(cache: Path, wrapper: Path) -> None:
    files = emit(load("mxfp4"))
    first = compile_library(files)
    assert compile_library(files) == first
    assert len(wrapper.read_text().splitlines()) == 1
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_another_text_or_flag_is_another_library(cache: Path, compiler: None) -> None:
    files = emit(load("mxfp4"))
    paths = {
        compile_library(files),
        compile_library(files, native=False),
        compile_library(files, native=False, extra_flags=("-DNDEBUG",)),
        compile_library(emit(load("nvfp4")), native=False),
    }
    assert len(paths) == 4


def test_a_compiler_that_refuses_native_code_builds_portable_code(
    cache: Path, wrapper: Path, tmp_path: Path
) -> None:
    (tmp_path / "refuse").touch()
    x = np.linspace(-3, 3, 64, dtype=np.float32)[None]
    fmt = load("mxfp4")
    found = CBackend(fmt).encode(x, TensorLevel())
    wanted = encode(fmt, x, TensorLevel())
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert len(wrapper.read_text().splitlines()) == 2


def test_processes_that_build_at_once_all_get_a_whole_library(cache: Path, compiler: None) -> None:
    environment = {**os.environ, "FMTC_CACHE": str(cache)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD_AND_ENCODE],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert len(list(cache.glob("*.so"))) == 1
    assert not list(cache.glob("build-*"))


def test_a_library_that_was_cut_short_is_built_again(cache: Path, compiler: None) -> None:
    fmt = load("mxfp4")
    path = compile_library(emit(fmt))
    path.write_bytes(path.read_bytes()[:100])
    assert CBackend(fmt).encode(np.ones((1, 32), np.float32), TensorLevel())["codes"].size == 16


def test_no_compiler_makes_the_backend_unavailable(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="no C compiler"):
        CBackend(load("mxfp4"))


def test_a_compiler_of_cc_that_is_not_there_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/nowhere/a-compiler -m64")
    with pytest.raises(BackendUnavailable, match="/nowhere/a-compiler"):
        CBackend(load("mxfp4"))


def test_a_compile_error_is_passed_on_shortened(cache: Path, compiler: None) -> None:
    with pytest.raises(BackendUnavailable, match="error") as caught:
        compile_library({"broken.c": "int broken(" + "x" * 5000})
    assert len(str(caught.value)) < 1000


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: None
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackendUnavailable, match="FMTC_CACHE"):
        CBackend(load("mxfp4"))
