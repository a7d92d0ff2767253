"""All of a format's C files in somebody's C++ program, and in one library: no Python around."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_formats import ADHOC, DTYPES, SHIPPED, format_of, targets
from fmtc.codegen.c import emit
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.narrow import narrow
from fmtc.compiler.reference import TensorLevel, decode, encode
from fmtc.compiler.thresholds import scale_thresholds
from fmtc.compiler.view import view_of
from fmtc.formats import names
from fmtc.runtime.compile_cache import compile_library

RNG = np.random.default_rng(20260105)

FLAGS = ("-O1", "-std=c11", "-ffp-contract=off")
ROWS, LENGTH = 600, 1003  # enough for several threads

#: Formats in one program: select streams, bits of scale words and none, tables and binary32.
TOGETHER = ("mxfp4", "sfp4", "meta_word", "nf4")

#: Encodes floats from standard input, and writes all that it makes to standard output.
PROGRAM = """
#include <cstdio>
#include <cstring>
#include <vector>
%(includes)s

typedef std::vector<unsigned char> octets;

static void put(const void *data, size_t size) { std::fwrite(data, 1, size, stdout); }

static std::vector<float> elements(void)
{
    std::vector<float> x(%(rows)d * %(length)d);
    if (std::fread(x.data(), sizeof(float), x.size(), stdin) != x.size())
        std::fprintf(stderr, "too few elements\\n");
    return x;
}

int main(int count, char **arguments)
{
    const size_t rows = %(rows)d, n = %(length)d;
    if (count > 1) {
%(targets)s
        return 0;
    }
    (void)arguments;
    const std::vector<float> x = elements();
%(calls)s
    return 0;
}
"""

CALL = """
    {
        const size_t codes_size = fmtc_%(name)s_codes_bytes(n), blocks = fmtc_%(name)s_blocks(n);
        const size_t scales_size = fmtc_%(name)s_scales_bytes(n), select_size = %(select_size)s;
        const std::vector<float> given(rows * blocks, -0.37f);
        octets codes(rows * codes_size), scales(rows * scales_size), select(rows * select_size + 1);
        octets out(rows * n * 4);
        %(thresholds)s
        if (fmtc_%(name)s_encode(rows, n, x.data(), n, 1.0f, table, codes.data(), codes_size,
                                 scales.data(), scales_size, select.data(), select_size) != 0)
            return 1;
        put(codes.data(), codes.size());
        put(scales.data(), scales.size());
        put(select.data(), rows * select_size);
        for (int number = FMTC_FLOAT32; number <= FMTC_FLOAT16; number++) {
            fmtc_%(name)s_decode(rows, n, codes.data(), codes_size, scales.data(), scales_size,
                                 select.data(), select_size, 1.0f, out.data(), n,
                                 static_cast<fmtc_number>(number));
            put(out.data(), rows * n * (number == FMTC_FLOAT32 ? 4 : 2));
        }
        fmtc_%(name)s_encode_given(rows, n, x.data(), n, given.data(), NULL, NULL, blocks,
                                   codes.data(), codes_size);
        put(codes.data(), codes.size());
        fmtc_%(name)s_decode_given(rows, n, codes.data(), codes_size, given.data(), NULL, NULL,
                                   blocks, out.data(), n, FMTC_FLOAT32);
        put(out.data(), out.size());
    }
"""


def run(*command: str | Path, directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]


def program_text() -> str:
    calls = []
    for name in TOGETHER:
        fmt = format_of(name)
        view = view_of(fmt)
        in_c = f"fmtc_{name}_scale_thresholds" in emit(fmt)[f"{name}.h"]
        size = scale_thresholds(view, 1.0).size
        filled = f"float table[{size}]; fmtc_{name}_scale_thresholds(1.0f, table);"
        selects = any(stream.name == "select" for stream in fmt.streams)
        calls.append(
            CALL
            % {
                "name": name,
                "select_size": f"fmtc_{name}_select_bytes(n)" if selects else "0",
                "thresholds": filled if in_c else "const float *table = NULL;",
            }
        )
    return PROGRAM % {
        "includes": "\n".join(f'#include "{name}.h"' for name in TOGETHER),
        "targets": "\n".join(f"        std::puts(fmtc_{n}_target());" for n in TOGETHER),
        "calls": "".join(calls),
        "rows": ROWS,
        "length": LENGTH,
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the formats' files, the objects of all but NAME.c, and main.o."""
    for compiler in ("gcc", "g++"):
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
    directory = tmp_path_factory.mktemp("vendored")
    for name in TOGETHER:
        files = emit(format_of(name))
        for file, text in files.items():
            (directory / file).write_text(text)
        parts = [file for file in files if file.endswith(".c") and file != f"{name}.c"]
        run("gcc", *FLAGS, "-c", *parts, directory=directory)
    (directory / "main.cc").write_text(program_text())
    run("g++", "-O1", "-Wall", "-Wextra", "-Werror", "-c", "main.cc", directory=directory)
    return directory


def built(project: Path, program: str, *flags: str) -> Path:
    """The program, with every NAME.c compiled under further flags."""
    run("gcc", *FLAGS, *flags, "-c", *[f"{n}.c" for n in TOGETHER], directory=project)
    objects = sorted(path.name for path in project.glob("*.o"))
    run("g++", *flags, *objects, "-lm", "-o", program, directory=project)
    return project / program


def elements() -> np.ndarray:
    sizes = np.exp2(RNG.uniform(-12, 12, (ROWS, 1)))
    return (RNG.standard_normal((ROWS, LENGTH)) * sizes).astype(np.float32)


def expected(fmt: Format, x: np.ndarray) -> bytes:
    """What the program writes of one format, from the reference."""
    level = TensorLevel()
    streams = encode(fmt, x, level)
    values = decode(fmt, streams, LENGTH, level)
    given = np.full((ROWS, -(-LENGTH // fmt.block)), -0.37, np.float32)
    engine = ReferenceEngine(fmt)
    codes = engine.encode_given(x, given, None, None)
    parts = [streams[stream.name] for stream in fmt.streams]
    parts += [narrow(values, dtype) for dtype in DTYPES]
    parts += [codes, engine.decode_given(codes, given, None, None, LENGTH)]
    return b"".join(part.tobytes() for part in parts)


def outputs(program: Path, x: np.ndarray, threads: int) -> bytes:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [program], input=x.tobytes(), env=environment, capture_output=True, check=True
    )
    return done.stdout


def test_a_cplusplus_program_with_several_formats_gets_the_references_bits(project: Path) -> None:
    program = built(project, "program")
    x = elements()
    assert outputs(program, x, 1) == b"".join(expected(format_of(n), x) for n in TOGETHER)
    done = subprocess.run([program, "targets"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [targets()[0].name] * len(TOGETHER)


def test_with_openmp_any_number_of_threads_gives_the_same_bits(project: Path) -> None:
    (project / "probe.cc").write_text("int main() { return 0; }\n")
    command = ["g++", "-fopenmp", "probe.cc", "-o", "probe"]
    if subprocess.run(command, cwd=project, capture_output=True, check=False).returncode:
        pytest.skip("g++ has no OpenMP")
    program = built(project, "parallel", "-fopenmp")
    x = elements()
    wanted = b"".join(expected(format_of(n), x) for n in TOGETHER)
    for threads in (1, 2, 3, 7):
        assert outputs(program, x, threads) == wanted, threads


#: Multipliers: none, a fraction, subnormal thresholds, infinite ones.
MULTIPLIERS = (1.0, 0.37, 1e-30, 2.0**-126, 3e-40, 2.0**-149, 1e30, 3e38, 2.0**127)


def multipliers_of(fmt: Format) -> list[float]:
    if fmt.scale.tensor == "fp32":
        return [float(np.float32(m)) for m in MULTIPLIERS]
    if fmt.scale.shift is not None:
        return [2.0**-fmt.scale.shift]
    return [1.0, 2.0**-126, 2.0**-149, 2.0**20, 2.0**100, 2.0**127]


def assert_the_table_in_c_is_the_compilers(fmt: Format) -> None:
    path = compile_library(emit(fmt), native=False, extra_flags=("-O0",))
    library = ctypes.CDLL(str(path))
    fill = library[f"fmtc_{fmt.name}_scale_thresholds"]
    fill.argtypes, fill.restype = [ctypes.c_float, ctypes.c_void_p], None
    for multiplier in multipliers_of(fmt):
        wanted = scale_thresholds(view_of(fmt), multiplier)
        found = np.full(wanted.size + 1, 7, np.float32)
        fill(multiplier, found.ctypes.data)
        assert found[-1] == 7
        differ = np.flatnonzero(found[:-1].view(np.uint32) != wanted.ravel().view(np.uint32))
        assert not differ.size, (multiplier, differ, found[differ], wanted.ravel()[differ])


def has_table_in_c(fmt: Format) -> bool:
    return f"{fmt.name}_scale_thresholds(float" in emit(fmt)[f"{fmt.name}.h"]


TABLES = [name for name in (*SHIPPED, *ADHOC) if has_table_in_c(format_of(name))]
FAST = ("e5m2_rows", "inline", "main", "mxfp4", "nvfp4", "po2_nf4", "sop_pair")


@pytest.mark.parametrize("name", FAST)
def test_the_c_makes_the_table_of_scale_thresholds(name: str) -> None:
    targets()
    assert_the_table_in_c_is_the_compilers(format_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*TABLES, *names()} - {*FAST}))
def test_the_c_makes_the_table_of_scale_thresholds_of_every_format_that_has_one(name: str) -> None:
    targets()
    fmt = format_of(name)
    if fmt.is_plain and has_table_in_c(fmt):
        assert_the_table_in_c_is_the_compilers(fmt)
