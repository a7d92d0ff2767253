"""The register stage and the table that is loaded, in a simulator and through synthesis."""

import subprocess

import pytest
from fmtc import formats
from fmtc.codegen.design import design_of
from fmtc.codegen.verilog.parts.lut_decoder import lut_decoder, lut_decoder_bench
from fmtc.codegen.verilog.parts.register import register_bench
from fmtc.runtime.rtl.simulate import run_bench, write_bench
from representatives import PLAIN
from rtl_tools import assert_noticed, need


def bench_of(make, name):
    return make(design_of(formats.load(name)))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("make", [register_bench, lut_decoder_bench])
def test_the_benches_pass(make, name, tmp_path):
    need("iverilog")
    bench = bench_of(make, name)
    write_bench(bench, tmp_path)
    result = run_bench(bench, tmp_path)
    assert result.passed, result.log
    assert result.vectors == bench.vectors >= 512


FAULTS = [
    pytest.param(register_bench, "sop_pair", old, new, id=f"register: {new}")
    for old, new in (
        ("main_valid_q <= spare_valid_q | in_valid_i", "main_valid_q <= in_valid_i"),
        ("assign in_ready_o = ~spare_valid_q", "assign in_ready_o = 1'b1"),
        ("main_q <= spare_valid_q ? spare_q : in_data_i", "main_q <= in_data_i"),
        ("if (take & ~move)", "if (take & move)"),
        ("assign out_valid_o = main_valid_q", "assign out_valid_o = 1'b1"),
        ("      spare_valid_q <= 1'b1;", "      spare_valid_q <= 1'b0;"),
    )
] + [
    pytest.param(lut_decoder_bench, name, old, new, id=f"table of {name}: {new}")
    for name, old, new in (
        ("sop_pair", "loaded_q <= {Entries{1'b0}}", "loaded_q <= {Entries{1'b1}}"),
        ("sop_pair", "select_i[read*1 +: 1]", "select_i[0 +: 1]"),
        ("sop_pair", "code_i[read*4 +: 4]", "code_i[0 +: 4]"),
        ("sop_pair", "{load_select_i, load_code_i}", "{1'b0, load_code_i}"),
        ("sop_pair", "= words[index] & {7{loaded}}", "= words[index]"),
        ("nvfp4", "<= load_fits", "<= 1'b1"),
        ("nvfp4", "load_shift_i <= 2'd2", "1'b1"),
    )
]


@pytest.mark.parametrize(("make", "name", "old", "new"), FAULTS)
def test_a_fault_in_the_rtl_fails_its_bench(make, name, old, new, tmp_path):
    bench = bench_of(make, name)
    assert_noticed(bench, bench.module.name, old, new, tmp_path)


def test_a_table_is_one_memory_with_a_read_port_for_each_lane(tmp_path):
    need("yosys")
    module = lut_decoder(design_of(formats.load("sop_pair")))
    (tmp_path / "lut.v").write_text(module.text())
    script = f"read_verilog lut.v; chparam -set Reads 3 {module.name}; "
    script += f"hierarchy -check -top {module.name}; proc; opt; stat; memory_collect; stat"
    done = subprocess.run(
        ["yosys", "-p", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    # Two banks of sixteen words of five bits of coefficient and two of shift.
    assert "Number of memory bits:          224" in done.stdout
    assert "$mem_v2                         1" in done.stdout
