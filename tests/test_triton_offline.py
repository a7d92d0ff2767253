"""The Triton kernels compiled for GPUs that are not here: registers, spills, instructions."""

from __future__ import annotations

import math
import re
import struct
from functools import cache

import pytest
from fmtc.codegen.triton import blockwise_format
from fmtc.codegen.triton.plan import plan_of
from fmtc.compiler.format import Format
from fmtc.compiler.resolve import compile_text
from fmtc.compiler.view import view_of
from fmtc.formats import load, names
from fmtc.runtime.sass import disassemble
from fmtc.runtime.triton_offline import ARCHITECTURES, KernelReport, compile_offline

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

#: Registers of a thread: 128 leave room for 4 programs of 4 warps on a multiprocessor.
MOST_REGISTERS = 128

#: Shipped formats with every kind of ladder, scale and compare mode.
SHIPPED = ("e2m3_ue4m4", "mxfp4", "nf4", "nvfp4", "po2_nf4", "sop_pair")

#: Policies that no shipped format has: here they need only compile.
ADHOC = {
    "odd_block": "block 3  grid i = int 3 { range full }  scale s1e5m5 { rule argmax }",
    "longest": "block 4096  grid i = int 8  scale fp32  nan propagate  pack high_first",
    "long_pair": """block 200  grid e2m1  grid i = int 4  scale e4m3 { tensor fp32 }
        select 1 bit at scale.sign { 0: e2m1, 1: i }""",
    "zero_midpoint": "block 16  grid c = codebook 2 { -3, -1, 1, 3 }  scale e8m0  tie up",
    "lopsided_fp32": "block 10  grid c = codebook 2 { -7, -1, 2, 3 }  scale fp32  tie down",
    "quotient8": "block 16  grid e4m3  scale e4m3  compare fp32_quotient  nan propagate",
    "table_scale": "block 8  grid e3m2  scale ue5m3 { bias -10 }",
    "nine_bit_word": "block 16  grid e2m1  scale ue4m5 { container 9 }",
    "point": "block 16  grid u = int 4 { range unsigned }  scale fp32 { rule range }  zero point",
    "point_eight": """block 16  grid i = int 8 { range full }  scale fp32 { rule range }
        zero point  compare fp32_quotient""",
    "point_after": """block 32  grid i = int 4 { range offset }  scale fp32 { rule range }
        zero point { add after }  compare fp32_reciprocal""",
    "minimum": """block 32  grid u = int 4 { range unsigned }  scale fp32 { rule range }
        zero minimum  compare fp32_reciprocal  offset 0.5""",
    "searched": "block 16  grid e2m1  scale s1e4m3 { search 2  signs both }",
    "three_fields": """block 8  grid a = int 4  grid b = e2m1  grid c = e1m2  grid d = e3m0
        grid e = int 4 { range full }  scale e5m2  nan propagate
        select 3 bits at field { 0: a, 1: b, 2: c, 3: d, 4: e }""",
}


@cache
def format_of(name: str) -> Format:
    return compile_text(f'format {name} "" {{ {ADHOC[name]} }}') if name in ADHOC else load(name)


@cache
def reports(name: str, arch: int, dtype: str = "float32") -> dict[str, KernelReport]:
    fmt = format_of(name)
    found = compile_offline(fmt, arch, dtype)
    return {report.kernel.removeprefix(f"{fmt.name}_"): report for report in found}


def assert_exact_arithmetic(report: KernelReport) -> None:
    """No flushed subnormals, no approximate division, no fused multiply-add."""
    assert ".ftz" not in report.ptx
    assert set(re.findall(r"\bdiv\.[a-z.]*f(?:32|64)", report.ptx)) <= {"div.rn.f32"}
    assert not re.search(r"\b(?:rcp|sqrt|ex2|lg2)\.approx", report.ptx)
    assert not re.search(r"\bfma\.", report.ptx)


def assert_fits(name: str, arch: int, most_registers: int) -> None:
    """All kernels are there, stay in their registers, and compute exactly."""
    kernels = reports(name, arch)
    assert {"encode_given_kernel", "decode_given_kernel"} <= kernels.keys()
    fused = {"encode_kernel", "decode_kernel"}
    alone = blockwise_format(format_of(name)).is_blockwise
    assert fused & kernels.keys() == (fused if alone else set())
    for report in kernels.values():
        assert report.arch == arch
        assert f".target sm_{arch}" in report.ptx
        assert not report.spills, report.kernel
        assert 16 <= report.registers <= most_registers, report.kernel
        assert report.shared <= 48 * 1024
        assert report.cubin > 1000
        assert_exact_arithmetic(report)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", [*SHIPPED, "point", "minimum"])
def test_no_kernel_spills(name: str, arch: int) -> None:
    assert_fits(name, arch, MOST_REGISTERS)


@pytest.mark.parametrize("name", [name for name in names() if name not in SHIPPED])
def test_no_kernel_of_any_other_shipped_format_spills(name: str) -> None:
    assert_fits(name, 90, 255)


@pytest.mark.parametrize("name", ADHOC)
def test_every_policy_compiles_with_exact_arithmetic(name: str) -> None:
    for report in reports(name, 90).values():
        assert_exact_arithmetic(report)


@pytest.mark.parametrize("name", ["nvfp4", "sop_pair", "e2m3_ue4m4", "point", "searched"])
def test_rows_that_end_within_a_block_need_no_more_registers(name: str) -> None:
    for report in compile_offline(format_of(name), 90, whole=False):
        assert not report.spills, report.kernel
        assert report.registers <= MOST_REGISTERS, report.kernel
        assert_exact_arithmetic(report)


def test_a_quotient_is_rounded_by_two_sums_that_no_compiler_folds() -> None:
    ptx = reports("point_after", 90)["encode_given_kernel"].ptx.upper()
    up, down = (f"0F{struct.pack('>f', sign * 1.5 * 2**23).hex().upper()}" for sign in (1, -1))
    sums = re.findall(rf"ADD\.(?:RN\.)?F32\s+\S+ \S+ ({up}|{down});", ptx)
    assert sums.count(up) == sums.count(down) > 0
    assert set(re.findall(r"0F4A800000|0FCA800000", ptx)) == {"0F4A800000", "0FCA800000"}  # +-2^22


@pytest.mark.parametrize("name", SHIPPED)
def test_the_midpoints_reach_the_machine_code_in_binary64(name: str) -> None:
    plan = plan_of(view_of(load(name)))
    ptx = reports(name, 90)["encode_kernel"].ptx.upper()
    if not plan.spelt_out:
        assert "MIDPOINTS_PTR" not in ptx  # read from a table of binary64
        assert "LD.GLOBAL.B64" in ptx
    for threshold in (t for grid in plan.grids for t in grid.thresholds if plan.spelt_out):
        if threshold.kind == "product":
            if math.frexp(abs(threshold.midpoint))[0] == 0.5:
                continue  # a power of two may become a negation or a sum
            assert f"0D{struct.pack('>d', threshold.midpoint).hex().upper()}" in ptx
            assert "CVT.RN.F32.F64" in ptx
        elif threshold.kind == "quotient":
            assert str(threshold.key) in ptx


def test_decoding_four_bits_takes_one_look_up_for_two_codes() -> None:
    ptx = reports("po2_nf4", 90)["decode_kernel"].ptx
    values = 1024 // 128  # of a thread
    assert len(re.findall(r"ld\.global\.b64", ptx)) <= values // 2


@pytest.mark.parametrize("name", ["mxfp4", "nf4", "nvfp4", "po2_nf4", "sop_pair"])
@pytest.mark.parametrize("kernel", ["decode_words_kernel", "decode_given_words_kernel"])
def test_decoding_four_bits_to_bfloat16_takes_twelve_instructions_a_value(
    name: str, kernel: str
) -> None:
    report = reports(name, 90, "bfloat16")[kernel]
    values = 1024 // (32 * report.warps)  # of a thread
    assert disassemble(report.code).count <= 12 * values
    assert report.shared == 0  # eight values of a thread stand as they are stored
    assert len(re.findall(r"ld\.global\.b64", report.ptx)) == values // 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_narrow_numbers_are_rounded_by_the_machine_to_nearest(arch: int) -> None:
    for kernel in ("decode_kernel", "decode_words_kernel", "decode_given_words_kernel"):
        ptx = reports("nvfp4", arch, "bfloat16")[kernel].ptx
        assert set(re.findall(r"cvt\.\S*bf16\S*", ptx)) == {"cvt.rn.bf16x2.f32"}
        ptx = reports("nvfp4", arch, "float16")[kernel].ptx
        assert set(re.findall(r"cvt\.\S*f16\S*", ptx)) <= {"cvt.rn.f16x2.f32", "cvt.rn.f16.f32"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_numbers_are_read_as_they_are(dtype: str) -> None:
    for kernel in ("encode_kernel", "encode_given_kernel"):
        report = reports("nvfp4", 90, dtype)[kernel]
        assert_exact_arithmetic(report)
        assert re.search(r"ld\.global\.v[24]\.b32", report.ptx)  # eight elements in 16 bytes


@pytest.mark.parametrize(("name", "most"), [("nvfp4", 48), ("po2_nf4", 200)])
def test_encoding_from_bfloat16_takes_so_many_instructions_a_value(name: str, most: int) -> None:
    report = reports(name, 90, "bfloat16")["encode_kernel"]
    values = 1024 // (32 * report.warps)
    assert disassemble(report.code).count <= most * values


def test_a_grid_that_mirrors_itself_is_searched_by_magnitude() -> None:
    plans = {name: plan_of(view_of(load(name))) for name in ("mxfp4", "nf4", "po2_nf4")}
    (grid,) = plans["mxfp4"].grids
    assert grid.sign == 8
    assert [t.midpoint for t in grid.thresholds] == [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    assert all(grid.sign == 0 for name in ("nf4", "po2_nf4") for grid in plans[name].grids)
