"""The generated C text: golden files, strict compilers, safe names and comments."""

from __future__ import annotations

import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from c_formats import GIVEN_ONLY, format_of
from fmtc.codegen.c import emit
from fmtc.codegen.c.context import double_literal, float_literal
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.view import view_of
from fmtc.formats import load, names

GOLDEN = Path(__file__).parent / "golden" / "c"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")
STRICT = ["-std=c11", *WARNINGS, "-O2", "-fsyntax-only"]

HOSTILE = """format register "*/ #error injected /* \\\\ ??/ ok" {
  cite  "evil */ int x; // more"
  block 5
  grid  volatile = codebook 3 { -1, -0.5, -0.25, 0, 0.125, 0.25, 0.5, 1 }
  grid  auto = int 3
  scale ue4m4
  select 1 bit at field { 0: volatile, 1: auto }
}"""


def strict_formats() -> dict[str, dict[str, str]]:
    wide = "format wide { block 3  grid e = e3m4  scale fp32 { rule argmax }  tie up }"
    meta = "format _m { block 8  grid e2m3  scale ue5m3 { container 12 } }"
    texts = {"register": HOSTILE, "wide": wide, "_m": meta}
    named = ("po2_nf4", "point_after", "minimum_quotient")
    return {name: emit(format_of(name)) for name in named} | {
        name: emit(compile_text(text)) for name, text in texts.items()
    }


def compile_strictly(
    command: list[str], directory: Path, formats: dict[str, dict[str, str]]
) -> None:
    for files in formats.values():
        for file, text in files.items():
            (directory / file).write_text(text)
        sources = [file for file in files if file.endswith(".c")]
        whole = [*command, *STRICT, *sources]
        done = subprocess.run(whole, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]


@pytest.mark.parametrize("compiler", ["gcc", "clang", "aarch64-linux-gnu-gcc"])
def test_the_generated_c_compiles_without_a_warning(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    compile_strictly([compiler], tmp_path, strict_formats())


@pytest.mark.parametrize(
    ("level", "without"),
    # Without optimization some of gcc's intrinsics are macros, with conversions of their own.
    [("-O0", "-Wconversion"), ("-O3", "")],
)
def test_no_level_of_optimization_brings_a_warning(
    level: str, without: str, tmp_path: Path
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    warnings = [flag for flag in WARNINGS if flag != without]
    for name in ("sop_pair", "point_after"):
        files = emit(format_of(name))
        for file, text in files.items():
            (tmp_path / file).write_text(text)
        sources = [file for file in files if file.endswith(".c")]
        command = ["gcc", "-std=c11", *warnings, level, "-c", *sources]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]


@pytest.mark.slow
def test_every_shipped_format_and_its_kernel_compile_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    for kernel in (False, True):
        formats = {name: load(name) for name in names()}
        texts = {n: emit(kernel_format(f) if kernel else f) for n, f in formats.items()}
        compile_strictly(["cc"], tmp_path, texts)


def test_a_format_that_goes_through_the_pipeline_has_only_functions_that_are_given_scales() -> None:
    for name, plain in (("mxfp4", True), *((name, name == "offset") for name in GIVEN_ONLY)):
        assert format_of(name).is_plain == plain
        header = emit(format_of(name))[f"{name}.h"]
        functions = set(re.findall(rf"fmtc_{name}_(\w+)\(", header)) - {"codes_bytes", "blocks"}
        given = {"encode_given", "decode_given", "target"}
        fused = {"encode", "decode", "scales_bytes"}
        assert functions - {"scale_thresholds"} == (given | fused if plain else given)


def test_the_header_can_be_included_from_cplusplus(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    (tmp_path / "register.h").write_text(emit(compile_text(HOSTILE))["register.h"])
    (tmp_path / "a.cc").write_text('#include "register.h"\nint main() { return 0; }\n')
    subprocess.run(["g++", "-Wall", "-Werror", "-fsyntax-only", "a.cc"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", ["mxfp4", "sop_pair"])
@pytest.mark.parametrize("suffix", [".h", ".c", "_internal.h", "_avx512.c", "_portable.c"])
def test_the_generated_text_is_the_golden_text(name: str, suffix: str) -> None:
    found = emit(load(name))[name + suffix]
    wanted = (GOLDEN / (name + suffix)).read_text()
    assert found == wanted, "if the change is meant: make golden"


def test_a_c_project_can_use_the_generated_files_alone(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    files = emit(load("mxfp4"))
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "main.c").write_text(
        """#include "mxfp4.h"
        #include <stdio.h>
        int main(void) {
            const uint8_t codes[2] = {0x21, 0x7f}, scale = 128;
            float x[4];
            fmtc_mxfp4_decode(1, 4, codes, 2, &scale, 1, NULL, 0, 1.0f, x, 4, FMTC_FLOAT32);
            printf("%g %g %g %g %d", x[0], x[1], x[2], x[3], (int)fmtc_mxfp4_codes_bytes(33));
            return 0;
        }"""
    )
    sources = [file for file in files if file.endswith(".c")]
    command = ["cc", "-std=c11", "-ffp-contract=off", "main.c", *sources, "-lm", "-o", "program"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True)
    assert done.stdout == "1 2 -12 12 17"


def test_user_text_stays_inside_comments() -> None:
    for text in emit(compile_text(HOSTILE)).values():
        comments, code = zip(*(part.split("*/", 1) for part in text.split("/*")[1:]), strict=True)
        assert not text.split("/*")[0]
        assert "injected" not in "".join(code)
        assert "evil" not in "".join(code)
        assert "\\" not in "".join(comments)


def test_every_number_of_the_tables_is_written_exactly() -> None:
    fmt = load("po2_nf4")
    text = emit(fmt)["po2_nf4_internal.h"]
    for grid in view_of(fmt).grids:
        for midpoint in grid.midpoints:
            literal = double_literal(float(midpoint))
            assert Fraction(float.fromhex(literal)) == midpoint
            assert literal in text


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (0.0, "0x0p+0f"),
        (-0.0, "-0x0p+0f"),
        (1.0, "0x1p+0f"),
        (0.1015625, "0x1.ap-4f"),
        (2.0**-149, "0x1p-149f"),
        (float("nan"), "NAN"),
    ],
)
def test_float_constants_are_exact_hexadecimal(value: float, literal: str) -> None:
    assert float_literal(value) == literal


def test_the_same_format_gives_the_same_text() -> None:
    assert emit(load("sop_pair")) == emit(load("sop_pair"))
