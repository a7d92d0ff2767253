"""Building the generated C: the cache, the compiler, and what happens without one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fmtc.codegen.c import emit_target
from fmtc.codegen.c.targets import TARGETS
from fmtc.compiler.reference import TensorLevel
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


#: Files that are quickly compiled.
SMALL = {"one.c": '#include "one.h"\nint one(void) { return ONE; }\n', "one.h": "#define ONE 1\n"}


def build_and_encode(cache: Path) -> subprocess.Popen[str]:
    """Another process that builds and loads all that it needs, with a cache of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILD_AND_ENCODE],
        env={**os.environ, "FMTC_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    first = compile_library(SMALL)
    assert compile_library(SMALL) == first
    assert len(wrapper.read_text().splitlines()) == 1
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_another_text_flag_or_compiler_is_another_library(
    cache: Path, wrapper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {
        compile_library(SMALL),
        compile_library(SMALL, native=False),
        compile_library(SMALL, native=False, extra_flags=("-DNDEBUG",)),
        compile_library({**SMALL, "one.h": "#define ONE 2\n"}, native=False),
        compile_library({"two.c": SMALL["one.c"], "one.h": SMALL["one.h"]}, native=False),
    }
    assert len(paths) == 5
    monkeypatch.setenv("CC", f"{find_compiler()[0]} -fno-math-errno")
    assert compile_library(SMALL, native=False) not in paths
    monkeypatch.delenv("CC")
    assert compile_library(SMALL, native=False) not in paths
    assert len(list(cache.iterdir())) == 7


def test_a_compiler_that_refuses_native_code_builds_code_for_any_processor(
    cache: Path, wrapper: Path, tmp_path: Path
) -> None:
    (tmp_path / "refuse").touch()
    assert compile_library(SMALL) == compile_library(SMALL, native=False)
    assert ["-march=native" in call for call in wrapper.read_text().splitlines()] == [True, False]


@pytest.fixture(scope="module")
def built_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A cache that three processes filled at once, and what they printed."""
    try:
        find_compiler()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    cache = tmp_path_factory.mktemp("cache")
    running = [build_and_encode(cache) for _ in range(3)]
    answers = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    return cache, [out for out, _ in answers]


def test_processes_that_build_at_once_all_get_whole_libraries(
    built_at_once: tuple[Path, list[str]],
) -> None:
    cache, answers = built_at_once
    assert len(set(answers)) == 1
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    assert {path.suffix for path in whole} == {".so", ".o"}, "nothing else is left behind"
    assert build_and_encode(cache).communicate(timeout=300)[0] == answers[0]
    assert {path: path.read_bytes() for path in cache.iterdir()} == whole


def test_a_library_that_was_cut_short_is_built_again(cache: Path, compiler: None) -> None:
    fmt = load("mxfp4")
    path = compile_library(emit_target(fmt, TARGETS[-1]), native=False)
    path.write_bytes(path.read_bytes()[:100])
    backend = CBackend(fmt, target="portable")
    assert backend.encode(np.ones((1, 32), np.float32), TensorLevel())["codes"].size == 16


def test_all_libraries_that_a_process_needs_are_built_again_where_they_were_cut_short(
    built_at_once: tuple[Path, list[str]], tmp_path: Path
) -> None:
    built, answers = built_at_once
    sizes = {path.name: path.stat().st_size for path in built.iterdir()}
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:100])
    found, complaint = build_and_encode(tmp_path).communicate(timeout=300)
    assert found == answers[0], complaint
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == sizes


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


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo my own reason >&2; exit 3", "wrapped-cc.* cannot build .*: my own reason"),
        ("exit 3", "wrapped-cc.* cannot build .*: it ended with status 3"),
        ("exit 0", "wrapped-cc.* cannot build"),
    ],
)
def test_a_compiler_that_fails_is_named_with_its_complaint(
    cache: Path, wrapper: Path, tmp_path: Path, script: str, message: str
) -> None:
    (tmp_path / "wrapped-cc").write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(BackendUnavailable, match=message):
        CBackend(load("mxfp4"))
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: None
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FMTC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackendUnavailable, match="FMTC_CACHE"):
        CBackend(load("mxfp4"))
