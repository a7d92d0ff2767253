"""The C of products: strict compilers, the choice of a target, sanitizers, another processor."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from c_formats import format_of
from fmtc.codegen.c import emit, emit_target, symbol
from fmtc.codegen.c.products import emit_product_target, emit_products
from fmtc.codegen.c.targets import TARGETS
from fmtc.compiler import pipeline
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.product import given_of, product, quantize_activations
from fmtc.compiler.reference import calibrate
from fmtc.formats import load

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]

#: Between them all that the templates can say.
TOLD_APART = ("nvfp4", "po2_nf4", "sop_pair", "e2m3_ue4m4", "q4_k", "nf4", "point_after", "bytes")

#: Reads rows, blocks and activations from exact allocations, and writes both products.
HARNESS = r"""
#include "NAME_product.h"
#include <stdio.h>
#include <stdlib.h>

static void *load(const char *file, size_t *size)
{
    FILE *f = fopen(file, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    void *data = malloc(*size ? *size : 1);
    if (fread(data, 1, *size, f) != *size)
        exit(2);
    fclose(f);
    return data;
}

int main(int count, char **arguments)
{
    size_t rows, n, m, got;
    if (count != 4)
        return 2;
    rows = strtoul(arguments[1], 0, 10);
    n = strtoul(arguments[2], 0, 10);
    m = strtoul(arguments[3], 0, 10);
    uint8_t *codes = load("codes", &got);
    const size_t codes_stride = got / rows;
    float *scales = load("scales", &got);
    const size_t blocks = got / sizeof(float) / rows;
    uint8_t *select = load("select", &got);
    float *zeros = load("zeros", &got), *x = load("x", &got);
    float *out = malloc(m * rows * sizeof(float));
    SYMBOL_product_given(
        rows, n, codes, codes_stride, scales, select, zeros, blocks, m, x, n, out, rows);
    FILE *f = fopen("out", "wb");
    fwrite(out, sizeof(float), m * rows, f);
#ifdef INTEGERS
    int16_t *values = load("values", &got);
    float *under = load("under", &got);
    void *prepared = aligned_alloc(64, (SYMBOL_activations_bytes(m, n) + 63) / 64 * 64);
    SYMBOL_activations(m, n, values, n, under, (n + 31) / 32, prepared);
    SYMBOL_integer_product_given(
        rows, n, codes, codes_stride, scales, select, zeros, blocks, m, prepared, out, rows);
    fwrite(out, sizeof(float), m * rows, f);
    free(values), free(under), free(prepared);
#endif
    fclose(f);
    free(codes), free(scales), free(select), free(zeros), free(x), free(out);
    return 0;
}
"""


def write(directory: Path, files: dict[str, str]) -> list[str]:
    for file, text in files.items():
        (directory / file).write_text(text)
    return [file for file in files if file.endswith(".c")]


def run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stderr + done.stdout)[:3000]


def needed(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@cache
def whole(name: str) -> dict[str, str]:
    fmt = kernel_format(format_of(name))
    return emit(fmt) | emit_products(fmt)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", TOLD_APART)
def test_the_c_of_products_compiles_without_a_warning(
    compiler: str, name: str, tmp_path: Path
) -> None:
    needed(compiler)
    sources = [file for file in write(tmp_path, whole(name)) if "_product" in file]
    # What a variable holds is found out where code is optimized.
    flags = ["-O2", "-c"] if compiler == "gcc" else ["-fsyntax-only"]
    for source in sources:
        run([compiler, *STRICT, *flags, source], tmp_path)


def test_a_cpp_project_takes_the_header(tmp_path: Path) -> None:
    needed("g++")
    write(tmp_path, whole("nvfp4"))
    (tmp_path / "user.cpp").write_text('#include "nvfp4_product.h"\nint main() { return 0; }\n')
    run(["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "user.cpp"], tmp_path)


def check_harness(
    fmt: Format, directory: Path, command: list[str], shape: tuple[int, int, int]
) -> None:
    rows, length, m = shape
    random = np.random.default_rng(7)
    x = random.standard_normal((m, length)).astype(np.float32)
    weights = random.standard_normal((rows, length)).astype(np.float32)
    level = calibrate(fmt, weights)
    streams = pipeline.encode(fmt, weights, level)
    given = given_of(fmt, streams, length, level)
    a = quantize_activations(x, "hif8")
    data = {"codes": given.codes, "scales": given.scales, "select": given.selects}
    data |= {"zeros": given.zeros, "x": x, "values": a.values, "under": a.scales}
    for name, array in data.items():
        if array is not None:
            array.tofile(directory / name)
    run([*command, *map(str, shape)], directory)
    found = np.fromfile(directory / "out", np.float32).reshape(2, m, rows)
    for half, activations in zip(found, ("float32", "hif8"), strict=True):
        expected = product(fmt, streams, length, level, x, activations)
        assert np.array_equal(half.view(np.uint32), expected.view(np.uint32))


def harness(fmt: Format, prefix: str) -> str:
    own = HARNESS.replace("NAME", fmt.name).replace("SYMBOL", prefix)
    return "#define INTEGERS\n" + own


@pytest.mark.parametrize("name", ["nvfp4", "mixfp4", "q4_1", "point_after"])
def test_products_are_clean_under_sanitizers(name: str, tmp_path: Path) -> None:
    """From exact allocations, with the target that is chosen when it runs, and OpenMP."""
    needed("gcc")
    fmt, kernel = format_of(name), kernel_format(format_of(name))
    sources = write(tmp_path, whole(name) | {"main.c": harness(kernel, symbol(kernel))})
    flags = ["-O1", "-g", "-std=c11", "-ffp-contract=off", "-fopenmp"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    run(["gcc", *flags, *sources, "-o", "main", "-lm"], tmp_path)
    length = 1056 if fmt.record else 1063
    check_harness(fmt, tmp_path, ["./main"], (7, length, 3))


@pytest.mark.parametrize("name", ["nvfp4", "e2m3_ue4m4"])
def test_neon_gives_the_references_bits(name: str, tmp_path: Path) -> None:
    needed("aarch64-linux-gnu-gcc", "qemu-aarch64")
    fmt = load(name)
    target = next(target for target in TARGETS if target.name == "neon")
    files = emit_target(fmt, target) | emit_product_target(fmt, target)
    own = harness(fmt, f"{symbol(fmt)}_neon").replace("_product.h", "_product_internal.h")
    sources = write(tmp_path, files | {"main.c": own})
    flags = ["-O2", "-static", "-std=c11", "-ffp-contract=off", "-Wall", "-Werror"]
    run(["aarch64-linux-gnu-gcc", *flags, *sources, "-o", "main", "-lm"], tmp_path)
    check_harness(fmt, tmp_path, ["qemu-aarch64", "./main"], (5, 1063, 2))
