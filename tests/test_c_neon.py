"""The C for 64-bit ARM gives the reference's bits, natively or under an emulator."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from c_formats import DTYPES, EVERY, format_of, same_bits
from fmtc.codegen.c import emit, symbol
from fmtc.compiler.engine import ReferenceEngine
from fmtc.compiler.format import Format
from fmtc.compiler.kernel import kernel_format
from fmtc.compiler.reference import TensorLevel, calibrate
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.thresholds import scale_thresholds
from fmtc.compiler.view import view_of
from fmtc.formats import names
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

HARNESS = Path(__file__).parent / "neon_harness.c"
STRICT = (
    *("-std=c11", "-O2", "-ffp-contract=off", "-static"),
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"),
)

#: Formats that between them use every part of the kernels but the widths of codes.
SOME = (
    *("mxfp4", "nf4", "po2_nf4", "sop_pair", "e2m3_ue4m4", "mxint8", "dynamic8"),
    *("five_bits", "seven", "saturating", "quotient", "minimum_up", "point_after"),
)

#: Codes of every width in both orders.
WIDTHS = tuple(f"{order}_{bits}" for bits in range(1, 9) for order in ("low", "high"))

#: What a decoded number is held in.
HELD = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.float16}


@cache
def tools() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The compiler, and what its programs are run with; skips the test where one is missing."""
    if platform.machine() == "aarch64":
        if shutil.which("cc") is None:
            pytest.skip("cc is not installed")
        return ("cc",), ()
    compiler, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    for tool in (compiler, emulator):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, and this is no 64-bit ARM machine")
    return (compiler,), (emulator,)


def of_width(name: str) -> Format:
    order, bits = name.split("_")
    count = 2 ** int(bits)
    values = ", ".join(f"{2 * i - count + 1}/{count}" for i in range(count))
    return compile_text(
        f"format {name} {{ block 24  grid g = codebook {bits} {{ {values} }}"
        f"  scale fp32  pack {order}_first }}"
    )


@dataclass(frozen=True)
class Case:
    """Rows to encode with scales that the C chooses (``level``) and with those that it is given."""

    x: F32
    level: TensorLevel | None
    near: F32
    scales: F32
    zeros: F32 | None
    selects: U8 | None
    tables: U8 | None


def cases_of(fmt: Format) -> list[Case]:
    rng = np.random.default_rng(fmt.block)
    block = fmt.block
    shapes = ((3, block * 3 + 5), (2, 1024), (5, 33), (1, 1), (2, 0), (0, 16))
    return [case_of(fmt, rng, *shape, power) for shape in shapes for power in (0, -126, 96)]


def case_of(fmt: Format, rng: np.random.Generator, rows: int, n: int, power: int) -> Case:
    x = (rng.standard_normal((rows, n)) * np.exp2(rng.normal(0, 3, (rows, n)) + power)).astype("f4")
    x[:, ::7], x[:, 3::11] = 0, -0.0
    blocks = -(-n // fmt.block)
    spread = (
        rng.integers(-148, 127, (rows, blocks)) if power else rng.integers(-3, 4, (rows, blocks))
    )
    scales = np.ldexp(rng.uniform(1, 2, (rows, blocks)), spread).astype(np.float32)
    scales[:, 1::3] *= -1
    scales[:, 5::7] = 0
    select = len(fmt.grids) > 1 or len(view_of(fmt).decode_bits) >> fmt.code_bits > 1
    level = calibrate(fmt, x) if fmt.is_plain else None
    if fmt.is_plain and view_of(fmt).scale.nan_magnitude is not None:
        x[1:, -1:] = np.nan
    return Case(
        x=x,
        level=level,
        near=near_ties(fmt, rng, np.repeat(scales, fmt.block, axis=1)[:, :n]),
        scales=scales,
        zeros=None if fmt.zero is None else rng.integers(-3, 4, (rows, blocks)).astype(np.float32),
        selects=rng.integers(0, len(fmt.grids), (rows, blocks)).astype(np.uint8)
        if select
        else None,
        tables=rng.integers(
            0, len(view_of(fmt).decode_bits) >> fmt.code_bits, (rows, blocks)
        ).astype(np.uint8)
        if select
        else None,
    )


def near_ties(fmt: Format, rng: np.random.Generator, scales: F32) -> F32:
    """Elements on the thresholds between values of the first grid, and next to them."""
    values = np.array([float(value) for value in fmt.grids[0].values if value is not None])
    pairs = rng.choice(values, (2, *scales.shape)).sum(axis=0) / 2
    largest = np.finfo(np.float32).max
    on = np.clip(np.abs(scales.astype(np.float64)) * pairs, -largest, largest).astype(np.float32)
    towards = np.float32([-largest, 0, largest])[rng.integers(0, 3, scales.shape)]
    return np.where(rng.random(scales.shape) < 0.5, np.nextafter(on, towards), on)


def written(fmt: Format, case: Case) -> bytes:
    """A case as the harness reads it."""
    parts = [np.array(case.x.shape, np.uint64)]
    if case.level is not None:
        multiplier = np.float32(case.level.multiplier)
        table = np.float32(scale_thresholds(view_of(fmt), float(multiplier)))
        table = table[:0] if view_of(fmt).scale.is_fp32 else table
        parts += [np.array(table.size, np.uint64), multiplier, table, case.x]
    given = (case.near, case.scales, case.zeros, case.selects, case.tables)
    parts += [array for array in given if array is not None]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


class Reader:
    """What the harness wrote, array by array."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def take(self, dtype: type[np.generic], *shape: int) -> NDArray[np.generic]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found = np.frombuffer(self._octets[self._at : self._at + size], dtype).reshape(shape)
        self._at += size
        return found

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._octets)


def check(fmt: Format, case: Case, found: Reader) -> None:
    reference = ReferenceEngine(fmt)
    rows, n = case.x.shape
    if case.level is not None:
        wanted = reference.encode(case.x, case.level)
        assert found.take(np.uint64)[()] == np.isnan(case.x).sum(), "blocks that hold a NaN"
        for stream in fmt.streams:
            width = stream.row_bytes(n, fmt.block)
            assert np.array_equal(found.take(np.uint8, rows, width), wanted[stream.name]), (
                stream.name
            )
        for dtype in DTYPES:
            decoded = found.take(HELD[dtype], rows, n)
            assert same_bits(decoded, reference.decode(wanted, n, case.level, dtype)), dtype
    codes = reference.encode_given(case.near, case.scales, case.selects, case.zeros)
    assert np.array_equal(found.take(np.uint8, *codes.shape), codes), "codes under given scales"
    for dtype in DTYPES:
        decoded = found.take(HELD[dtype], rows, n)
        values = reference.decode_given(codes, case.scales, case.tables, case.zeros, n, dtype)
        assert same_bits(decoded, values), f"{dtype} under given scales"


def program(fmt: Format, directory: Path) -> Path:
    """The harness and all files of a format, compiled without a warning."""
    for file, text in emit(fmt).items():
        (directory / file).write_text(text)
    prefix = symbol(fmt)
    selects = any(stream.name == "select" for stream in fmt.streams)
    several = len(view_of(fmt).decode_bits) >> fmt.code_bits > 1
    defines = {
        "FUNCTION(verb)": f"{prefix}_##verb",
        "CODES_BYTES(n)": f"{prefix}_codes_bytes(n)",
        "SCALES_BYTES(n)": f"{prefix}_scales_bytes(n)",
        "SELECT_BYTES(n)": f"{prefix}_select_bytes(n)" if selects else "((n) * 0)",
        "BLOCKS(n)": f"{prefix}_blocks(n)",
        "FUSED": int(fmt.is_plain),
        "HAS_ZERO": int(fmt.zero is not None),
        "HAS_SELECT": int(len(fmt.grids) > 1 or several),
    }
    head = f'#include "{fmt.name}.h"\n#include <string.h>\n'
    lines = (f"#define {name} {value}\n" for name, value in defines.items())
    (directory / "case.h").write_text(head + "".join(lines))
    sources = [file for file in emit(fmt) if file.endswith(".c")]
    command = [*tools()[0], *STRICT, "-I", ".", *sources, str(HARNESS), "-lm", "-o", "program"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return directory / "program"


def run(fmt: Format, directory: Path) -> None:
    cases = cases_of(fmt)
    (directory / "input").write_bytes(b"".join(written(fmt, case) for case in cases))
    command = [*tools()[1], str(program(fmt, directory)), "input", "output"]
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert done.stdout == "neon\n"
    found = Reader((directory / "output").read_bytes())
    for case in cases:
        check(fmt, case, found)
    assert found.is_at_end


@pytest.mark.parametrize("name", SOME)
def test_neon_gives_the_bits_of_the_reference(name: str, tmp_path: Path) -> None:
    tools()
    run(kernel_format(format_of(name)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*EVERY, *names()} - {*SOME}))
def test_neon_gives_the_bits_of_the_reference_for_every_format(name: str, tmp_path: Path) -> None:
    tools()
    run(kernel_format(format_of(name)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDTHS)
def test_neon_packs_codes_of_every_width_in_both_orders(name: str, tmp_path: Path) -> None:
    tools()
    run(of_width(name), tmp_path)
