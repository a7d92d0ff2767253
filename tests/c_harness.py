"""Programs of ``tests/harness`` that drive the C of a format, or of no format, without Python."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from fmtc.codegen.c import emit_target
from fmtc.codegen.c.context import float_literal
from fmtc.codegen.c.targets import Target
from fmtc.compiler.format import Format
from fmtc.compiler.thresholds import scale_thresholds
from fmtc.compiler.view import view_of

HERE = Path(__file__).parent / "harness"

#: So few bytes that outputs of a hundred elements are written past the caches.
STREAM_BYTES = 512

SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
FLAGS = ("-std=gnu11", "-g", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
TIMEOUT = 300


@cache
def sanitizers_missing(compiler: str = "gcc") -> str:
    """Why no program can be built and run with the sanitizers; "" where one can."""
    if shutil.which(compiler) is None:
        return f"{compiler} is not installed"
    source = "int main(void) { return 0; }"
    command = [compiler, *SANITIZERS, "-x", "c", "-", "-o", "/dev/null"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    return f"{compiler} has no sanitizers: {done.stderr[:200]}" if done.returncode else ""


def write_format_case(fmt: Format, target: Target, directory: Path) -> list[str]:
    """Write a format's files of one target and what drives them; the names to compile."""
    for file, text in emit_target(fmt, target).items():
        (directory / file).write_text(text)
    (directory / "case.h").write_text(_case(fmt, target))
    for file in ("places.h", "format.c"):
        shutil.copy(HERE / file, directory)
    return [f"{fmt.name}_{target.name}.c", "format.c"]


def build(directory: Path, sources: Sequence[str], *flags: str, compiler: str = "gcc") -> Path:
    """The program of the sources, which have to compile without a warning."""
    command = [compiler, *FLAGS, *flags, *sources, "-lm", "-o", "program"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return directory / "program"


def output_of(*command: str | Path) -> str:
    """What a program prints; fails with its complaint."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{command[0]} took longer than {TIMEOUT} s")
    assert done.returncode == 0, done.stderr[:6000]
    return done.stdout


def _case(fmt: Format, target: Target) -> str:
    view = view_of(fmt)
    prefix = f"fmtc_{fmt.name}"
    kind = fmt.zero.kind if fmt.zero is not None else "none"
    numbers = fmt.grids[0].numbers
    defines = {
        "FUNCTION(verb)": f"{prefix}_{target.name}_##verb",
        "CODES_BYTES(n)": f"{prefix}_codes_bytes(n)",
        "BLOCKS(n)": f"{prefix}_blocks(n)",
        "SELECTS": len(view.decode_bits) >> fmt.code_bits,
        "HAS_NAN": int(fmt.policies.nan == "propagate" and fmt.is_plain),
        "HAS_POINT": int(kind == "point"),
        "HAS_MINIMUM": int(kind == "minimum"),
        "POINT_LOW": int(min(numbers)) if kind == "point" else 0,
        "POINT_HIGH": int(max(numbers)) if kind == "point" else 0,
        "FUSED": int(fmt.is_plain),
    }
    lines = [f'#include "{fmt.name}_internal.h"']
    if fmt.is_plain:
        shift = fmt.scale.shift or 0
        table = scale_thresholds(view, 2.0**-shift).ravel().tolist()
        selects = any(stream.name == "select" for stream in fmt.streams)
        defines |= {
            "SCALES_BYTES(n)": f"{prefix}_scales_bytes(n)",
            "SELECT_BYTES(n)": f"{prefix}_select_bytes(n)" if selects else "((size_t)0 * (n))",
            "HAS_SELECT": int(selects),
            "MULTIPLIER": float_literal(2.0**-shift),
            "TABLE_SIZE": 0 if view.scale.is_fp32 else len(table),
        }
        values = ", ".join(float_literal(value) for value in table) or "0"
        lines.append(f"static const float TABLE[] = {{ {values} }};")
    lines += [f"#define {name} {value}" for name, value in defines.items()]
    return "\n".join(lines) + "\n"
