"""The generated RTL in real simulators and linters: every format, and every way to fail."""

from pathlib import Path

import fmtc.runtime.rtl.simulate as simulate_module
import pytest
from fmtc import formats
from fmtc.codegen.design import design_of
from fmtc.codegen.vectors.memory import decoder_count, dot_count
from fmtc.codegen.verilog import benches_of, modules_of
from fmtc.runtime.backend import BackendUnavailable
from fmtc.runtime.rtl.simulate import lint, run_benches, simulate, write_rtl
from fmtc.runtime.rtl.tools import run
from representatives import HARDWARE, with_hardware
from rtl_tools import need

OWN = sorted((Path(__file__).parent / "golden/verilog/formats").glob("*.fmt"))
REST = [name for name in with_hardware() if name not in HARDWARE] + OWN
EVERY = [pytest.param(name, id=name) for name in HARDWARE] + [
    pytest.param(item, id=Path(item).stem, marks=pytest.mark.slow) for item in REST
]


@pytest.mark.parametrize("name", EVERY)
def test_the_rtl_and_its_benches_are_clean_in_two_linters(name):
    need("verilator", "iverilog")
    fmt = formats.load(name)
    report = lint(fmt)
    assert [(r.tool, r.module, r.log) for r in report.results if not r.clean] == []
    assert report.passed
    design = design_of(fmt)
    tops = [m.name for m in modules_of(design)] + [b.top for b in benches_of(design)]
    linted = sorted((r.module, r.tool) for r in report.results)
    assert linted == sorted((top, tool) for top in tops for tool in ("iverilog", "verilator"))


@pytest.mark.parametrize("name", EVERY)
def test_yosys_takes_every_module_without_a_warning(name, tmp_path):
    need("yosys")
    design = design_of(formats.load(name))
    write_rtl(design, tmp_path)
    modules = modules_of(design)
    commands = [f"read_verilog {' '.join(f'rtl/{module.name}.v' for module in modules)}"]
    for module in modules:
        commands += [f"design -push-copy; hierarchy -check -top {module.name}", "proc"]
        commands += ["check -assert", "design -pop"]
    (tmp_path / "take.ys").write_text("\n".join(commands) + "\n")
    done = run(["yosys", "-q", "take.ys"], tmp_path, 300)
    assert (done.code, done.log) == (0, "")


@pytest.mark.parametrize("name", EVERY)
def test_the_benches_pass_and_try_every_input_of_the_decoder(name):
    need("iverilog")
    fmt = formats.load(name)
    report = simulate(fmt)
    assert [bench.log for bench in report.benches if not bench.passed] == []
    assert report.passed
    benches = {bench.name.removeprefix(f"{fmt.name}_"): bench for bench in report.benches}
    decoder, dot = benches["decoder"], benches["dot"]
    words = fmt.scale.word.container
    selects = 1 << fmt.select.bits if fmt.select.place == "field" else 1
    if words <= 12:
        assert decoder.vectors == (1 << words) * selects << fmt.code_bits
    assert decoder.vectors == decoder_count(fmt) >= 512
    assert dot.vectors == dot_count(design_of(fmt)) >= 512


def test_two_simulators_agree_on_a_dot_product():
    need("iverilog", "verilator")
    fmt = formats.load("sop_pair")
    reports = [simulate(fmt, simulator=s, parts=["dot"]) for s in ("iverilog", "verilator")]
    assert [report.passed for report in reports] == [True, True], reports
    assert reports[0].benches[0].vectors == reports[1].benches[0].vectors


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_verilator_passes_every_bench(name):
    need("verilator")
    report = simulate(formats.load(name), simulator="verilator")
    assert report.passed, [bench.log for bench in report.benches]


@pytest.fixture
def written(tmp_path):
    """mxfp4's files in a directory, and a way to change one of them."""
    need("iverilog")
    design = design_of(formats.load("mxfp4"))
    write_rtl(design, tmp_path)

    def change(name, old, new):
        path = tmp_path / name
        text = path.read_text()
        assert old in text, f"nothing to change in {name}"
        path.write_text(text.replace(old, new, 1))

    return design, tmp_path, change


def test_a_wrong_table_entry_fails_at_its_code(written):
    design, directory, change = written
    change("rtl/mxfp4_element_decoder.v", "4'h7: word = {1'b1, 3'h3", "4'h7: word = {1'b1, 3'h2")
    report = run_benches(design, directory, parts=["decoder"])
    assert not report.passed
    assert "FAIL mxfp4_decoder 256 of 4096 vectors" in report.benches[0].log
    assert "code=7" in report.benches[0].log


def test_a_wrong_scale_rule_fails(written):
    design, directory, change = written
    change(
        "rtl/mxfp4_scale_decoder.v",
        "assign scale_nan_o = &exponent_field",
        "assign scale_nan_o = 1'b0",
    )
    report = run_benches(design, directory, parts=["decoder"])
    assert "FAIL mxfp4_decoder 16 of 4096 vectors" in report.benches[0].log
    assert not report.passed


def test_a_sum_one_bit_too_narrow_fails_its_own_bench_and_the_dot_products(written):
    design, directory, change = written
    change(
        "rtl/mxfp4_sum.v", "assign sum_o = sums_5;", "assign sum_o = {sums_5[16], sums_5[16:0]};"
    )
    benches = run_benches(design, directory, parts=["sum", "dot"]).benches
    assert [bench.passed for bench in benches] == [False, False]
    assert "FAIL mxfp4_sum" in benches[0].log
    assert "FAIL mxfp4_dot" in benches[1].log


@pytest.mark.parametrize("row", [5, 260], ids=["scale", "element"])
def test_a_wrong_vector_fails(written, row):
    design, directory, _ = written
    path = directory / "tb/mxfp4_decoder.memh"
    lines = path.read_text().splitlines()
    index = [i for i, line in enumerate(lines) if not line.startswith("//")][row]
    lines[index] = f"{int(lines[index], 16) ^ 4:0{len(lines[index])}x}"
    path.write_text("\n".join(lines) + "\n")
    report = run_benches(design, directory, parts=["decoder"])
    assert not report.passed
    assert "FAIL mxfp4_decoder" in report.benches[0].log


@pytest.mark.parametrize("unit", ["decoder", "dot"])
def test_truncated_vectors_fail(written, unit):
    design, directory, _ = written
    path = directory / f"tb/mxfp4_{unit}.memh"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    assert not run_benches(design, directory, parts=[unit]).passed


def test_missing_vectors_fail(written):
    design, directory, _ = written
    (directory / "tb/mxfp4_dot.memh").unlink()
    assert not run_benches(design, directory, parts=["dot"]).passed


@pytest.mark.parametrize(
    "line",
    [
        '$display("PASS mxfp4_decoder 16 vectors");',
        '$display("PASS mxfp4_dot 4096 vectors");',
        '$display("PASS mxfp4_decoder 0 vectors");',
        '$display("PASS mxfp4_decoder 4096 vectors\\nFAIL mxfp4_decoder 1 of 4096 vectors");',
        "",
    ],
    ids=["fewer", "another module", "none", "two verdicts", "silence"],
)
def test_a_bench_that_did_not_check_every_vector_does_not_pass(written, line):
    design, directory, change = written
    change("tb/mxfp4_decoder_tb.v", "  initial begin", f"  initial begin {line} $finish;")
    bench = run_benches(design, directory, parts=["decoder"]).benches[0]
    assert not bench.passed


def test_rtl_that_does_not_compile_fails_with_the_compilers_words(written):
    design, directory, change = written
    change("rtl/mxfp4_scale_decoder.v", "endmodule", "")
    bench = run_benches(design, directory, parts=["decoder"]).benches[0]
    assert not bench.passed
    assert bench.vectors == 0
    assert "syntax error" in bench.log


def test_a_simulation_that_hangs_is_ended(written, monkeypatch):
    design, directory, change = written
    monkeypatch.setattr(simulate_module, "LEAST_RUN_SECONDS", 0)
    change("tb/mxfp4_decoder_tb.v", "  initial begin", "  initial begin while (1) begin #1; end")
    bench = run_benches(design, directory, parts=["decoder"]).benches[0]
    assert not bench.passed
    assert "did not end within 2 s" in bench.log


@pytest.mark.parametrize("call", [simulate, lint])
def test_a_missing_tool_names_the_line_that_installs_it(call, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="apt-get install"):
        call(formats.load("mxfp4"))


def test_a_verilator_without_delays_is_not_used(monkeypatch, tmp_path):
    program = tmp_path / "verilator"
    program.write_text("#!/bin/sh\necho 'Verilator 4.038 2020-07-11 rev v4.036'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(BackendUnavailable, match=r"verilator 5 or newer .* Verilator 4\.038"):
        simulate(formats.load("mxfp4"), simulator="verilator")


def test_unknown_simulators_and_units_are_refused(tmp_path):
    need("iverilog")
    fmt = formats.load("mxfp4")
    with pytest.raises(ValueError, match="there are iverilog, verilator"):
        simulate(fmt, simulator="modelsim")
    with pytest.raises(ValueError, match=r"no bench for .*'adder'.*there are decoder, "):
        run_benches(design_of(fmt), tmp_path, parts=["adder"])
