"""The C under AddressSanitizer, UndefinedBehaviorSanitizer and valgrind, on awkward tensors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c_formats import format_of, targets
from c_harness import (
    HERE,
    SANITIZERS,
    STREAM_BYTES,
    TIMEOUT,
    build,
    output_of,
    sanitizers_missing,
    write_format_case,
)
from fmtc.codegen.c.targets import Target
from fmtc.runtime.native import sources

STREAMS = f"-DFMTC_STREAM_BYTES={STREAM_BYTES}"

#: Codes of 4 bits in whole blocks, of 3 bits in blocks of 7; zero points; very few thresholds.
FAST = ("mxfp4", "point", "seven", "two_bits")

#: All other widths of codes, kinds of scale words and rules, selects in streams and in words.
SLOW = (
    "block_dialect",
    "bytes",
    "dynamic8",
    "e2m3_ue4m4",
    "e4m3_rows",
    "five_arms",
    "five_bits",
    "huge",
    "if6",
    "int3_asym_g128",
    "meta_word",
    "minimum",
    "minimum_up",
    "mirrored",
    "nf4",
    "nvfp4",
    "one_sided_fp32",
    "po2_nf4",
    "point_after",
    "q4_k",
    "quotient",
    "reciprocal",
    "saturating",
    "seven_bits",
    "sfp4",
    "sixteen",
    "sop_pair",
    "ten_bits",
    "three_bits",
    "tried",
)


def hash_on(name: str, target: Target, directory: Path, *flags: str) -> str:
    """What the driver of a format prints on one target: it runs without a complaint."""
    here = directory / target.name
    here.mkdir()
    return output_of(build(here, write_format_case(format_of(name), target, here), *flags))


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_no_sanitizer_complains_of_a_format_on_any_target(name: str, tmp_path: Path) -> None:
    if missing := sanitizers_missing():
        pytest.skip(missing)
    found = {t.name: hash_on(name, t, tmp_path, *SANITIZERS, STREAMS) for t in targets()}
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mxfp4", "sop_pair"])
def test_no_sanitizer_of_clang_complains_either(name: str, tmp_path: Path) -> None:
    if missing := sanitizers_missing("clang"):
        pytest.skip(missing)
    found = set()
    for target in targets():
        here = tmp_path / target.name
        here.mkdir()
        files = write_format_case(format_of(name), target, here)
        found.add(output_of(build(here, files, *SANITIZERS, STREAMS, compiler="clang")))
    assert len(found) == 1


def test_no_sanitizer_complains_of_the_c_that_belongs_to_no_format(tmp_path: Path) -> None:
    if missing := sanitizers_missing():
        pytest.skip(missing)
    called = {"errors.c", "packing.c", "peaks.c", "records.c", "scan.c", "words.c"}
    assert set(sources()) == called | {"blocks.h"}, "harness/native.py calls no others"
    runtimes = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    compiler = tmp_path / "cc"
    # Without optimization, which takes ten times as long with the sanitizers' checks.
    compiler.write_text(f'#!/bin/sh\nexec gcc "$@" -g -O0 {" ".join(SANITIZERS)}\n')
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "CC": str(compiler),
        "FMTC_CACHE": str(tmp_path),
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps much until it ends
        "PYTHONMALLOC": "malloc",
    }
    done = subprocess.run(
        [sys.executable, HERE / "native.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:6000]
    assert done.stdout == "all alike\n"
    assert list(tmp_path.glob("*.so")), "the library was built with the sanitizers"


def valgrind() -> list[str]:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    return ["valgrind", "--error-exitcode=1", "--leak-check=full", "-q"]


@pytest.mark.parametrize("name", ["mxfp4", pytest.param("po2_nf4", marks=pytest.mark.slow)])
def test_valgrind_finds_nothing(name: str, tmp_path: Path) -> None:
    command = valgrind()
    # It knows no AVX-512.
    known = [target for target in targets() if target.name != "avx512"]
    found = set()
    for target in known:
        here = tmp_path / target.name
        here.mkdir()
        program = build(here, write_format_case(format_of(name), target, here), STREAMS)
        found.add(output_of(*command, program, "few"))
    assert len(found) == 1
